package pci

import "fmt"

// Capability ids (§6.7, PCI Code and ID Assignment 1.11 §2).
const (
	CapVendor = 0x09
	CapMSIX   = 0x11
)

// Capability is one entry of the capability list (§6.7). Offsets are those of
// the specifications: the id is byte 0, the link byte 1, Body starts at byte 2.
type Capability struct {
	ID   byte
	Body []byte // initial values from byte 2 on
	Mask []byte // writable bits of Body; shorter or nil: the rest is read-only
	// BeforeRead and AfterWrite, where set, run around guest accesses that touch
	// bytes off to off+n of the capability. No lock is held: they may access
	// BARs, and several may run at a time.
	BeforeRead, AfterWrite func(b Body, off, n int)
}

// Body is the view a capability's owner has of its registers. Offsets count
// from the start of the capability.
type Body struct {
	c      *Config
	at, sz int
}

// Load copies registers from off on into p; what lies outside the capability is left alone.
func (b Body) Load(off int, p []byte) {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	copy(p, b.c.regs[b.at+off:b.at+b.sz])
}

// Store sets registers from off on, read-only bits included; what lies outside
// the capability is left alone.
func (b Body) Store(off int, p []byte) {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	copy(b.c.regs[b.at+off:b.at+b.sz], p)
}

// placed is a capability at its address.
type placed struct {
	Capability
	at int
}

func (k *placed) size() int           { return 2 + len(k.Body) }
func (k *placed) body(c *Config) Body { return Body{c, k.at, k.size()} }

func (c *Config) addCapabilities(caps []Capability) error {
	link, at := regCapabilities, regEnd
	for _, k := range caps {
		p := placed{k, at}
		if at+p.size() > configSize || len(k.Mask) > len(k.Body) {
			return fmt.Errorf("pci: capability %#x of %d bytes does not fit at %#x", k.ID, p.size(), at)
		}
		c.put16(regStatus, statusCapable)
		c.regs[link] = byte(at)
		c.regs[at] = k.ID
		copy(c.regs[at+2:], k.Body)
		copy(c.mask[at+2:], k.Mask)
		c.caps = append(c.caps, p)
		link = at + 1
		at = (at + p.size() + 3) &^ 3 // the two low bits of a link are reserved
	}
	return nil
}

// eachTouched calls f for the part of every capability that lies in [reg, reg+n).
func (c *Config) eachTouched(reg, n int, f func(k *placed, off, n int)) {
	for i := range c.caps {
		k := &c.caps[i]
		from, to := max(reg, k.at), min(reg+n, k.at+k.size())
		if from < to {
			f(k, from-k.at, to-from)
		}
	}
}
