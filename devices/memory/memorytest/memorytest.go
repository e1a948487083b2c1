// Package memorytest has a window for tests that, unlike RAM in a test, has pages
// that the host cannot provide (memory.Map.AddWindow).
package memorytest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
)

const page = 4096

// The pages of a Window by their offsets in it.
const (
	Shown  = page * iota // may be read and written
	Kept                 // may be read only
	Barred               // may be neither: a page that the window does not show for now
	Gone                 // is beyond the end of the file: SIGBUS for a load
	Size
)

// Window is a shared mapping of a file, with one page of each kind.
type Window struct {
	memory.Region
	tb   testing.TB
	file *os.File
}

// NewWindow returns a window for the guest address. The first three pages of the
// file count up, modulo 251.
func NewWindow(tb testing.TB, at memory.GPA) *Window {
	tb.Helper()
	fd, err := unix.MemfdCreate("window", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	w := &Window{tb: tb, file: os.NewFile(uintptr(fd), "window")}
	tb.Cleanup(func() { _ = w.file.Close() })
	p := make([]byte, Gone)
	for i := range p {
		p[i] = byte(i % 251)
	}
	w.Write(0, p)
	b, err := unix.Mmap(fd, 0, Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Munmap(b) })
	for off, prot := range map[int]int{Kept: unix.PROT_READ, Barred: unix.PROT_NONE} {
		if err := unix.Mprotect(b[off:off+page], prot); err != nil {
			tb.Fatal(err)
		}
	}
	w.Region = memory.Region{GPA: at, Data: b}
	return w
}

// Read returns n bytes of the file.
func (w *Window) Read(off, n int) []byte {
	w.tb.Helper()
	p := make([]byte, n)
	if _, err := w.file.ReadAt(p, int64(off)); err != nil {
		w.tb.Fatal(err)
	}
	return p
}

// Write changes the file.
func (w *Window) Write(off int, p []byte) {
	w.tb.Helper()
	if _, err := w.file.WriteAt(p, int64(off)); err != nil {
		w.tb.Fatal(err)
	}
}
