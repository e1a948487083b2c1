package fs

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// pollWindow is the longest that a queue is looked at that has nothing in it. It is
// what a guest with a deep queue takes between two requests, an interrupt included,
// and bounds what one doorbell costs the host in CPU time.
const pollWindow = 100 * time.Microsecond

// spinners bounds how many queues of a session are looked at at the same time with
// nothing in them: half the CPUs, none of a single one. A vCPU that gets no CPU gains
// nothing.
type spinners struct {
	n   atomic.Int32
	max int32
}

func newSpinners() spinners { return spinners{max: int32(runtime.NumCPU() / 2)} }

// enter says whether one more may spin; leave must follow.
func (s *spinners) enter() bool {
	if s.n.Add(1) <= s.max {
		return true
	}
	s.leave()
	return false
}

func (s *spinners) leave() { s.n.Add(-1) }

// poller is the goroutine of a queue with ServicePoll. A doorbell wakes it. It serves
// as an exit would and, when the queue is empty, goes on looking for a while before
// it asks for a doorbell again. A driver that keeps the queue filled leaves the guest
// for none of its requests. The goroutine starts with the first doorbell, is not
// locked to a thread, and no channel is between it and a vCPU: either would cost
// more than the exit.
type poller struct {
	q *requestQueue

	// The goroutine's.
	longest time.Duration // that window can be
	window  time.Duration // how long to look
	emptied time.Time     // when nothing was left in the queue

	mu     sync.Mutex
	rung   sync.Cond
	due    bool // a doorbell came since the queue was looked at
	awake  bool // the goroutine has been started
	closed bool
	ended  sync.WaitGroup
}

func newPoller(q *requestQueue) *poller {
	p := &poller{q: q, longest: pollWindow}
	p.rung.L = &p.mu
	return p
}

// notify wakes the goroutine. It never blocks for longer than the lock.
func (p *poller) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.due = true
	if !p.awake {
		p.awake = true
		p.ended.Add(1)
		go p.run()
		return
	}
	p.rung.Signal()
}

// run is the goroutine.
func (p *poller) run() {
	defer p.ended.Done()
	for p.sleep() {
		p.adapt(time.Since(p.emptied))
		for p.q.Consume(int(p.q.ring.Size())) {
			runtime.Gosched() // a queue that is never empty is not alone
		}
	}
}

// adapt sets the window when a doorbell came so long after the queue was empty:
// looking longer would have saved it, or was in vain.
func (p *poller) adapt(gap time.Duration) {
	if gap < p.longest {
		p.window = p.longest
	} else {
		p.window /= 2
	}
}

// sleep waits for a doorbell; false when the poller is closed.
func (p *poller) sleep() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.due && !p.closed {
		p.rung.Wait()
	}
	p.due = false
	return !p.closed
}

// close waits until the goroutine has ended. The session must be dead by then.
func (p *poller) close() {
	p.mu.Lock()
	p.closed = true
	p.rung.Signal()
	p.mu.Unlock()
	p.ended.Wait()
}

// look takes the next chain of a queue that is polled and had none: it is looked at for
// a while. First the driver gets what was answered.
func (q *requestQueue) look() (head uint16, ok bool, err error) {
	q.flush()
	p := q.poller
	p.emptied = time.Now()
	if !q.s.spinners.enter() {
		return 0, false, nil
	}
	defer q.s.spinners.leave()
	// Reading the clock is the pause between two looks.
	for !ok && err == nil && !q.s.dead.Load() && time.Since(p.emptied) < p.window {
		head, ok, err = q.ring.PopHead()
	}
	return head, ok, err
}
