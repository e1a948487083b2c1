package passthrough

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// handle is one file or directory the guest has open.
type handle struct {
	id   virtiofs.Handle // 0 in no table of handles
	fd   int
	node virtiofs.NodeID
	dir  bool

	writable bool
	passing  bool // in no table: the budget had nothing left for it
	prompt   bool // see mount.tellsAtOnce

	seen stamp // the file as it was opened, zero if nobody asked

	plain  atomic.Uint32 // plainNo, plainYes, plainMemory
	cached atomic.Bool   // what was read last was all in the page cache

	// refs is 1 for being in the table and 1 for each call that uses it now.
	refs atomic.Int64

	mu  sync.Mutex // of a directory: its position, from lseek to getdents
	pos int64      // the cookie the directory's descriptor stands at, or noPosition
	// swell is how many times as long as they are read its entries are in the replies
	// to READDIR and to READDIRPLUS, in sixteenths; 0: not known.
	swell [2]int
}

// noPosition is no cookie of any directory.
const noPosition = -1

// handles is the table of open files. Ids start at shards, so 0 is never one.
type handles struct {
	budget *Budget
	last   atomic.Uint64
	// recent is the files that were used last, by their ids: they are found and pinned
	// without a lock. What is here is in a shard too, and is put here and taken out
	// under the shard's lock.
	recent [recentHandles]atomic.Pointer[handle]
	shard  [shards]handleShard
}

// recentHandles is a power of two and a multiple of shards, so that one shard's lock
// guards each of them.
const recentHandles = 4 * shards

type handleShard struct {
	mu   sync.Mutex
	byID map[virtiofs.Handle]*handle
	_    [48]byte
}

func (t *handles) init(b *Budget) {
	t.budget = b
	t.last.Store(shards - 1)
	for i := range t.shard {
		t.shard[i].byID = map[virtiofs.Handle]*handle{}
	}
}

// add takes a new handle into the table; the budget was charged for its descriptor.
func (t *handles) add(h *handle) virtiofs.Handle {
	h.refs.Store(1)
	id := virtiofs.Handle(t.last.Add(1))
	h.id = id
	s := &t.shard[id%shards]
	s.mu.Lock()
	s.byID[id] = h
	s.mu.Unlock()
	return id
}

// pin returns the open file and keeps it open until unpin; EBADF unless it is a
// handle of this node and kind.
func (t *handles) pin(f virtiofs.File, dir bool) (*handle, unix.Errno) {
	if h := t.recent[f.Handle%recentHandles].Load(); h != nil && h.is(f, dir) && h.revive() {
		return h, 0
	}
	s := &t.shard[f.Handle%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.byID[f.Handle]
	if h == nil || !h.is(f, dir) {
		return nil, unix.EBADF
	}
	h.refs.Add(1)
	t.recent[f.Handle%recentHandles].Store(h)
	return h, 0
}

// is says that the handle is the one that the guest means.
func (h *handle) is(f virtiofs.File, dir bool) bool {
	return h.id == f.Handle && h.node == f.Node && h.dir == dir
}

// revive counts one more use unless the last has ended: then the file is closed.
func (h *handle) revive() bool {
	for n := h.refs.Load(); n > 0; n = h.refs.Load() {
		if h.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// writes says whether a file opened with the flags can be written to.
func writes(flags int) bool { return flags&unix.O_ACCMODE != unix.O_RDONLY }

func (t *handles) unpin(h *handle) { t.budget.unpin(h) }

// drop takes the handle out of the table. It is the caller's to unpin.
func (t *handles) drop(f virtiofs.File, dir bool) (*handle, unix.Errno) {
	s := &t.shard[f.Handle%shards]
	s.mu.Lock()
	h := s.byID[f.Handle]
	if h == nil || !h.is(f, dir) {
		s.mu.Unlock()
		return nil, unix.EBADF
	}
	delete(s.byID, f.Handle)
	t.recent[f.Handle%recentHandles].CompareAndSwap(h, nil)
	s.mu.Unlock()
	return h, 0
}

// count is the number of open files and directories.
func (t *handles) count() (n int64) {
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		n += int64(len(s.byID))
		s.mu.Unlock()
	}
	return n
}

func (t *handles) reset() {
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		old := s.byID
		s.byID = map[virtiofs.Handle]*handle{}
		for at := i; at < recentHandles; at += shards {
			t.recent[at].Store(nil)
		}
		s.mu.Unlock()
		for _, h := range old {
			t.unpin(h)
		}
	}
}
