package boot

import (
	"encoding/binary"

	"github.com/bobuhiro11/gokvm/kvm"
	"github.com/bobuhiro11/gokvm/pvh"

	"tenon/vmm/layout"
)

// Mode is the processor mode a kernel is entered in.
type Mode int

// The two entries.
const (
	// PVH32 is the PVH boot ABI (xen/include/public/arch-x86/hvm/start_info.h
	// and docs/misc/pvh.pandoc): 32-bit protected mode, paging off, flat 4 GiB
	// segments, RBX the start_info.
	PVH32 Mode = iota
	// Long64 is Linux's 64-bit boot protocol (boot.rst): long mode, identity
	// mapping of the first 4 GiB, CS 0x10, data segments 0x18, RSI the zero page.
	Long64
)

// String returns "pvh" or "long64".
func (m Mode) String() string {
	if m == PVH32 {
		return "pvh"
	}
	return "long64"
}

// Entry is the state of the boot processor at the kernel's first instruction.
// Set applies it. What it does not name is 0, but RFLAGS, of which only the
// fixed bit 1 is set: interrupts are off.
type Entry struct {
	Mode Mode
	RIP  uint64
	RBX  uint64 // PVH32: guest-physical address of start_info
	RSI  uint64 // Long64: guest-physical address of boot_params

	CR0, CR3, CR4, EFER uint64

	// GDT is in guest RAM, at layout.GDT. CS, DS (for DS, ES, FS, GS and SS)
	// and TR are its descriptors in the form KVM takes; the IDT is empty.
	GDT        kvm.Descriptor
	CS, DS, TR kvm.Segment
}

// Control register bits (Intel SDM vol. 3A §2.5).
const (
	cr0PE   = 1 << 0
	cr0ET   = 1 << 4
	cr0PG   = 1 << 31
	cr4PAE  = 1 << 5
	eferLME = 1 << 8
	eferLMA = 1 << 10

	rflagsFixed = 1 << 1
)

// Set puts the entry into the registers of a vCPU that was just created, as
// KVM_GET_REGS and KVM_GET_SREGS return them. It leaves the local APIC base
// and everything else that belongs to reset alone.
func (e Entry) Set(r *kvm.Regs, s *kvm.Sregs) {
	*r = kvm.Regs{RIP: e.RIP, RBX: e.RBX, RSI: e.RSI, RFLAGS: rflagsFixed}
	s.CR0, s.CR3, s.CR4, s.EFER = e.CR0, e.CR3, e.CR4, e.EFER
	s.GDT, s.IDT = e.GDT, kvm.Descriptor{}
	s.CS, s.DS, s.ES, s.FS, s.GS, s.SS, s.TR = e.CS, e.DS, e.DS, e.DS, e.DS, e.DS, e.TR
}

// Indices into the GDT. Code and data are where the 64-bit protocol wants them.
const (
	gdtCode64 = 2
	gdtData   = 3
	gdtTSS    = 4
	gdtCode32 = 5
	gdtLen    = 6
)

// gdt returns the descriptor table: flat code and data, and the busy task
// state that VMX demands in TR. GdtEntry takes access byte and flags as they
// stand in a descriptor's bits 40-55.
func gdt() [gdtLen]uint64 {
	return [gdtLen]uint64{
		gdtCode64: pvh.GdtEntry(0xa09b, 0, 0xfffff), // granularity, long
		gdtData:   pvh.GdtEntry(0xc093, 0, 0xfffff), // granularity, 32-bit
		gdtTSS:    pvh.GdtEntry(0x008b, 0, 0x67),
		gdtCode32: pvh.GdtEntry(0xc09b, 0, 0xfffff),
	}
}

func (l *loader) writeGDT() error {
	var b []byte
	for _, d := range gdt() {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	return l.write(layout.GDT, b)
}

// entry returns what both modes have in common.
func entry(code uint8) Entry {
	t := gdt()
	return Entry{
		CR0: cr0PE | cr0ET,
		GDT: kvm.Descriptor{Base: layout.GDT, Limit: gdtLen*8 - 1},
		CS:  pvh.SegmentFromGDT(t[code], code),
		DS:  pvh.SegmentFromGDT(t[gdtData], gdtData),
		TR:  pvh.SegmentFromGDT(t[gdtTSS], gdtTSS),
	}
}
