package queue

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// bytes is the buffer's bytes, which are for system calls only where it may be in a
// window.
func bytes(v *unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }

// entries is a descriptor table by entries, so that one check of bounds does for each.
func entries(table []byte) [][descSize]byte {
	return unsafe.Slice((*[descSize]byte)(unsafe.Pointer(unsafe.SliceData(table))), len(table)/descSize)
}
