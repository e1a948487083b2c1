package linuxtest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stormFile is the length in bytes of the file in the storm: it begins in one range
// of a window and ends in the next.
const stormFile = 3 << 20

// stormWord is what every word of a page holds, unless it is zero or just changing
// from one to the other. No byte of it is zero.
func stormWord(page int) uint64 {
	return 0x7465_6e6f_6e01_0101 + uint64(page%128) + uint64(page/128)<<8
}

// inStorm says whether a page may show the word.
func inStorm(word uint64, page int) bool {
	for want := stormWord(page); word != 0; word, want = word>>8, want>>8 {
		if b := byte(word); b != 0 && b != byte(want) {
			return false
		}
	}
	return true
}

// stormPages is the bytes of pages in the storm.
func stormPages(first, n int) []byte {
	b := make([]byte, 0, n*pageSize)
	for page := first; page < first+n; page++ {
		for range pageWord {
			b = binary.NativeEndian.AppendUint64(b, stormWord(page))
		}
	}
	return b
}

// TestDAXFaults has the host take away what two guests have mapped. Both live on; what
// is gone is SIGBUS to the programs of one, where the processor allows it, and zeros
// to those of the other.
func TestDAXFaults(t *testing.T) {
	withGuests(t, func(c *crew) {
		dir := scratch(t)
		var places []place
		for _, policy := range []string{"sigbus", "zero"} {
			g := c.start("-c", "2", "-m", "512M", "-v", dir+":/s"+sharing+",dax-fault="+policy)
			places = append(places, place{g, policy, "/s"})
		}
		for _, p := range places {
			c.step(p.name, func(t *testing.T) { takeAway(t, dir, p) })
		}
		tallies := make(map[string]stormTally)
		c.step("storm", func(t *testing.T) { mappedStorm(t, dir, places, tallies) })
		c.step("after the storm", func(t *testing.T) { calm(t, dir, places) })
		c.step("figures", func(t *testing.T) {
			for _, p := range places {
				g := p.party.(*guest)
				g.end(t)
				p.count(t, g, tallies[p.name])
			}
		})
	})
}

// signals says whether programs of the place meet SIGBUS. Where they cannot, because
// the processor is none of AMD's kind, zeros stand in.
func (p place) signals() bool {
	b, err := os.ReadFile("/proc/cpuinfo")
	amd := bytes.Contains(b, []byte("AuthenticAMD")) || bytes.Contains(b, []byte("HygonGenuine"))
	return err == nil && amd && p.name == "sigbus"
}

// The pages of the file that is taken away in peace: so many, of which the host
// leaves so many.
const takenPages, leftPages = 8, 2

// What takeAway makes of pages by loads and stores of programs, and by read(2).
const takenTouches, takenReads = 4, 1

// takeAway truncates a file that a program of the guest has mapped, and lets it grow
// again.
func takeAway(t *testing.T, dir string, p place) {
	here, there := filepath.Join(dir, p.name), filepath.Join(p.dir, p.name)
	fill := func() {
		t.Helper()
		must(t, host{}, "write", here, string(stormPages(0, takenPages)))
	}
	fill()
	file := must(t, p, "open", there, fmt.Sprint(unix.O_RDWR))
	mapped := must(t, p, "mapping", "map", there, fmt.Sprint(takenPages*pageSize))
	look := func(page int) string { return must(t, p, "mapping", "load", mapped, fmt.Sprint(page)) }
	whole := func() {
		t.Helper()
		for page := range takenPages {
			if got, want := look(page), fmt.Sprint(stormWord(page)); got != want {
				t.Errorf("page %d is %s, want %s", page, got, want)
			}
		}
	}
	whole()
	if err := os.Truncate(here, leftPages*pageSize); err != nil {
		t.Fatal(err)
	}
	gone, stored := "0", ""
	if p.signals() {
		gone, stored = machineBus.String(), machineBus.String()
	}
	for page := takenPages - takenTouches + 1; page < takenPages; page++ {
		if got := look(page); got != gone {
			t.Errorf("page %d, which is gone, is %q, want %q", page, got, gone)
		}
	}
	if got := must(t, p, "mapping", "store", mapped, fmt.Sprint(takenPages-takenTouches), "1"); got != stored {
		t.Errorf("a store to what is gone: %q, want %q", got, stored)
	}
	// The guest's kernel, which copies here, has nobody to send a signal to.
	if got := must(t, p, "mapping", "pread", file, fmt.Sprint(leftPages)); got != "0" {
		t.Errorf("read(2) of what is gone: %s", got)
	}
	if !p.signals() { // the store went nowhere
		fails(t, unix.EIO, p, "fsync", file)
	}
	must(t, p, "fsync", file)
	for page := range leftPages {
		if got, want := look(page), fmt.Sprint(stormWord(page)); got != want {
			t.Errorf("page %d, which is left, is %s, want %s", page, got, want)
		}
	}
	if fi, err := os.Stat(here); err != nil || fi.Size() != leftPages*pageSize {
		t.Errorf("the host's file: %v, %v", fi, err)
	}
	if err := os.WriteFile(here+".new", stormPages(0, takenPages), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, host{}, "sh", fmt.Sprintf("cat '%[1]s.new' 1<> '%[1]s'", here)) // grows again, never shorter than it is
	for end := time.Now().Add(10 * time.Second); look(takenPages-1) != fmt.Sprint(stormWord(takenPages-1)) && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	whole()
}

// mappedStorm has both guests use a file while the host takes it away in every way.
// They must get on all the time.
func mappedStorm(t *testing.T, dir string, places []place, tallies map[string]stormTally) {
	seconds := knob(t, "TENON_TEST_STORM_SECONDS", 8)
	path := filepath.Join(dir, "storm")
	must(t, host{}, "write", path, string(stormPages(0, stormFile/pageSize)))
	var answers []<-chan answer
	for i, p := range places {
		answers = append(answers, begin(p, "mapping", "storm", p.dir+"/storm", fmt.Sprint(i), fmt.Sprint(seconds)))
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	changes := make(map[string]int)
	var failed error
	wg.Go(func() { failed = takeAwayOften(path, changes, done) })
	stop := sync.OnceFunc(func() { close(done); wg.Wait() })
	defer stop()
	for _, p := range places { // figures are told at any time
		progress(t, p)
		if err := p.party.(*guest).cmd.Process.Signal(unix.SIGUSR1); err != nil {
			t.Error(err)
		}
	}
	for i, p := range places {
		tallies[p.name] = watch(t, p, answers[i], time.Duration(seconds)*time.Second)
	}
	stop()
	if failed != nil {
		t.Error(failed)
	}
	t.Logf("the host: %v", changes)
}

// takeAwayOften changes the file on the host until it is told to stop, and counts what
// it did.
func takeAwayOften(path string, changes map[string]int, done <-chan struct{}) error {
	random := rand.New(rand.NewPCG(1, 2))
	pages, stormBytes := stormFile/pageSize, stormPages(0, stormFile/pageSize)
	type way struct {
		name string
		do   func() error
	}
	ways := []way{
		{"truncated", func() error { return os.Truncate(path, random.Int64N(stormFile)) }},
		{"emptied", func() error { return os.Truncate(path, 0) }},
		{"punched", func() error {
			at := random.IntN(pages)
			return onHost(path, func(fd int) error {
				return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at)*pageSize, int64(pages-at)*pageSize)
			})
		}},
		{"stretched", func() error { return os.Truncate(path, stormFile) }},
		{"refilled", func() error {
			return onHost(path, func(fd int) error { _, err := unix.Pwrite(fd, stormBytes, 0); return err })
		}},
	}
	// A guest may use what it has by a name for another second: after one of these it
	// mostly has a file that nobody changes any more.
	seldom := map[int]way{
		10: {"deleted", func() error { return os.Remove(path) }},
		30: {"replaced", func() error {
			return errors.Join(os.WriteFile(path+".new", stormBytes[:random.IntN(stormFile)], 0o644), os.Rename(path+".new", path))
		}},
	}
	for n := 0; ; n++ {
		select {
		case <-done:
			return nil
		case <-time.After(time.Duration(random.IntN(40)) * time.Millisecond):
		}
		way, ok := seldom[n%40]
		if !ok {
			way = ways[random.IntN(len(ways))]
		}
		if err := way.do(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		changes[way.name]++
	}
}

// onHost opens a file for writing, and makes it if it is not there.
func onHost(path string, do func(fd int) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(do(int(f.Fd())), f.Close())
}

// watchdog is how long a guest may get nothing done.
const watchdog = 30 * time.Second

// watch waits for a guest's storm to end. All the time both the program that maps the
// file and the one that does not must get on.
func watch(t *testing.T, p place, storm <-chan answer, lasts time.Duration) (tally stormTally) {
	t.Helper()
	g, end := p.party.(*guest), time.Now().Add(lasts+patience)
	var seen [2]string
	var since [2]time.Time
	for {
		select {
		case a := <-storm:
			if err := json.Unmarshal([]byte(a.Out), &tally); err != nil || a.Err != "" {
				t.Errorf("%s: %s, %v", p.name, a.Err, err)
			}
			t.Logf("%s: %+v", p.name, tally)
			return tally
		case <-g.gone:
			panic(guestDied{g})
		case <-time.After(time.Second):
		}
		for i, now := range strings.Fields(progress(t, p)) {
			if now != seen[i] {
				seen[i], since[i] = now, time.Now()
			} else if time.Since(since[i]) > watchdog {
				t.Fatalf("%s: %s got nothing done in %v", p.name, [...]string{"who maps the file", "who does not map it"}[i], watchdog)
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%s: the storm does not end", p.name)
		}
	}
}

// progress is how much a guest got done so far.
func progress(t *testing.T, p place) string {
	t.Helper()
	select {
	case a := <-begin(p, "mapping", "progress"):
		return a.Out
	case <-p.party.(*guest).gone:
		panic(guestDied{p.party.(*guest)})
	case <-time.After(watchdog):
		t.Fatalf("%s: no answer in %v", p.name, watchdog)
		return ""
	}
}

// calm finds that after the storm all see the same, that the guests' kernels are well,
// and that none of them gave up pages of the window for broken.
func calm(t *testing.T, dir string, places []place) {
	whole := stormPages(0, stormFile/pageSize)
	must(t, host{}, "write", filepath.Join(dir, "storm"), string(whole))
	want := must(t, host{}, "mapping", "sum", filepath.Join(dir, "storm"))
	for _, p := range places {
		got := ""
		for end := time.Now().Add(10 * time.Second); got != want && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			got = must(t, p, "mapping", "sum", p.dir+"/storm")
		}
		if got != want {
			t.Errorf("%s reads %s, the host %s", p.name, got, want)
		}
		mapped := must(t, p, "mapping", "map", p.dir+"/storm", fmt.Sprint(stormFile))
		for page := 0; page < stormFile/pageSize; page += 97 {
			if got, want := must(t, p, "mapping", "load", mapped, fmt.Sprint(page)), fmt.Sprint(stormWord(page)); got != want {
				t.Errorf("%s: page %d is %s, want %s", p.name, page, got, want)
			}
		}
		if out := must(t, p, "sh", "dmesg | grep -E 'blocked for more|BUG|Oops|WARNING.* at (fs|mm|kernel)/|Memory failure' || true"); out != "" {
			t.Errorf("%s: the guest's kernel complains:\n%s", p.name, out)
		}
	}
}

// count compares what Tenon counted with what the guest's programs met.
func (p place) count(t *testing.T, g *guest, tally stormTally) {
	s, ok := g.windows(t)["/s"]
	if !ok {
		t.Fatalf("%s: the report has no figures of the window", p.name)
	}
	t.Logf("%s: %+v", p.name, s)
	wrong := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: %s; the window: %+v, the programs: %+v", p.name, fmt.Sprintf(format, args...), s, tally)
	}
	met := uint64(tally.ByMachine)
	if p.signals() {
		met += takenTouches
		if tally.ByMachine == 0 {
			wrong("no program met SIGBUS in the storm")
		}
		if s.Zeroed < takenReads {
			wrong("read(2) found zeros, but no page was zeroed")
		}
	} else {
		if tally.Zeros == 0 {
			wrong("no program saw a zero in the storm")
		}
		if s.Signaled != 0 {
			wrong("machine checks where there are to be none")
		}
		if s.Zeroed < takenTouches {
			wrong("%d pages were zeroed before the storm", takenTouches)
		}
	}
	if s.Signaled != met { // a machine check is one signal, of one program
		wrong("%d machine checks, but %d SIGBUS without an address", s.Signaled, met)
	}
	if faults := s.Truncated + s.Failed + s.Protected; s.Signaled+s.Zeroed != faults {
		wrong("%d answers to %d faults", s.Signaled+s.Zeroed, faults)
	}
	if s.Truncated == 0 || s.Setups == 0 || s.Mapped+s.Free != s.Ranges || s.Size != 64<<20 {
		wrong("the figures contradict the test or one another")
	}
	contains(t, "standard error after SIGUSR1", g.stderr.String(), `"`+g.tags["/s"]+`"`, `"signaled"`)
}

// TestDAXFaultStops wants a machine with dax-fault=stop to end, and to say which share
// lost what the guest used.
func TestDAXFaultStops(t *testing.T) {
	withGuests(t, func(c *crew) {
		dir := scratch(t)
		must(t, host{}, "write", filepath.Join(dir, "file"), string(stormPages(0, takenPages)))
		g := c.start("-c", "1", "-m", "512M", "-v", dir+":/s"+sharing+",dax-fault=stop")
		mapped := must(t, g, "mapping", "map", "/s/file", fmt.Sprint(takenPages*pageSize))
		must(t, g, "mapping", "load", mapped, fmt.Sprint(leftPages))
		if err := os.Truncate(filepath.Join(dir, "file"), leftPages*pageSize); err != nil {
			t.Fatal(err)
		}
		select {
		case a := <-g.begin("mapping", "load", mapped, fmt.Sprint(leftPages)):
			t.Fatalf("the machine runs on: %+v", a)
		case <-g.gone:
		case <-time.After(watchdog):
			t.Fatal("the machine neither ends nor runs on")
		}
		_ = g.cmd.Wait() // its status is looked at
		if status, said := g.cmd.ProcessState.ExitCode(), g.stderr.String(); status != 125 || strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "tenon: ") {
			t.Errorf("exit status %d, want 125 and one line:\n%s", status, said)
		}
		contains(t, "the reason", g.stderr.String(), "share /s:", "dax-fault=stop")
	})
}
