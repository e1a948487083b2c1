package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// known looks up the files f0, f1, ... of a share.
func known(t *testing.T, f *FS, files int) []virtiofs.NodeID {
	t.Helper()
	ids := make([]virtiofs.NodeID, files)
	for i := range ids {
		var e virtiofs.Entry
		if err := f.Lookup(fuse.RootID, name(t, fmt.Sprint("f", i)), &e); err != 0 {
			t.Fatal(err)
		}
		ids[i] = e.Node
	}
	return ids
}

// readZero reads a file of four bytes by handle 0.
func readZero(f *FS, id virtiofs.NodeID) unix.Errno {
	buf := make([]byte, 8)
	n, e := f.Read(virtiofs.File{Node: id}, []unix.Iovec{{Base: &buf[0], Len: 8}}, 0, virtiofs.ReadFlags{MayBlock: true})
	if e == 0 && string(buf[:n]) != "data" {
		return unix.EILSEQ
	}
	return e
}

// TestImplicitMakesRoom: when the budget is used up, what was not opened by the
// guest itself makes room for the next, and only then is it ENFILE.
func TestImplicitMakesRoom(t *testing.T) {
	const limit = 16
	f := shareWith(t, 4*limit, limit, Options{ReadOnly: true, Immutable: true})
	ids := known(t, f, 4*limit)
	for range 2 {
		for _, id := range ids {
			if e := readZero(f, id); e != 0 {
				t.Fatalf("READ with %d of %d descriptors in use: %v", f.budget.Used(), limit, e)
			}
			if used := f.budget.Used(); used > limit {
				t.Fatalf("%d descriptors, the budget is %d", used, limit)
			}
		}
	}
	// With nothing to close there is nothing to open.
	f.Reset()
	id := known(t, f, 1)[0]
	for e := unix.Errno(0); e != unix.ENFILE; {
		if _, _, e = f.Open(id, virtiofs.OpenFlags{}); e != 0 && e != unix.ENFILE {
			t.Fatal(e)
		}
	}
	if e := readZero(f, id); e != unix.ENFILE {
		t.Errorf("READ with the budget used up: %v", e)
	}
}

// TestImplicitIsBounded: however many files are read, few stay open.
func TestImplicitIsBounded(t *testing.T) {
	const files = 2 * shards * implicitWays
	f := shareWith(t, files, 3*files, Options{ReadOnly: true, Immutable: true})
	for _, id := range known(t, f, files) {
		if e := readZero(f, id); e != 0 {
			t.Fatal(e)
		}
	}
	if n := f.budget.files.Load(); n > shards*implicitWays || n < shards {
		t.Errorf("%d files are open, want %d at most", n, shards*implicitWays)
	}
}

// TestImplicitOpenedTwice: two calls that find a file not open end up with one.
func TestImplicitOpenedTwice(t *testing.T) {
	f := shareWith(t, 1, 100, Options{ReadOnly: true, Immutable: true})
	id := known(t, f, 1)[0]
	first, e := f.openImplicit(id)
	if e != 0 {
		t.Fatal(e)
	}
	second, e := f.openImplicit(id)
	if e != 0 || second != first {
		t.Errorf("another file: %v", e)
	}
	f.handles.unpin(first)
	f.handles.unpin(second)
	if n := f.budget.files.Load(); n != 1 {
		t.Errorf("%d files are open, want 1", n)
	}
	f.implicit.close(id)
	if n := f.budget.files.Load(); n != 0 {
		t.Errorf("%d files are open after FORGET", n)
	}
}

// TestImplicitConcurrent: files that are opened, evicted and forgotten under
// each other's feet are read right and closed once.
func TestImplicitConcurrent(t *testing.T) {
	const files = 40
	f := shareWith(t, files, 24, Options{ReadOnly: true, Immutable: true})
	ids := known(t, f, files)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 500 {
				id := ids[(i*7+w*3)%files]
				if i%5 == 4 {
					f.Forget(id, 0) // closes the file; the node stays
				}
				if e := readZero(f, id); e != 0 && e != unix.ENFILE {
					t.Errorf("READ: %v", e)
					return
				}
			}
		}()
	}
	wg.Wait()
}

// TestAttributesByHandle: a file that is gone from the host is still described to
// who has it open, by GETATTR and by STATX.
func TestAttributesByHandle(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f0")
	if err := os.WriteFile(path, []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := shareDir(t, dir, 100, Options{Handles: HandlesNever})
	id := known(t, f, 1)[0]
	h, _, e := f.Open(id, virtiofs.OpenFlags{})
	if e != 0 {
		t.Fatal(e)
	}
	f.doze()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	var a fuse.Attr
	var st unix.Statx_t
	for _, x := range []struct {
		handle virtiofs.Handle
		want   unix.Errno
	}{{h, 0}, {0, unix.ESTALE}, {h + 1, unix.ESTALE}} {
		file := virtiofs.File{Node: id, Handle: x.handle}
		if e := f.Getattr(file, &a); e != x.want || e == 0 && a.Size != 4 {
			t.Errorf("GETATTR by handle %d: %v, size %d", x.handle, e, a.Size)
		}
		if e := f.Statx(file, unix.STATX_BASIC_STATS, &st); e != x.want || e == 0 && st.Size != 4 {
			t.Errorf("STATX by handle %d: %v, size %d", x.handle, e, st.Size)
		}
	}
}

// TestClosedSlots: a file that falls on another's slot takes it, and is not
// taken for the other; permanent nodes have slots too.
func TestClosedSlots(t *testing.T) {
	var c closed
	a, b, graft := virtiofs.NodeID(5+shards), virtiofs.NodeID(5+shards+shards*closedSlots), virtiofs.NodeID(7)
	sa, sb := stamp{1, 2, 3}, stamp{4, 5, 6}
	if got := c.get(a); got != (stamp{}) {
		t.Errorf("an empty table has %v", got)
	}
	c.put(a, sa)
	c.put(graft, sb)
	if got := c.get(a); got != sa {
		t.Errorf("%v, want %v", got, sa)
	}
	if got := c.get(b); got != (stamp{}) {
		t.Errorf("another's %v", got)
	}
	c.put(b, sb)
	if got := c.get(b); got != sb {
		t.Errorf("%v, want %v", got, sb)
	}
	if got := c.get(a); got != (stamp{}) {
		t.Errorf("%v, of which another has taken the slot", got)
	}
	if got := c.get(graft); got != sb {
		t.Errorf("%v of a graft, want %v", got, sb)
	}
}

// TestClosedReset: a session's end gives the memory back.
func TestClosedReset(t *testing.T) {
	f := share(t, 1, 100)
	id := known(t, f, 1)[0]
	h, _, e := f.Open(id, virtiofs.OpenFlags{Compare: true})
	if e != 0 {
		t.Fatal(e)
	}
	if e := f.Release(virtiofs.File{Node: id, Handle: h}); e != 0 {
		t.Fatal(e)
	}
	s := &f.closed.shard[id%shards]
	if s.slot == nil {
		t.Error("nothing was kept")
	}
	if f.Reset(); s.slot != nil || f.closed.wanted.Load() {
		t.Error("the table is still there")
	}
}
