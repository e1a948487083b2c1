package passthrough

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// handle is one file or directory the guest has open.
type handle struct {
	fd   int
	node virtiofs.NodeID
	dir  bool

	writable bool
	passing  bool // in no table: the budget had nothing left for it

	seen stamp // the file as it was opened, zero if nobody asked

	// plain says that the file system does not know RWF_NOWAIT.
	plain atomic.Bool

	// refs is 1 for being in the table and 1 for each call that uses it now.
	refs atomic.Int64

	mu  sync.Mutex // of a directory: its position, from lseek to getdents
	pos int64      // the cookie the directory's descriptor stands at, or noPosition
}

// noPosition is no cookie of any directory.
const noPosition = -1

// handles is the table of open files. Ids start at shards, so 0 is never one.
type handles struct {
	budget *Budget
	last   atomic.Uint64
	shard  [shards]handleShard
}

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
	s := &t.shard[id%shards]
	s.mu.Lock()
	s.byID[id] = h
	s.mu.Unlock()
	return id
}

// pin returns the open file and keeps it open until unpin; EBADF unless it is a
// handle of this node and kind.
func (t *handles) pin(f virtiofs.File, dir bool) (*handle, unix.Errno) {
	s := &t.shard[f.Handle%shards]
	s.mu.Lock()
	h := s.byID[f.Handle]
	if h == nil || h.node != f.Node || h.dir != dir {
		s.mu.Unlock()
		return nil, unix.EBADF
	}
	h.refs.Add(1)
	s.mu.Unlock()
	return h, 0
}

// writes says whether a file opened with the flags can be written to.
func writes(flags int) bool { return flags&unix.O_ACCMODE != unix.O_RDONLY }

func (t *handles) unpin(h *handle) { t.budget.unpin(h) }

// drop takes the handle out of the table.
func (t *handles) drop(f virtiofs.File, dir bool) unix.Errno {
	s := &t.shard[f.Handle%shards]
	s.mu.Lock()
	h := s.byID[f.Handle]
	if h == nil || h.node != f.Node || h.dir != dir {
		s.mu.Unlock()
		return unix.EBADF
	}
	delete(s.byID, f.Handle)
	s.mu.Unlock()
	t.unpin(h)
	return 0
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
		s.mu.Unlock()
		for _, h := range old {
			t.unpin(h)
		}
	}
}
