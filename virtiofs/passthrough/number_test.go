package passthrough

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// TestMountNumberReuse: what the host mounts in the place of what it has
// unmounted gets the same device and mount numbers. If it is a window into the
// kernel it stays shut, though the guest has not forgotten what was there.
func TestMountNumberReuse(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(dir+"/m", 0o755))
	if err := unix.Mount("none", dir+"/m", "tmpfs", 0, ""); err != nil {
		t.Skipf("SKIPPED: mounting needs CAP_SYS_ADMIN: %v", err)
	}
	defer func() { _ = unix.Unmount(dir+"/m", unix.MNT_DETACH) }()
	// With file handles a descriptor would keep the host from unmounting it.
	f := shareDir(t, dir, 100, Options{Handles: HandlesNever})
	lookup(t, f, fuse.RootID, "m")
	f.doze()
	check(t, unix.Unmount(dir+"/m", 0))
	check(t, unix.Mount("proc", dir+"/m", "proc", 0, ""))
	m, _ := lookup(t, f, fuse.RootID, "m")
	var e virtiofs.Entry
	if err := f.Lookup(m, name(t, "version"), &e); err != unix.ENOENT {
		t.Errorf("LOOKUP in the host's /proc: %v", err)
	}
}

// TestSuccessor: an inode that gets the number of one that was deleted, and its
// time of birth too as the host's clock ticks slowly or there is none, is another
// node, though the guest has not forgotten the first.
func TestSuccessor(t *testing.T) {
	withHandles(t, func(t *testing.T, o Options) {
		f := shareWith(t, 0, 100, o)
		f.inodes.root().key.mount.births = false
		for try := range 20 {
			old, next := fmt.Sprint("old", try), fmt.Sprint("new", try)
			id, ino := create(t, f, old)
			if e := f.Unlink(fuse.RootID, name(t, old)); e != 0 {
				t.Fatal(e)
			}
			other, number := create(t, f, next)
			if number != ino {
				continue
			}
			if other == id {
				t.Error("one node for two inodes")
			}
			if again, _ := lookup(t, f, fuse.RootID, next); again != other {
				t.Error("two nodes for one inode")
			}
			if _, e := getattr(f, id); e != unix.ESTALE {
				t.Errorf("GETATTR of the old one: %v", e)
			}
			f.Forget(id, 1)
			if a, e := getattr(f, other); e != 0 || a.Ino != ino {
				t.Errorf("GETATTR of the new one after FORGET of the old: %v", e)
			}
			return
		}
		t.Skip("SKIPPED: the file system did not use an inode number twice")
	})
}

// create makes a file and closes it.
func create(t *testing.T, f *FS, s string) (id virtiofs.NodeID, ino uint64) {
	t.Helper()
	var e virtiofs.Entry
	h, err := f.Create(&virtiofs.Caller{}, fuse.RootID, name(t, s), 0o644, virtiofs.OpenFlags{Flags: unix.O_RDWR}, &e)
	if err == 0 {
		err = f.Release(virtiofs.File{Node: e.Node, Handle: h})
	}
	if err != 0 {
		t.Fatalf("CREATE %s: %v", s, err)
	}
	return e.Node, e.Attr.Ino
}

// TestSuccessorMade is TestSuccessor for what is made without being opened, which
// is found by its name: it is the host's clock that makes the two alike here.
func TestSuccessorMade(t *testing.T) {
	withHandles(t, func(t *testing.T, o Options) {
		f := shareWith(t, 1, 100, o)
		id, ino := lookup(t, f, fuse.RootID, "f0")
		n, _ := f.inodes.pin(id)
		n.addr = stale(n.addr)
		f.unpin(n)
		var e virtiofs.Entry
		p := f.inodes.root()
		if err := f.born(p, name(t, "f0").Pointer(), &e); err != 0 || e.Node == id || e.Attr.Ino != ino {
			t.Errorf("node %d, was %d, %v", e.Node, id, err)
		}
		if _, err := getattr(f, e.Node); err != 0 {
			t.Errorf("GETATTR: %v", err)
		}
		if _, err := getattr(f, id); err != unix.ESTALE {
			t.Errorf("GETATTR of the old one: %v", err)
		}
		f.Forget(id, 1)
		if again, _ := lookup(t, f, fuse.RootID, "f0"); again != e.Node {
			t.Error("two nodes for one inode")
		}
	})
}

// stale is the address of an inode of the same number before it was deleted.
func stale(a address) address {
	b := []byte(a)
	b[addressHead+int(b[0])-1] ^= 0x55
	return address(b)
}
