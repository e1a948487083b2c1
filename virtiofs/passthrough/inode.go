package passthrough

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// key identifies an inode on the host while it is held open: a held inode's
// number is not given to another.
type key struct {
	dev, ino, mnt uint64
}

func keyOf(st *unix.Statx_t) key {
	return key{uint64(st.Dev_major)<<32 | uint64(st.Dev_minor), st.Ino, st.Mnt_id}
}

// inode is one node the guest knows.
type inode struct {
	id       virtiofs.NodeID
	key      key
	path     int    // O_PATH descriptor; read it with fd
	typ      uint32 // S_IFMT part of the mode
	submount bool   // a directory on which another file system begins
	graft    bool
	sealed   bool // on a file system of the host's kernel: never opened

	// refs is 1 for being in the table and 1 for each call that uses the node
	// now, so that no descriptor is closed, and its number given to something
	// else, under a call's feet.
	refs    atomic.Int64
	nlookup uint64 // guarded by the shard
}

// fd is the descriptor that names the inode. The caller has pinned it.
func (n *inode) fd() int { return n.path }

// shards is the number of parts of the tables, a power of two. Ids below it are
// those of permanent nodes: the root and the grafts.
const shards = 64

// inodes is the table of nodes. An id holds its shard's number in the low bits,
// so one lock guards both maps.
type inodes struct {
	budget    *Budget
	permanent []*inode // by id; nil where there is none
	shard     [shards]inodeShard
}

type inodeShard struct {
	mu    sync.Mutex
	byID  map[virtiofs.NodeID]*inode
	byKey map[key]*inode
	last  uint64 // ids given out; never goes back, so ids are never reused
	_     [32]byte
}

func (t *inodes) init(b *Budget, root *inode) {
	t.budget = b
	root.id = fuse.RootID
	t.permanent = append(t.permanent[:0], nil, root)
	for i := range t.shard {
		t.shard[i].clear()
	}
}

func (s *inodeShard) clear() {
	s.byID, s.byKey = map[virtiofs.NodeID]*inode{}, map[key]*inode{}
}

func (t *inodes) root() *inode { return t.permanent[fuse.RootID] }

// pin returns the node and keeps it open until unpin; nil for an unknown id.
func (t *inodes) pin(id virtiofs.NodeID) *inode {
	if id < shards {
		if int(id) < len(t.permanent) {
			return t.permanent[id]
		}
		return nil
	}
	s := &t.shard[id%shards]
	s.mu.Lock()
	n := s.byID[id]
	if n != nil {
		n.refs.Add(1)
	}
	s.mu.Unlock()
	return n
}

func (t *inodes) unpin(n *inode) {
	if n.id < shards {
		return
	}
	if n.refs.Add(-1) == 0 {
		t.budget.close(n.path)
	}
}

// pin returns the node with its descriptor open, which it stays until unpin;
// ESTALE for an unknown id.
func (f *FS) pin(id virtiofs.NodeID) (*inode, unix.Errno) {
	n := f.inodes.pin(id)
	if n == nil {
		return nil, unix.ESTALE
	}
	return n, 0
}

func (f *FS) unpin(n *inode) { f.inodes.unpin(n) }

// of is the number of the shard of an inode.
func (t *inodes) of(k key) uint64 {
	return (k.ino ^ k.dev ^ k.mnt<<32) * 0x9e3779b97f4a7c15 >> 58 % shards
}

// find counts one more lookup of the inode with the key, if it is known.
func (t *inodes) find(k key) (id virtiofs.NodeID, submount, ok bool) {
	if r := t.root(); k == r.key {
		return r.id, false, true
	}
	s := &t.shard[t.of(k)]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byKey[k]
	if n == nil {
		return 0, false, false
	}
	n.nlookup++
	return n.id, n.submount, true
}

// insert counts one lookup of the inode n, which becomes the table's unless the
// same inode is there already; then n's descriptor is closed.
func (t *inodes) insert(n *inode) (id virtiofs.NodeID, submount bool) {
	if r := t.root(); n.key == r.key {
		t.budget.close(n.path)
		return r.id, false
	}
	i := t.of(n.key)
	s := &t.shard[i]
	s.mu.Lock()
	if old := s.byKey[n.key]; old != nil {
		old.nlookup++
		id, submount = old.id, old.submount
		s.mu.Unlock()
		t.budget.close(n.path)
		return id, submount
	}
	s.last++
	n.id = virtiofs.NodeID(s.last*shards + i)
	n.nlookup = 1
	n.refs.Store(1)
	s.byID[n.id], s.byKey[n.key] = n, n
	s.mu.Unlock()
	return n.id, n.submount
}

// forget takes count off the node's lookups. More than there are is a guest's
// mistake that costs it the node, nothing else.
func (t *inodes) forget(id virtiofs.NodeID, count uint64) {
	if id < shards {
		return
	}
	s := &t.shard[id%shards]
	s.mu.Lock()
	n := s.byID[id]
	if n == nil || n.nlookup > count {
		if n != nil {
			n.nlookup -= count
		}
		s.mu.Unlock()
		return
	}
	delete(s.byID, id)
	delete(s.byKey, n.key)
	s.mu.Unlock()
	t.unpin(n)
}

// reset drops every node but the permanent ones.
func (t *inodes) reset() {
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		old := s.byID
		s.clear()
		s.mu.Unlock()
		for _, n := range old {
			t.unpin(n)
		}
	}
}

// count is the number of nodes the guest knows beside the permanent ones.
func (t *inodes) count() int {
	n := 0
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		n += len(s.byID)
		s.mu.Unlock()
	}
	return n
}
