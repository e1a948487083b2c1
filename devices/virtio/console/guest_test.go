package console

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"tenon/devices/memory"
	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

const (
	ramBase  = memory.GPA(0x100000)
	ramSize  = 4 << 20
	bufSize  = 0x1000
	ringSize = 16
	ringBits = queue.FeatureIndirect | queue.FeatureEventIdx
	patience = 20 * time.Second // for what must happen; its length decides nothing else
)

// guest is the driver's side of the whole device, on one goroutine.
type guest struct {
	t       testing.TB
	d       *Device
	rings   []*queuetest.Ring
	bells   []chan struct{}
	changes chan struct{} // configuration changes
	broke   chan error
}

// Queue and ConfigChanged make the guest the device's interrupter.
func (g *guest) Queue(i int) { g.bell(g.bells[i]) }

func (g *guest) ConfigChanged() { g.bell(g.changes) }

func (g *guest) bell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func newGuest(t testing.TB, ports ...*Port) *guest {
	g := &guest{t: t, d: New(ports...), changes: make(chan struct{}, 1), broke: make(chan error, 100)}
	for range g.d.Info().QueueSizes {
		g.bells = append(g.bells, make(chan struct{}, 1))
	}
	t.Cleanup(g.d.Reset)
	return g
}

// activate binds a driver with the features, in new memory.
func (g *guest) activate(features uint64, windows ...memory.Region) {
	g.t.Helper()
	m := queuetest.Memory(g.t, ramBase, ramSize)
	for _, w := range windows {
		if err := m.AddWindow(w); err != nil {
			g.t.Fatal(err)
		}
	}
	env := virtio.Env{Mem: m, Features: features | ringBits, Irq: g, Broken: func(err error) { g.broke <- err }}
	g.rings = nil
	at := ramBase
	for range g.bells {
		l, end := queuetest.Place(at, ringSize)
		r := queuetest.New(g.t, m, l, ringBits)
		g.rings = append(g.rings, r)
		env.Queues = append(env.Queues, r.Device(ringBits))
		at = end
	}
	if err := g.d.Activate(env); err != nil {
		g.t.Fatal(err)
	}
}

func area(queue int, head uint16) memory.GPA {
	return ramBase + 0x100000 + memory.GPA(queue)*ringSize*bufSize + memory.GPA(head)*bufSize
}

func (g *guest) kick(queue int) {
	if g.rings[queue].Kick() {
		g.d.Notify(queue)
	}
}

// give offers n empty buffers of a length to the device.
func (g *guest) give(queue, n int, length uint32) {
	g.t.Helper()
	r := g.rings[queue]
	for range n {
		if _, ok := r.Add(queuetest.Buffer{At: area(queue, r.NextHead()), Len: length, Write: true}); !ok {
			g.t.Fatal("ring full")
		}
	}
	g.kick(queue)
}

// send offers one buffer with bytes to the device.
func (g *guest) send(queue int, text string) {
	g.t.Helper()
	r := g.rings[queue]
	at := area(queue, r.NextHead())
	r.Write(at, []byte(text))
	if _, ok := r.Add(queuetest.Buffer{At: at, Len: uint32(len(text))}); !ok {
		g.t.Fatal("ring full")
	}
	g.kick(queue)
}

// used takes the bytes of the next used buffer, if there is one.
func (g *guest) used(queue int) (text string, ok bool) {
	head, n, ok := g.rings[queue].Used()
	if !ok {
		return "", false
	}
	return string(g.rings[queue].Read(area(queue, head), n)), true
}

// wait takes the bytes of the next used buffer, waiting for interrupts.
func (g *guest) wait(queue int) string {
	g.t.Helper()
	for {
		if text, ok := g.used(queue); ok {
			return text
		}
		if g.rings[queue].Listen() {
			continue
		}
		select {
		case <-g.bells[queue]:
		case <-time.After(patience):
			g.t.Fatalf("queue %d: nothing used", queue)
		}
	}
}

// control sends a control message.
func (g *guest) control(id uint32, event, value uint16) {
	g.t.Helper()
	m := binary.LittleEndian.AppendUint32(nil, id)
	m = binary.LittleEndian.AppendUint16(m, event)
	m = binary.LittleEndian.AppendUint16(m, value)
	g.send(controlTx, string(m))
	if _, ok := g.used(controlTx); !ok { // Linux spins until it is
		g.t.Fatal("control message not used when Notify returned")
	}
}

var eventNames = map[uint16]string{
	eventPortAdd: "add", eventConsolePort: "console", eventPortName: "name", eventPortOpen: "open", eventResize: "resize",
}

// messages takes the control messages of the device so far: "PORT EVENT[ DATA]".
func (g *guest) messages() (out []string) {
	g.t.Helper()
	for {
		text, ok := g.used(controlRx)
		if !ok {
			return out
		}
		if len(text) < 8 || text[6:8] != "\x01\x00" {
			g.t.Fatalf("control message %q", text)
		}
		id, event := binary.LittleEndian.Uint32([]byte(text)), binary.LittleEndian.Uint16([]byte(text[4:]))
		m := fmt.Sprintf("%d %s", id, eventNames[event])
		if data := text[8:]; event == eventResize {
			m += fmt.Sprintf(" %dx%d", binary.LittleEndian.Uint16([]byte(data)), binary.LittleEndian.Uint16([]byte(data[2:])))
		} else if data != "" {
			m += " " + data
		}
		out = append(out, m)
	}
}

// boot is a multiport driver up to the point where all ports are open.
func (g *guest) boot(windows ...memory.Region) {
	g.t.Helper()
	g.activate(FeatureMultiport|FeatureSize, windows...)
	g.give(controlRx, ringSize, 128)
	g.control(^uint32(0), eventDeviceReady, 1)
	for i := range g.d.ports {
		g.control(uint32(i), eventPortReady, 1)
		g.control(uint32(i), eventPortOpen, 1)
	}
	g.messages()
}
