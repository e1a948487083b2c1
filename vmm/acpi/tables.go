package acpi

import (
	"encoding/binary"

	"tenon/vmm/layout"
)

// Offsets in the FADT (ACPI 6.5 §5.2.9), from the start of the table.
const (
	fadtLen           = 276
	fadtBootArch      = 109 // IAPC_BOOT_ARCH, 2 bytes
	fadtFlags         = 112
	fadtResetReg      = 116
	fadtResetValue    = 128
	fadtMinor         = 131
	fadtXDSDT         = 140
	fadtSleepControl  = 244
	fadtSleepStatus   = 256
	fadtRevision      = 6
	fadtMinorRevision = 5

	bootNoVGA = 1 << 2
	// bootNoCMOS keeps Linux from waiting a second for a clock that is not
	// there. The 8042 bit stays clear: there is no keyboard to probe for.
	bootNoCMOS = 1 << 5

	flagWBINVD      = 1 << 0
	flagResetReg    = 1 << 10
	flagHWReduced   = 1 << 20
	spaceSystemIO   = 1
	accessSizeByte  = 1
	bitsOfARegister = 8
)

func fadt(dsdt uint64) []byte {
	b := make([]byte, fadtLen-headerLen)
	at := func(off int) []byte { return b[off-headerLen:] }
	binary.LittleEndian.PutUint16(at(fadtBootArch), bootNoVGA|bootNoCMOS)
	binary.LittleEndian.PutUint32(at(fadtFlags), flagWBINVD|flagResetReg|flagHWReduced)
	copy(at(fadtResetReg), register(layout.Reset))
	at(fadtResetValue)[0] = layout.ResetValue
	at(fadtMinor)[0] = fadtMinorRevision
	binary.LittleEndian.PutUint64(at(fadtXDSDT), dsdt)
	copy(at(fadtSleepControl), register(layout.SleepControl))
	copy(at(fadtSleepStatus), register(layout.SleepStatus))
	return table("FACP", fadtRevision, b)
}

// register is a Generic Address Structure (ACPI 6.5 §5.2.3.2) for a port of
// one byte.
func register(port uint64) []byte {
	return binary.LittleEndian.AppendUint64(
		[]byte{spaceSystemIO, bitsOfARegister, 0, accessSizeByte}, port)
}

// Interrupt controller structures (ACPI 6.5 §5.2.12).
const (
	madtRevision    = 5
	madtLAPIC       = 0
	madtIOAPIC      = 1
	madtLAPICNMI    = 4
	madtX2APIC      = 9
	madtX2APICNMI   = 10
	firstX2APIC     = 255 // 8-bit APIC ids end before the broadcast id
	enabled         = 1
	allProcessors8  = 0xff
	allProcessors32 = 0xffffffff
	nmiLINT         = 1
)

// madt lists the processors there are, and no others: Linux sizes its queues
// and interrupt tables by this.
func madt(cpus int) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, layout.LAPIC)
	b = le.AppendUint32(b, 0) // no dual 8259
	for id := range uint32(cpus) {
		if id < firstX2APIC {
			b = le.AppendUint32(append(b, madtLAPIC, 8, byte(id), byte(id)), enabled)
			continue
		}
		b = le.AppendUint32(append(b, madtX2APIC, 16, 0, 0), id)
		b = le.AppendUint32(le.AppendUint32(b, enabled), id)
	}
	b = le.AppendUint32(append(b, madtIOAPIC, 12, 0, 0), layout.IOAPIC)
	b = le.AppendUint32(b, 0) // first GSI
	b = append(b, madtLAPICNMI, 6, allProcessors8, 0, 0, nmiLINT)
	if cpus > firstX2APIC {
		b = le.AppendUint32(append(b, madtX2APICNMI, 12, 0, 0), allProcessors32)
		b = append(b, nmiLINT, 0, 0, 0)
	}
	return table("APIC", madtRevision, b)
}

// mcfg points to the configuration space of bus 0 (PCI Firmware 3.3 §4.1.2).
func mcfg() []byte {
	b := make([]byte, 8, 24)
	b = binary.LittleEndian.AppendUint64(b, layout.ECAM)
	return table("MCFG", 1, append(b, make([]byte, 8)...)) // segment 0, bus 0 to 0
}

// dsdt describes what cannot be discovered. The host bridge is PNP0A03, not
// the PCI Express one: Linux would ask that for _OSC, and uses MCFG for both.
// What the bridge does not pass on is the board's: without PNP0C02 Linux does
// not trust MCFG.
func dsdt(o Options) []byte {
	windows := []object{
		busNumbers(0),
		ioPorts(layout.PCIConfig, layout.PCIConfigLen),
		portWindow(layout.Range{Base: layout.PCIPorts, Len: layout.PCIPortsLen}),
		window32(layout.Range{Base: layout.MMIO32, Len: layout.MMIO32Len}),
	}
	if o.MMIO64.Len > 0 {
		windows = append(windows, window64(o.MMIO64))
	}
	return join(
		named(`\_S5`, list(integer(S5), integer(0), integer(0), integer(0))),
		scope(`\_SB`,
			device("PCI0",
				named("_HID", eisaID("PNP0A03")),
				named("_UID", integer(0)),
				named("_SEG", integer(0)),
				named("_BBN", integer(0)),
				named("_CRS", template(windows...)),
			),
			device("MBRD",
				named("_HID", eisaID("PNP0C02")),
				named("_UID", integer(0)),
				named("_CRS", template(
					memory32(layout.ECAM, layout.ECAMLen),
					ioPorts(layout.Power, layout.PowerLen),
				)),
			),
			device("COM1",
				named("_HID", eisaID("PNP0501")),
				named("_UID", integer(1)),
				named("_CRS", template(
					ioPorts(layout.COM1, layout.COM1Len),
					interrupt(layout.COM1IRQ),
				)),
			),
		),
	)
}
