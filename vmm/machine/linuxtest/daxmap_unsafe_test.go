package linuxtest

import (
	"sync/atomic"
	"unsafe"
)

// wordsOf is memory as words that other processes and machines change at the same
// time. It begins at a multiple of 8 bytes.
func wordsOf(b []byte) []atomic.Uint64 {
	return unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}
