// Testsum reads the events of go test -json or go tool test2json.
//
//	testsum show                 shows those on standard input as they come: a line
//	                             a package, a line a long test, and what failed
//	testsum total RUNG.json...   counts those recorded in files, one a rung
//
// The last line of total is "N passed, N failed, N skipped". It fails when a test did,
// when a rung ran none and, with STRICT=1 in the environment, when a test was skipped.
package main

import (
	"errors"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "show":
		return show(os.Stdin, os.Stdout)
	case len(args) > 1 && args[0] == "total":
		return total(args[1:], os.Getenv("STRICT") == "1", os.Stdout)
	}
	return errors.New("usage: testsum show <EVENTS, or testsum total RUNG.json [RUNG.json...]")
}
