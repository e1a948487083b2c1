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

// store is a read-only share that is promised never to change, with a session.
func store(t *testing.T, budget *passthrough.Budget, offer uint64) (string, *fstest.Conn) {
	t.Helper()
	dir, c := serveWith(t, passthrough.Options{ReadOnly: true, Immutable: true, Budget: budget, Handles: passthrough.HandlesNever},
		virtiofs.Options{Policy: virtiofs.Immutable()})
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	for i := range 100 {
		write(t, filepath.Join(dir, "d", fmt.Sprintf("%02d", i)), fmt.Sprintf("file %d", i))
	}
	_, e := c.Init(offer)
	ok(t, "INIT", e)
	return dir, c
}

func newBudget(t *testing.T) *passthrough.Budget {
	t.Helper()
	b, err := passthrough.NewBudget()
	must(t, err)
	return b
}

// TestZeroMessageOpen: what OPEN and OPENDIR answer, and that all that can be
// asked of an open file works without one.
func TestZeroMessageOpen(t *testing.T) {
	_, c := store(t, nil, fstest.AllFlags)
	d, e := c.Lookup(root, "d")
	ok(t, "LOOKUP", e)
	f, e := c.Lookup(d.Node, "07")
	ok(t, "LOOKUP", e)
	_, e = c.Open(f.Node, unix.O_RDONLY)
	want(t, "OPEN", e, unix.ENOSYS)
	_, e = c.Opendir(d.Node)
	want(t, "OPENDIR", e, unix.ENOSYS)
	_, e = c.Open(f.Node, unix.O_RDWR)
	want(t, "OPEN for writing", e, unix.EROFS)

	for range 2 { // opened on demand, then found open
		b, e := c.Read(f.Node, 0, 5, 100)
		if ok(t, "READ", e); string(b) != "7" {
			t.Errorf("READ %q", b)
		}
		b, e = c.Call(fuse.Lseek, f.Node, 8, fstest.U64(0, 0), fstest.U32(unix.SEEK_HOLE, 0))
		if ok(t, "LSEEK", e); le.Uint64(b) != 6 {
			t.Errorf("hole at %d", le.Uint64(b))
		}
		_, e = c.Call(fuse.Fsync, f.Node, 0, fstest.U64(0, 0))
		ok(t, "FSYNC", e)
		_, e = c.Call(fuse.Fsyncdir, d.Node, 0, fstest.U64(0, 0))
		ok(t, "FSYNCDIR", e)
		_, e = c.Call(fuse.Getattr, f.Node, fuse.AttrOutSize, fstest.U32(fuse.GetattrFH, 0), fstest.U64(0))
		ok(t, "GETATTR by handle 0", e)
		list, e := c.Readdir(d.Node, 0, 0, 1<<16, false)
		if ok(t, "READDIR", e); len(list) != 102 {
			t.Errorf("READDIR: %d entries", len(list))
		}
	}
	for name, e := range map[string]unix.Errno{
		"READ of a directory": second(c.Read(d.Node, 0, 0, 1)),
		"READDIR of a file":   second(c.Readdir(f.Node, 0, 0, 4096, false)),
		"RELEASE":             c.Release(f.Node, 0, false),
		"RELEASEDIR":          c.Release(d.Node, 0, true),
	} {
		want(t, name, e, unix.EBADF)
	}
	want(t, "READ of nothing", second(c.Read(12345, 0, 0, 1)), unix.ESTALE)
	want(t, "WRITE", second(c.Write(f.Node, 0, 0, []byte("x"), 0, 0)), unix.EROFS)
	_, e = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrSize}) // what `> file` comes down to
	want(t, "SETATTR size", e, unix.EROFS)
}

func second[T any](_ T, e unix.Errno) unix.Errno { return e }

// TestZeroMessageReaddir: two readers of one directory, who cannot be told
// apart, each get the whole of it.
func TestZeroMessageReaddir(t *testing.T) {
	_, c := store(t, nil, fstest.AllFlags)
	d, e := c.Lookup(root, "d")
	ok(t, "LOOKUP", e)
	var cookie [2]uint64
	var seen [2]map[string]bool
	seen[0], seen[1] = map[string]bool{}, map[string]bool{}
	for done := [2]bool{}; !done[0] || !done[1]; {
		for i := range cookie {
			list, e := c.Readdir(d.Node, 0, cookie[i], uint32(300+i*2000), i == 1)
			ok(t, "READDIR", e)
			done[i] = len(list) == 0
			for _, x := range list {
				if seen[i][x.Name] {
					t.Fatalf("reader %d: %s twice", i, x.Name)
				}
				seen[i][x.Name], cookie[i] = true, x.Next
			}
		}
	}
	if len(seen[0]) != 102 || len(seen[1]) != 102 {
		t.Errorf("%d and %d entries", len(seen[0]), len(seen[1]))
	}
}

// TestZeroMessageOffered: a guest that cannot do without OPEN gets handles, and
// a share that was not promised to stay as it is takes no handle 0.
func TestZeroMessageOffered(t *testing.T) {
	_, c := store(t, nil, fstest.AllFlags&^(fuse.NoOpenSupport|fuse.NoOpendirSupport))
	d, e := c.Lookup(root, "d")
	ok(t, "LOOKUP", e)
	f, e := c.Lookup(d.Node, "00")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	b, e := c.Read(f.Node, fh, 0, 100)
	if ok(t, "READ", e); string(b) != "file 0" {
		t.Errorf("READ %q", b)
	}
	dh, e := c.Opendir(d.Node)
	ok(t, "OPENDIR", e)
	ok(t, "RELEASEDIR", c.Release(d.Node, dh, true))

	dir, c := connect(t, passthrough.Options{ReadOnly: true})
	write(t, filepath.Join(dir, "f"), "x")
	f, e = c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	want(t, "READ by handle 0", second(c.Read(f.Node, 0, 0, 1)), unix.EBADF)
	want(t, "READDIR by handle 0", second(c.Readdir(root, 0, 0, 4096, false)), unix.EBADF)
}

// TestZeroMessageDescriptors: the files that are open behind handle 0 are
// bounded, charged to the budget, and closed by FORGET and by the session's end.
func TestZeroMessageDescriptors(t *testing.T) {
	b := newBudget(t)
	_, c := store(t, b, fstest.AllFlags)
	d, e := c.Lookup(root, "d")
	ok(t, "LOOKUP", e)
	before := b.Used()
	nodes := make([]virtiofs.NodeID, 100)
	for i := range nodes {
		f, e := c.Lookup(d.Node, fmt.Sprintf("%02d", i))
		ok(t, "LOOKUP", e)
		nodes[i] = f.Node
	}
	known := b.Used()
	readAll := func() {
		t.Helper()
		for i, n := range nodes {
			got, e := c.Read(n, 0, 0, 100)
			if ok(t, "READ", e); string(got) != fmt.Sprintf("file %d", i) {
				t.Fatalf("%q", got)
			}
		}
	}
	readAll()
	used := b.Used()
	if used <= known || used > known+int64(len(nodes)) {
		t.Errorf("%d descriptors for %d files", used-known, len(nodes))
	}
	readAll()
	if again := b.Used(); again != used {
		t.Errorf("%d descriptors at first, %d now", used, again)
	}
	for _, n := range nodes {
		c.Forget(n, 1)
	}
	if got := b.Used(); got != before {
		t.Errorf("%d descriptors are left after FORGET, %d were there before", got, before)
	}
	want(t, "READ after FORGET", second(c.Read(nodes[0], 0, 0, 1)), unix.ESTALE)

	f, e := c.Lookup(d.Node, "00")
	ok(t, "LOOKUP", e)
	_, e = c.Read(f.Node, 0, 0, 1)
	ok(t, "READ", e)
	c.S.Reset()
	if got := b.Used(); got != 0 {
		t.Errorf("%d descriptors are left after a reset", got)
	}
}
