package fstest

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setgroups sets the calling thread's supplementary groups, and no other's.
func setgroups(groups []uint32) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	return e
}

// futimens is utimensat(2) without a path: it changes the open file.
func futimens(fd int, ts *[2]unix.Timespec) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	return e
}
