package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// long is the seconds from which a test gets a line of its own.
const long = 5.0

// show copies the events of in to out as they come, the way go test does without -v:
// one line a package, and the output of what failed.
func show(in io.Reader, out io.Writer) error {
	pending := map[string]*bytes.Buffer{} // by test, until it ends
	tests := map[string]int{}             // ended, by package
	return each(in, func(e event) {
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output":
			if pending[key] == nil {
				pending[key] = &bytes.Buffer{}
			}
			pending[key].WriteString(e.Output)
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "pass", "fail", "skip":
			if e.Test == "" {
				showPackage(out, e, tests[e.Package], pending)
			} else {
				tests[e.Package]++
				showTest(out, e, pending[key])
				delete(pending, key)
			}
		}
	})
}

func showTest(out io.Writer, e event, output *bytes.Buffer) {
	switch {
	case e.Action == "fail" && output != nil:
		fmt.Fprint(out, output)
	case e.Elapsed >= long && !strings.Contains(e.Test, "/"):
		fmt.Fprintf(out, "     %s %.1f s: %s\n", e.Test, e.Elapsed, e.Action)
	}
}

// showPackage also shows the tests that have not ended with their package: a panic or
// a timeout is told in the output of whatever test was running.
func showPackage(out io.Writer, e event, tests int, pending map[string]*bytes.Buffer) {
	for key, output := range pending {
		if name, _, _ := strings.Cut(key, " "); name != e.Package {
			continue
		}
		if e.Action == "fail" {
			fmt.Fprint(out, output)
		}
		delete(pending, key)
	}
	if tests > 0 || e.Action == "fail" {
		fmt.Fprintf(out, "%-4s %s: %d tests, %.1f s\n", e.Action, e.Package, tests, e.Elapsed)
	}
}
