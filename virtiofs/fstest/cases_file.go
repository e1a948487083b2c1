package fstest

import (
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	rdonly = unix.O_RDONLY
	wronly = unix.O_WRONLY
	rdwr   = unix.O_RDWR
	creat  = unix.O_CREAT
	excl   = unix.O_EXCL
	trunc  = unix.O_TRUNC
	app    = unix.O_APPEND
)

// openCases are about open(2).
var openCases = []Case{
	{Name: "create", Run: func(s *Script) {
		s.Open("f", rdwr|creat, 0o640).Pwrite("first", 0)
		s.Open("f", rdwr|creat, 0o777).Pread(10, 0)
		s.Stat("f")
		s.Open("f", rdwr|creat|excl, 0o600)
		s.Open("g", rdwr|creat|excl, 0o4755)
		s.Stat("g")
		s.Open("missing", rdwr, 0)
		s.Open("missing/g", rdwr|creat, 0o600)
		r := s.Open("r", rdonly|creat, 0o200)
		r.Pread(1, 0)
		r.Pwrite("x", 0)
		w := s.Open("w", wronly|creat, 0o444)
		w.Pwrite("into a read-only file", 0)
		w.Pread(1, 0)
		s.Content("w")
	}},
	{Name: "create-dir", Run: func(s *Script) {
		s.Mkdir("d", 0o755)
		s.Open("d", rdwr, 0)
		s.Open("d", wronly, 0)
		s.Open("d", rdonly|creat, 0o600)
		s.Open("d", rdwr|creat|excl, 0o600)
		d := s.Open("d", rdonly, 0)
		d.Pread(10, 0)
		d.Stat()
		s.File("f", 0o644, "")
		s.Open("f", rdonly|unix.O_DIRECTORY, 0)
		s.Open("d", rdonly|unix.O_DIRECTORY, 0)
	}},
	{Name: "open-link", Run: func(s *Script) {
		s.Symlink("f", "l")
		s.Open("l", rdonly, 0)
		s.Open("l", rdwr|creat|excl, 0o600)
		s.Open("l", rdwr|creat|unix.O_NOFOLLOW, 0o600)
		s.Open("l", rdwr|creat, 0o600).Pwrite("made through a link", 0)
		s.Content("f")
		s.Open("l", rdonly|unix.O_NOFOLLOW, 0)
		s.Open("f", rdonly|unix.O_NOFOLLOW, 0).Pread(4, 0)
		s.Mkdir("d", 0o755)
		s.Symlink("d", "ld")
		s.Open("ld", rdonly|unix.O_DIRECTORY, 0)
		s.Open("ld", rdonly|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	}},
	{Name: "trunc", Run: func(s *Script) {
		s.File("f", 0o644, "contents")
		a := s.Open("f", rdonly, 0)
		a.Pread(20, 0)
		s.Open("f", wronly|trunc, 0).Close()
		a.Pread(20, 0)
		a.Stat()
		s.File("f", 0o644, "more")
		a.Pread(20, 0)
		s.Open("f", rdwr|creat|trunc, 0o600).Pwrite("x", 3)
		a.Pread(20, 0)
		s.Stat("f")
	}},
	{Name: "tmpfile", Run: func(s *Script) {
		s.Mkdir("d", 0o755)
		f := s.Open("d", rdwr|unix.O_TMPFILE, 0o640)
		f.Pwrite("nameless", 0)
		f.Stat()
		f.Pread(20, 0)
		s.List("d")
		f.Link("d/name")
		f.Stat()
		s.Content("d/name")
		f.Close()
		s.Stat("d/name")
		g := s.Open("d", rdwr|unix.O_TMPFILE|excl, 0o600)
		g.Pwrite("x", 0)
		g.Link("d/never")
		g.Close()
		s.Open("d/name", rdwr|unix.O_TMPFILE, 0o600)
		s.Open("missing", rdwr|unix.O_TMPFILE, 0o600)
		s.List("d")
	}},
	{Name: "unlinked", Run: func(s *Script) {
		s.File("f", 0o644, "still here")
		f := s.Open("f", rdwr, 0)
		s.Unlink("f")
		f.Stat()
		f.Pread(20, 0)
		f.Pwrite("THERE", 6)
		f.Pread(20, 0)
		f.Truncate(3)
		f.Stat()
		f.Chmod(0o600)
		f.Stat()
		f.Utimens(unix.Timespec{Sec: 5}, unix.Timespec{Sec: 6})
		f.Fallocate(0, 0, 8192)
		f.Stat()
		f.Sync(false)
		f.Link("back")
		s.File("f", 0o600, "another")
		f.Pread(3, 0)
		s.Content("f")
		f.Close()
		s.List(".")
	}},
	{Name: "unlinked-dir", Run: func(s *Script) {
		s.Mkdir("d", 0o755)
		d := s.Open("d", rdonly|unix.O_DIRECTORY, 0)
		s.Rmdir("d")
		d.Stat()
		s.Mkdir("d", 0o700)
		s.Stat("d")
		d.Close()
	}},
	{Name: "two-links-one-unlinked", Run: func(s *Script) {
		s.File("a", 0o644, "data")
		s.Link("a", "b")
		f := s.Open("a", rdwr, 0)
		s.Unlink("a")
		f.Stat()
		f.Pwrite("DATA", 0)
		s.Content("b")
		s.Unlink("b")
		f.Stat()
		f.Pread(10, 0)
	}},
}

// dataCases are about reading and writing.
var dataCases = []Case{
	{Name: "read-write", Run: func(s *Script) {
		f := s.Open("f", rdwr|creat, 0o644)
		f.Pread(10, 0)
		f.Pwrite("hello", 0)
		f.Pread(10, 0)
		f.Pread(2, 3)
		f.Pread(10, 5)
		f.Pread(10, 1000)
		f.Pread(0, 0)
		f.Pwrite("", 0)
		f.Pwrite("tail", 100)
		f.Pread(10, 95)
		f.Stat()
		f.Pwrite("HE", 0)
		f.Pread(6, 0)
		f.Pread(1, -1)
		f.Pwrite("x", -1)
		s.Content("f")
	}},
	{Name: "read-write-large", Run: func(s *Script) {
		data := string(Repeat(s.knobs.Data))
		f := s.Open("f", rdwr|creat, 0o644)
		f.Pwrite(data, 0)
		f.Pread(len(data), 0)
		f.Pwrite(data[:len(data)/2], 4097)
		f.Pread(len(data), 1)
		for _, n := range []int{1, 4095, 4096, 4097, 65536, 131073} {
			f.Pread(n, int64(n/2))
		}
		f.Stat()
		f.Close()
		s.Open("f", rdonly, 0).Pread(len(data)+1, 0)
	}},
	{Name: "modes", Run: func(s *Script) {
		s.File("f", 0o644, "contents")
		r, w := s.Open("f", rdonly, 0), s.Open("f", wronly, 0)
		r.Pwrite("x", 0)
		r.Truncate(0)
		r.Fallocate(0, 0, 100)
		w.Pread(1, 0)
		w.Pwrite("C", 0)
		w.Truncate(4)
		r.Pread(10, 0)
		r.CopyTo(r, 0, 10, 2)
		w.CopyTo(w, 0, 10, 2)
		r.CopyTo(w, 0, 10, 2)
		s.Content("f")
	}},
	{Name: "append", Run: func(s *Script) {
		f := s.Open("f", rdwr|creat|app, 0o644)
		f.Pwrite("one ", 0)
		f.Pwrite("two ", 0)
		f.Pwrite("three ", 1000)
		f.Pread(100, 0)
		f.Truncate(4)
		f.Pwrite("four", 0)
		s.Content("f")
	}},
	{Name: "append-interleaved", Run: func(s *Script) {
		a := s.Open("f", wronly|creat|app, 0o644)
		b := s.Open("f", wronly|app, 0)
		c := s.Open("f", wronly, 0)
		for range 5 {
			a.Pwrite("a", 0)
			b.Pwrite("bb", 0)
		}
		c.Pwrite("CCC", 0)
		a.Pwrite("end", 0)
		s.Content("f")
		s.Stat("f")
	}},
	{Name: "truncate", Run: func(s *Script) {
		s.File("f", 0o644, "0123456789")
		s.Truncate("f", 5)
		s.Content("f")
		s.Truncate("f", 8)
		s.Content("f")
		s.Truncate("f", 0)
		s.Stat("f")
		s.Truncate("f", -1)
		s.Truncate("missing", 0)
		s.Mkdir("d", 0o755)
		s.Truncate("d", 0)
		s.Symlink("f", "l")
		s.Truncate("l", 3)
		s.Stat("f")
		f := s.Open("f", rdwr, 0)
		f.Pwrite("abcdef", 0)
		f.Truncate(2)
		f.Truncate(4)
		f.Pread(10, 0)
		f.Truncate(-5)
		s.Truncate("f", 10000)
		f.Pwrite("x", 9999)
		s.Truncate("f", 4097)
		s.Truncate("f", 10000)
		f.Pread(100, 9950)
	}},
	{Name: "two-opens", Run: func(s *Script) {
		a := s.Open("f", rdwr|creat, 0o644)
		b := s.Open("f", rdwr, 0)
		a.Pwrite("from a", 0)
		b.Pread(10, 0)
		b.Pwrite("B", 5)
		a.Pread(10, 0)
		b.Truncate(2)
		a.Pread(10, 0)
		a.Stat()
		a.Close()
		b.Pread(10, 0)
	}},
	{Name: "sync", Run: func(s *Script) {
		f := s.Open("f", rdwr|creat|unix.O_SYNC, 0o644)
		f.Pwrite("synced", 0)
		g := s.Open("f", rdwr|unix.O_DSYNC, 0)
		g.Pwrite("S", 0)
		f.Sync(false)
		f.Sync(true)
		r := s.Open("f", rdonly, 0)
		r.Sync(false)
		d := s.Open(".", rdonly|unix.O_DIRECTORY, 0)
		d.Sync(false)
		d.Sync(true)
		s.Content("f")
	}},
	{Name: "offsets", Run: func(s *Script) {
		const giga = int64(1) << 30
		f := s.Open("f", rdwr|creat, 0o644)
		f.Pwrite("past four", 5*giga)
		f.Pread(9, 5*giga)
		f.Pread(9, 5*giga-4)
		f.Pread(4, giga)
		f.Stat()
		s.Stat("f")
		f.Truncate(9 * giga)
		f.Stat()
		f.Truncate(4*giga + 1)
		f.Pread(10, 4*giga-2)
		s.Blocks("f")
		f.Truncate(math.MaxInt64)
		f.Pread(1, math.MaxInt64)
		f.Pread(10, math.MaxInt64-5)
		f.Stat()
	}},
	{Name: "too-big", Run: func(s *Script) {
		f := s.Open("f", rdwr|creat, 0o644)
		f.Pwrite("x", math.MaxInt64)
		f.Pwrite("xy", math.MaxInt64-1)
		f.Fallocate(0, math.MaxInt64-10, 100)
		f.Truncate(0)
		f.Stat()
	}},
}

// spaceCases are about holes and the space of files.
var spaceCases = []Case{
	{Name: "holes", Run: func(s *Script) {
		f := s.Open("f", rdwr|creat, 0o644)
		f.Truncate(1 << 20)
		f.Sync(false)
		s.Blocks("f")
		f.Pwrite(strings.Repeat("d", 4096), 512<<10)
		f.Sync(false)
		s.Blocks("f")
		f.Pread(4, 512<<10-2)
		f.Pwrite(string(Repeat(64<<10)), 0)
		f.Sync(false)
		s.Blocks("f")
		f.Truncate(4096)
		f.Sync(false)
		s.Blocks("f")
	}},
	{Name: "seek", Run: func(s *Script) {
		f := s.Open("f", rdwr|creat, 0o644)
		f.Find(0, unix.SEEK_DATA)
		f.Find(0, unix.SEEK_HOLE)
		f.Truncate(4 << 20)
		f.Pwrite(strings.Repeat("d", 4096), 1<<20)
		f.Pwrite(strings.Repeat("e", 4096), 3<<20)
		f.Sync(false)
		for _, off := range []int64{0, 1 << 20, 1<<20 + 100, 2 << 20, 3 << 20, 3<<20 + 4096, 4<<20 - 1, 4 << 20, 5 << 20, -1} {
			f.Find(off, unix.SEEK_DATA)
			f.Find(off, unix.SEEK_HOLE)
		}
	}},
	{Name: "seek-dirty", Run: func(s *Script) {
		f := s.Open("f", rdwr|creat, 0o644)
		f.Truncate(2 << 20)
		f.Pwrite(strings.Repeat("d", 4096), 1<<20)
		f.Find(0, unix.SEEK_DATA)
		f.Find(1<<20, unix.SEEK_HOLE)
	}},
	{Name: "fallocate", Run: func(s *Script) {
		f := s.Open("f", rdwr|creat, 0o644)
		f.Fallocate(0, 0, 64<<10)
		f.Stat()
		s.Blocks("f")
		f.Fallocate(unix.FALLOC_FL_KEEP_SIZE, 64<<10, 64<<10)
		f.Stat()
		f.Pwrite(string(Repeat(64<<10)), 0)
		f.Fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 8192)
		f.Pread(16, 4090)
		f.Pread(16, 12280)
		f.Fallocate(unix.FALLOC_FL_ZERO_RANGE, 16384, 5000)
		f.Pread(16, 16380)
		f.Pread(16, 21380)
		f.Fallocate(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 60<<10, 8192)
		f.Stat()
		f.Pread(64<<10, 0)
		f.Fallocate(0, 200<<10, 1)
		f.Stat()
	}},
	{Name: "fallocate-wrong", Run: func(s *Script) {
		f := s.Open("f", rdwr|creat, 0o644)
		f.Pwrite(string(Repeat(16<<10)), 0)
		f.Fallocate(0, 0, 0)
		f.Fallocate(0, -1, 10)
		f.Fallocate(0, 0, -1)
		f.Fallocate(unix.FALLOC_FL_PUNCH_HOLE, 0, 4096)
		f.Fallocate(0x8000, 0, 4096)
		d := s.Open(".", rdonly|unix.O_DIRECTORY, 0)
		d.Stat()
		f.Stat()
		f.Pread(16<<10, 0)
	}},
	{Name: "fallocate-shift", Run: func(s *Script) {
		f := s.Open("f", rdwr|creat, 0o644)
		f.Pwrite(string(Repeat(64<<10)), 0)
		f.Sync(false)
		f.Fallocate(unix.FALLOC_FL_COLLAPSE_RANGE, 4096, 4096)
		f.Fallocate(unix.FALLOC_FL_INSERT_RANGE, 8192, 4096)
		f.Stat()
	}},
	{Name: "copy-range", Run: func(s *Script) {
		s.File("a", 0o644, string(Repeat(100000)))
		a, b := s.Open("a", rdwr, 0), s.Open("b", rdwr|creat, 0o644)
		a.CopyTo(b, 0, 0, 100000)
		s.Content("b")
		a.CopyTo(b, 50000, 100, 3)
		b.Pread(10, 98)
		a.CopyTo(b, 90000, 200000, 50000)
		b.Stat()
		a.CopyTo(b, 100000, 0, 10)
		a.CopyTo(b, 200000, 0, 10)
		a.CopyTo(a, 0, 100000, 100000)
		a.Pread(16, 99992)
		a.CopyTo(a, 0, 10, 100)
		a.CopyTo(b, 0, 0, 0)
		s.Content("b")
		s.Open("d", rdonly|creat, 0o600)
		d := s.Open("d", rdonly, 0)
		a.CopyTo(d, 0, 0, 10)
		e := s.Open("d", rdwr|app, 0)
		a.CopyTo(e, 0, 0, 10)
	}},
}
