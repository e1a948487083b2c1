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
