package fs

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"tenon/devices/virtio/queue/queuetest"
	"tenon/virtiofs"
)

// poller returns that of a queue.
func (g *rig) poller(queue int) *poller { return g.d.live.Load().queues[queue].poller }

// look makes the queues be looked at for so long from the first doorbell on, which
// halves the window, however few CPUs there are.
func (g *rig) look(d time.Duration) {
	s := g.d.live.Load()
	s.spinners.max = int32(len(s.queues))
	for _, q := range s.queues[1:] {
		q.poller.window = 2 * d
	}
}

// until waits for what must happen.
func (g *rig) until(what string, happened func() bool) {
	g.t.Helper()
	for end := time.Now().Add(patience); !happened(); runtime.Gosched() {
		if time.Now().After(end) {
			g.t.Fatal("it never happens that ", what)
		}
	}
}

// A doorbell only wakes the goroutine: the vCPU is back before anything is served.
func TestPollServesElsewhere(t *testing.T) {
	f := newFake()
	gate := make(chan struct{})
	f.onServe = func() { <-gate }
	g := newRig(t, f, ServicePoll, 1)
	g.add(1, "quick", 100)
	g.kick(1)
	if _, _, ok := g.reply(1); ok {
		t.Error("served by the caller of Notify")
	}
	close(gate)
	if _, text := g.wait(1); text != "quick" {
		t.Errorf("reply %q", text)
	}
	g.add(0, "quick hiprio", 100)
	g.kick(0)
	if _, text, ok := g.reply(0); !ok || text != "quick hiprio" {
		t.Errorf("hiprio waits: %q, %v", text, ok)
	}
}

// While the queue is looked at, no request needs a doorbell.
func TestPollNeedsNoDoorbell(t *testing.T) {
	g := newRig(t, newFake(), ServicePoll, 1)
	g.look(time.Hour)
	g.add(1, "quick", 100)
	g.kick(1)
	g.wait(1)
	for i := range 3 * ringSize {
		want := fmt.Sprint("quick ", i)
		g.add(1, want, 100)
		if g.rings[1].Kick() {
			t.Fatalf("request %d: a doorbell is wanted", i)
		}
		if _, text := g.wait(1); text != want {
			t.Fatalf("reply %q, want %q", text, want)
		}
	}
}

// Requests come just as the goroutine stops looking: each is served, with a doorbell
// if one is asked for.
func TestPollLosesNone(t *testing.T) {
	g := newRig(t, newFake(), ServicePoll, 1)
	p := g.poller(1)
	g.look(0)
	p.longest = 20 * time.Microsecond
	bells := 0
	const total = 20000
	for i := range total {
		for end := time.Now().Add(rand.N(2 * p.longest)); time.Now().Before(end); {
		}
		want := fmt.Sprint("quick ", i)
		g.add(1, want, 100)
		if g.rings[1].Kick() {
			bells++
			g.d.Notify(1)
		}
		if _, text := g.wait(1); text != want {
			t.Fatalf("reply %q, want %q", text, want)
		}
	}
	if bells == 0 || bells == total {
		t.Errorf("%d of %d requests wanted a doorbell: the edge was never met", bells, total)
	}
}

// What may block leaves the goroutine.
func TestPollParks(t *testing.T) {
	f := newFake()
	g := newRig(t, f, ServicePoll, 1)
	const slow = 2 * maxWorkers
	for range slow {
		g.add(1, "slow", 100)
	}
	g.kick(1)
	for range 5 {
		g.add(1, "quick", 100)
		g.kick(1)
		if _, text := g.wait(1); text != "quick" {
			t.Fatalf("reply %q", text)
		}
	}
	for range slow {
		f.gate <- struct{}{}
	}
	for range slow {
		if _, text := g.wait(1); text != "slow" {
			t.Fatalf("reply %q", text)
		}
	}
}

// Reset does not wait for the end of the window, and takes no request after it; the
// next session polls again.
func TestPollReset(t *testing.T) {
	f := newFake()
	g := newRig(t, f, ServicePoll, 2)
	for i := range 50 {
		g.look(time.Hour)
		for q := 1; q <= 2; q++ {
			g.add(q, "quick", 100)
			g.kick(q)
			g.wait(q)
		}
		g.d.Reset()
		served := len(f.served())
		g.add(1, "quick too late", 100)
		g.d.Notify(1)
		if n := len(f.served()); n != served || served != 2*(i+1) {
			t.Fatalf("session %d: %d requests served, then %d", i, served, n)
		}
		g.activate()
	}
}

// A doorbell that comes after Reset starts nothing that Reset could have waited for.
func TestPollNotifyAfterReset(t *testing.T) {
	g := newRig(t, newFake(), ServicePoll, 1)
	p := g.poller(1)
	g.d.Reset()
	p.notify()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.awake {
		t.Error("a goroutine was started")
	}
}

// Reset waits for the request that is being served, and takes no other.
func TestPollResetWaits(t *testing.T) {
	f := newFake()
	began, gate := make(chan struct{}, 2), make(chan struct{})
	f.onServe = func() { began <- struct{}{}; <-gate }
	g := newRig(t, f, ServicePoll, 1)
	g.add(1, "quick", 100)
	g.add(1, "quick", 100)
	g.kick(1)
	<-began
	s := g.d.live.Load()
	done := make(chan struct{})
	go func() {
		g.d.Reset()
		close(done)
	}()
	g.until("the session dies", func() bool { return s.dead.Load() })
	select {
	case gate <- struct{}{}:
	case <-done:
		t.Fatal("Reset returned with a request in flight")
	}
	<-done
	if got := f.served(); !slices.Equal(got, []string{"quick"}) {
		t.Errorf("served %v", got)
	}
}

// A broken ring ends the looking, too.
func TestPollBroken(t *testing.T) {
	g := newRig(t, newFake(), ServicePoll, 1)
	g.look(time.Hour)
	g.add(1, "quick", 100)
	g.kick(1)
	g.wait(1)
	g.rings[1].SetAvailIdx(ringSize + 2)
	select {
	case <-g.broke:
	case <-time.After(patience):
		t.Fatal("not noticed")
	}
}

// Only so many queues are looked at with nothing in them: the others are served and
// ask for a doorbell at once.
func TestPollSpinners(t *testing.T) {
	g := newRig(t, newFake(), ServicePoll, 3)
	s := g.d.live.Load()
	g.look(time.Hour)
	s.spinners.max = 1
	for q := 1; q <= 3; q++ {
		g.add(q, "quick", 100)
		g.kick(q)
		g.wait(q)
		if q == 1 {
			g.until("the queue is looked at", func() bool { return s.spinners.n.Load() == 1 })
		}
	}
	for q := 2; q <= 3; q++ {
		g.until("a doorbell is wanted", func() bool {
			g.add(q, "quick", 100)
			wanted := g.rings[q].Kick()
			if wanted {
				g.d.Notify(q)
			}
			g.wait(q)
			return wanted
		})
	}
	g.until("only one queue counts", func() bool { return s.spinners.n.Load() == 1 })
	g.add(1, "quick", 100)
	if g.rings[1].Kick() {
		t.Error("the queue that is looked at wants a doorbell")
	}
	g.wait(1)
}

// A queue that seldom has something is not looked at for long, and one that soon has
// more at once again.
func TestPollAdapts(t *testing.T) {
	p := newPoller(nil)
	for _, step := range []struct{ gap, window time.Duration }{
		{time.Hour, 0},
		{p.longest - 1, p.longest},
		{p.longest, p.longest / 2},
		{time.Second, p.longest / 4},
		{0, p.longest},
	} {
		if p.adapt(step.gap); p.window != step.window {
			t.Errorf("after %v without a request: %v, want %v", step.gap, p.window, step.window)
		}
	}
}

// A doorbell that comes soon makes the goroutine look.
func TestPollLooksAgain(t *testing.T) {
	g := newRig(t, newFake(), ServicePoll, 1)
	g.look(0)
	g.poller(1).longest = time.Hour
	request := func() (bell bool) {
		g.add(1, "quick", 100)
		if bell = g.rings[1].Kick(); bell {
			g.d.Notify(1)
		}
		g.wait(1)
		return bell
	}
	request()
	g.until("a doorbell is wanted", request) // it may be just before it asks for one
	for range 3 {
		if request() {
			t.Fatal("a doorbell is wanted")
		}
	}
}

// mute answers every request with nothing.
type mute struct{}

func (mute) Serve(*virtiofs.Request, virtiofs.Cursor, virtiofs.Cursor) (uint32, bool) {
	return 0, false
}
func (mute) Unlocked() uint64 { return 0 }
func (mute) Reset()           {}

func TestAllocPoll(t *testing.T) {
	g := newRig(t, mute{}, ServicePoll, 1)
	g.poller(1).longest = 0 // every request takes the doorbell and the way to sleep
	r, at := g.rings[1], area(1, 0)
	buffers := []queuetest.Buffer{{At: at + 0x800, Len: 40}}
	if n := testing.AllocsPerRun(500, func() {
		r.AddIndirect(at, buffers...)
		if r.Kick() {
			g.d.Notify(1)
		}
		for {
			if _, _, ok := r.Used(); ok {
				break
			}
			runtime.Gosched()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
