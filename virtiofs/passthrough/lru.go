package passthrough

import "tenon/virtiofs"

// The descriptors of nodes that nothing uses are a cache: when the budget is used
// up, the one whose node was not used for longest is closed. Which one that is,
// a clock says, which takes nothing of the request path but the bit inode.used.
//
// Lock order: Budget.mu, then a shard of a table.

// tick is a node that owns a descriptor which may be closed.
type tick struct {
	t *inodes
	n *inode
}

// enlist puts the node, which is pinned and open, into the clock.
func (b *Budget) enlist(t *inodes, n *inode) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &t.shard[n.id%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.turn == 0 && n.path >= 0 && !n.kept {
		b.clock = append(b.clock, tick{t, n})
		n.turn = uint32(len(b.clock))
		b.idle.Add(1)
	}
}

// delist takes the node out of the clock, if it is there.
func (b *Budget) delist(t *inodes, n *inode) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &t.shard[n.id%shards]
	s.mu.Lock()
	at := n.turn
	n.turn = 0
	s.mu.Unlock()
	if at != 0 {
		b.remove(int(at) - 1)
	}
}

// remove puts the last node of the clock in the place of the one at i. b.mu is held.
func (b *Budget) remove(i int) {
	last := len(b.clock) - 1
	if x := b.clock[last]; i != last {
		s := &x.t.shard[x.n.id%shards]
		s.mu.Lock()
		x.n.turn = uint32(i + 1)
		s.mu.Unlock()
		b.clock[i] = x
	}
	b.clock[last] = tick{}
	b.clock = b.clock[:last]
	b.idle.Add(-1)
	if last == 0 {
		b.clock = nil
	}
}

// evict closes the descriptor of the node that was not used for longest; false
// when all are in use.
func (b *Budget) evict() bool {
	b.mu.Lock()
	// Twice round: a node that was used gets one more round.
	for tries := 2 * len(b.clock); tries > 0; tries-- {
		if b.hand >= len(b.clock) {
			b.hand = 0
		}
		x := b.clock[b.hand]
		if fd := x.t.takeIdle(x.n); fd >= 0 {
			b.remove(b.hand)
			b.mu.Unlock()
			b.closeNode(fd)
			return true
		}
		b.hand++
	}
	b.mu.Unlock()
	return false
}

// takeIdle takes the descriptor from a node in the clock; -1 if the node is used
// or was since it was last asked.
func (t *inodes) takeIdle(n *inode) int {
	s := &t.shard[n.id%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	n.used = s.recalled(n) || n.used
	switch {
	case n.dead || n.refs.Load() != 1:
		return -1
	case n.used:
		n.used = false
		return -1
	}
	s.unremember(n)
	fd := n.path
	n.path, n.turn = -1, 0
	t.open.Add(-1)
	return fd
}

// give hands the pinned node a descriptor, unless it has got one meanwhile. The
// budget was charged for it.
func (t *inodes) give(n *inode, fd int) {
	s := &t.shard[n.id%shards]
	s.mu.Lock()
	late := n.path >= 0
	if !late {
		n.path, n.lost = fd, false
		t.open.Add(1)
	}
	s.mu.Unlock()
	if late {
		t.budget.closeNode(fd)
		return
	}
	t.budget.enlist(t, n)
}

// close closes the descriptor of a node that nothing refers to any more.
func (t *inodes) close(n *inode) {
	if n.kept {
		t.budget.unkeep()
	} else {
		t.budget.delist(t, n)
	}
	t.budget.closeNode(n.path)
	t.open.Add(-1)
}

// keep makes the pinned, open node one that is not closed before it is
// forgotten. When too many are kept already it stays as it is.
func (t *inodes) keep(n *inode) {
	if n.id < shards || !t.budget.keep() {
		return
	}
	s := &t.shard[n.id%shards]
	s.mu.Lock()
	again := n.kept
	n.kept = true
	s.mu.Unlock()
	if again {
		t.budget.unkeep()
		return
	}
	t.budget.delist(t, n)
}

// place notes where the inode is to be found.
func (t *inodes) place(id, parent virtiofs.NodeID, seen uint32, name *byte) {
	if id < shards {
		return
	}
	s := &t.shard[id%shards]
	s.mu.Lock()
	n := s.get(id)
	if n == nil {
		s.mu.Unlock()
		return
	}
	n.parent, n.seen, n.addr, n.lost = parent, seen, n.addr.renamed(name), false
	free := n.kept && !n.sealed && reopens(&n.key, n.addr, parent)
	if free {
		n.kept = false
		n.refs.Add(1)
	}
	s.mu.Unlock()
	if free {
		t.budget.unkeep()
		t.budget.enlist(t, n)
		t.unpin(n)
	}
}

// misplace notes that the inode is no more where it was.
func (t *inodes) misplace(n *inode) {
	if n.id < shards {
		return
	}
	s := &t.shard[n.id%shards]
	s.mu.Lock()
	s.unname(n)
	n.lost = true
	s.mu.Unlock()
}
