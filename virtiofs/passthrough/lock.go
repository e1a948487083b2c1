package passthrough

import (
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// maxSpans bounds the locked ranges of one share's guest: the host's kernel has
// about 200 bytes for each, which nothing accounts for, and walks through all
// those of a file at every call.
const maxSpans = 1 << 13

// Flock(2) locks belong to the guest's handle, which is one open file here too.
//
// A POSIX lock belongs to a process, and on the host all guests' processes are
// one. So every owner that holds such locks on a node has an open file of its
// own there, and the locks are those of that open file (F_OFD_SETLK, fcntl(2)):
// owners of one guest, other machines and processes of the host exclude each
// other alike. The open files are charged to the budget.

// locks is the owners of POSIX locks.
type locks struct {
	owners atomic.Int64 // how many there are; lets those who release find out cheaply
	spans  atomic.Int64
	shard  [shards]lockShard
}

// lockShard has the owners of some nodes. Its mutex is held across the host's
// lock calls, which do not wait; handles are pinned inside it. The zero value is
// ready.
type lockShard struct {
	mu    sync.Mutex
	nodes map[virtiofs.NodeID]map[uint64]*lockOwner
	_     [48]byte
}

// lockOwner is an owner that holds locks on a node.
type lockOwner struct {
	fd       int
	writable bool
	via      virtiofs.Handle // through which it took its first lock
	pid      uint32          // in the guest
	held     spans           // never empty between calls
}

func (t *locks) of(n virtiofs.NodeID) *lockShard { return &t.shard[n%shards] }

// Setlk implements virtiofs.Locks. There is no detection of deadlocks: no one
// sees all owners.
func (f *FS) Setlk(file virtiofs.File, l *virtiofs.Lock) unix.Errno {
	if l.Flock {
		return f.flock(file, l.Type)
	}
	s := f.locks.of(file.Node)
	s.mu.Lock()
	defer s.mu.Unlock()
	// Inside the mutex: whoever releases this handle meanwhile will find what is
	// locked through it.
	h, e := f.handles.pin(file, false)
	if e != 0 {
		return e
	}
	defer f.handles.unpin(h)
	if l.Type == unix.F_UNLCK {
		return f.unlock(s, file.Node, l)
	}
	return f.lock(s, h, file, l)
}

// flock is flock(2) on the guest's handle. A lock that is converted is lost
// when the other kind cannot be had, as on any Linux file system.
func (f *FS) flock(file virtiofs.File, typ uint32) unix.Errno {
	h, e := f.handles.pin(file, false)
	if e != 0 {
		return e
	}
	defer f.handles.unpin(h)
	switch typ {
	case unix.F_RDLCK:
		return flock(h.fd, unix.LOCK_SH|unix.LOCK_NB)
	case unix.F_WRLCK:
		return flock(h.fd, unix.LOCK_EX|unix.LOCK_NB)
	case unix.F_UNLCK:
		return flock(h.fd, unix.LOCK_UN)
	}
	return unix.EINVAL
}

// lock takes a POSIX lock. s.mu is held.
func (f *FS) lock(s *lockShard, h *handle, file virtiofs.File, l *virtiofs.Lock) unix.Errno {
	if l.Type == unix.F_WRLCK && !h.writable {
		return unix.EBADF // as fcntl(2)
	}
	if f.locks.spans.Load()+2 > maxSpans { // one lock can cut another in two
		return unix.ENOLCK
	}
	o := s.nodes[file.Node][l.Owner]
	known := o != nil
	if !known {
		fd, e := f.openForLocks(h)
		if e != 0 {
			return e
		}
		o = &lockOwner{fd: fd, writable: h.writable, via: file.Handle}
	} else if l.Type == unix.F_WRLCK && !o.writable {
		if e := f.makeWritable(o, h); e != 0 {
			return e
		}
	}
	if e := setRange(o.fd, l.Type, l.Start, l.End); e != 0 {
		if !known {
			f.budget.close(o.fd)
		}
		return e
	}
	if !known {
		s.add(file.Node, l.Owner, o)
		f.locks.owners.Add(1)
	}
	o.pid = l.PID
	f.mark(o, l)
	return 0
}

// unlock drops POSIX locks of the owner in the range. s.mu is held.
func (f *FS) unlock(s *lockShard, node virtiofs.NodeID, l *virtiofs.Lock) unix.Errno {
	o := s.nodes[node][l.Owner]
	if o == nil {
		return 0
	}
	if f.locks.spans.Load() >= maxSpans && o.held.splits(l.Start, l.End) {
		return unix.ENOLCK
	}
	if e := setRange(o.fd, unix.F_UNLCK, l.Start, l.End); e != 0 {
		return e
	}
	f.mark(o, l)
	if len(o.held) == 0 {
		f.dropOwner(s, node, l.Owner, o)
	}
	return 0
}

// mark writes down what the host has granted. s.mu is held.
func (f *FS) mark(o *lockOwner, l *virtiofs.Lock) {
	before := len(o.held)
	o.held = o.held.set(span{l.Start, l.End, l.Type == unix.F_WRLCK}, l.Type == unix.F_UNLCK)
	f.locks.spans.Add(int64(len(o.held) - before))
}

// openForLocks opens the file behind a handle once more. With O_NONBLOCK a
// lease of a process on the host (fcntl(2), F_SETLEASE) is EAGAIN, as a lock.
func (f *FS) openForLocks(h *handle) (int, unix.Errno) {
	if !f.budget.take() {
		return -1, unix.ENOLCK
	}
	flags := unix.O_RDONLY
	if h.writable {
		flags = unix.O_RDWR
	}
	var path fdPath
	fd, e := openat(f.proc, path.relative(h.fd), flags|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if e == 0 {
		return fd, 0
	}
	f.budget.give()
	if e != unix.EAGAIN {
		e = unix.ENOLCK // EACCES would be "another has the lock" in fcntl(2)
	}
	return -1, e
}

// makeWritable exchanges an owner's open file for one that can hold write locks
// too. What it held are read locks, which both can hold at once, so no one gets
// in between. s.mu is held.
func (f *FS) makeWritable(o *lockOwner, h *handle) unix.Errno {
	fd, e := f.openForLocks(h)
	if e != 0 {
		return e
	}
	for _, p := range o.held {
		if e := setRange(fd, unix.F_RDLCK, p.start, p.end); e != 0 {
			f.budget.close(fd)
			return e
		}
	}
	f.budget.close(o.fd)
	o.fd, o.writable = fd, true
	return 0
}

// Getlk implements virtiofs.Locks. The lock's PID is 0 unless an owner of this
// guest has it: process numbers of the host mean nothing there.
func (f *FS) Getlk(file virtiofs.File, l *virtiofs.Lock) unix.Errno {
	if l.Flock || l.Type != unix.F_RDLCK && l.Type != unix.F_WRLCK {
		return unix.EINVAL
	}
	s := f.locks.of(file.Node)
	s.mu.Lock()
	defer s.mu.Unlock()
	h, e := f.handles.pin(file, false)
	if e != 0 {
		return e
	}
	defer f.handles.unpin(h)
	fd := h.fd // no one holds POSIX locks by it: any other's are in its way
	if o := s.nodes[file.Node][l.Owner]; o != nil {
		fd = o.fd
	}
	r := rangeLock(l.Type, l.Start, l.End)
	if e := fcntlLock(fd, unix.F_OFD_GETLK, &r); e != 0 {
		return e
	}
	l.Type, l.PID = uint32(r.Type), 0
	if l.Type == unix.F_UNLCK {
		return 0
	}
	l.Start, l.End = uint64(r.Start), math.MaxInt64
	if r.Len > 0 {
		l.End = uint64(r.Start + r.Len - 1)
	}
	for owner, o := range s.nodes[file.Node] {
		if owner != l.Owner && o.held.has(l.Start, l.Type == unix.F_WRLCK) {
			l.PID = o.pid
		}
	}
	return 0
}

// Flush implements virtiofs.Locks.
func (f *FS) Flush(file virtiofs.File, owner uint64) unix.Errno {
	h, e := f.handles.pin(file, false)
	if e != 0 {
		return e
	}
	defer f.handles.unpin(h)
	s := f.locks.of(file.Node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.nodes[file.Node][owner]; o != nil {
		f.dropOwner(s, file.Node, owner, o)
	}
	return 0
}

// releaseLocks drops what was locked through a handle that is gone from the
// table: whoever locked through it has closed it, and a guest that said so by
// FLUSH has nothing left here.
func (f *FS) releaseLocks(file virtiofs.File) {
	if f.locks.owners.Load() == 0 {
		return
	}
	s := f.locks.of(file.Node)
	s.mu.Lock()
	defer s.mu.Unlock()
	for owner, o := range s.nodes[file.Node] {
		if o.via == file.Handle {
			f.dropOwner(s, file.Node, owner, o)
		}
	}
}

// resetLocks drops all locks. The handles are gone from the table already.
func (f *FS) resetLocks() {
	for i := range f.locks.shard {
		s := &f.locks.shard[i]
		s.mu.Lock()
		for node, owners := range s.nodes {
			for owner, o := range owners {
				f.dropOwner(s, node, owner, o)
			}
		}
		s.mu.Unlock()
	}
}

// add makes o the owner's entry on the node. s.mu is held.
func (s *lockShard) add(node virtiofs.NodeID, owner uint64, o *lockOwner) {
	if s.nodes == nil {
		s.nodes = map[virtiofs.NodeID]map[uint64]*lockOwner{}
	}
	if s.nodes[node] == nil {
		s.nodes[node] = map[uint64]*lockOwner{}
	}
	s.nodes[node][owner] = o
}

// dropOwner closes the owner's open file, and with it go its locks. s.mu is held.
func (f *FS) dropOwner(s *lockShard, node virtiofs.NodeID, owner uint64, o *lockOwner) {
	f.budget.close(o.fd)
	f.locks.spans.Add(-int64(len(o.held)))
	f.locks.owners.Add(-1)
	delete(s.nodes[node], owner)
	if len(s.nodes[node]) == 0 {
		delete(s.nodes, node)
	}
}

// setRange is F_OFD_SETLK.
func setRange(fd int, typ uint32, start, end uint64) unix.Errno {
	r := rangeLock(typ, start, end)
	return fcntlLock(fd, unix.F_OFD_SETLK, &r)
}

// rangeLock is struct flock for the bytes from start to end, which is included:
// FUSE's last possible byte is fcntl's length 0, to the end of the file.
func rangeLock(typ uint32, start, end uint64) unix.Flock_t {
	r := unix.Flock_t{Type: int16(typ), Whence: unix.SEEK_SET, Start: int64(start)}
	if end < math.MaxInt64 {
		r.Len = int64(end-start) + 1
	}
	return r
}

func flock(fd, how int) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_FLOCK, uintptr(fd), uintptr(how), 0)
		if e != unix.EINTR {
			return e
		}
	}
}
