package passthrough

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func fcntlLock(fd, cmd int, l *unix.Flock_t) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(l)))
		if e != unix.EINTR {
			return e
		}
	}
}
