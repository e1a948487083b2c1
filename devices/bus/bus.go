// Package bus routes port and memory-mapped accesses of a vCPU to the device
// that owns the address. Tables are built at set-up and frozen: a running
// machine looks addresses up without locks.
package bus

import (
	"fmt"
	"sort"
)

// Handler answers accesses at an offset from the start of its range. p has 1,
// 2, 4 or 8 bytes, little-endian; it is valid during the call only. Handlers
// are called on vCPU threads, several at a time.
type Handler interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
}

// Range is Len bytes (or ports) from Base.
type Range struct{ Base, Len uint64 }

type entry struct {
	Range
	name string
	h    Handler
}

// Bus is one address space: ports, or guest-physical addresses without RAM.
type Bus struct {
	entries []entry
	frozen  bool
}

// Map gives a range to a handler; name is used in errors. It fails when the
// range is empty, wraps, overlaps another, or when the bus is frozen.
func (b *Bus) Map(r Range, name string, h Handler) error {
	if b.frozen {
		return fmt.Errorf("bus: map %s: the bus is frozen", name)
	}
	if r.Len == 0 || r.Base+r.Len-1 < r.Base {
		return fmt.Errorf("bus: map %s: bad range %#x+%#x", name, r.Base, r.Len)
	}
	for _, e := range b.entries {
		if r.Base <= e.Base+e.Len-1 && e.Base <= r.Base+r.Len-1 {
			return fmt.Errorf("bus: map %s at %#x: overlaps %s at %#x", name, r.Base, e.name, e.Base)
		}
	}
	b.entries = append(b.entries, entry{r, name, h})
	sort.Slice(b.entries, func(i, j int) bool { return b.entries[i].Base < b.entries[j].Base })
	return nil
}

// Freeze ends set-up; Read and Write may then be called from any thread.
func (b *Bus) Freeze() { b.frozen = true }

func (b *Bus) find(addr uint64, n int) (Handler, uint64) {
	lo, hi := 0, len(b.entries)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if e := &b.entries[mid]; addr < e.Base {
			hi = mid
		} else if addr-e.Base >= e.Len {
			lo = mid + 1
		} else if uint64(n) > e.Len-(addr-e.Base) {
			return nil, 0
		} else {
			return e.h, addr - e.Base
		}
	}
	return nil, 0
}

// Read fills p from the device at addr. Where no device answers for the whole
// access, p becomes all ones, as on a real bus, and the result is false.
func (b *Bus) Read(addr uint64, p []byte) bool {
	h, off := b.find(addr, len(p))
	if h == nil {
		for i := range p {
			p[i] = 0xff
		}
		return false
	}
	h.Read(off, p)
	return true
}

// Write gives p to the device at addr; false when nothing is there.
func (b *Bus) Write(addr uint64, p []byte) bool {
	h, off := b.find(addr, len(p))
	if h == nil {
		return false
	}
	h.Write(off, p)
	return true
}
