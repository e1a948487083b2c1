package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tenon/guest/channel"
)

// fsMount is one mount(2).
type fsMount struct {
	kind, path string
	flags      uintptr
	options    string
}

// What is needed before the host can be told anything.
var (
	procMount = fsMount{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""}
	sysMount  = fsMount{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""}
	devMount  = fsMount{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"}
)

// deviceMounts complete /dev once the root is in place.
var deviceMounts = []fsMount{
	{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
	{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
}

// deviceLinks are what shells and scripts expect in /dev beside devtmpfs's own.
var deviceLinks = map[string]string{
	"/dev/fd":     "/proc/self/fd",
	"/dev/stdin":  "/proc/self/fd/0",
	"/dev/stdout": "/proc/self/fd/1",
	"/dev/stderr": "/proc/self/fd/2",
}

var (
	runMount  = fsMount{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"}
	tmpMounts = []fsMount{
		{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "/var/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	}
)

// mountProc mounts /proc unless it is there: a second procfs would go on top.
func mountProc() error {
	if _, err := os.Stat("/proc/cmdline"); err == nil {
		return nil
	}
	return mountAt(procMount)
}

// mountAt mounts, making the directory if it can. A file system that is there
// already stays: the kernel may have mounted it (CONFIG_DEVTMPFS_MOUNT).
func mountAt(m fsMount) error {
	if err := mountPoint(m.path); err != nil {
		return err
	}
	err := unix.Mount(m.kind, m.path, m.kind, m.flags, m.options)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s on %s: %w", m.kind, m.path, err)
	}
	return nil
}

// mountPoint makes sure that path is a directory.
func mountPoint(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("mount point %s is missing and cannot be made: %w", path, bare(err))
		}
	case err != nil:
		return fmt.Errorf("mount point %s: %w", path, bare(err))
	case !info.IsDir():
		return fmt.Errorf("mount point %s is not a directory", path)
	}
	return nil
}

// bare takes the operation and path off an error that will be wrapped with
// better ones.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// mountCall is mount(2).
type mountCall func(source, target, kind string, flags uintptr, options string) error

// shareMounter returns what mounts virtio-fs shares.
func shareMounter(mount mountCall) func(m channel.Mount, target string) error {
	return func(m channel.Mount, target string) error {
		var flags uintptr
		if m.ReadOnly {
			flags = unix.MS_RDONLY
		}
		options := ""
		if m.DAX != "" {
			options = "dax=" + m.DAX
		}
		err := mount(m.Tag, target, "virtiofs", flags, options)
		// Linux says EINVAL to DAX without a window and to a tag that it does not
		// know. What is mounted here to tell the two apart goes with the guest.
		windowless := errors.Is(err, unix.EINVAL) && mount(m.Tag, target, "virtiofs", flags, "") == nil
		switch {
		case windowless:
			return fmt.Errorf("mount share %q with %s: the guest has no DAX window for it: give the share one (dax-window=SIZE), or the guest a kernel with CONFIG_FUSE_DAX", m.Tag, options)
		case errors.Is(err, unix.ENODEV):
			return fmt.Errorf("mount share %q: the kernel has no virtio-fs (CONFIG_VIRTIO_FS)", m.Tag)
		case err != nil:
			return fmt.Errorf("mount share %q on %s: %w", m.Tag, filepath.Clean("/"+m.Path), err)
		}
		return nil
	}
}
