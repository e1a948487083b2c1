package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"tenon/vmm/layout"
)

// program is what there is to load and where to start: an ELF file's, or a
// bzImage's protected-mode code as one segment.
type program struct {
	segments []segment
	texts    []segment // where the file holds strings; at is unused
	entry    uint64    // 64-bit entry, physical
	pvh      uint32    // PVH entry, physical; 0 without
	end      uint64    // first byte past everything the kernel wants at its load address
}

// segment is one PT_LOAD: filesz bytes from off of the file at the physical
// address at, the rest up to memsz zero.
type segment struct {
	at, off, filesz, memsz uint64
}

const (
	maxSegments = 64
	maxNotes    = 1 << 20

	// xenPhys32Entry is XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h):
	// the 32-bit entry of the PVH boot ABI.
	xenPhys32Entry = 18
	// kernelHalf is the lowest virtual address of Linux on x86-64.
	kernelHalf = 1 << 63
)

// parseELF reads the headers of a vmlinux and checks every range in them
// against the file. Only headers and notes are read.
func parseELF(f *os.File) (program, error) {
	info, err := f.Stat()
	if err != nil {
		return program{}, err
	}
	h, progs, err := readHeaders(f)
	if err != nil {
		return program{}, err
	}
	p := program{entry: h.Entry}
	kernel := false
	for _, ph := range progs {
		if ph.Type != uint32(elf.PT_LOAD) && ph.Type != uint32(elf.PT_NOTE) {
			continue
		}
		if size := uint64(info.Size()); ph.Off > size || ph.Filesz > size-ph.Off {
			return program{}, fmt.Errorf("%w: the ELF file is truncated", ErrNotKernel)
		}
		if ph.Type == uint32(elf.PT_NOTE) {
			p.pvh = max(p.pvh, pvhEntry(f, ph))
			continue
		}
		kernel = kernel || ph.Vaddr >= kernelHalf
		if err := p.add(segment{ph.Paddr, ph.Off, ph.Filesz, ph.Memsz}); err != nil {
			return program{}, err
		}
	}
	p.texts = stringSections(f, info.Size())
	if len(p.texts) == 0 {
		p.texts = p.segments
	}
	if !kernel && p.pvh == 0 {
		return program{}, fmt.Errorf("%w: an ELF file without kernel addresses or PVH entry", ErrNotKernel)
	}
	if p.pvh == 0 && !p.holds(p.entry) || p.pvh != 0 && !p.holds(uint64(p.pvh)) {
		return program{}, fmt.Errorf("%w: the entry lies outside the loaded segments", ErrNotKernel)
	}
	return p, nil
}

// stringSections returns the sections that hold the kernel's strings: a fifth
// of the image, and without the type names of .BTF, which would make Contains
// say yes for drivers that are only modules.
func stringSections(f *os.File, size int64) []segment {
	file, err := elf.NewFile(f)
	if err != nil {
		return nil
	}
	var out []segment
	for _, s := range file.Sections {
		inFile := s.Type == elf.SHT_PROGBITS && s.Offset < uint64(size) && s.FileSize <= uint64(size)-s.Offset
		switch s.Name {
		case ".rodata", ".data", ".init.data":
			if inFile {
				out = append(out, segment{off: s.Offset, filesz: s.FileSize, memsz: s.Size})
			}
		}
	}
	return out
}

// readHeaders reads and checks the file header and the program headers.
func readHeaders(f io.ReaderAt) (elf.Header64, []elf.Prog64, error) {
	var h elf.Header64
	r := io.NewSectionReader(f, 0, maxImage)
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		return h, nil, fmt.Errorf("%w: the ELF file is truncated", ErrNotKernel)
	}
	if h.Ident[elf.EI_CLASS] != byte(elf.ELFCLASS64) || h.Ident[elf.EI_DATA] != byte(elf.ELFDATA2LSB) ||
		h.Machine != uint16(elf.EM_X86_64) {
		return h, nil, fmt.Errorf("%w: an ELF file, but not for x86-64", ErrNotKernel)
	}
	const progLen = 56 // sizeof(Elf64_Phdr)
	if h.Phentsize != progLen || h.Phnum == 0 || h.Phnum > maxSegments || h.Phoff > maxImage {
		return h, nil, fmt.Errorf("%w: an ELF file without program headers", ErrNotKernel)
	}
	progs := make([]elf.Prog64, h.Phnum)
	r = io.NewSectionReader(f, int64(h.Phoff), progLen*maxSegments)
	if err := binary.Read(r, binary.LittleEndian, progs); err != nil {
		return h, nil, fmt.Errorf("%w: the ELF file is truncated", ErrNotKernel)
	}
	return h, progs, nil
}

// add checks a segment's shape; whether it fits into RAM is Load's question.
func (p *program) add(s segment) error {
	if s.memsz == 0 {
		return nil
	}
	if s.filesz > s.memsz || s.memsz > maxImage || s.at+s.memsz < s.at {
		return fmt.Errorf("%w: segment at %#x of %#x bytes makes no sense", ErrNotKernel, s.at, s.memsz)
	}
	if s.at < layout.HighRAM {
		return fmt.Errorf("segment at %#x lies below 1 MiB, where the boot structures are", s.at)
	}
	p.segments = append(p.segments, s)
	p.end = max(p.end, s.at+s.memsz)
	return nil
}

// holds reports whether the physical address is inside a segment.
func (p *program) holds(at uint64) bool {
	for _, s := range p.segments {
		if at >= s.at && at-s.at < s.memsz {
			return true
		}
	}
	return false
}

// pvhEntry returns the address in the PVH note of a note segment, or 0. A note
// is namesz, descsz, type, then name and descriptor, each padded to 4 bytes.
func pvhEntry(f io.ReaderAt, ph elf.Prog64) uint32 {
	notes := make([]byte, min(ph.Filesz, maxNotes))
	if _, err := f.ReadAt(notes, int64(ph.Off)); err != nil {
		return 0
	}
	for len(notes) >= 12 {
		name := uint64(binary.LittleEndian.Uint32(notes))
		desc := uint64(binary.LittleEndian.Uint32(notes[4:]))
		kind := binary.LittleEndian.Uint32(notes[8:])
		descAt := 12 + (name+3)&^3
		next := descAt + (desc+3)&^3
		if next > uint64(len(notes)) {
			return 0
		}
		if kind == xenPhys32Entry && desc >= 4 && bytes.Equal(notes[12:12+name], []byte("Xen\x00")) {
			return binary.LittleEndian.Uint32(notes[descAt:])
		}
		notes = notes[next:]
	}
	return 0
}
