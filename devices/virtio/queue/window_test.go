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
			if n := len(chain.In.Rest(100)); chain.In.Len() > 0 && n != 2 {
				t.Errorf("%d iovecs for the rest", n)
			}
		})
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
