package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// eachMode runs the test with both ways of opening an inode again.
func eachMode(t *testing.T, test func(t *testing.T, o Options)) {
	t.Run("handles", func(t *testing.T) { withHandles(t, test) })
	t.Run("walking", func(t *testing.T) { test(t, Options{Handles: HandlesNever}) })
}

// withHandles runs the test where inodes can be opened by file handle.
func withHandles(t *testing.T, test func(t *testing.T, o Options)) {
	o := Options{Handles: HandlesAlways}
	f, err := New(t.TempDir(), o)
	if err != nil {
		t.Skipf("SKIPPED: no file handles here: %v", err)
	}
	check(t, f.Close())
	test(t, o)
}

// doze closes every descriptor that may be closed.
func (f *FS) doze() {
	for f.budget.evict() {
	}
}

func lookup(t *testing.T, f *FS, parent virtiofs.NodeID, s string) (id virtiofs.NodeID, ino uint64) {
	t.Helper()
	var e virtiofs.Entry
	if err := f.Lookup(parent, name(t, s), &e); err != 0 {
		t.Fatalf("LOOKUP %s: %v", s, err)
	}
	return e.Node, e.Attr.Ino
}

func getattr(f *FS, id virtiofs.NodeID) (fuse.Attr, unix.Errno) {
	var a fuse.Attr
	e := f.Getattr(virtiofs.File{Node: id}, &a)
	return a, e
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestBudget: a guest that knows more inodes than there are descriptors goes on,
// one that opens too much gets ENFILE, the process keeps its own descriptors, and
// FORGET and RELEASE give everything back.
func TestBudget(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		const limit, share = 16, 2
		f := shareWith(t, 4*limit, limit, o)
		before := descriptors(t)
		ids := make([]virtiofs.NodeID, 4*limit)
		for round := range 3 {
			for i := range ids {
				ids[i], _ = lookup(t, f, fuse.RootID, fmt.Sprint("f", i))
				if a, e := getattr(f, ids[i]); e != 0 || a.Size != 4 {
					t.Fatalf("GETATTR %d: %v", i, e)
				}
			}
			if now := descriptors(t) - before; now > limit || round > 0 && now < limit {
				t.Errorf("%d descriptors more, the budget is %d", now, limit)
			}
		}
		var open []virtiofs.File
		for _, id := range ids {
			h, _, e := f.Open(id, virtiofs.OpenFlags{})
			if e == unix.ENFILE {
				break
			}
			if e != 0 {
				t.Fatal(e)
			}
			open = append(open, virtiofs.File{Node: id, Handle: h})
		}
		if len(open) != limit-share {
			t.Errorf("%d files could be opened, want %d", len(open), limit-share)
		}
		if _, e := f.Opendir(fuse.RootID); e != unix.ENFILE {
			t.Errorf("OPENDIR over the budget: %v", e)
		}
		for i, id := range ids {
			if _, e := getattr(f, id); e != 0 {
				t.Errorf("GETATTR %d while the budget is in open files: %v", i, e)
			}
		}
		if now := descriptors(t) - before; now > limit {
			t.Errorf("%d descriptors more, the budget is %d", now, limit)
		}
		for _, file := range open {
			if e := f.Release(file); e != 0 {
				t.Fatal(e)
			}
		}
		for _, id := range ids {
			f.Forget(id, 3)
		}
		if s := f.Stats(); s != (Stats{}) || f.budget.Used() != 0 || descriptors(t) != before {
			t.Errorf("%+v, %d in use, %d descriptors more", s, f.budget.Used(), descriptors(t)-before)
		}
	})
}

// TestNothingIsMadeOverBudget: what a guest cannot be told of is not created.
func TestNothingIsMadeOverBudget(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		f := shareWith(t, 3, 4, o)
		for i := range 3 {
			id, _ := lookup(t, f, fuse.RootID, fmt.Sprint("f", i))
			if _, _, e := f.Open(id, virtiofs.OpenFlags{}); e != 0 {
				t.Fatal(e)
			}
		}
		var e virtiofs.Entry
		create := func(s string) unix.Errno {
			_, err := f.Create(&virtiofs.Caller{}, fuse.RootID, name(t, s), 0o644, virtiofs.OpenFlags{Flags: unix.O_RDWR | unix.O_EXCL}, &e)
			return err
		}
		if err := create("over"); err != unix.ENFILE {
			t.Errorf("CREATE over the budget: %v", err)
		}
		f.inodes.limit = 4
		if err := f.Mkdir(&virtiofs.Caller{}, fuse.RootID, name(t, "last"), 0o755, &e); err != 0 {
			t.Errorf("MKDIR: %v", err)
		}
		if err := f.Mkdir(&virtiofs.Caller{}, fuse.RootID, name(t, "over"), 0o755, &e); err != unix.ENFILE {
			t.Errorf("MKDIR over the number of nodes: %v", err)
		}
		if err := f.Lookup(fuse.RootID, name(t, "over"), &e); err != unix.ENOENT {
			t.Errorf("what was refused is there: %v", err)
		}
	})
}

// TestMaxNodes: a guest that knows too many inodes gets ENFILE until it forgets one.
func TestMaxNodes(t *testing.T) {
	f := share(t, 3, 100)
	f.inodes.limit = 2
	first, _ := lookup(t, f, fuse.RootID, "f0")
	lookup(t, f, fuse.RootID, "f1")
	var e virtiofs.Entry
	if err := f.Lookup(fuse.RootID, name(t, "f2"), &e); err != unix.ENFILE {
		t.Errorf("LOOKUP of the third of two: %v", err)
	}
	f.Forget(first, 1)
	lookup(t, f, fuse.RootID, "f2")
}

// TestLeastRecentlyUsed: of nodes that nothing uses the one goes that was not
// used lately.
func TestLeastRecentlyUsed(t *testing.T) {
	f := shareWith(t, 3, 100, Options{Handles: HandlesNever})
	for used := range 3 {
		ids := make([]virtiofs.NodeID, 3)
		f.doze()
		for i := range ids {
			ids[i], _ = lookup(t, f, fuse.RootID, fmt.Sprint("f", i))
			if _, e := getattr(f, ids[i]); e != 0 {
				t.Fatal(e)
			}
		}
		f.budget.evict() // takes the marks off all, and closes one
		if _, e := getattr(f, ids[used]); e != 0 {
			t.Fatal(e)
		}
		f.budget.evict()
		n, open := f.inodes.pin(ids[used])
		f.unpin(n)
		if s := f.Stats(); !open || s.Descriptors > 2 {
			t.Errorf("f%d, which was used last, is open: %v; %+v", used, open, s)
		}
	}
}

// TestDeep: an inode far down is opened through all that is above it, up to a bound.
func TestDeep(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		f := shareWith(t, 0, 100, o)
		parent, reached := virtiofs.NodeID(fuse.RootID), virtiofs.NodeID(0)
		for i := range maxDepth + 2 {
			var e virtiofs.Entry
			if err := f.Mkdir(&virtiofs.Caller{}, parent, name(t, "d"), 0o755, &e); err != 0 {
				t.Fatal(err)
			}
			parent = e.Node
			if i == maxDepth/2 {
				reached = parent
			}
		}
		f.doze()
		if _, e := getattr(f, reached); e != 0 {
			t.Errorf("half way down: %v", e)
		}
		if _, e := getattr(f, parent); e != 0 {
			t.Errorf("from half way to the end: %v", e)
		}
		f.doze()
		if _, e := getattr(f, parent); e != 0 && (o.Handles != HandlesNever || e != unix.ESTALE) {
			t.Errorf("the end: %v", e)
		} else if e == 0 && o.Handles == HandlesNever {
			t.Error("there is no bound")
		}
	})
}

// TestTypeOfNumber: an inode that has another's number but not its type is another.
func TestTypeOfNumber(t *testing.T) {
	f := share(t, 0, 10)
	var ids [2]virtiofs.NodeID
	for i, typ := range []uint32{unix.S_IFREG, unix.S_IFDIR} {
		m := f.inodes.root().key.mount
		m.users.Add(1)
		var e unix.Errno
		x := newcomer{key: key{ino: 1 << 40, btime: 1, mount: m}, typ: typ, path: -1, parent: fuse.RootID, addr: newAddress(nil, &[]byte("x\x00")[0])}
		if ids[i], _, e = f.inodes.insert(&x); e != 0 {
			t.Fatal(e)
		}
	}
	if ids[0] == ids[1] {
		t.Error("a file and a directory are one node")
	}
}

// TestHostChanges: what a closed node is after the host has changed something.
func TestHostChanges(t *testing.T) {
	const same, stale, another = "the same inode", "ESTALE", "the inode that has its name"
	replace := func(make func(path string) error) func(dir string) error {
		return func(dir string) error {
			if err := make(filepath.Join(dir, "d/new")); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "d/new"), filepath.Join(dir, "d/f"))
		}
	}
	newFile := func(path string) error { return os.WriteFile(path, []byte("other"), 0o644) }
	cases := []struct {
		what             string
		change           func(dir string) error
		handles, walking string
		now              string // the path by which it is found again, if it is
	}{
		{"nothing", func(string) error { return nil }, same, same, "d/f"},
		{"file renamed", func(d string) error { return os.Rename(d+"/d/f", d+"/d/g") }, same, stale, "d/g"},
		{"directory renamed", func(d string) error { return os.Rename(d+"/d", d+"/e") }, same, stale, "e/f"},
		{"file removed", func(d string) error { return os.Remove(d + "/d/f") }, stale, stale, ""},
		{"file replaced", replace(newFile), another, stale, ""},
		{"by a link", replace(func(p string) error { return os.Symlink("x", p) }), stale, stale, ""},
		{"by a FIFO", replace(func(p string) error { return unix.Mkfifo(p, 0o644) }), stale, stale, ""},
	}
	for _, c := range cases {
		t.Run(c.what, func(t *testing.T) {
			eachMode(t, func(t *testing.T, o Options) {
				want := c.handles
				if o.Handles == HandlesNever {
					want = c.walking
				}
				dir := t.TempDir()
				check(t, os.Mkdir(dir+"/d", 0o755))
				check(t, os.WriteFile(dir+"/d/f", []byte("data"), 0o644))
				f := shareDir(t, dir, 100, o)
				d, _ := lookup(t, f, fuse.RootID, "d")
				id, ino := lookup(t, f, d, "f")
				f.doze()
				if s := f.Stats(); s.Descriptors != 0 {
					t.Fatalf("%+v", s)
				}
				check(t, c.change(dir))
				a, e := getattr(f, id)
				got := stale
				switch {
				case e == 0 && a.Ino == ino && a.Size == 4:
					got = same
				case e == 0 && a.Size == 5:
					got = another
				case e != unix.ESTALE:
					t.Fatalf("GETATTR: %v", e)
				}
				if got != want {
					t.Fatalf("%s, want %s", got, want)
				}
				if want == another {
					if again, _ := lookup(t, f, d, "f"); again != id {
						t.Error("LOOKUP of the name finds another node than the one that took it on")
					}
				}
				if c.now != "" {
					parent, _ := lookup(t, f, fuse.RootID, filepath.Dir(c.now))
					if again, _ := lookup(t, f, parent, filepath.Base(c.now)); again != id {
						t.Error("LOOKUP finds another node")
					}
					f.doze()
					if a, e := getattr(f, id); e != 0 || a.Ino != ino {
						t.Errorf("GETATTR after LOOKUP: %v", e)
					}
				}
			})
		})
	}
}

// TestRebindIsRefused: a node does not become another inode when the guest knows
// that one already, or has itself changed names there.
func TestRebindIsRefused(t *testing.T) {
	cases := map[string]func(t *testing.T, f *FS){
		"known":   func(t *testing.T, f *FS) { lookup(t, f, fuse.RootID, "f1") },
		"renamed": func(t *testing.T, f *FS) { f.Rename(fuse.RootID, name(t, "f2"), fuse.RootID, name(t, "x"), 0) },
		"removed": func(t *testing.T, f *FS) { f.Unlink(fuse.RootID, name(t, "f2")) },
	}
	for what, before := range cases {
		t.Run(what, func(t *testing.T) {
			withHandles(t, func(t *testing.T, o Options) {
				dir := t.TempDir()
				for i := range 3 {
					check(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), nil, 0o644))
				}
				f := shareDir(t, dir, 100, o)
				id, _ := lookup(t, f, fuse.RootID, "f0")
				f.doze()
				before(t, f)
				check(t, os.Rename(dir+"/f1", dir+"/f0"))
				if a, e := getattr(f, id); e != unix.ESTALE {
					t.Errorf("inode %d, %v", a.Ino, e)
				}
			})
		})
	}
}

// TestAdoptedForgotten: a node that became another inode is forgotten as any.
func TestAdoptedForgotten(t *testing.T) {
	withHandles(t, func(t *testing.T, o Options) {
		dir := t.TempDir()
		check(t, os.WriteFile(dir+"/f", nil, 0o644))
		f := shareDir(t, dir, 100, o)
		id, _ := lookup(t, f, fuse.RootID, "f")
		for range 3 {
			f.doze()
			check(t, os.WriteFile(dir+"/new", nil, 0o644))
			check(t, os.Rename(dir+"/new", dir+"/f"))
			if _, e := getattr(f, id); e != 0 {
				t.Fatal(e)
			}
		}
		f.Forget(id, 1)
		if s := f.Stats(); s != (Stats{}) || f.inodes.adopted.some.Load() != 0 || len(f.inodes.adopted.ids) != 0 {
			t.Errorf("%+v, %d adopted", s, len(f.inodes.adopted.ids))
		}
		if again, _ := lookup(t, f, fuse.RootID, "f"); again == id {
			t.Error("a forgotten node is found")
		}
	})
}

// TestInodeNumberReuse: a new inode with an old one's number is another node,
// though nothing holds the old one open.
func TestInodeNumberReuse(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		dir := t.TempDir()
		f := shareDir(t, dir, 100, o)
		for try := range 20 {
			old, path := fmt.Sprint("old", try), filepath.Join(dir, fmt.Sprint("new", try))
			check(t, os.WriteFile(filepath.Join(dir, old), nil, 0o644))
			id, ino := lookup(t, f, fuse.RootID, old)
			f.doze()
			check(t, os.Remove(filepath.Join(dir, old)))
			time.Sleep(20 * time.Millisecond) // file systems stamp with a clock that ticks
			check(t, os.WriteFile(path, nil, 0o644))
			next, number := lookup(t, f, fuse.RootID, filepath.Base(path))
			if number != ino {
				continue
			}
			if next == id {
				t.Error("one node for two inodes")
			}
			if _, e := getattr(f, id); e != unix.ESTALE {
				t.Errorf("GETATTR of the old one: %v", e)
			}
			return
		}
		t.Skip("SKIPPED: the file system did not use an inode number twice")
	})
}
