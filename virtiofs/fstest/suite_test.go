package fstest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// host is a new empty directory below dir as a target.
func host(t *testing.T, dir string) *Host {
	t.Helper()
	old := unix.Umask(0)
	t.Cleanup(func() { unix.Umask(old) })
	dir, err := os.MkdirTemp(dir, "fstest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h, err := NewHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// TestControlIsSteady: two runs of all cases on a local directory have the same
// traces, so nothing in them comes by chance.
func TestControlIsSteady(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/dev/shm"} {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			if _, err := os.Stat(dir); err != nil {
				t.Skip("SKIPPED: ", err)
			}
			k := Knobs{Entries: 200}
			a, b := Run(host(t, dir), Cases(), k), Run(host(t, dir), Cases(), k)
			for _, p := range Compare(a, b, nil) {
				t.Error(p)
			}
			for _, trace := range a {
				if trace.Skipped != "" && unix.Getuid() == 0 {
					t.Errorf("%s was skipped: %s", trace.Case, trace.Skipped)
				}
				if trace.Skipped == "" && len(trace.Lines) == 0 {
					t.Errorf("%s has an empty trace", trace.Case)
				}
			}
		})
	}
}

func TestCaseNames(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range append(Cases(), ReadOnlyCases()...) {
		if seen[c.Name] || c.Name == "" || strings.ContainsAny(c.Name, "/ ") {
			t.Errorf("case name %q", c.Name)
		}
		seen[c.Name] = true
	}
	for _, d := range Differences() {
		if !seen[d.Case] || d.Reason == "" || len(d.On) == 0 {
			t.Errorf("%+v", d)
		}
	}
}

func TestTracesAsJSON(t *testing.T) {
	list := []Trace{{Case: "a", Lines: []string{`mkdir "\xff\n" 755 = 0`, "b"}}, {Case: "c", Skipped: "why"}}
	var b strings.Builder
	if err := WriteTraces(&b, list); err != nil {
		t.Fatal(err)
	}
	got, err := ReadTraces(strings.NewReader(b.String()))
	if err != nil || len(got) != 2 || !slices.Equal(got[0].Lines, list[0].Lines) || got[1].Skipped != "why" {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := ReadTraces(strings.NewReader(b.String() + "{")); err == nil {
		t.Error("half a trace was read")
	}
}

func TestCompare(t *testing.T) {
	control := []Trace{{Case: "c", Lines: []string{"mkdir a 755 = 0", "stat a = x"}}}
	subject := func(lines ...string) []Trace { return []Trace{{Case: "c", Lines: lines}} }
	eperm := Difference{Case: "c", Call: "mkdir*", Answer: "EPERM", On: []string{"raw", "guest !writeback"}, Reason: "r"}
	for _, c := range []struct {
		what   string
		got    []Trace
		known  []Difference
		labels string
		wrong  string // contained in the only complaint; "": none
	}{
		{"equal", control, nil, "", ""},
		{"errno", subject("mkdir a 755 = EPERM", "stat a = x"), nil, "", "line 1"},
		{"too few lines", subject("mkdir a 755 = 0"), nil, "", "(no line)"},
		{"too many lines", subject("mkdir a 755 = 0", "stat a = x", "more = 0"), nil, "", "line 3"},
		{"known", subject("mkdir a 755 = EPERM", "stat a = x"), []Difference{eperm}, "raw", ""},
		{"known elsewhere", subject("mkdir a 755 = EPERM", "stat a = x"), []Difference{eperm}, "guest writeback", "line 1"},
		{"known here too", subject("mkdir a 755 = EPERM", "stat a = x"), []Difference{eperm}, "guest never", ""},
		{"another answer", subject("mkdir a 755 = EIO", "stat a = x"), []Difference{eperm}, "raw", "line 1"},
		{"rotten", control, []Difference{eperm}, "raw", "take it off"},
		{"rotten elsewhere", control, []Difference{eperm}, "guest writeback", ""},
		{"skipped", []Trace{{Case: "c", Skipped: "why"}}, []Difference{eperm}, "raw", ""},
		{"unknown case", []Trace{{Case: "z"}}, nil, "", "no such case"},
		{"another call", subject("rmdir a 755 = 0", "stat a = x"), []Difference{{Case: "c", Call: "mkdir a 755", On: []string{"raw"}, Reason: "r"}}, "raw", "line 1"},
	} {
		got := Compare(control, c.got, c.known, strings.Fields(c.labels)...)
		got = slices.DeleteFunc(got, func(s string) bool {
			// An entry that does not fit leaves itself as rotten; that is its own row.
			return c.wrong != "take it off" && strings.Contains(s, "take it off")
		})
		if c.wrong == "" && len(got) > 0 || c.wrong != "" && (len(got) != 1 || !strings.Contains(got[0], c.wrong)) {
			t.Errorf("%s: %q, want %q", c.what, got, c.wrong)
		}
	}
}
