package pci

import (
	"sync"
	"sync/atomic"

	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
)

// session is the time from DRIVER_OK to the next reset: what the device may
// use of the transport, and what the guest's notifications pass.
type session struct {
	t     *Transport
	gates []gate // index = queue number

	mu    sync.Mutex
	phase phase
	err   error // why the device broke
}

type phase int

const (
	starting phase = iota
	running
	broken
	ended
)

func newSession(t *Transport) *session {
	s := &session{t: t, gates: make([]gate, len(t.rings))}
	for i := range s.gates {
		s.gates[i].idle = make(chan struct{}, 1)
		s.gates[i].shut()
	}
	return s
}

// run lets notifications of the enabled queues in, unless the device broke
// while it started.
func (s *session) run(queues []*queue.Queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != starting {
		return
	}
	s.phase = running
	for i, q := range queues {
		if q != nil {
			s.gates[i].open()
		}
	}
}

// fail sets DEVICE_NEEDS_RESET and tells the driver, once; later notifications
// are dropped (§2.1.2). It waits for nothing: a notification may be its caller.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase >= broken {
		return
	}
	s.phase, s.err = broken, err
	s.shut()
	s.t.status.Or(uint32(virtio.StatusNeedsReset))
	s.t.interruptConfig()
}

func (s *session) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// end shuts notifications out and waits for those in flight.
func (s *session) end() {
	s.mu.Lock()
	s.phase = ended
	s.shut()
	s.mu.Unlock()
	for i := range s.gates {
		s.gates[i].wait()
	}
}

func (s *session) shut() {
	for i := range s.gates {
		s.gates[i].shut()
	}
}

// notify hands a write in the notification section to the device. The address
// says which queue (§4.1.4.4); the value repeats it.
func (t *Transport) notify(off uint64) {
	s := t.session.Load()
	i := off / notifyMultiplier
	if s == nil || i >= uint64(len(s.gates)) {
		return
	}
	if g := &s.gates[i]; g.enter() {
		t.dev.Notify(int(i))
		g.leave()
	}
}

// Queue implements virtio.Interrupter. While MSI-X is off, a driver can only
// poll, by the ISR status (§4.1.4.5.1).
func (s *session) Queue(i int) {
	t := s.t
	if !t.msix.Enabled() {
		t.isr.Or(isrQueue)
	}
	t.signal(&t.rings[i].vector)
}

// ConfigChanged implements virtio.Interrupter.
func (s *session) ConfigChanged() {
	s.t.generation.Add(1)
	s.t.interruptConfig()
}

func (t *Transport) interruptConfig() {
	t.isr.Or(isrConfig)
	t.signal(&t.configVector)
}

func (t *Transport) signal(vector *atomic.Uint32) {
	if v := vector.Load(); v != noVector {
		t.msix.Vector(int(v)).Signal()
	}
}

// gate counts the notifications of one queue that are inside the device, so
// that a reset can wait for them although they take no lock. Each has a cache
// line of its own: vCPUs notify different queues at the same time.
type gate struct {
	state atomic.Int64  // gateShut and the number of callers inside
	idle  chan struct{} // holds a token when the last caller left a shut gate
	_     [48]byte
}

const gateShut = 1 << 62

// enter returns whether the gate is open; then leave must follow.
func (g *gate) enter() bool {
	if g.state.Add(1)&gateShut == 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.state.Add(-1) != gateShut {
		return
	}
	select {
	case g.idle <- struct{}{}:
	default: // a token is already there
	}
}

func (g *gate) open() { g.state.And(^gateShut) }
func (g *gate) shut() { g.state.Or(gateShut) }

// wait blocks until nobody is inside a shut gate.
func (g *gate) wait() {
	for g.state.Load() != gateShut {
		<-g.idle
	}
}
