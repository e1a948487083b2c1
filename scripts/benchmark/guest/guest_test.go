package guest

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/scripts/benchmark/figures"
)

// TestRowsDropRoundsThatFailed wants ratios formed of rounds of the same number only.
func TestRowsDropRoundsThatFailed(t *testing.T) {
	rows := rowsOf([]sample{
		{Row: "a", Side: qemuRust, Unit: "ns", Round: 0, Value: 10},
		{Row: "a", Side: tenon, Unit: "ns", Round: 0, Value: 5},
		{Note: "something"},
		{Row: "a", Side: tenon, Unit: "ns", Round: 1, Value: 7},
		{Row: "b", Side: tenon, Unit: "ms", Round: 1, Value: 1},
		{Row: "a", Side: tenon, Unit: "ns", Round: 2, Value: 8},
		{Row: "a", Side: qemuRust, Unit: "ns", Round: 2, Value: 24},
	})
	if len(rows) != 2 || rows[0].Name != "a" || rows[1].Name != "b" || rows[1].Unit != "ms" {
		t.Fatalf("rows: %+v", rows)
	}
	if r := rows[0].Results; len(r) != 2 || r[0].Name != tenon || len(r[0].Rounds) != 2 || r[0].Rounds[1].Value != 8 {
		t.Fatalf("results: %+v", r)
	}
	if s, ok := rows[0].Ratio(qemuRust, tenon); !ok || s.Least != 2 || s.Most != 3 {
		t.Errorf("ratios %+v, want 2 to 3", s)
	}
}

// TestClaimsHaveRows wants every claim to be about a row that some guest measures.
func TestClaimsHaveRows(t *testing.T) {
	rows := map[string]bool{bootRow: true, bootRootRow: true, rssRow: true, pssRow: true}
	for _, cache := range caches {
		rows[withCache(totalRow, cache)] = true
		for _, step := range fullSizes.work() {
			rows[withCache(step.Row, cache)] = true
		}
	}
	for _, c := range claims(figures.Options{}) {
		if !rows[c.Row] {
			t.Errorf("nobody measures %s", c.Row)
		}
	}
}

// TestInitramfsUnpacks has cpio read an archive, and runs the tiny init of it.
func TestInitramfsUnpacks(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed")
	}
	a := newInitramfs()
	a.add("init", tinyInit())
	a.finished() // in between
	a.add("lib/deep/er/file", []byte("five5"))
	cmd := exec.Command(busybox, "cpio", "-idm")
	cmd.Dir, cmd.Stdin = t.TempDir(), bytes.NewReader(a.finished())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(cmd.Dir, "lib/deep/er/file")); err != nil || string(b) != "five5" {
		t.Errorf("the file is %q: %v", b, err)
	}
	init := filepath.Join(cmd.Dir, "init")
	if f, err := elf.Open(init); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	c := newConsole()
	run := exec.Command(init)
	run.Stdout = c
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	_, err = c.wait(saidInit+"\n", 10*time.Second)
	run.Process.Kill()
	if e := run.Wait().(*exec.ExitError); err != nil || e.ExitCode() != -1 {
		t.Errorf("%v; it ended by itself with %v", err, e)
	}
}

// TestConsoleTellsOfTheEnd wants waiting to end with a machine that dies.
func TestConsoleTellsOfTheEnd(t *testing.T) {
	c := newConsole()
	c.Write([]byte("Kernel panic"))
	go c.end()
	if _, err := c.wait(saidDone, time.Minute); err == nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("%v, want the last words", err)
	}
}

// TestWorkOnTheHost has the guest's steps done on a directory here: each does what it
// says, and notices a file that is not as it should be.
func TestWorkOnTheHost(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, readFile)
	if err := fill(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := step{Block: page, Count: 64, Random: true}
	write := read
	write.Write = true
	buffer := make([]byte, page)
	for _, s := range []step{read, write} {
		if err := s.move(int(f.Fd()), buffer, s.offsets(1<<20)); err != nil {
			t.Error(err)
		}
	}
	if err := check(path); err != nil {
		t.Errorf("after writes: %v", err)
	}
	at := read.offsets(1 << 20)[0]
	if _, err := f.WriteAt([]byte{0xff}, at+1); err != nil {
		t.Fatal(err)
	}
	if err := read.move(int(f.Fd()), buffer, read.offsets(1<<20)); err == nil {
		t.Error("a read of a wrong page went through")
	}
	if err := check(path); err == nil {
		t.Error("a wrong page went through")
	}
	if err := read.move(int(f.Fd()), buffer, []int64{1 << 20}); err == nil {
		t.Error("a read of nothing went through")
	}
}

// TestNames makes, finds and removes names, and fails where there are none.
func TestNames(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, do := range []action{create, stat, unlink} {
		if err := (step{Do: do}).name("a"); err != nil {
			t.Errorf("%s: %v", do, err)
		}
	}
	for _, do := range []action{stat, unlink} {
		if err := (step{Do: do}).name("a"); err == nil {
			t.Errorf("%s of nothing went through", do)
		}
	}
}

// TestTreeBuilds has the tools here do what guests do with the tree.
func TestTreeBuilds(t *testing.T) {
	for _, tool := range []string{"git", "make", "tar", "find"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	if err := furnish(dir, smokeSizes); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, scratchPrefix), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, s := range smokeSizes.metadata() {
		if s.Do != command {
			continue
		}
		cmd := exec.Command(s.Args[0], s.Args[1:]...)
		cmd.Dir = filepath.Join(dir, strings.Replace(s.Dir, scratch, scratchPrefix, 1))
		out, err := cmd.Output()
		if n := bytes.Count(out, []byte("\n")); err != nil || n != s.Lines {
			t.Errorf("%s: %v, %d lines, want %d:\n%s", s.Row, err, n, s.Lines, out)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, scratchPrefix, "tree/d1/built-in")); err != nil || !strings.Contains(string(b), "value_1_1") {
		t.Errorf("make made %q: %v", b, err)
	}
}

// TestFamily finds the children of a process.
func TestFamily(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 60 & wait")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	limit := time.Now().Add(10 * time.Second)
	for len(family(cmd.Process.Pid)) < 2 && time.Now().Before(limit) {
		time.Sleep(time.Millisecond)
	}
	list := family(cmd.Process.Pid)
	defer func() {
		for _, pid := range list {
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill()
			}
		}
	}()
	if len(list) != 2 || list[0] != cmd.Process.Pid {
		t.Errorf("family %v of %d, want it and its child", list, cmd.Process.Pid)
	}
}

// TestResident wants a guest's RAM left out: what is kept from children.
func TestResident(t *testing.T) {
	before, err := residentOf(os.Getpid())
	if err != nil || before.pss == 0 || before.rss < before.pss {
		t.Fatalf("%+v: %v", before, err)
	}
	const size = 64 << 20
	ram, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(ram)
	one, err := residentOf(os.Getpid())
	if err != nil || one.rss-before.rss < size>>11 {
		t.Fatalf("%d KiB more for 64 MiB: %v", one.rss-before.rss, err)
	}
	if err := unix.Madvise(ram, unix.MADV_DONTFORK); err != nil {
		t.Fatal(err)
	}
	if two, err := residentOf(os.Getpid()); err != nil || two.rss-before.rss > size>>11 {
		t.Errorf("%d KiB more, though the memory is a guest's: %v", two.rss-before.rss, err)
	}
}
