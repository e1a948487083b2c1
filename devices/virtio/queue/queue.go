// Package queue is the device's side of a split virtqueue (virtio 1.3 §2.7)
// with indirect descriptors and EVENT_IDX.
//
// Everything in the rings is the guest's and may change at any time: indices,
// descriptors and addresses are copied once and checked before use, and what
// breaks the specification is answered with a named error, after which the
// device must stop and ask for a reset (virtio.Env.Broken). No method blocks,
// allocates or panics on what the guest wrote.
package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"tenon/devices/memory"
)

// Ring features (virtio 1.3 §6).
const (
	FeatureIndirect = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	FeatureEventIdx = 1 << 29 // VIRTIO_F_EVENT_IDX
)

// MaxSize is the largest ring, in entries, and the longest descriptor chain.
const MaxSize = 1024

// ErrAvailIndex says that the driver made more buffers available than the ring
// has entries (virtio 1.3 §2.7.13.3): its index is not to be trusted.
var ErrAvailIndex = errors.New("queue: available index is ahead by more than the ring")

// Sizes and flags of virtio 1.3 §2.7.5, §2.7.6 and §2.7.8.
const (
	descSize      = 16
	availHeader   = 4 // flags, idx
	usedHeader    = 4
	usedElemSize  = 8
	noInterrupt   = 1 // avail.flags
	noNotify      = 1 // used.flags
	availRingElem = 2
)

// Layout is what the driver told the transport about one ring: its size in
// entries and the guest-physical addresses of its three parts.
type Layout struct {
	Size              uint16
	Desc, Avail, Used memory.GPA
}

// Queue is one split ring. Which methods may run at the same time is said at
// each; those that say nothing may run at any time.
type Queue struct {
	mem                *memory.Map
	size               uint16
	eventIdx, indirect bool

	desc, avail, used     []byte
	availFlags, availIdx  memory.Word
	usedFlags, usedIdx    memory.Word
	usedEvent, availEvent memory.Word // only with EVENT_IDX

	next uint16 // the next available entry; belongs to the caller of Pop

	pushing   sync.Mutex
	pushed    atomic.Uint32 // used.idx as we know it, 16 bits; stored under pushing
	signalled atomic.Uint32 // used.idx at the last MustSignal
}

// New checks the layout (power of two up to MaxSize, alignment of §2.7, every
// byte in RAM) and returns the ring. Of features it looks at FeatureIndirect
// and FeatureEventIdx.
func New(m *memory.Map, l Layout, features uint64) (*Queue, error) {
	if l.Size == 0 || l.Size > MaxSize || l.Size&(l.Size-1) != 0 {
		return nil, fmt.Errorf("queue: size %d is not a power of two up to %d", l.Size, MaxSize)
	}
	q := &Queue{
		mem: m, size: l.Size,
		eventIdx: features&FeatureEventIdx != 0,
		indirect: features&FeatureIndirect != 0,
	}
	n := uint32(l.Size)
	for _, part := range []struct {
		name     string
		at       memory.GPA
		align, n uint32
		dst      *[]byte
	}{
		{"descriptor table", l.Desc, 16, descSize * n, &q.desc},
		{"available ring", l.Avail, 2, availHeader + availRingElem*n, &q.avail},
		{"used ring", l.Used, 4, usedHeader + usedElemSize*n, &q.used},
	} {
		if part.at%memory.GPA(part.align) != 0 {
			return nil, fmt.Errorf("queue: %s at %#x is not aligned to %d bytes", part.name, part.at, part.align)
		}
		b, err := m.Slice(part.at, part.n)
		if err != nil {
			return nil, fmt.Errorf("queue: %s at %#x of %d bytes: %w", part.name, part.at, part.n, err)
		}
		*part.dst = b
	}
	return q, q.words(l)
}

// words finds the words both sides share.
func (q *Queue) words(l Layout) error {
	n := memory.GPA(l.Size)
	for _, w := range []struct {
		at  memory.GPA
		dst *memory.Word
		use bool
	}{
		{l.Avail, &q.availFlags, true},
		{l.Avail + 2, &q.availIdx, true},
		{l.Avail + availHeader + availRingElem*n, &q.usedEvent, q.eventIdx},
		{l.Used, &q.usedFlags, true},
		{l.Used + 2, &q.usedIdx, true},
		{l.Used + usedHeader + usedElemSize*n, &q.availEvent, q.eventIdx},
	} {
		if !w.use {
			continue
		}
		var err error
		if *w.dst, err = q.mem.Word(w.at); err != nil {
			return fmt.Errorf("queue: ring word at %#x: %w", w.at, err)
		}
	}
	return nil
}

// Size is the number of entries.
func (q *Queue) Size() uint16 { return q.size }

// Pop takes the next available chain and reads its descriptors into c. ok is
// false when there is none. An error means that the guest broke the ring or the
// chain; nothing more can be taken from the queue. One caller at a time.
func (q *Queue) Pop(c *Chain) (ok bool, err error) {
	head, ok, err := q.PopHead()
	if !ok || err != nil {
		return false, err
	}
	if err := q.Fetch(c, head); err != nil {
		return false, err
	}
	return true, nil
}

// PopHead takes the next available chain without looking at it: only its head
// comes back, for a later Fetch. Same caller and errors as Pop.
func (q *Queue) PopHead() (head uint16, ok bool, err error) {
	idx := q.availIdx.Load16() // acquire: the entry and the chain were written before it
	if idx == q.next {
		return 0, false, nil
	}
	// Entries in use and entries waiting share the ring, so the driver's index
	// is never more than one ring ahead of ours. This also bounds how many
	// chains are in flight, whatever the guest writes.
	if idx-q.next > q.size || idx-uint16(q.pushed.Load()) > q.size {
		return 0, false, ErrAvailIndex
	}
	at := availHeader + availRingElem*int(q.next&(q.size-1))
	head = binary.LittleEndian.Uint16(q.avail[at:])
	q.next++
	return head, true, nil
}

// Used is a chain that goes back to the driver with the number of bytes written to
// its writable part (virtq_used_elem).
type Used struct {
	Head    uint16
	Written uint32
}

// Push returns a chain to the driver with the number of bytes written to its
// writable part.
func (q *Queue) Push(head uint16, written uint32) {
	batch := [1]Used{{head, written}}
	q.PushAll(batch[:])
}

// PushAll returns chains to the driver in this order, which sees all of them at once:
// the lock and the fences, half the price of a Push, are paid once.
func (q *Queue) PushAll(batch []Used) {
	if len(batch) == 0 {
		return
	}
	q.pushing.Lock()
	idx := uint16(q.pushed.Load())
	for i := range batch {
		elem := q.used[usedHeader+usedElemSize*int(idx&(q.size-1)):][:usedElemSize]
		binary.LittleEndian.PutUint64(elem, uint64(batch[i].Head)|uint64(batch[i].Written)<<32)
		idx++
	}
	// Ours first: a driver that saw used.idx may make the entries available
	// again, and PopHead must then count with them.
	q.pushed.Store(uint32(idx))
	q.usedIdx.Store16(idx) // release: the elements are visible before the index
	q.pushing.Unlock()
}

// MustSignal says whether the driver wants an interrupt for what was pushed
// since the last call (§2.7.7, §2.7.10). Several callers may race: each push is
// covered by at least one of the answers.
func (q *Queue) MustSignal() bool {
	// The index as the driver sees it, not our own count, which runs ahead of
	// it in Push: an interrupt for an entry that is not yet visible would be
	// wasted, and its pusher would find it signalled already. A guest that
	// writes used.idx spoils its own interrupts only.
	now := q.usedIdx.Load16()
	// The swap is a locked instruction, a full fence: the load of the driver's
	// word below cannot move before the store of used.idx in Push. Without it
	// both sides could read the other's old value and the driver would sleep
	// for ever. When two callers race, the slower may set signalled back: an
	// interrupt too many later, never one too few.
	last := uint16(q.signalled.Swap(uint32(now)))
	if now == last {
		return false
	}
	if !q.eventIdx {
		return q.availFlags.Load16()&noInterrupt == 0
	}
	return now-q.usedEvent.Load16()-1 < now-last // did the index pass the event?
}

// Quiet tells the driver not to notify while the device is looking anyway. With
// EVENT_IDX there is nothing to say: one notification was sent when the index
// passed avail_event, and none follows until Listen moves it. Same caller as Pop.
func (q *Queue) Quiet() {
	if !q.eventIdx {
		q.usedFlags.Store16(noNotify)
	}
}

// Listen asks for a notification when the next chain is made available. more
// says that one was made available meanwhile: take it, no notification will
// tell of it. Same caller as Pop.
func (q *Queue) Listen() (more bool) {
	if q.eventIdx {
		q.availEvent.Store16(q.next)
	} else {
		q.usedFlags.Store16(0)
	}
	// The store was a full fence (memory.Word): either we see the new index
	// here, or the driver sees our wish and notifies.
	return q.availIdx.Load16() != q.next
}
