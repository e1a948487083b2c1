package legacy

// Power is the sleep and reset registers of hardware-reduced ACPI, one byte
// each: sleep control at offset 0, sleep status at 1 (ACPI 6.5 §4.8.3.7), reset
// at 2 (§4.8.3.6). The FADT and the \_S5 object must say the same: reset value
// 1, sleep type 5.
type Power struct {
	OnReset, OnOff func()
}

const (
	sleepControl = 0
	reset        = 2

	sleepEnable = 1 << 5 // SLP_EN of sleep control
	sleepType   = 7 << 2 // SLP_TYP
	sleepOff    = 5 << 2 // S5

	resetValue = 1
)

// Read returns 0: sleep control is write-only, and the wake status is never
// set because only S5 exists.
func (r *Power) Read(_ uint64, p []byte) { clear(p) }

// Write calls OnOff or OnReset on the vCPU thread.
func (r *Power) Write(off uint64, p []byte) {
	switch {
	case off == sleepControl && p[0]&(sleepEnable|sleepType) == sleepEnable|sleepOff:
		call(r.OnOff)
	case off == reset && p[0] == resetValue:
		call(r.OnReset)
	}
}

func call(f func()) {
	if f != nil {
		f()
	}
}
