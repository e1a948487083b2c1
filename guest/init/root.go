package guestinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tenon/guest/channel"
)

// prepare builds the tree the command runs in and enters it.
func (s *session) prepare(spec *channel.Spec) error {
	if err := s.drivers.load("virtiofs"); err != nil {
		return err
	}
	if err := s.enterRoot(spec); err != nil {
		return err
	}
	for _, m := range deviceMounts {
		if err := mountAt(m); err != nil {
			return err
		}
	}
	for link, target := range deviceLinks {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := volatile(); err != nil {
		return err
	}
	for _, m := range spec.Mounts {
		if err := s.mountVolume(m); err != nil {
			return err
		}
	}
	if spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", spec.Hostname, err)
		}
	}
	return loopback()
}

// enterRoot mounts the root and its throw-away layer and makes it /.
func (s *session) enterRoot(spec *channel.Spec) error {
	lower, scratch := "/", existing("/run", "/tmp", "/mnt")
	if spec.Root != nil {
		lower, scratch = "/share", "/scratch"
		if err := os.MkdirAll(lower, 0o755); err != nil {
			return err
		}
		if err := s.share(*spec.Root, lower); err != nil {
			return err
		}
	}
	top := lower
	if spec.Overlay {
		if err := s.drivers.load("overlay"); err != nil {
			return err
		}
		var err error
		if top, err = overlay(lower, scratch); err != nil {
			return err
		}
	}
	if err := s.drivers.load("virtio_rng"); err != nil {
		return err
	}
	if top == "/" {
		return nil
	}
	if spec.Root != nil {
		freeInitramfs()
	}
	return switchRoot(top)
}

func existing(dirs ...string) string {
	for _, d := range dirs {
		if info, err := os.Stat(d); err == nil && info.IsDir() {
			return d
		}
	}
	return dirs[0]
}

// overlay puts a writable layer in memory over lower and returns where the
// two are one. A kernel without overlayfs gets lower as it is.
func overlay(lower, scratch string) (string, error) {
	if err := mountAt(fsMount{"tmpfs", scratch, 0, "mode=0755"}); err != nil {
		return "", err
	}
	upper, work, top := scratch+"/upper", scratch+"/work", scratch+"/root"
	for _, d := range []string{upper, work, top} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
	}
	// The upper layer's root gives the merged root its owner and mode.
	var st unix.Stat_t
	if err := unix.Stat(lower, &st); err != nil {
		return "", fmt.Errorf("root share: %w", err)
	}
	if err := errors.Join(unix.Chown(upper, int(st.Uid), int(st.Gid)), unix.Chmod(upper, st.Mode&0o7777)); err != nil {
		return "", err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
	err := unix.Mount("overlay", top, "overlay", 0, options)
	if errors.Is(err, unix.ENODEV) {
		return lower, unix.Unmount(scratch, unix.MNT_DETACH)
	}
	if err != nil {
		return "", fmt.Errorf("mount the throw-away layer over the root: %w", err)
	}
	return top, nil
}

// freeInitramfs gives back the memory of the modules; init's own file stays
// in use until the end.
func freeInitramfs() {
	os.RemoveAll(ModuleDir)
	os.Remove("/init")
}

// switchRoot moves the kernel's file systems into top and makes it the root.
// pivot_root(2) does not work on the initramfs, so the mount is moved over it.
func switchRoot(top string) error {
	for _, m := range []fsMount{procMount, sysMount, devMount} {
		target := filepath.Join(top, m.path)
		if err := mountPoint(target); err != nil {
			return err
		}
		if err := unix.Mount(m.path, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the root: %w", m.path, err)
		}
	}
	if err := unix.Chdir(top); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("switch to the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("switch to the root: %w", err)
	}
	return unix.Chdir("/")
}

// volatile gives the guest a /run of its own (a host's /run is full of the
// host's sockets) and temporary directories where the root's cannot be written.
func volatile() error {
	if mountPoint(runMount.path) == nil {
		if err := mountAt(runMount); err != nil {
			return err
		}
	}
	for _, m := range tmpMounts {
		if errors.Is(unix.Access(m.path, unix.W_OK), unix.EROFS) {
			if err := mountAt(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// mountVolume mounts a share at its place and remembers it for the end.
func (s *session) mountVolume(m channel.Mount) error {
	path := filepath.Clean("/" + m.Path)
	if err := mountPoint(path); err != nil {
		return fmt.Errorf("share %q: %w", m.Tag, err)
	}
	if err := s.share(m, path); err != nil {
		return err
	}
	s.mounted = append(s.mounted, path)
	return nil
}

// loopback brings lo up; the kernel adds 127.0.0.1 and ::1 by itself. A kernel
// without a network has none to bring up.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// unmountShares hands everything the guest wrote to the host.
func (s *session) unmountShares() {
	unix.Sync()
	for i := len(s.mounted) - 1; i >= 0; i-- {
		unix.Unmount(s.mounted[i], unix.MNT_DETACH)
	}
}
