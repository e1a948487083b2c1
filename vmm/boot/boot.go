// Package boot turns a kernel file into a guest that is ready to run: it opens
// a bzImage or a vmlinux, unpacks the former once on the host and keeps the
// result in a cache, and loads kernel, initrd, command line and boot
// structures into guest RAM for one of two entries, PVH (32-bit) or the 64-bit
// boot protocol of Linux (Documentation/arch/x86/boot.rst).
package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/bobuhiro11/gokvm/bootparam"
	"golang.org/x/sys/unix"
)

// Errors that callers tell apart with errors.Is. Every error of Open names the
// file, every ErrTooLittleMemory says how many MiB are needed.
var (
	ErrNotKernel       = errors.New("not a Linux kernel")
	ErrTooLittleMemory = errors.New("too little memory for this kernel")
)

// maxImage bounds an unpacked kernel, in bytes: sizes in headers are checked
// against it before anything is allocated.
const maxImage = 1 << 30

// headLen is enough of a file to recognise it by.
const headLen = 0x1000

// Image is an open kernel. It is not changed after Open: several machines may
// load it, from any goroutine, until Close.
type Image struct {
	// Release is what uname -r prints in the guest; empty when the image does
	// not say.
	Release string
	// Opaque is set when the kernel must unpack itself in the guest, because
	// its compression is one the host does not read: Contains knows nothing.
	Opaque bool

	path    string
	file    *os.File             // holds the program: vmlinux, or the bzImage itself when Opaque
	header  *bootparam.BootParam // the setup header; nil without a bzImage
	program program
}

// Open opens the kernel at path: a bzImage for x86-64, or a vmlinux ELF file
// with a PVH entry note or Linux's own load addresses. A bzImage is unpacked
// into a file in cacheDir, unless one of the same kernel is there; cacheDir is
// made when missing. Where it cannot be written, or is empty, the kernel is
// unpacked into anonymous memory.
func Open(path, cacheDir string) (*Image, error) {
	i := &Image{path: path}
	if err := i.open(cacheDir); err != nil {
		i.Close()
		return nil, fmt.Errorf("kernel %s: %w", path, err)
	}
	return i, nil
}

func (i *Image) open(cacheDir string) error {
	f, info, err := openRegular(i.path)
	if err != nil {
		return err
	}
	i.file = f
	head := make([]byte, headLen)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	switch head = head[:n]; {
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return i.openELF()
	case isBzImage(head):
		return i.openBzImage(info, cacheDir)
	}
	return fmt.Errorf("%w: neither a bzImage nor a vmlinux (x86-64 ELF)", ErrNotKernel)
}

// openRegular opens a regular file for reading. Opening with O_NONBLOCK keeps
// a FIFO from blocking before it is refused.
func openRegular(path string) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, unwrapPath(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: not a regular file", ErrNotKernel)
	}
	if err != nil {
		f.Close()
		return nil, nil, unwrapPath(err)
	}
	return f, info, nil
}

// unwrapPath drops the path from an error of package os: Open adds it.
func unwrapPath(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

func (i *Image) openELF() error {
	p, err := parseELF(i.file)
	if err != nil {
		return err
	}
	i.program = p
	i.Release = i.banner()
	return nil
}

// MinMemory returns how many bytes of guest RAM the kernel needs to reach its
// init, without an initrd: where it ends in memory, and what stock kernels
// allocate on their way. It is a floor, not advice.
func (i *Image) MinMemory() uint64 {
	const mib = 1 << 20
	return (i.program.end+mib-1)&^(mib-1) + workingMemory
}

// workingMemory is room beyond the image to reach init in: Debian's 6.12 was
// seen to do so with 22 MiB.
const workingMemory = 24 << 20

// Contains reports whether the unpacked kernel holds the string: a file
// system's or driver's name that is nowhere in the image is not built in.
func (i *Image) Contains(s string) bool {
	if i.Opaque || s == "" {
		return false
	}
	_, found := i.find([]byte(s), 0)
	return found
}

// banner returns the release from the text of /proc/version, which every
// vmlinux holds.
func (i *Image) banner() string {
	const prefix = "Linux version "
	tail, found := i.find([]byte(prefix), 64)
	if !found {
		return ""
	}
	release, _, ok := bytes.Cut(tail, []byte(" "))
	if !ok {
		return ""
	}
	return string(release)
}

// find looks for s where the program has its strings, and returns up to
// extra bytes that follow it. It reads in pieces instead of through a mapping,
// so that neither a truncated file nor the size of the kernel matters.
func (i *Image) find(s []byte, extra int) (tail []byte, found bool) {
	const piece = 256 << 10
	keep := len(s) + extra // so that a match on a seam is whole in the next piece
	buf := make([]byte, keep+piece)
	for _, seg := range i.program.texts {
		have := 0
		for off := uint64(0); off < seg.filesz; {
			n := min(piece, seg.filesz-off)
			if _, err := i.file.ReadAt(buf[have:have+int(n)], int64(seg.off+off)); err != nil {
				return nil, false
			}
			off += n
			have += int(n)
			if at := bytes.Index(buf[:have], s); at >= 0 && (off == seg.filesz || at+keep <= have) {
				end := at + len(s)
				return bytes.Clone(buf[end:min(have, end+extra)]), true
			}
			have = copy(buf, buf[max(0, have-keep):have])
		}
	}
	return nil, false
}

// Close releases the kernel's file.
func (i *Image) Close() error {
	if i.file == nil {
		return nil
	}
	return i.file.Close()
}
