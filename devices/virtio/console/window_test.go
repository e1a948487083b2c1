package console

import (
	"io"
	"slices"
	"testing"

	"tenon/devices/memory"
	"tenon/devices/memory/memorytest"
	"tenon/devices/virtio/queue/queuetest"
)

// Buffers in a window: those of which a page cannot be had count as empty, and the
// device goes on.

const windowAt = ramBase + ramSize

// lost is where buffers are of which no byte can be written, and two of which none
// can be read.
var lost = []memory.GPA{
	windowAt + memorytest.Gone, windowAt + memorytest.Barred, windowAt + memorytest.Kept,
}

func windowed(t *testing.T) (*guest, *memorytest.Window, func() string, *Port) {
	g, log, channel := machine(t)
	w := memorytest.NewWindow(t, windowAt)
	g.boot(w.Region)
	return g, w, log.String, channel
}

// offer makes one buffer of 5 bytes available, at an address.
func (g *guest) offer(queue int, at memory.GPA, write bool) {
	g.t.Helper()
	if _, ok := g.rings[queue].Add(queuetest.Buffer{At: at, Len: 5, Write: write}); !ok {
		g.t.Fatal("ring full")
	}
}

// empty takes n buffers that come back with nothing in them.
func (g *guest) empty(queue, n int) {
	g.t.Helper()
	for range n {
		if _, written, ok := g.rings[queue].Used(); !ok || written != 0 {
			g.t.Errorf("queue %d: used %v with %d bytes", queue, ok, written)
		}
	}
}

func (g *guest) unbroken() {
	g.t.Helper()
	if len(g.broke) != 0 {
		g.t.Error(<-g.broke)
	}
}

func TestWindowSink(t *testing.T) {
	g, w, log, _ := windowed(t)
	w.Write(10, []byte("shown"))
	w.Write(memorytest.Kept+10, []byte(" kept"))
	for _, at := range []memory.GPA{lost[0], windowAt + 10, lost[1], windowAt + memorytest.Kept + 10, lost[0]} {
		g.offer(1, at, false)
	}
	g.send(1, " done")
	g.empty(1, 6)
	if log() != "shown kept done" {
		t.Errorf("sink got %q", log())
	}
	g.unbroken()
}

func TestWindowRead(t *testing.T) {
	g, w, _, channel := windowed(t)
	w.Write(10, []byte("shown"))
	g.offer(channelTx, lost[0], false)
	g.offer(channelTx, windowAt+10, false)
	for range 2 * ringSize {
		if g.rings[channelTx].Free() > 1 {
			g.offer(channelTx, lost[1], false)
		}
	}
	g.send(channelTx, " done")
	got := make([]byte, len("shown done"))
	if _, err := io.ReadFull(channel, got); err != nil || string(got) != "shown done" {
		t.Errorf("read %q, %v", got, err)
	}
	g.empty(channelTx, ringSize)
	g.unbroken()
}

// A buffer that was read up to a page that is gone is over.
func TestWindowReadPart(t *testing.T) {
	g, _, _, channel := windowed(t)
	r := g.rings[channelTx]
	r.Write(area(channelTx, 0), []byte("begin"))
	r.Add(queuetest.Buffer{At: area(channelTx, 0), Len: 5}, queuetest.Buffer{At: lost[0], Len: 5})
	g.send(channelTx, "next")
	got := make([]byte, 5)
	for _, want := range []string{"begin", "next"} {
		if n, err := channel.Read(got); err != nil || string(got[:n]) != want {
			t.Errorf("read %q, %v; want %q", got[:n], err, want)
		}
	}
	g.unbroken()
}

// What does not fit into a lost buffer goes into the next one.
func TestWindowWrite(t *testing.T) {
	g, w, _, channel := windowed(t)
	kept := w.Read(memorytest.Kept, 4096)
	for _, at := range lost {
		g.offer(channelRx, at, true)
	}
	g.offer(channelRx, windowAt+20, true)
	g.give(channelRx, 1, 16)
	if n, err := channel.Write([]byte("shown and done")); n != 14 || err != nil {
		t.Fatal(n, err)
	}
	g.empty(channelRx, len(lost))
	if _, n, ok := g.rings[channelRx].Used(); !ok || string(w.Read(20, int(n))) != "shown" {
		t.Errorf("used %v with %q", ok, w.Read(20, int(n)))
	}
	if text, ok := g.used(channelRx); !ok || text != " and done" {
		t.Errorf("%q, %v", text, ok)
	}
	if !slices.Equal(w.Read(memorytest.Kept, 4096), kept) {
		t.Error("what may not be written has changed")
	}
	g.unbroken()
}

// Control messages: one that cannot be read is ignored, one that cannot be written
// goes into the next buffer, whenever that comes.
func TestWindowControl(t *testing.T) {
	g, _, _, _ := windowed(t)
	g.offer(controlTx, lost[0], false)
	g.kick(controlTx)
	g.empty(controlTx, 1)
	for r := g.rings[controlRx]; r.Free() < ringSize; { // boot has left some with the device
		g.d.Resize(1, 1)
		g.messages()
	}
	for _, at := range lost {
		g.rings[controlRx].Add(queuetest.Buffer{At: at, Len: 100, Write: true})
	}
	g.kick(controlRx)
	g.d.Resize(80, 25)
	g.empty(controlRx, len(lost))
	if got := g.messages(); got != nil {
		t.Errorf("device said %q", got)
	}
	g.give(controlRx, 1, 100)
	if got := g.messages(); !slices.Equal(got, []string{"0 resize 80x25"}) {
		t.Errorf("device said %q", got)
	}
	g.unbroken()
}
