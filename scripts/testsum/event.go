package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// event is one line of go test -json (go doc test2json, TestEvent and go help buildjson).
type event struct {
	Action      string
	Package     string
	Test        string  // "": the package
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string // the package whose build failed, so that this one did
}

// each calls f for every event of r. Lines that are no events are left out: the go
// command may say something between them.
func each(r io.Reader, f func(event)) error {
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil && e.Action != "" {
			f(e)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading test events: %w", err)
		}
	}
}
