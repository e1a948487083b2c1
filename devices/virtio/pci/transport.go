// Package pci is the modern PCI transport of virtio (virtio 1.3 §4.1): it
// shows a virtio.Device to the guest as a PCI function, negotiates features,
// builds the queues and carries notifications both ways. There is no legacy
// interface and no INTx interrupt.
package pci

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"tenon/devices/irq"
	"tenon/devices/memory"
	"tenon/devices/pci"
	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
)

// The function's BARs: registers, MSI-X, then one 64-bit BAR for each shared
// memory region, because Linux maps such a region only when nothing else uses
// its BAR, and, where a register and enough ports are left, the doorbells once
// more as ports: KVM must emulate a store, whose instruction it looks for in the
// guest's memory, while of an OUT the processor tells it all.
const (
	registerBAR = 0
	msixBAR     = 1
	sharedBAR   = 2
	maxShared   = 2
	lastBAR     = 5
	noBAR       = -1
	maxPorts    = 256 // of a BAR
)

// Sections of the register BAR, a page each so that notifications may later be
// caught by page.
const (
	commonAt     = 0x0000
	isrAt        = 0x1000
	deviceAt     = 0x2000
	notifyAt     = 0x3000
	sectionSize  = 0x1000
	registerSize = 0x4000

	notifyMultiplier = 4
	maxQueues        = sectionSize / notifyMultiplier
)

const noVector = 0xffff // VIRTIO_MSI_NO_VECTOR

// ISR status bits (§4.1.4.5).
const (
	isrQueue  = 1 << 0
	isrConfig = 1 << 1
)

// Transport is one virtio device as a PCI function.
type Transport struct {
	dev    virtio.Device
	writer virtio.ConfigWriter // nil: the configuration is read-only
	info   virtio.Info
	mem    *memory.Map
	config *pci.Config
	msix   *pci.MSIX

	portBAR int // of the doorbells that are ports; noBAR: there are none

	// What notifications and interrupts use, without locks.
	session      atomic.Pointer[session] // nil between reset and DRIVER_OK
	status       atomic.Uint32
	isr          atomic.Uint32
	generation   atomic.Uint32
	configVector atomic.Uint32

	mu           sync.Mutex // the common configuration
	deviceSelect uint32
	driverSelect uint32
	features     uint64 // the driver's
	selected     uint16
	rings        []ring
	started      bool // Activate was called since the last reset
}

// ring is what the driver wrote about one queue.
type ring struct {
	index             uint16
	max, size         uint16
	enabled           bool
	desc, avail, used uint64
	vector            atomic.Uint32
}

// New returns the transport of a device. It fails when the device's Info asks
// for what the transport cannot show: more than 1024 queues, a ring size that
// is not a power of two up to 1024, more than 4096 bytes of configuration, more
// than two shared memory regions, or one below 4096 bytes.
func New(dev virtio.Device, mem *memory.Map, msi irq.MSISender) (*Transport, error) {
	info := dev.Info()
	if err := check(info); err != nil {
		return nil, fmt.Errorf("virtio device %d: %w", info.ID, err)
	}
	// One vector for configuration changes and one a queue are enough; Linux
	// takes one more where it is to be had.
	msix, err := pci.NewMSIX(len(info.QueueSizes)+2, msixBAR, msi)
	if err != nil {
		return nil, fmt.Errorf("virtio device %d: %w", info.ID, err)
	}
	t := &Transport{dev: dev, info: info, mem: mem, msix: msix, portBAR: portBAR(info)}
	t.writer, _ = dev.(virtio.ConfigWriter)
	t.rings = make([]ring, len(info.QueueSizes))
	for i := range t.rings {
		t.rings[i].index = uint16(i)
		t.rings[i].max = info.QueueSizes[i]
	}
	t.clear()
	if t.config, err = pci.NewConfig(t.header()); err != nil {
		return nil, fmt.Errorf("virtio device %d: %w", info.ID, err)
	}
	return t, nil
}

// portBAR returns the BAR of a device's doorbells that are ports, or noBAR.
func portBAR(info virtio.Info) int {
	bar := sharedBAR + 2*len(info.Shared)
	if n := len(info.QueueSizes); bar > lastBAR || n == 0 || n*notifyMultiplier > maxPorts {
		return noBAR
	}
	return bar
}

func check(info virtio.Info) error {
	if len(info.QueueSizes) > maxQueues {
		return fmt.Errorf("%d queues; %d are possible", len(info.QueueSizes), maxQueues)
	}
	for i, size := range info.QueueSizes {
		if bits.OnesCount16(size) != 1 || size > queue.MaxSize {
			return fmt.Errorf("queue %d: size %d is not a power of two up to %d", i, size, queue.MaxSize)
		}
	}
	if info.ConfigLen > sectionSize {
		return fmt.Errorf("%d bytes of configuration; %d are possible", info.ConfigLen, sectionSize)
	}
	if len(info.Shared) > maxShared {
		return fmt.Errorf("%d shared memory regions; %d are possible", len(info.Shared), maxShared)
	}
	for _, s := range info.Shared {
		if s.Size == 0 {
			return fmt.Errorf("shared memory region %d is empty", s.ID)
		}
	}
	return nil
}

// Config implements pci.Function.
func (t *Transport) Config() *pci.Config { return t.config }

// SharedBAR returns the BAR that is the shared memory region with the given id
// and nothing else; false when the device has no such region. The region
// starts at the BAR's start.
func (t *Transport) SharedBAR(id uint8) (bar int, ok bool) {
	for i, s := range t.info.Shared {
		if s.ID == id {
			return sharedBAR + 2*i, true
		}
	}
	return 0, false
}

// ReadBAR implements pci.Function. What no register answers reads as 0.
func (t *Transport) ReadBAR(bar int, off uint64, p []byte) {
	clear(p)
	switch {
	case bar == msixBAR:
		t.msix.Read(off, p)
	case bar != registerBAR || off >= notifyAt:
	case off >= deviceAt:
		if p = clip(off-deviceAt, p, t.info.ConfigLen); len(p) > 0 {
			t.dev.Config(uint32(off-deviceAt), p)
		}
	case off == isrAt:
		p[0] = byte(t.isr.Swap(0))
	case off < isrAt:
		t.readCommon(off, p)
	}
}

// WriteBAR implements pci.Function. The notification comes first: it is what
// a running guest does.
func (t *Transport) WriteBAR(bar int, off uint64, p []byte) {
	switch {
	case bar == t.portBAR:
		t.notify(off)
	case bar == registerBAR && off >= notifyAt:
		t.notify(off - notifyAt)
	case bar == msixBAR:
		t.msix.Write(off, p)
	case bar != registerBAR:
	case off >= deviceAt:
		if p = clip(off-deviceAt, p, t.info.ConfigLen); t.writer != nil && len(p) > 0 {
			t.writer.WriteConfig(uint32(off-deviceAt), p)
		}
	case off < isrAt:
		t.writeCommon(off, p)
	}
}

// clip returns the part of p that lies in the first size bytes of a section.
func clip(off uint64, p []byte, size uint32) []byte {
	if off >= uint64(size) {
		return nil
	}
	return p[:min(uint64(len(p)), uint64(size)-off)]
}

// Reset does what the driver does by writing 0 to the device status (§2.4.1):
// it stops the device and waits for notifications in flight.
func (t *Transport) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reset()
}

func (t *Transport) reset() {
	if s := t.session.Load(); s != nil {
		s.end()
	}
	if t.started {
		t.dev.Reset()
		t.started = false
	}
	t.session.Store(nil)
	t.clear()
}

// clear gives every register its value after reset. The configuration
// generation stays: it may count over resets.
func (t *Transport) clear() {
	t.deviceSelect, t.driverSelect, t.features, t.selected = 0, 0, 0, 0
	for i := range t.rings {
		r := &t.rings[i]
		r.size, r.enabled = r.max, false
		r.desc, r.avail, r.used = 0, 0, 0
		r.vector.Store(noVector)
	}
	t.configVector.Store(noVector)
	t.isr.Store(0)
	t.status.Store(0)
}

// Err returns why the device asked for a reset (DEVICE_NEEDS_RESET); nil when
// it did not since the last one.
func (t *Transport) Err() error {
	if s := t.session.Load(); s != nil {
		return s.failure()
	}
	return nil
}
