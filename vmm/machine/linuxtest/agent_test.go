package linuxtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/vmm/config"
)

// order is what a test asks the agent in its guest to do; answer is how it went.
// Both travel as lines of JSON on the standard streams of the guest's command.
type order struct {
	ID   int      `json:"id"`
	Op   string   `json:"op"`
	Args []string `json:"args,omitempty"`
}

type answer struct {
	ID    int        `json:"id"`
	Out   string     `json:"out,omitempty"`
	Errno unix.Errno `json:"errno,omitempty"` // of the system call that failed
	Err   string     `json:"err,omitempty"`
}

// serveAgent does the orders that come in, each on its own goroutine: one that
// waits for a lock holds up no other.
func serveAgent(in io.Reader, out io.Writer) error {
	var mu sync.Mutex
	encoder := json.NewEncoder(out)
	say := func(a answer) error {
		mu.Lock()
		defer mu.Unlock()
		return encoder.Encode(a)
	}
	if err := say(answer{}); err != nil { // ready
		return err
	}
	decoder := json.NewDecoder(in)
	for {
		var o order
		if err := decoder.Decode(&o); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		go func() {
			a := answer{ID: o.ID}
			var err error
			if a.Out, err = perform(o.Op, o.Args...); err != nil {
				a.Err = err.Error()
				errors.As(err, &a.Errno)
			}
			_ = say(a)
		}()
	}
}

// guest is a running guest with an agent in it.
type guest struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer
	report string
	tags   map[string]string // of the volumes, by mount point

	mu      sync.Mutex
	last    int
	waiting map[int]chan answer
	gone    chan struct{} // closed when nothing more comes from the guest
}

// guestDied is what do panics with; crew recovers it.
type guestDied struct{ g *guest }

// crew is the guests of one test.
type crew struct {
	t      *testing.T
	guests []*guest
	died   *guest // the first that did
}

// withGuests runs a test's body, which starts guests, and ends them. When one of them
// died in an emulated machine the body runs once more, all anew.
func withGuests(t *testing.T, body func(c *crew)) {
	t.Helper()
	if tryGuests(t, body) {
		return
	}
	again = append(again, t.Name())
	if !tryGuests(t, body) {
		t.Fatal("a guest died once more")
	}
}

// tryGuests says false when a guest died and the body may run once more.
func tryGuests(t *testing.T, body func(c *crew)) (ok bool) {
	t.Helper()
	c := &crew{t: t}
	defer func() {
		c.recovered(recover())
		for _, g := range c.guests {
			g.kill()
		}
		if c.died != nil {
			ok = c.lament()
		}
	}()
	body(c)
	for _, g := range c.guests {
		if c.died == nil && g.cmd.ProcessState == nil {
			g.end(t)
		}
	}
	return true
}

// recovered notes which guest died, and passes on every other panic.
func (c *crew) recovered(r any) {
	if r == nil {
		return
	}
	d, is := r.(guestDied)
	if !is {
		panic(r)
	}
	if c.died == nil {
		c.died = d.g
	}
}

// lament tells of a guest that died. Where that can be the emulation's doing it says
// false, to have the body run again; otherwise the test fails.
func (c *crew) lament() bool {
	status := c.died.cmd.ProcessState.ExitCode()
	if status == 255 && os.Getenv("LAB_EMULATED") != "" {
		c.t.Logf("a guest died in an emulated machine:\n%s", &c.died.stderr)
		return false
	}
	c.t.Errorf("a guest ended too early, exit status %d:\n%s", status, &c.died.stderr)
	return true
}

// step is a subtest that works with the guests. When one of them has died the rest of
// the steps are passed over.
func (c *crew) step(name string, body func(t *testing.T)) {
	c.t.Helper()
	if c.died != nil {
		return
	}
	c.t.Run(name, func(t *testing.T) {
		defer func() {
			if c.recovered(recover()); c.died != nil {
				t.Skip("a guest died")
			}
		}()
		body(t)
	})
}

// start boots a guest with an agent as its command.
func (c *crew) start(flags ...string) *guest {
	c.t.Helper()
	return c.startAs(exec.Command(needKVM(c.t)), flags...)
}

// startAs is start with the beginning of tenon's command line given, which may be
// another program's that executes tenon.
func (c *crew) startAs(cmd *exec.Cmd, flags ...string) *guest {
	t := c.t
	t.Helper()
	agent, err := agentDir()
	if err != nil {
		t.Fatal(err)
	}
	reports := scratch(t)
	if err := os.Chmod(reports, 0o777); err != nil { // tenon's user need not be ours
		t.Fatal(err)
	}
	g := &guest{cmd: cmd, report: filepath.Join(reports, "report"), tags: volumeTags(flags),
		waiting: make(map[int]chan answer), gone: make(chan struct{})}
	cmd.Args = append(append(append(cmd.Args, "run", "--report", g.report), flags...), "-v", agent+":/agent,ro", "--", "sh", "-c", "TENON_GUEST=agent exec /agent/agent")
	cmd.Stderr = &g.stderr
	if g.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan answer, 1)
	g.waiting[0] = ready
	from := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.guests = append(c.guests, g)
	go g.listen(stdout)
	if _, err := g.await(ready); err != nil {
		t.Fatal(err)
	}
	t.Logf("%v to the agent: tenon %s", time.Since(from).Round(10*time.Millisecond), strings.Join(cmd.Args[1:], " "))
	return g
}

// agentDir is a directory with this test binary that everybody may read: tenon does
// not run as root everywhere.
var agentDir = sync.OnceValues(func() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(self)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(os.Getenv("LAB_EXT4"), "agent")
	if err != nil {
		return "", err
	}
	return dir, errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "agent"), b, 0o755))
})

// volumeTags is the tags that tenon gives to the volumes, by mount point.
func volumeTags(flags []string) map[string]string {
	tags := make(map[string]string)
	for i, flag := range flags[:max(len(flags)-1, 0)] {
		if flag == "-v" {
			_, mount, _ := strings.Cut(flags[i+1], ":")
			mount, _, _ = strings.Cut(mount, ",")
			tags[mount] = config.VolumeTag(len(tags))
		}
	}
	return tags
}

func (g *guest) listen(stdout io.Reader) {
	defer close(g.gone)
	decoder := json.NewDecoder(bufio.NewReader(stdout))
	for {
		var a answer
		if decoder.Decode(&a) != nil {
			return
		}
		g.mu.Lock()
		c := g.waiting[a.ID]
		delete(g.waiting, a.ID)
		g.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
}

// begin sends an order and returns where its answer will come.
func (g *guest) begin(op string, args ...string) <-chan answer {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	c := make(chan answer, 1)
	g.waiting[g.last] = c
	b, err := json.Marshal(order{g.last, op, args})
	if err == nil {
		_, err = g.stdin.Write(append(b, '\n'))
	}
	if err != nil {
		panic(guestDied{g})
	}
	return c
}

// orderTime bounds one order.
const orderTime = 8 * time.Minute

func (g *guest) do(op string, args ...string) (string, error) {
	return g.await(g.begin(op, args...))
}

func (g *guest) await(c <-chan answer) (string, error) {
	var a answer
	select {
	case a = <-c:
	case <-g.gone:
		select { // the answer may have been the last word
		case a = <-c:
		default:
			panic(guestDied{g})
		}
	case <-time.After(orderTime):
		return "", fmt.Errorf("the guest gave no answer within %v", orderTime)
	}
	switch {
	case a.Errno != 0:
		return a.Out, a.Errno
	case a.Err != "":
		return a.Out, errors.New(a.Err)
	}
	return a.Out, nil
}

// end lets the agent end and wants its status to be tenon's: no share, however
// broken, may keep a guest from ending.
func (g *guest) end(t *testing.T) {
	t.Helper()
	g.stdin.Close()
	timer := time.AfterFunc(bootTime, func() { g.cmd.Process.Kill() })
	defer timer.Stop()
	<-g.gone
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("tenon ended with %v:\n%s", err, &g.stderr)
	}
}

// kill ends tenon if it still runs.
func (g *guest) kill() {
	if g.cmd.ProcessState == nil {
		g.stdin.Close()
		g.cmd.Process.Kill()
		<-g.gone
		_ = g.cmd.Wait()
	}
}

// figures is what the tests need of tenon's report.
type figures struct {
	Overhead int                       `json:"overhead_kib"`
	Requests map[string]map[string]int `json:"requests"` // by tag and opcode
	DAX      map[string]map[string]int `json:"dax"`      // by tag and what is counted (dax.Stats)
}

// figures returns the report of a guest that was ended.
func (g *guest) figures(t *testing.T) figures {
	t.Helper()
	var f figures
	b, err := os.ReadFile(g.report)
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// party is somebody who works on a directory: a guest, or the host.
type party interface {
	do(op string, args ...string) (string, error)
}

// host does here what guests are asked to do there.
type host struct{}

func (host) do(op string, args ...string) (string, error) { return perform(op, args...) }

// must fails the test unless the party could do it, and returns what came out.
func must(t *testing.T, p party, op string, args ...string) string {
	t.Helper()
	out, err := p.do(op, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", op, args, err, out)
	}
	return out
}

// fails wants the errno.
func fails(t *testing.T, want unix.Errno, p party, op string, args ...string) {
	t.Helper()
	if out, err := p.do(op, args...); err != want {
		t.Errorf("%s %q: %v, want %v (%v)\n%s", op, args, err, unix.ErrnoName(want), want, out)
	}
}

// same fails the test with the lines that only one of the texts has.
func same(t *testing.T, a, textA, b, textB string) {
	t.Helper()
	if textA == textB {
		return
	}
	only := func(text, other string) string {
		lines := strings.Split(other, "\n")
		return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(s string) bool { return slices.Contains(lines, s) }), "\n")
	}
	t.Errorf("only %s:\n%s\nonly %s:\n%s", a, only(textA, textB), b, only(textB, textA))
}

// knob is a size that an environment variable overrides, for runs longer than make test's.
func knob(t *testing.T, name string, size int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return size
	}
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 {
		t.Fatalf("%s=%s is no number above 0", name, s)
	}
	return n
}

// needRoot skips a test that changes the host's mounts or owners.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root, to mount file systems or to change owners")
	}
}

// needPrograms skips a test of programs that are not installed.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed: run scripts/deps test", name)
		}
	}
}

// scratch is an empty directory on ext4 where the lab has one.
func scratch(t *testing.T) string {
	t.Helper()
	ext4 := os.Getenv("LAB_EXT4")
	if ext4 == "" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(ext4, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// guestPrograms is what this test binary is inside a guest, by TENON_GUEST.
var guestPrograms = map[string]func(args []string) error{
	"agent": func([]string) error { return serveAgent(os.Stdin, os.Stdout) },
	"mmap":  func(args []string) error { return writeMapped(args[0]) },
	"touch": touchMapped,
	"suite": runSuite,
}

// TestMain lets the test binary be a program inside the guest.
func TestMain(m *testing.M) {
	name := os.Getenv("TENON_GUEST")
	if name == "" {
		status := m.Run()
		if dir, err := agentDir(); err == nil {
			os.RemoveAll(dir)
		}
		os.Exit(status)
	}
	program, ok := guestPrograms[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "TENON_GUEST=%s: %v\n", name, maps.Keys(guestPrograms))
		os.Exit(2)
	}
	if err := program(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
