package linuxtest

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fstest"
)

// subject is a share on which the conformance suite runs in a guest.
type subject struct {
	name    string   // of the subtest, and of the mount point
	options string   // of the share
	labels  []string // for fstest.Compare
	cases   func() []fstest.Case
}

var subjects = []subject{
	{"never", "cache=never,devices", []string{"never", "devices"}, fstest.Cases},
	{"metadata", "cache=metadata", []string{"metadata"}, fstest.Cases},
	{"auto", "cache=auto,inode-handles=never", []string{"auto"}, fstest.Cases},
	{"always", "cache=always,locks=host", []string{"always", "locks"}, fstest.Cases},
	{"writeback", "cache=always,writeback", []string{"always", "writeback"}, fstest.Cases},
	{"dax", "cache=auto,attr-timeout=0," + daxWindow, []string{"auto", "dax"}, fstest.Cases},
	{"readonly", "cache=auto,ro", []string{"auto", "ro"}, fstest.ReadOnlyCases},
	{"immutable", "cache=immutable,ro", []string{"immutable", "ro"}, fstest.ReadOnlyCases},
}

// suiteKnobs: an emulated machine's clock of time stamps may miss ticks.
var suiteKnobs = fstest.Knobs{Entries: 120, Data: 256 << 10, Tick: 20 * time.Millisecond}

// runSuite is the suite as a program in a guest: it runs the subject's cases on
// the directory of its name below /, and writes the traces to standard output.
func runSuite(args []string) error {
	unix.Umask(0)
	for _, s := range subjects {
		if s.name != args[0] {
			continue
		}
		h, err := fstest.NewHost("/" + s.name)
		if err != nil {
			return err
		}
		if err := fstest.WriteTraces(os.Stdout, fstest.Run(h, s.cases(), suiteKnobs)); err != nil {
			return err
		}
		return h.Close()
	}
	return fmt.Errorf("there is no subject %q", args[0])
}

// TestConformance runs the conformance suite in one guest on a share for each
// policy, and compares with the directory's own file system.
func TestConformance(t *testing.T) {
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0)
	t.Cleanup(func() { unix.Umask(old) })
	withGuests(t, func(c *crew) {
		var flags []string
		for _, s := range wantedSubjects() {
			flags = append(flags, "-v", suiteDir(t, s)+":/"+s.name+","+s.options)
		}
		g := c.start(flags...)
		for _, s := range wantedSubjects() {
			c.step(s.name, func(t *testing.T) {
				text := must(t, g, "sh", fmt.Sprintf("TENON_GUEST=suite exec '%s' %s", self, s.name))
				got, err := fstest.ReadTraces(strings.NewReader(text))
				if err != nil {
					t.Fatal(err)
				}
				if want := len(s.cases()); len(got) != want {
					t.Fatalf("%d cases came back, want %d", len(got), want)
				}
				logSlowest(t, got)
				for _, p := range fstest.Compare(suiteControl(t, s), got, fstest.Differences(), append(s.labels, "guest")...) {
					t.Error(p)
				}
			})
		}
	})
}

// wantedSubjects is those that TENON_SUITE names, separated by commas, or all.
func wantedSubjects() []subject {
	list := os.Getenv("TENON_SUITE")
	return slices.DeleteFunc(slices.Clone(subjects), func(s subject) bool {
		return list != "" && !slices.Contains(strings.Split(list, ","), s.name)
	})
}

// logSlowest tells where the time went.
func logSlowest(t *testing.T, traces []fstest.Trace) {
	list, total := slices.Clone(traces), 0.0
	slices.SortFunc(list, func(a, b fstest.Trace) int { return cmp.Compare(b.Seconds, a.Seconds) })
	for _, trace := range list {
		total += trace.Seconds
	}
	text := fmt.Sprintf("%d cases in %.1f s, of which", len(list), total)
	for _, trace := range list[:min(len(list), 8)] {
		text += fmt.Sprintf(" %s %.1f", trace.Case, trace.Seconds)
	}
	t.Log(text)
}

// suiteDir is a new directory as a subject wants it.
func suiteDir(t *testing.T, s subject) string {
	t.Helper()
	dir := filepath.Join(scratch(t), "share")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(s.labels, "ro") {
		if err := fstest.PrepareReadOnly(dir); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// suiteControl runs the subject's cases here, on the file system that is shared.
func suiteControl(t *testing.T, s subject) []fstest.Trace {
	t.Helper()
	dir := suiteDir(t, s)
	if slices.Contains(s.labels, "ro") {
		for _, flags := range []uintptr{unix.MS_BIND, unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY} {
			if err := unix.Mount(dir, dir, "", flags, ""); err != nil {
				t.Fatalf("mounting read-only: %v", err)
			}
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	h, err := fstest.NewHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	return fstest.Run(h, s.cases(), suiteKnobs)
}
