package fs

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue"
	"tenon/virtiofs"
)

// What is freed in the device is noticed without the clock: every request that
// freed a lock makes the goroutine look, once, and others do not.
func TestUnlockKicks(t *testing.T) {
	f := newFake()
	w := newWaiting(&session{server: f})
	w.running = true // by this test, in the goroutine's place
	looked := func() bool {
		select {
		case <-w.kick:
			return true
		default:
			return false
		}
	}
	f.unlocked.Store(5)
	if w.served(); looked() {
		t.Error("kicked although nothing waits")
	}
	w.put(parked{q: &requestQueue{}}, 5)
	if !looked() {
		t.Error("a request that has just been put is not looked at")
	}
	w.last.Store(5)
	if w.served(); looked() {
		t.Error("kicked although nothing was freed")
	}
	f.unlocked.Store(6)
	if w.served(); !looked() {
		t.Error("not kicked although a lock was freed")
	}
}

// held returns what waits in a rig of its own, without its goroutine: n requests
// that wait for ever, put when the server had unlocked 0, 1, 2 ... times.
func held(t *testing.T, n int) (*rig, *fake, *waiting) {
	f := newFake()
	g := newRig(t, f, ServiceAuto, 1)
	s := g.d.live.Load()
	w := newWaiting(s)
	w.running = true
	w.chain, w.request = queue.NewChain(queue.MaxSize), virtiofs.NewRequest()
	for i := range n {
		g.add(1, fmt.Sprint("wait ", i), 100)
		head, ok, err := s.queues[1].ring.PopHead()
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		w.put(parked{s.queues[1], head}, uint64(i))
	}
	return g, f, w
}

// A pass tries those that were not tried since the last lock was freed, the
// clock's tries them all.
func TestWaitingPasses(t *testing.T) {
	_, f, w := held(t, 3)
	f.unlocked.Store(1)
	for i, x := range []struct {
		unlocked uint64
		all      bool
		want     int
	}{{1, false, 2}, {1, false, 0}, {1, true, 3}, {1, false, 0}, {2, false, 3}, {2, false, 0}} {
		f.unlocked.Store(x.unlocked)
		before := len(f.served())
		if w.serve(x.all) {
			t.Error("none waits any more")
		}
		if n := len(f.served()) - before; n != x.want {
			t.Errorf("pass %d: %d tried, want %d", i, n, x.want)
		}
	}
}

// In a broken session nothing is served any more, and nothing waits.
func TestWaitingDeadSession(t *testing.T) {
	g, f, w := held(t, 2)
	w.s.fail(errors.New("broken"))
	<-g.broke
	if !w.serve(true) {
		t.Error("requests wait")
	}
	if got := f.served(); len(got) != 0 {
		t.Errorf("served %v", got)
	}
}

// What comes after close is dropped.
func TestWaitingPutAfterClose(t *testing.T) {
	w := newWaiting(&session{server: newFake()})
	w.close()
	w.put(parked{q: &requestQueue{}}, 0)
	if w.running || len(w.list) != 0 || w.n.Load() != 0 {
		t.Error("it waits")
	}
}

// Reset waits for a request that is being tried, before it ends the session.
func TestResetWaitsForTheTry(t *testing.T) {
	f := newFake()
	g := newRig(t, f, ServiceExit, 1)
	tried, gate, first := make(chan struct{}), make(chan struct{}), true
	f.onServe = func() {
		if first { // on the caller's thread; then by the goroutine
			first = false
			return
		}
		tried <- struct{}{}
		<-gate
	}
	g.add(1, "wait", 100)
	g.kick(1)
	<-tried
	done := make(chan struct{})
	go func() {
		g.d.Reset()
		close(done)
	}()
	select {
	case <-done:
		t.Error("Reset returned while a request was being served")
	case <-time.After(20 * time.Millisecond): // longer only finds more
	}
	close(gate)
	<-done
}

// They are tried in the order they came, and again from the first when a lock is
// freed meanwhile.
func TestWaitingOrder(t *testing.T) {
	_, f, w := held(t, 4)
	tries := 0
	f.onServe = func() {
		if tries++; tries == 3 || tries == 5 { // while 2 is tried, and 1 for the second time
			f.unlocked.Add(1)
		}
	}
	w.serve(true)
	var order []string
	for _, s := range f.served() {
		order = append(order, strings.Trim(s, "wait +"))
	}
	if got, want := strings.Join(order, ""), "0120123"; got != want {
		t.Errorf("tried %s, want %s", got, want)
	}
	select {
	case <-w.kick:
	default:
		t.Error("the lock that was freed last is not looked after")
	}
}

// The chain of a request that waits changes: it is read and checked again.
func TestWaitingChainChanges(t *testing.T) {
	g, _, w := held(t, 2)
	for i := range uint16(ringSize) {
		g.rings[1].SetDesc(i, ramBase-16, 16, 0, 0)
	}
	if !w.serve(true) {
		t.Error("requests wait in a broken session")
	}
	select {
	case err := <-g.broke:
		if !errors.Is(err, memory.ErrAddress) {
			t.Error(err)
		}
	default:
		t.Error("not noticed")
	}
}
