package fstest

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Open is an open file in a script. If it could not be opened, its methods write
// "not open".
type Open struct {
	s    *Script
	f    File
	name string // in the trace
}

// flagNames has the flags of open(2) that the suite uses. Those with more bits
// come first.
var flagNames = []struct {
	bits int
	name string
}{
	{unix.O_TMPFILE, "TMPFILE"}, {unix.O_SYNC, "SYNC"}, {unix.O_DSYNC, "DSYNC"},
	{unix.O_DIRECTORY, "DIRECTORY"}, {unix.O_CREAT, "CREAT"}, {unix.O_EXCL, "EXCL"},
	{unix.O_TRUNC, "TRUNC"}, {unix.O_APPEND, "APPEND"}, {unix.O_NOFOLLOW, "NOFOLLOW"},
	{unix.O_NONBLOCK, "NONBLOCK"}, {unix.O_DIRECT, "DIRECT"},
}

func openFlags(flags int) string {
	names := []string{[]string{"RDONLY", "WRONLY", "RDWR", "ACCMODE"}[flags&unix.O_ACCMODE]}
	for _, f := range flagNames {
		if flags&f.bits == f.bits {
			names = append(names, f.name)
			flags &^= f.bits
		}
	}
	return strings.Join(names, "|")
}

// Open is described at Mkdir. The case's files are closed at its end.
func (s *Script) Open(p string, flags int, mode uint32) *Open {
	f, e := s.target.Open(s.at(p), flags, mode)
	s.say(e, "", "open %s %s %o", short(p), openFlags(flags), mode)
	o := &Open{s, f, fmt.Sprintf("fd%d(%s)", len(*s.open)+1, short(p))}
	if e != 0 {
		o.f = nil
	}
	*s.open = append(*s.open, o)
	return o
}

// do writes the line of an operation on the file.
func (o *Open) do(op func() (string, unix.Errno), format string, args ...any) {
	answer, e := "not open", unix.Errno(0)
	if o.f != nil {
		answer, e = op()
	}
	o.s.say(e, answer, "%s "+format, append([]any{o.name}, args...)...)
}

// plain is do for operations without an answer.
func (o *Open) plain(op func() unix.Errno, format string, args ...any) {
	o.do(func() (string, unix.Errno) { return "", op() }, format, args...)
}

// Close closes the file. The other methods are named after system calls too.
func (o *Open) Close() {
	o.plain(func() unix.Errno { e := o.f.Close(); o.f = nil; return e }, "close")
}

// Stat is Script.Stat of the open file.
func (o *Open) Stat() {
	o.do(func() (string, unix.Errno) { st, e := o.f.Stat(); return st.String(), e }, "stat")
}

// Pread reads n bytes.
func (o *Open) Pread(n int, off int64) {
	o.do(func() (string, unix.Errno) { b, e := o.f.Pread(n, off); return short(string(b)), e }, "pread %d %d", n, off)
}

// Pwrite writes.
func (o *Open) Pwrite(data string, off int64) {
	o.do(func() (string, unix.Errno) { return count(o.f.Pwrite([]byte(data), off)) }, "pwrite %s %d", short(data), off)
}

func count[N int | int64](n N, e unix.Errno) (string, unix.Errno) { return fmt.Sprint(n), e }

// Truncate sets the size.
func (o *Open) Truncate(size int64) {
	o.plain(func() unix.Errno { return o.f.Truncate(size) }, "ftruncate %d", size)
}

// Fallocate is fallocate(2) with FALLOC_FL_* in mode.
func (o *Open) Fallocate(mode uint32, off, n int64) {
	o.plain(func() unix.Errno { return o.f.Fallocate(mode, off, n) }, "fallocate %#x %d %d", mode, off, n)
}

// Find is lseek(2) with SEEK_DATA (3) or SEEK_HOLE (4).
func (o *Open) Find(off int64, whence int) {
	o.do(func() (string, unix.Errno) { return count(o.f.Find(off, whence)) }, "lseek %d %d", off, whence)
}

// CopyTo is copy_file_range(2).
func (o *Open) CopyTo(to *Open, off, toOff int64, n int) {
	o.do(func() (string, unix.Errno) {
		if to.f == nil {
			return "not open", 0
		}
		return count(o.f.CopyTo(to.f, off, toOff, n))
	}, "copy_file_range %d %s %d %d", off, to.name, toOff, n)
}

// Sync is fsync(2), or fdatasync(2).
func (o *Open) Sync(dataOnly bool) {
	o.plain(func() unix.Errno { return o.f.Sync(dataOnly) }, "fsync %t", dataOnly)
}

// Syncfs is syncfs(2).
func (o *Open) Syncfs() { o.plain(func() unix.Errno { return o.f.Syncfs() }, "syncfs") }

// Chmod is fchmod(2).
func (o *Open) Chmod(mode uint32) {
	o.plain(func() unix.Errno { return o.f.Chmod(mode) }, "fchmod %o", mode)
}

// Chown is fchown(2).
func (o *Open) Chown(uid, gid uint32) {
	o.plain(func() unix.Errno { return o.f.Chown(uid, gid) }, "fchown %d:%d", uid, gid)
}

// Utimens is futimens(3).
func (o *Open) Utimens(atime, mtime unix.Timespec) {
	o.plain(func() unix.Errno { return o.f.Utimens(atime, mtime) },
		"futimens %d.%d %d.%d", atime.Sec, atime.Nsec, mtime.Sec, mtime.Nsec)
}

// Link gives the open file another name, or its first one.
func (o *Open) Link(p string) {
	o.plain(func() unix.Errno { return o.f.Link(o.s.at(p)) }, "flink %s", short(p))
}

// Flags is FS_IOC_GETFLAGS, of which it shows the bits in mask.
func (o *Open) Flags(mask uint32) {
	o.do(func() (string, unix.Errno) { v, e := o.f.Flags(); return fmt.Sprintf("%#x", v&mask), e }, "getflags")
}

// SetFlags sets the flags in mask to those in flags, and leaves the others.
func (o *Open) SetFlags(mask, flags uint32) {
	o.plain(func() unix.Errno {
		v, e := o.f.Flags()
		if e != 0 {
			return e
		}
		return o.f.SetFlags(v&^mask | flags)
	}, "setflags %#x %#x", mask, flags)
}

// kernel is do for what only files of a Kernel have.
func (o *Open) kernel(op func(KernelFile) (string, unix.Errno), format string, args ...any) {
	o.do(func() (string, unix.Errno) {
		k, ok := o.f.(KernelFile)
		if !ok {
			return "", unix.ENOSYS
		}
		return op(k)
	}, format, args...)
}

// Read reads at the file's position.
func (o *Open) Read(n int) {
	o.kernel(func(k KernelFile) (string, unix.Errno) { b, e := k.Read(n); return short(string(b)), e }, "read %d", n)
}

// Write writes at the file's position, or at the end with O_APPEND.
func (o *Open) Write(data string) {
	o.kernel(func(k KernelFile) (string, unix.Errno) { return count(k.Write([]byte(data))) }, "write %s", short(data))
}

// Lseek moves the position.
func (o *Open) Lseek(off int64, whence int) {
	o.kernel(func(k KernelFile) (string, unix.Errno) { return count(k.Lseek(off, whence)) }, "lseek %d %d", off, whence)
}

// Flock is flock(2).
func (o *Open) Flock(how int) {
	o.kernel(func(k KernelFile) (string, unix.Errno) { return "", k.Flock(how) }, "flock %d", how)
}

// Lock is F_OFD_SETLK.
func (o *Open) Lock(typ int16, off, n int64) {
	o.kernel(func(k KernelFile) (string, unix.Errno) { return "", k.Lock(typ, off, n) }, "lock %d %d %d", typ, off, n)
}

// Mapped maps the first n bytes, hands them to f, and unmaps them. f must stay
// below the end of the file: a byte beyond it is SIGBUS.
func (o *Open) Mapped(n, prot, flags int, f func(b []byte)) {
	o.kernel(func(k KernelFile) (string, unix.Errno) {
		b, e := k.Map(0, n, prot, flags)
		if e != 0 {
			return "", e
		}
		f(b)
		if prot&unix.PROT_WRITE != 0 && flags&unix.MAP_SHARED != 0 {
			e = k.Msync(b)
		}
		return "", max(e, k.Unmap(b))
	}, "mmap %d %d %#x", n, prot, flags)
}
