package passthrough

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// shards is the number of parts of the tables, a power of two. Ids below it are
// those of permanent nodes: the root and the grafts.
const shards = 64

// MaxNodes is how many inodes a guest can know at a time in one share, which
// bounds what their memory comes to: 2.5 GiB, or 6 GiB if all names have 255
// bytes. One more is ENFILE.
const MaxNodes = 16 << 20

// A node's id is, from the low bits up: its shard, which its key decides; its
// slot there; and how many nodes have had a slot of the same chunk before. So a
// node is found without searching, and no id is ever given out twice.
const (
	shardBits = 6
	chunkBits = 6
	slotBits  = 22
	chunkSize = 1 << chunkBits
	maxChunks = 1 << (slotBits - chunkBits)
	turnShift = shardBits + slotBits
	maxTurn   = 1<<(64-turnShift) - 1

	minBuckets = 16 // of a shard that has or had nodes
)

// inodes is the table of nodes.
type inodes struct {
	budget    *Budget
	leave     func(*mount) // a node of the volume is gone
	limit     int64        // nodes
	permanent []*inode     // by id; nil where there is none
	nodes     atomic.Int64
	open      atomic.Int64 // nodes that own a descriptor
	adopted   adopted
	shard     [shards]inodeShard
}

// inodeShard keeps its nodes in chunks, which takes less memory than one
// allocation each and gives it back when a chunk is empty, but for one.
type inodeShard struct {
	mu      sync.Mutex
	chunks  []chunk
	vacant  []uint32 // chunks with free slots, each once
	buckets []uint32 // links by hash; their number is a power of two
	used    int
	recent  recent
	spare   *[chunkSize]inode // of an emptied chunk: whoever makes and removes one file after the other needs it again
}

// chunk is chunkSize slots for nodes.
type chunk struct {
	slots  *[chunkSize]inode // nil while all are free
	free   uint64            // which are
	turn   uint64            // nodes there have been
	listed bool              // in inodeShard.vacant
}

// A link names a node within its shard: 1 + its slot, 0 for none.

func (t *inodes) init(b *Budget, root *inode, leave func(*mount)) {
	t.budget, t.leave, t.limit = b, leave, MaxNodes
	root.id = fuse.RootID
	t.permanent = append(t.permanent[:0], nil, root)
}

func (t *inodes) root() *inode { return t.permanent[fuse.RootID] }

func slotOf(id virtiofs.NodeID) uint32 { return uint32(id>>shardBits) & (1<<slotBits - 1) }

// at returns the node in the slot. s.mu is held.
func (s *inodeShard) at(slot uint32) *inode {
	return &s.chunks[slot>>chunkBits].slots[slot%chunkSize]
}

// get returns the node with the id; nil if there is none. s.mu is held.
func (s *inodeShard) get(id virtiofs.NodeID) *inode {
	slot := slotOf(id)
	if c := slot >> chunkBits; int(c) < len(s.chunks) && s.chunks[c].slots != nil {
		if n := &s.chunks[c].slots[slot%chunkSize]; n.id == id && !n.dead {
			return n
		}
	}
	return nil
}

// hash spreads keys; its top bits choose the shard, the ones below the bucket.
func (k *key) hash() uint64 {
	return (k.ino ^ uint64(k.btime)*0x9fb21c651e98df25 ^ k.mount.dev) * 0x9e3779b97f4a7c15
}

func shardOf(hash uint64) uint64 { return hash >> (64 - shardBits) }

func (s *inodeShard) bucket(hash uint64) *uint32 {
	return &s.buckets[hash>>(64-shardBits-slotBits)&uint64(len(s.buckets)-1)]
}

// find returns the node with the key and type; nil if there is none. A number
// that was given to an inode of another type is another inode. s.mu is held.
func (s *inodeShard) find(k *key, hash uint64, typ uint32) *inode {
	if len(s.buckets) == 0 {
		return nil
	}
	for link := *s.bucket(hash); link != 0; {
		n := s.at(link - 1)
		if n.key == *k && n.typ == typ {
			return n
		}
		link = n.next
	}
	return nil
}

// link puts the node into its key's bucket. s.mu is held.
func (s *inodeShard) link(n *inode, hash uint64) {
	if s.used >= len(s.buckets) {
		s.grow()
	}
	b := s.bucket(hash)
	n.next, *b = *b, slotOf(n.id)+1
	s.used++
}

// grow doubles the buckets. s.mu is held.
func (s *inodeShard) grow() {
	old := s.buckets
	s.buckets = make([]uint32, max(minBuckets, 2*len(old)))
	for _, link := range old {
		for link != 0 {
			n := s.at(link - 1)
			link = n.next
			b := s.bucket(n.key.hash())
			n.next, *b = *b, slotOf(n.id)+1
		}
	}
}

// unlink takes the node out of its key's bucket, if it is there. s.mu is held.
func (s *inodeShard) unlink(n *inode) {
	s.unname(n)
	if len(s.buckets) == 0 {
		return
	}
	own := slotOf(n.id) + 1
	for at := s.bucket(n.key.hash()); *at != 0; at = &s.at(*at - 1).next {
		if *at == own {
			*at, n.next = n.next, 0
			s.used--
			break
		}
	}
	if s.used == 0 && len(s.buckets) > minBuckets {
		s.buckets = nil
	}
}

// take returns a free slot's node with a new id; nil when there is none.
// s.mu is held.
func (s *inodeShard) take(shard uint64) *inode {
	if len(s.vacant) == 0 {
		if len(s.chunks) == maxChunks {
			return nil
		}
		s.chunks = append(s.chunks, chunk{free: ^uint64(0), listed: true})
		s.vacant = append(s.vacant, uint32(len(s.chunks)-1))
	}
	number := s.vacant[len(s.vacant)-1]
	c := &s.chunks[number]
	if c.slots == nil {
		if c.slots, s.spare = s.spare, nil; c.slots == nil {
			c.slots = new([chunkSize]inode)
		}
	}
	slot := uint64(bits.TrailingZeros64(c.free))
	c.free &^= 1 << slot
	c.turn++
	if c.free == 0 || c.turn == maxTurn {
		s.vacant = s.vacant[:len(s.vacant)-1]
		c.listed = false
	}
	n := &c.slots[slot]
	n.id = virtiofs.NodeID(c.turn<<turnShift | (uint64(number)<<chunkBits|slot)<<shardBits | shard)
	return n
}

// put gives the node's slot back. s.mu is held.
func (s *inodeShard) put(n *inode) {
	slot := slotOf(n.id)
	number := slot >> chunkBits
	c := &s.chunks[number]
	c.free |= 1 << (slot % chunkSize)
	c.slots[slot%chunkSize].record = record{} // shifts goes on: see childNear
	if c.free == ^uint64(0) {
		c.slots, s.spare = nil, c.slots
	}
	if !c.listed && c.turn < maxTurn {
		c.listed = true
		s.vacant = append(s.vacant, number)
	}
}

// pin returns the node and keeps it until unpin; nil for an unknown id. If it is
// not open it is the caller's to open.
func (t *inodes) pin(id virtiofs.NodeID) (n *inode, open bool) {
	if id < shards {
		if int(id) < len(t.permanent) && t.permanent[id] != nil {
			return t.permanent[id], true
		}
		return nil, false
	}
	s := &t.shard[id%shards]
	s.mu.Lock()
	if n = s.get(id); n != nil {
		n.refs.Add(1)
		n.used = true
		open = n.path >= 0
	}
	s.mu.Unlock()
	return n, open
}

func (t *inodes) unpin(n *inode) {
	if n.id < shards {
		return
	}
	if n.refs.Add(-1) == 0 {
		t.release(n)
	}
}

// release frees a node that nothing refers to any more.
func (t *inodes) release(n *inode) {
	if n.path >= 0 {
		t.close(n)
	}
	t.leave(n.key.mount)
	s := &t.shard[n.id%shards]
	s.mu.Lock()
	s.put(n)
	s.mu.Unlock()
	t.nodes.Add(-1)
}

// found is how find has found a node.
type found struct {
	id       virtiofs.NodeID
	submount bool
	lost     bool // it wants to be told where it is, see inodes.place
	// doubt says that another inode may have got the number since: nothing
	// holds this one and its key has no time of birth. No lookup was counted.
	doubt bool
}

// find counts one more lookup of the inode with the key, if it is known.
func (t *inodes) find(k *key, typ uint32) (x found, ok bool) {
	if id, submount, ok := t.again(k, typ); ok {
		return found{id: id, submount: submount}, true
	}
	if r := t.root(); *k == r.key {
		return found{id: r.id}, true
	}
	hash := k.hash()
	s := &t.shard[shardOf(hash)]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.find(k, hash, typ)
	if n == nil {
		return found{}, false
	}
	x = found{id: n.id, submount: n.submount, lost: n.lost || n.parent == 0, doubt: n.path < 0 && k.btime == 0}
	if !x.doubt {
		n.nlookup++
	}
	if !x.lost && k.btime != 0 {
		s.name(n, hash)
	}
	return x, true
}

// peek is the id of the node with the key, 0 if there is none.
func (t *inodes) peek(k *key, typ uint32) virtiofs.NodeID {
	hash := k.hash()
	s := &t.shard[shardOf(hash)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.find(k, hash, typ); n != nil {
		return n.id
	}
	return 0
}

// confirm settles a doubt: it counts a lookup of the node if the handle is its
// own. If not, the node's inode is gone, and its number is no longer the node's.
func (t *inodes) confirm(id virtiofs.NodeID, h *fileHandle) bool {
	s := &t.shard[id%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.get(id)
	if n == nil {
		return false
	}
	if n.addr.matches(h) {
		n.nlookup++
		return true
	}
	if n.path < 0 {
		s.unlink(n)
	}
	return false
}

// full says that no more inodes can be told to the guest.
func (t *inodes) full() bool { return t.nodes.Load() >= t.limit }

// store notes that the guest can change the node's file without a request.
func (t *inodes) store(id virtiofs.NodeID) {
	s := &t.shard[id%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.get(id); n != nil {
		n.stored = true
	}
}

// stored says whether that was ever so.
func (t *inodes) stored(id virtiofs.NodeID) bool {
	s := &t.shard[id%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.get(id)
	return n != nil && n.stored
}

// count counts one more lookup of the node.
func (t *inodes) count(id virtiofs.NodeID) {
	if id < shards {
		return
	}
	s := &t.shard[id%shards]
	s.mu.Lock()
	if n := s.get(id); n != nil {
		n.nlookup++
	}
	s.mu.Unlock()
}

// forget takes count off the node's lookups. More than there are is a guest's
// mistake that costs it the node, nothing else.
func (t *inodes) forget(id virtiofs.NodeID, count uint64) {
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
	s.unname(n)
	if n.nlookup > count {
		n.nlookup -= count
		s.mu.Unlock()
		return
	}
	s.unlink(n)
	s.unremember(n)
	n.dead = true
	s.mu.Unlock()
	t.adopted.drop(n)
	t.unpin(n)
}

// reset drops every node but the permanent ones.
func (t *inodes) reset() {
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		var ids []virtiofs.NodeID
		for c := range s.chunks {
			for slots, j := s.chunks[c].slots, 0; slots != nil && j < chunkSize; j++ {
				if n := &slots[j]; n.id != 0 && !n.dead {
					ids = append(ids, n.id)
				}
			}
		}
		s.mu.Unlock()
		for _, id := range ids {
			t.forget(id, ^uint64(0))
		}
	}
}
