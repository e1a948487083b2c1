package virtiofs_test

import (
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// Without lock flags in INIT everything about locks is ENOSYS, which sends a
// guest's locks to the guest itself.
func TestLocksNotAgreed(t *testing.T) {
	dir, _ := lockDir(t)
	c := lockGuest(t, dir, passthrough.Options{})
	for _, x := range []struct {
		init         uint64
		posix, flock unix.Errno
		flush        unix.Errno
	}{
		{0, unix.ENOSYS, unix.ENOSYS, unix.ENOSYS},
		{fuse.PosixLocks, 0, unix.ENOSYS, 0},
		{fuse.FlockLocks, unix.ENOSYS, 0, unix.ENOSYS},
	} {
		_, e := c.Init(x.init)
		ok(t, "INIT", e)
		l := lockOpen(t, c, "file", unix.O_RDWR)
		want(t, "SETLK", l.set(1, 0, 0, unix.F_WRLCK), x.posix)
		_, e = l.get(1, 0, 0, unix.F_WRLCK)
		want(t, "GETLK", e, x.posix)
		want(t, "flock", l.flock(unix.F_WRLCK), x.flock)
		want(t, "FLUSH", l.flush(1), x.flush)
	}
}

func TestLockArguments(t *testing.T) {
	dir, _ := lockDir(t)
	write(t, filepath.Join(dir, "other"), "x")
	c := lockGuest(t, dir, passthrough.Options{})
	l := lockOpen(t, c, "file", unix.O_RDWR)
	reader := lockOpen(t, c, "file", unix.O_RDONLY)
	other := lockOpen(t, c, "other", unix.O_RDWR)
	crossed := &locker{t, c, l.node, other.fh}
	closed := &locker{t, c, l.node, 1 << 50}
	for _, x := range []struct {
		what       string
		l          *locker
		start, end uint64
		typ        uint32
		want       unix.Errno
	}{
		{"end before start", l, 5, 4, unix.F_WRLCK, unix.EINVAL},
		{"end beyond loff_t", l, 0, 1 << 63, unix.F_WRLCK, unix.EINVAL},
		{"both beyond loff_t", l, 1 << 63, math.MaxUint64, unix.F_WRLCK, unix.EINVAL},
		{"type 3", l, 0, 1, 3, unix.EINVAL},
		{"type -1", l, 0, 1, math.MaxUint32, unix.EINVAL},
		{"F_WRLCK in its low half", reader, 0, 1, 1<<16 | unix.F_WRLCK, unix.EINVAL},
		{"handle of another node", crossed, 0, 1, unix.F_RDLCK, unix.EBADF},
		{"no such handle", closed, 0, 1, unix.F_RDLCK, unix.EBADF},
		{"handle 0", &locker{t, c, l.node, 0}, 0, 1, unix.F_RDLCK, unix.EBADF},
		{"write lock by a reader", reader, 0, 1, unix.F_WRLCK, unix.EBADF},
		{"read lock by a reader", reader, 0, 1, unix.F_RDLCK, 0},
		{"last byte there is", l, toEOF, toEOF, unix.F_WRLCK, 0},
		{"the one before", l, toEOF - 1, toEOF - 1, unix.F_WRLCK, 0},
		{"write lock by a reader whose owner writes elsewhere", reader, 0, 1, unix.F_WRLCK, unix.EBADF},
	} {
		want(t, x.what, x.l.set(1, x.start, x.end, x.typ), x.want)
	}
	_, e := l.get(1, 0, 1, unix.F_UNLCK)
	want(t, "GETLK of no lock", e, unix.EINVAL)
	_, e = crossed.get(1, 0, 1, unix.F_RDLCK)
	want(t, "GETLK by a handle of another node", e, unix.EBADF)
	want(t, "FLUSH by a handle of another node", crossed.flush(1), unix.EBADF)
	want(t, "flock by a handle of another node", crossed.flock(unix.F_RDLCK), unix.EBADF)
	_, e = l.c.Call(fuse.Getlk, l.node, 24, lkIn(l.fh, 1, 0, 1, unix.F_WRLCK, fuse.LkFlock))
	want(t, "GETLK of flock", e, unix.EINVAL)
}

// Two machines, and two processes of one of them, exclude each other by ranges.
func TestPosixLocksExclude(t *testing.T) {
	dir, _ := lockDir(t)
	a := lockOpen(t, lockGuest(t, dir, passthrough.Options{}), "file", unix.O_RDWR)
	b := lockOpen(t, lockGuest(t, dir, passthrough.Options{}), "file", unix.O_RDWR)
	want(t, "a: write 10-19", a.set(1, 10, 19, unix.F_WRLCK), 0)
	for name, other := range map[string]*locker{"another machine": b, "another process": a} {
		want(t, name+": before it", other.set(2, 0, 9, unix.F_WRLCK), 0)
		want(t, name+": its first byte", other.set(2, 0, 10, unix.F_RDLCK), unix.EAGAIN)
		want(t, name+": its last byte", other.set(2, 19, 30, unix.F_WRLCK), unix.EAGAIN)
		want(t, name+": after it to the end", other.set(2, 20, toEOF, unix.F_RDLCK), 0)
		pid := uint64(0)
		if other == a {
			pid = 101
		}
		held, e := other.get(2, 0, toEOF, unix.F_RDLCK)
		ok(t, "GETLK", e)
		if held != [4]uint64{unix.F_WRLCK, 10, 19, pid} {
			t.Errorf("%s: GETLK says %v", name, held)
		}
		want(t, name+": unlock", other.set(2, 0, toEOF, unix.F_UNLCK), 0)
	}
	want(t, "a: becomes a read lock", a.set(1, 10, 19, unix.F_RDLCK), 0)
	want(t, "b: reads too", b.set(2, 0, toEOF, unix.F_RDLCK), 0)
	want(t, "a: cannot write now", a.set(1, 15, 15, unix.F_WRLCK), unix.EAGAIN)
	held, e := a.get(1, 0, toEOF, unix.F_WRLCK)
	ok(t, "GETLK", e)
	if held != [4]uint64{unix.F_RDLCK, 0, toEOF, 0} {
		t.Errorf("GETLK of a lock to the end says %v", held)
	}
	held, e = a.get(1, 0, toEOF, unix.F_RDLCK)
	ok(t, "GETLK", e)
	if held[0] != unix.F_UNLCK {
		t.Errorf("GETLK of what could be had says %v", held)
	}
}

// A process has one set of locks however many handles it has: taking again and
// dropping in the middle are fcntl(2)'s.
func TestPosixLocksOfOneOwner(t *testing.T) {
	dir, path := lockDir(t)
	c := lockGuest(t, dir, passthrough.Options{})
	l, second := lockOpen(t, c, "file", unix.O_RDWR), lockOpen(t, c, "file", unix.O_RDWR)
	host := hostFile(t, path, unix.O_RDWR)
	try := func(at int64) unix.Errno {
		e := hostErrno(hostLock(host, unix.F_OFD_SETLK, unix.F_WRLCK, at, 1))
		must(t, hostLock(host, unix.F_OFD_SETLK, unix.F_UNLCK, 0, 0))
		return e
	}
	want(t, "0-99", l.set(1, 0, 99, unix.F_WRLCK), 0)
	want(t, "again by the second handle", second.set(1, 0, 49, unix.F_WRLCK), 0)
	want(t, "unlock 20-29", second.set(1, 20, 29, unix.F_UNLCK), 0)
	want(t, "host: 19", try(19), unix.EAGAIN)
	want(t, "host: 20", try(20), 0)
	want(t, "host: 29", try(29), 0)
	want(t, "host: 30", try(30), unix.EAGAIN)
	want(t, "unlock by one who holds nothing", l.set(2, 0, toEOF, unix.F_UNLCK), 0)
	want(t, "host: 30 still", try(30), unix.EAGAIN)
}

// Closing any descriptor of the file drops the owner's locks and no other's.
func TestFlushDropsOwner(t *testing.T) {
	dir, path := lockDir(t)
	c := lockGuest(t, dir, passthrough.Options{})
	l, second := lockOpen(t, c, "file", unix.O_RDWR), lockOpen(t, c, "file", unix.O_RDONLY)
	host := hostFile(t, path, unix.O_RDWR)
	want(t, "owner 1", l.set(1, 0, 9, unix.F_WRLCK), 0)
	want(t, "owner 2", l.set(2, 20, 29, unix.F_WRLCK), 0)
	want(t, "flock", l.flock(unix.F_WRLCK), 0)
	want(t, "FLUSH of the other descriptor", second.flush(1), 0)
	want(t, "host: what 1 held", hostErrno(hostLock(host, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 10)), 0)
	want(t, "host: what 2 holds", hostErrno(hostLock(host, unix.F_OFD_SETLK, unix.F_WRLCK, 20, 10)), unix.EAGAIN)
	want(t, "host: flock", hostErrno(unix.Flock(host, unix.LOCK_SH|unix.LOCK_NB)), unix.EAGAIN)
	_, e := c.Call(fuse.Release, l.node, 0, fstest.U64(second.fh), fstest.U32(0, fuse.ReleaseFlush), fstest.U64(2))
	ok(t, "RELEASE with FLUSH", e)
	want(t, "host: what 2 held", hostErrno(hostLock(host, unix.F_OFD_SETLK, unix.F_WRLCK, 20, 10)), 0)
}

// A guest that never says FLUSH: its locks go with the handle they were taken
// by, and with the session.
func TestLocksEnd(t *testing.T) {
	for name, end := range map[string]func(l *locker){
		"RELEASE": func(l *locker) { ok(t, "RELEASE", l.c.Release(l.node, l.fh, false)) },
		"INIT":    func(l *locker) { _, e := l.c.Init(fstest.AllFlags); ok(t, "INIT", e) },
		"DESTROY": func(l *locker) { _, e := l.c.Call(fuse.Destroy, 0, 0); ok(t, "DESTROY", e) },
		"reset":   func(l *locker) { l.c.S.Reset() },
	} {
		dir, path := lockDir(t)
		budget, err := passthrough.NewBudget()
		must(t, err)
		c := lockGuest(t, dir, passthrough.Options{Budget: budget})
		before := budget.Used()
		l := lockOpen(t, c, "file", unix.O_RDWR)
		host := hostFile(t, path, unix.O_RDWR)
		want(t, "POSIX", l.set(1, 0, 9, unix.F_WRLCK), 0)
		want(t, "flock", l.flock(unix.F_WRLCK), 0)
		want(t, name+": host before", hostErrno(hostLock(host, unix.F_OFD_SETLK, unix.F_RDLCK, 0, 0)), unix.EAGAIN)
		generation := c.S.Unlocked()
		end(l)
		want(t, name+": host after", hostErrno(hostLock(host, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 0)), 0)
		want(t, name+": host flock after", hostErrno(unix.Flock(host, unix.LOCK_EX|unix.LOCK_NB)), 0)
		if c.S.Unlocked() == generation && name != "INIT" {
			t.Errorf("%s: Unlocked does not tell", name)
		}
		c.Forget(l.node, 1)
		if n := budget.Used(); n > before {
			t.Errorf("%s: %d descriptors are left", name, n-before)
		}
	}
}

// Locks of flock(2) are held by handles, against the host's too, and converted.
func TestFlock(t *testing.T) {
	dir, path := lockDir(t)
	c := lockGuest(t, dir, passthrough.Options{})
	a, same := lockOpen(t, c, "file", unix.O_RDONLY), lockOpen(t, c, "file", unix.O_RDONLY)
	b := lockOpen(t, lockGuest(t, dir, passthrough.Options{}), "file", unix.O_RDONLY)
	host := hostFile(t, path, unix.O_RDONLY)
	want(t, "shared", a.flock(unix.F_RDLCK), 0)
	want(t, "shared by the other machine", b.flock(unix.F_RDLCK), 0)
	want(t, "exclusive by the other machine", b.flock(unix.F_WRLCK), unix.EAGAIN)
	want(t, "which lost it by that", a.flock(unix.F_WRLCK), 0)
	want(t, "another handle of the machine", same.flock(unix.F_RDLCK), unix.EAGAIN)
	want(t, "host", hostErrno(unix.Flock(host, unix.LOCK_SH|unix.LOCK_NB)), unix.EAGAIN)
	want(t, "POSIX locks do not mind", a.set(1, 0, toEOF, unix.F_RDLCK), 0)
	want(t, "unlock", a.flock(unix.F_UNLCK), 0)
	want(t, "host after", hostErrno(unix.Flock(host, unix.LOCK_EX|unix.LOCK_NB)), 0)
	want(t, "against the host", a.flock(unix.F_RDLCK), unix.EAGAIN)
}

// On a read-only share locks that need no writing work.
func TestLocksReadOnly(t *testing.T) {
	dir, path := lockDir(t)
	l := lockOpen(t, lockGuest(t, dir, passthrough.Options{ReadOnly: true}), "file", unix.O_RDONLY)
	host := hostFile(t, path, unix.O_RDWR)
	want(t, "read lock", l.set(1, 0, 9, unix.F_RDLCK), 0)
	want(t, "write lock", l.set(1, 0, 9, unix.F_WRLCK), unix.EBADF)
	want(t, "host", hostErrno(hostLock(host, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 1)), unix.EAGAIN)
	want(t, "flock", l.flock(unix.F_WRLCK), 0)
}

// POSIX locks of a process on the host, as fcntl(2) and lockf(3) take them.
func TestPosixLocksOfTheHost(t *testing.T) {
	dir, path := lockDir(t)
	l := lockOpen(t, lockGuest(t, dir, passthrough.Options{}), "file", unix.O_RDWR)
	release := holdPosixLock(t, path, 5, 10)
	want(t, "its range", l.set(1, 0, 5, unix.F_RDLCK), unix.EAGAIN)
	held, e := l.get(1, 0, 99, unix.F_RDLCK)
	ok(t, "GETLK", e)
	if held != [4]uint64{unix.F_WRLCK, 5, 14, 0} { // no pid: the host's mean nothing here
		t.Errorf("GETLK says %v", held)
	}
	release()
	want(t, "after it", l.set(1, 0, 5, unix.F_RDLCK), 0)
}

// A process reads by one handle and writes by another: its first locks stay its
// own when it comes to need an open file that can hold write locks.
func TestReaderBecomesWriter(t *testing.T) {
	dir, path := lockDir(t)
	c := lockGuest(t, dir, passthrough.Options{})
	reader, writer := lockOpen(t, c, "file", unix.O_RDONLY), lockOpen(t, c, "file", unix.O_RDWR)
	host := hostFile(t, path, unix.O_RDWR)
	want(t, "read 0-9", reader.set(1, 0, 9, unix.F_RDLCK), 0)
	want(t, "read 50-59", reader.set(1, 50, 59, unix.F_RDLCK), 0)
	want(t, "write 5-14", writer.set(1, 5, 14, unix.F_WRLCK), 0)
	for _, x := range []struct {
		at   int64
		typ  int16
		want unix.Errno
	}{
		{0, unix.F_RDLCK, 0}, {0, unix.F_WRLCK, unix.EAGAIN},
		{5, unix.F_RDLCK, unix.EAGAIN}, {14, unix.F_RDLCK, unix.EAGAIN}, {15, unix.F_WRLCK, 0},
		{59, unix.F_RDLCK, 0}, {59, unix.F_WRLCK, unix.EAGAIN},
	} {
		want(t, "host", hostErrno(hostLock(host, unix.F_OFD_SETLK, x.typ, x.at, 1)), x.want)
		must(t, hostLock(host, unix.F_OFD_SETLK, unix.F_UNLCK, 0, 0))
	}
	want(t, "FLUSH", reader.flush(1), 0)
	want(t, "host after", hostErrno(hostLock(host, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 0)), 0)
}

// SETLKW never waits inside Serve, whoever calls: it is served again until it
// has its lock, and refused where it could not be kept.
func TestSetlkwIsServedAgain(t *testing.T) {
	dir, _ := lockDir(t)
	a := lockOpen(t, lockGuest(t, dir, passthrough.Options{}), "file", unix.O_RDWR)
	b := lockOpen(t, lockGuest(t, dir, passthrough.Options{}), "file", unix.O_RDWR)
	for _, flags := range []uint32{0, fuse.LkFlock} {
		set := func(l *locker, typ uint32) unix.Errno {
			_, e := l.c.Call(fuse.Setlk, l.node, 0, lkIn(l.fh, 7, 0, toEOF, typ, flags))
			return e
		}
		ok(t, "a", set(a, unix.F_WRLCK))
		for range 3 {
			if e, again := b.wait(7, 0, toEOF, unix.F_WRLCK, flags); !again {
				t.Fatalf("flags %d: not again but %v", flags, e)
			}
		}
		b.c.R.NoWait = true
		e, again := b.wait(7, 0, toEOF, unix.F_WRLCK, flags)
		b.c.R.NoWait = false
		if again || e != unix.ENOLCK {
			t.Errorf("flags %d, NoWait: %v, again %v", flags, e, again)
		}
		generation := a.c.S.Unlocked()
		ok(t, "a: unlock", set(a, unix.F_UNLCK))
		if a.c.S.Unlocked() == generation {
			t.Error("Unlocked does not tell")
		}
		if e, again := b.wait(7, 0, toEOF, unix.F_WRLCK, flags); again || e != 0 {
			t.Errorf("flags %d, after unlock: %v, again %v", flags, e, again)
		}
		ok(t, "b: unlock", set(b, unix.F_UNLCK))
	}
}

// Another's lock is SETLK's answer, on the thread that asks: no thread of the
// pool is troubled with it.
func TestSetlkAnswersAtOnce(t *testing.T) {
	dir, _ := lockDir(t)
	c := lockGuest(t, dir, passthrough.Options{})
	l := lockOpen(t, c, "file", unix.O_RDWR)
	ok(t, "owner 1", l.set(1, 0, 9, unix.F_WRLCK))
	for name, owner := range map[string]uint64{"SETLK": 2, "SETLK of one's own": 1} {
		if _, pooled := c.Raw(c.Message(fuse.Setlk, l.node, lkIn(l.fh, owner, 0, 9, unix.F_WRLCK, 0)), 16); pooled {
			t.Errorf("%s left the thread", name)
		}
	}
	if _, pooled := c.Raw(c.Message(fuse.Setlkw, l.node, lkIn(l.fh, 1, 0, 9, unix.F_RDLCK, 0)), 16); pooled {
		t.Error("SETLKW that can be had left the thread")
	}
	want(t, "SETLKW of another's by Raw, which cannot wait", func() unix.Errno {
		reply, _ := c.Raw(c.Message(fuse.Setlkw, l.node, lkIn(l.fh, 2, 0, 9, unix.F_WRLCK, 0)), 16)
		return unix.Errno(-int32(le.Uint32(reply[4:])))
	}(), unix.ENOLCK)
}

// What a guest's locks cost the host is bounded: descriptors by the budget,
// ranges by a number, and both come back.
func TestLocksAreBounded(t *testing.T) {
	dir, _ := lockDir(t)
	budget, err := passthrough.NewBudget()
	must(t, err)
	c := lockGuest(t, dir, passthrough.Options{Budget: budget})
	l := lockOpen(t, c, "file", unix.O_RDWR)
	used := budget.Used()
	for owner := range uint64(10) {
		ok(t, "read lock", l.set(owner, 0, 9, unix.F_RDLCK))
	}
	if n := budget.Used() - used; n != 10 {
		t.Errorf("10 owners: %d descriptors", n)
	}
	for owner := range uint64(10) {
		ok(t, "unlock", l.set(owner, 0, toEOF, unix.F_UNLCK))
	}
	want(t, "a lock that is another's", func() unix.Errno {
		ok(t, "write lock", l.set(1, 0, 9, unix.F_WRLCK))
		return l.set(2, 0, 9, unix.F_WRLCK)
	}(), unix.EAGAIN)
	ok(t, "unlock", l.set(1, 0, toEOF, unix.F_UNLCK))
	if n := budget.Used() - used; n != 0 {
		t.Errorf("after unlocking: %d descriptors", n)
	}

	// Half of the ranges there may be, in pieces that an unlock cuts in two.
	const most = 1 << 13
	for i := range uint64(most/2 + 10) {
		ok(t, "range", l.set(1, 4*i, 4*i+2, unix.F_RDLCK))
	}
	e, n := unix.Errno(0), 0
	for ; e == 0 && n < most; n++ {
		e = l.set(1, 4*uint64(n)+1, 4*uint64(n)+1, unix.F_UNLCK)
	}
	want(t, "one unlock too many", e, unix.ENOLCK)
	if n < most/4 {
		t.Errorf("only %d unlocks", n)
	}
	want(t, "one lock too many", l.set(2, 1<<40, 1<<40, unix.F_RDLCK), unix.ENOLCK)
	want(t, "unlocking what leaves nothing", l.set(1, 0, 3, unix.F_UNLCK), 0)
	ok(t, "FLUSH", l.flush(1))
	want(t, "after it", l.set(2, 1<<40, 1<<40, unix.F_RDLCK), 0)
}

// Owners in parallel, each with its own connection to one of two servers: under
// a write lock nobody else is inside.
func TestLockStorm(t *testing.T) {
	dir, path := lockDir(t)
	servers := []*virtiofs.Server{lockGuest(t, dir, passthrough.Options{}).S, lockGuest(t, dir, passthrough.Options{}).S}
	var inside, turns atomic.Int64
	var all sync.WaitGroup
	for owner := range uint64(6) {
		c := fstest.Dial(t, servers[owner%2])
		l := lockOpen(t, c, "file", unix.O_RDWR)
		posix := owner%3 != 0 // both kinds hold each other off by taking both
		all.Go(func() {
			for range 100 {
				for l.set(owner, 0, 9, unix.F_WRLCK) != 0 {
				}
				for l.flock(unix.F_WRLCK) != 0 {
				}
				if inside.Add(1) != 1 {
					t.Error("two at once under a write lock")
				}
				turns.Add(1)
				inside.Add(-1)
				ok(t, "unlock", l.flock(unix.F_UNLCK))
				if posix {
					ok(t, "unlock", l.set(owner, 0, toEOF, unix.F_UNLCK))
				} else {
					ok(t, "FLUSH", l.flush(owner))
				}
			}
			ok(t, "RELEASE", c.Release(l.node, l.fh, false))
		})
	}
	all.Wait()
	if turns.Load() != 600 {
		t.Errorf("%d of 600 turns", turns.Load())
	}
	host := hostFile(t, path, unix.O_RDWR)
	want(t, "host afterwards", hostErrno(hostLock(host, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 0)), 0)
}

// A lock that is waited for frees nothing each time it is served again, or the
// device would serve it without a pause.
func TestWaitingFreesNothing(t *testing.T) {
	dir, _ := lockDir(t)
	a := lockOpen(t, lockGuest(t, dir, passthrough.Options{}), "file", unix.O_RDWR)
	b := lockOpen(t, lockGuest(t, dir, passthrough.Options{}), "file", unix.O_RDWR)
	for _, flags := range []uint32{0, fuse.LkFlock} {
		for _, typ := range []uint32{unix.F_RDLCK, unix.F_WRLCK} {
			_, e := a.c.Call(fuse.Setlk, a.node, 0, lkIn(a.fh, 7, 0, toEOF, unix.F_WRLCK, flags))
			ok(t, "a", e)
			_, again := b.wait(7, 0, toEOF, typ, flags)
			generation := b.c.S.Unlocked()
			b.c.R.Kept = true
			for range 3 {
				var e unix.Errno
				if e, again = b.wait(7, 0, toEOF, typ, flags); !again {
					t.Fatalf("flags %d, type %d: not again but %v", flags, typ, e)
				}
			}
			b.c.R.Kept = false
			if got := b.c.S.Unlocked(); !again || got != generation {
				t.Errorf("flags %d, type %d: again %v, unlocked %d times", flags, typ, again, got-generation)
			}
			_, e = a.c.Call(fuse.Setlk, a.node, 0, lkIn(a.fh, 7, 0, toEOF, unix.F_UNLCK, flags))
			ok(t, "a: unlock", e)
		}
	}
}
