package console

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"tenon/devices/memory"
	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
)

// Control events (§5.3.6.2).
const (
	eventDeviceReady = 0
	eventPortAdd     = 1
	eventPortReady   = 3
	eventConsolePort = 4
	eventResize      = 5
	eventPortOpen    = 6
	eventPortName    = 7
)

// controlHeader is le32 id, le16 event, le16 value.
const controlHeader = 8

// MaxName is the longest port name in bytes; what is longer is cut, so that the
// message fits any buffer a driver offers.
const MaxName = 64

var errControl = errors.New("virtio-console: control buffer too short")

// pending are the messages a port is due, one bit each, sent from the lowest.
// Bits instead of a list: the driver decides how many messages it provokes, and
// must not make us remember more than one of each kind.
type pending uint8

const (
	dueAdd pending = 1 << iota
	dueConsole
	dueName
	dueOpen
	dueResize
)

// events is the message of each bit of pending, in order.
var events = [...]uint16{eventPortAdd, eventConsolePort, eventPortName, eventPortOpen, eventResize}

// session is the device between Activate and Reset. due and ready are guarded
// by the device's mutex; in belongs to the turn's holder.
type session struct {
	d         *Device
	env       virtio.Env
	multiport bool
	dead      atomic.Bool // broken or reset

	rx, tx  *queue.Queue // control, as the driver sees them: it receives from rx
	turn    queue.Turn   // of tx
	in, out *queue.Chain
	due     []pending
	ready   []bool // the driver has set the port up
}

func newSession(d *Device, env virtio.Env) *session {
	s := &session{
		d: d, env: env, multiport: env.Features&FeatureMultiport != 0,
		in: queue.NewChain(controlSize), out: queue.NewChain(controlSize),
		due: make([]pending, len(d.ports)), ready: make([]bool, len(d.ports)),
	}
	if s.multiport {
		s.rx, s.tx = s.queue(controlRx), s.queue(controlTx)
	}
	return s
}

// queue returns a queue, nil where the driver did not enable it.
func (s *session) queue(i int) *queue.Queue {
	if i >= len(s.env.Queues) {
		return nil
	}
	return s.env.Queues[i]
}

// fail stops the device until Reset and says why, once.
func (s *session) fail(err error) {
	if !s.dead.Swap(true) {
		s.env.Broken(err)
	}
}

// Consume handles up to limit messages of the driver.
func (s *session) Consume(limit int) (more bool) {
	s.tx.Quiet()
	for n := 0; n < limit; n++ {
		if s.dead.Load() {
			return false
		}
		ok, err := s.tx.Pop(s.in)
		if err != nil {
			s.fail(err)
			return false
		}
		if ok {
			s.handle(&s.in.In)
			s.tx.Push(s.in.Head, 0)
			continue
		}
		s.flush()
		if !s.tx.Listen() {
			s.announce(s.tx, controlTx)
			return false
		}
		s.tx.Quiet()
	}
	s.announce(s.tx, controlTx)
	return true
}

func (s *session) announce(q *queue.Queue, index int) {
	if q.MustSignal() {
		s.env.Irq.Queue(index)
	}
}

// handle acts on one message. What is too short, or about a port there is not,
// is ignored.
func (s *session) handle(in *queue.Cursor) {
	var m [controlHeader]byte
	if in.Copy(m[:]) != nil {
		return
	}
	id, event := binary.LittleEndian.Uint32(m[0:]), binary.LittleEndian.Uint16(m[4:])
	value := binary.LittleEndian.Uint16(m[6:])
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	switch known := id < uint32(len(s.d.ports)); {
	case event == eventDeviceReady && value == 1: // 0: the driver failed
		for i := range s.due {
			s.due[i] |= dueAdd
		}
	case event == eventPortReady && value == 1 && known:
		s.ready[id] = true
		s.due[id] |= s.greeting(s.d.ports[id])
	case event == eventPortOpen && known:
		s.d.ports[id].setOpen(value != 0)
	}
}

// greeting is what a port that has just been set up is told. PORT_OPEN says
// that the host is connected: without it the guest's writes wait for ever.
func (s *session) greeting(p *Port) pending {
	g := dueOpen
	if p.Name != "" {
		g |= dueName
	}
	if p.Console {
		g |= dueConsole
		if s.d.cols != 0 {
			g |= dueResize
		}
	}
	return g
}

// resized makes the new size due; the device's mutex is held.
func (s *session) resized() {
	for i, p := range s.d.ports {
		if p.Console && s.ready[i] {
			s.due[i] |= dueResize
		}
	}
}

// flush sends what is due, as far as the driver has given buffers. The rest
// goes when it notifies the control receive queue.
func (s *session) flush() {
	if s.rx == nil {
		return
	}
	s.d.mu.Lock()
	err := s.send()
	signal := s.rx.MustSignal()
	s.d.mu.Unlock()
	if err != nil {
		s.fail(err)
	}
	if signal {
		s.env.Irq.Queue(controlRx)
	}
}

// send is flush under the device's mutex.
func (s *session) send() error {
	for port := range s.due {
		for bit := range events {
			if s.due[port]&(1<<bit) == 0 {
				continue
			}
			if s.dead.Load() {
				return nil
			}
			if ok, err := s.deliver(uint32(port), events[bit]); !ok {
				return err
			}
			s.due[port] &^= 1 << bit
		}
	}
	return nil
}

// deliver puts one message into the first buffer that takes it; ok is false when
// there is none.
func (s *session) deliver(port uint32, event uint16) (ok bool, err error) {
	for range controlSize { // not for as long as a driver gives buffers that are lost
		if ok, err := s.pop(); !ok {
			return false, err
		}
		if err := s.put(port, event); err != errLost {
			return err == nil, err
		}
	}
	return false, nil
}

// pop takes a buffer for a message.
func (s *session) pop() (ok bool, err error) {
	for {
		ok, err := s.rx.Pop(s.out)
		if ok || err != nil || !s.rx.Listen() {
			return ok, err
		}
	}
}

// put writes one message into the buffer of pop and returns it, with errLost empty.
func (s *session) put(port uint32, event uint16) error {
	var m [controlHeader + MaxName]byte
	binary.LittleEndian.PutUint32(m[0:], port)
	binary.LittleEndian.PutUint16(m[4:], event)
	binary.LittleEndian.PutUint16(m[6:], 1)
	n := controlHeader
	switch event {
	case eventPortName:
		n += copy(m[n:], s.d.ports[port].Name)
	case eventResize: // virtio_console_resize; older Linux swaps the two
		binary.LittleEndian.PutUint16(m[n:], s.d.cols)
		binary.LittleEndian.PutUint16(m[n+2:], s.d.rows)
		n += 4
	}
	switch s.out.Out.Put(m[:n]) {
	case nil:
		s.rx.Push(s.out.Head, uint32(n))
		return nil
	case memory.ErrFault:
		s.rx.Push(s.out.Head, 0)
		return errLost
	}
	return errControl
}
