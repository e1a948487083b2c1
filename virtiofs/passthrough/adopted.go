package passthrough

import (
	"sync"
	"sync/atomic"

	"tenon/virtiofs"
)

// adopted is the nodes that have become another inode's (FS.rebind): their key
// belongs to another shard than their id, so inodes.find does not find them and
// inodes.insert asks here. There are hardly any, and mostly none.
type adopted struct {
	some atomic.Int64 // how many there are
	mu   sync.RWMutex // taken before a shard
	ids  map[adoptedKey]virtiofs.NodeID
}

type adoptedKey struct {
	key
	typ uint32
}

// lookup counts a lookup of x if it is a node that has adopted its key. a.mu is
// held.
func (a *adopted) lookup(t *inodes, x *newcomer) (id virtiofs.NodeID, ok bool) {
	if a.some.Load() == 0 {
		return 0, false
	}
	id = a.ids[adoptedKey{x.key, x.typ}]
	s := &t.shard[id%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.get(id)
	if n == nil || !n.is(x) {
		return 0, false
	}
	n.nlookup++
	return id, true
}

// adopt makes the closed node the inode with the key next, unless it was opened
// or changed meanwhile or another node is that inode already.
func (t *inodes) adopt(n *inode, was, next *key, at address) bool {
	a := &t.adopted
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.taken(next, n) {
		return false
	}
	s := &t.shard[n.id%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.dead || n.path >= 0 || n.key != *was {
		return n.path >= 0
	}
	if *next != *was {
		s.unlink(n)
		a.remove(n)
		if a.ids == nil {
			a.ids = map[adoptedKey]virtiofs.NodeID{}
		}
		a.ids[adoptedKey{*next, n.typ}] = n.id
		a.some.Add(1)
		n.key = *next
	}
	n.addr = at
	return true
}

// taken says that another node than n has the key. The lock of t.adopted is held.
func (t *inodes) taken(k *key, n *inode) bool {
	if *k == t.root().key {
		return true
	}
	if id := t.adopted.ids[adoptedKey{*k, n.typ}]; id != 0 && id != n.id {
		return true
	}
	hash := k.hash()
	s := &t.shard[shardOf(hash)]
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.find(k, hash, n.typ)
	return x != nil && x != n
}

// remove drops the node's key. a.mu is held.
func (a *adopted) remove(n *inode) {
	k := adoptedKey{n.key, n.typ}
	if a.ids[k] == n.id {
		delete(a.ids, k)
		a.some.Add(-1)
	}
}

// drop removes a node that is forgotten.
func (a *adopted) drop(n *inode) {
	if a.some.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remove(n)
}
