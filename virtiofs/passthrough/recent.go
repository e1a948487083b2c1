package passthrough

import (
	"sync/atomic"

	"tenon/virtiofs"
)

// The nodes that were used last are found without a lock, which saves GETATTR and LOOKUP
// of a known name two to six locked instructions. What is here never changes: whatever a
// node has that is copied here is changed only after the copy was taken out, under the
// shard's lock.

// recentNodes is how many of each kind a shard has room for, a power of two.
const recentNodes = 32

// replaceEvery is how many come by before one gets a place that another has. Whoever
// walks a tree larger than there is room would otherwise make garbage of each node.
const replaceEvery = 128

// recent is what a shard has of them.
type recent struct {
	opened [recentNodes]atomic.Pointer[opened] // by slot
	named  [recentNodes]atomic.Pointer[named]  // by hash
	passed uint32                              // that found their place taken
}

// opened is a node with its descriptor, which may be closed at any time. A system call
// that only looks may be made with it, if what it has found is thrown away unless the
// node is still here afterwards (still): then it was open all the time, as it is
// taken out before it is closed. Until then the number may be that of anything, for the
// half a microsecond of the call. It is only for nodes of volumes where births are kept.
type opened struct {
	id    virtiofs.NodeID
	fd    int
	mount *mount
	node  *inode      // of which nothing but shifts may be read
	used  atomic.Bool // as inode.used
	slot  *atomic.Pointer[opened]
}

// named is a node with its key, which is found by it.
type named struct {
	key      key
	typ      uint32
	submount bool
	id       virtiofs.NodeID
	node     *inode // shard's lock
	// lookups is what was counted here and not at the node, until it is ended: what is
	// added to that counts nothing.
	lookups atomic.Uint64
}

const ended = 1 << 63

// count counts one lookup of the node, unless it is here no more.
func (x *named) count() bool { return x.lookups.Add(1) < ended }

// again is find for an inode that was found lately.
func (t *inodes) again(k *key, typ uint32) (id virtiofs.NodeID, submount, ok bool) {
	hash := k.hash()
	x := t.shard[shardOf(hash)].recent.namedAt(hash).Load()
	if x == nil || x.key != *k || x.typ != typ || !x.count() {
		return 0, false, false
	}
	return x.id, x.submount, true
}

func (r *recent) openedAt(id virtiofs.NodeID) *atomic.Pointer[opened] {
	return &r.opened[slotOf(id)%recentNodes]
}

func (r *recent) namedAt(hash uint64) *atomic.Pointer[named] {
	return &r.named[hash>>(64-shardBits-slotBits)%recentNodes]
}

// recall returns the node if it was used lately and is open. See opened.
func (t *inodes) recall(id virtiofs.NodeID) *opened {
	x := t.shard[id%shards].recent.openedAt(id).Load()
	if x == nil || x.id != id {
		return nil
	}
	if !x.used.Load() {
		x.used.Store(true)
	}
	return x
}

// still says that the node's descriptor has been open since recall.
func (x *opened) still() bool { return x.slot.Load() == x }

// remember lets the node, which is pinned and open, be recalled where it may be: of the
// permanent ones the root alone, which is what it looks like.
func (t *inodes) remember(n *inode) {
	if n.graft || !n.key.mount.tellsAtOnce() {
		return
	}
	s := &t.shard[n.id%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.recent.openedAt(n.id)
	if !n.dead && (at.Load() == nil || s.recent.replace()) {
		at.Store(&opened{id: n.id, fd: n.path, mount: n.key.mount, node: n, slot: at})
	}
}

// name lets the node be found by its key without a lock. s.mu is held.
func (s *inodeShard) name(n *inode, hash uint64) {
	at := s.recent.namedAt(hash)
	if old := at.Load(); old != nil {
		if !s.recent.replace() {
			return
		}
		old.node.nlookup += old.lookups.Swap(ended)
	}
	at.Store(&named{key: n.key, typ: n.typ, submount: n.submount, id: n.id, node: n})
}

// replace says whether it is time that a newcomer takes another's place.
func (r *recent) replace() bool {
	r.passed++
	return r.passed%replaceEvery == 0
}

// recalled says whether the node was recalled since it was last asked. s.mu is held.
func (s *inodeShard) recalled(n *inode) bool {
	x := s.recent.openedAt(n.id).Load()
	return x != nil && x.id == n.id && x.used.Swap(false)
}

// unremember is called before the node's descriptor is closed. s.mu is held.
func (s *inodeShard) unremember(n *inode) {
	if at := s.recent.openedAt(n.id); at.Load() != nil && at.Load().id == n.id {
		at.Store(nil)
	}
}

// unname is called before the node is found by its key no more, or not as it was, and
// before its lookups are looked at. s.mu is held.
func (s *inodeShard) unname(n *inode) {
	at := s.recent.namedAt(n.key.hash())
	if x := at.Load(); x != nil && x.id == n.id {
		at.Store(nil)
		n.nlookup += x.lookups.Swap(ended)
	}
}
