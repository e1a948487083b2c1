package rng

import (
	"bytes"
	"runtime"
	"testing"

	"tenon/devices/memory"
	"tenon/devices/memory/memorytest"
	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

const (
	ramBase  = memory.GPA(0x100000)
	ramSize  = 2 << 20
	data     = ramBase + ramSize/2
	ringBits = queue.FeatureIndirect | queue.FeatureEventIdx
)

// host counts what the device tells the driver.
type host struct {
	irqs, changes int
	broken        []error
}

func (h *host) Queue(int)      { h.irqs++ }
func (h *host) ConfigChanged() { h.changes++ }

func activate(t *testing.T, d *Device, windows ...memory.Region) (*queuetest.Ring, *host) {
	t.Helper()
	m := queuetest.Memory(t, ramBase, ramSize)
	for _, w := range windows {
		if err := m.AddWindow(w); err != nil {
			t.Fatal(err)
		}
	}
	l, _ := queuetest.Place(ramBase, queueSize)
	r, h := queuetest.New(t, m, l, ringBits), &host{}
	err := d.Activate(virtio.Env{
		Mem: m, Queues: []*queue.Queue{r.Device(ringBits)}, Features: ringBits, Irq: h,
		Broken: func(err error) { h.broken = append(h.broken, err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, h
}

func TestFill(t *testing.T) {
	d := New()
	r, h := activate(t, d)
	for _, c := range []struct {
		buffers []queuetest.Buffer
		want    uint32
	}{
		{[]queuetest.Buffer{{At: data, Len: 64, Write: true}}, 64},
		{[]queuetest.Buffer{{At: data, Len: 100, Write: true}, {At: data + 0x1000, Len: 1000, Write: true}}, 1100},
		{[]queuetest.Buffer{{At: data, Len: 1 << 17, Write: true}}, maxFill},
		{[]queuetest.Buffer{{At: data, Len: 64}}, 0}, // nothing to write to
	} {
		want := h.irqs + 1
		r.Write(data, make([]byte, 1<<17))
		r.AddIndirect(ramBase+0x8000, c.buffers...)
		d.Notify(0)
		if _, n, ok := r.Used(); !ok || n != c.want {
			t.Errorf("%v: %d bytes, %v", c.buffers, n, ok)
		}
		if h.irqs != want || r.Listen() {
			t.Errorf("%v: %d interrupts, want %d", c.buffers, h.irqs, want)
		}
		// 16 zero bytes in a row happen once in 2^128 tries.
		got := r.Read(data, 1<<17)
		edge := min(c.want, c.buffers[0].Len)
		if edge >= 16 && bytes.Equal(got[edge-16:edge], make([]byte, 16)) {
			t.Errorf("%v: the end is not filled", c.buffers)
		}
		if !bytes.Equal(got[max(edge, 0x1000+1000):], make([]byte, len(got)-int(max(edge, 0x1000+1000)))) {
			t.Errorf("%v: wrote past the end", c.buffers)
		}
	}
	d.Reset()
}

// TestFillWindow: buffers may lie in a window; one that cannot be written ends the
// answer, not the device.
func TestFillWindow(t *testing.T) {
	const at = ramBase + ramSize
	d, w := New(), memorytest.NewWindow(t, at)
	r, h := activate(t, d, w.Region)
	kept := w.Read(memorytest.Kept, memorytest.Gone-memorytest.Kept)
	for _, c := range []struct {
		name    string
		buffers []queuetest.Buffer
		want    uint32
	}{
		{"shown", []queuetest.Buffer{{At: at + memorytest.Shown, Len: 4096, Write: true}}, 4096},
		{"for reading only", []queuetest.Buffer{{At: at + memorytest.Kept, Len: 100, Write: true}}, 0},
		{"not shown", []queuetest.Buffer{{At: at + memorytest.Barred, Len: 100, Write: true}}, 0},
		{"beyond the end", []queuetest.Buffer{{At: at + memorytest.Gone, Len: 100, Write: true}}, 0},
		{"part of it", []queuetest.Buffer{{At: data, Len: 512, Write: true}, {At: at + memorytest.Gone, Len: 512, Write: true}}, 512},
	} {
		w.Write(memorytest.Shown, make([]byte, 4096))
		r.AddIndirect(ramBase+0x8000, c.buffers...)
		d.Notify(0)
		if _, n, ok := r.Used(); !ok || n != c.want {
			t.Errorf("%s: %d bytes, %v", c.name, n, ok)
		}
		r.Listen()
		if c.want == 4096 && bytes.Equal(w.Read(4080, 16), make([]byte, 16)) {
			t.Errorf("%s: the end is not filled", c.name)
		}
	}
	if !bytes.Equal(w.Read(memorytest.Kept, len(kept)), kept) {
		t.Error("what may not be written has changed")
	}
	if len(h.broken) != 0 {
		t.Error(h.broken)
	}
	d.Reset()
}

// More requests than one notification is worth: all are filled.
func TestManyRequests(t *testing.T) {
	d := New()
	r, h := activate(t, d)
	for i := range queueSize {
		r.Add(queuetest.Buffer{At: data + memory.GPA(i)*64, Len: 64, Write: true})
	}
	d.Notify(0)
	for got := 0; got < queueSize; {
		runtime.Gosched() // a goroutine fills the rest
		if _, n, ok := r.Used(); ok && n == 64 {
			got++
		}
	}
	d.Reset()
	if h.irqs == 0 {
		t.Error("no interrupt")
	}
}

func TestHostileAndReset(t *testing.T) {
	d := New()
	r, h := activate(t, d)
	r.Add(queuetest.Buffer{At: 1, Len: 1, Write: true})
	for range 3 {
		d.Notify(0)
		r.SetAvailIdx(999)
	}
	if len(h.broken) != 1 {
		t.Errorf("broken %v, want once", h.broken)
	}
	d.Reset()
	d.Notify(0) // nothing to do
	r, _ = activate(t, d)
	r.Add(queuetest.Buffer{At: data, Len: 8, Write: true})
	d.Notify(0)
	if _, n, ok := r.Used(); !ok || n != 8 {
		t.Errorf("after reset: %d bytes, %v", n, ok)
	}
	d.Reset()
	if err := d.Activate(virtio.Env{Queues: []*queue.Queue{nil}}); err != nil {
		t.Error(err)
	}
	d.Notify(0)
}

func TestAllocFill(t *testing.T) {
	d := New()
	r, _ := activate(t, d)
	if n := testing.AllocsPerRun(100, func() {
		r.Add(queuetest.Buffer{At: data, Len: 64, Write: true})
		d.Notify(0)
		r.Used()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	d.Reset()
}
