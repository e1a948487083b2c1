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

// recalled asks for the node's attributes until it can be recalled.
func recalled(t *testing.T, f *FS, id virtiofs.NodeID) *opened {
	t.Helper()
	for range 2 * replaceEvery {
		if x := f.inodes.recall(id); x != nil {
			return x
		}
		if _, e := getattr(f, id); e != 0 {
			t.Fatalf("GETATTR: %v", e)
		}
	}
	t.Skip("SKIPPED: the temporary directory's file system tells nothing at once")
	return nil
}

// TestRecallEnds: whatever closes a node's descriptor is seen by those who were just
// using it.
func TestRecallEnds(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		for what, end := range map[string]func(*FS, virtiofs.NodeID){
			"closed":    func(f *FS, _ virtiofs.NodeID) { f.doze() },
			"forgotten": func(f *FS, id virtiofs.NodeID) { f.Forget(id, 1) },
			"reset":     func(f *FS, _ virtiofs.NodeID) { f.Reset() },
		} {
			t.Run(what, func(t *testing.T) {
				f := shareWith(t, 1, 64, o)
				id, _ := lookup(t, f, fuse.RootID, "f0")
				x := recalled(t, f, id)
				if !x.still() {
					t.Fatal("not there although nothing happened")
				}
				if end(f, id); x.still() {
					t.Error("still there")
				}
			})
		}
	})
}

// TestRecalledIsUsed: a node that is only recalled counts as used when one has to be
// closed.
func TestRecalledIsUsed(t *testing.T) {
	f := shareWith(t, 3, 64, Options{Handles: HandlesNever})
	var ids [3]virtiofs.NodeID
	for i := range ids {
		ids[i], _ = lookup(t, f, fuse.RootID, fmt.Sprint("f", i))
		recalled(t, f, ids[i])
	}
	f.budget.evict() // all were used: one is closed, the others are asked again
	var left []virtiofs.NodeID
	for _, id := range ids {
		if n, open := f.inodes.pin(id); n != nil {
			f.inodes.unpin(n)
			if open {
				left = append(left, id)
			}
		}
	}
	if len(left) != 2 {
		t.Fatalf("%d open, 2 should be", len(left))
	}
	for _, id := range left { // the pins above do not count here
		s := &f.inodes.shard[id%shards]
		s.mu.Lock()
		s.get(id).used = false
		s.recalled(s.get(id))
		s.mu.Unlock()
	}
	if _, e := getattr(f, left[0]); e != 0 {
		t.Fatal(e)
	}
	f.budget.evict()
	if n, open := f.inodes.pin(left[0]); !open {
		t.Error("the one that was used is closed")
	} else {
		f.inodes.unpin(n)
	}
	if n, open := f.inodes.pin(left[1]); open {
		t.Error("the one that was not used is open")
	} else {
		f.inodes.unpin(n)
	}
}

// TestRecallWhileClosed: attributes and names are the node's own although its
// descriptor is closed all the time and its number goes to other files.
func TestRecallWhileClosed(t *testing.T) {
	f, dirs, inos := grove(t, 8)
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { steal(t, f, stop) })
	defer others.Wait()
	defer close(stop)
	for round := range 20_000 {
		i := round % len(dirs)
		for range 20 {
			if a, e := getattr(f, dirs[i]); e != 0 || a.Ino != inos[i][0] {
				t.Fatalf("GETATTR of directory %d: inode %d, %v, want %d", i, a.Ino, e, inos[i][0])
			}
		}
		var e virtiofs.Entry
		if err := f.Lookup(dirs[i], name(t, "x"), &e); err != 0 || e.Attr.Ino != inos[i][1] {
			t.Fatalf("LOOKUP in directory %d: inode %d, %v, want %d", i, e.Attr.Ino, err, inos[i][1])
		}
	}
}

// grove is a share with directories that hold a file x each, and the inode numbers of
// both.
func grove(t *testing.T, n int) (f *FS, dirs []virtiofs.NodeID, inos [][2]uint64) {
	dir := t.TempDir()
	for i := range n {
		at := filepath.Join(dir, fmt.Sprint(i))
		check(t, os.Mkdir(at, 0o755))
		check(t, os.WriteFile(filepath.Join(at, "x"), nil, 0o644))
	}
	f = shareDir(t, dir, 64, Options{Handles: HandlesNever})
	for i := range n {
		id, ino := lookup(t, f, fuse.RootID, fmt.Sprint(i))
		_, x := lookup(t, f, id, "x")
		dirs, inos = append(dirs, id), append(inos, [2]uint64{ino, x})
	}
	return f, dirs, inos
}

// steal closes what may be closed and takes the numbers for another directory with a
// file x.
func steal(t *testing.T, f *FS, stop <-chan struct{}) {
	own := t.TempDir()
	if err := os.WriteFile(filepath.Join(own, "x"), nil, 0o644); err != nil {
		t.Error(err)
		return
	}
	for {
		select {
		case <-stop:
			return
		default:
		}
		f.doze()
		var taken [8]int
		for i := range taken {
			taken[i], _ = unix.Open(own, unix.O_PATH|unix.O_CLOEXEC, 0)
		}
		for _, fd := range taken {
			if fd >= 0 {
				closeFD(fd)
			}
		}
	}
}

// TestNameEnds: what was counted where a node is found without a lock is not lost, and
// it is not found there when it is to be found no more.
func TestNameEnds(t *testing.T) {
	for what, end := range map[string]func(f *FS, s *inodeShard, n *inode){
		"unlinked":  func(_ *FS, s *inodeShard, n *inode) { s.mu.Lock(); s.unlink(n); s.mu.Unlock() },
		"misplaced": func(f *FS, _ *inodeShard, n *inode) { f.inodes.misplace(n) },
		"replaced": func(_ *FS, s *inodeShard, n *inode) {
			other := &inode{record: record{id: n.id + 1}}
			s.mu.Lock()
			for range 2 * replaceEvery {
				s.name(other, n.key.hash())
			}
			s.mu.Unlock()
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := share(t, 1, 64)
			id, _ := lookup(t, f, fuse.RootID, "f0")
			n, _ := f.inodes.pin(id)
			defer f.inodes.unpin(n)
			if n.key.btime == 0 {
				t.Skip("SKIPPED: no time of birth here")
			}
			const more = 3
			for range 1 + more { // the first puts it there
				lookup(t, f, fuse.RootID, "f0")
			}
			if n.nlookup != 2 {
				t.Fatalf("%d lookups at the node, want the 2 before it was found without a lock", n.nlookup)
			}
			end(f, &f.inodes.shard[id%shards], n)
			if _, _, ok := f.inodes.again(&n.key, n.typ); ok {
				t.Error("it is still found")
			}
			if n.nlookup != 2+more {
				t.Errorf("%d lookups, want %d", n.nlookup, 2+more)
			}
		})
	}
}

// TestLookupsAreCounted: a node stays as long as a lookup of it was not forgotten, and
// no longer, however many count at the same time.
func TestLookupsAreCounted(t *testing.T) {
	f := share(t, 2, 64)
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			for round := range 5_000 {
				var e virtiofs.Entry
				if err := f.Lookup(fuse.RootID, name(t, fmt.Sprint("f", (w+round/7)%2)), &e); err != 0 {
					t.Errorf("LOOKUP: %v", err)
					return
				}
				if _, err := getattr(f, e.Node); err != 0 {
					t.Errorf("GETATTR of a node that was looked up: %v", err)
					return
				}
				f.Forget(e.Node, 1)
			}
		})
	}
	workers.Wait()
	if n := f.Stats().Nodes; n != 0 {
		t.Errorf("%d nodes are left", n)
	}
}

// TestForgottenIsNotRemembered: a node that is forgotten while a call uses it is not
// put back where it would be found after its descriptor was closed.
func TestForgottenIsNotRemembered(t *testing.T) {
	f := share(t, 1, 64)
	id, _ := lookup(t, f, fuse.RootID, "f0")
	recalled(t, f, id) // so that it may be at all
	n, e := f.pin(id)
	if e != 0 {
		t.Fatal(e)
	}
	f.Forget(id, 1)
	f.inodes.remember(n)
	f.unpin(n)
	if f.inodes.recall(id) != nil {
		t.Error("it is found")
	}
}
