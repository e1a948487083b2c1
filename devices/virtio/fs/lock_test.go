package fs

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// machine is a guest with a file open, on a directory that others share.
type machine struct {
	*rig
	c    *fstest.Conn
	node virtiofs.NodeID
	fh   uint64
}

func newMachine(tb testing.TB, dir string, policy Service, queues int) *machine {
	tb.Helper()
	host, err := passthrough.New(dir, passthrough.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	s := virtiofs.NewServer(host, virtiofs.Options{Locks: true})
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	m := &machine{rig: newRig(tb, s, policy, queues), c: fstest.Dial(tb, s)}
	m.mount()
	return m
}

// mount opens a session and the file.
func (m *machine) mount() {
	m.t.Helper()
	m.ask(1, fuse.Init, 0, fuse.InitOutSize, fstest.U32(fuse.Major, fuse.Minor, 128<<10, ^uint32(0), ^uint32(0)), make([]byte, 44))
	m.node = fstest.ParseEntry(m.ask(1, fuse.Lookup, rootNode, fuse.EntryOutSize, fstest.Str("file"))).Node
	m.fh = binary.LittleEndian.Uint64(m.ask(1, fuse.Open, m.node, fuse.OpenOutSize, fstest.U32(unix.O_RDWR, 0)))
}

// send makes a request available and notifies.
func (m *machine) send(queue int, op fuse.Opcode, node virtiofs.NodeID, room uint32, args ...[]byte) (head uint16) {
	m.t.Helper()
	head = m.add(queue, string(m.c.Message(op, node, args...)), fuse.OutHeaderSize+room)
	m.kick(queue)
	return head
}

// ask sends a request and waits for its reply, which must be the next one.
func (m *machine) ask(queue int, op fuse.Opcode, node virtiofs.NodeID, room uint32, args ...[]byte) []byte {
	m.t.Helper()
	body, e := m.answer(queue, m.send(queue, op, node, room, args...))
	if e != 0 {
		m.t.Fatalf("%v: %v", op, e)
	}
	return body
}

// answer waits for the next reply, which must be that of the head.
func (m *machine) answer(queue int, head uint16) ([]byte, unix.Errno) {
	m.t.Helper()
	got, text := m.wait(queue)
	if got != head {
		m.t.Fatalf("the reply is that of chain %d, want %d", got, head)
	}
	return []byte(text[fuse.OutHeaderSize:]), errnoOf(text)
}

func errnoOf(reply string) unix.Errno {
	return unix.Errno(-int32(binary.LittleEndian.Uint32([]byte(reply[4:8]))))
}

// lk is the arguments of a request for a lock of the whole file.
func (m *machine) lk(owner uint64, typ, flags uint32) []byte {
	b := fstest.U64(m.fh, owner, 0, math.MaxInt64)
	return append(b, fstest.U32(typ, 1, flags, 0)...)
}

// lock and waitLock send SETLK and SETLKW.
func (m *machine) lock(queue int, owner uint64, typ, flags uint32) unix.Errno {
	m.t.Helper()
	_, e := m.answer(queue, m.send(queue, fuse.Setlk, m.node, 0, m.lk(owner, typ, flags)))
	return e
}

func (m *machine) waitLock(queue int, owner uint64, typ, flags uint32) (head uint16) {
	m.t.Helper()
	return m.send(queue, fuse.Setlkw, m.node, 0, m.lk(owner, typ, flags))
}

// settle waits until n requests of the device wait for locks.
func (m *machine) settle(n int32) {
	m.t.Helper()
	w := m.d.live.Load().waiting
	for end := time.Now().Add(patience); w.n.Load() != n; time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			m.t.Fatalf("%d requests wait, want %d", w.n.Load(), n)
		}
	}
}

func (m *machine) want(what string, got, want unix.Errno) {
	m.t.Helper()
	if got != want {
		m.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func lockedDir(tb testing.TB) (dir, path string) {
	dir = tb.TempDir()
	path = filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("data"), 0o644); err != nil {
		tb.Fatal(err)
	}
	return dir, path
}

// everyService runs a test under every policy.
func everyService(t *testing.T, test func(t *testing.T, s Service)) {
	for s, name := range []string{"auto", "exit", "worker"} {
		t.Run(name, func(t *testing.T) { test(t, Service(s)) })
	}
}

// A lock of another machine is waited for, with one request queue and whoever
// serves it; everything else is served meanwhile.
func TestLockWaitsForAnotherMachine(t *testing.T) {
	everyService(t, func(t *testing.T, s Service) {
		for _, flags := range []uint32{0, fuse.LkFlock} {
			dir, _ := lockedDir(t)
			a, b := newMachine(t, dir, s, 1), newMachine(t, dir, s, 1)
			a.want("a", a.lock(1, 1, unix.F_WRLCK, flags), 0)
			waits := b.waitLock(1, 1, unix.F_WRLCK, flags)
			b.settle(1)
			b.ask(1, fuse.Getattr, b.node, fuse.AttrOutSize, make([]byte, 16))
			b.ask(1, fuse.Fsync, b.node, 0, fstest.U64(b.fh, 0))
			b.send(hiprio, fuse.Forget, b.node, 0, fstest.U64(0))
			if _, text := b.wait(hiprio); text != "" {
				t.Errorf("FORGET: %q", text)
			}
			b.want("b without waiting", b.lock(1, 2, unix.F_RDLCK, flags), unix.EAGAIN)
			a.want("a: unlock", a.lock(1, 1, unix.F_UNLCK, flags), 0)
			_, e := b.answer(1, waits)
			b.want("b", e, 0)
			a.want("a again", a.lock(1, 1, unix.F_RDLCK, flags), unix.EAGAIN)
		}
	})
}

// A lock of the host is waited for too.
func TestLockWaitsForTheHost(t *testing.T) {
	dir, path := lockedDir(t)
	m := newMachine(t, dir, ServiceAuto, 1)
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	waits := m.waitLock(1, 1, unix.F_WRLCK, fuse.LkFlock)
	m.settle(1)
	time.Sleep(3 * longestPause) // long enough for the pauses to be at their longest
	if _, _, ok := m.reply(1); ok {
		t.Fatal("answered while the host has the lock")
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	_, e := m.answer(1, waits)
	m.want("flock", e, 0)
}

// Those who wait in one device get the lock one after the other, by whatever it
// is freed.
func TestLockGoesRound(t *testing.T) {
	everyService(t, func(t *testing.T, s Service) {
		dir, _ := lockedDir(t)
		m := newMachine(t, dir, s, 2)
		m.want("first", m.lock(1, 1, unix.F_WRLCK, 0), 0)
		owners := map[uint16]uint64{}
		for owner := uint64(2); owner <= 7; owner++ {
			owners[m.waitLock(1, owner, unix.F_WRLCK, 0)] = owner
		}
		m.settle(6)
		for owner := uint64(1); len(owners) > 0; {
			if owner%2 == 0 {
				m.want("unlock", m.lock(2, owner, unix.F_UNLCK, 0), 0)
			} else {
				m.ask(2, fuse.Flush, m.node, 0, fstest.U64(m.fh, 0, owner))
			}
			head, text := m.wait(1)
			m.want("waiting", errnoOf(text), 0)
			if owner = owners[head]; owner == 0 {
				t.Fatalf("chain %d is not in flight", head)
			}
			delete(owners, head)
			m.want("one at a time", m.lock(2, 9, unix.F_RDLCK, 0), unix.EAGAIN)
		}
	})
}

// Locks that wait take three quarters of a ring at most: the request that frees
// them still gets in.
func TestWaitingLeavesRoom(t *testing.T) {
	everyService(t, func(t *testing.T, s Service) {
		dir, _ := lockedDir(t)
		m := newMachine(t, dir, s, 1)
		m.want("writer", m.lock(1, 1, unix.F_WRLCK, 0), 0)
		const room = ringSize * 3 / 4
		for i := range room {
			m.waitLock(1, uint64(i)+10, unix.F_RDLCK, 0)
			m.settle(int32(i) + 1)
		}
		_, e := m.answer(1, m.waitLock(1, 9, unix.F_RDLCK, 0))
		m.want("one more", e, unix.ENOLCK)
		m.send(1, fuse.Setlk, m.node, 0, m.lk(1, unix.F_UNLCK, 0))
		for range room + 1 {
			_, text := m.wait(1)
			m.want("reader", errnoOf(text), 0)
		}
		m.want("when they are gone", m.lock(1, 9, unix.F_RDLCK, 0), 0)
		m.settle(0)
		waits := m.waitLock(1, 8, unix.F_WRLCK, 0)
		m.settle(1)
		for i := range room {
			m.want("unlock", m.lock(1, uint64(i)+10, unix.F_UNLCK, 0), 0)
		}
		m.send(1, fuse.Setlk, m.node, 0, m.lk(9, unix.F_UNLCK, 0))
		heads := []uint16{}
		for range 2 {
			head, _ := m.wait(1)
			heads = append(heads, head)
		}
		if !slices.Contains(heads, waits) {
			t.Error("the place was not given back")
		}
	})
}

// goroutines waits until there are no more than n.
func goroutines(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(patience); runtime.NumGoroutine() > n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, want %d", runtime.NumGoroutine(), n)
		}
	}
}

// Reset drops what waits, and nothing of it is left: no goroutine, no lock of the
// guest's, and the next session begins as the first did.
func TestResetDropsWhatWaits(t *testing.T) {
	everyService(t, func(t *testing.T, s Service) {
		dir, path := lockedDir(t)
		m := newMachine(t, dir, s, 2)
		m.d.Reset()
		before := runtime.NumGoroutine()
		for range 3 {
			m.rig.activate()
			m.mount()
			m.want("writer", m.lock(1, 1, unix.F_WRLCK, 0), 0)
			for i := range 10 {
				m.waitLock(1+i%2, uint64(i)+10, unix.F_WRLCK, 0)
			}
			m.settle(10)
			m.d.Reset()
			goroutines(t, before)
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
				t.Errorf("on the host after the reset: %v", err)
			}
			if err := unix.Close(fd); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// The goroutine is there only while something waits.
func TestNoGoroutineUnlessWaiting(t *testing.T) {
	dir, _ := lockedDir(t)
	m := newMachine(t, dir, ServiceExit, 1)
	w := m.d.live.Load().waiting
	running := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.running
	}
	for range 3 {
		m.want("writer", m.lock(1, 1, unix.F_WRLCK, 0), 0)
		if running() {
			t.Error("it runs before anything waits")
		}
		m.waitLock(1, 2, unix.F_RDLCK, 0)
		m.settle(1)
		if !running() {
			t.Error("it does not run while one waits")
		}
		m.send(1, fuse.Setlk, m.node, 0, m.lk(1, unix.F_UNLCK, 0))
		m.wait(1)
		m.wait(1)
		m.settle(0)
		w.ended.Wait()
		m.want("reader", m.lock(1, 2, unix.F_UNLCK, 0), 0)
	}
}

// DESTROY ends the waits: they are answered, with an error.
func TestDestroyEndsWaits(t *testing.T) {
	dir, _ := lockedDir(t)
	m := newMachine(t, dir, ServiceAuto, 1)
	m.want("writer", m.lock(1, 1, unix.F_WRLCK, 0), 0)
	waits := m.waitLock(1, 2, unix.F_WRLCK, 0)
	m.settle(1)
	m.send(1, fuse.Destroy, 0, 0)
	for range 2 {
		head, text := m.wait(1)
		if e := errnoOf(text); head == waits && e == 0 {
			t.Error("a lock was granted without a session")
		}
	}
	m.settle(0)
}

// storm takes and gives back a lock n times for each of the owners, all of them
// at once, and reports each turn.
func (m *machine) storm(queue int, owners, n int, flags uint32, enter func()) {
	type state struct {
		owner uint64
		held  bool
		left  int
	}
	flight := map[uint16]*state{}
	ask := func(s *state) {
		op, typ := fuse.Setlkw, uint32(unix.F_WRLCK)
		if s.held {
			op, typ = fuse.Setlk, unix.F_UNLCK
		}
		flight[m.send(queue, op, m.node, 0, m.lk(s.owner, typ, flags))] = s
	}
	for i := range owners {
		ask(&state{owner: uint64(queue*1000 + i), left: n})
	}
	for len(flight) > 0 {
		head, text := m.wait(queue)
		s := flight[head]
		delete(flight, head)
		if e := errnoOf(text); e != 0 {
			m.t.Errorf("owner %d: %v", s.owner, e)
			return
		}
		if s.held = !s.held; s.held {
			enter()
		} else if s.left--; s.left == 0 {
			continue
		}
		ask(s)
	}
}

// Two machines storm for one lock: each gets it as often as it asked, and no two
// have it at once.
func TestLockStorm(t *testing.T) {
	everyService(t, func(t *testing.T, s Service) {
		dir, path := lockedDir(t)
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var turns atomic.Int64
		const owners, each = 4, 15
		done := make(chan struct{})
		for range 2 {
			m := newMachine(t, dir, s, 1)
			go func() {
				m.storm(1, owners, each, 0, func() {
					turns.Add(1)
					l := unix.Flock_t{Type: unix.F_RDLCK}
					if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &l); err != nil || l.Type != unix.F_WRLCK {
						t.Errorf("nobody has the lock that was granted: type %d, %v", l.Type, err)
					}
				})
				done <- struct{}{}
			}()
		}
		for range 2 {
			<-done
		}
		if turns.Load() != 2*owners*each {
			t.Errorf("%d turns", turns.Load())
		}
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkHandover is from one owner's unlock to the other's grant, while the
// other waits: in one device, and between the devices of two machines.
func BenchmarkHandover(b *testing.B) {
	for name, devices := range map[string]int{"device": 1, "machines": 2} {
		b.Run(name, func(b *testing.B) {
			dir, _ := lockedDir(b)
			from := newMachine(b, dir, ServiceAuto, 2)
			to := from
			if devices == 2 {
				to = newMachine(b, dir, ServiceAuto, 2)
			}
			var all []time.Duration
			for b.Loop() {
				from.want("lock", from.lock(1, 1, unix.F_WRLCK, 0), 0)
				waits := to.waitLock(2, 2, unix.F_WRLCK, 0)
				to.settle(1)
				began := time.Now()
				from.want("unlock", from.lock(1, 1, unix.F_UNLCK, 0), 0)
				_, e := to.answer(2, waits)
				all = append(all, time.Since(began))
				to.want("handed over", e, 0)
				to.want("unlock", to.lock(2, 2, unix.F_UNLCK, 0), 0)
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1e3, "µs/handover-median")
			b.ReportMetric(float64(all[len(all)-1].Nanoseconds())/1e3, "µs/handover-max")
		})
	}
}

// counted counts how often requests are served.
type counted struct {
	server
	n atomic.Int64
}

func (c *counted) Serve(r *virtiofs.Request, in, out virtiofs.Cursor) (uint32, bool) {
	c.n.Add(1)
	return c.server.Serve(r, in, out)
}

// Between two looks at a lock that another machine holds there is a pause,
// whatever kind of lock is waited for.
func TestLockWaitsWithPauses(t *testing.T) {
	for _, x := range [][2]uint32{
		{unix.F_WRLCK, 0}, {unix.F_RDLCK, 0}, {unix.F_WRLCK, fuse.LkFlock}, {unix.F_RDLCK, fuse.LkFlock},
	} {
		typ, flags := x[0], x[1]
		dir, _ := lockedDir(t)
		a, b := newMachine(t, dir, ServiceAuto, 1), newMachine(t, dir, ServiceAuto, 1)
		a.want("a", a.lock(1, 1, unix.F_WRLCK, flags), 0)
		s := &counted{server: b.d.server}
		b.d.server = s
		b.d.Reset()
		b.activate()
		b.mount()
		b.waitLock(1, 1, typ, flags)
		b.settle(1)
		before := s.n.Load()
		const watch = 200 * time.Millisecond
		time.Sleep(watch)
		if n := s.n.Load() - before; n > int64(watch/shortestPause) {
			t.Errorf("type %d, flags %d: served %d times in %v", typ, flags, n, watch)
		}
	}
}
