package fstest

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// dirCases are about reading directories. The order of entries is the file
// system's own: what is in a trace is sorted or a relation.
var dirCases = []Case{
	{Name: "readdir", Run: func(s *Script) {
		s.List(".")
		s.File("file", 0o644, "")
		s.Mkdir("dir", 0o755)
		s.Symlink("nowhere", "link")
		s.Mknod("fifo", unix.S_IFIFO|0o600, 0, 0)
		s.Mknod("socket", unix.S_IFSOCK|0o600, 0, 0)
		s.List(".")
		s.Unlink("file")
		s.Rename("dir", "dir2", 0)
		s.List(".")
		s.List("dir2")
		s.List("missing")
	}},
	{Name: "readdir-seek", Run: func(s *Script) {
		fill(s, "f", 60)
		d := s.Open(".", rdonly|unix.O_DIRECTORY, 0)
		d.do(func() (string, unix.Errno) { return seekBack(d.f) }, "go back to each cookie")
	}},
	{Name: "readdir-sizes", Run: func(s *Script) {
		fill(s, strings.Repeat("n", 100), 30)
		d := s.Open(".", rdonly|unix.O_DIRECTORY, 0)
		for _, size := range []int{300, 512, 1024, 4096, 65536} {
			d.do(func() (string, unix.Errno) {
				list, e := all(d.f, 0, size)
				return fmt.Sprintf("%d, %d different", len(list), different(list)), e
			}, "readdir in pieces of %d", size)
		}
	}},
	{Name: "readdir-delete", Run: func(s *Script) {
		fill(s, "f", s.knobs.Entries/4)
		d := s.Open(".", rdonly|unix.O_DIRECTORY, 0)
		d.do(func() (string, unix.Errno) { return drain(s, d.f) }, "readdir and unlink what comes")
		s.List(".")
	}},
	{Name: "readdir-create", Run: func(s *Script) {
		fill(s, "f", 30)
		d := s.Open(".", rdonly|unix.O_DIRECTORY, 0)
		d.do(func() (string, unix.Errno) {
			first, e := d.f.Readdir(0, 512)
			if e != 0 || len(first) == 0 {
				return "", e
			}
			for i := range 30 {
				s.target.Mkdir(s.at(fmt.Sprintf("late%d", i)), 0o755)
			}
			rest, e := all(d.f, first[len(first)-1].Next, 4096)
			old := slices.DeleteFunc(append(first, rest...), func(n Name) bool { return strings.HasPrefix(n.Name, "late") })
			return fmt.Sprintf("%d old entries, %d different", len(old), different(old)), e
		}, "create while reading")
		s.say(0, fmt.Sprint(entries(s, ".")), "entries")
	}},
	{Name: "readdir-many", Run: func(s *Script) {
		s.Mkdir("d", 0o755)
		sub := *s
		sub.dir = s.at("d")
		fill(&sub, "entry-with-a-longer-name-", s.knobs.Entries)
		s.say(0, fmt.Sprint(entries(s, "d")), "entries")
		s.Stat("d")
		d := s.Open("d", rdonly|unix.O_DIRECTORY, 0)
		d.do(func() (string, unix.Errno) {
			list, e := all(d.f, 0, 32<<10)
			return fmt.Sprintf("%d, %d different", len(list), different(list)), e
		}, "readdir")
		s.Rmdir("d")
	}},
	{Name: "readdir-rewind", Run: func(s *Script) {
		fill(s, "f", 10)
		d := s.Open(".", rdonly|unix.O_DIRECTORY, 0)
		for _, change := range []func(){
			func() {},
			func() { s.Unlink("f3") },
			func() { s.File("new", 0o644, "") },
			func() { s.Rename("f4", "moved", 0) },
		} {
			change()
			d.do(func() (string, unix.Errno) {
				list, e := all(d.f, 0, 4096)
				return strings.Join(listed(list), " "), e
			}, "readdir again")
		}
	}},
	{Name: "readdir-file", Run: func(s *Script) {
		s.File("f", 0o644, "")
		f := s.Open("f", rdonly, 0)
		f.do(func() (string, unix.Errno) { _, e := f.f.Readdir(0, 4096); return "", e }, "readdir")
	}},
}

// fill makes n files without a line for each.
func fill(s *Script, prefix string, n int) {
	var first unix.Errno
	for i := range n {
		f, e := s.target.Open(s.at(fmt.Sprintf("%s%d", prefix, i)), wronly|creat, 0o644)
		if e == 0 {
			e = f.Close()
		}
		if first == 0 {
			first = e
		}
	}
	s.say(first, "", "make %d files %s", n, short(prefix))
}

func different(list []Name) int {
	names := map[string]bool{}
	for _, n := range list {
		names[n.Name] = true
	}
	return len(names)
}

// entries counts what a directory lists, "." and ".." included.
func entries(s *Script, p string) int {
	f, e := s.target.Open(s.at(p), rdonly|unix.O_DIRECTORY, 0)
	if e != 0 {
		return -1
	}
	list, _ := all(f, 0, 16<<10)
	f.Close()
	return len(list)
}

// seekBack reads a directory, and again from some of its cookies on: what
// follows must be what followed.
func seekBack(f File) (string, unix.Errno) {
	list, e := all(f, 0, 1024)
	if e != 0 {
		return "", e
	}
	same := 0
	const every = 7
	for i := 0; i < len(list); i += every {
		again, e := all(f, list[i].Next, 1024)
		if e != 0 {
			return "", e
		}
		if slices.Equal(names(again), names(list[i+1:])) {
			same++
		}
	}
	return fmt.Sprintf("%d entries, the same from %d of %d", len(list), same, (len(list)+every-1)/every), 0
}

func names(list []Name) []string {
	out := []string{}
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out
}

// drain unlinks entries as it reads them, as rm -r does.
func drain(s *Script, f File) (string, unix.Errno) {
	removed, cookie := 0, int64(0)
	for {
		some, e := f.Readdir(cookie, 1024)
		if e != 0 || len(some) == 0 {
			return fmt.Sprintf("%d removed", removed), e
		}
		for _, n := range some {
			if n.Name == "." || n.Name == ".." {
				continue
			}
			if e := s.target.Unlink(s.at(n.Name)); e != 0 {
				return n.Name, e
			}
			removed++
		}
		cookie = some[len(some)-1].Next
	}
}

// xattrCases are about extended attributes.
var xattrCases = []Case{
	{Name: "xattr", Run: func(s *Script) {
		s.File("f", 0o644, "")
		s.Mkdir("d", 0o755)
		for _, p := range []string{"f", "d"} {
			s.Getxattr(p, "user.a", 100)
			s.Getxattr(p, "user.a", 0)
			s.Removexattr(p, "user.a")
			s.Setxattr(p, "user.a", "value", 0)
			s.Getxattr(p, "user.a", 0)
			s.Getxattr(p, "user.a", 4)
			s.Getxattr(p, "user.a", 5)
			s.Getxattr(p, "user.a", 100)
			s.Setxattr(p, "user.a", "again", unix.XATTR_CREATE)
			s.Setxattr(p, "user.b", "new", unix.XATTR_REPLACE)
			s.Setxattr(p, "user.a", "", unix.XATTR_REPLACE)
			s.Getxattr(p, "user.a", 0)
			s.Getxattr(p, "user.a", 10)
			s.Setxattr(p, "user.b", "new", unix.XATTR_CREATE)
			s.Setxattr(p, "user.b", "new", 4)
			s.Listxattr(p, 1000)
			s.Removexattr(p, "user.a")
			s.Removexattr(p, "user.a")
			s.Listxattr(p, 1000)
		}
		s.Setxattr("missing", "user.a", "x", 0)
		s.Listxattr("missing", 100)
	}},
	{Name: "xattr-sizes", Run: func(s *Script) {
		s.File("f", 0o644, "")
		for _, n := range []int{1, 1000, 3000} {
			s.Setxattr("f", "user.a", string(Repeat(n)), 0)
			s.Getxattr("f", "user.a", 0)
			s.Getxattr("f", "user.a", n-1)
			s.Getxattr("f", "user.a", n)
			s.Getxattr("f", "user.a", 65536)
		}
		s.Setxattr("f", "user.a", string(Repeat(65537)), 0)
		s.Getxattr("f", "user.a", 65536)
	}},
	{Name: "xattr-list", Run: func(s *Script) {
		s.File("f", 0o644, "")
		for i := range 20 {
			s.Setxattr("f", fmt.Sprintf("user.name%02d", i), strings.Repeat("v", i), 0)
		}
		s.Listxattr("f", 1000)
		s.Listxattr("f", 10)
		s.Removexattr("f", "user.name03")
		s.Listxattr("f", 65536)
		s.Rename("f", "g", 0)
		s.Getxattr("g", "user.name07", 100)
	}},
	{Name: "xattr-names", Run: func(s *Script) {
		s.File("f", 0o644, "")
		for _, name := range []string{
			"user.", "user", "", "nonsense.x", "user." + strings.Repeat("n", 250), "user." + strings.Repeat("n", 251), "user.odd \xff\n",
		} {
			s.Setxattr("f", name, "v", 0)
			s.Getxattr("f", name, 10)
			s.Removexattr("f", name)
		}
	}},
	{Name: "xattr-special", Run: func(s *Script) {
		s.Symlink("f", "l")
		s.Mknod("fifo", unix.S_IFIFO|0o600, 0, 0)
		for _, p := range []string{"l", "fifo"} {
			s.Setxattr(p, "user.a", "v", 0)
			s.Getxattr(p, "user.a", 10)
			s.Listxattr(p, 100)
		}
	}},
	{Name: "xattr-trusted", Root: true, Run: func(s *Script) {
		s.File("f", 0o644, "")
		s.Symlink("f", "l")
		for _, p := range []string{"f", "l"} {
			s.Setxattr(p, "trusted.overlay.x", "y", 0)
			s.Getxattr(p, "trusted.overlay.x", 10)
			s.Listxattr(p, 1000)
			s.Removexattr(p, "trusted.overlay.x")
		}
	}},
	{Name: "xattr-capability", Root: true, Run: func(s *Script) {
		// VFS_CAP_REVISION_2 with CAP_NET_RAW: a write takes it away.
		caps := string(U32(0x02000001, 1<<13, 0, 0, 0))
		s.File("f", 0o755, "program")
		s.Setxattr("f", "security.capability", caps, 0)
		s.Getxattr("f", "security.capability", 0)
		f := s.Open("f", rdwr, 0)
		f.Pwrite("P", 0)
		s.Getxattr("f", "security.capability", 0)
		s.Setxattr("f", "security.capability", caps, 0)
		s.Truncate("f", 3)
		s.Getxattr("f", "security.capability", 0)
		s.Setxattr("f", "security.capability", caps, 0)
		s.Chown("f", 5, 5)
		s.Getxattr("f", "security.capability", 0)
	}},
}
