package passthrough

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// implicit is files and directories that a guest uses without having opened
// them: one open file for each node, opened when it is needed and closed when the
// node is forgotten or others need the room. There is one such table for what is
// read by handle 0 (Options.Immutable) and one for what is mapped.
type implicit struct {
	budget *Budget
	shard  [shards]implicitShard
}

// init makes the table one of the budget's caches; end takes it out again.
func (t *implicit) init(b *Budget) {
	t.budget = b
	b.mu.Lock()
	defer b.mu.Unlock()
	b.caches = append(b.caches, t)
}

func (t *implicit) end() {
	if t.budget == nil {
		return
	}
	b := t.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.caches = slices.DeleteFunc(slices.Clone(b.caches), func(c *implicit) bool { return c == t })
}

// implicitWays is how many files one shard keeps open.
const implicitWays = 16

type implicitShard struct {
	mu   sync.Mutex
	tick uint64
	slot [implicitWays]implicitSlot
}

type implicitSlot struct {
	node virtiofs.NodeID
	h    *handle // nil: the slot is free
	used uint64  // the shard's tick at the last use
}

// opened returns the open file that the guest means and keeps it open until
// handles.unpin; EBADF unless it is of this node and kind.
func (f *FS) opened(file virtiofs.File, dir bool) (*handle, unix.Errno) {
	if file.Handle != 0 || !f.options.Immutable {
		return f.handles.pin(file, dir)
	}
	h := f.implicit.pin(file.Node)
	if h == nil {
		var e unix.Errno
		if h, e = f.openImplicit(file.Node); e != 0 {
			return nil, e
		}
	}
	if h.dir != dir {
		f.handles.unpin(h)
		return nil, unix.EBADF
	}
	return h, 0
}

// openImplicit opens the node for reading.
func (f *FS) openImplicit(id virtiofs.NodeID) (*handle, unix.Errno) {
	n, e := f.pin(id)
	if e != 0 {
		return nil, e
	}
	defer f.unpin(n)
	if !f.budget.take() {
		return nil, unix.ENFILE
	}
	fd, e := f.reopen(n, unix.O_RDONLY)
	if e != 0 {
		f.budget.give()
		return nil, e
	}
	h := &handle{fd: fd, node: id, dir: n.typ == unix.S_IFDIR}
	h.refs.Store(2) // the table's and the caller's
	h, old := f.implicit.add(h)
	if old != nil {
		f.handles.unpin(old)
	}
	return h, 0
}

func (t *implicit) of(id virtiofs.NodeID) *implicitShard { return &t.shard[id%shards] }

// pin returns the node's file, nil if it is not open.
func (t *implicit) pin(id virtiofs.NodeID) *handle {
	s := t.of(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.find(id)
	if x == nil {
		return nil
	}
	x.h.refs.Add(1)
	return x.h
}

// find returns the node's slot and marks it as used. s.mu is held.
func (s *implicitShard) find(id virtiofs.NodeID) *implicitSlot {
	for i := range s.slot {
		if x := &s.slot[i]; x.node == id && x.h != nil {
			s.tick++
			x.used = s.tick
			return x
		}
	}
	return nil
}

// add takes a file into the table, unless another has opened the same node
// meanwhile: then that one is pinned instead, but one that can be written takes
// the place of one that cannot. old, unless it is nil, has left the table and is
// the caller's to unpin.
func (t *implicit) add(h *handle) (winner, old *handle) {
	s := t.of(h.node)
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.find(h.node)
	if x != nil && (x.h.writable || !h.writable) {
		x.h.refs.Add(1)
		h.refs.Store(1)
		return x.h, h
	}
	if x == nil {
		x = s.least(true)
	}
	if old = x.h; old == nil {
		t.budget.cached.Add(1)
	}
	s.tick++
	*x = implicitSlot{node: h.node, h: h, used: s.tick}
	return h, old
}

// least returns the slot that was used least recently; with free, free slots
// come first. nil when there is none. s.mu is held.
func (s *implicitShard) least(free bool) *implicitSlot {
	var least *implicitSlot
	for i := range s.slot {
		x := &s.slot[i]
		if (free || x.h != nil) && (least == nil || x.used < least.used) {
			least = x
		}
	}
	return least
}

// take frees a slot, which may be nil, and returns its file. s.mu is held.
func (s *implicitShard) take(x *implicitSlot) *handle {
	if x == nil {
		return nil
	}
	h := x.h
	*x = implicitSlot{}
	return h
}

// evict takes one file out of the table, from the node's own shard if it has
// any; nil when the table is empty.
func (t *implicit) evict(id virtiofs.NodeID) *handle {
	for i := range virtiofs.NodeID(shards) {
		s := t.of(id + i)
		s.mu.Lock()
		h := s.take(s.least(false))
		s.mu.Unlock()
		if h != nil {
			t.budget.cached.Add(-1)
			return h
		}
	}
	return nil
}

// drop takes the node's file out of the table; nil if it is not open.
func (t *implicit) drop(id virtiofs.NodeID) *handle {
	s := t.of(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.take(s.find(id))
	if h != nil {
		t.budget.cached.Add(-1)
	}
	return h
}

// close closes the node's file; it is opened again should it be needed.
func (t *implicit) close(id virtiofs.NodeID) {
	if h := t.drop(id); h != nil {
		t.budget.unpin(h)
	}
}

// reset closes every file.
func (t *implicit) reset() {
	for t.shed(0) {
	}
}

// shed closes a file, from the node's own shard if it has any; false when none is
// open.
func (t *implicit) shed(id virtiofs.NodeID) bool {
	h := t.evict(id)
	if h == nil {
		return false
	}
	t.budget.unpin(h)
	return true
}
