package fstest

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Script runs operations on a target and writes a line of trace for each. Paths
// are below the case's own directory. What fails is in the trace and the script
// goes on: both sides of a comparison must have the same lines.
type Script struct {
	target Target
	dir    string // the case's
	knobs  *Knobs
	who    string // before each line: who acts
	trace  *Trace
	open   *[]*Open
}

// say writes the line of one operation: what it answered, or its errno.
func (s *Script) say(e unix.Errno, answer string, format string, args ...any) {
	if e != 0 {
		answer = errnoName(e)
	} else if answer == "" {
		answer = "0"
	}
	s.trace.Lines = append(s.trace.Lines, s.who+fmt.Sprintf(format, args...)+" = "+answer)
}

func errnoName(e unix.Errno) string {
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return "errno " + strconv.Itoa(int(e))
}

// at is the path below the case's directory.
func (s *Script) at(p string) string { return s.dir + "/" + p }

// short is a path or data as a trace shows it.
func short(p string) string { return abbreviate(p, 48) }

// whole is short for lists.
func whole(p string) string { return abbreviate(p, 1000) }

func abbreviate(p string, limit int) string {
	if len(p) <= limit {
		return strconv.QuoteToASCII(p)
	}
	return fmt.Sprintf("%s...(%d bytes, crc %08x)", strconv.QuoteToASCII(p[:8]), len(p), crc32.ChecksumIEEE([]byte(p)))
}

// Repeat is n bytes of a pattern in which every kilobyte is different.
func Repeat(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>10)*31 + 1
	}
	return b
}

// tick waits until the clock of the file system's time stamps has gone on.
func (s *Script) tick() { time.Sleep(s.knobs.Tick) }

// As runs f as somebody else.
func (s *Script) As(w Who, f func(*Script)) {
	e := s.target.As(w, func(t Target) {
		other := *s
		other.target = t
		other.who = fmt.Sprintf("%s(%d:%d%v umask %03o) ", s.who, w.UID, w.GID, w.Groups, w.Umask)
		f(&other)
	})
	if e != 0 {
		s.say(e, "", "as %d:%d", w.UID, w.GID)
	}
}

// Mkdir and the other methods named after system calls make the call and write
// its line.
func (s *Script) Mkdir(p string, mode uint32) {
	s.say(s.target.Mkdir(s.at(p), mode), "", "mkdir %s %o", short(p), mode)
}

// Mknod is described at Mkdir; the mode has the type.
func (s *Script) Mknod(p string, mode, major, minor uint32) {
	s.say(s.target.Mknod(s.at(p), mode, major, minor), "", "mknod %s %o %d:%d", short(p), mode, major, minor)
}

// Symlink is described at Mkdir.
func (s *Script) Symlink(target, p string) {
	s.say(s.target.Symlink(target, s.at(p)), "", "symlink %s %s", short(target), short(p))
}

// Link is described at Mkdir.
func (s *Script) Link(old, p string) {
	s.say(s.target.Link(s.at(old), s.at(p)), "", "link %s %s", short(old), short(p))
}

// Unlink is described at Mkdir.
func (s *Script) Unlink(p string) { s.say(s.target.Unlink(s.at(p)), "", "unlink %s", short(p)) }

// Rmdir is described at Mkdir.
func (s *Script) Rmdir(p string) { s.say(s.target.Rmdir(s.at(p)), "", "rmdir %s", short(p)) }

// Rename is described at Mkdir.
func (s *Script) Rename(old, p string, flags uint32) {
	s.say(s.target.Rename(s.at(old), s.at(p), flags), "", "rename %s %s %#x", short(old), short(p), flags)
}

// Readlink is described at Mkdir.
func (s *Script) Readlink(p string) {
	target, e := s.target.Readlink(s.at(p))
	s.say(e, short(target), "readlink %s", short(p))
}

// Stat writes what stat(2) says but for times, blocks and inode.
func (s *Script) Stat(p string) { s.stat("stat", p, true) }

// Lstat is Stat without following a link.
func (s *Script) Lstat(p string) { s.stat("lstat", p, false) }

func (s *Script) stat(call, p string, follow bool) {
	st, e := s.target.Stat(s.at(p), follow)
	s.say(e, st.String(), "%s %s", call, short(p))
}

// String is what all file systems agree on: no size of a directory, no inode.
func (st Stat) String() string {
	text := fmt.Sprintf("%06o links %d owner %d:%d", st.Mode, st.Nlink, st.UID, st.GID)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK:
		text += fmt.Sprintf(" size %d", st.Size)
	case unix.S_IFCHR, unix.S_IFBLK:
		text += fmt.Sprintf(" device %d:%d", st.Major, st.Minor)
	}
	return text
}

// Blocks says how the space of a file compares with its size.
func (s *Script) Blocks(p string) {
	st, e := s.target.Stat(s.at(p), false)
	s.say(e, blocks(st), "blocks %s", short(p))
}

func blocks(st Stat) string {
	switch {
	case st.Blocks == 0:
		return "none"
	case st.Blocks*512 < st.Size:
		return fmt.Sprintf("%d of %d", st.Blocks, (st.Size+511)/512)
	}
	return "as many as the size"
}

// Same says whether two paths are the same inode.
func (s *Script) Same(p, q string) {
	a, e := s.target.Stat(s.at(p), false)
	b, e2 := s.target.Stat(s.at(q), false)
	answer := "different"
	if a.Dev == b.Dev && a.Ino == b.Ino {
		answer = "the same"
	}
	s.say(max(e, e2), answer, "inodes %s %s", short(p), short(q))
}

// Times writes the times as they are; for such as the script has set.
func (s *Script) Times(p string) {
	st, e := s.target.Stat(s.at(p), false)
	s.say(e, fmt.Sprintf("%d.%09d %d.%09d", st.Atime.Sec, st.Atime.Nsec, st.Mtime.Sec, st.Mtime.Nsec), "times %s", short(p))
}

// Watch does something, and says which of the times of some paths it changed.
// A path that is gone afterwards may be watched by another name, "old>new".
func (s *Script) Watch(what string, do func(), paths ...string) {
	old := unix.Timespec{Sec: 1e9, Nsec: 123456789}
	for _, p := range paths {
		from, _, _ := strings.Cut(p, ">")
		if e := s.target.Utimens(s.at(from), old, old, false); e != 0 {
			s.say(e, "", "set times of %s", short(from))
		}
	}
	s.tick()
	before := make([]Stat, len(paths))
	for i, p := range paths {
		from, _, _ := strings.Cut(p, ">")
		before[i], _ = s.target.Stat(s.at(from), false)
	}
	do()
	for i, p := range paths {
		from, to, moved := strings.Cut(p, ">")
		if !moved {
			to = from
		}
		now, e := s.target.Stat(s.at(to), false)
		s.say(e, changes(before[i], now), "%s: changed in %s", what, short(to))
	}
}

// changes says what differs between two moments of a file.
func changes(a, b Stat) string {
	var list []string
	for _, c := range []struct {
		what    string
		changed bool
	}{
		{"inode", a.Ino != b.Ino},
		{"mtime", a.Mtime != b.Mtime},
		{"ctime", a.Ctime != b.Ctime},
		{"mode", a.Mode != b.Mode},
		{"owner", a.UID != b.UID || a.GID != b.GID},
		{"links", a.Nlink != b.Nlink},
		{"size", a.Size != b.Size && a.Mode&unix.S_IFMT == unix.S_IFREG},
	} {
		if c.changed {
			list = append(list, c.what)
		}
	}
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, " ")
}

// Chmod is described at Mkdir.
func (s *Script) Chmod(p string, mode uint32) {
	s.say(s.target.Chmod(s.at(p), mode), "", "chmod %s %o", short(p), mode)
}

// Chown is described at Mkdir; it follows no link.
func (s *Script) Chown(p string, uid, gid uint32) {
	s.say(s.target.Chown(s.at(p), uid, gid, false), "", "chown %s %d:%d", short(p), int32(uid), int32(gid))
}

// Utimens is described at Mkdir; it follows no link.
func (s *Script) Utimens(p string, atime, mtime unix.Timespec) {
	e := s.target.Utimens(s.at(p), atime, mtime, false)
	s.say(e, "", "utimens %s %d.%d %d.%d", short(p), atime.Sec, atime.Nsec, mtime.Sec, mtime.Nsec)
}

// Truncate is described at Mkdir.
func (s *Script) Truncate(p string, size int64) {
	s.say(s.target.Truncate(s.at(p), size), "", "truncate %s %d", short(p), size)
}

// Getxattr is described at Mkdir.
func (s *Script) Getxattr(p, name string, size int) {
	v, n, e := s.target.Getxattr(s.at(p), name, size)
	s.say(e, fmt.Sprintf("%d %s", n, short(string(v))), "getxattr %s %s %d", short(p), short(name), size)
}

// Listxattr writes the names that the suite has set, sorted: others may be there
// on the control too.
func (s *Script) Listxattr(p string, size int) {
	list, n, e := s.target.Listxattr(s.at(p), size)
	names := slices.DeleteFunc(strings.Split(string(list), "\x00"), func(name string) bool {
		return !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "trusted.")
	})
	slices.Sort(names)
	s.say(e, fmt.Sprintf("%d %s", n, whole(strings.Join(names, " "))), "listxattr %s %d", short(p), size)
}

// Setxattr is described at Mkdir.
func (s *Script) Setxattr(p, name, value string, flags int) {
	e := s.target.Setxattr(s.at(p), name, []byte(value), flags)
	s.say(e, "", "setxattr %s %s %s %d", short(p), short(name), short(value), flags)
}

// Removexattr is described at Mkdir.
func (s *Script) Removexattr(p, name string) {
	s.say(s.target.Removexattr(s.at(p), name), "", "removexattr %s %s", short(p), short(name))
}

// Access is access(2) with effective ids; Kernel targets only.
func (s *Script) Access(p string, mode uint32) {
	e := unix.ENOSYS
	if k, ok := s.target.(Kernel); ok {
		e = k.Access(s.at(p), mode)
	}
	s.say(e, "", "access %s %o", short(p), mode)
}

// List writes the names of a directory, sorted, with their types.
func (s *Script) List(p string) {
	f, e := s.target.Open(s.at(p), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if e != 0 {
		s.say(e, "", "list %s", short(p))
		return
	}
	list, e := all(f, 0, 4096)
	f.Close()
	s.say(e, whole(strings.Join(listed(list), " ")), "list %s", short(p))
}

// listed is "name:type" for each entry, sorted.
func listed(list []Name) []string {
	var names []string
	for _, n := range list {
		names = append(names, fmt.Sprintf("%s:%d", n.Name, n.Type))
	}
	slices.Sort(names)
	return names
}

// all reads a directory from a cookie to its end.
func all(f File, cookie int64, size int) ([]Name, unix.Errno) {
	var list []Name
	for {
		some, e := f.Readdir(cookie, size)
		if e != 0 || len(some) == 0 {
			return list, e
		}
		list = append(list, some...)
		cookie = some[len(some)-1].Next
	}
}

// File creates a file with a content, in one line.
func (s *Script) File(p string, mode uint32, content string) {
	f, e := s.target.Open(s.at(p), unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, mode)
	if e == 0 {
		_, e = f.Pwrite([]byte(content), 0)
		e = max(e, f.Close())
	}
	s.say(e, "", "file %s %o %s", short(p), mode, short(content))
}

// Content writes what is in a file, up to a mebibyte.
func (s *Script) Content(p string) {
	var b []byte
	f, e := s.target.Open(s.at(p), unix.O_RDONLY, 0)
	if e == 0 {
		b, e = f.Pread(1<<20, 0)
		e = max(e, f.Close())
	}
	s.say(e, short(string(b)), "content %s", short(p))
}
