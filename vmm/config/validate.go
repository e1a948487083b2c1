package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	guestinit "tenon/guest/init"
)

// maxTag is the size of the tag field of virtio-fs's configuration in bytes
// (virtio 1.3 §5.11.4).
const maxTag = 36

// Validate reports everything that is wrong with m, joined, one line an error.
// Every line names what is wrong and says what to do about it. It looks at the
// host (files, directories, RAM) but opens nothing. An empty Kernel is left to
// whoever could not find one.
func (m *Machine) Validate() error {
	return errors.Join(
		m.checkKernel(),
		m.checkCmdline(),
		m.checkCPUs(),
		m.checkMemory(),
		m.checkShares(),
		m.checkWindows(),
		m.checkTags(),
		m.checkMountPoints(),
		m.checkBoot(),
		m.checkModes(),
	)
}

func (m *Machine) checkKernel() error {
	var err error
	if m.Kernel != "" {
		err = checkFile("kernel", m.Kernel, "name a file with -k FILE, or fetch a kernel with scripts/kernel")
	}
	if m.Initrd != "" {
		err = errors.Join(err, checkFile("initrd", m.Initrd, "name a file with -i FILE"))
	}
	return err
}

func checkFile(what, name, remedy string) error {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %s does not exist: %s", what, name, remedy)
	case err != nil:
		return fmt.Errorf("%s %s: %w: %s", what, name, cause(err), remedy)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s %s is not a regular file: %s", what, name, remedy)
	case unix.Access(name, unix.R_OK) != nil:
		return fmt.Errorf("%s %s may not be read by this user: run `sudo chmod a+r %s`, or %s", what, name, name, remedy)
	}
	return nil
}

func (m *Machine) checkCmdline() error {
	var errs []error
	if n := len(m.Cmdline) + len(m.Append) + 1; n > MaxCmdline {
		errs = append(errs, fmt.Errorf("kernel command line is %d bytes and the kernel reads %d: shorten --cmdline or --append", n, MaxCmdline))
	}
	if strings.Contains(m.Cmdline+m.Append, "\n") {
		errs = append(errs, errors.New("kernel command line has a newline: write it on one line"))
	}
	if m.Cmdline != "" && m.Initrd == "" && !slices.Contains(strings.Fields(m.Cmdline+" "+m.Append), guestinit.Marker) {
		errs = append(errs, fmt.Errorf("--cmdline leaves out what starts Tenon's own init: add the word %s, or use --append", guestinit.Marker))
	}
	return errors.Join(errs...)
}

func (m *Machine) checkCPUs() error {
	if m.CPUs < 1 || m.CPUs > MaxCPUs {
		return fmt.Errorf("cpus must be 1 to %d: choose a number with -c", MaxCPUs)
	}
	return nil
}

func (m *Machine) checkMemory() error {
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return fmt.Errorf("sysinfo, for this host's RAM: %w: look for a system call filter around tenon", err)
	}
	ram := host.Totalram * uint64(host.Unit)
	size := FormatSize(m.Memory)
	switch {
	case m.Memory < MinMemory:
		return fmt.Errorf("memory %s is too little to boot: choose at least %s with -m", size, FormatSize(MinMemory))
	case m.Memory > ram:
		return fmt.Errorf("memory %s is more than this host has: choose at most %dM with -m", size, ram>>20)
	case m.Memory%(1<<20) != 0:
		return fmt.Errorf("memory %s is not a whole number of MiB: choose one with -m", size)
	}
	return nil
}

// shares calls visit for the root, the volumes and the shares, each with the name
// messages use for it.
func (m *Machine) shares(visit func(name string, s Share)) {
	visit("root", m.Root)
	for _, s := range m.Volumes {
		visit("volume "+s.Guest, s)
	}
	for _, s := range m.Shares {
		visit("share "+strconv.Quote(s.Tag), s)
	}
}

func (m *Machine) checkShares() error {
	var errs []error
	if n := len(m.Volumes) + len(m.Shares); n > MaxShares {
		errs = append(errs, fmt.Errorf("%d volumes and shares are more than the %d slots of the guest's PCI bus: share a directory above them", n, MaxShares))
	}
	m.shares(func(name string, s Share) {
		info, err := os.Stat(s.Dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = fmt.Errorf("%s: host directory %s does not exist: create it or name another", name, s.Dir)
		case err != nil:
			err = fmt.Errorf("%s: host directory %s: %w: name another", name, s.Dir, cause(err))
		case !info.IsDir():
			err = fmt.Errorf("%s: %s is not a directory: share the directory it is in", name, s.Dir)
		case unix.Access(s.Dir, unix.R_OK|unix.X_OK) != nil:
			err = fmt.Errorf("%s: host directory %s may not be read by this user: change its mode or name another", name, s.Dir)
		}
		errs = append(errs, err, checkSharing(name, s))
	})
	return errors.Join(errs...)
}

// checkWindows refuses DAX windows that would cost the guest more than half of its
// RAM: Linux has 64 bytes of it for each 4 KiB of a window.
func (m *Machine) checkWindows() error {
	var total uint64
	m.shares(func(_ string, s Share) {
		if s.DAXWindow != nil {
			total += *s.DAXWindow
		}
	})
	if cost := total / 64; cost > m.Memory/2 {
		return fmt.Errorf("dax-window: windows of %s in all take %s of the guest's %s of memory: choose smaller ones, or more memory with -m",
			FormatSize(total), FormatSize(cost), FormatSize(m.Memory))
	}
	return nil
}

func (m *Machine) checkTags() error {
	var errs []error
	used := make(map[string]string)
	m.shares(func(name string, s Share) {
		errs = append(errs, checkTag(name, s.Tag))
		if first, ok := used[s.Tag]; ok {
			errs = append(errs, fmt.Errorf("%s: tag %q is used twice, first by %s: give each share a tag of its own", name, s.Tag, first))
		} else {
			used[s.Tag] = name
		}
		if m.isRoot(s) && readAsDevice(s.Tag) {
			errs = append(errs, fmt.Errorf("%s: the kernel takes root=%s for a device number: choose a tag with letters past f and no colon", name, s.Tag))
		}
	})
	return errors.Join(errs...)
}

func checkTag(name, tag string) error {
	switch {
	case tag == "":
		return fmt.Errorf("%s: the tag is empty: write one before the equals sign", name)
	case len(tag) > maxTag:
		return fmt.Errorf("%s: the tag is %d bytes and virtio-fs has room for %d: choose a shorter one", name, len(tag), maxTag)
	case strings.ContainsAny(tag, "\n\x00"):
		return fmt.Errorf("%s: the tag has a newline or a NUL and the kernel refuses it: choose one without", name)
	case !utf8.ValidString(tag):
		return fmt.Errorf("%s: the tag is not UTF-8: choose one that is", name)
	}
	return nil
}

// isRoot says whether the kernel is told to mount s as /.
func (m *Machine) isRoot(s Share) bool {
	for _, word := range strings.Fields(m.Cmdline + " " + m.Append) {
		if tag, ok := strings.CutPrefix(word, "root="); ok && tag == s.Tag {
			return true
		}
	}
	return s.Tag == m.Root.Tag
}

// readAsDevice says whether the kernel reads root=tag as a block device instead of
// a virtio-fs tag (init/do_mounts.c parse_root_device, block/early-lookup.c
// devt_from_devnum): a hexadecimal number, MAJOR:MINOR, MTD and UBI names, paths
// and partition names.
func readAsDevice(tag string) bool {
	if strings.Contains(tag, ":") {
		return true
	}
	for _, prefix := range []string{"mtd", "ubi", "/dev/", "PARTUUID=", "PARTLABEL="} {
		if strings.HasPrefix(tag, prefix) {
			return true
		}
	}
	hex := strings.TrimPrefix(tag, "+")
	if len(hex) > 1 && strings.EqualFold(hex[:2], "0x") {
		hex = hex[2:]
	}
	return hex != "" && strings.Trim(hex, "0123456789abcdefABCDEF") == ""
}

func (m *Machine) checkMountPoints() error {
	var errs []error
	used := make(map[string]bool)
	for _, v := range m.Volumes {
		at := path.Clean(v.Guest)
		switch {
		case !path.IsAbs(v.Guest):
			errs = append(errs, fmt.Errorf("volume of %s: guest path %q is not absolute: start it with /", v.Dir, v.Guest))
		case at == "/":
			errs = append(errs, fmt.Errorf("volume of %s: its guest path is /: use --root %s", v.Dir, v.Dir))
		case used[at]:
			errs = append(errs, fmt.Errorf("volume of %s: guest path %s is used twice: mount each volume at a path of its own", v.Dir, at))
		}
		used[at] = true
	}
	return errors.Join(errs...)
}

// checkBoot refuses what the chosen way of booting cannot do.
func (m *Machine) checkBoot() error {
	var errs []error
	if m.Initrd != "" {
		if m.NoInitrd {
			errs = append(errs, errors.New("--no-initrd and --initrd exclude each other: drop one of them"))
		}
		if len(m.Command) > 0 {
			errs = append(errs, errors.New("a command needs Tenon's own init, and --initrd brings another: drop one of them, or start the command from the initrd"))
		}
		if len(m.Volumes) > 0 {
			errs = append(errs, errors.New("volumes are mounted by Tenon's own init, and --initrd brings another: use --share TAG=DIR and mount it from the initrd"))
		}
	}
	return errors.Join(errs...)
}

func (m *Machine) checkModes() error {
	var errs []error
	switch m.Console {
	case ConsoleHVC, ConsoleSerial:
	default:
		errs = append(errs, fmt.Errorf("console %q is not known: choose hvc or serial", m.Console))
	}
	switch m.Service {
	case ServiceExit, ServiceWorker, ServiceAuto, ServicePoll:
	default:
		errs = append(errs, fmt.Errorf("service %q is not known: choose exit, worker, poll or auto", m.Service))
	}
	if m.Timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout %s is negative: choose a positive one, or leave it out for none", m.Timeout))
	}
	return errors.Join(errs...)
}

// cause is what a file operation failed with, without the path the caller names.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}
