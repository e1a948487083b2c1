package fstest

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const keep = ^uint32(0) // as an id: leave it as it is

func at(sec, nsec int64) unix.Timespec { return unix.Timespec{Sec: sec, Nsec: nsec} }

// attrCases are about what stat(2) shows.
var attrCases = []Case{
	{Name: "chmod", Run: func(s *Script) {
		s.File("f", 0o644, "")
		s.Mkdir("d", 0o755)
		s.Symlink("f", "l")
		for _, mode := range []uint32{0, 0o777, 0o4711, 0o2711, 0o1777, 0o6444, 0o644} {
			s.Chmod("f", mode)
			s.Stat("f")
			s.Chmod("d", mode)
			s.Stat("d")
		}
		s.Chmod("l", 0o600)
		s.Stat("f")
		s.Lstat("l")
		s.Chmod("missing", 0o600)
		f := s.Open("f", rdonly, 0)
		f.Chmod(0)
		f.Stat()
		f.Pread(1, 0)
		s.Mknod("fifo", unix.S_IFIFO|0o600, 0, 0)
		s.Chmod("fifo", 0o640)
		s.Stat("fifo")
	}},
	{Name: "chown", Root: true, Run: func(s *Script) {
		s.File("f", 0o6755, "")
		s.Mkdir("d", 0o6755)
		s.Symlink("f", "l")
		s.Chown("f", 1000, keep)
		s.Stat("f")
		s.Chmod("f", 0o6755)
		s.Chown("f", keep, 1001)
		s.Stat("f")
		s.Chmod("f", 0o6745)
		s.Chown("f", 0, 0)
		s.Stat("f")
		s.Chown("f", keep, keep)
		s.Chown("d", 1000, 1000)
		s.Stat("d")
		s.Chown("l", 7, 8)
		s.Lstat("l")
		s.Stat("f")
		f := s.Open("f", rdonly, 0)
		f.Chown(65534, 4294967294)
		f.Stat()
		s.Mknod("fifo", unix.S_IFIFO|0o6600, 0, 0)
		s.Chown("fifo", 3, 4)
		s.Stat("fifo")
	}},
	{Name: "utimens", Run: func(s *Script) {
		s.File("f", 0o644, "")
		s.Mkdir("d", 0o755)
		s.Symlink("f", "l")
		for _, p := range []string{"f", "d", "l"} {
			s.Utimens(p, at(1, 2), at(3, 999999999))
			s.Times(p)
			s.Utimens(p, at(5, 5), at(0, unix.UTIME_OMIT))
			s.Times(p)
			s.Utimens(p, at(0, unix.UTIME_OMIT), at(7, 7))
			s.Times(p)
			s.Utimens(p, at(0, unix.UTIME_OMIT), at(0, unix.UTIME_OMIT))
			s.Times(p)
		}
		s.Utimens("f", at(0, 1e9), at(0, 0))
		s.Utimens("f", at(0, 0), at(0, -1))
		s.Utimens("missing", at(1, 1), at(1, 1))
		f := s.Open("f", rdonly, 0)
		f.Utimens(at(11, 0), at(12, 13))
		s.Times("f")
	}},
	{Name: "utimens-far", Run: func(s *Script) {
		s.File("f", 0o644, "")
		for _, sec := range []int64{
			-1, -86400, -1 << 31, -1<<31 - 1, -1 << 40, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 33, 0x37fffffff, 0x380000000, 1 << 40,
		} {
			s.Utimens("f", at(sec, 1), at(sec, 999999999))
			s.Times("f")
		}
	}},
	{Name: "btime", Run: func(s *Script) {
		s.File("f", 0o644, "")
		s.Mkdir("d", 0o755)
		for _, p := range []string{"f", "d"} {
			b, e := s.target.Btime(s.at(p))
			st, _ := s.target.Stat(s.at(p), false)
			order := "not after ctime"
			if b.Nano() > st.Ctime.Nano() {
				order = "after ctime"
			}
			s.tick()
			s.Chmod(p, 0o700)
			s.Utimens(p, at(1, 1), at(1, 1))
			c, _ := s.target.Btime(s.at(p))
			s.say(e, fmt.Sprintf("%s, stays %t", order, b == c), "btime %s", p)
		}
	}},
	{Name: "statfs", Run: func(s *Script) {
		s.File("f", 0o644, "")
		for _, p := range []string{".", "f"} {
			v, e := s.target.Statfs(s.at(p))
			s.say(e, fmt.Sprintf("blocks of %d, fragments of %d, names of %d, %d blocks, %d files",
				v.BlockSize, v.FragmentSize, v.NameLength, v.Blocks, v.Files), "statfs %s", p)
		}
	}},
	{Name: "flags", Root: true, Run: func(s *Script) {
		const nodump, noatime, mask = 0x40, 0x80, 0x40 | 0x80 | 0x20 | 0x10 // FS_*_FL; the last two: append, immutable
		s.File("f", 0o644, "contents")
		s.Mkdir("d", 0o755)
		for _, p := range []string{"f", "d"} {
			f := s.Open(p, rdonly, 0)
			f.Flags(mask)
			f.SetFlags(mask, nodump)
			f.Flags(mask)
			f.SetFlags(mask, nodump|noatime)
			f.Flags(mask)
			f.SetFlags(mask, 0)
			f.Flags(mask)
		}
	}},
}

// watched is one operation of which the times are watched.
type watched struct {
	name  string
	do    func(s *Script)
	paths string
}

// timeCases are about which times an operation changes: each in its own
// directory, with a file "f", directories "d" and "e", and "d/f".
var timeCases = []Case{
	{Name: "times", Root: true, Run: func(s *Script) {
		for _, w := range watches {
			sub := *s
			sub.dir = s.at(w.name)
			s.Mkdir(w.name, 0o755)
			quiet := sub
			quiet.trace = new(Trace)
			quiet.File("f", 0o644, "contents")
			quiet.Mkdir("d", 0o755)
			quiet.Mkdir("e", 0o755)
			quiet.File("d/f", 0o644, "contents")
			sub.Watch(w.name, func() { w.do(&sub) }, strings.Fields(w.paths)...)
		}
	}},
}

var watches = []watched{
	{"nothing", func(*Script) {}, "f d"},
	{"create", func(s *Script) { s.File("d/new", 0o600, "") }, "d e"},
	{"mkdir", func(s *Script) { s.Mkdir("d/new", 0o755) }, "d"},
	{"mknod", func(s *Script) { s.Mknod("d/new", unix.S_IFIFO|0o600, 0, 0) }, "d"},
	{"symlink", func(s *Script) { s.Symlink("x", "d/new") }, "d"},
	{"link", func(s *Script) { s.Link("f", "d/new") }, "f d"},
	{"unlink", func(s *Script) { s.Link("d/f", "g"); s.tick(); s.Unlink("d/f") }, "d d/f>g"},
	{"rmdir", func(s *Script) { s.Mkdir("d/x", 0o755); s.tick(); s.Rmdir("d/x") }, "d"},
	{"rename", func(s *Script) { s.Rename("d/f", "e/f", 0) }, "d e d/f>e/f"},
	{"rename-over", func(s *Script) { s.Rename("f", "d/f", 0) }, "d f>d/f"},
	{"rename-dir", func(s *Script) { s.Rename("d", "e/d", 0) }, "e d>e/d"},
	{"rename-exchange", func(s *Script) { s.Rename("d/f", "e", exchange) }, "d/f>e e>d/f d>d"},
	{"open", func(s *Script) { s.Open("f", rdwr, 0).Close() }, "f"},
	{"open-trunc", func(s *Script) { s.Open("f", rdwr|trunc, 0).Close() }, "f"},
	{"read", func(s *Script) { s.Content("f") }, "f"},
	{"write", func(s *Script) { s.Open("f", rdwr, 0).Pwrite("x", 0) }, "f"},
	{"write-nothing", func(s *Script) { s.Open("f", rdwr, 0).Pwrite("", 0) }, "f"},
	{"append", func(s *Script) { s.Open("f", rdwr|app, 0).Pwrite("x", 0) }, "f"},
	{"truncate", func(s *Script) { s.Truncate("f", 3) }, "f"},
	{"truncate-grow", func(s *Script) { s.Truncate("f", 3000) }, "f"},
	{"truncate-same", func(s *Script) { s.Truncate("f", 8) }, "f"},
	{"ftruncate-same", func(s *Script) { s.Open("f", rdwr, 0).Truncate(8) }, "f"},
	{"fallocate", func(s *Script) { s.Open("f", rdwr, 0).Fallocate(0, 0, 10000) }, "f"},
	{"punch", func(s *Script) {
		s.Open("f", rdwr, 0).Fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4)
	}, "f"},
	{"copy-range", func(s *Script) { s.Open("d/f", rdonly, 0).CopyTo(s.Open("f", rdwr, 0), 0, 0, 4) }, "f d/f"},
	{"chmod", func(s *Script) { s.Chmod("f", 0o600) }, "f d"},
	{"chmod-same", func(s *Script) { s.Chmod("f", 0o644) }, "f"},
	{"chmod-dir", func(s *Script) { s.Chmod("d", 0o700) }, "d ."},
	{"chown", func(s *Script) { s.Chown("f", 5, 5) }, "f"},
	{"chown-nothing", func(s *Script) { s.Chown("f", keep, keep) }, "f"},
	{"utimens-omit", func(s *Script) { s.Utimens("f", at(0, unix.UTIME_OMIT), at(0, unix.UTIME_OMIT)) }, "f"},
	{"utimens-atime", func(s *Script) { s.Utimens("f", at(5, 5), at(0, unix.UTIME_OMIT)) }, "f"},
	{"utimens-mtime", func(s *Script) { s.Utimens("f", at(0, unix.UTIME_OMIT), at(5, 5)) }, "f"},
	{"utimens-now", func(s *Script) { s.Utimens("f", at(0, unix.UTIME_NOW), at(0, unix.UTIME_NOW)) }, "f"},
	{"setxattr", func(s *Script) { s.Setxattr("f", "user.x", "y", 0) }, "f"},
	{"removexattr", func(s *Script) { s.Setxattr("f", "user.x", "y", 0); s.tick(); s.Removexattr("f", "user.x") }, "f"},
	{"getxattr", func(s *Script) { s.Getxattr("f", "user.x", 10) }, "f"},
	{"readdir", func(s *Script) { s.List("d") }, "d"},
	{"failed", func(s *Script) { s.Mkdir("d/f", 0o755); s.Unlink("d/x"); s.Rename("d/f", "e", 0) }, "d e d/f"},
}
