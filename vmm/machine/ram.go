package machine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/vmm/layout"
)

// ram is guest memory: one private anonymous mapping for each range of the
// layout. Pages cost nothing until the guest touches them.
type ram struct {
	regions []memory.Region
}

func newRAM(size uint64) (r ram, err error) {
	for _, l := range layout.RAM(size) {
		data, err := unix.Mmap(-1, 0, int(l.Len), unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			r.free()
			return ram{}, fmt.Errorf("guest RAM: map %d MiB: %w", l.Len>>20, err)
		}
		r.regions = append(r.regions, memory.Region{GPA: memory.GPA(l.Base), Data: data})
		if err := advise(data); err != nil {
			r.free()
			return ram{}, fmt.Errorf("guest RAM: %w", err)
		}
	}
	return r, nil
}

// advise keeps guest memory out of core dumps and of children. Huge pages are
// only a wish: a kernel without them says EINVAL.
func advise(data []byte) error {
	for _, a := range []int{unix.MADV_DONTDUMP, unix.MADV_DONTFORK} {
		if err := unix.Madvise(data, a); err != nil {
			return err
		}
	}
	if err := unix.Madvise(data, unix.MADV_HUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

func (r *ram) free() {
	for _, x := range r.regions {
		unix.Munmap(x.Data)
	}
	r.regions = nil
}
