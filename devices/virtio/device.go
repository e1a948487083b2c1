// Package virtio is the contract between a virtio device and its transport
// (virtio 1.3 §2): the device says what it is, the transport negotiates
// features, builds the queues and tells the device when the driver is ready.
package virtio

import (
	"tenon/devices/memory"
	"tenon/devices/virtio/queue"
)

// Device ids (virtio 1.3 §5).
const (
	IDConsole = 3
	IDRNG     = 4
	IDFS      = 26
)

// Info is what a device is, constant for its life.
type Info struct {
	ID         uint16   // virtio device id; the PCI device id is 0x1040 + ID
	Class      uint32   // PCI class code, 24 bits
	Features   uint64   // device-specific bits 0-23 and 50-63 only; ring and transport bits are the transport's
	QueueSizes []uint16 // largest ring of each queue, a power of two up to 1024; index = queue number
	ConfigLen  uint32   // bytes of device-specific configuration
	Shared     []SharedMemory
}

// SharedMemory is one shared memory region (virtio 1.3 §2.10), e.g. the DAX
// window of virtio-fs with id 0.
type SharedMemory struct {
	ID   uint8
	Size uint64
}

// Interrupter tells the driver about used buffers and configuration changes.
type Interrupter interface {
	Queue(i int)
	ConfigChanged()
}

// Env is what a device gets when the driver sets DRIVER_OK.
type Env struct {
	Mem      *memory.Map
	Queues   []*queue.Queue // index = queue number; nil where the driver did not enable it
	Features uint64         // what was negotiated, ring bits included
	Irq      Interrupter
	// Broken sets DEVICE_NEEDS_RESET and tells the driver (§2.1.2): the answer
	// to a ring or chain that breaks the specification. Callable from any
	// thread, any number of times.
	Broken func(error)
}

// Device is one virtio device behind a transport.
type Device interface {
	Info() Info
	// Config copies the configuration bytes at off into p; bytes past ConfigLen read as 0.
	Config(off uint32, p []byte)
	// Activate starts the device. An error makes the transport set DEVICE_NEEDS_RESET.
	Activate(Env) error
	// Notify says the driver made buffers available in a queue. It is called on
	// the thread of the vCPU that wrote the notification, several at a time.
	Notify(queue int)
	// Reset stops the device, waits for work in flight and drops all state;
	// Activate may follow. It is called on a vCPU thread or at the machine's end.
	Reset()
}

// ConfigWriter is implemented by devices whose configuration the driver writes.
type ConfigWriter interface {
	WriteConfig(off uint32, p []byte)
}
