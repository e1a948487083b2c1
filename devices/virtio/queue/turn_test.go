package queue_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"tenon/devices/virtio/queue"
)

// tub is a consumer of numbers that several goroutines pour in.
type tub struct {
	poured  atomic.Int64
	drained atomic.Int64
	inside  atomic.Int32
	crowded atomic.Bool
}

func (b *tub) Consume(limit int) (more bool) {
	if b.inside.Add(1) != 1 {
		b.crowded.Store(true)
	}
	defer b.inside.Add(-1)
	for range limit {
		if b.drained.Load() == b.poured.Load() {
			return false
		}
		b.drained.Add(1)
	}
	return true
}

// Whatever was poured before Run is drained by someone, one at a time.
func TestTurnLosesNothing(t *testing.T) {
	var b tub
	var turn queue.Turn
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5000 {
				b.poured.Add(1)
				turn.Run(&b, 3)
			}
		})
	}
	wg.Wait()
	turn.Close() // a goroutine may still be at it
	if b.drained.Load() != b.poured.Load() {
		t.Errorf("poured %d, drained %d", b.poured.Load(), b.drained.Load())
	}
	if b.crowded.Load() {
		t.Error("two consumers at once")
	}
	b.poured.Add(1)
	turn.Run(&b, 3)
	if b.drained.Load() == b.poured.Load() {
		t.Error("consumed after Close")
	}
}

// spring refills itself for as long as its owner likes.
type spring struct{ flowing atomic.Bool }

func (s *spring) Consume(limit int) (more bool) { return s.flowing.Load() }

// A queue that never gets empty must not keep the caller.
func TestTurnIsBounded(t *testing.T) {
	var s spring
	var turn queue.Turn
	s.flowing.Store(true)
	turn.Run(&s, 1) // returns
	turn.Run(&s, 1) // a second caller does not wait either
	s.flowing.Store(false)
	turn.Close()
}
