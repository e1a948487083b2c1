package passthrough

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// offsetIn is where in b the buffer begins; false when it begins elsewhere. It looks
// at neither.
func offsetIn(v *unix.Iovec, b []byte) (at uint64, ok bool) {
	at = uint64(uintptr(unsafe.Pointer(v.Base)) - uintptr(unsafe.Pointer(unsafe.SliceData(b))))
	return at, at < uint64(len(b))
}
