package linuxtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mountTmpfs mounts a tmpfs of so many bytes on a directory of the host, until the test ends.
func mountTmpfs(t *testing.T, dir string, size int) {
	t.Helper()
	needRoot(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", size)); err != nil {
		t.Fatalf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestLocalSemantics is what programs expect of a local file system beyond reading
// and writing: one guest, a share with a file system mounted below it, seen once with
// and once without its mount points.
func TestLocalSemantics(t *testing.T) {
	needRoot(t)
	withGuests(t, func(c *crew) {
		dir, lower := scratch(t), scratch(t)
		mountTmpfs(t, filepath.Join(dir, "below"), 1<<20)
		must(t, host{}, "write", filepath.Join(dir, "below/inside"), "")
		g := c.start("-c", "2", "-v", dir+":/s", "-v", dir+":/plain,no-submounts", "-v", lower+":/lower,ro")
		c.step("submount has its own device", func(t *testing.T) { submount(t, g) })
		c.step("no-submounts", func(t *testing.T) {
			if top, below := stat(t, g, "/plain"), stat(t, g, "/plain/below"); top.Device != below.Device || below.MountRoot {
				t.Errorf("devices %#x and %#x, want the same", top.Device, below.Device)
			}
			if got := must(t, g, "list", "/plain/below"); got != "inside made" {
				t.Errorf("the mounted file system holds %q", got)
			}
		})
		c.step("O_TMPFILE", func(t *testing.T) { temporaryFile(t, g, dir) })
		c.step("time of birth", func(t *testing.T) { birth(t, g, dir) })
		c.step("lsattr and chattr", func(t *testing.T) { flags(t, g, dir) })
		c.step("overlay", func(t *testing.T) { overlay(t, g, dir, lower) })
	})
}

// submount looks at a mount point below the share, as find -xdev does, and syncs
// either file system.
func submount(t *testing.T, g *guest) {
	top, below := stat(t, g, "/s"), stat(t, g, "/s/below")
	if top.Device == below.Device || !below.MountRoot {
		t.Errorf("the share is on device %#x, what is mounted below it on %#x (root of a mount: %v)", top.Device, below.Device, below.MountRoot)
	}
	if inside := stat(t, g, "/s/below/inside"); inside.Device != below.Device {
		t.Errorf("a file in it is on device %#x, want %#x", inside.Device, below.Device)
	}
	must(t, g, "write", "/s/below/made", "made")
	must(t, g, "syncfs", "/s/below")
	must(t, g, "syncfs", "/s")
	if got := must(t, g, "sh", "find /s -xdev -name inside; find /s -name inside"); got != "/s/below/inside\n" {
		t.Errorf("found %q", got)
	}
}

// temporaryFile makes a file without a name and gives it one.
func temporaryFile(t *testing.T, g *guest, dir string) {
	f := must(t, g, "open", "/s", fmt.Sprint(unix.O_TMPFILE|unix.O_RDWR))
	must(t, g, "fwrite", f, "nameless")
	if got := must(t, host{}, "list", dir); strings.Contains(got, "named") {
		t.Fatalf("there is a name already: %s", got)
	}
	must(t, g, "flink", f, "/s/named")
	must(t, g, "close", f)
	if got := must(t, host{}, "read", filepath.Join(dir, "named")); got != "nameless" {
		t.Errorf("the host reads %q", got)
	}
}

// birth compares statx's time of birth, which the guest cannot make up.
func birth(t *testing.T, g *guest, dir string) {
	must(t, g, "write", "/s/born", "")
	here, there := stat(t, host{}, filepath.Join(dir, "born")), stat(t, g, "/s/born")
	if !here.HasBirth {
		t.Skip("the host's file system keeps no time of birth")
	}
	if !there.HasBirth || there.Born != here.Born {
		t.Errorf("in the guest it was born at %d (known: %v), on the host at %d", there.Born, there.HasBirth, here.Born)
	}
}

// flags sets a flag of an inode in the guest and another on the host.
func flags(t *testing.T, g *guest, dir string) {
	needPrograms(t, "chattr", "lsattr")
	file := filepath.Join(dir, "flags")
	must(t, g, "write", "/s/flags", "")
	must(t, g, "sh", "chattr +d /s/flags")
	if out, err := exec.Command("chattr", "+A", file).CombinedOutput(); err != nil {
		t.Skipf("the host's file system has no such flags: %s", out)
	}
	t.Cleanup(func() { _ = exec.Command("chattr", "-i", file).Run() })
	for _, p := range []struct {
		party
		name string
	}{{g, "/s/flags"}, {host{}, file}} {
		out := must(t, p, "sh", "lsattr "+p.name)
		if letters, _, _ := strings.Cut(out, " "); !strings.Contains(letters, "d") || !strings.Contains(letters, "A") {
			t.Errorf("lsattr says %q, want d and A", out)
		}
	}
	must(t, g, "sh", "chattr +i /s/flags")
	fails(t, unix.EPERM, g, "patch", "/s/flags", "changed")
	must(t, g, "sh", "chattr -i /s/flags")
	must(t, g, "patch", "/s/flags", "changed")
}

// overlay mounts an overlay in the guest whose upper and lower layers are on shares.
func overlay(t *testing.T, g *guest, dir, lower string) {
	for _, name := range []string{"tree/sub/deep", "tree/gone", "opaque/old", "kept", "copied", "linked"} {
		path := filepath.Join(lower, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("lower "+name+"\n"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	const mount = "mount -t overlay -o lowerdir=/lower,upperdir=/s/upper,workdir=/s/work,redirect_dir=on overlay /tmp/merged"
	must(t, g, "sh", "mkdir -p /s/upper /s/work /tmp/merged && "+mount)
	must(t, g, "sh", `set -e; cd /tmp/merged
echo new > created; ln -s created link; mkfifo pipe
echo upper >> copied; chmod 600 copied
rm tree/gone
rm -r opaque; mkdir opaque; echo fresh > opaque/new
mv tree moved; echo more > moved/sub/more
ln linked linked2; mv kept renamed
setfattr -n user.k -v v renamed`)
	see := func(when string) string {
		seen := must(t, g, "tree", "/tmp/merged")
		for name, want := range map[string]string{
			"created": "new\n", "copied": "lower copied\nupper\n", "opaque/new": "fresh\n", "moved/sub/deep": "lower tree/sub/deep\n",
			"moved/sub/more": "more\n", "linked2": "lower linked\n", "renamed": "lower kept\n",
		} {
			if got := must(t, g, "read", "/tmp/merged/"+name); got != want {
				t.Errorf("%s, %s holds %q, want %q", when, name, got, want)
			}
		}
		for _, name := range []string{"tree", "tree/gone", "moved/gone", "opaque/old", "kept"} {
			fails(t, unix.ENOENT, g, "stat", "/tmp/merged/"+name)
		}
		return seen
	}
	before := see("at once")
	must(t, g, "sh", "umount /tmp/merged && "+mount)
	same(t, "before the remount", before, "after it", see("after a remount"))
	// What the host holds is an overlay's upper layer: whiteouts, opaque and redirected directories.
	whiteout := stat(t, host{}, filepath.Join(dir, "upper/kept"))
	if whiteout.Mode&unix.S_IFMT != unix.S_IFCHR {
		t.Errorf("the whiteout's mode is %o on the host", whiteout.Mode)
	}
	for attr, want := range map[string]string{"opaque/trusted.overlay.opaque": "y", "moved/trusted.overlay.redirect": "tree"} {
		b := make([]byte, 64)
		n, err := unix.Getxattr(filepath.Join(dir, "upper", filepath.Dir(attr)), filepath.Base(attr), b)
		if err != nil || string(b[:max(n, 0)]) != want {
			t.Errorf("%s is %q on the host (%v), want %q", attr, b[:max(n, 0)], err, want)
		}
	}
	must(t, g, "sh", "umount /tmp/merged")
	if got := stat(t, host{}, filepath.Join(lower, "copied")); got.Size != uint64(len("lower copied\n")) || got.Mode&0o777 != 0o640 {
		t.Errorf("the lower layer changed: %+v", got)
	}
}
