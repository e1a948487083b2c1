package fs

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tenon/devices/virtio/queue"
	"tenon/virtiofs"
)

// How long to leave requests that wait for locks which others hold: those of
// the host and of other machines tell nobody when they let go.
const (
	shortestPause = time.Millisecond
	longestPause  = 20 * time.Millisecond
	// restFor is how much longer to rest than serving them took, which bounds
	// what a guest with many of them costs to a fifth of a CPU.
	restFor = 4
)

// waiter is a request that waits for a lock. As for one that is parked, its
// head is all there is to keep.
type waiter struct {
	parked
	seen uint64 // server.Unlocked before it was served last
}

// waiting is the requests of a session that wait for locks. No thread waits with
// them: a goroutine, which is there only while one waits, serves them again in
// the order they came, at once when a lock of this device may have been freed and
// now and then for the sake of others. As in Linux itself, one who comes at the
// right moment may still get in before them.
type waiting struct {
	s    *session
	n    atomic.Int32  // how many wait
	last atomic.Uint64 // server.Unlocked when they were last looked at
	kick chan struct{} // look now; holds one
	stop chan struct{} // closed by close

	mu              sync.Mutex
	list            []waiter // in the order they came; only the goroutine takes out
	running, closed bool
	ended           sync.WaitGroup

	// The goroutine's, of which there is one at a time.
	chain   *queue.Chain
	request *virtiofs.Request
	batch   []waiter
}

func newWaiting(s *session) *waiting {
	return &waiting{s: s, kick: make(chan struct{}, 1), stop: make(chan struct{})}
}

// put keeps a request that was served after Unlocked was seen. After close it is
// dropped.
func (w *waiting) put(p parked, seen uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.list = append(w.list, waiter{p, seen})
	p.q.kept.Add(1)
	w.n.Add(1)
	if !w.running {
		w.running = true
		w.ended.Add(1)
		go w.run()
	}
	// A lock that was freed before this one was counted has kicked no one.
	w.look()
}

// look makes the goroutine look at what waits.
func (w *waiting) look() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// served is called after requests that were answered: they may have freed a lock.
func (w *waiting) served() {
	if w.n.Load() != 0 { // hardly ever, and the rest would not be inlined
		w.lookIfUnlocked()
	}
}

func (w *waiting) lookIfUnlocked() {
	if w.last.Load() != w.s.server.Unlocked() {
		w.look()
	}
}

// wake is why a sleep ended.
type wake uint8

const (
	elapsed wake = iota
	kicked
	stopped
)

func (w *waiting) sleep(t *time.Timer, d time.Duration, kick <-chan struct{}) wake {
	t.Reset(d)
	select {
	case <-t.C:
		return elapsed
	case <-kick:
		return kicked
	case <-w.stop:
		return stopped
	}
}

// run is the goroutine.
func (w *waiting) run() {
	defer w.ended.Done()
	if w.chain == nil {
		w.chain, w.request = queue.NewChain(queue.MaxSize), virtiofs.NewRequest()
		w.request.MayBlock, w.request.Kept = true, true
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause, why := shortestPause, kicked
	for why != stopped {
		began := time.Now()
		if none := w.serve(why == elapsed); none {
			return
		}
		// Shorter sleeps than a pause are not to be had and not worth it.
		if rest := restFor * time.Since(began); rest >= shortestPause && w.sleep(timer, rest, nil) == stopped {
			return
		}
		why = w.sleep(timer, pause, w.kick)
		pause = min(2*pause, longestPause)
		if why == kicked {
			pause = shortestPause
		}
	}
}

// serve tries what waits, in order: all of it, or what was not tried since a
// lock was freed. none: nothing waits any more, and the goroutine is over.
func (w *waiting) serve(all bool) (none bool) {
	w.mu.Lock()
	w.batch = append(w.batch[:0], w.list...)
	w.mu.Unlock()
	n := len(w.batch)
	w.pass(w.batch, all)
	kept := slices.DeleteFunc(w.batch, func(x waiter) bool { return x.q == nil })
	w.mu.Lock()
	defer w.mu.Unlock()
	late := w.list[n:]
	w.list = append(w.list[:copy(w.list, kept)], late...)
	w.n.Store(int32(len(w.list)))
	w.running = len(w.list) != 0
	w.served() // what got its lock may have given up another
	return !w.running
}

// pass tries the requests, and takes the queue from those that are over.
func (w *waiting) pass(batch []waiter, all bool) {
	now := w.s.server.Unlocked()
	w.last.Store(now)
	restarted := false
	for i := 0; i < len(batch); i++ {
		if g := w.s.server.Unlocked(); g != now && !restarted {
			// A lock is free that the first may have missed: they are asked again
			// before it goes to a later one. Once, or the last would starve.
			now, i, restarted = g, 0, true
			w.last.Store(now)
		}
		x := &batch[i]
		if x.q == nil || !all && x.seen == now {
			continue
		}
		x.seen = w.s.server.Unlocked()
		if !w.try(x.parked) {
			x.q = nil
		}
	}
}

// try serves one request; keep says that it goes on waiting.
func (w *waiting) try(p parked) (keep bool) {
	if w.s.dead.Load() {
		return false
	}
	written, again, err := p.q.try(w.chain, w.request, p.head)
	if again {
		return true
	}
	p.q.kept.Add(-1)
	if err != nil {
		w.s.fail(err)
		return false
	}
	p.q.push(p.head, written)
	return false
}

// close drops what waits and waits until the goroutine has ended.
func (w *waiting) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	close(w.stop)
	w.ended.Wait()
}
