package queue_test

import (
	"errors"
	"testing"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

// chainOf pops a chain of readable buffers of the given lengths, spread over
// memory, that hold 0, 1, 2 ... as one stream.
func chainOf(t *testing.T, lengths ...uint32) *queue.Chain {
	t.Helper()
	r, q := pair(t, 8, all)
	var buffers []queuetest.Buffer
	at, b := data, byte(0)
	for _, n := range lengths {
		for i := range n {
			r.Write(at+memory.GPA(i), []byte{b})
			b++
		}
		buffers = append(buffers, queuetest.Buffer{At: at, Len: n})
		at += 1000
	}
	r.AddIndirect(data+0x8000, buffers...)
	c := queue.NewChain(16)
	if ok, err := q.Pop(c); !ok || err != nil {
		t.Fatal(ok, err)
	}
	return c
}

// Every way to stand at position skip and take max bytes must agree.
func TestCursorPositions(t *testing.T) {
	const total = 3 + 1 + 5 + 4
	for skip := 0; skip <= total; skip++ {
		for n := 0; n <= total-skip; n++ {
			c := chainOf(t, 3, 0, 1, 5, 4)
			if got := string(bytesOf(c.In.Rest(skip, uint32(n)))); got != count(skip, n) {
				t.Fatalf("Rest(%d, %d): % x", skip, n, got)
			}
			if err := c.In.Skip(skip); err != nil || c.In.Len() != total-skip {
				t.Fatalf("Skip(%d): %v, left %d", skip, err, c.In.Len())
			}
			iov := c.In.Rest(0, uint32(n))
			if got := string(bytesOf(iov)); got != count(skip, n) {
				t.Fatalf("skip %d, Rest(%d): % x", skip, n, got)
			}
			for _, v := range iov {
				if v.Len == 0 {
					t.Fatalf("skip %d, Rest(%d): empty iovec", skip, n)
				}
			}
			got := make([]byte, n)
			if err := c.In.Copy(got); err != nil || string(got) != count(skip, n) {
				t.Fatalf("skip %d, Copy(%d): % x, %v", skip, n, got, err)
			}
			if c.In.Len() != total-skip-n {
				t.Fatalf("left %d", c.In.Len())
			}
			c.In.Reset()
			if got := string(bytesOf(c.In.Rest(0, 1<<30))); got != count(0, total) {
				t.Fatalf("after Reset: % x", got)
			}
		}
	}
}

// What Direct gives is the guest's memory itself, and only where it is in one piece.
func TestDirect(t *testing.T) {
	lengths := []uint32{3, 1, 5, 4}
	for off := range 15 {
		for n := 1; n < 8; n++ {
			c := chainOf(t, lengths...)
			_ = c.In.Skip(2) // it is the whole part that counts
			start, whole := 0, false
			for _, size := range lengths {
				whole = whole || off >= start && off+n <= start+int(size)
				start += int(size)
			}
			b := c.In.Direct(off, n)
			if !whole {
				if b != nil {
					t.Fatalf("Direct(%d, %d): % x", off, n, b)
				}
				continue
			}
			if string(b) != count(off, n) || cap(b) != n {
				t.Fatalf("Direct(%d, %d): % x, cap %d", off, n, b, cap(b))
			}
			b[0] = 'x'
			if got := bytesOf(c.In.Rest(off-2, 1)); off >= 2 && got[0] != 'x' {
				t.Fatalf("Direct(%d, %d) is a copy", off, n)
			}
		}
	}
	var none queue.Cursor
	if b := none.Direct(0, 1); b != nil {
		t.Fatalf("of an empty cursor: %d bytes", len(b))
	}
}

func TestCursorShort(t *testing.T) {
	c := chainOf(t, 3, 2)
	for name, err := range map[string]error{
		"Copy":          c.In.Copy(make([]byte, 6)),
		"Put":           c.In.Put(make([]byte, 6)),
		"Skip":          c.In.Skip(6),
		"Skip negative": c.In.Skip(-1),
		"empty part":    c.Out.Put([]byte{1}),
	} {
		if !errors.Is(err, queue.ErrShort) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c.In.Len() != 5 {
		t.Errorf("a refused call moved the cursor: %d left", c.In.Len())
	}
	if iov := c.In.Rest(6, 1); len(iov) != 0 {
		t.Errorf("Rest beyond the end: %d iovecs", len(iov))
	}
	if iov := c.Out.Rest(0, 10); len(iov) != 0 {
		t.Errorf("Rest of an empty part: %d iovecs", len(iov))
	}
}

// The two cursors of a chain must not share the slice that Rest returns.
func TestRestOfBothParts(t *testing.T) {
	r, q := pair(t, 8, all)
	r.Write(data, []byte("read"))
	r.Write(data+100, []byte("write"))
	r.Add(queuetest.Buffer{At: data, Len: 4}, queuetest.Buffer{At: data + 100, Len: 5, Write: true})
	c := queue.NewChain(2)
	if ok, err := q.Pop(c); !ok || err != nil {
		t.Fatal(ok, err)
	}
	in, out := c.In.Rest(0, 100), c.Out.Rest(0, 100)
	if string(bytesOf(in)) != "read" || string(bytesOf(out)) != "write" {
		t.Fatalf("%q, %q", bytesOf(in), bytesOf(out))
	}
}

// count is n bytes that count up from a value.
func count(from, n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(from + i)
	}
	return string(out)
}
