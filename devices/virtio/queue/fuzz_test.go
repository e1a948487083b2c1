package queue_test

import (
	"testing"

	"tenon/devices/memory"
	"tenon/devices/memory/memorytest"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

// FuzzChain gives the device a ring, tables and an index that are any bytes at
// all, with a window behind RAM. Whatever comes out must stay inside guest memory and
// inside the chain.
func FuzzChain(f *testing.F) {
	w := memorytest.NewWindow(f, outside)
	for _, h := range hostiles() {
		r, _ := pair(f, 8, all)
		h.make(r)
		f.Add(r.Read(base, 512), r.Read(data, 128))
	}
	for _, off := range []memory.GPA{memorytest.Shown, memorytest.Barred - 5, memorytest.Gone} {
		r, _ := pair(f, 8, all)
		r.Add(queuetest.Buffer{At: outside + off, Len: 100}, queuetest.Buffer{At: data, Len: 5},
			queuetest.Buffer{At: outside + off, Len: 100, Write: true})
		f.Add(r.Read(base, 512), r.Read(data, 128))
	}
	f.Fuzz(func(t *testing.T, ring, tables []byte) {
		r, q, m := pairBeside(t, w.Region, 8, all)
		r.Write(base, ring[:min(len(ring), 4096)])
		r.Write(data, tables[:min(len(tables), 4096)])
		c := queue.NewChain(room)
		for range 20 {
			ok, err := q.Pop(c)
			if !ok || err != nil {
				return
			}
			checkChain(t, c, m, w)
			q.Push(c.Head, 0)
			q.MustSignal()
			q.Listen()
		}
	})
}

func checkChain(t *testing.T, c *queue.Chain, m *memory.Map, w *memorytest.Window) {
	for name, part := range map[string]*queue.Cursor{"in": &c.In, "out": &c.Out} {
		iov, sum, faults := part.Rest(0, 1<<32-1), 0, false
		for _, v := range iov {
			sum += int(v.Len)
			shown := within(v, w.Data)
			faults = faults || shown
			if !shown && !within(v, m.Regions()[0].Data) {
				t.Fatalf("%s: an iovec of %d bytes lies outside guest memory", name, v.Len)
			}
		}
		if sum != part.Len() || len(iov) > room {
			t.Fatalf("%s: %d iovecs of %d bytes for %d", name, len(iov), sum, part.Len())
		}
		total := part.Len()
		if err := part.Skip(total / 2); err != nil {
			t.Fatalf("%s: Skip: %v", name, err)
		}
		for b := [7]byte{}; part.Len() >= len(b); {
			before := part.Len()
			if err := part.Copy(b[:]); err == memory.ErrFault && faults {
				// It stands where the fault is.
				if part.Len() > before || part.Len() <= before-len(b) {
					t.Fatalf("%s: Copy of %d bytes that failed: %d of %d left", name, len(b), part.Len(), before)
				}
				if err := part.Skip(part.Len() - before + len(b)); err != nil {
					t.Fatalf("%s: Skip: %v", name, err)
				}
			} else if err != nil {
				t.Fatalf("%s: Copy with %d left: %v", name, part.Len(), err)
			}
			if part.Len() > 1<<12 {
				if err := part.Skip(part.Len() - 100); err != nil {
					t.Fatalf("%s: Skip: %v", name, err)
				}
			}
		}
		part.Reset()
		if part.Len() != total {
			t.Fatalf("%s: Reset: %d of %d", name, part.Len(), total)
		}
	}
}

// Popping, walking and pushing are on the request path.
func TestAllocQueue(t *testing.T) {
	r, q := pair(t, 64, all)
	c := queue.NewChain(16)
	var b [64]byte
	round := func() {
		trip(t, r, q, c, b[:])
	}
	if n := testing.AllocsPerRun(1000, round); n != 0 {
		t.Errorf("%v allocations per chain", n)
	}
}

// trip sends one chain of three descriptors there and back.
func trip(t testing.TB, r *queuetest.Ring, q *queue.Queue, c *queue.Chain, b []byte) {
	r.AddIndirect(data,
		queuetest.Buffer{At: data + 0x1000, Len: 40},
		queuetest.Buffer{At: data + 0x2000, Len: 16, Write: true},
		queuetest.Buffer{At: data + 0x3000, Len: 4096, Write: true})
	q.Quiet()
	ok, err := q.Pop(c)
	if !ok || err != nil || c.In.Copy(b[:40]) != nil || c.Out.Skip(16) != nil || len(c.Out.Rest(0, 4096)) != 1 {
		t.Fatal(ok, err)
	}
	c.Out.Reset()
	if c.Out.Put(b[:16]) != nil {
		t.Fatal("Put")
	}
	q.Push(c.Head, 16)
	if q.Listen() || !q.MustSignal() {
		t.Fatal("not signalled")
	}
	if _, _, ok := r.Used(); !ok || r.Listen() {
		t.Fatal("not used")
	}
}

// BenchmarkChain is the price of the rings of one request, driver included.
func BenchmarkChain(b *testing.B) {
	r, q := pair(b, 1024, all)
	c := queue.NewChain(queue.MaxSize)
	var buf [64]byte
	b.ReportAllocs()
	for b.Loop() {
		trip(b, r, q, c, buf[:])
	}
}
