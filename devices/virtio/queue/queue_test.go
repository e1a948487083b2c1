package queue_test

import (
	"bytes"
	"errors"
	"testing"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

const (
	base    = memory.GPA(0x10000)
	size    = 1 << 20
	data    = base + size/2 // where tests put payload
	all     = queue.FeatureIndirect | queue.FeatureEventIdx
	outside = base + size
)

// pair returns both sides of a ring of n entries at base.
func pair(t testing.TB, n uint16, features uint64) (*queuetest.Ring, *queue.Queue) {
	t.Helper()
	m := queuetest.Memory(t, base, size)
	l, end := queuetest.Place(base, n)
	if end > data {
		t.Fatalf("ring ends at %#x", end)
	}
	r := queuetest.New(t, m, l, features)
	return r, r.Device(features)
}

// pairBeside is pair with a window in the same guest's memory.
func pairBeside(t testing.TB, w memory.Region, n uint16, features uint64) (*queuetest.Ring, *queue.Queue, *memory.Map) {
	t.Helper()
	m := queuetest.Memory(t, base, size)
	if err := m.AddWindow(w); err != nil {
		t.Fatal(err)
	}
	l, _ := queuetest.Place(base, n)
	r := queuetest.New(t, m, l, features)
	return r, r.Device(features), m
}

func TestNewRefuses(t *testing.T) {
	m := queuetest.Memory(t, base, size)
	good, _ := queuetest.Place(base, 8)
	for name, change := range map[string]func(l *queue.Layout){
		"size 0":             func(l *queue.Layout) { l.Size = 0 },
		"size no power of 2": func(l *queue.Layout) { l.Size = 12 },
		"size over 1024":     func(l *queue.Layout) { l.Size = 2048 },
		"desc unaligned":     func(l *queue.Layout) { l.Desc += 8 },
		"avail unaligned":    func(l *queue.Layout) { l.Avail++ },
		"used unaligned":     func(l *queue.Layout) { l.Used += 2 },
		"desc outside":       func(l *queue.Layout) { l.Desc = outside - 16 },
		"avail outside":      func(l *queue.Layout) { l.Avail = outside - 4 },
		"used outside":       func(l *queue.Layout) { l.Used = outside - 64 },
		"used wraps":         func(l *queue.Layout) { l.Used = ^memory.GPA(3) },
		"avail_event outside": func(l *queue.Layout) {
			l.Used = outside - 4 - 8*8 // the ring fits, the word after it does not
		},
	} {
		l := good
		change(&l)
		if _, err := queue.New(m, l, all); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := queue.New(m, good, all); err != nil {
		t.Errorf("good layout: %v", err)
	}
}

func TestPopCopiesBothParts(t *testing.T) {
	for name, add := range map[string]func(r *queuetest.Ring, b ...queuetest.Buffer) (uint16, bool){
		"direct": (*queuetest.Ring).Add,
		"indirect": func(r *queuetest.Ring, b ...queuetest.Buffer) (uint16, bool) {
			return r.AddIndirect(data+0x8000, b...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, q := pair(t, 8, all)
			r.Write(data, []byte("hello, "))
			r.Write(data+100, []byte("device"))
			head, _ := add(r,
				queuetest.Buffer{At: data, Len: 7},
				queuetest.Buffer{At: data + 50, Len: 0}, // empty buffers are passed over
				queuetest.Buffer{At: data + 100, Len: 6},
				queuetest.Buffer{At: data + 200, Len: 3, Write: true},
				queuetest.Buffer{At: data + 300, Len: 9, Write: true})
			c := queue.NewChain(8)
			if ok, err := q.Pop(c); !ok || err != nil || c.Head != head {
				t.Fatalf("Pop: %v, %v, head %d; want head %d", ok, err, c.Head, head)
			}
			got := make([]byte, 13)
			if err := c.In.Copy(got); err != nil || string(got) != "hello, device" {
				t.Fatalf("Copy: %q, %v", got, err)
			}
			if err := c.Out.Put([]byte("hi, driver!!")); err != nil {
				t.Fatal(err)
			}
			q.Push(c.Head, 12)
			if h, n, ok := r.Used(); h != head || n != 12 || !ok {
				t.Fatalf("Used: %d, %d, %v", h, n, ok)
			}
			if got := string(r.Read(data+200, 3)) + string(r.Read(data+300, 9)); got != "hi, driver!!" {
				t.Fatalf("driver sees %q", got)
			}
			if ok, err := q.Pop(c); ok || err != nil {
				t.Fatalf("Pop of the empty ring: %v, %v", ok, err)
			}
		})
	}
}

func TestDirectBeforeIndirect(t *testing.T) {
	r, q := pair(t, 8, all) // §2.7.5.3.2: some descriptors, then one indirect
	table := make([]byte, 32)
	queuetest.PutDesc(table, data+10, 10, queuetest.FlagNext, 1)
	queuetest.PutDesc(table[16:], data+20, 20, queuetest.FlagWrite, 0)
	r.Write(data+0x1000, table)
	r.SetDesc(0, data, 5, queuetest.FlagNext, 1)
	r.SetDesc(1, data+0x1000, 32, queuetest.FlagIndirect|queuetest.FlagWrite, 0)
	r.Offer(0)
	c := queue.NewChain(8)
	if ok, err := q.Pop(c); !ok || err != nil || c.In.Len() != 15 || c.Out.Len() != 20 {
		t.Fatalf("Pop: %v, %v, in %d, out %d", ok, err, c.In.Len(), c.Out.Len())
	}
}

// hostile is a chain that breaks the specification and what it must be called.
type hostile struct {
	name string
	want error
	make func(r *queuetest.Ring)
}

const (
	next     = queuetest.FlagNext
	write    = queuetest.FlagWrite
	indirect = queuetest.FlagIndirect
)

// one offers a chain of a single descriptor.
func one(at memory.GPA, n uint32, flags, nextIndex uint16) func(r *queuetest.Ring) {
	return func(r *queuetest.Ring) {
		r.SetDesc(0, at, n, flags, nextIndex)
		r.Offer(0)
	}
}

// table offers a chain of one indirect table with the given first entry.
func table(at memory.GPA, n uint32, flags, nextIndex uint16) func(r *queuetest.Ring) {
	return func(r *queuetest.Ring) {
		p := make([]byte, 32)
		queuetest.PutDesc(p, at, n, flags, nextIndex)
		r.Write(data, p)
		one(data, 32, indirect, 0)(r)
	}
}

// room is the length of the chain object that hostile chains are read into.
const room = 16

func hostiles() []hostile {
	return []hostile{
		{"head outside", queue.ErrIndex, func(r *queuetest.Ring) { r.Offer(8) }},
		{"next outside", queue.ErrIndex, one(data, 1, next, 8)},
		{"loop", queue.ErrLoop, one(data, 1, next, 0)},
		{"write then read", queue.ErrOrder, func(r *queuetest.Ring) {
			r.SetDesc(1, data, 1, 0, 0)
			one(data, 1, next|write, 1)(r)
		}},
		{"empty write then read", queue.ErrOrder, func(r *queuetest.Ring) {
			r.SetDesc(1, data, 1, 0, 0)
			one(data, 0, next|write, 1)(r)
		}},
		{"address outside", memory.ErrAddress, one(outside, 1, 0, 0)},
		{"end outside", memory.ErrAddress, one(outside-1, 2, write, 0)},
		{"address wraps", memory.ErrAddress, one(^memory.GPA(0), 2, 0, 0)},
		{"4 GiB in all", queue.ErrTooLong, func(r *queuetest.Ring) {
			r.SetDesc(1, data, 1<<32-1, 0, 0)
			one(data, 1, next, 1)(r)
		}},
		{"too many descriptors", queue.ErrTooLong, func(r *queuetest.Ring) {
			b := make([]queuetest.Buffer, room+1)
			for i := range b {
				b[i] = queuetest.Buffer{At: data, Len: 1}
			}
			r.AddIndirect(data+64, b...)
		}},
		{"indirect with next", queue.ErrIndirectNext, one(data, 32, indirect|next, 1)},
		{"empty table", queue.ErrIndirectTable, one(data, 0, indirect, 0)},
		{"ragged table", queue.ErrIndirectTable, one(data, 24, indirect, 0)},
		{"huge table", queue.ErrIndirectTable, one(data, 16*(queue.MaxSize+1), indirect, 0)},
		{"table outside", memory.ErrAddress, one(outside-16, 32, indirect, 0)},
		{"table in a table", queue.ErrIndirect, table(data+64, 32, indirect, 0)},
		{"loop in a table", queue.ErrLoop, table(data, 1, next, 0)},
		{"next outside the table", queue.ErrIndex, table(data, 1, next, 2)},
		{"index ahead", queue.ErrAvailIndex, func(r *queuetest.Ring) { r.SetAvailIdx(9) }},
		{"index behind", queue.ErrAvailIndex, func(r *queuetest.Ring) { r.SetAvailIdx(65535) }},
	}
}

func TestHostileChains(t *testing.T) {
	for _, h := range hostiles() {
		r, q := pair(t, 8, all)
		h.make(r)
		if ok, err := q.Pop(queue.NewChain(room)); ok || !errors.Is(err, h.want) {
			t.Errorf("%s: %v, %v; want %v", h.name, ok, err, h.want)
		}
	}
}

func TestIndirectMustBeNegotiated(t *testing.T) {
	r, q := pair(t, 8, 0)
	r.AddIndirect(data, queuetest.Buffer{At: data + 64, Len: 1})
	if _, err := q.Pop(queue.NewChain(8)); !errors.Is(err, queue.ErrIndirect) {
		t.Fatalf("%v", err)
	}
}

// A driver that offers one chain again and again, without waiting for it to
// come back, must not get more in flight than the ring has entries.
func TestInFlightIsBounded(t *testing.T) {
	r, q := pair(t, 8, all)
	r.SetDesc(0, data, 1, 0, 0)
	for i := range 8 {
		r.Offer(0)
		if _, ok, err := q.PopHead(); !ok || err != nil {
			t.Fatalf("chain %d: %v, %v", i, ok, err)
		}
	}
	r.Offer(0)
	if _, _, err := q.PopHead(); !errors.Is(err, queue.ErrAvailIndex) {
		t.Fatalf("chain 9: %v", err)
	}
}

// What the driver changes after Pop has no effect on the chain.
func TestDescriptorsAreCopied(t *testing.T) {
	r, q := pair(t, 8, all)
	r.Write(data, []byte("first"))
	r.Add(queuetest.Buffer{At: data, Len: 5})
	c := queue.NewChain(8)
	if ok, err := q.Pop(c); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for i := range uint16(8) {
		r.SetDesc(i, outside, 1<<31, next, i)
	}
	got := make([]byte, 5)
	if err := c.In.Copy(got); err != nil || string(got) != "first" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestFetchAgain(t *testing.T) {
	r, q := pair(t, 8, all)
	r.Write(data, []byte("parked"))
	r.Add(queuetest.Buffer{At: data, Len: 6})
	head, ok, err := q.PopHead()
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	for range 2 {
		c := queue.NewChain(8)
		got := make([]byte, 6)
		if err := errors.Join(q.Fetch(c, head), c.In.Copy(got)); err != nil || string(got) != "parked" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// A chain as long as the largest table, and one chain object for many.
func TestLongIndirectTable(t *testing.T) {
	r, q := pair(t, 8, all)
	buffers := make([]queuetest.Buffer, queue.MaxSize)
	want := make([]byte, len(buffers))
	for i := range buffers {
		buffers[i] = queuetest.Buffer{At: data + memory.GPA(2*i), Len: 1}
		want[i] = byte(i * 7)
		r.Write(buffers[i].At, want[i:i+1])
	}
	c := queue.NewChain(queue.MaxSize)
	for range 3 {
		r.AddIndirect(data+0x10000, buffers...)
		got := make([]byte, len(want))
		ok, err := q.Pop(c)
		if !ok || err != nil || c.In.Copy(got) != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v, %v", ok, err)
		}
		q.Push(c.Head, 0)
		r.Used()
	}
}

// TestAvailIndexGoesBack: entries taken already are not handed out again.
func TestAvailIndexGoesBack(t *testing.T) {
	r, q := pair(t, 8, all)
	for range 5 {
		r.Add(queuetest.Buffer{At: data, Len: 1})
	}
	for range 5 {
		if _, ok, err := q.PopHead(); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	r.SetAvailIdx(3)
	if _, ok, err := q.PopHead(); ok || err != queue.ErrAvailIndex {
		t.Errorf("a chain: %v, error %v", ok, err)
	}
}
