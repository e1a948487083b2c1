package virtiofs_test

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func hostIoctl(fd int, cmd uint32, arg []byte) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	return e
}
