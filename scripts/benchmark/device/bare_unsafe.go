package device

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls themselves, without what a library would add: names are C strings,
// lists of pieces are iovecs already. Where the side is told, Go's scheduler is told of
// those that the short rows are about, as of every call that may wait.

// errno is 0's error: nil.
func errno(e unix.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

func (b *bare) fstat(fd int, st *unix.Stat_t) (e unix.Errno) {
	if b.told {
		_, _, e = unix.Syscall(unix.SYS_FSTAT, uintptr(fd), uintptr(unsafe.Pointer(st)), 0)
		return e
	}
	_, _, e = unix.RawSyscall(unix.SYS_FSTAT, uintptr(fd), uintptr(unsafe.Pointer(st)), 0)
	return e
}

// statx is statx(2) of a name, for what fuse_attr has.
func (b *bare) statx(dir int, name *byte, st *unix.Statx_t) (e unix.Errno) {
	if b.told {
		_, _, e = unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name)),
			unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(st)), 0)
		return e
	}
	_, _, e = unix.RawSyscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name)),
		unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(st)), 0)
	return e
}

func openat(dir int, name *byte, flags int, mode uint32) (int, unix.Errno) {
	fd, _, e := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(name)),
		uintptr(flags), uintptr(mode), 0, 0)
	return int(fd), e
}

func closeFD(fd int) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return e
}

func unlinkat(dir int, name *byte) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_UNLINKAT, uintptr(dir), uintptr(unsafe.Pointer(name)), 0)
	return e
}

func lseek(fd int, off int64, whence int) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_LSEEK, uintptr(fd), uintptr(off), uintptr(whence))
	return e
}

func getdents(fd int, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_GETDENTS64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), e
}

// move is pread64(2), pwrite64(2) by number.
func (b *bare) move(nr uintptr, fd int, p []byte, off int64) (int, unix.Errno) {
	if b.told {
		n, _, e := unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(off), 0, 0)
		return int(n), e
	}
	n, _, e := unix.RawSyscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(off), 0, 0)
	return int(n), e
}

// moveVector is preadv(2), pwritev(2) by number.
func (b *bare) moveVector(nr uintptr, fd int, v []unix.Iovec, off int64) (int, unix.Errno) {
	if b.told {
		n, _, e := unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))), uintptr(len(v)), uintptr(off), 0, 0)
		return int(n), e
	}
	n, _, e := unix.RawSyscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))), uintptr(len(v)), uintptr(off), 0, 0)
	return int(n), e
}

// iovec names a piece of memory outside of Go's heap.
func iovec(p []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(p)}
	v.SetLen(len(p))
	return v
}

// window is a range of addresses that pieces of files are mapped into.
type window struct {
	base unsafe.Pointer
	size uintptr
}

func newWindow(size uintptr) (window, error) {
	p, err := unix.MmapPtr(-1, 0, nil, size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	return window{p, size}, err
}

func (w window) close() error { return unix.MunmapPtr(w.base, w.size) }

// mapFile shows n bytes of a file at an offset in the window.
func (w window) mapFile(at, n uintptr, fd int, off int64) unix.Errno {
	return w.mmap(at, n, unix.MAP_SHARED, fd, off)
}

// unmap shows nothing there again, without a moment at which the addresses are free.
func (w window) unmap(at, n uintptr) unix.Errno {
	return w.mmap(at, n, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE, -1, 0)
}

func (w window) mmap(at, n uintptr, flags, fd int, off int64) unix.Errno {
	if at+n > w.size {
		return unix.EINVAL
	}
	_, _, e := unix.RawSyscall6(unix.SYS_MMAP, uintptr(w.base)+at, n, unix.PROT_READ, uintptr(flags|unix.MAP_FIXED), uintptr(fd), uintptr(off))
	return e
}
