package virtiofs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// BenchmarkNames is every operation on names and open files beside the system calls
// that a program on the host would make for the same. What makes up one operation is
// undone by its counterpart: CREATE comes with RELEASE, UNLINK and FORGET.
//
//	TMPDIR=/dev/shm go test -run '^$' -bench Names ./virtiofs
//
// With TMPDIR the file system is chosen. Under strace -f -c it tells the system calls.
func BenchmarkNames(b *testing.B) {
	for _, user := range []uint32{0, 1000} {
		for _, x := range nameCosts {
			if user != 0 && !x.creates {
				continue
			}
			name := x.name
			if user != 0 {
				name += "/as=1000"
			}
			b.Run(name+"/serve", func(b *testing.B) {
				r := newNameRig(b, user)
				run := x.serve(r)
				b.ReportAllocs()
				for b.Loop() {
					run()
				}
			})
			b.Run(name+"/bare", func(b *testing.B) {
				r := newNameRig(b, user)
				run := x.bare(r)
				for b.Loop() {
					run()
				}
			})
		}
	}
}

// nameRig is a share with a file, a directory of 1000 files and a directory that
// anybody may write to.
type nameRig struct {
	tb   testing.TB
	c    *fstest.Conn
	dir  int // O_PATH descriptor of the share
	file virtiofs.NodeID
	list virtiofs.NodeID
}

func newNameRig(tb testing.TB, user uint32) *nameRig {
	dir, c := connect(tb, passthrough.Options{})
	must(tb, os.Chmod(dir, 0o777))
	write(tb, filepath.Join(dir, "file"), "x")
	must(tb, os.Mkdir(filepath.Join(dir, "list"), 0o755))
	for i := range 1000 {
		write(tb, filepath.Join(dir, "list", fmt.Sprintf("file%04d", i)), "")
	}
	fd, err := unix.Open(dir, unix.O_PATH, 0)
	must(tb, err)
	tb.Cleanup(func() { must(tb, unix.Close(fd)) })
	r := &nameRig{tb: tb, c: c, dir: fd}
	f, e := c.Lookup(root, "file")
	ok(tb, "LOOKUP", e)
	l, e := c.Lookup(root, "list")
	ok(tb, "LOOKUP", e)
	r.file, r.list = f.Node, l.Node
	c.UID, c.GID = user, user
	return r
}

// exchange is a request that is served again and again, and its reply.
type exchange struct {
	*hot
	op         fuse.Opcode
	msg, reply []byte
	tb         testing.TB
}

func (r *nameRig) request(op fuse.Opcode, node virtiofs.NodeID, room int, args ...[]byte) *exchange {
	msg, reply := r.c.Message(op, node, args...), make([]byte, fuse.OutHeaderSize+room)
	return &exchange{&hot{r.c, fstest.NewCursor(msg, 0), fstest.NewCursor(reply, 0)}, op, msg, reply, r.tb}
}

func (x *exchange) do() {
	n, _ := x.serve()
	if fuse.Row(x.op).NoReply {
		return
	}
	if e := unix.Errno(-int32(le.Uint32(x.reply[4:]))); e != 0 || n < fuse.OutHeaderSize {
		x.tb.Fatalf("%v: %v, %d bytes", x.op, e, n)
	}
}

func (x *exchange) body() []byte { return x.reply[fuse.OutHeaderSize:] }

// node and handle have the request name those of a reply.
func (x *exchange) node(reply []byte)   { copy(x.msg[16:24], reply[:8]) }
func (x *exchange) handle(reply []byte) { copy(x.msg[fuse.InHeaderSize:], reply[:8]) }

func (r *nameRig) statx(name string) {
	var st unix.Statx_t
	if err := unix.Statx(r.dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st); err != nil {
		r.tb.Fatal(err)
	}
}

type nameCost struct {
	name        string
	creates     bool // depends on who asks
	serve, bare func(*nameRig) func()
}

var nameCosts = []nameCost{
	{"LOOKUP", false, func(r *nameRig) func() {
		return r.request(fuse.Lookup, root, fuse.EntryOutSize, fstest.Str("file")).do
	}, func(r *nameRig) func() {
		return func() { r.statx("file") }
	}},
	{"LOOKUP-new", false, func(r *nameRig) func() {
		l := r.request(fuse.Lookup, r.list, fuse.EntryOutSize, fstest.Str("file0500"))
		f := r.request(fuse.Forget, 0, 0, fstest.U64(1))
		return func() { l.do(); f.node(l.body()); f.do() }
	}, func(r *nameRig) func() {
		return func() { r.statx("list/file0500") }
	}},
	{"OPEN", false, func(r *nameRig) func() {
		o := r.request(fuse.Open, r.file, fuse.OpenOutSize, fstest.U32(unix.O_RDWR, 0))
		c := r.request(fuse.Release, r.file, 0, make([]byte, 24))
		return func() { o.do(); c.handle(o.body()); c.do() }
	}, func(r *nameRig) func() {
		return func() {
			fd, err := unix.Openat(r.dir, "file", unix.O_RDWR, 0)
			must(r.tb, err)
			_ = unix.Close(fd)
		}
	}},
	{"CREATE", true, func(r *nameRig) func() {
		cr := r.request(fuse.Create, root, fuse.EntryOutSize+fuse.OpenOutSize, fstest.U32(unix.O_RDWR|unix.O_CREAT, 0o644, 0, 0), fstest.Str("new"))
		cl := r.request(fuse.Release, 0, 0, make([]byte, 24))
		un := r.request(fuse.Unlink, root, 0, fstest.Str("new"))
		fo := r.request(fuse.Forget, 0, 0, fstest.U64(1))
		return func() {
			cr.do()
			cl.node(cr.body())
			cl.handle(cr.body()[fuse.EntryOutSize:])
			cl.do()
			un.do()
			fo.node(cr.body())
			fo.do()
		}
	}, func(r *nameRig) func() {
		return func() {
			fd, err := unix.Openat(r.dir, "new", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o644)
			must(r.tb, err)
			_ = unix.Close(fd)
			must(r.tb, unix.Unlinkat(r.dir, "new", 0))
		}
	}},
	{"MKDIR", true, func(r *nameRig) func() {
		mk := r.request(fuse.Mkdir, root, fuse.EntryOutSize, fstest.U32(0o755, 0), fstest.Str("new"))
		rm := r.request(fuse.Rmdir, root, 0, fstest.Str("new"))
		fo := r.request(fuse.Forget, 0, 0, fstest.U64(1))
		return func() { mk.do(); rm.do(); fo.node(mk.body()); fo.do() }
	}, func(r *nameRig) func() {
		return func() {
			must(r.tb, unix.Mkdirat(r.dir, "new", 0o755))
			must(r.tb, unix.Unlinkat(r.dir, "new", unix.AT_REMOVEDIR))
		}
	}},
	{"RENAME", false, func(r *nameRig) func() {
		a := r.request(fuse.Rename, root, 0, fstest.U64(fuse.RootID), fstest.Str("file"), fstest.Str("gile"))
		b := r.request(fuse.Rename, root, 0, fstest.U64(fuse.RootID), fstest.Str("gile"), fstest.Str("file"))
		return func() { a.do(); b.do() }
	}, func(r *nameRig) func() {
		return func() {
			must(r.tb, unix.Renameat2(r.dir, "file", r.dir, "gile", 0))
			must(r.tb, unix.Renameat2(r.dir, "gile", r.dir, "file", 0))
		}
	}},
	{"READDIRPLUS", false, func(r *nameRig) func() {
		o := r.request(fuse.Opendir, r.list, fuse.OpenOutSize, fstest.U32(0, 0))
		d := r.request(fuse.Readdirplus, r.list, 32<<10, fstest.ReadArgs(0, 0, 32<<10))
		c := r.request(fuse.Releasedir, r.list, 0, make([]byte, 24))
		return func() {
			o.do()
			d.handle(o.body())
			for cookie := uint64(0); ; {
				le.PutUint64(d.msg[fuse.InHeaderSize+8:], cookie)
				d.do()
				n := int(le.Uint32(d.reply))
				if n == fuse.OutHeaderSize {
					break
				}
				for body := d.reply[fuse.OutHeaderSize:n]; len(body) > 0; {
					e := body[fuse.EntryOutSize:]
					cookie = le.Uint64(e[8:])
					body = e[fuse.DirentLen(int(le.Uint32(e[16:]))):]
				}
			}
			c.handle(o.body())
			c.do()
		}
	}, func(r *nameRig) func() {
		buf := make([]byte, 32<<10)
		var names []string
		for i := range 1000 {
			names = append(names, fmt.Sprintf("file%04d", i))
		}
		return func() {
			fd, err := unix.Openat(r.dir, "list", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			must(r.tb, err)
			for {
				n, err := unix.Getdents(fd, buf)
				must(r.tb, err)
				if n == 0 {
					break
				}
			}
			for _, name := range names {
				var st unix.Statx_t
				must(r.tb, unix.Statx(fd, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st))
			}
			_ = unix.Close(fd)
		}
	}},
	{"SETATTR-mode", false, func(r *nameRig) func() {
		msg := make([]byte, 88)
		le.PutUint32(msg, fuse.FattrMode)
		le.PutUint32(msg[68:], unix.S_IFREG|0o644)
		return r.request(fuse.Setattr, r.file, fuse.AttrOutSize, msg).do
	}, func(r *nameRig) func() {
		return func() { must(r.tb, unix.Fchmodat(r.dir, "file", 0o644, 0)); r.statx("file") }
	}},
	{"SETATTR-times", false, func(r *nameRig) func() {
		msg := make([]byte, 88)
		le.PutUint32(msg, fuse.FattrAtime|fuse.FattrMtime|fuse.FattrAtimeNow|fuse.FattrMtimeNow)
		return r.request(fuse.Setattr, r.file, fuse.AttrOutSize, msg).do
	}, func(r *nameRig) func() {
		ts := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
		return func() { must(r.tb, unix.UtimesNanoAt(r.dir, "file", ts, 0)); r.statx("file") }
	}},
	{"SETATTR-size", false, func(r *nameRig) func() {
		msg := make([]byte, 88)
		le.PutUint32(msg, fuse.FattrSize)
		le.PutUint64(msg[16:], 1)
		return r.request(fuse.Setattr, r.file, fuse.AttrOutSize, msg).do
	}, func(r *nameRig) func() {
		path := fmt.Sprintf("/proc/self/fd/%d/file", r.dir)
		return func() { must(r.tb, unix.Truncate(path, 1)); r.statx("file") }
	}},
}
