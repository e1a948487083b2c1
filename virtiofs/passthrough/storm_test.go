package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// stormer is one thread of a guest that looks up, opens, renames, makes and
// forgets, in a directory of its own and in one that all share.
type stormer struct {
	f    *FS
	t    *testing.T
	own  virtiofs.NodeID
	wide virtiofs.NodeID
	inos map[string]uint64
}

func (s *stormer) fail(what string, e unix.Errno) bool {
	if e != 0 {
		s.t.Errorf("%s: %v", what, e)
	}
	return e != 0
}

func (s *stormer) round(i int) {
	var e virtiofs.Entry
	shared := fmt.Sprint("f", i%8)
	if s.fail("LOOKUP", s.f.Lookup(s.wide, name(s.t, shared), &e)) {
		return
	}
	if e.Attr.Ino != s.inos[shared] {
		s.t.Errorf("%s has become inode %d", shared, e.Attr.Ino)
	}
	a, err := getattr(s.f, e.Node)
	if s.fail("GETATTR", err) || a.Ino != e.Attr.Ino {
		s.t.Errorf("inode %d, was %d", a.Ino, e.Attr.Ino)
	}
	h, _, err := s.f.Open(e.Node, virtiofs.OpenFlags{})
	if !s.fail("OPEN", err) {
		s.fail("RELEASE", s.f.Release(virtiofs.File{Node: e.Node, Handle: h}))
	}
	s.f.Forget(e.Node, 1)
	s.change(i)
}

func (s *stormer) change(i int) {
	var e virtiofs.Entry
	a, b := name(s.t, fmt.Sprint("a", i)), name(s.t, fmt.Sprint("b", i))
	if s.fail("MKNOD", s.f.Mknod(&virtiofs.Caller{}, s.own, a, unix.S_IFREG|0o644, 0, &e)) {
		return
	}
	runtime.Gosched()
	s.fail("RENAME", s.f.Rename(s.own, a, s.own, b, 0))
	got, err := getattr(s.f, e.Node)
	if s.fail("GETATTR of what was renamed", err) || got.Ino != e.Attr.Ino {
		s.t.Errorf("inode %d, was %d", got.Ino, e.Attr.Ino)
	}
	s.fail("UNLINK", s.f.Unlink(s.own, b))
	s.f.Forget(e.Node, 1)
}

// TestStorm: many threads on hardly any descriptors, which are closed and opened
// all the time. Every call finds the inode it means.
func TestStorm(t *testing.T) {
	const threads = 8
	eachMode(t, func(t *testing.T, o Options) {
		dir := t.TempDir()
		check(t, os.Mkdir(filepath.Join(dir, "wide"), 0o755))
		inos := map[string]uint64{}
		for i := range 8 {
			path := filepath.Join(dir, "wide", fmt.Sprint("f", i))
			check(t, os.WriteFile(path, nil, 0o644))
			var st unix.Stat_t
			check(t, unix.Lstat(path, &st))
			inos[filepath.Base(path)] = st.Ino
		}
		f := shareDir(t, dir, threads+2, o)
		before := descriptors(t)
		wide, _ := lookup(t, f, fuse.RootID, "wide")
		var wg sync.WaitGroup
		var own []virtiofs.NodeID
		for i := range threads {
			check(t, os.Mkdir(filepath.Join(dir, fmt.Sprint("d", i)), 0o755))
			id, _ := lookup(t, f, fuse.RootID, fmt.Sprint("d", i))
			own = append(own, id)
			wg.Go(func() {
				s := stormer{f: f, t: t, own: id, wide: wide, inos: inos}
				for i := range 200 {
					s.round(i)
				}
			})
		}
		wg.Wait()
		for _, id := range append(own, wide) {
			f.Forget(id, 1)
		}
		if s := f.Stats(); s != (Stats{}) || f.budget.Used() != 0 || descriptors(t) != before {
			t.Errorf("%+v, %d in use, %d descriptors more", s, f.budget.Used(), descriptors(t)-before)
		}
	})
}

// TestStormReset: a session that ends leaves nothing, whatever was open.
func TestStormReset(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		f := shareWith(t, 100, 20, o)
		before := descriptors(t)
		var last virtiofs.NodeID
		given := map[virtiofs.NodeID]bool{}
		for range 3 {
			for i := range 100 {
				id, _ := lookup(t, f, fuse.RootID, fmt.Sprint("f", i))
				if i%10 == 0 {
					if _, _, e := f.Open(id, virtiofs.OpenFlags{}); e != 0 {
						t.Fatal(e)
					}
				}
				if given[id] {
					t.Fatal("a node id was given out twice")
				}
				given[id], last = true, id
			}
			f.Reset()
			if s := f.Stats(); s != (Stats{}) || f.budget.Used() != 0 || descriptors(t) != before {
				t.Errorf("%+v, %d in use, %d descriptors more", s, f.budget.Used(), descriptors(t)-before)
			}
			if _, e := getattr(f, last); e != unix.ESTALE {
				t.Errorf("GETATTR of a node of another session: %v", e)
			}
		}
	})
}

// TestSharedBudget: one share makes way for another.
func TestSharedBudget(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		a := shareWith(t, 20, 10, o)
		o.Budget = a.budget
		b, err := New(t.TempDir(), o)
		check(t, err)
		defer b.Close()
		var e virtiofs.Entry
		for i := range 20 {
			id, _ := lookup(t, a, fuse.RootID, fmt.Sprint("f", i))
			if _, e := getattr(a, id); e != 0 {
				t.Fatal(e)
			}
		}
		full := a.Stats().Descriptors
		for i := range 8 {
			if err := b.Mkdir(&virtiofs.Caller{}, fuse.RootID, name(t, fmt.Sprint("d", i)), 0o755, &e); err != 0 {
				t.Fatal(err)
			}
			if _, err := b.Opendir(e.Node); err != 0 {
				t.Fatal(err)
			}
		}
		if now := a.Stats().Descriptors; full != 10 || now > 2 {
			t.Errorf("the other share had %d descriptors and still has %d", full, now)
		}
	})
}

// TestGetattrDuringRename: a node is found while the guest itself renames it to
// and fro and its descriptor is closed all the time.
func TestGetattrDuringRename(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		f := shareWith(t, 1, 100, o)
		id, ino := lookup(t, f, fuse.RootID, "f0")
		names := [2]virtiofs.Name{name(t, "f0"), name(t, "other")}
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 2000 {
				if e := f.Rename(fuse.RootID, names[i%2], fuse.RootID, names[1-i%2], 0); e != 0 {
					t.Errorf("RENAME: %v", e)
					return
				}
			}
		})
		wg.Go(func() {
			for range 2000 {
				f.doze()
				if a, e := getattr(f, id); e != 0 || a.Ino != ino {
					t.Errorf("inode %d, want %d, %v", a.Ino, ino, e)
					return
				}
			}
		})
		wg.Wait()
	})
}
