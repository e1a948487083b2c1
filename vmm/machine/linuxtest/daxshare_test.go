package linuxtest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// This file is the steps of TestDAX that are about whole shares and their windows.

// churn uses more of files than the window holds, at random: four times its size.
func (d *daxGuest) churn(t *testing.T, dir string) {
	const files, size = 4, 16 * mib
	d.accesses = knob(t, "TENON_TEST_DAX_ACCESSES", 300)
	c := newChurn(dir, files, size)
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	from := time.Now()
	must(t, d, "churn", "/work", fmt.Sprint(files), fmt.Sprint(size), fmt.Sprint(d.accesses))
	t.Logf("%d accesses to %d MiB through a window of 16 MiB: %v", d.accesses, files*size/mib, time.Since(from).Round(time.Millisecond))
	c.replay(d.accesses)
	if err := c.verify(); err != nil {
		t.Errorf("on the host: %v", err)
	}
}

// bySize looks at which files dax=inode takes, and when.
func (d *daxGuest) bySize(t *testing.T, dir string) {
	must(t, host{}, "write", filepath.Join(dir, "grows"), string(daxBytes(4, 60<<10)))
	for size, want := range map[int]bool{64<<10 - 1: false, 64 << 10: true} {
		name := fmt.Sprint("size-", size)
		must(t, host{}, "write", filepath.Join(dir, name), string(daxBytes(4, size)))
		if got := stat(t, d, "/inode/"+name).DAX; got != want {
			t.Errorf("a file of %d bytes is in DAX: %v", size, got)
		}
	}
	if stat(t, d, "/inode/grows").DAX {
		t.Error("a file of 60 KiB is in DAX")
	}
	must(t, d, "append", "/inode/grows", string(daxBytes(5, 60<<10)))
	for end := time.Now().Add(time.Minute); !stat(t, d, "/inode/grows").DAX; time.Sleep(500 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a file that grew is not in DAX within a minute, though the guest drops its inodes")
		}
		must(t, d, "sh", "echo 2 > /proc/sys/vm/drop_caches")
	}
	want := string(daxBytes(4, 60<<10)) + string(daxBytes(5, 60<<10))
	if got := must(t, d, "read", "/inode/grows"); got != want {
		t.Error("then it holds other bytes")
	}
	must(t, d, "patch", "/inode/grows", "in DAX")
	if got := hostPeek(t, filepath.Join(dir, "grows"), 0, 6); got != "in DAX" {
		t.Errorf("the host sees %q", got)
	}
}

// noWindow mounts shares without windows: not with dax=always.
func (d *daxGuest) noWindow(t *testing.T) {
	for _, tag := range []string{"never", "none"} {
		dir := "/tmp/" + tag
		fails(t, unix.EINVAL, d, "mountdax", tag, dir, "rw", "dax=always")
		must(t, d, "mountdax", tag, dir, "rw", "")
		if at := stat(t, d, dir+"/big"); at.DAX {
			t.Errorf("%s: a file is in DAX", tag)
		}
		if got := must(t, d, "window", tag); got != "" {
			t.Errorf("%s: the device has a window at %s", tag, got)
		}
	}
	if got := must(t, d, "window", d.tags["/always"]); !strings.HasSuffix(got, fmt.Sprintf(" %d", 16*mib)) {
		t.Errorf("the window of /always is %q, want 16 MiB", got)
	}
}

// readOnly mounts a read-only share for writing and reads it by DAX.
func (d *daxGuest) readOnly(t *testing.T, dir string) {
	must(t, d, "mountdax", "readonly", "/tmp/readonly", "rw", "dax=always")
	if at := stat(t, d, "/tmp/readonly/big"); !at.DAX {
		t.Error("the file is not in DAX")
	}
	fails(t, unix.EROFS, d, "open", "/tmp/readonly/big", fmt.Sprint(unix.O_RDWR))
	f := d.open(t, "/tmp/readonly/big", unix.O_RDONLY)
	v := d.view(t, f, 0, daxBig, "r shared")
	if got := must(t, d, "viewsum", v, "0", fmt.Sprint(daxBig)); got != hostSum(t, filepath.Join(dir, "big")) {
		t.Error("loads get other bytes than the host wrote")
	}
	fails(t, unix.EACCES, d, "view", f, "0", "4096", "rw", "shared")
	private := d.view(t, f, 0, 8192, "rw private")
	must(t, d, "poke", private, "100", "for the process only")
	d.peeks(t, private, 100, "for the process only")
	must(t, d, "unview", private)
	must(t, d, "unview", v)
	must(t, d, "close", f)
}

// rawStore goes past the guest's file system: root stores to the addresses where a
// read-only file is shown.
func (d *daxGuest) rawStore(t *testing.T, dir string) {
	var at, size int
	if _, err := fmt.Sscan(must(t, d, "window", "readonly"), &at, &size); err != nil {
		t.Fatal(err)
	}
	before := hostSum(t, filepath.Join(dir, "big"))
	memory, err := d.do("open", "/dev/mem", fmt.Sprint(unix.O_RDWR))
	if err != nil {
		t.Skipf("the guest's kernel has no /dev/mem for its root: %v", err)
	}
	v, err := d.do("view", memory, fmt.Sprint(at), fmt.Sprint(size), "rw", "shared")
	if err != nil {
		t.Skipf("the guest's kernel keeps its root from the window (CONFIG_IO_STRICT_DEVMEM): %v", err)
	}
	mark, shown := string(daxBytes(1, 64)), -1
	for range 10 { // the guest may have given up what it mapped: read it again
		must(t, d, "sh", "cat /tmp/readonly/big >/dev/null")
		for at := 0; at < size && shown < 0; at += 2 * mib {
			if must(t, d, "peek", v, fmt.Sprint(at), "64") == mark {
				shown = at
			}
		}
		if shown >= 0 {
			break
		}
	}
	if shown < 0 {
		t.Fatal("the window shows the file nowhere")
	}
	for _, at := range []int{shown, shown + 4096, size - 4096} { // the last one shows nothing
		fails(t, unix.EFAULT, d, "poke", v, fmt.Sprint(at), "stored by root")
	}
	d.peeks(t, v, shown, mark)
	must(t, d, "unview", v)
	must(t, d, "close", memory)
	if hostSum(t, filepath.Join(dir, "big")) != before {
		t.Error("the host's file has changed")
	}
	if got := must(t, d, "sh", "sha256sum < /tmp/readonly/big"); !strings.HasPrefix(got, before) {
		t.Errorf("the guest reads other bytes than before: %s", got)
	}
}

// wellAfterDAX wants nothing of the guest's kernel to complain.
func wellAfterDAX(t *testing.T, g *guest) {
	t.Helper()
	if out := must(t, g, "sh", "echo alive; dmesg | grep -E 'WARNING:.* at (fs|mm|drivers)/|blocked for more|BUG|Oops' || true"); out != "alive\n" {
		t.Errorf("the guest's kernel complains:\n%s", out)
	}
}

// report ends the guest and looks at the figures of its shares.
func (d *daxGuest) report(t *testing.T) {
	d.end(t)
	f := d.figures(t)
	quiet, work := d.tags["/quiet"], d.tags["/work"]
	for _, tag := range []string{quiet, work, d.tags["/always"], d.tags["/inode"], "readonly"} {
		t.Logf("%s: %v; %v", tag, f.DAX[tag], f.Requests[tag])
		if f.Requests[tag]["SETUPMAPPING"] == 0 || f.DAX[tag]["setups"] != f.Requests[tag]["SETUPMAPPING"] {
			t.Errorf("%s: %d SETUPMAPPING requests, %d mappings", tag, f.Requests[tag]["SETUPMAPPING"], f.DAX[tag]["setups"])
		}
		if f.DAX[tag]["size"] != 16*mib || f.DAX[tag]["ranges"] != 8 {
			t.Errorf("%s: %d bytes, %d ranges", tag, f.DAX[tag]["size"], f.DAX[tag]["ranges"])
		}
	}
	for _, opcode := range []string{"READ", "WRITE"} {
		if n := f.Requests[quiet][opcode]; n != 0 {
			t.Errorf("%d %s requests for reading and writing in place", n, opcode)
		}
	}
	// With less than 8 of 32 ranges shown, most accesses take another one away.
	if n := f.DAX[work]["removes"]; n < d.accesses/4 || f.Requests[work]["REMOVEMAPPING"] == 0 {
		t.Errorf("%d mappings were taken away in %d REMOVEMAPPING requests, for %d accesses", n, f.Requests[work]["REMOVEMAPPING"], d.accesses)
	}
	if n := f.DAX["readonly"]["protected"]; n < 3 {
		t.Errorf("%d stores to what is for reading were counted", n)
	}
	for _, tag := range []string{"never", "none", d.tags["/plain"]} {
		if _, ok := f.DAX[tag]; ok || f.Requests[tag]["SETUPMAPPING"] != 0 {
			t.Errorf("%s has no window, and figures of one: %v", tag, f.DAX[tag])
		}
	}
}
