// Package memory is the guest's memory as the devices see it: guest-physical
// addresses turned into Go slices (RAM only, for headers and rings; windows too, for
// payload that only system calls touch). Besides RAM there may be windows,
// which show files of the host (DAX) and of which a page may be gone at any time.
// It knows no KVM and allocates nothing after set-up. A Map is frozen once it is
// set up, and is then safe for concurrent use.
package memory

import (
	"errors"
	"fmt"
	"sort"

	"golang.org/x/sys/unix"
)

// GPA is a guest-physical address in bytes.
type GPA uint64

// What can be wrong with a range of addresses. Neither error carries the address:
// they are returned on the request path, which allocates nothing.
var (
	// ErrAddress: the range is not wholly inside one region of the memory that was
	// asked for.
	ErrAddress = errors.New("memory: address outside guest memory")
	// ErrFault: the host cannot provide a page of a window, or not for writing.
	ErrFault = errors.New("memory: a page of a window cannot be used")
)

// Region is one contiguous piece of guest memory: Data[0] is at GPA. Data is an
// mmap outside the Go heap in a running machine, heap memory in tests (where
// the race detector sees it).
type Region struct {
	GPA  GPA
	Data []byte
}

// Map is all of the guest's memory.
type Map struct {
	all []Region // RAM, sorted by address, then windows
	ram int      // how many are RAM
	pid int      // this process, for the system calls that copy out of windows
}

// New returns the map of the given regions, which must be non-empty, must not
// overlap and must not wrap the address space.
func New(regions ...Region) (*Map, error) {
	sorted := append([]Region(nil), regions...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].GPA < sorted[j].GPA })
	for i, r := range sorted {
		if err := r.check(sorted[:i]); err != nil {
			return nil, err
		}
	}
	return &Map{all: sorted, ram: len(sorted)}, nil
}

// AddWindow adds memory that shows files: Locate, Load and Store reach it, Slice and
// Word do not, because a load from it can fault. It must be non-empty and not
// overlap what is there. It is for set-up only, before others use the map.
func (m *Map) AddWindow(r Region) error {
	if err := r.check(m.all); err != nil {
		return err
	}
	m.all = append(m.all, r)
	m.pid = unix.Getpid()
	return nil
}

// check holds a region against those that are there already.
func (r Region) check(others []Region) error {
	n := GPA(len(r.Data))
	if n == 0 || r.GPA+n < r.GPA {
		return fmt.Errorf("memory: region at %#x of %d bytes is empty or wraps", r.GPA, n)
	}
	for _, o := range others {
		if r.GPA < o.GPA+GPA(len(o.Data)) && o.GPA < r.GPA+n {
			return fmt.Errorf("memory: region at %#x of %d bytes overlaps the one at %#x", r.GPA, n, o.GPA)
		}
	}
	return nil
}

// Regions returns the regions of RAM in address order. The caller must not change
// it.
func (m *Map) Regions() []Region { return m.all[:m.ram] }

// Slice returns the n bytes of RAM at the guest address, with cap == len. The
// range must lie in one region. The guest may change the bytes at any time:
// copy before looking twice.
func (m *Map) Slice(at GPA, n uint32) ([]byte, error) { return find(m.all[:m.ram], at, GPA(n)) }

// Locate returns the region of RAM or the window that the n bytes at the address lie
// in, for further ranges that it Holds. The caller must not change it.
func (m *Map) Locate(at GPA, n uint32) (r *Region, window bool, err error) {
	for i := range m.all {
		if r := &m.all[i]; r.Holds(at, n) {
			return r, i >= m.ram, nil
		}
	}
	return nil, false, ErrAddress
}

// Holds says that the n bytes at the address lie in the region.
func (r *Region) Holds(at GPA, n uint32) bool { return r.holds(at, GPA(n)) }

// Bytes is the n bytes at the address, which the region Holds. Those of a window are
// not to be looked at.
func (r *Region) Bytes(at GPA, n uint32) []byte { return r.Data[at-r.GPA:][:n] }

// holds says that the bytes are in the region.
func (r *Region) holds(at, n GPA) bool {
	off := at - r.GPA // wraps where the address is below the region
	return off < GPA(len(r.Data)) && n <= GPA(len(r.Data))-off
}

// find returns the n bytes at the address, which must lie in one of the regions.
func find(in []Region, at, n GPA) ([]byte, error) {
	for i := range in {
		if r := &in[i]; r.holds(at, n) {
			off := at - r.GPA
			return r.Data[off : off+n : off+n], nil
		}
	}
	return nil, ErrAddress
}
