package passthrough

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// stamp is what tells one state of a file's contents from another; times in ns
// since the epoch. The change time is in it because nobody can set it: a tool
// that restores modification times deceives a guest that looks at those alone.
// The zero stamp is "not known".
type stamp struct{ ctime, mtime, size int64 }

// settled is how long ago a file must have changed for its stamp to be trusted.
// A later change could leave the same stamp within one tick of the clock that
// file systems stamp with: 10 ms at most on ext4 and the like, 1 s on old ext3,
// 2 s on VFAT. Stores through a mapping that is dirty already change no time at
// all, here as for every program that goes by times.
const settled = 2 * time.Second

// stampOf is the stamp of an open file, prompt as in mount.tellsAtOnce.
func stampOf(fd int, prompt bool) stamp {
	var st unix.Stat_t
	var e unix.Errno
	if prompt {
		e = fstatNow(fd, &st)
	} else {
		e = fstat(fd, &st)
	}
	if e != 0 {
		return stamp{}
	}
	return stamp{ctime: st.Ctim.Nano(), mtime: st.Mtim.Nano(), size: st.Size}
}

// closedSlots is how many files each shard remembers, by their ids' low bits.
const closedSlots = 1024

// closed remembers the files that a guest has closed, with their stamps: what the
// guest has cached of them is good for as long as the stamp stays. A slot is
// simply overwritten by the next file that falls on it, and node ids are never
// reused, so nothing has to be removed. It takes 2 MiB at most.
type closed struct {
	// wanted is set by the first open that asks; until then nothing is kept.
	wanted atomic.Bool
	shard  [shards]closedShard
}

type closedShard struct {
	mu   sync.Mutex
	slot []closedFile // nil until the first is kept
	_    [32]byte
}

type closedFile struct {
	node virtiofs.NodeID
	stamp
}

func (c *closed) put(id virtiofs.NodeID, s stamp) {
	b := &c.shard[id%shards]
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.slot == nil {
		b.slot = make([]closedFile, closedSlots)
	}
	b.slot[id/shards%closedSlots] = closedFile{id, s}
}

func (c *closed) get(id virtiofs.NodeID) stamp {
	b := &c.shard[id%shards]
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.slot == nil {
		return stamp{}
	}
	if x := &b.slot[id/shards%closedSlots]; x.node == id {
		return x.stamp
	}
	return stamp{}
}

func (c *closed) reset() {
	c.wanted.Store(false)
	for i := range c.shard {
		b := &c.shard[i]
		b.mu.Lock()
		b.slot = nil
		b.mu.Unlock()
	}
}

// opening says whether a file that has just been opened is for certain the same
// as when it was closed, and returns the stamp for its handle to keep: none if
// the file changed too lately to tell.
func (f *FS) opening(h *handle) (seen stamp, unchanged bool) {
	if !f.closed.wanted.Load() {
		f.closed.wanted.Store(true)
	}
	s := stampOf(h.fd, h.prompt)
	if s == (stamp{}) {
		return stamp{}, false
	}
	if s == f.closed.get(h.node) {
		return s, true
	}
	if s.ctime > time.Now().Add(-settled).UnixNano() {
		return stamp{}, false
	}
	return s, false
}

// closing remembers a file at the release of a handle, if it did not change
// while the handle was open: then all that the guest has cached is the file as it
// is. The guest drops what it had before at an open that finds the file changed,
// and whatever it reads later is what it would read now.
//
// What was written through the handle counts as a change: the guest drops its
// pages by itself when it sees the new modification time. But under a writeback
// cache it does not, as it goes by its own times, and nobody else may write. What
// was ever mapped for writing is not remembered at all: see settled.
func (f *FS) closing(h *handle) {
	if !f.closed.wanted.Load() {
		return
	}
	var s stamp
	if (h.seen != s || f.options.Writeback) && !f.inodes.stored(h.node) {
		s = stampOf(h.fd, h.prompt)
	}
	if s != h.seen && !f.options.Writeback {
		s = stamp{}
	}
	f.closed.put(h.node, s)
}
