package fs

import (
	"strings"
	"testing"

	"tenon/devices/virtio/queue/queuetest"
)

// TestBatches: replies go to the driver in batches, but no more than signalEvery of
// them wait for the next, nor as many bytes as signalBytes.
func TestBatches(t *testing.T) {
	for _, c := range []struct {
		name    string
		text    string
		room    uint32
		visible int // replies that are seen while the next is served
	}{
		{"small", "quick", 100, signalEvery},
		{"large", "quick" + strings.Repeat("x", 2000), 4096, signalBytes/(2005+4096) + 1},
	} {
		f := newFake()
		g := newRig(t, f, ServiceAuto, 1)
		const n = ringSize - 1
		begun, seen := 0, 0
		collect := func() {
			for _, _, ok := g.rings[1].Used(); ok; _, _, ok = g.rings[1].Used() {
				seen++
			}
		}
		f.onServe = func() {
			collect()
			if want := begun / c.visible * c.visible; seen != want {
				t.Errorf("%s: %d of %d replies are there, want %d", c.name, seen, begun, want)
			}
			begun++
		}
		for range n {
			g.add(1, c.text, c.room)
		}
		g.kick(1)
		if collect(); seen != n {
			t.Errorf("%s: %d replies of %d", c.name, seen, n)
		}
	}
}

// TestServedBeforeFailure: what was served before the driver broke the queue has been
// returned when the device says so.
func TestServedBeforeFailure(t *testing.T) {
	g := newRig(t, newFake(), ServiceAuto, 1)
	for range 3 {
		g.add(1, "quick", 100)
	}
	g.rings[1].Add(queuetest.Buffer{At: 1 << 40, Len: 1})
	g.kick(1)
	if len(g.broke) != 1 {
		t.Fatal("the device goes on")
	}
	for i := range 3 {
		if _, _, ok := g.reply(1); !ok {
			t.Errorf("reply %d is not there", i)
		}
	}
}
