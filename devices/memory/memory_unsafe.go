package memory

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Iovec appends to dst the iovec that names the n bytes at the guest address, RAM
// or window, for system calls only: Go code must not look through it, because a
// load from a window can fault. The range must lie in one region or one window. It
// allocates only when dst lacks capacity. n == 0 appends nothing.
func (m *Map) Iovec(at GPA, n uint32, dst []unix.Iovec) ([]unix.Iovec, error) {
	if n == 0 {
		return dst, nil
	}
	b, err := find(m.all, at, GPA(n))
	if err != nil {
		return dst, err
	}
	v := unix.Iovec{Base: (*byte)(unsafe.Pointer(unsafe.SliceData(b)))}
	v.SetLen(int(n))
	return append(dst, v), nil
}

// address is where a piece of a window is in this process.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
