package pci

import (
	"fmt"
	"sort"
	"sync/atomic"

	"tenon/devices/bus"
)

// minBAR keeps every memory BAR on pages of its own, so that the guest may map
// one without the other (§6.2.5.1 recommends 4 KiB). I/O BARs have the sizes
// that section allows them.
const (
	minBAR   = 4096
	minPorts = 4
	maxPorts = 256
)

// BAR is one base address register. The zero BAR is absent.
type BAR struct {
	Size uint64 // a power of two: at least 4096 bytes, or 4 to 256 ports
	// Wide: 64-bit and prefetchable, in the MMIO64 window, taking the next
	// register too. Otherwise 32-bit, not prefetchable, in MMIO32.
	Wide bool
	// Ports: in I/O space. On a host without a window of ports the guest sees no
	// such BAR.
	Ports bool
}

// limits returns the least and the greatest size a BAR of this kind may have.
func (b BAR) limits() (least, most uint64) {
	switch {
	case b.Ports:
		return minPorts, maxPorts
	case b.Wide:
		return minBAR, 1 << 63
	}
	return minBAR, 1 << 31
}

// space hands out naturally aligned addresses of one window, upwards.
type space struct{ next, end uint64 }

func newSpace(r bus.Range) space { return space{r.Base, r.Base + r.Len} }

func (s *space) alloc(size uint64) (uint64, error) {
	base := (s.next + size - 1) &^ (size - 1)
	if base < s.next || base > s.end || size > s.end-base {
		return 0, fmt.Errorf("no room for %#x bytes in the window ending at %#x", size, s.end)
	}
	s.next = base + size
	return base, nil
}

// route says that addresses base to last belong to a BAR.
type route struct {
	base, last uint64
	f          Function
	bar        int
}

// decoder finds the BAR at an address. Its table is never changed, only
// replaced, so that accesses take no lock.
type decoder struct {
	table atomic.Pointer[[]route]
}

// publish replaces the table. Of BARs that the guest made overlap, the one
// lower in address, then slot, answers alone.
func (d *decoder) publish(routes []route) {
	sort.SliceStable(routes, func(i, j int) bool { return routes[i].base < routes[j].base })
	table := routes[:0]
	for _, r := range routes {
		if n := len(table); n == 0 || r.base > table[n-1].last {
			table = append(table, r)
		}
	}
	d.table.Store(&table)
}

// find returns the route that holds all n bytes at addr, or nil.
func (d *decoder) find(addr uint64, n int) *route {
	table := *d.table.Load()
	lo, hi := 0, len(table)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch r := &table[mid]; {
		case addr < r.base:
			hi = mid
		case addr > r.last:
			lo = mid + 1
		case uint64(n) > r.last-addr+1:
			return nil
		default:
			return r
		}
	}
	return nil
}

// window is the bus handler of one window.
type window struct {
	d    *decoder
	base uint64
}

func (w *window) Read(off uint64, p []byte) {
	addr := w.base + off
	if r := w.d.find(addr, len(p)); r != nil {
		r.f.ReadBAR(r.bar, addr-r.base, p)
		return
	}
	ones(p)
}

func (w *window) Write(off uint64, p []byte) {
	addr := w.base + off
	if r := w.d.find(addr, len(p)); r != nil {
		r.f.WriteBAR(r.bar, addr-r.base, p)
	}
}

// ones is what a read of nothing returns.
func ones(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}
