package guestinit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// portWait is how long the host may take to announce the port. It covers a
// guest under emulation; a machine whose device is there needs a millisecond.
const portWait = 60 * time.Second

// openPort opens the virtio-console port of that name. Ports appear some time
// after the driver, one control message each.
func openPort(name string) (*os.File, error) {
	deadline := time.Now().Add(portWait)
	for {
		if dev := findPort("/sys/class/virtio-ports", name); dev != "" {
			// Blocking on purpose: a read that sleeps in the driver wakes
			// sooner than one that goes through epoll.
			fd, err := unix.Open("/dev/"+dev, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, fmt.Errorf("open the host's port /dev/%s: %w", dev, err)
			}
			return os.NewFile(uintptr(fd), dev), nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no virtio-console port named %q: the kernel needs CONFIG_VIRTIO_CONSOLE and CONFIG_VIRTIO_PCI", name)
		}
		time.Sleep(time.Millisecond)
	}
}

// findPort returns the device name of the port, "" while there is none.
func findPort(class, name string) string {
	ports, err := os.ReadDir(class)
	if err != nil {
		return ""
	}
	for _, p := range ports {
		b, err := os.ReadFile(filepath.Join(class, p.Name(), "name"))
		if err == nil && strings.TrimSuffix(string(b), "\n") == name {
			return p.Name()
		}
	}
	return ""
}
