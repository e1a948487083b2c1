package queue

import (
	"sync"
	"sync/atomic"
)

// Consumer takes chains from one queue.
type Consumer interface {
	// Consume handles at most limit chains, tells the driver, and either left
	// the queue empty and listening or returns more. It never blocks for long.
	Consume(limit int) (more bool)
}

// Turn is the right to take chains from a queue. Notifications come on the
// threads of several vCPUs at once: one of them takes the turn and consumes,
// the others leave a note and return at once, and the one that consumes looks
// again before it leaves. So nothing is lost and nobody waits. The zero Turn is
// free.
type Turn struct {
	held  sync.Mutex
	noted atomic.Bool
}

// Run consumes the queue on the calling thread, unless someone else has the
// turn. A driver that refills the queue from another CPU could keep the caller
// busy for ever, so after limit chains a goroutine takes over. It ends when the
// queue is empty or the consumer gives up.
func (t *Turn) Run(c Consumer, limit int) {
	for t.take() {
		if c.Consume(limit) {
			go t.finish(c, limit)
			return
		}
		if !t.give() {
			return
		}
	}
}

// finish goes on with a turn that was taken elsewhere.
func (t *Turn) finish(c Consumer, limit int) {
	for {
		for c.Consume(limit) {
		}
		if !t.give() || !t.take() {
			return
		}
	}
}

// Close waits until nobody has the turn, and keeps it for ever. The consumer
// must know by then that it is to return more == false.
func (t *Turn) Close() { t.held.Lock() }

// take takes the turn, or leaves a note for its holder and returns false.
func (t *Turn) take() bool {
	if !t.held.TryLock() {
		t.noted.Store(true)
		// The holder looks at the note after it unlocked. If it looked before
		// we wrote, it has unlocked, and this succeeds.
		if !t.held.TryLock() {
			return false
		}
	}
	if t.noted.Load() {
		t.noted.Store(false)
	}
	return true
}

// give gives the turn back. again says that someone came meanwhile.
func (t *Turn) give() (again bool) {
	t.held.Unlock()
	return t.noted.Load()
}
