package fstest

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// nameCases are about directories' entries.
var nameCases = []Case{
	{Name: "mkdir", Run: func(s *Script) {
		s.Mkdir("d", 0o755)
		s.Mkdir("d", 0o755)
		s.Mkdir("d/e", 0o700)
		s.Mkdir("missing/e", 0o700)
		s.File("f", 0o644, "")
		s.Mkdir("f", 0o755)
		s.Mkdir("f/e", 0o755)
		s.Mkdir("sticky", 0o1777)
		s.Stat("d")
		s.Stat("d/e")
		s.Stat("sticky")
	}},
	{Name: "rmdir", Run: func(s *Script) {
		s.Mkdir("d", 0o755)
		s.Mkdir("d/e", 0o755)
		s.Rmdir("d")
		s.Unlink("d/e")
		s.Rmdir("d/e")
		s.Rmdir("d")
		s.Rmdir("d")
		s.File("f", 0o644, "")
		s.Rmdir("f")
		s.Rmdir("f/x")
		s.Symlink("d", "l")
		s.Rmdir("l")
		s.List(".")
	}},
	{Name: "mknod", Run: func(s *Script) {
		s.Mknod("file", unix.S_IFREG|0o640, 0, 0)
		s.Mknod("untyped", 0o600, 0, 0)
		s.Mknod("fifo", unix.S_IFIFO|0o622, 0, 0)
		s.Mknod("socket", unix.S_IFSOCK|0o755, 0, 0)
		s.Mknod("fifo", unix.S_IFIFO|0o622, 0, 0)
		s.Mknod("odd", unix.S_IFLNK|0o644, 0, 0)
		for _, p := range []string{"file", "untyped", "fifo", "socket", "odd"} {
			s.Stat(p)
		}
		s.Unlink("fifo")
		s.Unlink("socket")
		s.List(".")
	}},
	{Name: "whiteout", Root: true, Run: func(s *Script) {
		s.Mknod("w", unix.S_IFCHR, 0, 0)
		s.Stat("w")
	}},
	{Name: "devices", Root: true, Run: func(s *Script) {
		s.Mknod("null", unix.S_IFCHR|0o666, 1, 3)
		s.Mknod("disk", unix.S_IFBLK|0o660, 259, 300)
		s.Stat("null")
		s.Stat("disk")
	}},
	{Name: "unlink", Run: func(s *Script) {
		s.File("f", 0o644, "x")
		s.Mkdir("d", 0o755)
		s.Symlink("f", "l")
		s.Unlink("d")
		s.Unlink("l")
		s.Stat("f")
		s.Unlink("f")
		s.Unlink("f")
		s.Unlink("missing/f")
		s.List(".")
	}},
	{Name: "link", Run: func(s *Script) {
		s.File("f", 0o644, "contents")
		s.Mkdir("d", 0o755)
		s.Link("f", "d/g")
		s.Same("f", "d/g")
		s.Stat("f")
		s.Link("f", "d/g")
		s.Link("f", "missing/g")
		s.Link("missing", "g")
		s.Link("d", "e")
		s.File("d/g", 0o644, "other")
		s.Content("f")
		s.Unlink("f")
		s.Stat("d/g")
		s.Symlink("nowhere", "l")
		s.Link("l", "m")
		s.Same("l", "m")
		s.Lstat("m")
		s.Mknod("fifo", unix.S_IFIFO|0o600, 0, 0)
		s.Link("fifo", "fifo2")
		s.Stat("fifo2")
	}},
	{Name: "link-many", Run: func(s *Script) {
		s.File("f", 0o600, "one inode")
		for i := range 9 {
			s.Link("f", fmt.Sprintf("f%d", i))
		}
		s.Stat("f4")
		for i := range 8 {
			s.Unlink(fmt.Sprintf("f%d", i))
		}
		s.Unlink("f")
		s.Stat("f8")
		s.Content("f8")
	}},
	{Name: "symlink", Run: func(s *Script) {
		s.Symlink("target", "l")
		s.Readlink("l")
		s.Lstat("l")
		s.Stat("l")
		s.Symlink("other", "l")
		s.Symlink("", "empty")
		s.Symlink("../symlink/target", "up")
		s.File("target", 0o644, "through")
		s.Content("l")
		s.Content("up")
		s.Stat("l")
		s.Readlink("target")
		s.Readlink("missing")
		long := strings.Repeat("t/", 2000)
		s.Symlink(long, "long")
		s.Readlink("long")
		s.Symlink(strings.Repeat("t", 4096), "toolong")
		s.Symlink("odd \xff\n\x01 target", "odd")
		s.Readlink("odd")
	}},
	{Name: "loop", Run: func(s *Script) {
		s.Symlink("b", "a")
		s.Symlink("a", "b")
		s.Stat("a")
		s.Stat("a/x")
		s.Open("b", unix.O_RDONLY, 0)
		s.Lstat("a")
		s.Symlink("self", "self")
		s.Chmod("self", 0o600)
	}},
	{Name: "symlink-dir", Run: func(s *Script) {
		s.Mkdir("d", 0o755)
		s.Mkdir("d/e", 0o755)
		s.Symlink("d/e", "l")
		s.File("l/f", 0o644, "below")
		s.Content("d/e/f")
		s.Content("l/../../l/f")
		s.Stat("l/..")
		s.Lstat("l")
		s.Unlink("l")
		s.Content("d/e/f")
	}},
	{Name: "names-odd", Run: func(s *Script) {
		for _, name := range []string{
			" ", "-", "...", ". ", ".. ", "\n", "\x01\x02\x7f", "\xff\xfe", "a\\b", "*?[", "ümlaut", "u\u0308mlaut", "CASE", "case",
		} {
			s.File(name, 0o644, name)
			s.Content(name)
			s.Stat(name)
		}
		s.List(".")
	}},
	{Name: "names-long", Run: func(s *Script) {
		longest, more := strings.Repeat("n", 255), strings.Repeat("m", 256)
		s.File(longest, 0o644, "x")
		s.Content(longest)
		s.Stat(more)
		s.File(more, 0o644, "x")
		s.Mkdir(more, 0o755)
		s.Mknod(more, unix.S_IFIFO|0o600, 0, 0)
		s.Symlink("t", more)
		s.Link(longest, more)
		s.Rename(longest, more, 0)
		s.Unlink(more)
		s.Rmdir(more)
		s.Rename(longest, strings.Repeat("r", 255), 0)
		s.Mkdir(strings.Repeat("é", 127), 0o755)
		s.List(".")
	}},
	{Name: "deep", Run: func(s *Script) {
		path := "d"
		for range 16 {
			s.Mkdir(path, 0o755)
			path += "/" + strings.Repeat("d", 20)
		}
		s.File(path, 0o644, "at the bottom")
		s.Content(path)
		s.Stat(path[:strings.LastIndexByte(path, '/')] + "/../../..")
		s.Rename(path, "top", 0)
		s.Content("top")
	}},
	{Name: "notdir", Run: func(s *Script) {
		s.File("f", 0o644, "")
		s.Stat("f/x")
		s.Stat("f/x/y")
		s.Open("f/x", unix.O_RDWR|unix.O_CREAT, 0o600)
		s.Unlink("f/x")
		s.Symlink("t", "f/x")
		s.Rename("f/x", "g", 0)
		s.Rename("f", "f/x", 0)
		s.Link("f", "f/x")
		s.Readlink("f/x")
	}},
}

const (
	noReplace = unix.RENAME_NOREPLACE
	exchange  = unix.RENAME_EXCHANGE
	whiteout  = unix.RENAME_WHITEOUT
)

// renameCases are about renameat2(2).
var renameCases = []Case{
	{Name: "rename", Run: func(s *Script) {
		s.File("a", 0o644, "a")
		s.File("b", 0o600, "b")
		s.Mkdir("d", 0o755)
		s.Rename("a", "d/a", 0)
		s.Content("d/a")
		s.Stat("a")
		s.Rename("d/a", "b", 0)
		s.Content("b")
		s.Stat("b")
		s.Rename("b", "b", 0)
		s.Rename("missing", "x", 0)
		s.Rename("b", "missing/x", 0)
		s.Link("b", "c")
		s.Rename("b", "c", 0) // the same inode: nothing happens
		s.List(".")
		s.Stat("b")
	}},
	{Name: "rename-dir", Run: func(s *Script) {
		s.Mkdir("d", 0o755)
		s.File("d/f", 0o644, "moves along")
		s.Mkdir("empty", 0o700)
		s.Mkdir("full", 0o755)
		s.File("full/x", 0o644, "")
		s.File("file", 0o644, "")
		s.Rename("d", "full", 0)
		s.Rename("d", "file", 0)
		s.Rename("file", "empty", 0)
		s.Rename("d", "d/e", 0)
		s.Rename("d", "empty", 0)
		s.Content("empty/f")
		s.Stat("empty")
		s.Stat("d")
		s.Mkdir("a", 0o755)
		s.Mkdir("a/b", 0o755)
		s.Mkdir("z", 0o755)
		s.Rename("a/b", "z/b", 0)
		s.Stat("a")
		s.Stat("z")
		s.Stat("z/b/..")
		s.Same("z", "z/b/..")
		s.Rename("z", "z/b/c", 0)
		s.Rename("z/b", "z", 0)
		s.List(".")
	}},
	{Name: "rename-noreplace", Run: func(s *Script) {
		s.File("a", 0o644, "a")
		s.File("b", 0o644, "b")
		s.Rename("a", "b", noReplace)
		s.Content("b")
		s.Rename("a", "c", noReplace)
		s.Content("c")
		s.Rename("c", "c", noReplace)
		s.Mkdir("d", 0o755)
		s.Rename("d", "b", noReplace)
		s.List(".")
	}},
	{Name: "rename-exchange", Run: func(s *Script) {
		s.File("a", 0o644, "a")
		s.File("b", 0o600, "b")
		s.Rename("a", "b", exchange)
		s.Content("a")
		s.Stat("b")
		s.Mkdir("d", 0o755)
		s.File("d/x", 0o644, "x")
		s.Rename("a", "d", exchange)
		s.Content("a/x")
		s.Content("d")
		s.Rename("a", "missing", exchange)
		s.Rename("a", "a/x", exchange)
		s.Stat(".")
	}},
	{Name: "rename-flags", Run: func(s *Script) {
		s.File("a", 0o644, "a")
		s.File("b", 0o644, "b")
		s.Rename("a", "b", noReplace|exchange)
		s.Rename("a", "b", whiteout|exchange)
		s.Rename("a", "b", 8)
		s.Rename("a", "b", 1<<31)
		s.List(".")
	}},
	{Name: "rename-whiteout", Root: true, Run: func(s *Script) {
		s.File("a", 0o644, "a")
		s.Rename("a", "b", whiteout)
		s.Content("b")
		s.Stat("a")
		s.File("c", 0o644, "c")
		s.Rename("c", "b", whiteout|noReplace)
		s.Rename("c", "e", whiteout|noReplace)
		s.Stat("c")
		s.List(".")
	}},
	{Name: "rename-open", Run: func(s *Script) {
		s.File("old", 0o644, "old contents")
		s.File("new", 0o600, "new")
		o := s.Open("old", unix.O_RDWR, 0)
		n := s.Open("new", unix.O_RDWR, 0)
		s.Rename("new", "old", 0)
		o.Pread(100, 0)
		o.Stat()
		o.Pwrite("OLD", 0)
		o.Pread(100, 0)
		n.Pwrite("NEW", 0)
		n.Stat()
		s.Content("old")
		o.Close()
		s.Rename("old", "again", 0)
		n.Pwrite("er", 3)
		s.Content("again")
	}},
	{Name: "rename-dir-open", Run: func(s *Script) {
		s.Mkdir("d", 0o755)
		s.File("d/f", 0o644, "f")
		f := s.Open("d/f", unix.O_RDWR, 0)
		s.Rename("d", "e", 0)
		f.Pwrite("written", 0)
		s.Content("e/f")
		s.Mkdir("d", 0o755)
		s.File("d/f", 0o644, "another")
		s.Content("d/f")
		s.Content("e/f")
		f.Pread(10, 0)
	}},
}
