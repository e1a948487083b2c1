package fs

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tenon/devices/memory"
	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
	"tenon/virtiofs"
)

const (
	ramBase  = memory.GPA(0x100000)
	ramSize  = 8 << 20
	ringSize = 64
	features = queue.FeatureIndirect | queue.FeatureEventIdx
	windowAt = ramBase + ramSize // so that a range may cross from one into the other
	patience = 20 * time.Second  // for what must happen; its length decides nothing else
)

// rig is a device with its driver in fake memory.
type rig struct {
	t     testing.TB
	d     *Device
	mem   *memory.Map
	rings []*queuetest.Ring
	env   virtio.Env
	bells []chan struct{} // one a queue: an interrupt came

	windows []memory.Region
	broke   chan error // why the device asked for a reset
}

// Queue and ConfigChanged make the rig the device's interrupter.
func (g *rig) Queue(i int) {
	select {
	case g.bells[i] <- struct{}{}:
	default:
	}
}

func (g *rig) ConfigChanged() { g.t.Error("configuration change") }

func (g *rig) fail(err error) { g.broke <- err }

// newRig returns an active device that serves with srv, for a guest with windows in
// its memory.
func newRig(t testing.TB, srv server, policy Service, requestQueues int, windows ...memory.Region) *rig {
	t.Helper()
	d, err := newDevice(Options{Tag: "test", RequestQueues: requestQueues, Service: policy, QueueSize: ringSize}, srv)
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{t: t, d: d, windows: windows, broke: make(chan error, 10)}
	for range d.Info().QueueSizes {
		g.bells = append(g.bells, make(chan struct{}, 1))
	}
	g.activate()
	t.Cleanup(d.Reset)
	return g
}

// activate makes new rings in new memory, as a driver does after a reset.
func (g *rig) activate() {
	g.mem = queuetest.Memory(g.t, ramBase, ramSize)
	for _, w := range g.windows {
		if err := g.mem.AddWindow(w); err != nil {
			g.t.Fatal(err)
		}
	}
	g.rings = nil
	g.env = virtio.Env{Mem: g.mem, Features: features, Irq: g, Broken: g.fail}
	at := ramBase
	for range g.d.Info().QueueSizes {
		l, end := queuetest.Place(at, ringSize)
		r := queuetest.New(g.t, g.mem, l, features)
		g.rings = append(g.rings, r)
		g.env.Queues = append(g.env.Queues, r.Device(features))
		at = end
	}
	if err := g.d.Activate(g.env); err != nil {
		g.t.Fatal(err)
	}
}

// area is memory for the chain that will begin at a head: 8 KiB.
func area(queue int, head uint16) memory.GPA {
	return ramBase + 0x100000 + memory.GPA(queue)*ringSize*0x2000 + memory.GPA(head)*0x2000
}

// add makes a request available: its bytes, and room for a reply.
func (g *rig) add(queue int, request string, room uint32) (head uint16) {
	g.t.Helper()
	r := g.rings[queue]
	at := area(queue, r.NextHead())
	r.Write(at, []byte(request))
	b := []queuetest.Buffer{{At: at, Len: uint32(len(request))}}
	if room > 0 {
		b = append(b, queuetest.Buffer{At: at + 0x1000, Len: room, Write: true})
	}
	head, ok := r.AddIndirect(at+0x800, b...)
	if !ok {
		g.t.Fatal("ring full")
	}
	return head
}

// kick notifies the device if it wants that.
func (g *rig) kick(queue int) {
	if g.rings[queue].Kick() {
		g.d.Notify(queue)
	}
}

// reply takes the next used chain, if there is one.
func (g *rig) reply(queue int) (head uint16, text string, ok bool) {
	head, n, ok := g.rings[queue].Used()
	if !ok {
		return 0, "", false
	}
	return head, string(g.rings[queue].Read(area(queue, head)+0x1000, n)), true
}

// wait takes the next used chain, waiting for interrupts.
func (g *rig) wait(queue int) (head uint16, text string) {
	g.t.Helper()
	for {
		if head, text, ok := g.reply(queue); ok {
			return head, text
		}
		if g.rings[queue].Listen() {
			continue
		}
		select {
		case <-g.bells[queue]:
		case <-time.After(patience):
			g.t.Fatalf("queue %d: no reply", queue)
		}
	}
}

// fake is a server for requests of one line: "quick..." is answered at once,
// "slow..." may block and waits for the gate, "wait..." waits for ever.
type fake struct {
	gate     chan struct{} // closed or sent to: one slow request goes on
	unlocked atomic.Uint64

	mu      sync.Mutex
	log     []string // what was served, with MayBlock as "+"
	inside  int      // slow requests being served
	most    int
	resets  int
	onServe func() // called without the lock
}

func newFake() *fake { return &fake{gate: make(chan struct{})} }

func (f *fake) Serve(r *virtiofs.Request, in, out virtiofs.Cursor) (written uint32, again bool) {
	text := make([]byte, in.Len())
	if in.Copy(text) != nil {
		return 0, false
	}
	slow := len(text) > 0 && text[0] == 's'
	if slow && !r.MayBlock {
		return 0, true
	}
	f.enter(string(text), slow, r.MayBlock)
	if len(text) > 0 && text[0] == 'w' {
		return 0, true
	}
	if slow {
		<-f.gate
		f.leave()
	}
	if out.Put(text) != nil {
		return 0, false
	}
	return uint32(len(text)), false
}

func (f *fake) enter(text string, slow, mayBlock bool) {
	if f.onServe != nil {
		f.onServe()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if mayBlock {
		text += "+"
	}
	f.log = append(f.log, text)
	if slow {
		f.inside++
		f.most = max(f.most, f.inside)
	}
}

func (f *fake) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inside--
}

func (f *fake) Unlocked() uint64 { return f.unlocked.Load() }

func (f *fake) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resets++
	if f.inside != 0 {
		f.log = append(f.log, "reset with requests inside")
	}
}

func (f *fake) served() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.log...)
}
