package linuxtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDAXAndHost is two guests with DAX windows and what the host does beside: a
// database that all share, file systems that are full, and the end of Tenon.
func TestDAXAndHost(t *testing.T) {
	needRoot(t)
	withGuests(t, func(c *crew) {
		shared, full, plain := scratch(t), scratch(t), scratch(t)
		must(t, host{}, "write", filepath.Join(plain, "data"), string(daxBytes(8, 8192)))
		const room = 8 * mib
		mountTmpfs(t, full, room)
		flags := []string{"-c", "1", "-m", "512M", "-v", shared + ":/shared,cache=never,locks=host," + daxWindow, "-v", full + ":/full," + daxWindow, "-v", plain + ":/plain,dax=never"}
		fullDisk, err := mountSmallDisk(t, room)
		if err == nil {
			flags = append(flags, "-v", fullDisk+":/disk,"+daxWindow)
		}
		a := c.start(flags...)
		b := c.start(flags...)
		places := []place{{a, "guest A", "/shared"}, {b, "guest B", "/shared"}, {host{}, "the host", shared}}
		// The index of the log is shared memory of all of them.
		c.step("sqlite WAL", func(t *testing.T) { database(t, "WAL", "NORMAL", places) })
		c.step("sqlite WAL, lasting connections", func(t *testing.T) { lastingConnections(t, places) })
		c.step("made longer by the host", func(t *testing.T) { longerFile(t, a, shared) })
		c.step("fsync, then Tenon is killed", func(t *testing.T) { syncedAndKilled(t, b, shared) })
		c.step("no space, tmpfs", func(t *testing.T) { noSpace(t, a, "/full", full) })
		c.step("no space, ext4", func(t *testing.T) {
			if err != nil {
				t.Skip(err)
			}
			noSpace(t, a, "/disk", fullDisk)
		})
		c.step("the guest is well", func(t *testing.T) { wellAfterDAX(t, a) })
	})
}

// lastingConnections has one sqlite at each place write and read, at the same time.
// A guest learns that others made a file longer when it asks for attributes, which
// sqlite does not do once it has opened its files. So these have their size already,
// and keep it as long as a connection is there that checkpoints nothing.
func lastingConnections(t *testing.T, places []place) {
	needPrograms(t, "sqlite3")
	rows := knob(t, "TENON_TEST_ROWS", 10)
	last := places[len(places)-1]
	must(t, last, "sh", fmt.Sprintf("cd %s && rm -f ready-* db*", last.dir))
	keeper := exec.Command("sqlite3", filepath.Join(last.dir, "db"))
	stdin, err1 := keeper.StdinPipe()
	stdout, err2 := keeper.StdoutPipe()
	if err := errors.Join(err1, err2, keeper.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		_ = keeper.Wait()
	}()
	_, err := fmt.Fprintf(stdin, `PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(who, n, filler);
WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < %d) INSERT INTO t SELECT 'x', i, hex(randomblob(3000)) FROM c;
DELETE FROM t; PRAGMA wal_checkpoint(RESTART); SELECT 'ready';
`, 8*rows*len(places))
	for said := bufio.NewScanner(stdout); err == nil && said.Text() != "ready"; {
		if !said.Scan() {
			err = errors.Join(said.Err(), io.ErrUnexpectedEOF)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	answers := make([]<-chan answer, len(places))
	for i, p := range places {
		answers[i] = begin(p, "sh", fmt.Sprintf(`cd %s; touch ready-%d; until [ -e ready-%d ]; do sleep 0.02; done
(echo .timeout 60000; echo 'PRAGMA wal_autocheckpoint=0;'; for n in $(seq %d); do echo "INSERT INTO t VALUES(%d, $n, hex(randomblob(3000))); SELECT count(*) FROM t WHERE length(filler) != 6000;"; done) | sqlite3 -bail db`,
			p.dir, i, (i+1)%len(places), rows, i))
	}
	for i, p := range places {
		if out, err := waitFor(p.party, answers[i]); err != nil || out != "0\n"+strings.Repeat("0\n", rows) {
			t.Errorf("%s: %v\n%s", p.name, err, out)
		}
	}
	for _, p := range places {
		out := must(t, p, "sh", "cd "+p.dir+" && sqlite3 db 'PRAGMA integrity_check; SELECT count(*), count(DISTINCT who || n) FROM t;'")
		if want := fmt.Sprintf("ok\n%[1]d|%[1]d\n", rows*len(places)); out != want {
			t.Errorf("%s finds %q, want %q", p.name, out, want)
		}
	}
}

// longerFile is a file that the host makes longer while a guest has it open.
func longerFile(t *testing.T, g *guest, dir string) {
	file := filepath.Join(dir, "longer")
	must(t, host{}, "write", file, string(daxBytes(1, 5000)))
	f := must(t, g, "open", "/shared/longer", fmt.Sprint(unix.O_RDWR))
	v := must(t, g, "view", f, "0", fmt.Sprint(3*mib), "rw", "shared")
	if got := must(t, g, "peek", v, "0", "5000"); got != string(daxBytes(1, 5000)) {
		t.Error("the guest sees other bytes")
	}
	more := string(daxBytes(2, 3*mib-5000))
	must(t, host{}, "append", file, more)
	t.Logf("before it asks for attributes the guest reads %q there", must(t, g, "preads", f, "6000", "10"))
	if got := stat(t, g, "/shared/longer").Size; got != 3*mib {
		t.Errorf("the guest says %d bytes", got)
	}
	if got := must(t, g, "preads", f, "6000", "10"); got != more[1000:1010] {
		t.Errorf("the guest reads %q, want %q", got, more[1000:1010])
	}
	if got := must(t, g, "viewsum", v, "5000", fmt.Sprint(len(more))); got != sumOf([]byte(more)) {
		t.Error("the guest sees other bytes than the host appended")
	}
	must(t, g, "unview", v)
	must(t, g, "close", f)
}

// mountSmallDisk mounts an ext4 of so many bytes until the test ends.
func mountSmallDisk(t *testing.T, size int) (dir string, err error) {
	t.Helper()
	needPrograms(t, "losetup", "mkfs.ext4")
	dir = scratch(t)
	image := filepath.Join(scratch(t), "image")
	must(t, host{}, "write", image, "")
	must(t, host{}, "truncate", image, fmt.Sprint(size))
	hostRun(t, nil, "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", image)
	device, err := loopDevice(image)
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", device).Run() })
	hostRun(t, nil, "mount", device, dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, nil
}

// noSpace has a guest write to holes of a file whose file system is full: it is told,
// and everything goes on, also as before when there is space again.
func noSpace(t *testing.T, g *guest, dir, here string) {
	const hole, data = mib, "in a hole" // what is before the hole has been written
	sparse, filler := filepath.Join(here, "sparse"), filepath.Join(here, "filler")
	must(t, host{}, "write", sparse, string(daxBytes(6, 64<<10)))
	must(t, host{}, "truncate", sparse, fmt.Sprint(3*mib))
	if _, err := (host{}).do("fill", filler); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the file system: %v", err)
	}
	at := func(page int) string { return fmt.Sprint(hole + page*4096) }

	stored := g.begin("sh", fmt.Sprintf("TENON_GUEST=touch exec /agent/agent %s/sparse %s store", dir, at(0)))
	out, err := g.await(stored)
	if err == nil || !strings.Contains(out, "SIGBUS") {
		t.Errorf("a store to a hole, by mmap: %v, %q; want SIGBUS", err, out)
	}
	f := must(t, g, "open", dir+"/sparse", fmt.Sprint(unix.O_RDWR))
	_, err = g.do("pwrites", f, at(1), data)
	if synced := func() error { _, err := g.do("fsync", f); return err }(); err == nil && synced != unix.EIO {
		t.Errorf("a write to a hole succeeded, and fsync: %v, want EIO", synced)
	}
	v := must(t, g, "view", f, "0", fmt.Sprint(2*mib), "rw", "shared")
	fails(t, unix.EFAULT, g, "poke", v, at(2), data)
	other := must(t, g, "open", "/plain/data", fmt.Sprint(unix.O_RDONLY|unix.O_DIRECT))
	fails(t, unix.EFAULT, g, "readinto", v, at(3), "4096", other, "0") // Tenon's descriptor points there
	if got := must(t, g, "peek", v, "0", "100"); got != string(daxBytes(6, 100)) {
		t.Errorf("what is there reads as %q", got)
	}
	must(t, g, "poke", v, "100", "in place")
	if got := hostPeek(t, sparse, 100, 8); got != "in place" {
		t.Errorf("in place the host sees %q", got)
	}
	_, _ = g.do("fsync", f) // tells of what was lost

	must(t, host{}, "unlink", filler)
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := g.do("poke", v, at(2), data)
		if err == nil && hostPeek(t, sparse, hole+2*4096, len(data)) == data {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a minute after there is space again a store is lost: %v", err)
		}
	}
	must(t, g, "pwrites", f, at(1), data)
	must(t, g, "fsync", f)
	for _, page := range []int{1, 2} {
		if got := hostPeek(t, sparse, hole+page*4096, len(data)); got != data {
			t.Errorf("in page %d the host sees %q", page, got)
		}
	}
	for _, number := range []string{f, other} {
		must(t, g, "close", number)
	}
	must(t, g, "unview", v)
}

// syncedAndKilled kills Tenon when the guest has synced what it wrote: the host has it.
func syncedAndKilled(t *testing.T, g *guest, dir string) {
	const n = 3 * mib
	want := daxBytes(7, n)
	f := must(t, g, "open", "/shared/synced", fmt.Sprint(unix.O_RDWR|unix.O_CREAT))
	must(t, g, "truncate", "/shared/synced", fmt.Sprint(n))
	v := must(t, g, "view", f, "0", fmt.Sprint(n), "rw", "shared")
	for at := 0; at < n; at += mib {
		must(t, g, "poke", v, fmt.Sprint(at), string(want[at:at+mib]))
	}
	must(t, g, "pwrites", f, "5000", "written in place")
	copy(want[5000:], "written in place")
	must(t, g, "fwrite", must(t, g, "open", "/shared/synced", fmt.Sprint(unix.O_WRONLY|unix.O_APPEND)), "appended")
	must(t, g, "fsync", f)
	g.kill()
	if hostSum(t, filepath.Join(dir, "synced")) != sumOf(append(want, "appended"...)) {
		t.Error("the host has other bytes than the guest synced")
	}
}
