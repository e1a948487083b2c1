// Package fs is the virtio-fs device (virtio 1.3 §5.11): it carries FUSE
// requests from the rings to a virtiofs.Server and the replies back. As a rule
// short requests are served on the thread of the vCPU that notified, before it runs
// again, and those that may block go to a bounded pool; a Service says otherwise. It
// knows no opcode.
package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
	"tenon/virtiofs"
)

// Service chooses where requests are served.
type Service uint8

const (
	// ServiceAuto serves on the vCPU's exit what is short and in the pool what
	// may block.
	ServiceAuto Service = iota
	// ServiceExit serves everything on the vCPU's exit.
	ServiceExit
	// ServiceWorker serves everything in the pool.
	ServiceWorker
	// ServicePoll serves what is short in a goroutine of the queue, which a
	// notification wakes and which looks for more for a while before it asks for
	// the next, and in the pool what may block. It spends CPU time of the host to
	// save the guest its exits.
	ServicePoll
)

const (
	// TagSize is the longest tag in bytes.
	TagSize = 36
	// MaxRequestQueues is the most request queues of one device.
	MaxRequestQueues = 8
	// MinWindow is the smallest DAX window in bytes: Linux refuses the device when
	// one does not begin and end at multiples of it (check_pfn_span).
	MinWindow = 2 << 20

	class      = 0x018000    // PCI: mass storage controller, other
	configSize = TagSize + 4 // tag[36], le32 num_request_queues
	hiprio     = 0           // the queue for FORGET; requests from 1 without the notification feature
	hiprioSize = 128
	windowID   = 0 // of the window among the shared memory regions
)

// Options describe one device.
type Options struct {
	Tag           string           // 1 to TagSize bytes of UTF-8, no NUL, no newline
	Server        *virtiofs.Server // belongs to this device; outlives it
	RequestQueues int              // 1 to MaxRequestQueues, best one per vCPU
	Service       Service          //
	QueueSize     uint16           // largest request ring, a power of two up to queue.MaxSize; 0 is that
	// WindowSize is the length in bytes of the DAX window, which is shared memory
	// region 0 (§5.11.6.4): a power of two of at least MinWindow; 0 is none.
	WindowSize uint64
}

// server is what the device needs of a virtiofs.Server.
type server interface {
	Serve(r *virtiofs.Request, in, out virtiofs.Cursor) (written uint32, again bool)
	Unlocked() uint64
	Reset()
}

// Device is one virtio-fs device.
type Device struct {
	server server
	config [configSize]byte
	sizes  []uint16
	shared []virtio.SharedMemory
	policy Service
	live   atomic.Pointer[session]
}

// New returns a device for the share; errors name the option.
func New(o Options) (*Device, error) {
	if o.Server == nil {
		return nil, errors.New("virtio-fs: no server")
	}
	return newDevice(o, o.Server)
}

func newDevice(o Options, s server) (*Device, error) {
	if o.QueueSize == 0 {
		o.QueueSize = queue.MaxSize
	}
	switch {
	case o.Tag == "" || len(o.Tag) > TagSize:
		return nil, fmt.Errorf("virtio-fs: tag %q has %d bytes: give 1 to %d", o.Tag, len(o.Tag), TagSize)
	case !utf8.ValidString(o.Tag) || strings.ContainsAny(o.Tag, "\x00\n"):
		return nil, fmt.Errorf("virtio-fs: tag %q: give UTF-8 without NUL and newline", o.Tag)
	case o.RequestQueues < 1 || o.RequestQueues > MaxRequestQueues:
		return nil, fmt.Errorf("virtio-fs: %d request queues: give 1 to %d", o.RequestQueues, MaxRequestQueues)
	case o.QueueSize > queue.MaxSize || o.QueueSize&(o.QueueSize-1) != 0:
		return nil, fmt.Errorf("virtio-fs: queue size %d: give a power of two up to %d", o.QueueSize, queue.MaxSize)
	case o.Service > ServicePoll:
		return nil, fmt.Errorf("virtio-fs: unknown service policy %d", o.Service)
	case o.WindowSize != 0 && (o.WindowSize < MinWindow || bits.OnesCount64(o.WindowSize) != 1):
		return nil, fmt.Errorf("virtio-fs: DAX window of %d bytes: give a power of two of at least %d, or 0", o.WindowSize, MinWindow)
	}
	d := &Device{server: s, policy: o.Service, sizes: []uint16{hiprioSize}}
	copy(d.config[:], o.Tag)
	binary.LittleEndian.PutUint32(d.config[TagSize:], uint32(o.RequestQueues))
	for range o.RequestQueues {
		d.sizes = append(d.sizes, o.QueueSize)
	}
	if o.WindowSize != 0 {
		d.shared = []virtio.SharedMemory{{ID: windowID, Size: o.WindowSize}}
	}
	return d, nil
}

// Info says what the device is.
func (d *Device) Info() virtio.Info {
	return virtio.Info{ID: virtio.IDFS, Class: class, QueueSizes: d.sizes, ConfigLen: configSize, Shared: d.shared}
}

// Config reads the tag and the number of request queues (§5.11.4).
func (d *Device) Config(off uint32, p []byte) {
	n := 0
	if off < configSize {
		n = copy(p, d.config[off:])
	}
	clear(p[n:])
}

// Activate starts serving.
func (d *Device) Activate(env virtio.Env) error {
	d.live.Store(newSession(d.server, d.policy, env))
	return nil
}

// Notify serves what the driver made available in a queue.
func (d *Device) Notify(queue int) {
	s := d.live.Load()
	if s == nil || queue < 0 || queue >= len(s.queues) || s.queues[queue] == nil {
		return
	}
	q := s.queues[queue]
	if q.poller != nil {
		q.poller.notify()
		return
	}
	q.turn.Run(q, int(q.ring.Size()))
}

// Reset stops serving, waits for requests in flight, drops those that have not
// begun, and ends the FUSE session: its inodes and handles are gone.
func (d *Device) Reset() {
	if s := d.live.Swap(nil); s != nil {
		s.close()
	}
	d.server.Reset()
}
