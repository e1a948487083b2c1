package passthrough

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls that x/sys offers only with Go strings, which it copies to
// the heap for the NUL. Names here end in a NUL already and are passed as the
// pointer to their first byte. Every conversion to uintptr stands inside the
// call expression, which is what keeps the object in place.

func openat(dir int, path *byte, flags int, mode uint32) (int, unix.Errno) {
	for {
		fd, _, e := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(path)),
			uintptr(flags|unix.O_CLOEXEC|unix.O_LARGEFILE), uintptr(mode), 0, 0)
		if e != unix.EINTR {
			return int(fd), e
		}
	}
}

// resolveTries bounds how often a name is looked for while the host renames it.
const resolveTries = 16

// openBeneath is openat2(2) that never leaves dir by a magic link or "..".
func openBeneath(dir int, path *byte, flags int, mode uint32) (int, unix.Errno) {
	how := unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	for tries := 0; ; tries++ {
		fd, _, e := unix.Syscall6(unix.SYS_OPENAT2, uintptr(dir), uintptr(unsafe.Pointer(path)),
			uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
		switch {
		case e == unix.EINTR:
		case (e == unix.EAGAIN || e == unix.EXDEV) && tries < resolveTries:
			// A rename or mount on the host raced with the check of
			// RESOLVE_BENEATH; the path itself cannot leave the directory.
		case e == unix.EXDEV:
			return -1, unix.ENOENT
		default:
			return int(fd), e
		}
	}
}

func statx(dir int, path *byte, flags int, mask uint32, st *unix.Statx_t) unix.Errno {
	for {
		_, _, e := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(path)),
			uintptr(flags), uintptr(mask), uintptr(unsafe.Pointer(st)), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func fstat(fd int, st *unix.Stat_t) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_FSTAT, uintptr(fd), uintptr(unsafe.Pointer(st)), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func fstatfs(fd int, st *unix.Statfs_t) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_FSTATFS, uintptr(fd), uintptr(unsafe.Pointer(st)), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// fstatNow is fstat without telling Go's scheduler, which saves a sixth of the time.
// It is for what waits for nothing: the P stays with the thread, and while the call
// lasts nothing else runs on it and no garbage collection can begin. See preadNow.
func fstatNow(fd int, st *unix.Stat_t) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_FSTAT, uintptr(fd), uintptr(unsafe.Pointer(st)), 0)
	return e
}

// preadNow is preadv2 with RWF_NOWAIT without telling Go's scheduler. The kernel then
// neither reads from storage nor waits for a lock that is held across I/O.
func preadNow(fd int, v []unix.Iovec, off int64) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))),
		uintptr(min(len(v), maxIovecs)), uintptr(off), 0, unix.RWF_NOWAIT)
	return int(n), e
}

// preadv2 and pwritev2 are pread(2) and pwrite(2) where that says the same: for one
// buffer the vector costs 30 ns.
func preadv2(fd int, v []unix.Iovec, off int64, flags int) (int, unix.Errno) {
	if len(v) == 1 && flags == 0 {
		return single(unix.SYS_PREAD64, fd, &v[0], off)
	}
	return vector(unix.SYS_PREADV2, fd, v, off, flags)
}

func pwritev2(fd int, v []unix.Iovec, off int64, flags int) (int, unix.Errno) {
	if len(v) == 1 && flags == 0 {
		return single(unix.SYS_PWRITE64, fd, &v[0], off)
	}
	return vector(unix.SYS_PWRITEV2, fd, v, off, flags)
}

func single(nr uintptr, fd int, v *unix.Iovec, off int64) (int, unix.Errno) {
	for {
		n, _, e := unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(v.Base)), uintptr(v.Len), uintptr(off), 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// vector passes the offset as one word, which is how 64-bit kernels take it.
func vector(nr uintptr, fd int, v []unix.Iovec, off int64, flags int) (int, unix.Errno) {
	for {
		n, _, e := unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))),
			uintptr(min(len(v), maxIovecs)), uintptr(off), 0, uintptr(flags))
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

func mkdirat(dir int, path *byte, mode uint32) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_MKDIRAT, uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(mode))
		if e != unix.EINTR {
			return e
		}
	}
}

func mknodat(dir int, path *byte, mode, dev uint32) unix.Errno {
	for {
		_, _, e := unix.Syscall6(unix.SYS_MKNODAT, uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(mode), uintptr(dev), 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func symlinkat(target *byte, dir int, path *byte) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_SYMLINKAT, uintptr(unsafe.Pointer(target)), uintptr(dir), uintptr(unsafe.Pointer(path)))
		if e != unix.EINTR {
			return e
		}
	}
}

func linkat(fromDir int, from *byte, dir int, path *byte, flags int) unix.Errno {
	for {
		_, _, e := unix.Syscall6(unix.SYS_LINKAT, uintptr(fromDir), uintptr(unsafe.Pointer(from)),
			uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(flags), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func unlinkat(dir int, path *byte, flags int) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_UNLINKAT, uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(flags))
		if e != unix.EINTR {
			return e
		}
	}
}

func renameat2(fromDir int, from *byte, dir int, path *byte, flags uint32) unix.Errno {
	for {
		_, _, e := unix.Syscall6(unix.SYS_RENAMEAT2, uintptr(fromDir), uintptr(unsafe.Pointer(from)),
			uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(flags), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func readlinkat(dir int, path *byte, buf []byte) (int, unix.Errno) {
	for {
		n, _, e := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(path)),
			uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

func fchmodat(dir int, path *byte, mode uint32) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_FCHMODAT, uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(mode))
		if e != unix.EINTR {
			return e
		}
	}
}

// fchmodat2 is fchmodat2(2), from Linux 6.6 on.
func fchmodat2(dir int, path *byte, mode uint32, flags int) unix.Errno {
	for {
		_, _, e := unix.Syscall6(unix.SYS_FCHMODAT2, uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(mode), uintptr(flags), 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func fchownat(dir int, path *byte, uid, gid uint32, flags int) unix.Errno {
	for {
		_, _, e := unix.Syscall6(unix.SYS_FCHOWNAT, uintptr(dir), uintptr(unsafe.Pointer(path)),
			uintptr(uid), uintptr(gid), uintptr(flags), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func utimensat(dir int, path *byte, ts *[2]unix.Timespec, flags int) unix.Errno {
	for {
		_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(ts)), uintptr(flags), 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func getdents(fd int, buf []byte) (int, unix.Errno) {
	for {
		n, _, e := unix.Syscall(unix.SYS_GETDENTS64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

func getxattr(path, name *byte, buf []byte) (int, unix.Errno) {
	for {
		n, _, e := unix.Syscall6(unix.SYS_GETXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)),
			uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

func listxattr(path *byte, buf []byte) (int, unix.Errno) {
	for {
		n, _, e := unix.Syscall(unix.SYS_LISTXATTR, uintptr(unsafe.Pointer(path)),
			uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

func setxattr(path, name *byte, value []byte, flags uint32) unix.Errno {
	for {
		_, _, e := unix.Syscall6(unix.SYS_SETXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)),
			uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), uintptr(flags), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func removexattr(path, name *byte) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_REMOVEXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

func copyFileRange(from int, fromOff int64, to int, toOff int64, n uint64) (int, unix.Errno) {
	for {
		done, _, e := unix.Syscall6(unix.SYS_COPY_FILE_RANGE, uintptr(from), uintptr(unsafe.Pointer(&fromOff)),
			uintptr(to), uintptr(unsafe.Pointer(&toOff)), uintptr(n), 0)
		if e != unix.EINTR {
			return int(done), e
		}
	}
}

// nameToHandle is name_to_handle_at(2). The mount is not asked for: statx says it.
func nameToHandle(dir int, path *byte, h *fileHandle, flags int) unix.Errno {
	var mount int32
	for {
		_, _, e := unix.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(dir), uintptr(unsafe.Pointer(path)),
			uintptr(unsafe.Pointer(h)), uintptr(unsafe.Pointer(&mount)), uintptr(flags), 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// openByHandle is open_by_handle_at(2). ENOMEM is ESTALE: Linux also says it while the
// number of an inode that is gone is being given to a new file (iget_locked, as ext4
// has it), and where memory is short indeed, to be looked up again does no harm.
func openByHandle(mount int, h *fileHandle, flags int) (int, unix.Errno) {
	for {
		fd, _, e := unix.Syscall(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(mount), uintptr(unsafe.Pointer(h)),
			uintptr(flags|unix.O_CLOEXEC))
		switch e {
		case unix.EINTR:
		case unix.ENOMEM:
			return -1, unix.ESTALE
		default:
			return int(fd), e
		}
	}
}

// bytesOf is the bytes before the NUL that ends them; none for nil.
func bytesOf(s *byte) []byte {
	n := 0
	for s != nil && *(*byte)(unsafe.Add(unsafe.Pointer(s), n)) != 0 {
		n++
	}
	return unsafe.Slice(s, n)
}

// firstByte is the string's first byte, for system calls that only read it.
func firstByte(s string) *byte { return unsafe.StringData(s) }
