package device

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/scripts/benchmark/figures"
)

// smoke is options for a run that is over soon.
func smoke(t *testing.T) figures.Options {
	return figures.Options{Rounds: 1, Dir: t.TempDir(), Smoke: true, Log: t.Logf}
}

// TestRun: all rows come with figures of both sides that are always there, and nothing
// is left behind.
func TestRun(t *testing.T) {
	o := smoke(t)
	r, err := Run(o) // no peers: they are looked for from the top of the source tree
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != len(rows) {
		t.Errorf("%d rows of %d", len(r.Rows), len(rows))
	}
	for _, x := range r.Rows {
		for _, side := range []string{sideBare, sideTenon} {
			if res, ok := x.Result(side); !ok || res.Value().Least <= 0 {
				t.Errorf("%s: %s took %v", x.Name, side, res.Value())
			}
		}
	}
	if !strings.Contains(strings.Join(r.Notes, "\n"), "SKIPPED") {
		t.Error("no note of the peers that are missing")
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, v := range r.Verdicts() {
		if known := v.Side == sideTenon; v.Known != known {
			t.Errorf("%+v: known %t", v.Claim, v.Known)
		}
	}
}

// TestOnly: only what is asked for is measured.
func TestOnly(t *testing.T) {
	o := smoke(t)
	o.Only = regexp.MustCompile("^GETATTR$")
	r, err := Run(o)
	if err != nil || len(r.Rows) != 1 || r.Rows[0].Name != "GETATTR" || r.Rows[0].Unit != "ns" {
		t.Errorf("%v: %+v", err, r.Rows)
	}
}

// sabotage spoils the shared directory, so that rows cannot do what they should.
var sabotage = []struct {
	name  string
	spoil func(dir string) error
	rows  string // those that must fail
}{
	{"a known file is gone", func(dir string) error {
		return os.Remove(filepath.Join(dir, "known", knownName(3)))
	}, "^(LOOKUP known|OPEN.RELEASE)"},
	{"another has grown", func(dir string) error {
		return os.Truncate(filepath.Join(dir, "known", knownName(63)), 77)
	}, "^(GETATTR|LOOKUP known)"},
	{"an unknown file is gone", func(dir string) error {
		return os.Remove(filepath.Join(dir, "many", manyName(70)))
	}, "^LOOKUP new"},
	{"the data is short", func(dir string) error {
		return os.Truncate(filepath.Join(dir, "data"), 4095)
	}, "^READ (4K|128K|1M)"},
	{"the data is another's", func(dir string) error {
		f, err := os.OpenFile(filepath.Join(dir, "data"), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{1}, 64<<10)
		return errors.Join(err, f.Close())
	}, "^READ (4K|128K|1M)"},
	{"a name is missing", func(dir string) error {
		return os.Remove(filepath.Join(dir, "list", listName(999)))
	}, "^READDIRPLUS"},
	{"a name is taken", func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "made", madeName(63)), nil, 0o644)
	}, "^CREATE"},
}

// TestSabotage: what a side cannot do, or does wrong, is an error and not a figure.
func TestSabotage(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	for _, x := range sabotage {
		t.Run(x.name, func(t *testing.T) {
			dir := t.TempDir()
			sides, err := openSides(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := x.spoil(dir); err != nil {
				t.Fatal(err)
			}
			fails := regexp.MustCompile(x.rows)
			hit := false
			for _, s := range sides {
				for _, row := range rows {
					if !fails.MatchString(row.name) || !row.has(s) {
						continue
					}
					hit = true
					if _, err := row.measure(smoke(t), []side{s}); err == nil {
						t.Errorf("%s, %s: no error", row.name, s.name)
					}
				}
				if err := s.close(); err != nil {
					t.Error(err)
				}
			}
			if !hit {
				t.Errorf("no row matches %s", x.rows)
			}
		})
	}
}

// TestShort: a READ that gets shorter between batches is an error.
func TestShort(t *testing.T) {
	sides, err := openSides(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := sides[0].subject.(*bare).dir
	for _, s := range sides {
		for _, x := range rows {
			if !strings.HasPrefix(x.name, "READ 4K") {
				continue
			}
			s.rewind()
			job, err := x.prepare(s)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(filepath.Join(dir, "data"), int64(x.n*x.size)-1); err != nil {
				t.Fatal(err)
			}
			if err := job.batch(newWatch(x.serial, job.n)); err == nil {
				t.Errorf("%s, %s: no error", x.name, s.name)
			}
			data := make([]byte, dataSize)
			stamp(data, 0, dataStamp)
			if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
}

// TestUnwritten: a WRITE that says it wrote and did not is an error.
func TestUnwritten(t *testing.T) {
	dir := t.TempDir()
	if err := makeTree(dir); err != nil {
		t.Fatal(err)
	}
	for _, x := range rows {
		if x.size == 0 {
			continue
		}
		if err := blank(dir, x); err != nil {
			t.Fatal(err)
		}
		if err := checkWritten(dir, x); err == nil {
			t.Errorf("%s: zeros are taken for what was written", x.name)
		}
	}
}

// TestKinds: rows write what no other row does, lest one takes another's for its own.
func TestKinds(t *testing.T) {
	seen := make(map[uint64]string)
	for _, x := range rows {
		if x.size == 0 || x.serial || !strings.HasPrefix(x.name, "WRITE") {
			continue
		}
		if other := seen[x.kind()]; other != "" {
			t.Errorf("%s writes what %s does", x.name, other)
		}
		seen[x.kind()] = x.name
	}
}
