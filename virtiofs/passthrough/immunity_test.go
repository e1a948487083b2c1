package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// The immunity tests that need a budget of their own; the others, with the same
// numbering, are in virtiofs.

// greedy is a guest with a budget of limit descriptors in a share of files.
func greedy(t *testing.T, files int, limit int64, mode HandleMode) (f *FS, c *fstest.Conn, dir string) {
	t.Helper()
	dir = t.TempDir()
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), []byte("data"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := New(dir, Options{Budget: &Budget{limit: limit}, Handles: mode})
	if err != nil {
		t.Fatal(err)
	}
	c = fstest.Dial(t, virtiofs.NewServer(f, virtiofs.Options{}))
	t.Cleanup(func() {
		if err := c.S.Close(); err != nil {
			t.Fatal(err)
		}
	})
	if _, e := c.Init(fstest.AllFlags); e != 0 {
		t.Fatal(e)
	}
	return f, c, dir
}

// TestImmunity05Descriptors: a guest that knows twice as many files as there are
// descriptors for it, and opens twice as many, is served as far as they go and
// gets ENFILE beyond; the process keeps what is its own, and what the guest gives
// back is there again.
func TestImmunity05Descriptors(t *testing.T) {
	const limit = 60
	for _, mode := range []HandleMode{HandlesAuto, HandlesNever} {
		f, c, _ := greedy(t, 2*limit, limit, mode)
		before := descriptors(t)
		var nodes []virtiofs.NodeID
		for i := range 2 * limit {
			x, e := c.Lookup(fuse.RootID, fmt.Sprint("f", i))
			if e != 0 {
				t.Fatalf("mode %d: LOOKUP %d: %v", mode, i, e)
			}
			nodes = append(nodes, x.Node)
		}
		for i, n := range nodes { // each is opened again, and closes another's
			if a, e := c.Getattr(n); e != 0 || a.Size != 4 {
				t.Fatalf("mode %d: GETATTR %d: %v", mode, i, e)
			}
		}
		var open []uint64
		for i, n := range nodes {
			fh, e := c.Open(n, unix.O_RDWR)
			if e != 0 && e != unix.ENFILE {
				t.Fatalf("mode %d: OPEN %d: %v", mode, i, e)
			}
			if e == 0 {
				open = append(open, fh)
			}
		}
		if len(open) < limit/2 || len(open) > limit {
			t.Errorf("mode %d: %d files are open, the budget is %d", mode, len(open), limit)
		}
		if now := descriptors(t) - before; now > limit+2 || f.budget.Used() > limit {
			t.Errorf("mode %d: %d descriptors more, %d by the budget of %d", mode, now, f.budget.Used(), limit)
		}
		if _, _, e := c.Create(fuse.RootID, "new", unix.O_RDWR, 0o644); e != unix.ENFILE {
			t.Errorf("mode %d: CREATE over the budget: %v", mode, e)
		}
		if _, e := c.Lookup(fuse.RootID, "new"); e != unix.ENOENT && e != unix.ENFILE {
			t.Errorf("mode %d: what was refused is there: %v", mode, e)
		}
		for range 10 { // the machine's own
			own, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			defer own.Close()
		}
		for i, fh := range open {
			if e := c.Release(nodes[i], fh, false); e != 0 {
				t.Fatalf("mode %d: RELEASE %d: %v", mode, i, e)
			}
		}
		if fh, e := c.Open(nodes[len(nodes)-1], unix.O_RDWR); e != 0 {
			t.Errorf("mode %d: OPEN after RELEASE: %v", mode, e)
		} else if e := c.Release(nodes[len(nodes)-1], fh, false); e != 0 {
			t.Errorf("mode %d: RELEASE: %v", mode, e)
		}
		for _, n := range nodes {
			c.Forget(n, 1)
		}
		if f.budget.Used() != 0 || f.Stats().Nodes != 0 {
			t.Errorf("mode %d: %d descriptors and %d nodes are left", mode, f.budget.Used(), f.Stats().Nodes)
		}
	}
}

// TestImmunity05Reserve: guests never get all descriptors of the process.
func TestImmunity05Reserve(t *testing.T) {
	b, err := NewBudget()
	if err != nil {
		t.Fatal(err)
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	if left := int64(lim.Cur) - b.limit; left < int64(min(vmmReserve, lim.Cur/2)) {
		t.Errorf("%d of %d descriptors are left to the machine", left, lim.Cur)
	}
}

// TestImmunity06Memory: looking up the same files for ever costs nothing, and each
// file that a guest knows costs little, whatever it is called.
func TestImmunity06Memory(t *testing.T) {
	const files, bound = 4000, 500 // bytes for each
	for _, mode := range []HandleMode{HandlesAuto, HandlesNever} {
		f, c, dir := greedy(t, files, 100, mode)
		names := make([]string, files)
		for i := range names {
			names[i] = fmt.Sprint("f", i)
			if i%2 == 0 {
				continue
			}
			long := names[i] + strings.Repeat("x", 255-len(names[i]))
			if err := os.Rename(filepath.Join(dir, names[i]), filepath.Join(dir, long)); err != nil {
				t.Fatal(err)
			}
			names[i] = long
		}
		empty := heap()
		for _, name := range names {
			if _, e := c.Lookup(fuse.RootID, name); e != 0 {
				t.Fatalf("mode %d: LOOKUP %s: %v", mode, name, e)
			}
		}
		full := heap()
		each := (full - empty) / files
		t.Logf("mode %d: %d bytes a node", mode, each)
		if each > bound {
			t.Errorf("mode %d: %d bytes a node, more than %d", mode, each, bound)
		}
		for i := range 50_000 {
			if _, e := c.Lookup(fuse.RootID, names[i%100]); e != 0 {
				t.Fatalf("mode %d: LOOKUP: %v", mode, e)
			}
		}
		if grown := heap() - full; grown > 64<<10 {
			t.Errorf("mode %d: %d bytes for nothing but lookups", mode, grown)
		}
		if n := f.Stats().Nodes; n != files {
			t.Errorf("mode %d: %d nodes of %d files", mode, n, files)
		}
	}
}

// heap is the number of bytes in use.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestImmunity06Unlinked: a guest that makes and deletes files for ever and
// forgets none runs into ENFILE; what it cannot be told of is not made.
func TestImmunity06Unlinked(t *testing.T) {
	const bound = 200
	f, c, _ := greedy(t, 0, 1000, HandlesAuto)
	f.inodes.limit = bound
	made := 0
	for i := range 3 * bound {
		name := fmt.Sprint("f", i)
		x, fh, e := c.Create(fuse.RootID, name, unix.O_RDWR|unix.O_EXCL, 0o644)
		if e == unix.ENFILE {
			if _, e := c.Lookup(fuse.RootID, name); e != unix.ENOENT {
				t.Fatalf("%s was refused and is there: %v", name, e)
			}
			continue
		}
		if e != 0 {
			t.Fatalf("CREATE: %v", e)
		}
		made++
		if e := c.Release(x.Node, fh, false); e != 0 {
			t.Fatalf("RELEASE: %v", e)
		}
		if e := c.Unlink(fuse.RootID, name); e != 0 {
			t.Fatalf("UNLINK: %v", e)
		}
	}
	if n := f.Stats().Nodes; made != bound || n != bound {
		t.Errorf("%d files were made and %d nodes are known, the bound is %d", made, n, bound)
	}
}
