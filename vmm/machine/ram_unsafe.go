package machine

import "unsafe"

// holds says whether a host address lies in the memory.
func holds(b []byte, at uintptr) bool {
	base := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return at >= base && at-base < uintptr(len(b))
}
