package ring

import (
	"tenon/devices/virtio/queue"
)

// Target is what serves the rings.
type Target interface {
	// Features are those of the rings that were negotiated: of queue.FeatureIndirect
	// and queue.FeatureEventIdx.
	Features() uint64
	// Kick says that chains were made available in a queue. The driver calls it only
	// when the device wants it.
	Kick(queue int) error
	// Err is why nothing more will be served, nil while all is well. It is asked often
	// while the driver waits, and must be cheap: no system call.
	Err() error
	// Close ends serving. The memory is not used any more when it returns.
	Close() error
}

// Start makes a target serve rings, one for each layout, the first being hiprio
// (virtio 1.3 §5.11.2). The rings' addresses are guest addresses in m; all of the
// memory is zero, and it is the caller's. It does not send INIT.
type Start func(m *Memory, rings []queue.Layout) (Target, error)
