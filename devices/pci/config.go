// Package pci is one PCI bus as the guest sees it: configuration spaces behind
// the ports 0xcf8/0xcfc and behind ECAM, memory BARs that the guest may move,
// capabilities and MSI-X. Devices implement Function; the machine maps the
// Host's handlers on its buses.
//
// Section numbers are those of the PCI Local Bus Specification 3.0.
package pci

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"
)

// Registers of the type 0 header (§6.1).
const (
	regVendor       = 0x00
	regDevice       = 0x02
	regCommand      = 0x04
	regStatus       = 0x06
	regRevision     = 0x08
	regClass        = 0x09
	regCacheLine    = 0x0c
	regBAR          = 0x10
	regSubvendor    = 0x2c
	regSubsystem    = 0x2e
	regCapabilities = 0x34
	regLine         = 0x3c
	regEnd          = 0x40 // first byte after the header

	configSize   = 256
	extendedSize = 4096 // of a function in ECAM
	barCount     = 6
)

// Bits of the command and status registers (§6.2.2, §6.2.3).
const (
	commandPorts    = 1 << 0
	commandMemory   = 1 << 1
	commandMaster   = 1 << 2
	commandIntxOff  = 1 << 10
	statusCapable   = 1 << 4
	barWide         = 0x4 // BAR type: 64-bit
	barPrefetchable = 0x8
	barFlags        = 0xf
	barPorts        = 0x1 // I/O space
	barPortsFlags   = 0x3
)

// writable lists the header registers the guest may change; BARs and
// capabilities add theirs. Functions here have no parity or SERR#, so those
// command bits are hardwired to 0.
var writable = []struct {
	reg  int
	mask uint16
}{
	{regCommand, commandMemory | commandMaster | commandIntxOff},
	{regCacheLine, 0x00ff},
	{regLine, 0x00ff},
}

// Header is what a function's configuration space starts with. The interrupt
// pin is always 0: functions interrupt by MSI-X or not at all.
type Header struct {
	Vendor, Device       uint16
	Subvendor, Subsystem uint16
	Class                uint32 // 24 bits: base class, subclass, interface
	Revision             uint8
	BARs                 [barCount]BAR
	Capabilities         []Capability // in list order
}

// Config is the configuration space of one function: 256 bytes, of which the
// guest changes only the writable bits. It is safe for concurrent use.
type Config struct {
	mu   sync.Mutex
	regs [configSize]byte
	mask [configSize]byte // writable bits
	bars [barCount]BAR
	caps []placed
	// moved, set by Host.Add, runs after the guest wrote the command register
	// or a BAR.
	moved func()
}

// NewConfig lays out a configuration space. It fails when a BAR's size is not
// a power of two or not one of its kind (see BAR), a 64-bit BAR has no second
// register, or the capabilities do not fit into 192 bytes.
func NewConfig(h Header) (*Config, error) {
	c := newHeader(h)
	if err := c.addBARs(h.BARs); err != nil {
		return nil, err
	}
	if err := c.addCapabilities(h.Capabilities); err != nil {
		return nil, err
	}
	return c, nil
}

// newHeader fills in what every function has.
func newHeader(h Header) *Config {
	c := &Config{moved: func() {}}
	c.put16(regVendor, h.Vendor)
	c.put16(regDevice, h.Device)
	c.put16(regSubvendor, h.Subvendor)
	c.put16(regSubsystem, h.Subsystem)
	c.put32(regRevision, h.Class<<8|uint32(h.Revision))
	for _, w := range writable {
		binary.LittleEndian.PutUint16(c.mask[w.reg:], w.mask)
	}
	return c
}

func (c *Config) addBARs(bars [barCount]BAR) error {
	for n, b := range bars {
		least, most := b.limits()
		switch {
		case b.Size == 0:
			continue
		case bits.OnesCount64(b.Size) != 1 || b.Size < least || b.Size > most:
			return fmt.Errorf("pci: BAR %d: size %#x is not a power of two of %#x to %#x", n, b.Size, least, most)
		case b.Wide && (b.Ports || n == barCount-1 || bars[n+1].Size != 0):
			return fmt.Errorf("pci: BAR %d: a 64-bit BAR is in memory and takes two registers", n)
		}
		reg := regBAR + 4*n
		mask := ^(b.Size - 1)
		binary.LittleEndian.PutUint32(c.mask[reg:], uint32(mask))
		switch {
		case b.Wide:
			c.put32(reg, barWide|barPrefetchable)
			binary.LittleEndian.PutUint32(c.mask[reg+4:], uint32(mask>>32))
		case b.Ports:
			c.put32(reg, barPorts)
			c.mask[regCommand] |= commandPorts
		}
	}
	c.bars = bars
	return nil
}

// Read copies the registers from reg on into p. Bytes from 256 on (ECAM only)
// are 0: there are no extended capabilities.
func (c *Config) Read(reg int, p []byte) {
	c.eachTouched(reg, len(p), func(k *placed, off, n int) {
		if k.BeforeRead != nil {
			k.BeforeRead(k.body(c), off, n)
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(p)
	if reg < configSize {
		copy(p, c.regs[reg:])
	}
}

// Write changes the writable bits of the registers from reg on, then tells the
// host about moved BARs and capabilities about their registers.
func (c *Config) Write(reg int, p []byte) {
	c.mu.Lock()
	for i, b := range p {
		if r := reg + i; r < configSize {
			c.regs[r] = c.regs[r]&^c.mask[r] | b&c.mask[r]
		}
	}
	c.mu.Unlock()
	if overlaps(reg, len(p), regCommand, 2) || overlaps(reg, len(p), regBAR, 4*barCount) {
		c.moved()
	}
	c.eachTouched(reg, len(p), func(k *placed, off, n int) {
		if k.AfterWrite != nil {
			k.AfterWrite(k.body(c), off, n)
		}
	})
}

// removePorts makes the I/O BARs absent, for a host without a window for them.
func (c *Config) removePorts() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.bars {
		if c.bars[n].Ports {
			c.bars[n] = BAR{}
			c.put32(regBAR+4*n, 0)
			clear(c.mask[regBAR+4*n:][:4])
		}
	}
	c.mask[regCommand] &^= commandPorts
}

// decoded returns where BAR n answers now; false when it has none or decoding
// of its space is off.
func (c *Config) decoded(n int) (base uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	decodes, flags := byte(commandMemory), uint32(barFlags)
	if c.bars[n].Ports {
		decodes, flags = commandPorts, barPortsFlags
	}
	if c.bars[n].Size == 0 || c.regs[regCommand]&decodes == 0 {
		return 0, false
	}
	reg := regBAR + 4*n
	base = uint64(binary.LittleEndian.Uint32(c.regs[reg:]) &^ flags)
	if c.bars[n].Wide {
		base |= uint64(binary.LittleEndian.Uint32(c.regs[reg+4:])) << 32
	}
	return base, true
}

// place gives BAR n its first address, as firmware would.
func (c *Config) place(n int, base uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reg := regBAR + 4*n
	flags := binary.LittleEndian.Uint32(c.regs[reg:]) // nothing else before the guest writes
	c.put32(reg, uint32(base)|flags)
	if c.bars[n].Wide {
		c.put32(reg+4, uint32(base>>32))
	}
}

func (c *Config) put16(reg int, v uint16) { binary.LittleEndian.PutUint16(c.regs[reg:], v) }
func (c *Config) put32(reg int, v uint32) { binary.LittleEndian.PutUint32(c.regs[reg:], v) }

// overlaps says whether [a, a+an) and [b, b+bn) share a byte.
func overlaps(a, an, b, bn int) bool { return a < b+bn && b < a+an }
