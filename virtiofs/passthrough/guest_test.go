package passthrough

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// TestGuestChanges: inodes whose names the guest changes are found again
// afterwards, and those it removes stay as long as it knows them.
func TestGuestChanges(t *testing.T) {
	type step func(t *testing.T, f *FS, d virtiofs.NodeID) unix.Errno
	cases := map[string]struct {
		do    step
		nlink map[string]uint32 // of f0, f1 and d afterwards; 1 where nothing is said, 2 for d
	}{
		"rename": {do: func(t *testing.T, f *FS, d virtiofs.NodeID) unix.Errno {
			return f.Rename(fuse.RootID, name(t, "f0"), d, name(t, "g"), 0)
		}},
		"rename of a directory": {do: func(t *testing.T, f *FS, d virtiofs.NodeID) unix.Errno {
			if e := f.Rename(fuse.RootID, name(t, "f0"), d, name(t, "g"), 0); e != 0 {
				return e
			}
			f.doze()
			return f.Rename(fuse.RootID, name(t, "d"), fuse.RootID, name(t, "e"), 0)
		}},
		"exchange": {do: func(t *testing.T, f *FS, d virtiofs.NodeID) unix.Errno {
			return f.Rename(fuse.RootID, name(t, "f0"), fuse.RootID, name(t, "f1"), unix.RENAME_EXCHANGE)
		}},
		"rename over": {do: func(t *testing.T, f *FS, d virtiofs.NodeID) unix.Errno {
			return f.Rename(fuse.RootID, name(t, "f0"), fuse.RootID, name(t, "f1"), 0)
		}, nlink: map[string]uint32{"f1": 0}},
		"unlink": {do: func(t *testing.T, f *FS, d virtiofs.NodeID) unix.Errno {
			return f.Unlink(fuse.RootID, name(t, "f1"))
		}, nlink: map[string]uint32{"f1": 0}},
		"rmdir": {do: func(t *testing.T, f *FS, d virtiofs.NodeID) unix.Errno {
			return f.Rmdir(fuse.RootID, name(t, "d"))
		}, nlink: map[string]uint32{"d": 0}},
		"link, then unlink": {do: func(t *testing.T, f *FS, d virtiofs.NodeID) unix.Errno {
			id, _ := lookup(t, f, fuse.RootID, "f0")
			var e virtiofs.Entry
			if err := f.Link(id, d, name(t, "other"), &e); err != 0 || e.Node != id {
				t.Fatalf("LINK: node %d for %d, %v", e.Node, id, err)
			}
			return f.Unlink(fuse.RootID, name(t, "f0"))
		}},
		"failures": {do: func(t *testing.T, f *FS, d virtiofs.NodeID) unix.Errno {
			for what, e := range map[string]unix.Errno{
				"rename over a directory": f.Rename(fuse.RootID, name(t, "f0"), fuse.RootID, name(t, "d"), 0),
				"noreplace":               f.Rename(fuse.RootID, name(t, "f0"), fuse.RootID, name(t, "f1"), unix.RENAME_NOREPLACE),
				"unlink of a directory":   f.Unlink(fuse.RootID, name(t, "d")),
			} {
				if e == 0 {
					t.Errorf("%s succeeded", what)
				}
			}
			return 0
		}},
	}
	for what, c := range cases {
		t.Run(what, func(t *testing.T) {
			f := shareWith(t, 2, 100, Options{Handles: HandlesNever})
			var e virtiofs.Entry
			if err := f.Mkdir(&virtiofs.Caller{}, fuse.RootID, name(t, "d"), 0o755, &e); err != 0 {
				t.Fatal(err)
			}
			ids, inos := map[string]virtiofs.NodeID{"d": e.Node}, map[string]uint64{"d": e.Attr.Ino}
			for _, s := range []string{"f0", "f1"} {
				ids[s], inos[s] = lookup(t, f, fuse.RootID, s)
			}
			f.doze()
			if e := c.do(t, f, e.Node); e != 0 {
				t.Fatal(e)
			}
			f.doze()
			for s, id := range ids {
				want, said := c.nlink[s]
				if !said && s != "d" {
					want = 1
				}
				a, e := getattr(f, id)
				if e != 0 || a.Ino != inos[s] || (said || s != "d") && a.Nlink != want {
					t.Errorf("%s: inode %d with %d links, want %d with %d, %v", s, a.Ino, a.Nlink, inos[s], want, e)
				}
			}
		})
	}
}

// TestRemovedWhileOpen: a file that the guest has open and removes, or that never
// had a name, is there until it is closed, though its node's descriptor is closed.
func TestRemovedWhileOpen(t *testing.T) {
	for what, parent := range map[string]string{"disk": "", "memory": "/dev/shm"} {
		t.Run(what, func(t *testing.T) {
			eachMode(t, func(t *testing.T, o Options) {
				dir, err := os.MkdirTemp(parent, "tenon-removed-")
				if err != nil {
					t.Skipf("SKIPPED: %v", err)
				}
				defer os.RemoveAll(dir)
				f := shareDir(t, dir, 100, o)
				var e virtiofs.Entry
				flags := virtiofs.OpenFlags{Flags: unix.O_RDWR}
				made, err1 := f.Create(&virtiofs.Caller{}, fuse.RootID, name(t, "f"), 0o644, flags, &e)
				id, ino := e.Node, e.Attr.Ino
				unnamed, err2 := f.Tmpfile(&virtiofs.Caller{}, fuse.RootID, 0o644, flags, &e)
				if err1 != 0 || err2 != 0 {
					t.Fatal(err1, err2)
				}
				if e := f.Unlink(fuse.RootID, name(t, "f")); e != 0 {
					t.Fatal(e)
				}
				f.doze()
				for node, want := range map[virtiofs.NodeID]uint64{id: ino, e.Node: e.Attr.Ino} {
					if a, e := getattr(f, node); e != 0 || a.Ino != want || a.Nlink != 0 {
						t.Errorf("inode %d with %d links, want %d with none, %v", a.Ino, a.Nlink, want, e)
					}
				}
				for node, h := range map[virtiofs.NodeID]virtiofs.Handle{id: made, e.Node: unnamed} {
					if e := f.Release(virtiofs.File{Node: node, Handle: h}); e != 0 {
						t.Error(e)
					}
				}
			})
		})
	}
}

// TestUnnamed: an inode that has no name is kept open, and no longer than that.
func TestUnnamed(t *testing.T) {
	f := shareWith(t, 0, 100, Options{Handles: HandlesNever})
	var e virtiofs.Entry
	h, err := f.Tmpfile(&virtiofs.Caller{}, fuse.RootID, 0o644, virtiofs.OpenFlags{Flags: unix.O_RDWR}, &e)
	if err != 0 {
		t.Fatal(err)
	}
	id, ino := e.Node, e.Attr.Ino
	f.doze()
	if s := f.Stats(); s.Descriptors != 1 {
		t.Errorf("%+v", s)
	}
	if err := f.Link(id, fuse.RootID, name(t, "named"), &e); err != 0 || e.Node != id {
		t.Fatalf("LINK: node %d, %v", e.Node, err)
	}
	if err := f.Release(virtiofs.File{Node: id, Handle: h}); err != 0 {
		t.Fatal(err)
	}
	f.doze()
	if s := f.Stats(); s.Descriptors != 0 {
		t.Errorf("with a name: %+v", s)
	}
	if a, err := getattr(f, id); err != 0 || a.Ino != ino {
		t.Errorf("inode %d, want %d, %v", a.Ino, ino, err)
	}
}
