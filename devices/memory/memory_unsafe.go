package memory

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Iovec appends to dst the iovec that names the n bytes at the guest address,
// for system calls only: Go code must not look through it, because later the
// range may also be a file mapping (the DAX window), where a load can fault.
// It allocates only when dst lacks capacity. n == 0 appends nothing.
func (m *Map) Iovec(at GPA, n uint32, dst []unix.Iovec) ([]unix.Iovec, error) {
	if n == 0 {
		return dst, nil
	}
	b, err := m.Slice(at, n)
	if err != nil {
		return dst, err
	}
	v := unix.Iovec{Base: (*byte)(unsafe.Pointer(unsafe.SliceData(b)))}
	v.SetLen(int(n))
	return append(dst, v), nil
}
