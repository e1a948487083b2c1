package boot

import (
	"github.com/bobuhiro11/gokvm/pvh"

	"tenon/vmm/layout"
)

// Offsets of what start_info points to, inside its page.
const (
	modulesAt = layout.StartInfo + 0x100
	memmapAt  = layout.StartInfo + 0x200
)

// enterPVH writes start_info version 1 with its module list and memory map
// (xen/include/public/arch-x86/hvm/start_info.h).
func (l *loader) enterPVH() (Entry, error) {
	info := pvh.NewStartInfo(uint64(l.params.RSDP), layout.Cmdline)
	if l.initrd.Len != 0 {
		info.NrModules, info.ModlistPAddr = 1, modulesAt
		if err := l.marshal(modulesAt, pvh.NewModListEntry(l.initrd.Base, l.initrd.Len, 0)); err != nil {
			return Entry{}, err
		}
	}
	info.MemMapPAddr = memmapAt
	at := uint64(memmapAt)
	for _, a := range layout.MemoryMap(l.params.RAM) {
		if err := l.marshal(at, pvh.NewMemMapTableEntry(a.Base, a.Len, uint32(a.Type))); err != nil {
			return Entry{}, err
		}
		info.MemMapEntries++
		at += 24 // sizeof(struct hvm_memmap_table_entry)
	}
	if err := l.marshal(layout.StartInfo, info); err != nil {
		return Entry{}, err
	}
	e := entry(gdtCode32)
	e.Mode = PVH32
	e.RIP = uint64(l.image.program.pvh)
	e.RBX = layout.StartInfo
	return e, nil
}

// marshal writes a boot structure to guest RAM.
func (l *loader) marshal(at uint64, s interface{ Bytes() ([]byte, error) }) error {
	b, err := s.Bytes()
	if err != nil {
		return err
	}
	return l.write(at, b)
}
