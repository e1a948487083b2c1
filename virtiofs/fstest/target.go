package fstest

import "golang.org/x/sys/unix"

// Target is something that has files: paths are relative to its root, which
// must be an empty directory that nobody else uses. The methods are the system
// calls of the same name (section 2 of the manual), with their errnos. A Target
// is for one goroutine.
type Target interface {
	Mkdir(path string, mode uint32) unix.Errno
	Mknod(path string, mode, major, minor uint32) unix.Errno
	Symlink(target, path string) unix.Errno
	Link(old, path string) unix.Errno // does not follow old
	Unlink(path string) unix.Errno
	Rmdir(path string) unix.Errno
	Rename(old, path string, flags uint32) unix.Errno // renameat2(2)
	Readlink(path string) (string, unix.Errno)

	Stat(path string, follow bool) (Stat, unix.Errno)
	Btime(path string) (unix.Timespec, unix.Errno) // statx(2); ENODATA without STATX_BTIME
	Chmod(path string, mode uint32) unix.Errno
	Chown(path string, uid, gid uint32, follow bool) unix.Errno
	Utimens(path string, atime, mtime unix.Timespec, follow bool) unix.Errno
	Truncate(path string, size int64) unix.Errno
	Statfs(path string) (Volume, unix.Errno)

	// The four follow no link. Size 0 asks for the length.
	Getxattr(path, name string, size int) (value []byte, n int, e unix.Errno)
	Listxattr(path string, size int) (list []byte, n int, e unix.Errno)
	Setxattr(path, name string, value []byte, flags int) unix.Errno
	Removexattr(path, name string) unix.Errno

	// Open takes every flag of open(2), O_TMPFILE included.
	Open(path string, flags int, mode uint32) (File, unix.Errno)

	// As calls f with a target that acts as somebody else.
	As(w Who, f func(Target)) unix.Errno
}

// File is an open file or directory.
type File interface {
	Close() unix.Errno
	Stat() (Stat, unix.Errno)
	Pread(n int, off int64) ([]byte, unix.Errno)
	Pwrite(data []byte, off int64) (int, unix.Errno) // with O_APPEND: at the end
	Truncate(size int64) unix.Errno
	Fallocate(mode uint32, off, n int64) unix.Errno
	Find(off int64, whence int) (int64, unix.Errno) // SEEK_DATA or SEEK_HOLE
	CopyTo(to File, off, toOff int64, n int) (int, unix.Errno)
	Sync(dataOnly bool) unix.Errno
	Syncfs() unix.Errno
	Chmod(mode uint32) unix.Errno
	Chown(uid, gid uint32) unix.Errno
	Utimens(atime, mtime unix.Timespec) unix.Errno
	// Link gives the file a name (linkat(2) of /proc/self/fd).
	Link(path string) unix.Errno
	// Readdir returns the entries from the cookie on that fit into size bytes,
	// none at the end.
	Readdir(cookie int64, size int) ([]Name, unix.Errno)
	// Flags and SetFlags are FS_IOC_GETFLAGS and FS_IOC_SETFLAGS.
	Flags() (uint32, unix.Errno)
	SetFlags(flags uint32) unix.Errno
}

// Kernel is a Target with a kernel above the file system: it checks permissions,
// and its files have what only a kernel gives.
type Kernel interface {
	Target
	Access(path string, mode uint32) unix.Errno // faccessat2(2) with AT_EACCESS
}

// KernelFile is a File of a Kernel.
type KernelFile interface {
	File
	Read(n int) ([]byte, unix.Errno) // at the file's position, which Write and Lseek share
	Write(data []byte) (int, unix.Errno)
	Lseek(off int64, whence int) (int64, unix.Errno)
	// Map maps n bytes with PROT_* and MAP_*; Unmap ends it.
	Map(off int64, n, prot, flags int) ([]byte, unix.Errno)
	Unmap(b []byte) unix.Errno
	Msync(b []byte) unix.Errno
	Flock(how int) unix.Errno
	// Lock is F_OFD_SETLK of the bytes from off on; a length of 0 is all.
	Lock(typ int16, off, n int64) unix.Errno
}

// Who is somebody to act as.
type Who struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
	Umask    uint32
}

// Stat is struct stat as far as the suite looks at it. Blocks are of 512 bytes.
type Stat struct {
	Dev, Ino              uint64
	Mode, Nlink, UID, GID uint32
	Major, Minor          uint32 // of the device that it is
	Size, Blocks          int64
	Mtime, Ctime          unix.Timespec
	Atime                 unix.Timespec
}

// Volume is struct statfs as far as the suite looks at it.
type Volume struct {
	BlockSize, FragmentSize, NameLength uint32
	Blocks, Files                       uint64
}

// Name is a directory entry. Next is the cookie of the one after it, Type is DT_*.
type Name struct {
	Name string
	Type uint8
	Next int64
}
