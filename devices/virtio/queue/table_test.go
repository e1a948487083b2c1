package queue_test

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/memory/memorytest"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

// tables is a ring in memory of two regions that meet, with a window behind them.
type tables struct {
	ring *queuetest.Ring
	q    *queue.Queue
}

const (
	upper = data + 0x20000  // where the second region begins
	shown = upper + 0x20000 // and where the window does
)

func newTables(t *testing.T) tables {
	t.Helper()
	m, err := memory.New(memory.Region{GPA: base, Data: make([]byte, upper-base)},
		memory.Region{GPA: upper, Data: make([]byte, shown-upper)})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.AddWindow(memorytest.NewWindow(t, shown).Region); err != nil {
		t.Fatal(err)
	}
	l, _ := queuetest.Place(base, 8)
	r := queuetest.New(t, m, l, all)
	return tables{r, r.Device(all)}
}

// entry is a descriptor of a table.
type entry struct {
	at          memory.GPA
	n           uint32
	flags, next uint16
}

// read reads a table that the head points to, or that comes after an empty buffer: then
// it is read entry by entry, with no guess at what it will be.
func (x tables) read(entries []entry, plain bool) (*queue.Chain, error) {
	table := make([]byte, 16*len(entries))
	for i, e := range entries {
		queuetest.PutDesc(table[16*i:], e.at, e.n, e.flags, e.next)
	}
	x.ring.Write(data, table)
	x.ring.SetDesc(0, data, 0, next, 1)
	x.ring.SetDesc(1, data, uint32(len(table)), indirect, 0)
	c := queue.NewChain(room)
	head := uint16(1)
	if plain {
		head = 0
	}
	return c, x.q.Fetch(c, head)
}

// same fails where the two ways to read a table differ, and returns the error of both.
func (x tables) same(t *testing.T, name string, entries []entry) error {
	t.Helper()
	quick, e1 := x.read(entries, false)
	slow, e2 := x.read(entries, true)
	if e1 != e2 {
		t.Fatalf("%s: %v, entry by entry %v: %v", name, e1, e2, entries)
	}
	if e1 != nil {
		return e1
	}
	if quick.Bytes() != slow.Bytes() || quick.In.InWindow() != slow.In.InWindow() {
		t.Fatalf("%s: %d bytes, entry by entry %d: %v", name, quick.Bytes(), slow.Bytes(), entries)
	}
	for i, p := range [][2]*queue.Cursor{{&quick.In, &slow.In}, {&quick.Out, &slow.Out}} {
		a, b := p[0].Rest(0, 1<<32-1), p[1].Rest(0, 1<<32-1)
		differ := len(a) != len(b) || p[0].Len() != p[1].Len()
		for k := range a {
			differ = differ || a[k] != b[k]
		}
		if differ {
			t.Fatalf("%s: part %d: %v, entry by entry %v: %v", name, i, a, b, entries)
		}
	}
	return nil
}

// TestTableEitherWay: a table that is read at one go is read as any other.
func TestTableEitherWay(t *testing.T) {
	x := newTables(t)
	for _, c := range []struct {
		name    string
		entries []entry
		want    error
	}{
		{"both parts", []entry{{data, 8, next, 1}, {data + 100, 8, next, 2}, {data + 200, 8, next | write, 3}, {data + 300, 8, write, 0}}, nil},
		{"adjoining", []entry{{data, 8, next, 1}, {data + 8, 8, next, 2}, {data + 16, 8, next | write, 3}, {data + 24, 8, write, 0}}, nil},
		{"where regions meet", []entry{{upper - 8, 8, next, 1}, {upper, 8, next, 2}, {upper - 8, 8, write, 0}}, nil},
		{"from one region to the other", []entry{{upper, 8, next, 1}, {upper - 8, 8, next, 2}, {upper, 8, write, 0}}, nil},
		{"across regions", []entry{{upper - 4, 8, 0, 0}}, memory.ErrAddress},
		{"one for writing", []entry{{data, 8, write, 0}}, nil},
		{"an empty one first", []entry{{data, 0, next, 1}, {data, 8, write, 0}}, nil},
		{"an empty one outside", []entry{{data, 8, next, 1}, {1 << 60, 0, write, 0}}, nil},
		{"only an empty one", []entry{{data, 0, 0, 0}}, nil},
		{"all of one page", []entry{{data, 4096, next, 1}, {data, 4096, write, 0}}, nil},
		{"backwards", []entry{{data, 8, next, 2}, {data + 100, 8, 0, 0}, {data + 200, 8, next, 1}}, nil},
		{"an entry left out", []entry{{data, 8, next, 2}, {1 << 60, 8, 0, 0}, {data + 200, 8, write, 0}}, nil},
		{"what comes after the end", []entry{{data, 8, write, 0}, {1 << 60, 8, indirect, 0}}, nil},
		{"an unknown flag", []entry{{data, 8, next | 1<<9, 1}, {data, 8, write | 1<<9, 0}}, nil},
		{"the window", []entry{{data, 8, next, 1}, {shown, 8, write, 0}}, nil},
		{"the window, then RAM", []entry{{shown, 8, next, 1}, {shown + 8, 8, next, 2}, {data, 8, next, 3}, {data + 8, 8, write, 0}}, nil},
		{"written, then read", []entry{{data, 8, next | write, 1}, {data, 8, 0, 0}}, queue.ErrOrder},
		{"no end", []entry{{data, 8, next, 1}, {data, 8, next, 2}}, queue.ErrLoop},
		{"a loop", []entry{{data, 8, next, 1}, {data, 8, next, 0}}, queue.ErrLoop},
		{"a table in a table", []entry{{data, 8, next, 1}, {data, 16, indirect, 0}}, queue.ErrIndirect},
		{"the last is a table", []entry{{data, 16, indirect, 0}}, queue.ErrIndirect},
		{"outside", []entry{{data, 8, next, 1}, {base - 1, 8, 0, 0}}, memory.ErrAddress},
		{"the highest address", []entry{{^memory.GPA(0), 1, 0, 0}}, memory.ErrAddress},
	} {
		if e := x.same(t, c.name, c.entries); e != c.want {
			t.Errorf("%s: %v, want %v", c.name, e, c.want)
		}
	}
}

// TestTablesOfChance is the same with tables of which nearly all is as it should be.
func TestTablesOfChance(t *testing.T) {
	x := newTables(t)
	r := rand.New(rand.NewPCG(1, 2))
	ats := []memory.GPA{data, data + 8, data + 16, data + 0x1000, upper - 8, upper, upper + 8, shown - 8, shown}
	good := 0
	for range 20000 {
		entries := make([]entry, 1+r.IntN(room+2))
		part := r.IntN(len(entries) + 1)
		for i := range entries {
			e := entry{ats[r.IntN(len(ats)-r.IntN(2))], 8, next, uint16(i + 1)}
			if i >= part {
				e.flags |= write
			}
			if i == len(entries)-1 {
				e.flags &^= next
			}
			switch r.IntN(60) {
			case 0:
				e.n = 0
			case 1:
				e.flags ^= write
			case 2:
				e.flags ^= next
			case 3:
				e.next = uint16(r.IntN(len(entries) + 1))
			case 4:
				e.flags |= indirect
			case 5:
				e.at -= 4
			}
			entries[i] = e
		}
		if x.same(t, "table", entries) == nil {
			good++
		}
	}
	if good < 5000 || good > 19000 {
		t.Errorf("%d of 20000 tables were good: this tests one side alone", good)
	}
}

// TestTableOf4GiB: the limit holds where one piece of memory is named again and again.
func TestTableOf4GiB(t *testing.T) {
	const piece = 4 << 20
	m := queuetest.Memory(t, base, piece+0x20000)
	l, _ := queuetest.Place(base, 8)
	r := queuetest.New(t, m, l, all)
	q := r.Device(all)
	buffers := make([]queuetest.Buffer, queue.MaxSize)
	for i := range buffers {
		buffers[i] = queuetest.Buffer{At: base + 0x20000, Len: piece}
	}
	buffers[0].Len--
	c := queue.NewChain(queue.MaxSize)
	r.AddIndirect(data, buffers...)
	if ok, err := q.Pop(c); !ok || err != nil || c.Bytes() != 1<<32-1 {
		t.Errorf("a byte less: %v, %v, %d bytes", ok, err, c.Bytes())
	}
	buffers[0].Len++
	r.AddIndirect(data, buffers...)
	if ok, err := q.Pop(c); ok || err != queue.ErrTooLong {
		t.Errorf("4 GiB: %v, %v", ok, err)
	}
}

// TestHeadTurnsIndirect: a driver makes the head of a chain, which leads back to it, an
// indirect descriptor after it was read as a buffer. What was read before must not be
// mixed with the table.
func TestHeadTurnsIndirect(t *testing.T) {
	// The race detector does not look at memory outside of Go's heap: a guest's races are
	// nothing to be told of.
	ram, err := unix.Mmap(-1, 0, int(upper-base), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(ram)
	m, err := memory.New(memory.Region{GPA: base, Data: ram})
	if err != nil {
		t.Fatal(err)
	}
	const (
		ringSize, length = 1024, 1000
		last             = ringSize - 10 // of the chain: a longer one is ErrLoop before it is back
		buffer           = data + 0x8000 // behind a ring of this size
		at               = buffer + 0x1000
	)
	l, _ := queuetest.Place(base, ringSize)
	r := queuetest.New(t, m, l, all)
	q := r.Device(all)
	table := make([]byte, 16)
	queuetest.PutDesc(table, buffer, 10, 0, 0)
	r.Write(at, table)
	r.SetDesc(0, at, length, next, 1)
	for i := range uint16(last - 1) { // to give the driver time
		r.SetDesc(1+i, buffer, 0, next, i+2)
	}
	r.SetDesc(last, buffer, 0, next|write, 0)
	head, err := m.Slice(l.Desc, 16)
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-stopped }()
	go func() {
		defer close(stopped)
		var pause atomic.Uint32
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if flags := uint64(next) | 1<<16; i%2 == 0 {
				binary.LittleEndian.PutUint64(head[8:], length|flags<<32)
			} else {
				binary.LittleEndian.PutUint64(head[8:], uint64(len(table))|indirect<<32)
			}
			for range 50 {
				pause.Add(1)
			}
		}
	}()
	c := queue.NewChain(room)
	for range 100_000 {
		if q.Fetch(c, 0) != nil {
			continue
		}
		if in, out := c.In.Len(), c.Out.Len(); out < 0 || in+out != int(c.Bytes()) {
			t.Fatalf("%d bytes to be read, %d to be written, %d altogether", in, out, c.Bytes())
		}
	}
}
