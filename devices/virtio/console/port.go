package console

import (
	"errors"
	"io"
	"sync"

	"tenon/devices/virtio/queue"
)

const (
	// maxChain is how many descriptors one buffer of a port may have: Linux
	// uses one, or one a page when a pipe is spliced into the port.
	maxChain = 256
	// sinkChunk is how many bytes a sink gets at once.
	sinkChunk = 4 << 10
)

// An empty buffer moves nothing, so a driver that offers them without end would
// keep the host busy without end.
var errEmpty = errors.New("virtio-console: empty data buffer")

// errLost says that a buffer was used without its bytes, because it lies in a page
// of a window that the host cannot provide. That is not the driver's fault, and the
// port goes on. It ends a receive or send, whose lock would else be held for as long
// as there are such buffers.
var errLost = errors.New("virtio-console: data buffer in a page that is gone")

// Port is one port of the device. Set the exported fields before New.
//
// Without a Sink it is an io.ReadWriter: Read waits until the guest has
// written, and the guest is held back by its buffers not being used; Write
// waits until the guest has the port open and has given buffers. One reader and
// one writer at a time.
type Port struct {
	Name    string // the guest finds the port by it; at most MaxName bytes
	Console bool   // the guest uses it as a console: hvc0 and on

	// Sink takes the guest's bytes on the thread of the vCPU that wrote them.
	// It must not block, nor keep p. Without it Read returns them.
	Sink func(p []byte)

	mu      sync.Mutex // after the device's
	changed sync.Cond  // anything below, or the rings
	closed  bool
	open    bool // the guest has opened the port
	wire    *wire
}

// wire is a port's rings while the device is active.
type wire struct {
	s        *session
	rx, tx   *queue.Queue // as the driver sees them: it receives from rx
	rxIndex  int          // tx is the next
	in, out  *queue.Chain // a buffer of tx, of rx
	reading  bool         // in is partly read
	sinkTurn queue.Turn
	chunk    []byte // for the sink
}

// news is what the rest of the world must be told after a port's lock is
// released.
type news struct {
	w     *wire
	index int   // of the queue to signal
	due   bool  // its driver wants a signal
	err   error // the guest broke the ring
}

func (n news) tell() {
	if n.err != nil {
		n.w.s.fail(n.err)
	}
	if n.due {
		n.w.s.env.Irq.Queue(n.index)
	}
}

// news is about the queue with the index, whose buffers were used until err.
func (w *wire) news(q *queue.Queue, index int, err error) news {
	if err == errLost {
		err = nil
	}
	return news{w, index, q.MustSignal(), err}
}

func (p *Port) init() { p.changed.L = &p.mu }

// connect gives the port its rings.
func (p *Port) connect(s *session, rxIndex int) {
	w := &wire{
		s: s, rx: s.queue(rxIndex), tx: s.queue(rxIndex + 1), rxIndex: rxIndex,
		in: queue.NewChain(maxChain), out: queue.NewChain(maxChain),
	}
	if p.Sink != nil {
		w.chunk = make([]byte, sinkChunk)
	}
	p.mu.Lock()
	p.wire = w
	p.mu.Unlock()
}

// disconnect takes the rings away and waits until nobody uses them.
func (p *Port) disconnect() {
	p.mu.Lock()
	w := p.wire
	p.wire, p.open = nil, false
	p.mu.Unlock()
	if w != nil {
		w.sinkTurn.Close()
	}
}

// setOpen says whether the guest has the port open.
func (p *Port) setOpen(open bool) {
	p.mu.Lock()
	p.open = open
	p.mu.Unlock()
	p.changed.Broadcast()
}

func (p *Port) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.changed.Broadcast()
}

// notify says that the driver made buffers available.
func (p *Port) notify(transmit bool) {
	p.mu.Lock()
	w := p.wire
	p.mu.Unlock()
	if transmit && p.Sink != nil && w != nil {
		w.sinkTurn.Run(&sink{p, w}, dataSize)
		return
	}
	p.changed.Broadcast()
}

// Read returns what the guest has written, at least one byte; io.EOF after
// Close. A port with a Sink has nothing to read.
func (p *Port) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, told, err := p.read(b)
		told.tell()
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// read waits for bytes; n == 0 without an error means: tell the news, try again.
func (p *Port) read(b []byte) (n int, told news, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if w := p.wire; w != nil && w.tx != nil && p.Sink == nil && !w.s.dead.Load() {
			n, err := w.receive(b)
			if n > 0 || err != nil {
				return n, w.news(w.tx, w.rxIndex+1, err), nil
			}
		}
		if p.closed {
			return 0, news{}, io.EOF
		}
		p.changed.Wait()
	}
}

// receive copies bytes the guest has written, from one or more of its buffers.
func (w *wire) receive(b []byte) (n int, err error) {
	w.tx.Quiet()
	for n < len(b) {
		if !w.reading {
			ok, err := w.tx.Pop(w.in)
			if err != nil {
				return n, err
			}
			if !ok {
				if w.tx.Listen() {
					continue
				}
				return n, nil
			}
			w.reading = true
		}
		step := min(len(b)-n, w.in.In.Len())
		if step == 0 {
			return n, errEmpty
		}
		lost := w.in.In.Copy(b[n:n+step]) != nil
		if lost || w.in.In.Len() == 0 {
			w.tx.Push(w.in.Head, 0)
			w.reading = false
		}
		if lost {
			return n, errLost
		}
		n += step
	}
	return n, nil
}

// Write sends b to the guest and returns when all of it is in the guest's
// buffers; io.ErrClosedPipe after Close.
func (p *Port) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		n, told, err := p.write(b[sent:])
		told.tell()
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// write waits for buffers and fills what there are.
func (p *Port) write(b []byte) (n int, told news, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed {
		if w := p.wire; w != nil && w.rx != nil && p.open && !w.s.dead.Load() {
			n, err := w.send(b)
			if n > 0 || err != nil {
				return n, w.news(w.rx, w.rxIndex, err), nil
			}
		}
		p.changed.Wait()
	}
	return 0, news{}, io.ErrClosedPipe
}

// send copies bytes into the buffers the guest has given.
func (w *wire) send(b []byte) (n int, err error) {
	w.rx.Quiet()
	for n < len(b) {
		ok, err := w.rx.Pop(w.out)
		if err != nil {
			return n, err
		}
		if !ok {
			if w.rx.Listen() {
				continue
			}
			return n, nil
		}
		step := min(len(b)-n, w.out.Out.Len())
		if step == 0 {
			return n, errEmpty
		}
		if w.out.Out.Put(b[n:n+step]) != nil {
			w.rx.Push(w.out.Head, 0) // the bytes go to the next one
			return n, errLost
		}
		w.rx.Push(w.out.Head, uint32(step))
		n += step
	}
	return n, nil
}

// sink feeds a port's Sink from its transmit ring.
type sink struct {
	p *Port
	w *wire
}

// Consume gives up to limit buffers of the guest to the sink.
func (k *sink) Consume(limit int) (more bool) {
	w := k.w
	w.tx.Quiet()
	defer func() { news{w, w.rxIndex + 1, w.tx.MustSignal(), nil}.tell() }()
	for n := 0; n < limit; n++ {
		if w.s.dead.Load() {
			return false
		}
		ok, err := w.tx.Pop(w.in)
		if err != nil {
			w.s.fail(err)
			return false
		}
		if ok {
			k.drink()
			continue
		}
		if !w.tx.Listen() {
			return false
		}
		w.tx.Quiet()
	}
	return true
}

// drink gives one buffer to the sink, up to a page of a window that is gone, and
// returns it to the guest.
func (k *sink) drink() {
	in := &k.w.in.In
	for in.Len() > 0 {
		chunk := k.w.chunk[:min(in.Len(), sinkChunk)]
		if in.Copy(chunk) != nil {
			break
		}
		k.p.Sink(chunk)
	}
	k.w.tx.Push(k.w.in.Head, 0)
}
