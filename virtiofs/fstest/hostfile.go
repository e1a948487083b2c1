package fstest

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"golang.org/x/sys/unix"
)

// hostFile is an open file of a Host.
type hostFile struct {
	h  *Host
	fd int
}

var _ KernelFile = (*hostFile)(nil)

func (f *hostFile) Close() unix.Errno { return errno(unix.Close(f.fd)) }

func (f *hostFile) Stat() (Stat, unix.Errno) {
	var st unix.Stat_t
	e := errno(unix.Fstat(f.fd, &st))
	return statOf(&st), e
}

func (f *hostFile) Pread(n int, off int64) ([]byte, unix.Errno) {
	b := make([]byte, n)
	var done int
	e := again(func() (err error) { done, err = unix.Pread(f.fd, b, off); return err })
	return cut(b, done), e
}

func (f *hostFile) Pwrite(data []byte, off int64) (n int, e unix.Errno) {
	e = again(func() (err error) { n, err = unix.Pwrite(f.fd, data, off); return err })
	return n, e
}

func (f *hostFile) Truncate(size int64) unix.Errno {
	return again(func() error { return unix.Ftruncate(f.fd, size) })
}

func (f *hostFile) Fallocate(mode uint32, off, n int64) unix.Errno {
	return again(func() error { return unix.Fallocate(f.fd, mode, off, n) })
}

func (f *hostFile) Find(off int64, whence int) (int64, unix.Errno) { return f.Lseek(off, whence) }

func (f *hostFile) CopyTo(to File, off, toOff int64, n int) (done int, e unix.Errno) {
	dst, ok := to.(*hostFile)
	if !ok {
		return 0, unix.EXDEV
	}
	e = again(func() (err error) {
		from, at := off, toOff
		done, err = unix.CopyFileRange(f.fd, &from, dst.fd, &at, n, 0)
		return err
	})
	return done, e
}

func (f *hostFile) Sync(dataOnly bool) unix.Errno {
	if dataOnly {
		return errno(unix.Fdatasync(f.fd))
	}
	return errno(unix.Fsync(f.fd))
}

func (f *hostFile) Syncfs() unix.Errno { return errno(unix.Syncfs(f.fd)) }

func (f *hostFile) Chmod(mode uint32) unix.Errno { return errno(unix.Fchmod(f.fd, mode)) }

func (f *hostFile) Chown(uid, gid uint32) unix.Errno {
	return errno(unix.Fchown(f.fd, int(int32(uid)), int(int32(gid))))
}

func (f *hostFile) Utimens(atime, mtime unix.Timespec) unix.Errno {
	return futimens(f.fd, &[2]unix.Timespec{atime, mtime})
}

// Link goes through /proc: AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH.
func (f *hostFile) Link(path string) unix.Errno {
	old := "/proc/self/fd/" + strconv.Itoa(f.fd)
	return errno(unix.Linkat(unix.AT_FDCWD, old, f.h.fd, path, unix.AT_SYMLINK_FOLLOW))
}

// Layout of struct linux_dirent64 (getdents64(2)).
const (
	direntNext   = 8
	direntLength = 16
	direntType   = 18
	direntName   = 19
)

func (f *hostFile) Readdir(cookie int64, size int) ([]Name, unix.Errno) {
	if _, e := f.Lseek(cookie, unix.SEEK_SET); e != 0 {
		return nil, e
	}
	b := make([]byte, size)
	n, err := unix.Getdents(f.fd, b)
	if err != nil {
		return nil, errno(err)
	}
	var list []Name
	for b = b[:n]; len(b) > direntName; b = b[binary.NativeEndian.Uint16(b[direntLength:]):] {
		name, _, _ := bytes.Cut(b[direntName:], []byte{0})
		list = append(list, Name{
			Name: string(name), Type: b[direntType], Next: int64(binary.NativeEndian.Uint64(b[direntNext:])),
		})
	}
	return list, 0
}

func (f *hostFile) Flags() (uint32, unix.Errno) {
	v, err := unix.IoctlGetInt(f.fd, unix.FS_IOC_GETFLAGS)
	return uint32(v), errno(err)
}

func (f *hostFile) SetFlags(flags uint32) unix.Errno {
	return errno(unix.IoctlSetPointerInt(f.fd, unix.FS_IOC_SETFLAGS, int(flags)))
}

func (f *hostFile) Read(n int) ([]byte, unix.Errno) {
	b := make([]byte, n)
	var done int
	e := again(func() (err error) { done, err = unix.Read(f.fd, b); return err })
	return cut(b, done), e
}

func (f *hostFile) Write(data []byte) (n int, e unix.Errno) {
	e = again(func() (err error) { n, err = unix.Write(f.fd, data); return err })
	return n, e
}

func (f *hostFile) Lseek(off int64, whence int) (int64, unix.Errno) {
	pos, err := unix.Seek(f.fd, off, whence)
	return pos, errno(err)
}

func (f *hostFile) Map(off int64, n, prot, flags int) ([]byte, unix.Errno) {
	b, err := unix.Mmap(f.fd, off, n, prot, flags)
	return b, errno(err)
}

func (f *hostFile) Unmap(b []byte) unix.Errno { return errno(unix.Munmap(b)) }

func (f *hostFile) Msync(b []byte) unix.Errno { return errno(unix.Msync(b, unix.MS_SYNC)) }

func (f *hostFile) Flock(how int) unix.Errno { return errno(unix.Flock(f.fd, how)) }

func (f *hostFile) Lock(typ int16, off, n int64) unix.Errno {
	return errno(unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: typ, Start: off, Len: n}))
}
