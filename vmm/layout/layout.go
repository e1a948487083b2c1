// Package layout is the machine's address map: every guest-physical address,
// port and interrupt number that more than one package must agree on.
package layout

import "tenon/devices/bus"

// Range is Len bytes (or ports) from Base; the same type the buses map.
type Range = bus.Range

// Guest-physical addresses, in bytes.
const (
	// LowRAMEnd is where conventional memory stops. The machine backs the hole
	// up to HighRAM with RAM too, because the ACPI tables live in it, but the
	// guest is told that it is reserved.
	LowRAMEnd = 0xa_0000

	ACPI    = 0xe_0000 // RSDP first: inside the range the guest scans for it (ACPI 6.5 §5.2.5.1)
	ACPILen = 0x1_0000

	// BIOS is empty but for ResetVector, the last 16 bytes, where a processor in
	// real mode goes to reset the machine.
	BIOS        = 0xf_0000
	BIOSLen     = 0x1_0000
	ResetVector = 0xf_fff0

	HighRAM    = 0x10_0000 // 1 MiB
	PCIHole    = 0xc000_0000
	PCIHoleEnd = 0x1_0000_0000 // RAM goes on here

	MMIO32    = PCIHole // 32-bit BARs
	MMIO32Len = 0x2000_0000

	ECAM    = 0xe000_0000 // PCI configuration space of bus 0 (32 devices x 8 functions x 4 KiB)
	ECAMLen = 0x10_0000

	IOAPIC    = 0xfec0_0000
	IOAPICLen = 0x1000
	LAPIC     = 0xfee0_0000 // also the target of MSI writes
	LAPICLen  = 0x10_0000

	// IdentityMap (one page) and TSS (three pages) are KVM's own on VMX hosts
	// without unrestricted guest (KVM api.rst, KVM_SET_IDENTITY_MAP_ADDR and
	// KVM_SET_TSS_ADDR).
	IdentityMap    = 0xfffb_c000
	IdentityMapLen = 0x1000
	TSS            = 0xfffb_d000
	TSSLen         = 0x3000
)

// What the loader leaves in low RAM for the kernel's first instructions. Linux
// copies all of it before it hands this memory out, so it is plain RAM in the
// memory map; no kernel segment may lie over it.
const (
	GDT           = 0x500 // for both entries
	GDTLen        = 0x40
	StartInfo     = 0x6000 // PVH start_info, module list, memory map
	StartInfoLen  = 0x1000
	ZeroPage      = 0x7000 // struct boot_params
	ZeroPageLen   = 0x1000
	PageTables    = 0x9000 // PML4, PDPT, four page directories
	PageTablesLen = 0x6000
	Cmdline       = 0x2_0000
	CmdlineLen    = 0x800 // COMMAND_LINE_SIZE of x86, with the NUL
	BootEnd       = 0x9_0000
)

// Ports and interrupts.
const (
	I8042        = 0x60 // data at +0, command and status at +4
	I8042Len     = 5
	COM1         = 0x3f8
	COM1Len      = 8
	COM1IRQ      = 4     // GSI and ISA interrupt alike: edge, active high
	Power        = 0x600 // ACPI sleep control +0, sleep status +1, reset +2
	PowerLen     = 8
	PCIConfig    = 0xcf8 // CONFIG_ADDRESS, CONFIG_DATA
	PCIConfigLen = 8
	PCIPorts     = 0x1000 // I/O BARs: above what PCs have elsewhere
	PCIPortsLen  = 0xf000
)

// The power block: the registers of hardware-reduced ACPI, one byte each.
const (
	SleepControl = Power + 0
	SleepStatus  = Power + 1
	Reset        = Power + 2
	ResetValue   = 1 // what to write to Reset
)

// mmio64 is where the 64-bit window starts when RAM ends below it, and its
// length: fixed, so that BAR addresses do not move with the size of RAM.
const (
	mmio64    = 256 << 30
	mmio64Len = 256 << 30
	gigabyte  = 1 << 30
)

// Area is one named range of the address map.
type Area struct {
	Name      string
	Base, Len uint64
	Type      Type
}

// Type says what the guest is told about an area: the numbers of E820
// (ACPI 6.5 §15, table 15.4), which PVH uses as well.
type Type uint32

// Unlisted areas belong to devices and are in no memory map.
const (
	Unlisted Type = 0
	RAMType  Type = 1
	Reserved Type = 2
)

// fixed is everything between the end of conventional memory and 4 GiB that is
// not RAM of variable size.
var fixed = []Area{
	{"VGA and option ROMs", LowRAMEnd, ACPI - LowRAMEnd, Reserved},
	{"ACPI tables", ACPI, ACPILen, Reserved},
	{"BIOS", BIOS, BIOSLen, Reserved},
	{"32-bit PCI window", MMIO32, MMIO32Len, Unlisted},
	{"PCI configuration space", ECAM, ECAMLen, Reserved},
	{"IO-APIC", IOAPIC, IOAPICLen, Unlisted},
	{"local APIC and MSI", LAPIC, LAPICLen, Unlisted},
	{"KVM identity map", IdentityMap, IdentityMapLen, Reserved},
	{"KVM task state segment", TSS, TSSLen, Reserved},
}

// boot is what Load writes, inside conventional memory.
var boot = []Area{
	{"GDT", GDT, GDTLen, Unlisted},
	{"PVH start info", StartInfo, StartInfoLen, Unlisted},
	{"zero page", ZeroPage, ZeroPageLen, Unlisted},
	{"page tables", PageTables, PageTablesLen, Unlisted},
	{"command line", Cmdline, CmdlineLen, Unlisted},
}

// ports is the port space.
var ports = []Area{
	{"i8042", I8042, I8042Len, Unlisted},
	{"COM1", COM1, COM1Len, Unlisted},
	{"ACPI power block", Power, PowerLen, Unlisted},
	{"PCI configuration", PCIConfig, PCIConfigLen, Unlisted},
	{"PCI ports", PCIPorts, PCIPortsLen, Unlisted},
}

// RAM returns the ranges that back size bytes of guest RAM, in address order:
// one from 0 up to the PCI hole, one from 4 GiB for what does not fit below.
// They are the memory slots of the machine; what of them the guest may use is
// in MemoryMap.
func RAM(size uint64) []Range {
	if size <= PCIHole {
		return []Range{{Base: 0, Len: size}}
	}
	return []Range{{Base: 0, Len: PCIHole}, {Base: PCIHoleEnd, Len: size - PCIHole}}
}

// End returns the first address after the last of the ranges, 0 without any.
func End(ranges []Range) uint64 {
	var end uint64
	for _, r := range ranges {
		end = max(end, r.Base+r.Len)
	}
	return end
}

// MemoryMap returns what the guest is told about the given RAM, in address
// order and without overlap: RAM less the hole below 1 MiB, and the reserved
// areas. It is the content of E820 and of the PVH memory map.
func MemoryMap(ram []Range) []Area {
	var m []Area
	usable := func(from, to uint64) {
		if from < to {
			m = append(m, Area{"RAM", from, to - from, RAMType})
		}
	}
	low := min(End(ram), PCIHole)
	usable(0, min(low, LowRAMEnd))
	for _, a := range fixed {
		if a.Base == MMIO32 {
			usable(HighRAM, low)
		}
		if a.Type == Reserved {
			m = append(m, a)
		}
	}
	for _, r := range ram {
		usable(max(r.Base, PCIHoleEnd), r.Base+r.Len)
	}
	return m
}

// MMIO64 returns the window of the 64-bit BARs for a CPU with the given number
// of physical address bits (CPUID 0x80000008) and RAM that ends at ramEnd: 256
// GiB from 256 GiB or from the end of RAM rounded up to 1 GiB, clipped to what
// the CPU can address. A CPU that cannot address 256 GiB gets what there is
// above RAM; length 0 means no room at all.
func MMIO64(physBits uint, ramEnd uint64) (base, length uint64) {
	limit := uint64(1) << min(physBits, 52)
	above := (max(ramEnd, PCIHoleEnd) + gigabyte - 1) &^ (gigabyte - 1)
	base = max(mmio64, above)
	if base >= limit {
		base = above
	}
	if base >= limit {
		return base, 0
	}
	return base, min(mmio64Len, limit-base)
}
