package virtiofs_test

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// hot is a request that is served over and over.
type hot struct {
	c       *fstest.Conn
	in, out *fstest.Cursor
}

func (h *hot) serve() (uint32, bool) {
	h.in.Reset()
	h.out.Reset()
	return h.c.S.Serve(h.c.R, h.in, h.out)
}

// hotRequests is the four requests that a guest's time is spent on, and the path
// of the file they are about.
func hotRequests(tb testing.TB) (map[string]*hot, string) {
	dir, c := connect(tb, passthrough.Options{})
	f, fh, e := c.Create(root, "file", unix.O_RDWR, 0o644)
	ok(tb, "CREATE", e)
	block := pattern(4096)
	_, e = c.Write(f.Node, fh, 0, block, 0, 0)
	ok(tb, "WRITE", e)
	_, e = c.Lookup(root, "file")
	ok(tb, "LOOKUP", e)
	request := func(room int, msg []byte) *hot {
		return &hot{c, fstest.NewCursor(msg, 0), fstest.NewCursor(make([]byte, fuse.OutHeaderSize+room), 0)}
	}
	return map[string]*hot{
		"GETATTR": request(fuse.AttrOutSize, c.Message(fuse.Getattr, f.Node, make([]byte, 16))),
		"LOOKUP":  request(fuse.EntryOutSize, c.Message(fuse.Lookup, root, fstest.Str("file"))),
		"READ4K":  request(4096, c.Message(fuse.Read, f.Node, fstest.ReadArgs(fh, 0, 4096))),
		"WRITE4K": request(8, c.Message(fuse.Write, f.Node, fstest.WriteArgs(fh, 0, 4096, 0, 0), block)),
	}, filepath.Join(dir, "file")
}

func TestAllocServe(t *testing.T) {
	requests, _ := hotRequests(t)
	for name, h := range requests {
		wantLen := uint32(h.out.Len())
		var n uint32
		var again bool
		if a := testing.AllocsPerRun(200, func() { n, again = h.serve() }); a != 0 {
			t.Errorf("%s: %v allocations", name, a)
		}
		if n != wantLen || again {
			t.Errorf("%s: %d bytes, again %v", name, n, again)
		}
	}
}

func BenchmarkServe(b *testing.B) {
	requests, path := hotRequests(b)
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	must(b, err)
	defer func() { must(b, unix.Close(fd)) }()
	dirfd, err := unix.Open(filepath.Dir(path), unix.O_PATH, 0)
	must(b, err)
	defer func() { must(b, unix.Close(dirfd)) }()
	block := make([]byte, 4096)
	bare := map[string]func(){
		"GETATTR": func() { var st unix.Stat_t; _ = unix.Fstat(fd, &st) },
		"LOOKUP": func() {
			var st unix.Statx_t
			_ = unix.Statx(dirfd, "file", unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st)
		},
		"READ4K":  func() { _, _ = unix.Pread(fd, block, 0) },
		"WRITE4K": func() { _, _ = unix.Pwrite(fd, block, 0) },
	}
	for _, name := range []string{"GETATTR", "LOOKUP", "READ4K", "WRITE4K"} {
		b.Run(name+"/serve", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				requests[name].serve()
			}
		})
		b.Run(name+"/bare", func(b *testing.B) {
			for b.Loop() {
				bare[name]()
			}
		})
	}
}
