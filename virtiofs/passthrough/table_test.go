package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

func name(t *testing.T, s string) virtiofs.Name {
	t.Helper()
	n, _, e := virtiofs.ParseName(append([]byte(s), 0))
	if e != 0 {
		t.Fatal(e)
	}
	return n
}

func share(t *testing.T, files int, limit int64) *FS {
	t.Helper()
	dir := t.TempDir()
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), []byte("data"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := New(dir, Options{Budget: &Budget{limit: limit}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if f.budget.Used() != 0 {
			t.Errorf("%d descriptors are left", f.budget.Used())
		}
	})
	return f
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestBudget: a guest that knows and opens too much gets ENFILE, the process
// keeps its own descriptors, and FORGET and RELEASE give everything back.
func TestBudget(t *testing.T) {
	const limit = 20
	f := share(t, 2*limit, limit)
	before := descriptors(t)
	var e virtiofs.Entry
	var ids []virtiofs.NodeID
	for i := range limit {
		if err := f.Lookup(fuse.RootID, name(t, fmt.Sprint("f", i)), &e); err != 0 {
			t.Fatalf("LOOKUP %d: %v", i, err)
		}
		ids = append(ids, e.Node)
	}
	if err := f.Lookup(fuse.RootID, name(t, fmt.Sprint("f", limit)), &e); err != unix.ENFILE {
		t.Errorf("LOOKUP over the budget: %v", err)
	}
	if err := f.Lookup(fuse.RootID, name(t, "f0"), &e); err != 0 {
		t.Errorf("LOOKUP of a known node over the budget: %v", err)
	}
	if _, _, err := f.Open(ids[0], virtiofs.OpenFlags{}); err != unix.ENFILE {
		t.Errorf("OPEN over the budget: %v", err)
	}
	if _, err := f.Opendir(fuse.RootID); err != unix.ENFILE {
		t.Errorf("OPENDIR over the budget: %v", err)
	}
	if _, err := f.Create(&virtiofs.Caller{}, fuse.RootID, name(t, "new"), 0o644, virtiofs.OpenFlags{Flags: unix.O_RDWR}, &e); err != unix.ENFILE {
		t.Errorf("CREATE over the budget: %v", err)
	}
	if now := descriptors(t); now > before+limit {
		t.Errorf("%d descriptors more, the budget is %d", now-before, limit)
	}
	f.Forget(ids[limit-1], 1)
	h, _, err := f.Open(ids[0], virtiofs.OpenFlags{})
	if err != 0 {
		t.Fatalf("OPEN after FORGET: %v", err)
	}
	if err := f.Release(virtiofs.File{Node: ids[0], Handle: h}); err != 0 {
		t.Fatal(err)
	}
	f.Forget(ids[0], 1) // it was looked up twice
	for _, id := range ids {
		f.Forget(id, 1)
	}
	if f.budget.Used() != 0 || f.inodes.count() != 0 || descriptors(t) != before {
		t.Errorf("%d in use, %d nodes, %d descriptors more", f.budget.Used(), f.inodes.count(), descriptors(t)-before)
	}
}

// TestNothingIsMadeOverBudget: what a guest cannot be told of is not created.
func TestNothingIsMadeOverBudget(t *testing.T) {
	f := share(t, 3, 3)
	var e virtiofs.Entry
	for i := range 3 {
		switch err := f.Lookup(fuse.RootID, name(t, fmt.Sprint("f", i)), &e); {
		case err != 0:
			t.Fatal(err)
		case i < 1:
			continue
		}
		// Two descriptors in use, then three: a file needs two more, the rest one.
		calls := map[string]func() unix.Errno{"create": func() unix.Errno {
			_, err := f.Create(&virtiofs.Caller{}, fuse.RootID, name(t, "create"), 0o644, virtiofs.OpenFlags{Flags: unix.O_RDWR | unix.O_EXCL}, &e)
			return err
		}}
		if i == 2 {
			calls["mkdir"] = func() unix.Errno { return f.Mkdir(&virtiofs.Caller{}, fuse.RootID, name(t, "mkdir"), 0o755, &e) }
			calls["mknod"] = func() unix.Errno {
				return f.Mknod(&virtiofs.Caller{}, fuse.RootID, name(t, "mknod"), unix.S_IFIFO|0o644, 0, &e)
			}
			calls["symlink"] = func() unix.Errno {
				return f.Symlink(&virtiofs.Caller{}, fuse.RootID, name(t, "symlink"), name(t, "target").CString, &e)
			}
		}
		for what, call := range calls {
			if err := call(); err != unix.ENFILE {
				t.Errorf("%s with %d descriptors in use: %v", what, i+1, err)
			}
			if err := f.Lookup(fuse.RootID, name(t, what), &e); err != unix.ENOENT {
				t.Errorf("%s was refused and is there: %v", what, err)
			}
		}
	}
}

// TestListingOverBudget: a directory is listed whole though nodes for all of it
// cannot be had.
func TestListingOverBudget(t *testing.T) {
	f := share(t, 10, 3)
	c := fstest.Dial(t, virtiofs.NewServer(f, virtiofs.Options{}))
	if _, e := c.Init(fstest.AllFlags); e != 0 {
		t.Fatal(e)
	}
	h, e := c.Opendir(fuse.RootID)
	if e != 0 {
		t.Fatal(e)
	}
	list, e := c.Readdir(fuse.RootID, h, 0, 32<<10, true)
	if e != 0 {
		t.Fatal(e)
	}
	nodes := 0
	for _, x := range list {
		if x.Entry.Node != 0 {
			nodes++
		}
	}
	if len(list) != 12 || nodes != 2 {
		t.Errorf("%d entries with %d nodes, want 12 with 2", len(list), nodes)
	}
}

// TestConcurrent: nodes and handles that come and go on many threads are
// counted right, and no call sees a descriptor that became another's.
func TestConcurrent(t *testing.T) {
	f := share(t, 4, 1000)
	before := descriptors(t)
	var wg sync.WaitGroup
	names := []virtiofs.Name{name(t, "f0"), name(t, "f1"), name(t, "f2"), name(t, "f3")}
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var e virtiofs.Entry
			var a fuse.Attr
			buf := make([]byte, 8)
			iov := []unix.Iovec{{Base: &buf[0], Len: 8}}
			for i := range 500 {
				if err := f.Lookup(fuse.RootID, names[(i+w)%4], &e); err != 0 {
					t.Error(err)
					return
				}
				h, _, err := f.Open(e.Node, virtiofs.OpenFlags{})
				if err != 0 {
					t.Error(err)
					return
				}
				file := virtiofs.File{Node: e.Node, Handle: h}
				if n, err := f.Read(file, iov, 0, true); n != 4 || err != 0 {
					t.Errorf("read %d %v", n, err)
				}
				if err := f.Getattr(virtiofs.File{Node: e.Node}, &a); err != 0 || a.Size != 4 {
					t.Errorf("size %d %v", a.Size, err)
				}
				if err := f.Release(file); err != 0 {
					t.Error(err)
				}
				f.Forget(e.Node, 1)
			}
		}()
	}
	wg.Wait()
	if f.inodes.count() != 0 || f.budget.Used() != 0 || descriptors(t) != before {
		t.Errorf("%d nodes, %d in use, %d descriptors more", f.inodes.count(), f.budget.Used(), descriptors(t)-before)
	}
}

// TestInsertTwice: of two threads that find the same new inode, both get one
// node, and the second's descriptor is closed.
func TestInsertTwice(t *testing.T) {
	f := share(t, 0, 10)
	before := descriptors(t)
	var ids [2]virtiofs.NodeID
	for i := range ids {
		fd, err := unix.Dup(f.inodes.root().fd())
		if err != nil {
			t.Fatal(err)
		}
		f.budget.take()
		ids[i], _ = f.inodes.insert(&inode{key: key{1, 2, 3}, path: fd})
	}
	if ids[0] != ids[1] || descriptors(t) != before+1 {
		t.Errorf("nodes %d, %d descriptors more", ids, descriptors(t)-before)
	}
	f.Forget(ids[0], 1)
	if f.inodes.count() != 1 {
		t.Error("2 lookups, 1 forgotten: the node is gone")
	}
	f.Forget(ids[0], 1)
	if f.inodes.count() != 0 || descriptors(t) != before {
		t.Errorf("%d nodes, %d descriptors more", f.inodes.count(), descriptors(t)-before)
	}
}

// TestPinned: a node that is forgotten while a call uses it keeps its descriptor
// until the call is over.
func TestPinned(t *testing.T) {
	f := share(t, 1, 10)
	var e virtiofs.Entry
	if err := f.Lookup(fuse.RootID, name(t, "f0"), &e); err != 0 {
		t.Fatal(err)
	}
	n := f.inodes.pin(e.Node)
	f.Forget(e.Node, 1)
	var st unix.Stat_t
	if err := fstat(n.fd(), &st); err != 0 {
		t.Errorf("the descriptor of a pinned node: %v", err)
	}
	if f.inodes.pin(e.Node) != nil {
		t.Error("a forgotten node is found")
	}
	f.inodes.unpin(n)
	if f.budget.Used() != 0 {
		t.Error("the descriptor was not given back")
	}
}

// TestFDPath holds the paths of descriptors against the formatted number.
func TestFDPath(t *testing.T) {
	for _, fd := range []int{0, 7, 10, 99, 100, 1 << 20, 1<<31 - 1} {
		var p fdPath
		p.absolute(fd)
		if got, want := unix.ByteSliceToString(p[:]), fmt.Sprint(procRoot, fd); got != want {
			t.Errorf("absolute %q, want %q", got, want)
		}
		p.relative(fd)
		if got, want := unix.ByteSliceToString(p[:]), fmt.Sprint(fd); got != want {
			t.Errorf("relative %q, want %q", got, want)
		}
	}
}
