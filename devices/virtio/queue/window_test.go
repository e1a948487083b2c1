package queue_test

import (
	"bytes"
	"errors"
	"testing"

	"tenon/devices/memory"
	"tenon/devices/memory/memorytest"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

// TestRingInWindow: no part of a ring may be where a load can fault.
func TestRingInWindow(t *testing.T) {
	w := memorytest.NewWindow(t, outside)
	_, _, m := pairBeside(t, w.Region, 8, all)
	for name, move := range map[string]func(l *queue.Layout){
		"descriptor table":           func(l *queue.Layout) { l.Desc = outside },
		"available ring":             func(l *queue.Layout) { l.Avail = outside },
		"used ring":                  func(l *queue.Layout) { l.Used = outside },
		"end of the used ring":       func(l *queue.Layout) { l.Used = outside - 32 },
		"used_event":                 func(l *queue.Layout) { l.Avail = outside - 4 - 2*8 },
		"a page of it that is there": func(l *queue.Layout) { l.Avail = outside + memorytest.Kept },
	} {
		l, _ := queuetest.Place(base, 8)
		move(&l)
		if _, err := queue.New(m, l, all); !errors.Is(err, memory.ErrAddress) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWindowRefused: tables, and buffers that begin or end elsewhere, break the
// queue as any wrong address does.
func TestWindowRefused(t *testing.T) {
	for _, h := range []hostile{
		{"table", memory.ErrAddress, one(outside, 32, indirect, 0)},
		{"end of a table", memory.ErrAddress, one(outside-16, 32, indirect, 0)},
		{"buffer from RAM", memory.ErrAddress, one(outside-1, 2, 0, 0)},
		{"buffer out of it", memory.ErrAddress, one(outside+memorytest.Size-1, 2, write, 0)},
		{"buffer longer than it", memory.ErrAddress, one(outside, 1<<32-1, write, 0)},
	} {
		w := memorytest.NewWindow(t, outside)
		w.Write(0, make([]byte, 32)) // what would do as a table: an empty buffer
		r, q, _ := pairBeside(t, w.Region, 8, all)
		h.make(r)
		if ok, err := q.Pop(queue.NewChain(room)); ok || !errors.Is(err, h.want) {
			t.Errorf("%s: %v, %v; want %v", h.name, ok, err, h.want)
		}
	}
}

// TestCursorInWindow copies from and to chains that are partly in the window, whole
// and where a page of it is gone.
func TestCursorInWindow(t *testing.T) {
	for _, c := range []struct {
		name     string
		at       memory.GPA // of the second of three buffers of 8 bytes
		in, out  error
		left     int // where Copy or Put have stopped
		leftPut  int
		contents bool
	}{
		{"shown", outside + 100, nil, nil, 0, 0, true},
		{"for reading only", outside + memorytest.Kept, nil, memory.ErrFault, 0, 16, true},
		{"not shown", outside + memorytest.Barred, memory.ErrFault, memory.ErrFault, 16, 16, false},
		{"beyond the end", outside + memorytest.Gone, memory.ErrFault, memory.ErrFault, 16, 16, false},
		{"half gone", outside + memorytest.Barred - 4, memory.ErrFault, memory.ErrFault, 16, 16, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := memorytest.NewWindow(t, outside)
			r, q, _ := pairBeside(t, w.Region, 8, all)
			r.Write(data, []byte("01234567"))
			r.Write(data+100, []byte("abcdefgh"))
			r.Add(queuetest.Buffer{At: data, Len: 8}, queuetest.Buffer{At: c.at, Len: 8}, queuetest.Buffer{At: data + 100, Len: 8},
				queuetest.Buffer{At: data + 200, Len: 8, Write: true}, queuetest.Buffer{At: c.at, Len: 8, Write: true},
				queuetest.Buffer{At: data + 300, Len: 8, Write: true})
			chain := queue.NewChain(8)
			if ok, err := q.Pop(chain); !ok || err != nil {
				t.Fatal(ok, err)
			}
			got := make([]byte, 24)
			if err := chain.In.Copy(got); err != c.in || chain.In.Len() != c.left {
				t.Errorf("Copy: %v, %d bytes left", err, chain.In.Len())
			}
			if c.contents {
				want := append([]byte("01234567"), w.Read(int(c.at-outside), 8)...)
				if want = append(want, "abcdefgh"...); !bytes.Equal(got, want) {
					t.Errorf("Copy: %q, want %q", got, want)
				}
			}
			if err := chain.Out.Put(bytes.Repeat([]byte{'p'}, 24)); err != c.out || chain.Out.Len() != c.leftPut {
				t.Errorf("Put: %v, %d bytes left", err, chain.Out.Len())
			}
			if c.out == nil && string(w.Read(int(c.at-outside), 8)) != "pppppppp" {
				t.Error("Put: other bytes in the file")
			}
			if chain.Out.Direct(8, 1) != nil {
				t.Error("Direct: bytes of the window")
			}
			if n := len(chain.In.Rest(0, 100)); chain.In.Len() > 0 && n != 2 {
				t.Errorf("%d iovecs for the rest", n)
			}
		})
	}
}

// TestWindowAgain: that one chain after the other lies in the window changes nothing,
// nor that one in RAM comes between; only RAM is ever loaded from.
func TestWindowAgain(t *testing.T) {
	w := memorytest.NewWindow(t, outside)
	r, q, _ := pairBeside(t, w.Region, 8, all)
	c := queue.NewChain(8)
	for i, x := range []struct {
		at     memory.GPA
		window bool
		want   error
	}{
		{data, false, nil},
		{outside + memorytest.Gone, true, memory.ErrFault},
		{outside + memorytest.Gone, true, memory.ErrFault},
		{outside + memorytest.Barred, true, memory.ErrFault},
		{outside, true, nil},
		{data, false, nil},
		{outside + memorytest.Barred, true, memory.ErrFault},
	} {
		r.Add(queuetest.Buffer{At: x.at, Len: 8}, queuetest.Buffer{At: x.at, Len: 8, Write: true})
		if ok, err := q.Pop(c); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := c.In.Copy(make([]byte, 8)); err != x.want {
			t.Errorf("chain %d: Copy: %v", i, err)
		}
		if c.In.InWindow() != x.window || c.Out.InWindow() != x.window {
			t.Errorf("chain %d: in the window: %v, %v", i, c.In.InWindow(), c.Out.InWindow())
		}
		q.Push(c.Head, 0)
		r.Used()
	}
}

// TestAdjoining: what lies side by side in RAM is one buffer for system calls, but the
// two parts are never one, nor is what a window shows, and no byte is lost.
func TestAdjoining(t *testing.T) {
	w := memorytest.NewWindow(t, outside)
	r, q, _ := pairBeside(t, w.Region, 16, all)
	r.Write(data, []byte("0123456789abcdef"))
	buffer := func(at memory.GPA, n uint32, write bool) queuetest.Buffer {
		return queuetest.Buffer{At: at, Len: n, Write: write}
	}
	for _, x := range []struct {
		name    string
		buffers []queuetest.Buffer
		in, out int // iovecs
		copied  string
	}{
		{"adjoining", []queuetest.Buffer{buffer(data, 3, false), buffer(data+3, 4, false), buffer(data+7, 1, true), buffer(data+8, 8, true)}, 1, 1, "0123456"},
		{"a gap", []queuetest.Buffer{buffer(data, 3, false), buffer(data+4, 4, false), buffer(data+4, 4, true), buffer(data+9, 1, true)}, 2, 2, "0124567"},
		{"backwards", []queuetest.Buffer{buffer(data+4, 4, false), buffer(data, 4, false)}, 2, 0, "45670123"},
		{"twice the same", []queuetest.Buffer{buffer(data, 4, false), buffer(data, 4, false)}, 2, 0, "01230123"},
		{"nothing between", []queuetest.Buffer{buffer(data, 4, false), buffer(data+99, 0, false), buffer(data+4, 4, false)}, 1, 0, "01234567"},
		{"RAM, then the window", []queuetest.Buffer{buffer(outside-4, 4, false), buffer(outside, 4, false), buffer(outside, 8, true), buffer(outside+8, 8, true)}, 2, 2, "\x00\x00\x00\x00\x00\x01\x02\x03"},
	} {
		r.AddIndirect(data+0x8000, x.buffers...)
		c := queue.NewChain(8)
		if ok, err := q.Pop(c); !ok || err != nil {
			t.Fatal(x.name, ok, err)
		}
		if in, out := c.In.Rest(0, 100), c.Out.Rest(0, 100); len(in) != x.in || len(out) != x.out {
			t.Errorf("%s: %d and %d iovecs, want %d and %d", x.name, len(in), len(out), x.in, x.out)
		}
		got := make([]byte, c.In.Len())
		if err := c.In.Copy(got); err != nil || string(got) != x.copied {
			t.Errorf("%s: %q, %v", x.name, got, err)
		}
		q.Push(c.Head, 0)
		r.Used()
	}
}

// TestAdjoiningRegions: buffers on both sides of where two regions of RAM meet are not
// side by side on the host.
func TestAdjoiningRegions(t *testing.T) {
	const size = 0x10000
	low, high := make([]byte, size), make([]byte, size)
	m, err := memory.New(memory.Region{GPA: base, Data: low}, memory.Region{GPA: base + size, Data: high})
	if err != nil {
		t.Fatal(err)
	}
	l, _ := queuetest.Place(base, 8)
	r := queuetest.New(t, m, l, all)
	q := r.Device(all)
	copy(low[size-4:], "0123")
	copy(high, "4567")
	r.Add(queuetest.Buffer{At: base + size - 4, Len: 4}, queuetest.Buffer{At: base + size, Len: 4})
	c := queue.NewChain(8)
	if ok, err := q.Pop(c); !ok || err != nil {
		t.Fatal(ok, err)
	}
	got := make([]byte, 8)
	if iov := c.In.Rest(0, 8); string(bytesOf(iov)) != "01234567" {
		t.Errorf("Rest: %q", bytesOf(iov))
	}
	if err := c.In.Copy(got); err != nil || string(got) != "01234567" {
		t.Errorf("Copy: %q, %v", got, err)
	}
}

// Walking a chain in a window is on the request path too.
func TestAllocWindow(t *testing.T) {
	w := memorytest.NewWindow(t, outside)
	r, q, _ := pairBeside(t, w.Region, 64, all)
	c := queue.NewChain(16)
	var b [16]byte
	if n := testing.AllocsPerRun(100, func() {
		r.Add(queuetest.Buffer{At: outside, Len: 16}, queuetest.Buffer{At: outside + 100, Len: 16, Write: true})
		if ok, err := q.Pop(c); !ok || err != nil || c.In.Copy(b[:]) != nil || c.Out.Put(b[:]) != nil {
			t.Fatal(ok, err)
		}
		q.Push(c.Head, 16)
		r.Used()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
