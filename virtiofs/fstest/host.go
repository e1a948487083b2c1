package fstest

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Host is a directory by plain system calls.
type Host struct{ fd int }

var _ Kernel = (*Host)(nil)

// NewHost opens the directory, which must exist; the error names it.
func NewHost(dir string) (*Host, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("test directory %q: %w", dir, err)
	}
	return &Host{fd}, nil
}

// Close closes the directory.
func (h *Host) Close() error { return unix.Close(h.fd) }

// errno is the errno of a system call's error.
func errno(err error) unix.Errno {
	var e unix.Errno
	if err != nil && !errors.As(err, &e) {
		return unix.EIO
	}
	return e
}

// again makes a call until no signal interrupts it: the runtime's own signals
// come at any time, and tmpfs ends fallocate(2) for them.
func again(call func() error) unix.Errno {
	for {
		if e := errno(call()); e != unix.EINTR {
			return e
		}
	}
}

// path is for system calls that take no directory descriptor.
func (h *Host) path(p string) string { return "/proc/self/fd/" + strconv.Itoa(h.fd) + "/" + p }

func nofollow(follow bool) int {
	if follow {
		return 0
	}
	return unix.AT_SYMLINK_NOFOLLOW
}

// Mkdir implements Target.
func (h *Host) Mkdir(path string, mode uint32) unix.Errno {
	return errno(unix.Mkdirat(h.fd, path, mode))
}

// Mknod implements Target.
func (h *Host) Mknod(path string, mode, major, minor uint32) unix.Errno {
	return errno(unix.Mknodat(h.fd, path, mode, int(unix.Mkdev(major, minor))))
}

// Symlink implements Target.
func (h *Host) Symlink(target, path string) unix.Errno {
	return errno(unix.Symlinkat(target, h.fd, path))
}

// Link implements Target.
func (h *Host) Link(old, path string) unix.Errno {
	return errno(unix.Linkat(h.fd, old, h.fd, path, 0))
}

// Unlink implements Target.
func (h *Host) Unlink(path string) unix.Errno { return errno(unix.Unlinkat(h.fd, path, 0)) }

// Rmdir implements Target.
func (h *Host) Rmdir(path string) unix.Errno {
	return errno(unix.Unlinkat(h.fd, path, unix.AT_REMOVEDIR))
}

// Rename implements Target.
func (h *Host) Rename(old, path string, flags uint32) unix.Errno {
	return errno(unix.Renameat2(h.fd, old, h.fd, path, uint(flags)))
}

// Readlink implements Target.
func (h *Host) Readlink(path string) (string, unix.Errno) {
	b := make([]byte, 4096)
	n, err := unix.Readlinkat(h.fd, path, b)
	return string(b[:max(n, 0)]), errno(err)
}

// Stat implements Target.
func (h *Host) Stat(path string, follow bool) (Stat, unix.Errno) {
	var st unix.Stat_t
	e := errno(unix.Fstatat(h.fd, path, &st, nofollow(follow)))
	return statOf(&st), e
}

func statOf(st *unix.Stat_t) Stat {
	return Stat{
		Dev: st.Dev, Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid,
		Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev), Size: st.Size, Blocks: st.Blocks,
		Atime: st.Atim, Mtime: st.Mtim, Ctime: st.Ctim,
	}
}

// Btime implements Target.
func (h *Host) Btime(path string) (unix.Timespec, unix.Errno) {
	var st unix.Statx_t
	e := errno(unix.Statx(h.fd, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st))
	if e == 0 && st.Mask&unix.STATX_BTIME == 0 {
		e = unix.ENODATA
	}
	return unix.Timespec{Sec: st.Btime.Sec, Nsec: int64(st.Btime.Nsec)}, e
}

// Chmod implements Target.
func (h *Host) Chmod(path string, mode uint32) unix.Errno {
	return errno(unix.Fchmodat(h.fd, path, mode, 0))
}

// Chown implements Target.
func (h *Host) Chown(path string, uid, gid uint32, follow bool) unix.Errno {
	return errno(unix.Fchownat(h.fd, path, int(int32(uid)), int(int32(gid)), nofollow(follow)))
}

// Utimens implements Target.
func (h *Host) Utimens(path string, atime, mtime unix.Timespec, follow bool) unix.Errno {
	return errno(unix.UtimesNanoAt(h.fd, path, []unix.Timespec{atime, mtime}, nofollow(follow)))
}

// Truncate implements Target.
func (h *Host) Truncate(path string, size int64) unix.Errno {
	return again(func() error { return unix.Truncate(h.path(path), size) })
}

// Statfs implements Target.
func (h *Host) Statfs(path string) (Volume, unix.Errno) {
	var s unix.Statfs_t
	e := errno(unix.Statfs(h.path(path), &s))
	return Volume{uint32(s.Bsize), uint32(s.Frsize), uint32(s.Namelen), s.Blocks, s.Files}, e
}

// Getxattr implements Target.
func (h *Host) Getxattr(path, name string, size int) ([]byte, int, unix.Errno) {
	b := make([]byte, size)
	n, err := unix.Lgetxattr(h.path(path), name, b)
	return cut(b, n), n, errno(err)
}

// Listxattr implements Target.
func (h *Host) Listxattr(path string, size int) ([]byte, int, unix.Errno) {
	b := make([]byte, size)
	n, err := unix.Llistxattr(h.path(path), b)
	return cut(b, n), n, errno(err)
}

func cut(b []byte, n int) []byte { return b[:max(0, min(n, len(b)))] }

// Setxattr implements Target.
func (h *Host) Setxattr(path, name string, value []byte, flags int) unix.Errno {
	return errno(unix.Lsetxattr(h.path(path), name, value, flags))
}

// Removexattr implements Target.
func (h *Host) Removexattr(path, name string) unix.Errno {
	return errno(unix.Lremovexattr(h.path(path), name))
}

// Access implements Kernel.
func (h *Host) Access(path string, mode uint32) unix.Errno {
	return errno(unix.Faccessat2(h.fd, path, mode, unix.AT_EACCESS))
}

// Open implements Target.
func (h *Host) Open(path string, flags int, mode uint32) (File, unix.Errno) {
	var fd int
	e := again(func() (err error) {
		fd, err = unix.Openat(h.fd, path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, mode)
		return err
	})
	if e != 0 {
		return nil, e
	}
	return &hostFile{h, fd}, 0
}

// As implements Target: on a thread of its own, which is thrown away. Raw system
// calls change that thread only, and it leaves the process's umask behind.
func (h *Host) As(w Who, f func(Target)) unix.Errno {
	e := make(chan unix.Errno)
	go func() {
		defer close(e)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := become(w); err != 0 {
			e <- err
			return
		}
		f(h)
	}()
	return <-e
}

func become(w Who) unix.Errno {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return errno(err)
	}
	unix.Umask(int(w.Umask))
	if e := setgroups(w.Groups); e != 0 {
		return e
	}
	for _, c := range [][2]uintptr{{unix.SYS_SETRESGID, uintptr(w.GID)}, {unix.SYS_SETRESUID, uintptr(w.UID)}} {
		if _, _, e := unix.RawSyscall(c[0], c[1], c[1], c[1]); e != 0 {
			return e
		}
	}
	return 0
}
