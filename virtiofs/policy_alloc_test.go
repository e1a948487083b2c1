package virtiofs_test

import (
	"path/filepath"
	"testing"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// prepared is a request that will be served over and over.
func prepared(c *fstest.Conn, room int, msg []byte) *hot {
	return &hot{c, fstest.NewCursor(msg, 0), fstest.NewCursor(make([]byte, fuse.OutHeaderSize+room), 0)}
}

// shared is a share with one file, of which a lookup is counted.
func shared(tb testing.TB, o passthrough.Options, so virtiofs.Options) (*fstest.Conn, virtiofs.NodeID) {
	tb.Helper()
	dir, c := serveWith(tb, o, so)
	write(tb, filepath.Join(dir, "file"), string(pattern(4096)))
	_, e := c.Init(fstest.AllFlags)
	ok(tb, "INIT", e)
	f, e := c.Lookup(root, "file")
	ok(tb, "LOOKUP", e)
	return c, f.Node
}

// TestAllocPolicies: neither being observed nor reading what was never opened
// allocates.
func TestAllocPolicies(t *testing.T) {
	var n virtiofs.Counter
	c, node := shared(t, passthrough.Options{ReadOnly: true, Immutable: true},
		virtiofs.Options{Policy: virtiofs.Immutable(), Observer: &n})
	for name, h := range map[string]*hot{
		"GETATTR":        prepared(c, fuse.AttrOutSize, c.Message(fuse.Getattr, node, make([]byte, 16))),
		"READ, handle 0": prepared(c, 4096, c.Message(fuse.Read, node, fstest.ReadArgs(0, 0, 4096))),
	} {
		wantLen := uint32(h.out.Len())
		var got uint32
		if a := testing.AllocsPerRun(200, func() { got, _ = h.serve() }); a != 0 {
			t.Errorf("%s: %v allocations", name, a)
		}
		if got != wantLen {
			t.Errorf("%s: %d bytes", name, got)
		}
	}
	if got := n.Of(fuse.Read); got.Requests < 200 || got.Errors != 0 {
		t.Errorf("READ was counted %v", got)
	}
}

// BenchmarkOpenRelease is the price of comparing a file with what it was at its
// last close: one fstat(2) at each end.
func BenchmarkOpenRelease(b *testing.B) {
	for _, p := range []virtiofs.Policy{virtiofs.Always(), virtiofs.Auto()} {
		b.Run(p.Name, func(b *testing.B) {
			c, node := shared(b, passthrough.Options{}, virtiofs.Options{Policy: p})
			open := prepared(c, fuse.OpenOutSize, c.Message(fuse.Open, node, fstest.U32(0, 0)))
			release := c.Message(fuse.Release, node, make([]byte, 24))
			closing := prepared(c, 0, release)
			reply := make([]byte, fuse.OutHeaderSize+fuse.OpenOutSize)
			open.out = fstest.NewCursor(reply, 0)
			for b.Loop() {
				open.serve()
				copy(release[fuse.InHeaderSize:], reply[fuse.OutHeaderSize:fuse.OutHeaderSize+8])
				closing.serve()
			}
			if got := le.Uint32(reply[4:]); got != 0 {
				b.Fatalf("OPEN: error %d", int32(got))
			}
		})
	}
}

// BenchmarkObserver is the price of counting.
func BenchmarkObserver(b *testing.B) {
	for name, o := range map[string]virtiofs.Observer{"none": nil, "counter": new(virtiofs.Counter)} {
		b.Run(name, func(b *testing.B) {
			c, node := shared(b, passthrough.Options{}, virtiofs.Options{Observer: o})
			h := prepared(c, fuse.AttrOutSize, c.Message(fuse.Getattr, node, make([]byte, 16)))
			for b.Loop() {
				h.serve()
			}
		})
	}
}
