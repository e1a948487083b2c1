package fstest

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Users of the cases.
var (
	alice = Who{UID: 1000, GID: 1000, Umask: 0o022}
	bob   = Who{UID: 1001, GID: 1001, Groups: []uint32{2000}, Umask: 0o022}
)

// users are who makes files: bob is in the team's group, 2000.
var users = []struct {
	name string
	who  Who
}{{"alice", alice}, {"bob", bob}, {"gid", Who{UID: 0, GID: 2000}}}

// makeAll makes one of each kind of file.
func makeAll(s *Script, dir string) {
	s.File(dir+"/file", 0o6777, "x")
	s.Mkdir(dir+"/dir", 0o777)
	s.Symlink("target", dir+"/link")
	s.Mknod(dir+"/fifo", unix.S_IFIFO|0o666, 0, 0)
	s.Open(dir+"/new", rdwr|creat|excl, 0o2755)
	for _, name := range []string{"file", "dir", "link", "fifo", "new"} {
		s.Lstat(dir + "/" + name)
	}
}

// identityCases are about whose a new file is; they need nobody to check
// permissions.
var identityCases = []Case{
	{Name: "owner", Root: true, Run: func(s *Script) {
		for _, u := range users {
			s.Mkdir(u.name, 0o777)
			s.As(u.who, func(s *Script) { makeAll(s, u.name) })
		}
	}},
	{Name: "umask", Root: true, Run: func(s *Script) {
		for _, mask := range []uint32{0, 0o027, 0o077, 0o777} {
			name := fmt.Sprintf("%03o", mask)
			s.Mkdir(name, 0o777)
			s.As(Who{Umask: mask}, func(s *Script) { makeAll(s, name) })
		}
	}},
	{Name: "sgid-dir", Root: true, Run: func(s *Script) {
		s.Mkdir("team", 0o755)
		s.Chown("team", 0, 2000)
		s.Chmod("team", 0o2777)
		for _, u := range users {
			s.As(u.who, func(s *Script) {
				s.Mkdir("team/"+u.name, 0o777)
				s.Stat("team/" + u.name)
				makeAll(s, "team/"+u.name)
			})
		}
		s.Mkdir("team/root", 0o755)
		makeAll(s, "team/root")
		s.As(alice, func(s *Script) {
			f := s.Open("team", rdwr|unix.O_TMPFILE, 0o2755)
			f.Stat()
		})
	}},
	{Name: "setid-write", Root: true, Run: func(s *Script) {
		for i, do := range []func(*Script, string){
			func(s *Script, p string) { s.Open(p, rdwr, 0).Pwrite("x", 0) },
			func(s *Script, p string) { s.Open(p, rdwr|app, 0).Pwrite("x", 0) },
			func(s *Script, p string) { s.Truncate(p, 2) },
			func(s *Script, p string) { s.Open(p, rdwr, 0).Truncate(2) },
			func(s *Script, p string) { s.Open(p, rdwr|trunc, 0) },
			func(s *Script, p string) { s.Open(p, rdwr, 0).Fallocate(0, 0, 100) },
			func(s *Script, p string) { s.Content(p) },
		} {
			for _, mode := range []uint32{0o6777, 0o6767, 0o2766} {
				p := fmt.Sprintf("%o-%d", mode, i)
				s.File(p, 0o666, "contents")
				s.Chmod(p, mode)
				s.As(bob, func(s *Script) { do(s, p) })
				s.Stat(p)
				s.Chmod(p, mode)
				do(s, p)
				s.Stat(p)
			}
		}
	}},
}

// accessCases are about who may do what: a kernel checks.
var accessCases = []Case{
	{Name: "access", Kernel: true, Root: true, Run: func(s *Script) {
		for _, mode := range []uint32{0o000, 0o400, 0o040, 0o004, 0o222, 0o111, 0o660, 0o755} {
			p := fmt.Sprintf("f%03o", mode)
			s.File(p, 0o644, "x")
			s.Chown(p, 1000, 2000)
			s.Chmod(p, mode)
			for _, who := range []Who{{}, alice, bob, {UID: 1002, GID: 2000}, {UID: 1003, GID: 1003}} {
				s.As(who, func(s *Script) {
					for _, how := range []uint32{unix.R_OK, unix.W_OK, unix.X_OK, 0} {
						s.Access(p, how)
					}
					s.Open(p, rdonly, 0).Pread(1, 0)
					s.Open(p, wronly, 0)
				})
			}
		}
	}},
	{Name: "access-dir", Kernel: true, Root: true, Run: func(s *Script) {
		for _, mode := range []uint32{0o700, 0o711, 0o744, 0o755, 0o733} {
			d := fmt.Sprintf("d%o", mode)
			s.Mkdir(d, 0o755)
			s.File(d+"/f", 0o644, "x")
			s.Chmod(d, mode)
			s.As(alice, func(s *Script) {
				s.List(d)
				s.Content(d + "/f")
				s.Stat(d + "/f")
				s.Stat(d + "/missing")
				s.File(d+"/new", 0o644, "")
				s.Mkdir(d+"/sub", 0o755)
				s.Rename(d+"/f", d+"/g", 0)
				s.Unlink(d + "/f")
			})
			s.List(d)
		}
	}},
	{Name: "access-change", Kernel: true, Root: true, Run: func(s *Script) {
		s.Chmod(".", 0o777)
		s.File("root", 0o666, "of root")
		s.As(alice, func(s *Script) {
			s.File("hers", 0o644, "of alice")
			s.Chmod("root", 0o600)
			s.Chown("root", 1000, keep)
			s.Utimens("root", at(1, 1), at(1, 1))
			s.Utimens("root", at(0, unix.UTIME_NOW), at(0, unix.UTIME_NOW))
			s.Chmod("hers", 0o600)
			s.Utimens("hers", at(1, 1), at(1, 1))
			s.Chown("hers", keep, 2000)
			s.Chown("hers", 0, keep)
			s.Chown("hers", keep, 1000)
			s.Chmod("hers", 0o644)
		})
		s.As(bob, func(s *Script) {
			s.File("his", 0o666, "of bob")
			s.Chmod("his", 0o2755)
			s.Chown("his", keep, 2000)
			s.Stat("his")
			s.Chmod("his", 0o2755)
			s.Stat("his")
			s.Truncate("hers", 0)
			s.Setxattr("hers", "user.x", "y", 0)
			s.Setxattr("his", "user.x", "y", 0)
			s.Getxattr("hers", "user.x", 10)
			s.Setxattr("his", "trusted.x", "y", 0)
			s.Getxattr("his", "trusted.x", 10)
			s.Mknod("device", unix.S_IFCHR|0o600, 1, 3)
		})
		s.File("other", 0o644, "")
		s.Chown("other", 1001, 3000)
		s.As(bob, func(s *Script) {
			s.Chmod("other", 0o2755) // not his group: the bit goes
			s.Stat("other")
		})
	}},
	{Name: "sticky", Kernel: true, Root: true, Run: func(s *Script) {
		s.Mkdir("t", 0o755)
		s.Chmod("t", 0o1777)
		s.As(alice, func(s *Script) {
			s.Mkdir("t/hers", 0o777)
			s.Symlink("x", "t/link")
		})
		s.As(bob, func(s *Script) {
			s.Rmdir("t/hers")
			s.Unlink("t/link")
			s.Rename("t/hers", "t/mine", 0)
			s.Mkdir("t/his", 0o777)
			s.Rename("t/his", "t/hers", 0)
			s.Rename("t/his", "t/his2", 0)
		})
		s.As(alice, func(s *Script) { s.Rmdir("t/hers") })
		s.Unlink("t/link")
		s.List("t")
	}},
	{Name: "open-then-chmod", Kernel: true, Root: true, Run: func(s *Script) {
		s.Chmod(".", 0o777)
		s.As(alice, func(s *Script) {
			f := s.Open("f", rdwr|creat, 0o600)
			f.Pwrite("contents", 0)
			s.Chmod("f", 0)
			f.Pwrite("C", 0)
			f.Pread(20, 0)
			f.Truncate(4)
			f.Stat()
			s.Open("f", rdonly, 0)
			g := s.Open("g", rdwr|creat|excl, 0o000)
			g.Pwrite("write to what nobody may write", 0)
			g.Fallocate(0, 0, 4096)
			g.Truncate(2)
			g.Stat()
		})
		s.Content("f")
	}},
}
