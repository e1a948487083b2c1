package virtiofs

import (
	"sync/atomic"
	"time"
)

// A host has those wait who write faster than it stores, in the system call and for up
// to 200 ms each time (balance_dirty_pages), or as long as a server far away takes. On
// a vCPU's own thread the guest would stand still for that long. So long writes are
// timed, and after a slow one the next go where they may wait.
const (
	// timedWrite is the shortest write in bytes that is timed. It takes 10 us and more,
	// so that reading the clock twice (50 ns) does not show.
	timedWrite = 64 << 10
	// slowWrite is longer than it takes to copy MaxIO bytes and longer than a turn of
	// another thread on this CPU, and shorter than the pauses that the host's kernel aims
	// at (10 ms: wb_min_pause).
	slowWrite = 5 * time.Millisecond
	// backlogTime is how long writes go elsewhere after a slow one. Then one of them
	// finds out how it is now.
	backlogTime = 100 * time.Millisecond
)

// backlog knows whether a share's writes are slow of late.
type backlog struct {
	epoch   time.Time    // times are counted from here
	until   atomic.Int64 // nanoseconds: writes are slow until then; 0: they are not
	writers atomic.Int32 // timed writes under way
}

// grown says that a write may take long.
func (b *backlog) grown() bool {
	return b.until.Load() != 0 && b.stands()
}

// stands says that it is not yet until, and otherwise forgets that.
func (b *backlog) stands() bool {
	until := b.until.Load()
	if int64(time.Since(b.epoch)) < until {
		return true
	}
	b.until.CompareAndSwap(until, 0)
	return false
}

// writing is one timed write under way.
type writing struct {
	began   time.Duration
	writers int32 // with this one
}

// begin is called before a write of timedWrite bytes or more, and end after it.
func (b *backlog) begin() writing {
	return writing{writers: b.writers.Add(1), began: time.Since(b.epoch)}
}

// end finds out how long the write took. Writes to one file wait for each other, which
// alone does not make them slow: those in the pool would keep themselves there.
func (b *backlog) end(w writing) {
	b.writers.Add(-1)
	now := time.Since(b.epoch)
	if now-w.began > slowWrite*time.Duration(w.writers) {
		b.until.Store(int64(now + backlogTime))
	}
}
