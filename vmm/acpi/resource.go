package acpi

import (
	"encoding/binary"

	"tenon/vmm/layout"
)

// Resource descriptors of ACPI 6.5 §6.4: tag, then length where the tag's bit 7
// is set.
const (
	tagIO        = 0x47 // I/O port, 7 bytes
	tagMem32     = 0x86 // 32-bit fixed memory range
	tagWord      = 0x88 // address spaces
	tagDWord     = 0x87
	tagQWord     = 0x8a
	tagInterrupt = 0x89

	typeMemory = 0
	typePorts  = 1
	typeBus    = 2

	// Both ends of the window are fixed, and the bridge decodes it.
	fixedWindow = 1<<2 | 1<<3

	wholeRange      = 3 // of ports: not only those that ISA cards decode, or do not
	memWritable     = 1 << 0
	memPrefetchable = 3 << 1
)

// ioPorts is the descriptor of fixed ports decoded with 16 bits.
func ioPorts(base, n uint16) object {
	out := object{tagIO, 1}
	out = binary.LittleEndian.AppendUint16(out, base)
	out = binary.LittleEndian.AppendUint16(out, base)
	return append(out, 1, byte(n))
}

func memory32(base, n uint32) object {
	out := object{tagMem32, 9, 0, memWritable}
	out = binary.LittleEndian.AppendUint32(out, base)
	return binary.LittleEndian.AppendUint32(out, n)
}

// window32 and window64 are what a host bridge passes on to its bus.
func window32(r layout.Range) object {
	out := object{tagDWord, 23, 0, typeMemory, fixedWindow, memWritable}
	for _, v := range window(r) {
		out = binary.LittleEndian.AppendUint32(out, uint32(v))
	}
	return out
}

func window64(r layout.Range) object {
	out := object{tagQWord, 43, 0, typeMemory, fixedWindow, memWritable | memPrefetchable}
	for _, v := range window(r) {
		out = binary.LittleEndian.AppendUint64(out, v)
	}
	return out
}

// portWindow is the same for ports.
func portWindow(r layout.Range) object { return window16(typePorts, wholeRange, r) }

// busNumbers says that the bridge has bus first and nothing behind it.
func busNumbers(first uint64) object {
	return window16(typeBus, 0, layout.Range{Base: first, Len: 1})
}

func window16(kind, flags byte, r layout.Range) object {
	out := object{tagWord, 13, 0, kind, fixedWindow, flags}
	for _, v := range window(r) {
		out = binary.LittleEndian.AppendUint16(out, uint16(v))
	}
	return out
}

// window returns granularity, minimum, maximum, translation and length.
func window(r layout.Range) [5]uint64 {
	return [5]uint64{0, r.Base, r.Base + r.Len - 1, 0, r.Len}
}

// interrupt is the extended descriptor of one interrupt of the device itself:
// edge-triggered, active high, not shared. Unlike the short one it stands
// without an override in the MADT.
func interrupt(gsi uint32) object {
	const consumer, edge = 1 << 0, 1 << 1
	return binary.LittleEndian.AppendUint32(object{tagInterrupt, 6, 0, consumer | edge, 1}, gsi)
}
