package config

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// valid is a machine without faults, on files of its own.
func valid(t *testing.T) Machine {
	t.Helper()
	dir := t.TempDir()
	m := Default()
	m.Memory = MinMemory
	m.Kernel = filepath.Join(dir, "vmlinuz")
	if err := os.WriteFile(m.Kernel, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.Volumes = []Share{{Tag: VolumeTag(0), Dir: dir, Guest: "/mnt", Sharing: DefaultSharing()}}
	m.Shares = []Share{{Tag: "data", Dir: dir, Sharing: DefaultSharing()}}
	return m
}

func TestValidateAccepts(t *testing.T) {
	long := strings.Repeat("t", maxTag)
	for name, change := range map[string]func(*Machine){
		"plain":            func(*Machine) {},
		"tag of 36 bytes":  func(m *Machine) { m.Shares[0].Tag = long },
		"hexadecimal tag":  func(m *Machine) { m.Shares[0].Tag = "cafe" },
		"tag with a space": func(m *Machine) { m.Shares[0].Tag = "my data" },
		"own initrd":       func(m *Machine) { m.Initrd, m.Volumes = m.Kernel, nil },
		"no initrd":        func(m *Machine) { m.NoInitrd = true },
		"most CPUs":        func(m *Machine) { m.CPUs = MaxCPUs },
		"no kernel found":  func(m *Machine) { m.Kernel = "" },
		"longest cmdline":  func(m *Machine) { m.Append = strings.Repeat("a", MaxCmdline-1) },
		"own cmdline":      func(m *Machine) { m.Cmdline = "quiet tenon.init=1" },
		"nested volumes": func(m *Machine) {
			m.Volumes = append(m.Volumes, Share{Tag: VolumeTag(1), Dir: "/", Guest: "/mnt/deeper", Sharing: DefaultSharing()})
		},
		"polled":               func(m *Machine) { m.Service = ServicePoll },
		"same directory twice": func(m *Machine) { m.Shares[0].Dir = m.Root.Dir },
	} {
		m := valid(t)
		change(&m)
		if err := m.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	for _, c := range []struct {
		change func(*Machine)
		want   string // the whole line but for what differs from run to run
	}{
		{func(m *Machine) { m.Kernel = missing }, "kernel " + missing + " does not exist: "},
		{func(m *Machine) { m.Kernel = dir }, "is not a regular file: "},
		{func(m *Machine) { m.Kernel = file + "/x" }, "not a directory: name a file with -k FILE"},
		{func(m *Machine) { m.Initrd, m.Volumes = missing, nil }, "initrd " + missing + " does not exist: name a file with -i FILE"},
		{func(m *Machine) { m.Append = strings.Repeat("a", MaxCmdline) }, "kernel command line is 2048 bytes"},
		{func(m *Machine) { m.Append = "a\nb" }, "newline: "},
		{func(m *Machine) { m.Cmdline = "quiet" }, "add the word tenon.init=1"},
		{func(m *Machine) { m.CPUs = 0 }, "cpus must be 1 to 255: "},
		{func(m *Machine) { m.CPUs = MaxCPUs + 1 }, "cpus must be 1 to 255: "},
		{func(m *Machine) {
			m.Memory = 256 << 20
			m.Root.DAXWindow, m.Shares[0].DAXWindow = size(8<<30), size(1<<30)
		}, "dax-window: windows of 9G in all take 144M of the guest's 256M of memory: choose smaller ones, or more memory with -m"},
		{func(m *Machine) { m.Memory = MinMemory - 1<<20 }, "memory 63M is too little to boot: choose at least 64M with -m"},
		{func(m *Machine) { m.Memory = 1 << 60 }, "is more than this host has: "},
		{func(m *Machine) { m.Memory = MinMemory + 4096 }, "not a whole number of MiB: "},
		{func(m *Machine) { m.Root.Dir = missing }, "root: host directory " + missing + " does not exist: "},
		{func(m *Machine) { m.Volumes[0].Dir = file }, "volume /mnt: " + file + " is not a directory: "},
		{func(m *Machine) { m.Shares[0].Dir = missing }, `share "data": host directory ` + missing + " does not exist: "},
		{func(m *Machine) { m.Shares[0].Dir = file + "/x" }, "not a directory: name another"},
		{func(m *Machine) { m.Shares = many(MaxShares) }, "29 volumes and shares are more than the 28 slots"},
		{func(m *Machine) { m.Shares[0].Tag = "" }, "the tag is empty: "},
		{func(m *Machine) { m.Shares[0].Tag = strings.Repeat("t", maxTag+1) }, "the tag is 37 bytes and virtio-fs has room for 36: "},
		{func(m *Machine) { m.Shares[0].Tag = "a\nb" }, "the tag has a newline or a NUL"},
		{func(m *Machine) { m.Shares[0].Tag = "a\x00b" }, "the tag has a newline or a NUL"},
		{func(m *Machine) { m.Shares[0].Tag = "\xff" }, "the tag is not UTF-8: "},
		{func(m *Machine) { m.Shares = append(m.Shares, m.Shares[0]) }, `tag "data" is used twice, first by share "data": `},
		{func(m *Machine) { m.Shares[0].Tag = RootTag }, `tag "tenon.root" is used twice, first by root: `},
		{func(m *Machine) { m.Shares[0].Tag = VolumeTag(0) }, `tag "tenon.v0" is used twice, first by volume /mnt: `},
		{func(m *Machine) { m.Volumes[0].Guest = "mnt" }, `guest path "mnt" is not absolute: `},
		{func(m *Machine) { m.Volumes[0].Guest = "" }, `guest path "" is not absolute: `},
		{func(m *Machine) { m.Volumes[0].Guest = "/mnt/.." }, "its guest path is /: use --root"},
		{func(m *Machine) {
			m.Volumes = append(m.Volumes, Share{Tag: VolumeTag(1), Dir: "/", Guest: "/x/../mnt/", Sharing: DefaultSharing()})
		}, "guest path /mnt is used twice: "},
		{func(m *Machine) { m.Initrd, m.Volumes, m.NoInitrd = m.Kernel, nil, true }, "--no-initrd and --initrd exclude each other: "},
		{func(m *Machine) { m.Initrd, m.Volumes, m.Command = m.Kernel, nil, []string{"ls"} }, "a command needs Tenon's own init"},
		{func(m *Machine) { m.Initrd = m.Kernel }, "volumes are mounted by Tenon's own init"},
		{func(m *Machine) { m.Console = "vga" }, `console "vga" is not known: `},
		{func(m *Machine) { m.Service = "fast" }, `service "fast" is not known: `},
		{func(m *Machine) { m.Timeout = -time.Second }, "timeout -1s is negative: "},
	} {
		m := valid(t)
		c.change(&m)
		err := m.Validate()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("one fault gives several lines:\n%v", err)
		}
	}
}

func many(n int) []Share {
	var list []Share
	for i := range n {
		list = append(list, Share{Tag: "share" + strconv.Itoa(i), Dir: "/", Sharing: DefaultSharing()})
	}
	return list
}

func TestValidateReportsEverything(t *testing.T) {
	m := valid(t)
	m.CPUs, m.Memory, m.Console, m.Timeout = 0, 1, "vga", -1
	m.Kernel = "/nonexistent"
	m.Root.Dir = "/nonexistent"
	m.Shares[0].Tag = ""
	m.Volumes[0].Guest = "relative"
	m.NoInitrd, m.Initrd = true, m.Volumes[0].Dir
	m.Command = []string{"ls"}
	lines := strings.Split(m.Validate().Error(), "\n")
	if len(lines) != 12 {
		t.Errorf("%d lines, want 12:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	for _, line := range lines {
		if !strings.Contains(line, ": ") {
			t.Errorf("no remedy in %q", line)
		}
	}
}

// TestUnreadableFiles runs as a user who may not read everything: as root it starts
// itself again as nobody.
func TestUnreadableFiles(t *testing.T) {
	if os.Getuid() == 0 {
		again := exec.Command("/proc/self/exe", "-test.run=^TestUnreadableFiles$")
		again.Dir = "/"
		again.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := again.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	m := valid(t)
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(closed, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(m.Kernel, 0); err != nil {
		t.Fatal(err)
	}
	m.Shares[0].Dir = closed
	err := m.Validate()
	if err == nil || strings.Count(err.Error(), "may not be read by this user") != 2 {
		t.Errorf("got %v", err)
	}
}

func TestReadAsDevice(t *testing.T) {
	for tag, want := range map[string]bool{
		RootTag: false, "rootfs": false, "data": false, "g1": false, "0xg": false, "0x": false, "1-2": false, "mdt0": false,
		"801": true, "beef": true, "BEEF": true, "0x801": true, "0X801": true, "+801": true,
		"8:1": true, "a:b": true, "mtd0": true, "ubi0": true, "/dev/vda": true, "PARTUUID=1": true, "PARTLABEL=x": true,
	} {
		if got := readAsDevice(tag); got != want {
			t.Errorf("readAsDevice(%q) = %v", tag, got)
		}
	}
}

func TestTagOfTheRootIsNoDevice(t *testing.T) {
	refused := func(change func(*Machine)) bool {
		m := valid(t)
		change(&m)
		err := m.Validate()
		return err != nil && strings.Contains(err.Error(), "for a device number")
	}
	if !refused(func(m *Machine) { m.Root.Tag = "cafe" }) {
		t.Error("root with tag cafe passes")
	}
	if !refused(func(m *Machine) { m.Shares[0].Tag, m.Append = "8:1", "ro root=8:1" }) {
		t.Error("root=8:1 passes")
	}
	if refused(func(m *Machine) { m.Shares[0].Tag, m.Append = "cafe", "root=data" }) {
		t.Error("tag cafe is refused though it is not the root")
	}
}

func TestJSONHasReadableTimeout(t *testing.T) {
	m := Default()
	m.Timeout = 90 * time.Second
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(b); !strings.Contains(got, `"timeout":"1m30s"`) || strings.Count(got, `"timeout"`) != 1 {
		t.Error(got)
	}
	if b, err = json.Marshal(Default()); err != nil || strings.Contains(string(b), "timeout") {
		t.Errorf("%s, %v", b, err)
	}
}

func size(n uint64) *uint64 { return &n }
