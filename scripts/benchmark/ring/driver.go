package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue"
)

const (
	// patience is how long the driver waits for the device before it calls it hung.
	patience = 5 * time.Second
	// spin is how long the driver only looks at the ring, before it lets others run
	// between looks: on a machine with one processor the device needs it.
	spin = 2 * time.Millisecond
	// looks is how often the ring is looked at between two looks at the clock.
	looks = 512
)

// errHung says that chains were not used in time.
var errHung = errors.New("the device does not answer")

// driver is the driver's side of one ring (virtio 1.3 §2.7). A request keeps its
// descriptor for as long as it exists, so that offering it writes two bytes.
type driver struct {
	queue    int
	target   Target
	eventIdx bool

	desc, avail, used   []byte
	availIdx, usedFlags memory.Word
	usedIdx             memory.Word
	usedEvent           memory.Word
	availFlags          memory.Word
	availEvent          memory.Word

	patience time.Duration
	requests []*Request // by descriptor
	next     uint16     // avail.idx
	seen     uint16     // used entries that were looked at
}

func newDriver(m *memory.Map, l queue.Layout, index int, t Target) (*driver, error) {
	n := memory.GPA(l.Size)
	d := &driver{queue: index, target: t, patience: patience, eventIdx: t.Features()&queue.FeatureEventIdx != 0}
	for _, part := range []struct {
		to *[]byte
		at memory.GPA
		n  memory.GPA
	}{{&d.desc, l.Desc, 16 * n}, {&d.avail, l.Avail, 4 + 2*n}, {&d.used, l.Used, 4 + 8*n}} {
		var err error
		if *part.to, err = m.Slice(part.at, uint32(part.n)); err != nil {
			return nil, err
		}
	}
	for _, word := range []struct {
		to *memory.Word
		at memory.GPA
	}{
		{&d.availFlags, l.Avail}, {&d.availIdx, l.Avail + 2}, {&d.usedEvent, l.Avail + 4 + 2*n},
		{&d.usedFlags, l.Used}, {&d.usedIdx, l.Used + 2}, {&d.availEvent, l.Used + 4 + 8*n},
	} {
		var err error
		if *word.to, err = m.Word(word.at); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// size is the number of the ring's entries, a power of two.
func (d *driver) size() int { return len(d.desc) / 16 }

// quiet asks for no interrupts: this driver looks for itself. With EVENT_IDX the event
// is one that lies behind, and falls behind further with each used entry.
func (d *driver) quiet() {
	if d.eventIdx {
		d.usedEvent.Store16(d.seen - 1)
	} else {
		d.availFlags.Store16(1)
	}
}

// enter writes the requests into the available ring without saying so.
func (d *driver) enter(list []*Request) {
	d.quiet()
	mask := d.size() - 1
	for i, r := range list {
		r.arm()
		binary.LittleEndian.PutUint16(d.avail[4+2*((int(d.next)+i)&mask):], r.head)
	}
}

// offer makes the next n entered requests available and waits until all are used.
// It says how long that took.
func (d *driver) offer(n int) (time.Duration, error) {
	start := time.Now()
	err := d.serve(n)
	return time.Since(start), err
}

// serve is offer without a clock.
func (d *driver) serve(n int) error {
	last := d.next
	d.next += uint16(n)
	d.availIdx.Store16(d.next)
	if d.wantsKick(last) {
		if err := d.target.Kick(d.queue); err != nil {
			return err
		}
	}
	for range looks {
		if d.usedIdx.Load16() == d.next {
			return nil
		}
	}
	return d.wait()
}

// wantsKick says whether the device wants to hear of what was made available after
// last (§2.7.10).
func (d *driver) wantsKick(last uint16) bool {
	if !d.eventIdx {
		return d.usedFlags.Load16()&1 == 0
	}
	return d.next-d.availEvent.Load16()-1 < d.next-last
}

// wait looks at the used index until everything is used. A device that is gone, or
// hangs, is an error.
func (d *driver) wait() error {
	for start := time.Now(); ; {
		for range looks {
			if d.usedIdx.Load16() == d.next {
				return nil
			}
		}
		if err := d.target.Err(); err != nil {
			return err
		}
		switch since := time.Since(start); {
		case since > d.patience:
			return fmt.Errorf("queue %d, %d of its requests: %w", d.queue, d.next-d.usedIdx.Load16(), errHung)
		case since > spin:
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
}

// check looks at what the device used and answered: each request once, and each as it
// is to be.
func (d *driver) check(list []*Request) error {
	mask := d.size() - 1
	for ; d.seen != d.next; d.seen++ {
		elem := d.used[4+8*(int(d.seen)&mask):]
		id := binary.LittleEndian.Uint32(elem)
		if int64(id) >= int64(len(d.requests)) || !d.requests[id].flying {
			return fmt.Errorf("queue %d: the device used descriptor %d, which was not in its hands", d.queue, id)
		}
		r := d.requests[id]
		r.flying, r.written = false, binary.LittleEndian.Uint32(elem[4:])
	}
	for _, r := range list {
		if err := r.check(); err != nil {
			return err
		}
	}
	return nil
}
