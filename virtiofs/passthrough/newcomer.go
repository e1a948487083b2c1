package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// newcomer is an inode that the guest is about to be told of.
type newcomer struct {
	key      key // the caller is a user of its volume, which the node becomes
	typ      uint32
	path     int // O_PATH descriptor the budget was charged for, or -1
	parent   virtiofs.NodeID
	seen     uint32
	addr     address
	submount bool
	sealed   bool
}

// reopens says that the inode can be opened again should it be closed.
func reopens(k *key, at address, parent virtiofs.NodeID) bool {
	return at.hasHandle() || k.btime != 0 && parent != 0 && at.name() != nil
}

// is says that the node, which has x's key, is x. A number can be given out again
// within one tick of the clock that births are stamped with (4 ms as a rule), or
// there is no such stamp: only a descriptor, or the handle, tells for certain.
// The shard of the node is locked.
func (n *inode) is(x *newcomer) bool {
	return n.path >= 0 || !n.addr.hasHandle() || !x.addr.hasHandle() || n.addr.sameHandle(x.addr)
}

// insert counts one lookup of the inode x, which becomes the table's unless the
// same inode is there already; then x's descriptor is closed. So it is when
// there is no room, which is ENFILE.
func (t *inodes) insert(x *newcomer) (id virtiofs.NodeID, submount bool, e unix.Errno) {
	if r := t.root(); x.key == r.key {
		t.reject(x)
		return r.id, false, 0
	}
	t.adopted.mu.RLock() // no node takes this key on meanwhile
	defer t.adopted.mu.RUnlock()
	if id, ok := t.adopted.lookup(t, x); ok {
		t.reject(x)
		return id, false, 0
	}
	hash := x.key.hash()
	shard := shardOf(hash)
	s := &t.shard[shard]
	s.mu.Lock()
	old := s.find(&x.key, hash, x.typ)
	if old != nil && !old.is(x) {
		s.unlink(old) // its inode is gone, and its number no longer its own
		old = nil
	}
	if old != nil {
		old.nlookup++
		id, submount = old.id, old.submount
		s.mu.Unlock()
		t.reject(x)
		return id, submount, 0
	}
	n, e := t.admit(s, shard, x)
	if e != 0 {
		s.mu.Unlock()
		t.reject(x)
		return 0, false, e
	}
	s.link(n, hash)
	n.refs.Store(2) // the table's and this call's
	s.mu.Unlock()
	if x.path >= 0 {
		t.budget.enlist(t, n)
	}
	id, submount = n.id, n.submount
	t.unpin(n)
	return id, submount, 0
}

// admit makes the newcomer a node of the shard. s.mu is held.
func (t *inodes) admit(s *inodeShard, shard uint64, x *newcomer) (*inode, unix.Errno) {
	if t.nodes.Add(1) > t.limit {
		t.nodes.Add(-1)
		return nil, unix.ENFILE
	}
	kept := x.sealed || !reopens(&x.key, x.addr, x.parent)
	if kept && (x.path < 0 || !t.budget.keep()) {
		t.nodes.Add(-1)
		return nil, unix.ENFILE
	}
	n := s.take(shard)
	if n == nil {
		if kept {
			t.budget.unkeep()
		}
		t.nodes.Add(-1)
		return nil, unix.ENFILE
	}
	n.key, n.typ, n.path, n.addr, n.parent, n.seen = x.key, x.typ, x.path, x.addr, x.parent, x.seen
	n.submount, n.sealed, n.kept, n.nlookup = x.submount, x.sealed, kept, 1
	if n.path >= 0 {
		t.open.Add(1)
	}
	return n, 0
}

// reject gives back what the newcomer brought.
func (t *inodes) reject(x *newcomer) {
	if x.path >= 0 {
		t.budget.closeNode(x.path)
	}
	t.leave(x.key.mount)
}
