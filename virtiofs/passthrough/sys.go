package passthrough

import "golang.org/x/sys/unix"

// maxIovecs is the kernel's limit for one vectored call (UIO_MAXIOV).
const maxIovecs = 1024

// Calls on a file descriptor alone: numbers in, an errno out.

func call1(nr uintptr, fd int) unix.Errno {
	for {
		_, _, e := unix.Syscall(nr, uintptr(fd), 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func fchmod(fd int, mode uint32) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_FCHMOD, uintptr(fd), uintptr(mode), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func ftruncate(fd int, size int64) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_FTRUNCATE, uintptr(fd), uintptr(size), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func fallocate(fd int, mode uint32, off, n int64) unix.Errno {
	for {
		_, _, e := unix.Syscall6(unix.SYS_FALLOCATE, uintptr(fd), uintptr(mode), uintptr(off), uintptr(n), 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func lseek(fd int, off int64, whence int) (int64, unix.Errno) {
	n, _, e := unix.Syscall(unix.SYS_LSEEK, uintptr(fd), uintptr(off), uintptr(whence))
	return int64(n), e
}

func fsync(fd int, dataOnly bool) unix.Errno {
	if dataOnly {
		return call1(unix.SYS_FDATASYNC, fd)
	}
	return call1(unix.SYS_FSYNC, fd)
}

// duplicate is another descriptor of the same open file.
func duplicate(fd int) (int, unix.Errno) {
	n, _, e := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return int(n), e
}

// accessMode is how the descriptor was opened: O_RDONLY, O_WRONLY or O_RDWR.
func accessMode(fd int) int {
	flags, _, e := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), unix.F_GETFL, 0)
	if e != 0 {
		return unix.O_WRONLY
	}
	return int(flags) & unix.O_ACCMODE
}

// closeFD closes a descriptor; whatever close(2) answers, it is closed, and the
// call is never made twice: the number may be another's by then.
func closeFD(fd int) { _, _, _ = unix.Syscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// procRoot is where the links of the process's own descriptors are. They are the
// way to name a file that is known by an O_PATH descriptor only.
const procRoot = "/proc/self/fd/"

// fdPath is room for the NUL-terminated path of a descriptor.
type fdPath [len(procRoot) + 20]byte

// relative writes the path relative to procRoot and returns its first byte.
func (p *fdPath) relative(fd int) *byte { return p.digits(0, fd) }

// absolute writes the whole path, for calls that take no directory.
func (p *fdPath) absolute(fd int) *byte {
	p.digits(copy(p[:], procRoot), fd)
	return &p[0]
}

func (p *fdPath) digits(at, fd int) *byte {
	n := 1
	for v := fd; v >= 10; v /= 10 {
		n++
	}
	p[at+n] = 0
	for i := at + n - 1; i >= at; i-- {
		p[i] = '0' + byte(fd%10)
		fd /= 10
	}
	return &p[at]
}
