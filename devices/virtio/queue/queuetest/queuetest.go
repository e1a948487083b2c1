// Package queuetest is the driver's side of a split virtqueue (virtio 1.3 §2.7)
// in fake memory: it builds chains, reads the used ring and suppresses or asks
// for notifications as a guest would. It is for tests and benchmarks; with
// memory on the Go heap the race detector watches both sides.
package queuetest

import (
	"encoding/binary"
	"slices"
	"testing"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue"
)

// Descriptor flags (virtio 1.3 §2.7.5).
const (
	FlagNext     = 1
	FlagWrite    = 2
	FlagIndirect = 4
)

const descSize = 16

// Memory is size bytes of fake guest RAM at guest address base.
func Memory(tb testing.TB, base memory.GPA, size int) *memory.Map {
	tb.Helper()
	m, err := memory.New(memory.Region{GPA: base, Data: make([]byte, size)})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Place lays out a ring of size entries from the guest address at, which is
// rounded up to 16 bytes. end is the first address after it.
func Place(at memory.GPA, size uint16) (l queue.Layout, end memory.GPA) {
	n := memory.GPA(size)
	l.Size = size
	l.Desc = (at + 15) &^ 15
	l.Avail = l.Desc + descSize*n
	l.Used = (l.Avail + 6 + 2*n + 3) &^ 3
	return l, (l.Used + 6 + 8*n + 15) &^ 15
}

// Buffer is one descriptor to be: Len bytes at a guest address, writable by the
// device or readable.
type Buffer struct {
	At    memory.GPA
	Len   uint32
	Write bool
}

// Ring is the driver's side of one ring. It belongs to one goroutine, as a
// driver's does.
type Ring struct {
	Layout queue.Layout

	tb          testing.TB
	mem         *memory.Map
	eventIdx    bool
	desc, avail []byte
	used        []byte
	availFlags  memory.Word
	availIdx    memory.Word
	usedFlags   memory.Word
	usedIdx     memory.Word
	usedEvent   memory.Word
	availEvent  memory.Word

	free   []uint16 // descriptors not in use
	length []uint16 // descriptors of the chain that begins at an index
	added  uint16   // avail.idx
	kicked uint16   // avail.idx at the last Kick
	seen   uint16   // next used entry to read
}

// New returns the driver's side of the ring at l, which must be zeroed memory.
// Of features it looks at queue.FeatureEventIdx.
func New(tb testing.TB, m *memory.Map, l queue.Layout, features uint64) *Ring {
	tb.Helper()
	n := uint32(l.Size)
	r := &Ring{Layout: l, tb: tb, mem: m, eventIdx: features&queue.FeatureEventIdx != 0}
	r.desc = r.slice(l.Desc, descSize*n)
	r.avail = r.slice(l.Avail, 4+2*n)
	r.used = r.slice(l.Used, 4+8*n)
	r.availFlags, r.availIdx = r.word(l.Avail), r.word(l.Avail+2)
	r.usedFlags, r.usedIdx = r.word(l.Used), r.word(l.Used+2)
	r.usedEvent = r.word(l.Avail + 4 + 2*memory.GPA(n))
	r.availEvent = r.word(l.Used + 4 + 8*memory.GPA(n))
	r.length = make([]uint16, n)
	for i := l.Size; i > 0; i-- {
		r.free = append(r.free, i-1)
	}
	return r
}

func (r *Ring) slice(at memory.GPA, n uint32) []byte {
	b, err := r.mem.Slice(at, n)
	if err != nil {
		r.tb.Helper() // not above: it costs as much as the rings
		r.tb.Fatalf("queuetest: %d bytes at %#x: %v", n, at, err)
	}
	return b
}

func (r *Ring) word(at memory.GPA) memory.Word {
	r.tb.Helper()
	w, err := r.mem.Word(at)
	if err != nil {
		r.tb.Fatalf("queuetest: word at %#x: %v", at, err)
	}
	return w
}

// Device returns the device's side of the same ring.
func (r *Ring) Device(features uint64) *queue.Queue {
	r.tb.Helper()
	q, err := queue.New(r.mem, r.Layout, features)
	if err != nil {
		r.tb.Fatal(err)
	}
	return q
}

// Free is the number of descriptors not in use.
func (r *Ring) Free() int { return len(r.free) }

// NextHead is the head the next chain will have; the ring must not be full.
func (r *Ring) NextHead() uint16 { return r.free[len(r.free)-1] }

// Add makes a chain of the buffers available, one descriptor each. ok is false,
// and nothing happens, when the ring has too few free descriptors.
func (r *Ring) Add(buffers ...Buffer) (head uint16, ok bool) {
	if len(buffers) == 0 || len(buffers) > len(r.free) {
		return 0, false
	}
	taken := r.free[len(r.free)-len(buffers):]
	slices.Reverse(taken) // so that the head is NextHead
	for i, b := range buffers {
		flags, next := b.flags(), uint16(0)
		if i+1 < len(buffers) {
			flags, next = flags|FlagNext, taken[i+1]
		}
		r.SetDesc(taken[i], b.At, b.Len, flags, next)
	}
	head = taken[0]
	r.length[head] = uint16(len(buffers))
	// The chain's other indices stay in the descriptors, where Used finds them.
	r.free = r.free[:len(r.free)-len(buffers)]
	r.Offer(head)
	return head, true
}

// AddIndirect makes a chain of the buffers available through one descriptor and
// an indirect table, which is written at table (16 bytes a buffer).
func (r *Ring) AddIndirect(table memory.GPA, buffers ...Buffer) (head uint16, ok bool) {
	if len(buffers) == 0 || len(r.free) == 0 {
		return 0, false
	}
	t := r.slice(table, descSize*uint32(len(buffers)))
	for i, b := range buffers {
		flags, next := b.flags(), uint16(0)
		if i+1 < len(buffers) {
			flags, next = flags|FlagNext, uint16(i+1)
		}
		PutDesc(t[descSize*i:], b.At, b.Len, flags, next)
	}
	head = r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	r.length[head] = 1
	r.SetDesc(head, table, uint32(len(t)), FlagIndirect, 0)
	r.Offer(head)
	return head, true
}

func (b Buffer) flags() uint16 {
	if b.Write {
		return FlagWrite
	}
	return 0
}

// PutDesc writes one descriptor (virtq_desc, 16 bytes) to p.
func PutDesc(p []byte, at memory.GPA, n uint32, flags, next uint16) {
	binary.LittleEndian.PutUint64(p, uint64(at))
	binary.LittleEndian.PutUint32(p[8:], n)
	binary.LittleEndian.PutUint16(p[12:], flags)
	binary.LittleEndian.PutUint16(p[14:], next)
}

// SetDesc writes entry i of the descriptor table, whatever it is used for:
// together with Offer and SetAvailIdx it makes the rings of a hostile driver.
func (r *Ring) SetDesc(i uint16, at memory.GPA, n uint32, flags, next uint16) {
	PutDesc(r.desc[descSize*int(i):], at, n, flags, next)
}

// Offer makes the chain at head available, without any check.
func (r *Ring) Offer(head uint16) {
	at := 4 + 2*int(r.added&(r.Layout.Size-1))
	binary.LittleEndian.PutUint16(r.avail[at:], head)
	r.added++
	r.availIdx.Store16(r.added)
}

// SetAvailIdx stores avail.idx without any check.
func (r *Ring) SetAvailIdx(idx uint16) {
	r.added = idx
	r.availIdx.Store16(idx)
}

// Kick says whether the device wants a notification for what was made available
// since the last call (§2.7.10).
func (r *Ring) Kick() bool {
	last := r.kicked
	r.kicked = r.added
	if last == r.added {
		return false
	}
	if !r.eventIdx {
		return r.usedFlags.Load16()&1 == 0
	}
	return r.added-r.availEvent.Load16()-1 < r.added-last
}

// Used takes the next used entry and frees its descriptors; ok is false when
// there is none.
func (r *Ring) Used() (head uint16, written uint32, ok bool) {
	if r.usedIdx.Load16() == r.seen {
		return 0, 0, false
	}
	elem := r.used[4+8*int(r.seen&(r.Layout.Size-1)):]
	id := binary.LittleEndian.Uint32(elem)
	written = binary.LittleEndian.Uint32(elem[4:])
	r.seen++
	if id >= uint32(len(r.length)) || r.length[id] == 0 {
		r.tb.Errorf("queuetest: device used %d, which was not in its hands", id)
		return uint16(id), written, true
	}
	head = uint16(id)
	n := r.length[head]
	r.length[head] = 0
	for i := head; ; i = binary.LittleEndian.Uint16(r.desc[descSize*int(i)+14:]) {
		r.free = append(r.free, i)
		if n--; n == 0 {
			return head, written, true
		}
	}
}

// UsedFlags returns used.flags, the device's wish without EVENT_IDX.
func (r *Ring) UsedFlags() uint16 { return r.usedFlags.Load16() }

// Quiet asks the device for no interrupts. With EVENT_IDX it leaves used_event
// where it is, as the device does with avail_event.
func (r *Ring) Quiet() {
	if !r.eventIdx {
		r.availFlags.Store16(1)
	}
}

// Listen asks for an interrupt when the next chain is used. more says that one
// was used meanwhile.
func (r *Ring) Listen() (more bool) {
	if r.eventIdx {
		r.usedEvent.Store16(r.seen)
	} else {
		r.availFlags.Store16(0)
	}
	return r.usedIdx.Load16() != r.seen
}

// Write puts bytes into guest memory.
func (r *Ring) Write(at memory.GPA, p []byte) {
	copy(r.slice(at, uint32(len(p))), p)
}

// Read returns a copy of n bytes of guest memory.
func (r *Ring) Read(at memory.GPA, n uint32) []byte {
	return append([]byte(nil), r.slice(at, n)...)
}
