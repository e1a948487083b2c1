package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Driver is a kernel driver the guest can use.
type Driver struct {
	Name      string // as lsmod shows it
	Config    string // the kernel's configuration option
	What      string // for messages: "the kernel has no ..."
	Required  bool
	Signature string // text found in every kernel image that has the driver built in
}

// drivers is in load order.
var drivers = [...]Driver{
	// The transport of every device.
	{"virtio_pci", "CONFIG_VIRTIO_PCI", "virtio over PCI", true, "virtio_pci_modern"},
	// The port of the channel, and the console.
	{"virtio_console", "CONFIG_VIRTIO_CONSOLE", "virtio console", true, "virtio-ports"},
	// The root and every other share; brings fuse.
	{"virtiofs", "CONFIG_VIRTIO_FS", "virtio-fs", true, "virtio-fs: tag"},
	// The throw-away layer over a read-only root. Without it /tmp is a tmpfs.
	{"overlay", "CONFIG_OVERLAY_FS", "overlayfs", false, "overlayfs: "},
	// Entropy at boot for CPUs without RDRAND.
	{"virtio_rng", "CONFIG_HW_RANDOM_VIRTIO", "virtio random number generator", false, "virtio_rng"},
}

// Drivers returns the drivers a guest uses, in load order.
func Drivers() []Driver { return append([]Driver(nil), drivers[:]...) }

// Status says where a kernel has a driver.
type Status int

// The places of a driver.
const (
	Missing Status = iota
	Module
	BuiltIn
)

// Modules is what lib/modules/RELEASE lists.
type Modules struct {
	dir     string
	builtin map[string]bool
	paths   map[string]string // by module name; modules.order leaves out .xz and the like
}

// OpenModules reads the lists that the kernel's own modules_install writes to
// lib/modules/RELEASE. modules.dep is not one of them: depmod makes it when a
// package is installed, and a package that was only unpacked has none.
func OpenModules(dir string) (*Modules, error) {
	m := &Modules{dir: dir, builtin: make(map[string]bool), paths: make(map[string]string)}
	err := eachLine(filepath.Join(dir, "modules.builtin"), func(line string) {
		m.builtin[moduleName(line)] = true
	})
	if err != nil {
		return nil, err
	}
	err = eachLine(filepath.Join(dir, "modules.order"), func(line string) {
		m.paths[moduleName(line)] = line
	})
	if errors.Is(err, fs.ErrNotExist) { // all modules_install'ed kernels have it; trimmed trees may not
		err = eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
			path, _, _ := strings.Cut(line, ":")
			m.paths[moduleName(path)] = path
		})
	}
	return m, err
}

// eachLine reads the file at once: its lines are parts of one string.
func eachLine(path string, use func(line string)) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if line != "" {
			use(line)
		}
	}
	return nil
}

// moduleName is the name the kernel knows a module file by.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// Find looks for a driver. The path of a Module is relative to the directory.
func (m *Modules) Find(driver string) (status Status, path string) {
	if m.builtin[driver] {
		return BuiltIn, ""
	}
	if path, ok := m.paths[driver]; ok {
		return Module, path
	}
	return Missing, ""
}
