package virtiofs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// TestKernelFilesystemsStayShut mounts a procfs below the share, as a share of
// / has one: with it a guest could open the memory of the VMM.
func TestKernelFilesystemsStayShut(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	mnt, file := filepath.Join(dir, "proc"), filepath.Join(dir, "mem")
	must(t, os.Mkdir(mnt, 0o755))
	write(t, file, "")
	if err := unix.Mount("proc", mnt, "proc", 0, ""); err != nil {
		t.Skipf("SKIPPED: no mounting here (%v): file systems of the kernel below the share are not tested", err)
	}
	defer func() { must(t, unix.Unmount(mnt, unix.MNT_DETACH)) }()
	must(t, unix.Mount("/proc/self/status", file, "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(file, unix.MNT_DETACH)) }()

	p, e := c.Lookup(root, "proc")
	ok(t, "LOOKUP of the mount point", e)
	for range 2 { // not known, then known
		_, e = c.Lookup(p.Node, "self")
		want(t, "LOOKUP in procfs", e, unix.ENOENT)
	}
	_, e = c.Mkdir(p.Node, "new", 0o755)
	want(t, "MKDIR in procfs", e, unix.EROFS)
	m, e := c.Lookup(root, "mem")
	ok(t, "LOOKUP of a file bound from procfs", e)
	_, e = c.Open(m.Node, unix.O_RDONLY)
	want(t, "OPEN of a file bound from procfs", e, unix.EACCES)
}

func TestKernelFilesystemIsNoShare(t *testing.T) {
	_, err := passthrough.New("/proc", passthrough.Options{})
	if err == nil || !strings.Contains(err.Error(), "proc file system") {
		t.Errorf("sharing /proc: %v", err)
	}
}

// TestOneDevice: with the option, a mount point below the share is an ordinary
// directory to the guest.
func TestOneDevice(t *testing.T) {
	dir, c := connect(t, passthrough.Options{OneDevice: true})
	mnt := filepath.Join(dir, "mnt")
	must(t, os.Mkdir(mnt, 0o755))
	if err := unix.Mount("tenon-test", mnt, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED: no mounting here (%v): mounts below the share are not tested", err)
	}
	defer func() { must(t, unix.Unmount(mnt, unix.MNT_DETACH)) }()
	m, e := c.Lookup(root, "mnt")
	ok(t, "LOOKUP", e)
	if m.Attr.AttrFlags&fuse.AttrSubmount != 0 {
		t.Error("the mount point is announced")
	}
}
