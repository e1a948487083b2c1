package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// test names a test; Name "" stands for what went wrong with the package outside one.
type test struct{ Package, Name string }

// outcome is how a test ended. When several rungs ran it, the highest one counts: one
// that a rung skipped and another passed has passed.
type outcome int

const (
	skipped outcome = iota
	passed
	failed
)

// verdict is a test's outcome and, where it is no pass, the reason.
type verdict struct {
	outcome outcome
	reason  string
}

// total prints how the tests recorded in the files ended.
func total(files []string, strict bool, out io.Writer) error {
	all := map[test]verdict{}
	var empty []string
	for _, name := range files {
		rung, err := readRung(name)
		if err != nil {
			return err
		}
		ran := 0
		for t, v := range rung {
			if t.Name != "" && v.outcome != skipped {
				ran++
			}
			if old, ok := all[t]; !ok || v.outcome > old.outcome {
				all[t] = v
			}
		}
		if ran == 0 {
			empty = append(empty, strings.TrimSuffix(filepath.Base(name), ".json"))
		}
	}
	count := list(out, all, empty)
	switch {
	case count[failed] > 0 || len(empty) > 0:
		return fmt.Errorf("%d tests failed, %d rungs ran no test", count[failed], len(empty))
	case strict && count[skipped] > 0:
		return fmt.Errorf("%d tests were skipped, and STRICT=1 allows none", count[skipped])
	}
	return nil
}

// list prints what did not pass, with the reasons, and ends with the counts.
func list(out io.Writer, all map[test]verdict, empty []string) (count [failed + 1]int) {
	order := slices.SortedFunc(maps.Keys(all), func(a, b test) int {
		return strings.Compare(a.Package+" "+a.Name, b.Package+" "+b.Name)
	})
	for _, t := range order {
		v := all[t]
		count[v.outcome]++
		if v.reason == "" {
			v.reason = "it did not say why"
		}
		switch v.outcome {
		case skipped:
			fmt.Fprintf(out, "SKIPPED %s %s: %s\n", t.Package, t.Name, v.reason)
		case failed:
			fmt.Fprintf(out, "FAILED  %s %s: %s\n", t.Package, t.Name, v.reason)
		}
	}
	for _, rung := range empty {
		fmt.Fprintf(out, "FAILED  the rung %s ran no test\n", rung)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", count[passed], count[failed], count[skipped])
	return count
}

func readRung(name string) (map[test]verdict, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return judge(f)
}

// judge returns the verdict on every test of a stream of events. A test with subtests is
// counted as these; it counts itself only when it failed and none of them did.
func judge(r io.Reader) (map[test]verdict, error) {
	var (
		verdicts = map[test]verdict{}
		said     = map[test]string{}
		broken   []test // packages that failed
	)
	err := each(r, func(e event) {
		t := test{e.Package, e.Test}
		switch e.Action {
		case "run":
			verdicts[t] = verdict{failed, "it did not end"}
		case "output":
			if line := reason(e.Output); line != "" {
				said[t] = line
			}
		case "pass":
			verdicts[t] = verdict{outcome: passed}
		case "skip":
			verdicts[t] = verdict{skipped, said[t]}
		case "fail":
			verdicts[t] = verdict{failed, said[t]}
			if e.FailedBuild != "" {
				verdicts[t] = verdict{failed, "it does not build"}
			}
			if e.Test == "" {
				broken = append(broken, t)
			}
		}
	})
	dropParents(verdicts)
	for t, v := range verdicts {
		if t.Name == "" && v.outcome != failed {
			delete(verdicts, t) // a package is no test
		}
	}
	for _, p := range broken {
		if anyFailed(verdicts, p.Package) {
			delete(verdicts, p)
		}
	}
	return verdicts, err
}

// dropParents leaves only the tests without subtests, and failures of their own.
func dropParents(verdicts map[test]verdict) {
	for t := range maps.Clone(verdicts) {
		child := verdicts[t]
		for name := t.Name; strings.Contains(name, "/"); {
			name = name[:strings.LastIndex(name, "/")]
			parent := test{t.Package, name}
			if verdicts[parent].outcome != failed || child.outcome == failed {
				delete(verdicts, parent)
			}
		}
	}
}

// anyFailed says whether a test of the package failed.
func anyFailed(verdicts map[test]verdict, pkg string) bool {
	for t, v := range verdicts {
		if t.Package == pkg && t.Name != "" && v.outcome == failed {
			return true
		}
	}
	return false
}

// reason strips a line of a test's output to what it says; the marks of the framework
// say nothing.
func reason(line string) string {
	line = strings.TrimSpace(line)
	for _, mark := range []string{"===", "---", "PASS", "FAIL", "ok "} {
		if strings.HasPrefix(line, mark) {
			return ""
		}
	}
	if _, text, ok := strings.Cut(line, ".go:"); ok {
		if _, text, ok := strings.Cut(text, ": "); ok {
			return text
		}
	}
	return line
}
