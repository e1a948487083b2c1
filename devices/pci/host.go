package pci

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"tenon/devices/bus"
)

// Function is one PCI function. The host answers configuration accesses from
// Config and routes memory and port accesses to the BARs: 1, 2, 4 or 8 bytes
// wholly inside the BAR, on vCPU threads, several at a time.
type Function interface {
	Config() *Config
	ReadBAR(bar int, off uint64, p []byte)
	WriteBAR(bar int, off uint64, p []byte)
}

// Windows are the ranges BARs are placed in: guest-physical addresses MMIO32
// below 4 GiB and MMIO64 for 64-bit prefetchable BARs, and Ports, which may be
// empty.
type Windows struct{ MMIO32, MMIO64, Ports bus.Range }

const slotCount = 32

// slot is one device of the bus: function 0 only.
type slot struct {
	f    Function
	bars [barCount]uint64 // first addresses
}

// Host is PCI bus 0 with its host bridge in slot 0. Add is for set-up; after
// that the handlers may be used from any thread.
type Host struct {
	windows       Windows
	mem32, mem64  space
	io            space
	slots         [slotCount]slot
	used          int
	address       atomic.Uint32 // the CONFIG_ADDRESS register
	memory, ports decoder
	mu            sync.Mutex // orders rebuilds
}

// bridgeHeader names the generic host bridge of QEMU, which guests leave alone.
var bridgeHeader = Header{Vendor: 0x1b36, Device: 0x0008, Class: 0x060000}

// bridge is the host bridge: a configuration space and nothing behind it.
type bridge struct{ config *Config }

func (b bridge) Config() *Config                    { return b.config }
func (b bridge) ReadBAR(_ int, _ uint64, p []byte)  { ones(p) }
func (b bridge) WriteBAR(_ int, _ uint64, _ []byte) {}

// NewHost returns a bus with nothing but its host bridge.
func NewHost(w Windows) *Host {
	h := &Host{windows: w, mem32: newSpace(w.MMIO32), mem64: newSpace(w.MMIO64), io: newSpace(w.Ports), used: 1}
	h.slots[0].f = bridge{newHeader(bridgeHeader)}
	h.rebuild()
	return h
}

// Add puts a function on the next free slot and gives its BARs addresses.
// Decoding is still off: the guest turns it on. It fails when all 31 slots are
// taken or a window is full.
func (h *Host) Add(f Function) (int, error) {
	n := h.used
	if n == slotCount {
		return 0, fmt.Errorf("pci: all %d slots are taken", slotCount-1)
	}
	s := slot{f: f}
	c := f.Config()
	if h.windows.Ports.Len == 0 {
		c.removePorts()
	}
	for i, b := range c.bars {
		if b.Size == 0 {
			continue
		}
		base, err := h.space(b).alloc(b.Size)
		if err != nil {
			return 0, fmt.Errorf("pci: slot %d BAR %d: %w", n, i, err)
		}
		c.place(i, base)
		s.bars[i] = base
	}
	c.moved = h.rebuild
	h.slots[n] = s
	h.used++
	return n, nil
}

// space is where a BAR belongs.
func (h *Host) space(b BAR) *space {
	switch {
	case b.Ports:
		return &h.io
	case b.Wide:
		return &h.mem64
	}
	return &h.mem32
}

// BAR returns the range Add gave to a BAR; false when there is none. It is
// where shared memory goes, once: a guest that moves such a BAR only loses it.
func (h *Host) BAR(slot, bar int) (bus.Range, bool) {
	if slot < 0 || slot >= h.used || bar < 0 || bar >= barCount {
		return bus.Range{}, false
	}
	s := &h.slots[slot]
	size := s.f.Config().bars[bar].Size
	return bus.Range{Base: s.bars[bar], Len: size}, size != 0
}

// rebuild publishes where the BARs answer now. Whoever runs last has seen the
// last write: registers are read under the lock.
func (h *Host) rebuild() {
	h.mu.Lock()
	defer h.mu.Unlock()
	var memory, ports []route
	for i := range h.used {
		f := h.slots[i].f
		c := f.Config()
		for n, b := range c.bars {
			base, ok := c.decoded(n)
			if !ok || base+b.Size-1 <= base {
				continue
			}
			r := route{base, base + b.Size - 1, f, n}
			if b.Ports {
				ports = append(ports, r)
			} else {
				memory = append(memory, r)
			}
		}
	}
	h.memory.publish(memory)
	h.ports.publish(ports)
}

// config returns the configuration space of a function, nil when it is absent.
func (h *Host) config(device, function int) *Config {
	if function != 0 || h.slots[device].f == nil {
		return nil
	}
	return h.slots[device].f.Config()
}

// read answers a configuration read; absent functions read all ones.
func (h *Host) read(device, function, reg int, p []byte) {
	if c := h.config(device, function); c != nil {
		c.Read(reg, p)
		return
	}
	ones(p)
}

func (h *Host) write(device, function, reg int, p []byte) {
	if c := h.config(device, function); c != nil {
		c.Write(reg, p)
	}
}

// Memory32 returns the handler of the MMIO32 window.
func (h *Host) Memory32() bus.Handler { return &window{&h.memory, h.windows.MMIO32.Base} }

// Memory64 returns the handler of the MMIO64 window.
func (h *Host) Memory64() bus.Handler { return &window{&h.memory, h.windows.MMIO64.Base} }

// Ports returns the handler of the window of ports.
func (h *Host) Ports() bus.Handler { return &window{&h.ports, h.windows.Ports.Base} }

// ECAM returns the handler of the memory-mapped configuration space of bus 0,
// 1 MiB long (PCI Express 4.0 §7.2.2).
func (h *Host) ECAM() bus.Handler { return (*ecam)(h) }

type ecam Host

func (e *ecam) Read(off uint64, p []byte) {
	device, function, reg, ok := ecamAddress(off, len(p))
	if !ok {
		ones(p)
		return
	}
	(*Host)(e).read(device, function, reg, p)
}

func (e *ecam) Write(off uint64, p []byte) {
	if device, function, reg, ok := ecamAddress(off, len(p)); ok {
		(*Host)(e).write(device, function, reg, p)
	}
}

// ecamAddress splits an offset; false where there is no bus or the access
// would cross into the next function.
func ecamAddress(off uint64, n int) (device, function, reg int, ok bool) {
	reg = int(off & (extendedSize - 1))
	return int(off >> 15 & 31), int(off >> 12 & 7), reg, off>>20 == 0 && reg+n <= extendedSize
}

// ConfigIO returns the handler of ports 0xcf8 to 0xcff: configuration
// mechanism #1 (§3.2.2.3.2).
func (h *Host) ConfigIO() bus.Handler { return (*configIO)(h) }

type configIO Host

const (
	configData     = 4 // offset of CONFIG_DATA
	addressEnable  = 1 << 31
	addressBits    = addressEnable | 0x00fffffc
	addressBusMask = 0x00ff0000
)

func (c *configIO) Read(off uint64, p []byte) {
	switch {
	case off == 0 && len(p) == 4:
		binary.LittleEndian.PutUint32(p, c.address.Load())
	case off >= configData:
		if device, function, reg, ok := c.target(off); ok {
			(*Host)(c).read(device, function, reg, p)
			return
		}
		ones(p)
	default: // CONFIG_ADDRESS exists for 32-bit accesses only
		ones(p)
	}
}

func (c *configIO) Write(off uint64, p []byte) {
	switch {
	case off == 0 && len(p) == 4:
		c.address.Store(binary.LittleEndian.Uint32(p) & addressBits)
	case off >= configData:
		if device, function, reg, ok := c.target(off); ok {
			(*Host)(c).write(device, function, reg, p)
		}
	}
}

// target is the register a CONFIG_DATA byte lane stands for.
func (c *configIO) target(off uint64) (device, function, reg int, ok bool) {
	a := c.address.Load()
	reg = int(a&0xfc) + int(off-configData)
	return int(a >> 11 & 31), int(a >> 8 & 7), reg, a&addressEnable != 0 && a&addressBusMask == 0
}
