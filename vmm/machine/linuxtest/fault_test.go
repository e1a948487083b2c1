package linuxtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/vmm/config"
)

// mountFragile mounts an ext4 on a device of the device mapper, until the test ends.
// After breakIt every access to the device is an I/O error.
func mountFragile(t *testing.T) (dir string, breakIt func(t *testing.T)) {
	t.Helper()
	needRoot(t)
	needPrograms(t, "losetup", "mkfs.ext4", "dmsetup")
	dir = scratch(t)
	image := filepath.Join(scratch(t), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 32 << 20
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	hostRun(t, nil, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", image)
	device, err := loopDevice(image)
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", device).Run() })
	name := filepath.Base(filepath.Dir(image))
	table := func(target string) string { return fmt.Sprintf("0 %d %s", size/512, target) }
	if err := mapDevice(name, table("linear "+device+" 0")); err != nil {
		t.Skipf("no device mapper: %v", err)
	}
	t.Cleanup(func() { _, _ = dmsetup("remove", "--force", "--retry", name) })
	hostRun(t, nil, "mount", "-o", "errors=continue", "/dev/mapper/"+name, dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, func(t *testing.T) {
		for _, args := range [][]string{{"suspend", "--noflush", "--nolockfs", name}, {"load", name, "--table", table("error")}, {"resume", name}} {
			if out, err := dmsetup(args...); err != nil {
				t.Fatalf("dmsetup %q: %v: %s", args, err, out)
			}
		}
	}
}

// mapDevice makes a mapped device.
func mapDevice(name, table string) error {
	out, err := dmsetup("create", name, "--table", table)
	if err != nil && os.Getenv("LAB_EMULATED") != "" {
		if err := loadModule("dm-mod"); err != nil {
			return fmt.Errorf("module dm-mod: %w", err)
		}
		out, err = dmsetup("create", name, "--table", table)
	}
	if err != nil {
		return fmt.Errorf("dmsetup: %s", out)
	}
	return nil
}

// dmsetup runs the program. The lab has no udev that would make the devices' nodes.
func dmsetup(args ...string) ([]byte, error) {
	cmd := exec.Command("dmsetup", args...)
	if os.Getenv("LAB_EMULATED") != "" {
		cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
	}
	return cmd.CombinedOutput()
}

// loopDevice makes a file a block device. The lab's kernel has the driver as a module,
// in the tree of the kernel that guests boot.
func loopDevice(file string) (string, error) {
	out, err := exec.Command("losetup", "-f", "--show", file).CombinedOutput()
	if err != nil && os.Getenv("LAB_EMULATED") != "" {
		if err := loadModule("loop"); err != nil {
			return "", fmt.Errorf("module loop: %w", err)
		}
		out, err = exec.Command("losetup", "-f", "--show", file).CombinedOutput()
	}
	if err != nil {
		return "", fmt.Errorf("losetup: %s", out)
	}
	return strings.TrimSpace(string(out)), nil
}

// loadModule loads a module that needs no other, from the cache of kernels.
func loadModule(name string) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	release := unix.ByteSliceToString(uts.Release[:])
	out, err := exec.Command("find", filepath.Join(cache, "tenon/kernels", release, "lib/modules", release, "kernel"), "-name", name+".ko.xz").Output()
	if err != nil {
		return err
	}
	image, err := exec.Command("xz", "-dc", strings.TrimSpace(string(out))).Output()
	if err != nil {
		return err
	}
	return unix.InitModule(image, "")
}

// TestHostFaults breaks shares under a running guest. It gets the errno that a local
// file system would give, keeps what it has synced, hangs nowhere, and ends well.
func TestHostFaults(t *testing.T) {
	needRoot(t)
	withGuests(t, func(c *crew) {
		small, unmounted, removed := scratch(t), scratch(t), scratch(t)
		broken, breakIt := mountFragile(t)
		mountTmpfs(t, small, 4<<20)
		mountTmpfs(t, unmounted, 4<<20)
		g := c.start("-c", "2", "-v", small+":/small", "-v", unmounted+":/unmounted", "-v", removed+":/removed", "-v", broken+":/broken")
		c.step("ENOSPC", func(t *testing.T) { full(t, g, small) })
		c.step("EIO", func(t *testing.T) { ioError(t, g, broken, breakIt) })
		c.step("share unmounted", func(t *testing.T) { detach(t, g, unmounted) })
		c.step("share removed", func(t *testing.T) { remove(t, g, removed) })
		c.step("the guest is well", func(t *testing.T) {
			if out := must(t, g, "sh", "echo alive; dmesg | grep -E 'blocked for more|BUG|Oops' || true"); out != "alive\n" {
				t.Errorf("the guest's kernel complains:\n%s", out)
			}
		})
	})
}

// full fills a share that has room for 4 MiB.
func full(t *testing.T, g *guest, dir string) {
	must(t, g, "write", "/small/kept", "synced")
	must(t, g, "sync", "/small/kept")
	written, err := g.do("fill", "/small/full")
	if err != unix.ENOSPC {
		t.Errorf("after %s bytes: %v, want ENOSPC", written, err)
	}
	if n, err := strconv.Atoi(written); err != nil || n < 1<<20 || n > 4<<20 {
		t.Errorf("%s bytes could be written, there is room for 4 MiB", written)
	}
	fails(t, unix.ENOSPC, g, "append", "/small/more", strings.Repeat("x", 64<<10))
	for _, p := range []place{{g, "the guest", "/small"}, {host{}, "the host", dir}} {
		if got := must(t, p, "read", filepath.Join(p.dir, "kept")); got != "synced" {
			t.Errorf("%s reads %q of what was synced", p.name, got)
		}
	}
	must(t, g, "unlink", "/small/full") // now there is room again
	must(t, g, "write", "/small/again", strings.Repeat("x", 1<<20))
	must(t, g, "sync", "/small/again")
}

// ioError breaks the device below a share.
func ioError(t *testing.T, g *guest, dir string, breakIt func(t *testing.T)) {
	must(t, g, "write", "/broken/kept", "synced")
	must(t, g, "sync", "/broken/kept")
	must(t, g, "write", "/broken/cold", strings.Repeat("x", 300<<10))
	must(t, host{}, "sh", "sync -f "+dir+" && echo 3 > /proc/sys/vm/drop_caches")
	must(t, g, "sh", "echo 3 > /proc/sys/vm/drop_caches")
	if got := must(t, g, "read", "/broken/kept"); got != "synced" {
		t.Fatalf("before the fault %q is read", got)
	}
	breakIt(t)
	fails(t, unix.EIO, g, "read", "/broken/cold")
	if written, err := g.do("fill", "/broken/new"); err != unix.EIO {
		t.Errorf("writing and syncing, after %s bytes: %v, want EIO", written, err)
	}
	for _, p := range []place{{g, "the guest", "/broken"}, {host{}, "the host", dir}} { // the caches have it
		if got := must(t, p, "read", filepath.Join(p.dir, "kept")); got != "synced" {
			t.Errorf("%s reads %q of what was synced", p.name, got)
		}
	}
}

// detach unmounts a share lazily: who has it open goes on, as on the host itself.
func detach(t *testing.T, g *guest, dir string) {
	must(t, g, "write", "/unmounted/file", "before")
	f := must(t, g, "open", "/unmounted/file", fmt.Sprint(unix.O_RDWR))
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if got := must(t, g, "fread", f); got != "before" {
		t.Errorf("the open file holds %q", got)
	}
	must(t, g, "fwrite", f, "beyond")
	must(t, g, "fsync", f)
	if got := must(t, g, "read", "/unmounted/file"); got != "beyond" {
		t.Errorf("opened anew it holds %q", got)
	}
	must(t, g, "write", "/unmounted/new", "new")
	if got := must(t, g, "list", "/unmounted"); got != "file new" {
		t.Errorf("the share holds %q", got)
	}
	must(t, g, "close", f)
}

// remove deletes a share's directory: nothing can be made in it, its open files are
// usable, and everything else in the guest is.
func remove(t *testing.T, g *guest, dir string) {
	must(t, g, "write", "/removed/file", "before")
	f := must(t, g, "open", "/removed/file", fmt.Sprint(unix.O_RDWR))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := must(t, g, "fread", f); got != "before" {
		t.Errorf("the open file holds %q", got)
	}
	must(t, g, "fwrite", f, "beyond")
	must(t, g, "close", f)
	fails(t, unix.ENOENT, g, "write", "/removed/new", "new")
	fails(t, unix.ENOENT, g, "mkdir", "/removed/directory")
	fails(t, unix.ENOENT, g, "stat", "/removed/never")
	fails(t, unix.ENOENT, g, "list", "/removed") // as getdents(2) of a removed directory
}

// TestForbiddenShare runs tenon as a user whom the host then forbids the share.
func TestForbiddenShare(t *testing.T) {
	needRoot(t)
	needPrograms(t, "setpriv")
	const user = 65534
	withGuests(t, func(c *crew) {
		dir, caches := scratch(t), ordinaryCache(t)
		if err := os.Chown(dir, user, user); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("setpriv", "--reuid", fmt.Sprint(user), "--regid", fmt.Sprint(user), "--clear-groups", needKVM(t))
		cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+caches, "HOME=/nonexistent")
		g := c.startAs(cmd, "-v", dir+":/s,owner=squash")
		c.step("chmod 000", func(t *testing.T) { forbid(t, g, dir) })
	})
}

// ordinaryCache is the cache of kernels at a path that an ordinary user may go, and
// makes sure he may use KVM.
func ordinaryCache(t *testing.T) string {
	t.Helper()
	if os.Getenv("LAB_EMULATED") == "" {
		t.Skip("it would open /dev/kvm and the cache to other users: it runs in the emulated machine only")
	}
	if err := os.Chmod("/dev/kvm", 0o666); err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := scratch(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	must(t, host{}, "mkdir", filepath.Join(dir, "tenon"))
	if err := unix.Mount(filepath.Join(cache, "tenon"), filepath.Join(dir, "tenon"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "tenon"), unix.MNT_DETACH) })
	return dir
}

// forbid takes away all permissions of the share's directory and gives them back.
func forbid(t *testing.T, g *guest, dir string) {
	must(t, g, "write", "/s/file", "before")
	must(t, g, "sync", "/s/file")
	must(t, g, "mkdir", "/s/sub")
	f := must(t, g, "open", "/s/file", fmt.Sprint(unix.O_RDWR))
	mode := func(mode os.FileMode) {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	mode(0)
	fails(t, unix.EACCES, g, "write", "/s/new", "new")
	fails(t, unix.EACCES, g, "stat", "/s/never")
	fails(t, unix.EACCES, g, "list", "/s")
	fails(t, unix.EACCES, g, "unlink", "/s/file")
	if got := must(t, g, "fread", f); got != "before" {
		t.Errorf("the open file holds %q", got)
	}
	must(t, g, "fwrite", f, "beyond")
	must(t, g, "fsync", f)
	mode(0o755)
	must(t, g, "write", "/s/new", "new")
	if got := must(t, g, "list", "/s"); got != "file new sub" {
		t.Errorf("the share holds %q", got)
	}
	if got := must(t, host{}, "read", filepath.Join(dir, "file")); got != "beyond" {
		t.Errorf("the host reads %q", got)
	}
	must(t, g, "close", f)
}

// TestFewDescriptors runs tenon with 1024 file descriptors. A guest that opens more
// files gets ENFILE and everything else goes on; one that walks far more files than
// that does not notice.
func TestFewDescriptors(t *testing.T) {
	needPrograms(t, "prlimit", "setpriv")
	n := knob(t, "TENON_TEST_FILES", 4000)
	memory := os.Getenv("TENON_TEST_MEMORY")
	if memory == "" {
		memory = "512M"
	}
	withGuests(t, func(c *crew) {
		dir := scratch(t)
		tree := plantFiles(t, n)
		g := c.startAs(exec.Command("prlimit", "--nofile=1024:1024", "setpriv", "--bounding-set=-sys_resource", needKVM(t)), "-c", "1", "-m", memory,
			"-v", dir+":/s", "-v", tree+":/auto,ro", "-v", tree+":/never,ro,inode-handles=never")
		c.step("open files", func(t *testing.T) { openAll(t, g) })
		for _, mounted := range []string{"/auto", "/never"} {
			c.step("walk "+mounted[1:], func(t *testing.T) { walk(t, g, mounted, n) })
		}
		c.step("open files again", func(t *testing.T) { openAll(t, g) })
	})
}

// openAll makes and opens files until that fails, and gives them back.
func openAll(t *testing.T, g *guest) {
	must(t, g, "write", "/s/kept", "kept")
	opened, err := g.do("openmany", "/s", "3000")
	t.Logf("%s files were open: %v", opened, err)
	if err != unix.ENFILE {
		t.Errorf("opening 3000 files: %v, want ENFILE", err)
	}
	if n, err := strconv.Atoi(opened); err != nil || n < 200 {
		t.Errorf("only %s of 1024 descriptors were for the guest", opened)
	}
	stat(t, g, "/s/kept")
	must(t, g, "closeall")
	if got := must(t, g, "read", "/s/kept"); got != "kept" {
		t.Errorf("the file holds %q", got)
	}
	must(t, g, "sh", "rm /s/open-*")
}

// filesInDirectory is how many files plantFiles puts into one.
const filesInDirectory = 1000

func plantedDirectory(i int) string { return fmt.Sprintf("d%05d", i) }

// plantFiles makes a tree of n empty files, and no more directories than it must.
func plantFiles(t *testing.T, n int) string {
	t.Helper()
	tree := scratch(t)
	for i := range n {
		dir := filepath.Join(tree, plantedDirectory(i/filesInDirectory))
		if i%filesInDirectory == 0 {
			must(t, host{}, "mkdir", dir)
		}
		fd, err := unix.Open(filepath.Join(dir, fmt.Sprintf("f%07d", i)), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err == nil {
			err = unix.Close(fd)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// walk looks at the attributes of every file in the guest, and prints what tenon
// keeps in memory for each.
func walk(t *testing.T, g *guest, mounted string, n int) {
	before, from := beyondRAM(t, g), time.Now()
	for i := 0; i*filesInDirectory < n; i++ {
		want := 1 + min(filesInDirectory, n-i*filesInDirectory) // itself and its files
		if got := must(t, g, "count", filepath.Join(mounted, plantedDirectory(i))); got != fmt.Sprint(want) {
			t.Errorf("%s entries in directory %d, want %d", got, i, want)
		}
	}
	after := beyondRAM(t, g)
	t.Logf("%d files in %v: tenon's resident memory went from %d to %d KiB, %d bytes a file", n, time.Since(from).Round(time.Second), before, after, (after-before)<<10/n)
	if got := must(t, g, "read", filepath.Join(mounted, plantedDirectory(0), "f0000000")); got != "" {
		t.Errorf("the first file holds %q", got)
	}
}

// beyondRAM is tenon's resident memory in KiB without most of the guest's RAM: that is in
// mappings of so many bytes, but for the kernel in it.
func beyondRAM(t *testing.T, g *guest) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", g.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	total, big := 0, false
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case f[0] == "Size:":
			size, _ := strconv.Atoi(f[1])
			big = size<<10 >= config.MinMemory*2
		case f[0] == "Rss:" && !big:
			rss, _ := strconv.Atoi(f[1])
			total += rss
		}
	}
	return total
}
