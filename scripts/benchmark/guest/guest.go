// Package guest measures Linux guests: the same kernel, initramfs and work under Tenon
// and under QEMU with virtiofsd, by turns, on the same machine.
package guest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"tenon/scripts/benchmark/figures"
)

// Environment variables with the number of rounds of fio's rows, and of the files that
// are created, looked at and removed: each takes minutes in the emulated machine.
const (
	fioRoundsKnob = "TENON_BENCH_FIO_ROUNDS"
	namesKnob     = "TENON_BENCH_NAMES"
)

// Run measures on this host's KVM, or in the machine of scripts/lab.
func Run(o figures.Options) (figures.Report, error) {
	report := figures.Report{Title: "Linux guests", Base: tenon}
	work, err := os.MkdirTemp("", "bench-guest")
	if err != nil {
		return report, err
	}
	defer os.RemoveAll(work)
	root, err := output("go", "list", "-m", "-f", "{{.Dir}}", "tenon")
	if err != nil {
		return report, err
	}
	s, err := newSetup(o, work)
	if err != nil {
		return report, err
	}
	f, notes, err := find(root, work, s.FioRounds > 0)
	if err != nil {
		return report, err
	}
	if err := (stage{s.Stage}).make(s, f); err != nil {
		return report, err
	}
	report.Notes = notes
	list, err := inLab(root, f.bench, s)
	if err != nil && len(list) == 0 {
		return report, err
	}
	if err != nil { // what was measured is not lost
		list = append(list, sample{Note: failed + err.Error()})
	}
	report.Rows = rowsOf(list)
	for _, one := range list {
		if one.Note != "" {
			report.Notes = append(report.Notes, one.Note)
			if o.Smoke && strings.HasPrefix(one.Note, failed) {
				err = errors.Join(err, errors.New(one.Note))
			}
		}
	}
	report.Notes = append(report.Notes, s.notes()...)
	report.Claims = claims(o)
	return report, err
}

// failed begins the notes that say what went wrong.
const failed = "FAILED: "

// found is what was built and found for the stage.
type found struct {
	bench, tenon, kernel string
	peers                map[string]string // of scripts/peers; without what could not be had
}

// has says whether all of a side is there.
func (f found) has(side string) bool {
	need := map[string][]string{qemuC: {"qemu7", "c"}, qemuRust: {"qemu10", "rust"}}[side]
	return f.peers[need[0]] != "" && f.peers[need[1]] != ""
}

// find builds and finds all that is needed, where there is a network. A peer that
// cannot be had becomes a note.
func find(root, work string, withFio bool) (f found, notes []string, err error) {
	f = found{bench: filepath.Join(work, "bench"), tenon: os.Getenv("TENON"), peers: make(map[string]string)}
	if err := build(root, "tenon/scripts/benchmark", f.bench); err != nil {
		return f, nil, err
	}
	if f.tenon == "" {
		f.tenon = filepath.Join(work, "tenon")
		if err := build(root, "tenon", f.tenon); err != nil {
			return f, nil, err
		}
	}
	if f.kernel, err = output(filepath.Join(root, "scripts/kernel"), "6.12"); err != nil {
		return f, nil, err
	}
	wanted := []string{"c", "qemu7", "rust", "qemu10"}
	if withFio {
		wanted = append(wanted, "fio")
	}
	for _, name := range wanted {
		path, err := output(filepath.Join(root, "scripts/peers"), name)
		if err != nil {
			notes = append(notes, fmt.Sprintf("SKIPPED: scripts/peers %s: %v", name, err))
			continue
		}
		f.peers[name] = path
	}
	return f, notes, nil
}

// newSetup reads the options.
func newSetup(o figures.Options, work string) (setup, error) {
	s := setup{Rounds: o.Rounds, Smoke: o.Smoke, Stage: filepath.Join(work, "stage")}
	var err error
	if s.FioRounds, err = knob(fioRoundsKnob, 1, 0); err != nil {
		return s, err
	}
	if s.Names, err = knob(namesKnob, fullSizes.Names, 1); err != nil {
		return s, err
	}
	if o.Smoke {
		s.Rounds, s.FioRounds = 1, 0
	}
	if o.Only != nil {
		s.Only = o.Only.String()
		if !s.wantsFio() {
			s.FioRounds = 0
		}
	}
	if o.Dir != os.TempDir() && !o.Smoke {
		s.Dir = o.Dir
	}
	return s, nil
}

// knob is the number in an environment variable, at least that, or what it is without.
func knob(name string, otherwise, least int) (int, error) {
	text := os.Getenv(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least {
		return 0, fmt.Errorf("%s=%s: give a number of at least %d", name, text, least)
	}
	return n, nil
}

// wantsFio says whether any of fio's rows is to be measured.
func (s setup) wantsFio() bool {
	only := regexp.MustCompile(s.Only)
	for _, cache := range caches {
		for _, j := range s.sizes().jobs(cache) {
			if only.MatchString(withCache(j.Row, cache)) {
				return true
			}
		}
	}
	return false
}

// inLab runs the other half of this program where there is a KVM, and returns what it
// measured.
func inLab(root, bench string, s setup) ([]sample, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(root, "scripts/lab"), bench, "guest-lab", string(b))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var list []sample
	decoder := json.NewDecoder(bufio.NewReader(out))
	for {
		var one sample
		if err = decoder.Decode(&one); err != nil {
			break
		}
		list = append(list, one)
	}
	if err == io.EOF {
		err = nil
	}
	return list, errors.Join(err, cmd.Wait())
}

// output runs a program and returns what it prints, without the line's end.
func output(args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// build builds a static program of the module.
func build(root, pkg, to string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "urfave_cli_no_docs", "-ldflags", "-s -w", "-o", to, pkg)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w: %s", pkg, err, out)
	}
	return nil
}
