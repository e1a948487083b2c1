// Package memory is guest RAM as the devices see it: guest-physical addresses
// turned into Go slices (for headers and rings, RAM only) or into iovecs (for
// payload that only system calls touch). It knows no KVM and allocates nothing
// after set-up. Regions are frozen by New; a Map is safe for concurrent use.
package memory

import (
	"errors"
	"fmt"
	"sort"
)

// GPA is a guest-physical address in bytes.
type GPA uint64

// ErrAddress says that a range named by the guest is not wholly inside one
// region of RAM. It never carries the address: it is returned on the request
// path, which allocates nothing.
var ErrAddress = errors.New("memory: address outside guest RAM")

// Region is one contiguous piece of guest RAM: Data[0] is at GPA. Data is an
// mmap outside the Go heap in a running machine, heap memory in tests (where
// the race detector sees it).
type Region struct {
	GPA  GPA
	Data []byte
}

// Map is the whole of guest RAM, sorted by address.
type Map struct {
	regions []Region
}

// New returns the map of the given regions, which must be non-empty, must not
// overlap and must not wrap the address space.
func New(regions ...Region) (*Map, error) {
	sorted := append([]Region(nil), regions...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].GPA < sorted[j].GPA })
	var end GPA
	for i, r := range sorted {
		n := GPA(len(r.Data))
		if n == 0 || r.GPA+n < r.GPA {
			return nil, fmt.Errorf("memory: region at %#x of %d bytes is empty or wraps", r.GPA, n)
		}
		if i > 0 && r.GPA < end {
			return nil, fmt.Errorf("memory: region at %#x overlaps the one before it", r.GPA)
		}
		end = r.GPA + n
	}
	return &Map{regions: sorted}, nil
}

// Regions returns the regions in address order. The caller must not change it.
func (m *Map) Regions() []Region { return m.regions }

// Slice returns the n bytes of RAM at the guest address, with cap == len. The
// range must lie in one region. The guest may change the bytes at any time:
// copy before looking twice.
func (m *Map) Slice(at GPA, n uint32) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		off := at - r.GPA
		if at < r.GPA || off >= GPA(len(r.Data)) {
			continue
		}
		if GPA(n) > GPA(len(r.Data))-off {
			return nil, ErrAddress
		}
		return r.Data[off : off+GPA(n) : off+GPA(n)], nil
	}
	return nil, ErrAddress
}
