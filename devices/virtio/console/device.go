// Package console is the virtio console device (virtio 1.3 §5.3) with several
// ports. A port is an io.ReadWriter for the host or feeds a sink; bytes move
// between the caller's buffer and the guest's without being stored in between.
package console

import (
	"encoding/binary"
	"sync"

	"tenon/devices/virtio"
)

// Device features (§5.3.3).
const (
	FeatureSize      = 1 << 0 // VIRTIO_CONSOLE_F_SIZE
	FeatureMultiport = 1 << 1 // VIRTIO_CONSOLE_F_MULTIPORT
)

const (
	class      = 0x078000 // PCI: simple communication controller, other
	configSize = 12       // le16 cols, le16 rows, le32 max_nr_ports, le32 emerg_wr

	dataSize      = 64 // entries of a port's rings: Linux gives one page for each it receives into
	controlSize   = 32
	controlRx     = 2 // device to driver
	controlTx     = 3
	controlQueues = 2
)

// Device is one console device with its ports.
type Device struct {
	ports []*Port

	// mu guards the rest. It is taken before a port's lock and held for short:
	// never while the guest or another goroutine must do something.
	mu         sync.Mutex
	cols, rows uint16
	live       *session
}

// New returns a device with the ports, at least one, numbered in order. Port 0
// is the only one that a driver without MULTIPORT sees. A Port belongs to one
// device.
func New(ports ...*Port) *Device {
	for _, p := range ports {
		p.init()
	}
	return &Device{ports: ports}
}

// queueOf returns the number of a port's receive queue; its transmit queue
// follows. The control queues come after those of port 0 (§5.3.2).
func queueOf(port int) int {
	if port == 0 {
		return 0
	}
	return 2*port + controlQueues
}

// portOf returns the port of a data queue.
func portOf(queue int) int {
	if queue < controlRx {
		return 0
	}
	return (queue - controlQueues) / 2
}

// Info says what the device is.
func (d *Device) Info() virtio.Info {
	sizes := make([]uint16, 2*len(d.ports)+controlQueues)
	for i := range sizes {
		sizes[i] = dataSize
	}
	sizes[controlRx], sizes[controlTx] = controlSize, controlSize
	return virtio.Info{
		ID: virtio.IDConsole, Class: class, ConfigLen: configSize,
		Features:   FeatureSize | FeatureMultiport,
		QueueSizes: sizes,
	}
}

// Config reads the console's size and the number of ports (§5.3.4).
func (d *Device) Config(off uint32, p []byte) {
	var config [configSize]byte
	d.mu.Lock()
	binary.LittleEndian.PutUint16(config[0:], d.cols)
	binary.LittleEndian.PutUint16(config[2:], d.rows)
	d.mu.Unlock()
	binary.LittleEndian.PutUint32(config[4:], uint32(len(d.ports)))
	n := 0
	if off < configSize {
		n = copy(p, config[off:])
	}
	clear(p[n:])
}

// Activate starts the device. With MULTIPORT nothing moves until the driver has
// opened a port; without it port 0 is open at once.
func (d *Device) Activate(env virtio.Env) error {
	s := newSession(d, env)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live = s
	for i, p := range d.ports {
		if i == 0 || s.multiport {
			p.connect(s, queueOf(i))
		}
	}
	if !s.multiport {
		d.ports[0].setOpen(true)
	}
	return nil
}

// Notify says that the driver made buffers available.
func (d *Device) Notify(index int) {
	d.mu.Lock()
	s := d.live
	d.mu.Unlock()
	if s == nil || index < 0 || index >= len(s.env.Queues) || s.env.Queues[index] == nil {
		return
	}
	switch {
	case s.multiport && index == controlRx:
		s.flush()
	case s.multiport && index == controlTx:
		s.turn.Run(s, controlSize)
	case s.multiport || index < controlRx:
		d.ports[portOf(index)].notify(index == queueOf(portOf(index))+1)
	}
}

// Reset takes the rings away: readers and writers wait for the next driver.
// What the last one had written and nobody read is gone.
func (d *Device) Reset() {
	d.mu.Lock()
	s := d.live
	d.live = nil
	d.mu.Unlock()
	if s == nil {
		return
	}
	s.dead.Store(true)
	s.turn.Close()
	for _, p := range d.ports {
		p.disconnect()
	}
}

// Resize tells the driver the size of the console in characters: in the
// configuration, and with MULTIPORT by a message to each console port, which
// is what Linux then looks at.
func (d *Device) Resize(cols, rows uint16) {
	d.mu.Lock()
	d.cols, d.rows = cols, rows
	s := d.live
	if s != nil {
		s.resized()
	}
	d.mu.Unlock()
	if s != nil {
		s.flush()
		s.env.Irq.ConfigChanged()
	}
}

// Close ends the host's side: writers fail, readers get what the guest has
// already written and then io.EOF. The guest is not told.
func (d *Device) Close() {
	for _, p := range d.ports {
		p.close()
	}
}
