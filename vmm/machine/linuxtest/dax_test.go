package linuxtest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// daxWindow is how shares of these tests are given a window: small, as it costs guest
// RAM, and mounted such that without one the mount fails.
const daxWindow = "dax=always,dax-window=16M"

// TestDAX is one guest that uses files through DAX windows, in every way that Linux
// has, and what the host sees of it.
func TestDAX(t *testing.T) {
	needRoot(t)
	withGuests(t, func(c *crew) {
		always, plain, quiet, work, inode, readOnly := scratch(t), scratch(t), scratch(t), scratch(t), scratch(t), scratch(t)
		d := &daxGuest{dir: always, log: filepath.Join(scratch(t), "log")}
		plantDAX(t, always, plain, quiet, work, inode, readOnly)
		plantProgram(t, always, inode)
		d.guest = c.start("-c", "2", "-m", "512M", "--kernel-log", d.log, "--append", "iomem=relaxed",
			"-v", always+":/always,"+daxWindow, "-v", plain+":/plain,dax=never", "-v", quiet+":/quiet,"+daxWindow,
			"-v", work+":/work,"+daxWindow, "-v", inode+":/inode,dax-window=16M,dax-min-size=64K",
			"--share", "readonly="+readOnly+",ro,"+daxWindow, "--share", "never="+plain+",dax=never", "--share", "none="+plain+",dax-window=0")
		c.step("files are in DAX", func(t *testing.T) { d.inUse(t) })
		c.step("in place", func(t *testing.T) { d.inPlace(t, quiet) })
		c.step("mmap", func(t *testing.T) { d.mmap(t) })
		c.step("append", func(t *testing.T) { d.grow(t) })
		c.step("truncate", func(t *testing.T) { d.truncate(t) })
		c.step("fallocate", func(t *testing.T) { d.allocate(t) })
		c.step("O_DIRECT with buffers in DAX", func(t *testing.T) { d.direct(t, plain) })
		c.step("pipes and consoles", func(t *testing.T) { d.elsewhere(t) })
		c.step("exec", func(t *testing.T) { d.exec(t) })
		c.step("times", func(t *testing.T) { d.times(t) })
		c.step("more than the window", func(t *testing.T) { d.churn(t, work) })
		c.step("dax=inode", func(t *testing.T) { d.bySize(t, inode) })
		c.step("no window", func(t *testing.T) { d.noWindow(t) })
		c.step("read-only share", func(t *testing.T) { d.readOnly(t, readOnly) })
		c.step("store to a read-only window", func(t *testing.T) { d.rawStore(t, readOnly) })
		c.step("the guest is well", func(t *testing.T) { wellAfterDAX(t, d.guest) })
		c.step("figures", func(t *testing.T) { d.report(t) })
	})
}

// daxGuest is the guest of TestDAX. The share mounted on /always is dir on the host.
type daxGuest struct {
	*guest
	dir, log string
	accesses int // of churn
}

// Sizes of the files that plantDAX makes.
const (
	daxBig   = 5*mib + 12345
	daxSmall = 1000
)

// daxBytes is n bytes that differ by seed and place.
func daxBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = 'a' + byte(x>>24)%26
	}
	return b
}

func sumOf(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// plantDAX makes a file of some MiB and a small one in each directory.
func plantDAX(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		for name, n := range map[string]int{"big": daxBig, "small": daxSmall} {
			if err := os.WriteFile(filepath.Join(dir, name), daxBytes(1, n), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// plantProgram puts a static program of several MiB, tenon, into each directory.
func plantProgram(t *testing.T, dirs ...string) {
	t.Helper()
	b, err := os.ReadFile(needKVM(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "program"), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// hostSum is the sum of a file's bytes on the host.
func hostSum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sumOf(b)
}

// hostPeek is bytes of a file on the host.
func hostPeek(t *testing.T, path string, at, n int) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	got, err := f.ReadAt(b, int64(at))
	if got != n {
		t.Fatalf("%s: %d bytes at %d: %v", path, got, at, err)
	}
	return string(b)
}

func (d *daxGuest) on(name string) string { return filepath.Join(d.dir, name) }

// open opens a file in the guest.
func (d *daxGuest) open(t *testing.T, path string, flags int) string {
	t.Helper()
	return must(t, d, "open", path, fmt.Sprint(flags))
}

// view maps a file that is open in the guest.
func (d *daxGuest) view(t *testing.T, file string, at, n int, how string) string {
	t.Helper()
	prot, kind, _ := strings.Cut(how, " ")
	return must(t, d, "view", file, fmt.Sprint(at), fmt.Sprint(n), prot, kind)
}

// peeks wants bytes of a view.
func (d *daxGuest) peeks(t *testing.T, view string, at int, want string) {
	t.Helper()
	if got := must(t, d, "peek", view, fmt.Sprint(at), fmt.Sprint(len(want))); got != want {
		t.Errorf("the guest sees %.60q at %d, want %.60q", got, at, want)
	}
}

// holds wants bytes of a file on the host.
func (d *daxGuest) holds(t *testing.T, name string, at int, want string) {
	t.Helper()
	if got := hostPeek(t, d.on(name), at, len(want)); got != want {
		t.Errorf("%s on the host holds %.60q at %d, want %.60q", name, got, at, want)
	}
}

// inUse looks at the flag that Linux shows where a file is in DAX.
func (d *daxGuest) inUse(t *testing.T) {
	for path, want := range map[string]bool{
		"/always/big": true, "/always/small": true, "/quiet/big": true, "/inode/big": true,
		"/inode/small": false, "/plain/big": false, "/plain/small": false, "/always": false,
	} {
		if got := stat(t, d, path); got.DAX != want {
			t.Errorf("%s is in DAX: %v, want %v", path, got.DAX, want)
		}
	}
}

// inPlace reads and writes a file without changing its size, in a share where nothing
// else is read or written: report looks at its requests.
func (d *daxGuest) inPlace(t *testing.T, dir string) {
	want := daxBytes(1, daxBig)
	f := d.open(t, "/quiet/big", unix.O_RDWR)
	if got := must(t, d, "filesum", f); got != sumOf(want) {
		t.Error("read(2) gets other bytes than the host wrote")
	}
	v := d.view(t, f, 0, daxBig, "rw shared")
	if got := must(t, d, "viewsum", v, "0", fmt.Sprint(daxBig)); got != sumOf(want) {
		t.Error("loads get other bytes than the host wrote")
	}
	must(t, d, "pwrites", f, "4090", "written across a page")
	must(t, d, "poke", v, fmt.Sprint(2*mib-5), "stored across a range")
	copy(want[4090:], "written across a page")
	copy(want[2*mib-5:], "stored across a range")
	if hostSum(t, filepath.Join(dir, "big")) != sumOf(want) {
		t.Error("the host sees other bytes than the guest wrote")
	}
	must(t, d, "unview", v)
	must(t, d, "fsync", f)
	must(t, d, "close", f)
}

// mmap is what shared and private mappings show of one another and of the host.
func (d *daxGuest) mmap(t *testing.T) {
	f := d.open(t, "/always/big", unix.O_RDWR)
	shared, private := d.view(t, f, 0, daxBig, "rw shared"), d.view(t, f, 0, daxBig, "rw private")
	readable := d.view(t, f, 4096, 3*mib, "r shared")
	must(t, d, "poke", shared, "8200", "stored")
	d.holds(t, "big", 8200, "stored")
	d.peeks(t, private, 8200, "stored")
	d.peeks(t, readable, 8200-4096, "stored")
	must(t, host{}, "patch", d.on("big"), "by the host")
	d.peeks(t, shared, 0, "by the host")
	if got := must(t, d, "preads", f, "0", "11"); got != "by the host" {
		t.Errorf("read(2) gets %q", got)
	}
	before := hostPeek(t, d.on("big"), 3*mib, 20)
	must(t, d, "poke", private, fmt.Sprint(3*mib), "for the process only")
	d.peeks(t, private, 3*mib, "for the process only")
	d.peeks(t, shared, 3*mib, before)
	d.holds(t, "big", 3*mib, before)
	last := daxBig - 4
	must(t, d, "poke", shared, fmt.Sprint(last), "end.")
	must(t, d, "msync", shared)
	d.holds(t, "big", last, "end.")
	if got := must(t, d, "viewsum", shared, "0", fmt.Sprint(daxBig)); got != hostSum(t, d.on("big")) {
		t.Error("the guest and the host see different bytes")
	}
	for _, v := range []string{shared, private, readable} {
		must(t, d, "unview", v)
	}
	must(t, d, "close", f)
}

// grow appends to a file, within and beyond what is mapped of it.
func (d *daxGuest) grow(t *testing.T) {
	want := bytes.Clone(daxBytes(1, daxSmall))
	f := d.open(t, "/always/small", unix.O_RDWR|unix.O_APPEND)
	v := d.view(t, f, 0, 8*mib, "r shared")
	d.peeks(t, v, 0, string(want))
	for _, n := range []int{100, 5000, 300 << 10} {
		piece := daxBytes(byte(n), n)
		must(t, d, "fwrite", f, string(piece))
		want = append(want, piece...)
		d.peeks(t, v, len(want)-50, string(want[len(want)-50:]))
	}
	beyond := daxBytes(9, 100)
	must(t, d, "pwrites", d.open(t, "/always/small", unix.O_RDWR), fmt.Sprint(5*mib), string(beyond))
	want = append(append(want, make([]byte, 5*mib-len(want))...), beyond...)
	for what, got := range map[string]string{
		"read(2)":  must(t, d, "filesum", f),
		"loads":    must(t, d, "viewsum", v, "0", fmt.Sprint(len(want))),
		"the host": hostSum(t, d.on("small")),
	} {
		if got != sumOf(want) {
			t.Errorf("%s: other bytes than were appended", what)
		}
	}
	must(t, d, "unview", v)
	must(t, d, "close", f)
}

// truncate makes a mapped file shorter and longer.
func (d *daxGuest) truncate(t *testing.T) {
	const n = 4*mib + 100
	must(t, host{}, "write", d.on("cut"), string(daxBytes(2, n)))
	want := daxBytes(2, n)
	f := d.open(t, "/always/cut", unix.O_RDWR)
	v := d.view(t, f, 0, 6*mib, "rw shared")
	must(t, d, "viewsum", v, "0", fmt.Sprint(n))
	for _, size := range []int{2*mib + 5000, 5000, 3*mib + 1, 0, 6 * mib} {
		must(t, d, "truncate", "/always/cut", fmt.Sprint(size))
		want = append(want[:min(size, len(want))], make([]byte, max(0, size-len(want)))...)
		if got := stat(t, host{}, d.on("cut")).Size; got != uint64(size) {
			t.Errorf("%d bytes on the host, want %d", got, size)
		}
		pages := (size + 4095) &^ 4095
		if pages < 6*mib {
			fails(t, unix.EFAULT, d, "peek", v, fmt.Sprint(pages), "1")
			fails(t, unix.EFAULT, d, "poke", v, fmt.Sprint(pages), "x")
		}
		if size == 0 {
			continue
		}
		must(t, d, "poke", v, fmt.Sprint(size-1), "!")
		want[size-1] = '!'
		if got := must(t, d, "viewsum", v, "0", fmt.Sprint(size)); got != sumOf(want) || hostSum(t, d.on("cut")) != got {
			t.Errorf("after truncating to %d the guest or the host sees other bytes", size)
		}
	}
	must(t, d, "unview", v)
	must(t, d, "close", f)
	must(t, d, "write", "/always/cut", "anew") // O_TRUNC
	d.holds(t, "cut", 0, "anew")
}

// allocate allocates space and takes some away, below a mapping.
func (d *daxGuest) allocate(t *testing.T) {
	const n = 3 * mib
	f := d.open(t, "/always/allocated", unix.O_RDWR|unix.O_CREAT)
	must(t, d, "fallocate", f, "0", "0", fmt.Sprint(n))
	want := daxBytes(3, n)
	v := d.view(t, f, 0, n, "rw shared")
	must(t, d, "pwrites", f, "0", string(want))
	check := func(when string) {
		t.Helper()
		if got := must(t, d, "viewsum", v, "0", fmt.Sprint(n)); got != sumOf(want) || hostSum(t, d.on("allocated")) != got {
			t.Errorf("%s the guest or the host sees other bytes", when)
		}
	}
	check("after allocating and writing")
	must(t, d, "fallocate", f, fmt.Sprint(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE), fmt.Sprint(mib+100), fmt.Sprint(mib))
	copy(want[mib+100:], make([]byte, mib))
	check("after punching a hole")
	must(t, d, "poke", v, fmt.Sprint(mib+5000), "stored in a hole")
	copy(want[mib+5000:], "stored in a hole")
	check("after storing in it")
	must(t, d, "fallocate", f, fmt.Sprint(unix.FALLOC_FL_ZERO_RANGE), "0", "8192")
	copy(want, make([]byte, 8192))
	check("after zeroing")
	must(t, d, "fsync", f)
	must(t, d, "unview", v)
	must(t, d, "close", f)
}

// direct reads from and writes to a share without DAX, past the guest's page cache,
// with buffers that are files in DAX: Tenon's descriptors then point into a window.
func (d *daxGuest) direct(t *testing.T, plain string) {
	const n = 300 << 10
	from := d.open(t, "/plain/big", unix.O_RDWR|unix.O_DIRECT)
	f := d.open(t, "/always/buffer", unix.O_RDWR|unix.O_CREAT)
	must(t, d, "truncate", "/always/buffer", fmt.Sprint(2*mib)) // a hole
	v := d.view(t, f, 0, 2*mib, "rw shared")
	must(t, d, "readinto", v, "4096", fmt.Sprint(n), from, "8192")
	want := string(daxBytes(1, daxBig)[8192 : 8192+n])
	d.holds(t, "buffer", 4096, want)
	if got := must(t, d, "viewsum", v, "4096", fmt.Sprint(n)); got != sumOf([]byte(want)) {
		t.Error("the guest sees other bytes in its buffer than it read")
	}
	must(t, d, "poke", v, "4096", "changed in the buffer")
	must(t, d, "writefrom", v, "4096", fmt.Sprint(n), from, fmt.Sprint(mib))
	if got := hostPeek(t, filepath.Join(plain, "big"), mib, n); got != "changed in the buffer"+want[21:] {
		t.Error("the host sees other bytes than were written from a buffer in DAX")
	}
	// Within DAX, O_DIRECT is the same as without it.
	self := d.open(t, "/always/buffer", unix.O_RDWR|unix.O_DIRECT)
	must(t, d, "readinto", v, fmt.Sprint(mib), "8192", self, "4096")
	d.holds(t, "buffer", mib, "changed in the buffer"+want[21:8192])
	for _, file := range []string{from, self, f} {
		must(t, d, "close", file)
	}
	must(t, d, "unview", v)
}

// elsewhere hands memory of a DAX file to a pipe and a console.
func (d *daxGuest) elsewhere(t *testing.T) {
	const line = "\nfrom a page of the host to a console\n"
	must(t, host{}, "write", d.on("line"), line)
	n := 3 * mib
	f := d.open(t, "/always/big", unix.O_RDONLY)
	v := d.view(t, f, 0, n, "r shared")
	want := sumOf([]byte(hostPeek(t, d.on("big"), 0, n)))
	if got := must(t, d, "throughpipe", v, "0", fmt.Sprint(n)); got != want {
		t.Error("other bytes come out of a pipe")
	}
	if got := must(t, d, "sendfile", f, fmt.Sprint(n)); got != want {
		t.Error("sendfile(2) sends other bytes")
	}
	must(t, d, "unview", v)
	must(t, d, "close", f)
	f = d.open(t, "/always/line", unix.O_RDONLY)
	v = d.view(t, f, 0, len(line), "r shared")
	console := d.open(t, "/dev/console", unix.O_WRONLY|unix.O_NOCTTY)
	must(t, d, "writefrom", v, "0", fmt.Sprint(len(line)), console, "-")
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(d.log)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(strings.ReplaceAll(string(b), "\r", ""), line) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the console did not show the line within a minute:\n%s", b)
		}
	}
	must(t, d, "close", console)
	must(t, d, "close", f)
}

// exec runs a static program from DAX, which is several MiB.
func (d *daxGuest) exec(t *testing.T) {
	for _, dir := range []string{"/always", "/inode"} {
		if at := stat(t, d, dir+"/program"); !at.DAX {
			t.Errorf("%s/program is not in DAX", dir)
		}
		if got, want := must(t, d, "sh", dir+"/program version"), must(t, host{}, "sh", d.on("program")+" version"); got != want {
			t.Errorf("the program in %s says %q, want %q", dir, got, want)
		}
	}
}

// times wants a new time of modification on the host for each time that the guest
// opens a file, writes in place and closes it; and the same in the guest.
func (d *daxGuest) times(t *testing.T) {
	last := stat(t, host{}, d.on("big")).Modified
	later := func(what string) {
		t.Helper()
		now := stat(t, host{}, d.on("big")).Modified
		if now <= last {
			t.Errorf("%s: the file was last modified at %d, before at %d", what, now, last)
		}
		last = now
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	for i := range 2 {
		f := d.open(t, "/always/big", unix.O_RDWR)
		must(t, d, "pwrites", f, "100", fmt.Sprint("write ", i))
		must(t, d, "close", f)
		later(fmt.Sprint("write ", i))
	}
	for i := range 2 {
		f := d.open(t, "/always/big", unix.O_RDWR)
		v := d.view(t, f, 0, 4096, "rw shared")
		must(t, d, "poke", v, "200", fmt.Sprint("store ", i))
		must(t, d, "unview", v)
		must(t, d, "close", f)
		later(fmt.Sprint("store ", i))
	}
	time.Sleep(1500 * time.Millisecond) // attributes are believed for a second
	if got := stat(t, d, "/always/big").Modified; got != last {
		t.Errorf("the guest says %d, the host %d", got, last)
	}
}
