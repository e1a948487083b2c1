package legacy

// I8042 is what is left of the keyboard controller: ports 0x60 to 0x64, of
// which the guest only uses the reset line. Everything reads as 0: an input
// buffer that is not full lets Linux pulse the line at once.
type I8042 struct {
	OnReset func()
}

const (
	i8042Command = 4    // port 0x64
	i8042Pulse   = 0xfe // pulse output line 0, which is the CPU's reset
)

// Read returns 0.
func (k *I8042) Read(_ uint64, p []byte) { clear(p) }

// Write calls OnReset on the vCPU thread for the reset command.
func (k *I8042) Write(off uint64, p []byte) {
	if off == i8042Command && p[0] == i8042Pulse {
		call(k.OnReset)
	}
}
