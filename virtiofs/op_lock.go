package virtiofs

import (
	"math"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

// Lock requests are served for the kinds of lock that INIT agreed on. A guest
// keeps the others to itself and does not send them.

// lockArgs decodes fuse_lk_in into r.lock.
func (s *Server) lockArgs(r *Request) unix.Errno {
	var in fuse.LkIn
	in.Decode(r.fixed()[:])
	kind := fuse.PosixLocks
	if in.Flags&fuse.LkFlock != 0 {
		kind = fuse.FlockLocks
	}
	if !s.agreed(kind) {
		return r.unserved()
	}
	if in.Start > in.End || in.End > math.MaxInt64 || in.Type > unix.F_UNLCK {
		return unix.EINVAL
	}
	r.lock = Lock{
		Owner: in.Owner, Start: in.Start, End: in.End, Type: in.Type, PID: in.PID,
		Flock: in.Flags&fuse.LkFlock != 0,
	}
	return 0
}

func (s *Server) opGetlk(r *Request) unix.Errno {
	if e := s.lockArgs(r); e != 0 {
		return e
	}
	l := &r.lock
	if e := s.fs.Getlk(r.file(), l); e != 0 {
		return e
	}
	fuse.EncodeLkOut(r.take(int(r.row.Out)), l.Start, l.End, l.Type, l.PID)
	return 0
}

// opSetlk answers EAGAIN when the lock is another's.
func (s *Server) opSetlk(r *Request) unix.Errno {
	if e := s.lockArgs(r); e != 0 {
		return e
	}
	e := s.fs.Setlk(r.file(), &r.lock)
	// Taking a read lock can free a write lock, and flock(2) gives up the lock that
	// it cannot convert, at the first attempt. What waits frees nothing by being
	// served again: saying so would have it served again at once, for ever.
	if e == 0 && r.lock.Type != unix.F_WRLCK || r.lock.Flock && !r.Kept {
		s.unlocked.Add(1)
	}
	return e
}

// opSetlkw is opSetlk, but where that is EAGAIN the request waits. A guest's
// process that waits cannot be interrupted, not even killed: Linux sends no
// INTERRUPT over virtio-fs.
func (s *Server) opSetlkw(r *Request) unix.Errno {
	e := s.opSetlk(r)
	switch {
	case e != unix.EAGAIN:
		return e
	case r.NoWait:
		return unix.ENOLCK
	}
	return r.postpone()
}

// opFlush drops the locks of a process that closes a file. There is nothing
// else to do at a close: data never waits in this process, so each write's error
// was the write's answer. Without POSIX locks it is ENOSYS, and the guest never
// asks again.
func (s *Server) opFlush(r *Request) unix.Errno {
	if !s.agreed(fuse.PosixLocks) {
		return r.unserved()
	}
	e := s.fs.Flush(r.file(), fuse.Word64(r.fixed()[:], 2))
	s.unlocked.Add(1)
	return e
}

// opRelease closes a file, and with it go flock(2) locks.
func (s *Server) opRelease(r *Request) unix.Errno {
	var in fuse.ReleaseIn
	in.Decode(r.fixed()[:])
	if in.ReleaseFlags&fuse.ReleaseFlush != 0 {
		if e := s.fs.Flush(r.file(), in.LockOwner); e != 0 {
			return e
		}
	}
	e := s.fs.Release(r.file())
	s.unlocked.Add(1)
	return e
}

// Unlocked is a number that has risen when a lock may have been freed since:
// requests that wait for one (see Serve) should be served once more. Locks that
// the host or another guest frees do not show here.
func (s *Server) Unlocked() uint64 { return s.unlocked.Load() }
