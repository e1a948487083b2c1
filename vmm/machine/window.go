package machine

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/vmm/config"
)

const (
	// defaultWindow is the DAX window in bytes of a share that names none.
	defaultWindow = 1 << 30
	// windowShare is how many times the guest's RAM all windows that nobody has
	// asked for may be together: Linux has 64 bytes of RAM for each 4 KiB of a
	// window, so they take a sixteenth of it.
	windowShare = 4
	// windowsTogether bounds them in bytes: they need no more mappings than Linux
	// lets a process have by default (checkWindows).
	windowsTogether = 8 << 30
)

// windowSize is the size of a share's DAX window in bytes, 0 for none. What was not
// asked for is given to kernels that use it by themselves, as the RAM allows.
func (m *Machine) windowSize(s config.Share) uint64 {
	switch {
	case s.DAX == config.DAXNever:
		return 0
	case s.DAXWindow != nil:
		return *s.DAXWindow
	case s.DAX == config.DAXInode && major(m.image.Release) < 6:
		return 0
	}
	n := uint64(0)
	for _, x := range m.allShares() {
		if x.DAX != config.DAXNever && x.DAXWindow == nil {
			n++
		}
	}
	size := uint64(defaultWindow)
	limit := min(windowShare*m.config.Memory, windowsTogether)
	for size > config.MinDAXWindow && size*n > limit {
		size /= 2
	}
	return size
}

// allShares is the root, the volumes and the shares.
func (m *Machine) allShares() []config.Share {
	list := append([]config.Share{m.config.Root}, m.config.Volumes...)
	return append(list, m.config.Shares...)
}

// major is the first number of a kernel's release, 0 where there is none.
func major(release string) int {
	digits, _, _ := strings.Cut(release, ".")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}

// otherMappings is how many mappings of this process (vm_area_struct) are left for
// everything but windows: Go ends the process when it gets none.
const otherMappings = 8192

// checkWindows makes sure that the host lets one process have as many mappings as the
// windows may need.
func (m *Machine) checkWindows() error {
	b, err := os.ReadFile("/proc/sys/vm/max_map_count")
	if err != nil {
		return nil // no such limit that could be read: mappings then fail one by one
	}
	most, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return nil
	}
	total, need := uint64(0), uint64(otherMappings)
	for _, s := range m.allShares() {
		if size := m.windowSize(s); size > 0 {
			total += size
			need += dax.Mappings(size)
		}
	}
	if need > most {
		return fmt.Errorf("DAX windows of %s in all need %d mappings and this host allows a process %d: choose less by dax-window, or run `sysctl vm.max_map_count=%d`",
			config.FormatSize(total), need, most, need)
	}
	return nil
}

var daxModes = map[config.DAX]virtiofs.DAX{
	config.DAXNever:  virtiofs.DAXNever,
	config.DAXInode:  virtiofs.DAXInode,
	config.DAXAlways: virtiofs.DAXAlways,
}

// openWindow reserves the share's window; nil without one.
func (m *Machine) openWindow(s config.Share) (*dax.Window, error) {
	size := m.windowSize(s)
	if size == 0 {
		return nil, nil
	}
	var fs unix.Statfs_t
	if s.DAX == config.DAXAlways && unix.Statfs(s.Dir, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return nil, errors.New("dax=always: the directory is on an overlayfs, where a mapped file goes on to show what it held before it was changed: use dax=inode, or share a directory below the overlay")
	}
	return dax.New(size)
}

// mapWindow gives the guest the window of the share whose function is in the slot:
// one memory slot of KVM for the life of the machine, where its BAR was placed.
func (m *Machine) mapWindow(s *share, slot int) error {
	bar, ok := m.functions[len(m.functions)-1].SharedBAR(0)
	if !ok {
		return fmt.Errorf("the device has no shared memory region for its window")
	}
	at, ok := m.pci.BAR(slot, bar)
	if !ok {
		return fmt.Errorf("the window's BAR has no place")
	}
	if err := m.mem.AddWindow(memory.Region{GPA: memory.GPA(at.Base), Data: s.window.Reservation()}); err != nil {
		return err
	}
	m.faults.mem = m.mem
	m.faults.windows = append(m.faults.windows, faultWindow{s.name, at.Base, s.window, s.fault})
	s.window.Ready = func(piece dax.Mapping) { m.faults.coming.note(at.Base, piece) }
	number := uint32(len(m.mem.Regions()) + len(m.faults.windows))
	return m.vm.SetMemory(number, 0, at.Base, s.window.Reservation())
}
