package machine

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
)

// mapFile lays n bytes of a file, copy-on-write, over guest RAM: a kernel's
// segments then come from the page cache, unread and uncopied. off, n and at
// are page-aligned. The mapping goes with the RAM it replaces.
func (m *Machine) mapFile(at memory.GPA, fd int, off int64, n int) error {
	b, err := m.mem.Slice(at, uint32(n))
	if err != nil {
		return err
	}
	_, err = unix.MmapPtr(fd, off, unsafe.Pointer(unsafe.SliceData(b)), uintptr(n),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED)
	if err != nil {
		return fmt.Errorf("map %d bytes of the kernel at %#x: %w", n, at, err)
	}
	return advise(b)
}

// holds says whether a host address lies in the memory.
func holds(b []byte, at uintptr) bool {
	base := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return at >= base && at-base < uintptr(len(b))
}
