package queue_test

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// bytesOf is what a system call would see in the iovecs.
func bytesOf(iov []unix.Iovec) (out []byte) {
	for _, v := range iov {
		out = append(out, unsafe.Slice(v.Base, v.Len)...)
	}
	return out
}

// within says that all the iovec's bytes are among b.
func within(v unix.Iovec, b []byte) bool {
	first, start := uintptr(unsafe.Pointer(v.Base)), uintptr(unsafe.Pointer(&b[0]))
	return first >= start && first-start <= uintptr(len(b)) && v.Len <= uint64(len(b))-uint64(first-start)
}
