package vcpu

import (
	"encoding/binary"

	"tenon/vmm/kvm"
)

// Control-register and page-table bits of the walk (Intel SDM vol. 3 chapter 5).
const (
	cr0PG   = 1 << 31
	cr4LA57 = 1 << 12
	eferLMA = 1 << 10

	entryPresent = 1 << 0
	entryLarge   = 1 << 7
	entryAddress = 1<<52 - 1<<12
	entrySize    = 8
	levelBits    = 9
	maxLarge     = 3 // the level with pages of 1 GiB
)

// translate returns the guest-physical address behind a linear one; ok is false where
// nothing is mapped. It walks the page tables itself: KVM_TRANSLATE does it with the
// rights of the guest's kernel, to which SMAP forbids the pages of programs. KVM is
// asked for the page tables of 32-bit kernels only.
func (c *CPU) translate(linear uint64, s *kvm.Sregs) (gpa uint64, ok bool) {
	switch {
	case s.CR0&cr0PG == 0:
		return linear, true
	case s.EFER&eferLMA == 0:
		return c.vcpu.Translate(linear)
	}
	levels := 4
	if s.CR4&cr4LA57 != 0 {
		levels = 5
	}
	return walk(c.memory, s.CR3, linear, levels)
}

// walk translates by page tables of so many levels.
func walk(m Memory, cr3, linear uint64, levels int) (gpa uint64, ok bool) {
	table := cr3 & entryAddress
	for level := levels; level > 0; level-- {
		shift := 12 + levelBits*(level-1)
		var b [entrySize]byte
		if m.Load(table+linear>>shift%(1<<levelBits)*entrySize, b[:]) != nil {
			return 0, false
		}
		entry := binary.LittleEndian.Uint64(b[:])
		if entry&entryPresent == 0 {
			return 0, false
		}
		if level == 1 || level <= maxLarge && entry&entryLarge != 0 {
			in := uint64(1)<<shift - 1
			return entry&entryAddress&^in | linear&in, true
		}
		table = entry & entryAddress
	}
	return 0, false
}
