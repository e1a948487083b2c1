// Package rng is the virtio entropy device (virtio 1.3 §5.4): one queue of
// writable buffers, filled from the host kernel's random number generator on
// the thread that notified.
package rng

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
)

const (
	queueSize = 64
	class     = 0x00ff00 // PCI: unclassified

	// maxFill bounds one request in bytes: the driver asks again for more.
	maxFill = 64 << 10
	// getrandom(2) is never interrupted and never short up to 256 bytes.
	getrandomMax = 256
	// batch is how many requests one notification is worth before a goroutine
	// takes over: filling all of a hostile ring would hold up the vCPU.
	batch = 4
)

// Device is the entropy device.
type Device struct {
	live atomic.Pointer[source]
}

// New returns the device.
func New() *Device { return &Device{} }

// Info says what the device is.
func (d *Device) Info() virtio.Info {
	return virtio.Info{ID: virtio.IDRNG, Class: class, QueueSizes: []uint16{queueSize}}
}

// Config reads zeros: the device has no configuration.
func (d *Device) Config(off uint32, p []byte) { clear(p) }

// Activate starts the device.
func (d *Device) Activate(env virtio.Env) error {
	if len(env.Queues) == 0 || env.Queues[0] == nil {
		return nil // nothing to do, and nothing will be notified
	}
	d.live.Store(&source{env: env, ring: env.Queues[0], chain: queue.NewChain(queueSize)})
	return nil
}

// Notify fills the buffers the driver made available.
func (d *Device) Notify(queue int) {
	if s := d.live.Load(); s != nil && queue == 0 {
		s.turn.Run(s, batch)
	}
}

// Reset stops the device.
func (d *Device) Reset() {
	if s := d.live.Swap(nil); s != nil {
		s.dead.Store(true)
		s.turn.Close()
	}
}

// source is the device between Activate and Reset.
type source struct {
	env   virtio.Env
	ring  *queue.Queue
	turn  queue.Turn
	dead  atomic.Bool // broken or reset
	chain *queue.Chain
	bytes [getrandomMax]byte
}

// Consume fills up to limit buffers.
func (s *source) Consume(limit int) (more bool) {
	s.ring.Quiet()
	for n := 0; n < limit; n++ {
		if s.dead.Load() {
			return false
		}
		ok, err := s.ring.Pop(s.chain)
		if err != nil {
			return s.fail(err)
		}
		if !ok {
			s.signal()
			if !s.ring.Listen() {
				return false
			}
			s.ring.Quiet()
			continue
		}
		written, err := s.fill(&s.chain.Out)
		if err != nil {
			return s.fail(err)
		}
		s.ring.Push(s.chain.Head, written)
	}
	s.signal()
	return true
}

// fill writes random bytes until the buffer or the bound is reached, or a page of a
// window that the host cannot provide: what is before it is a short answer.
func (s *source) fill(out *queue.Cursor) (written uint32, err error) {
	for want := min(out.Len(), maxFill); want > 0; {
		n, err := unix.Getrandom(s.bytes[:min(want, getrandomMax)], 0)
		if err != nil {
			return written, err
		}
		if out.Put(s.bytes[:n]) != nil {
			return written, nil
		}
		written += uint32(n)
		want -= n
	}
	return written, nil
}

func (s *source) signal() {
	if s.ring.MustSignal() {
		s.env.Irq.Queue(0)
	}
}

// fail stops the device until Reset; its result is Consume's.
func (s *source) fail(err error) (more bool) {
	if !s.dead.Swap(true) {
		s.env.Broken(err)
	}
	return false
}
