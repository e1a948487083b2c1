package fstest

import (
	"golang.org/x/sys/unix"
)

const (
	readWrite = unix.PROT_READ | unix.PROT_WRITE
	shared    = unix.MAP_SHARED
	private   = unix.MAP_PRIVATE
)

// kernelCases are about what only a kernel gives an open file.
var kernelCases = []Case{
	{Name: "position", Kernel: true, Run: func(s *Script) {
		f := s.Open("f", rdwr|creat, 0o644)
		f.Write("hello world")
		f.Read(10)
		f.Lseek(6, unix.SEEK_SET)
		f.Read(100)
		f.Lseek(-5, unix.SEEK_END)
		f.Write("WORLD and more")
		f.Lseek(0, unix.SEEK_CUR)
		f.Lseek(100, unix.SEEK_END)
		f.Lseek(-1000, unix.SEEK_CUR)
		f.Write("far")
		f.Stat()
		f.Truncate(5)
		f.Read(10)
		s.Content("f")
	}},
	{Name: "append-position", Kernel: true, Run: func(s *Script) {
		a, b := s.Open("f", rdwr|creat|app, 0o644), s.Open("f", rdwr|app, 0)
		for range 3 {
			a.Write("a")
			b.Write("bb")
			a.Lseek(0, unix.SEEK_CUR)
		}
		a.Lseek(0, unix.SEEK_SET)
		a.Write("end")
		a.Lseek(0, unix.SEEK_CUR)
		a.Read(1)
		s.Content("f")
	}},
	{Name: "mmap-shared", Kernel: true, Run: func(s *Script) {
		s.File("f", 0o644, string(Repeat(10000)))
		f := s.Open("f", rdwr, 0)
		f.Mapped(10000, readWrite, shared, func(b []byte) {
			s.say(0, short(string(b)), "mapped")
			copy(b[4090:], "written through a mapping")
			f.Pread(30, 4090)
			f.Pwrite("written by a call", 8000)
			s.say(0, short(string(b[8000:8020])), "mapped")
		})
		s.Content("f")
		f.Stat()
		r := s.Open("f", rdonly, 0)
		r.Mapped(10000, readWrite, shared, func([]byte) {})
		r.Mapped(10000, unix.PROT_READ, shared, func(b []byte) { s.say(0, short(string(b[4090:4100])), "mapped") })
		w := s.Open("f", wronly, 0)
		w.Mapped(10000, unix.PROT_READ, shared, func([]byte) {})
	}},
	{Name: "mmap-private", Kernel: true, Run: func(s *Script) {
		s.File("f", 0o644, string(Repeat(10000)))
		f := s.Open("f", rdonly, 0)
		f.Mapped(10000, readWrite, private, func(b []byte) {
			copy(b[4090:], "seen by nobody else")
			s.say(0, short(string(b)), "mapped")
		})
		s.Content("f")
	}},
	{Name: "mmap-closed", Kernel: true, Run: func(s *Script) {
		s.File("f", 0o644, string(Repeat(8192)))
		f := s.Open("f", rdwr, 0)
		f.Mapped(8192, readWrite, shared, func(b []byte) {
			s.Unlink("f")
			copy(b, "unlinked")
			f.Pread(8, 0)
			s.File("f", 0o644, "another")
			b[8191] = 'x'
			f.Pread(2, 8190)
		})
		s.Content("f")
	}},
	{Name: "mmap-grow", Kernel: true, Run: func(s *Script) {
		f := s.Open("f", rdwr|creat, 0o644)
		f.Truncate(100)
		f.Mapped(100, readWrite, shared, func(b []byte) {
			copy(b, "before")
			f.Truncate(50)
			f.Truncate(100)
			s.say(0, short(string(b[:10])), "mapped")
			f.Pwrite("after", 60)
			s.say(0, short(string(b[60:70])), "mapped")
		})
		s.Content("f")
	}},
	{Name: "direct", Kernel: true, Run: func(s *Script) {
		s.File("f", 0o644, string(Repeat(64<<10)))
		// Page-aligned memory for O_DIRECT.
		m, err := unix.Mmap(-1, 0, 8192, readWrite, private|unix.MAP_ANONYMOUS)
		if err != nil {
			s.say(errno(err), "", "memory")
			return
		}
		f := s.Open("f", rdwr|unix.O_DIRECT, 0)
		copy(m, "written around the cache")
		f.do(func() (string, unix.Errno) { return count(f.f.Pwrite(m[:4096], 4096)) }, "pwrite of a page")
		f.Pread(64<<10, 0) // so large a buffer is aligned too
		s.Content("f")
		_ = unix.Munmap(m)
	}},
	{Name: "flock", Kernel: true, Run: func(s *Script) {
		s.File("f", 0o644, "")
		a, b := s.Open("f", rdonly, 0), s.Open("f", rdonly, 0)
		const now = unix.LOCK_NB
		a.Flock(unix.LOCK_EX | now)
		b.Flock(unix.LOCK_EX | now)
		b.Flock(unix.LOCK_SH | now)
		a.Flock(unix.LOCK_SH | now)
		b.Flock(unix.LOCK_SH | now)
		b.Flock(unix.LOCK_EX | now)
		a.Flock(unix.LOCK_UN)
		b.Flock(unix.LOCK_EX | now)
		b.Close()
		a.Flock(unix.LOCK_EX | now)
	}},
	{Name: "locks", Kernel: true, Run: func(s *Script) {
		s.File("f", 0o644, "")
		a, b := s.Open("f", rdwr, 0), s.Open("f", rdwr, 0)
		a.Lock(unix.F_WRLCK, 0, 10)
		b.Lock(unix.F_WRLCK, 5, 10)
		b.Lock(unix.F_RDLCK, 9, 1)
		b.Lock(unix.F_WRLCK, 10, 0)
		a.Lock(unix.F_RDLCK, 0, 10)
		b.Lock(unix.F_RDLCK, 9, 1)
		a.Lock(unix.F_WRLCK, 9, 1)
		b.Close()
		a.Lock(unix.F_WRLCK, 0, 0)
		c := s.Open("f", rdonly, 0)
		c.Lock(unix.F_WRLCK, 1<<40, 1)
		a.Lock(unix.F_UNLCK, 0, 0)
		c.Lock(unix.F_RDLCK, 1<<40, 1)
	}},
	{Name: "fifo", Kernel: true, Run: func(s *Script) {
		s.Mknod("p", unix.S_IFIFO|0o600, 0, 0)
		s.Open("p", wronly|unix.O_NONBLOCK, 0)
		r := s.Open("p", rdonly|unix.O_NONBLOCK, 0)
		w := s.Open("p", wronly|unix.O_NONBLOCK, 0)
		w.Write("through a pipe")
		r.Read(100)
		r.Read(100)
		w.Close()
		r.Read(100)
		s.Mknod("s", unix.S_IFSOCK|0o600, 0, 0)
		s.Open("s", rdwr, 0)
		s.Stat("p")
	}},
}
