package ring

import (
	"errors"
	"fmt"
	"sync/atomic"

	"tenon/devices/virtio"
	"tenon/devices/virtio/fs"
	"tenon/devices/virtio/queue"
	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/passthrough"
)

// features are the rings' that Tenon's transports offer.
const features = queue.FeatureIndirect | queue.FeatureEventIdx

// daxMinSize is the default of dax-min-size.
const daxMinSize = 1 << 20

// LocalOptions choose what is not Tenon's default.
type LocalOptions struct {
	Service fs.Service
	Window  uint64 // bytes of the DAX window; 0: none
}

// Local serves a directory by Tenon's device in this process: what the thread that
// kicks is to a machine's vCPU, Kick is to its exit handler. The umask of the process
// has to be 0.
func Local(dir string, o LocalOptions) Start {
	return func(m *Memory, rings []queue.Layout) (Target, error) {
		l := &local{}
		if err := l.open(dir, o, m, rings); err != nil {
			return nil, errors.Join(err, l.Close())
		}
		return l, nil
	}
}

// local is Tenon's device, and its transport.
type local struct {
	server *virtiofs.Server
	device *fs.Device
	broken atomic.Pointer[error]
}

func (l *local) open(dir string, o LocalOptions, m *Memory, rings []queue.Layout) error {
	var share passthrough.Options
	var serving virtiofs.Options
	if o.Window != 0 {
		w, err := dax.New(o.Window)
		if err != nil {
			return err
		}
		share.Window, serving.DAX, serving.DAXMinSize = w, virtiofs.DAXInode, daxMinSize
	}
	shared, err := passthrough.New(dir, share)
	if err != nil {
		if share.Window != nil {
			err = errors.Join(err, share.Window.Close())
		}
		return err
	}
	l.server = virtiofs.NewServer(shared, serving)
	l.device, err = fs.New(fs.Options{
		Tag: "bench", Server: l.server, RequestQueues: len(rings) - 1,
		Service: o.Service, WindowSize: o.Window,
	})
	if err != nil {
		return err
	}
	env := virtio.Env{Mem: m.Map, Features: features, Irq: noInterrupts{}, Broken: l.fail}
	for i, layout := range rings {
		q, err := queue.New(m.Map, layout, features)
		if err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
		env.Queues = append(env.Queues, q)
	}
	return l.device.Activate(env)
}

// noInterrupts is for a driver that asks for none.
type noInterrupts struct{}

func (noInterrupts) Queue(int)      {}
func (noInterrupts) ConfigChanged() {}

func (l *local) fail(err error) {
	err = fmt.Errorf("the device asks for a reset: %w", err)
	l.broken.CompareAndSwap(nil, &err)
}

func (l *local) Features() uint64 { return features }

func (l *local) Kick(queue int) error {
	l.device.Notify(queue)
	return nil
}

func (l *local) Err() error {
	if err := l.broken.Load(); err != nil {
		return *err
	}
	return nil
}

func (l *local) Close() error {
	if l.device != nil {
		l.device.Reset()
	}
	if l.server == nil {
		return nil
	}
	return l.server.Close()
}
