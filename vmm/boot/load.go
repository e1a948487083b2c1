package boot

import (
	"cmp"
	"fmt"

	"tenon/devices/memory"
	"tenon/vmm/layout"
)

// Params is what a kernel is started with.
type Params struct {
	Cmdline string         // at most 2047 bytes, no NUL: see Cmdline
	Initrd  Initrd         // nil: none
	RSDP    memory.GPA     // of the ACPI tables, written by the caller
	RAM     []layout.Range // what backs guest RAM: layout.RAM of its size
}

// Initrd is an initial RAM disk that writes itself straight into guest RAM.
type Initrd interface {
	Size() int             // bytes, more than 0
	Fill(dst []byte) error // dst has Size bytes, all zero
}

// Bytes is an Initrd that is in memory already.
type Bytes []byte

// Size returns its length in bytes.
func (b Bytes) Size() int { return len(b) }

// Fill copies it.
func (b Bytes) Fill(dst []byte) error {
	copy(dst, b)
	return nil
}

const pageSize = 4096

// Load puts the kernel and all it is started with into guest RAM, which must
// be zero (the kernel's BSS is not written), and returns how to enter it. The
// memory map it passes on is layout.MemoryMap of p.RAM.
func Load(mem *memory.Map, i *Image, p Params) (Entry, error) {
	l := loader{mem: mem, image: i, params: p}
	for _, step := range []func() error{l.checkMemory, l.writeCmdline, l.writeFiles, l.writeGDT, l.writeResetVector} {
		if err := step(); err != nil {
			return Entry{}, fmt.Errorf("load kernel %s: %w", i.path, err)
		}
	}
	enter := l.enterLong
	if i.program.pvh != 0 {
		enter = l.enterPVH
	}
	e, err := enter()
	if err != nil {
		return Entry{}, fmt.Errorf("load kernel %s: %w", i.path, err)
	}
	return e, nil
}

// loader is one Load under way.
type loader struct {
	mem    *memory.Map
	image  *Image
	params Params
	initrd layout.Range
}

// checkMemory compares what the kernel needs with what there is. An initrd is
// needed twice: as the image, and unpacked.
func (l *loader) checkMemory() error {
	var have uint64
	for _, r := range l.params.RAM {
		have += r.Len
	}
	need := l.image.MinMemory() + 2*l.initrdSize()
	if have < need {
		return tooLittle(have, need)
	}
	return nil
}

func (l *loader) initrdSize() uint64 {
	if l.params.Initrd == nil {
		return 0
	}
	return uint64(l.params.Initrd.Size())
}

func tooLittle(have, need uint64) error {
	const mib = 1 << 20
	return fmt.Errorf("%w: it needs %d MiB, the machine has %d MiB", ErrTooLittleMemory, (need+mib-1)/mib, have/mib)
}

// write copies b to guest RAM at the given address.
func (l *loader) write(at uint64, b []byte) error {
	dst, err := l.mem.Slice(memory.GPA(at), uint32(len(b)))
	if err != nil {
		return fmt.Errorf("%d bytes at %#x: %w", len(b), at, err)
	}
	copy(dst, b)
	return nil
}

func (l *loader) writeCmdline() error {
	limit := layout.CmdlineLen - 1
	if h := l.image.header; h != nil && h.Hdr.CmdlineSize != 0 {
		limit = min(limit, int(min(h.Hdr.CmdlineSize, layout.CmdlineLen)))
	}
	if err := checkCmdline(l.params.Cmdline, limit); err != nil {
		return err
	}
	return l.write(layout.Cmdline, append([]byte(l.params.Cmdline), 0))
}

// writeFiles fills guest RAM with the kernel and, meanwhile, with the initrd.
func (l *loader) writeFiles() error {
	parts, err := l.parts()
	if err != nil {
		return err
	}
	initrd, err := l.placeInitrd()
	if err != nil {
		return err
	}
	filled := make(chan error, 1)
	go func() {
		if initrd == nil {
			filled <- nil
			return
		}
		filled <- l.params.Initrd.Fill(initrd)
	}()
	err = readParts(l.image.file, parts)
	return cmp.Or(err, <-filled)
}

// placeInitrd finds room for the initrd as high as the kernel takes it, below
// the PCI hole and above the kernel and what it unpacks into.
func (l *loader) placeInitrd() ([]byte, error) {
	n := l.initrdSize()
	if n == 0 {
		return nil, nil
	}
	top := uint64(defaultInitrdMax) + 1
	if h := l.image.header; h != nil {
		top = uint64(h.Hdr.InitrdAddrMax) + 1
	}
	low := l.params.RAM[0]
	top = min(top, low.Base+low.Len)
	floor := uint64(layout.HighRAM)
	for _, s := range l.image.program.segments {
		if s.at < top {
			floor = max(floor, s.at+s.memsz)
		}
	}
	if top < n || (top-n)&^(pageSize-1) < floor {
		return nil, fmt.Errorf("initrd of %d bytes: %w", n, tooLittle(top, floor+n+pageSize))
	}
	l.initrd = layout.Range{Base: (top - n) &^ (pageSize - 1), Len: n}
	dst, err := l.mem.Slice(memory.GPA(l.initrd.Base), uint32(n))
	if err != nil {
		return nil, fmt.Errorf("initrd: %w", err)
	}
	return dst, nil
}
