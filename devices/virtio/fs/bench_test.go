package fs

import (
	"slices"
	"testing"
	"time"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue/queuetest"
)

// BenchmarkRequest is a request from the filled ring to the used entry, beside the
// system call that it stands for, in turns: the ring is filled with requests, and
// after they were served the same call is made as often into the same memory. Neither
// the VM's exit nor the driver is in the figures, which are medians in ns. raw is the
// call without what Go does around one that may block.
func BenchmarkRequest(b *testing.B) {
	for _, name := range hotNames {
		b.Run(name, func(b *testing.B) {
			q, path := hotRequests(b, name)
			batch := q.copies(ringSize / 2)
			x := bareCalls(b, batch, name, path)
			var served, bare, raw []time.Duration
			for b.Loop() {
				batch.fill()
				t0 := time.Now()
				q.d.Notify(1)
				t1 := time.Now()
				batch.drain(b, q.room)
				t2 := time.Now()
				x.plain(b)
				t3 := time.Now()
				x.raw(b)
				raw = append(raw, time.Since(t3))
				served = append(served, t1.Sub(t0))
				bare = append(bare, t3.Sub(t2))
			}
			each := func(d []time.Duration) float64 {
				slices.Sort(d)
				return float64(d[len(d)/2]) / float64(len(batch.requests))
			}
			b.ReportMetric(each(served), "served")
			b.ReportMetric(each(bare), "bare")
			b.ReportMetric(each(raw), "raw")
			b.ReportMetric(each(served)/each(bare), "served/bare")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// batch is copies of one request, each in its own memory.
type batch struct {
	*request
	requests []request
}

// copies lays out n copies of the request, each with a table and buffers of its own:
// pages in pages, all else close together, as a kernel's allocator has it.
func (q *request) copies(n int) *batch {
	b := &batch{request: q}
	small, page := requestAt+0x300000, requestAt+0x400000-memory.GPA(n)<<12
	for range n {
		c := request{share: q.share, at: small, room: q.room}
		small += memory.GPA(len(q.buffers)*16+63) &^ 63
		for _, p := range q.buffers {
			to := &small
			if p.Len >= 4096 {
				to = &page
			}
			if !p.Write {
				q.rings[1].Write(*to, q.rings[1].Read(p.At, p.Len))
			}
			c.buffers = append(c.buffers, queuetest.Buffer{At: *to, Len: p.Len, Write: p.Write})
			*to += memory.GPA(p.Len+63) &^ 63
		}
		b.requests = append(b.requests, c)
	}
	return b
}

// fill makes all of them available.
func (b *batch) fill() {
	for i := range b.requests {
		x := &b.requests[i]
		b.rings[1].AddIndirect(x.at, x.buffers...)
	}
	b.rings[1].Kick()
}

// drain takes what was served, which is all of it.
func (b *batch) drain(tb testing.TB, used uint32) {
	for range b.requests {
		if _, n, ok := b.rings[1].Used(); !ok || n != used {
			tb.Fatalf("used %d, %v", n, ok)
		}
	}
	b.rings[1].Listen()
}
