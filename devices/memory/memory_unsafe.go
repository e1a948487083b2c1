package memory

import "unsafe"

// address is where a piece of a window is in this process.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
