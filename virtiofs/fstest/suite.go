package fstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Case is one script, in a directory of its own.
type Case struct {
	Name   string // a path component
	Kernel bool   // only a Kernel can run it
	Root   bool   // only user 0 of the machine can run it
	// Prepared says that the case's directory exists.
	Prepared bool
	Run      func(*Script)
}

// Knobs are how much the suite does; both sides of a comparison need the same.
type Knobs struct {
	Entries int           // of the largest directory; 0: 1,000
	Data    int           // bytes of the largest file's data; 0: 1 MiB
	Tick    time.Duration // for which the clock of time stamps may stand still; 0: 10 ms
}

func (k Knobs) withDefaults() Knobs {
	if k.Entries == 0 {
		k.Entries = 1000
	}
	if k.Data == 0 {
		k.Data = 1 << 20
	}
	if k.Tick == 0 {
		k.Tick = 10 * time.Millisecond
	}
	return k
}

// Trace is what came of a case.
type Trace struct {
	Case    string   `json:"case"`
	Skipped string   `json:"skipped,omitempty"` // why it did not run
	Lines   []string `json:"lines"`
	Seconds float64  `json:"seconds"` // it took; is not compared
}

// Run runs the cases on the target one after the other.
func Run(t Target, cases []Case, k Knobs) []Trace {
	var list []Trace
	for _, c := range cases {
		list = append(list, RunCase(t, c, k))
	}
	return list
}

// RunCase runs one case in a new directory of its name. The directory and what
// is in it is left behind.
func RunCase(t Target, c Case, k Knobs) Trace {
	trace := Trace{Case: c.Name}
	if _, ok := t.(Kernel); c.Kernel && !ok {
		trace.Skipped = "needs a kernel above the file system"
		return trace
	}
	if c.Root && unix.Getuid() != 0 {
		trace.Skipped = "needs root"
		return trace
	}
	k = k.withDefaults()
	s := &Script{target: t, dir: c.Name, knobs: &k, trace: &trace, open: new([]*Open)}
	if !c.Prepared {
		if e := t.Mkdir(c.Name, 0o755); e != 0 {
			s.say(e, "", "mkdir %s", c.Name)
			return trace
		}
	}
	from := time.Now()
	c.Run(s)
	for _, o := range *s.open {
		if o.f != nil {
			o.f.Close()
		}
	}
	trace.Seconds = time.Since(from).Seconds()
	return trace
}

// WriteTraces writes them as JSON, a line each.
func WriteTraces(w io.Writer, list []Trace) error {
	enc := json.NewEncoder(w)
	for _, t := range list {
		if err := enc.Encode(t); err != nil {
			return fmt.Errorf("writing traces: %w", err)
		}
	}
	return nil
}

// ReadTraces reads what WriteTraces has written.
func ReadTraces(r io.Reader) ([]Trace, error) {
	var list []Trace
	for dec := json.NewDecoder(r); ; {
		var t Trace
		err := dec.Decode(&t)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, fmt.Errorf("reading traces: %w", err)
		}
		list = append(list, t)
	}
}

// Compare holds traces against the control's and returns what is wrong, a text
// each: lines that differ and are in no entry of known, and entries that apply
// here but did not occur. labels say what ran: see Difference.On. Cases that got
// has not, or has skipped, are passed over.
func Compare(control, got []Trace, known []Difference, labels ...string) []string {
	want := map[string]Trace{}
	for _, t := range control {
		want[t.Case] = t
	}
	var wrong []string
	occurred := make([]bool, len(known))
	ran := map[string]bool{}
	for _, g := range got {
		w, ok := want[g.Case]
		switch {
		case !ok:
			wrong = append(wrong, g.Case+": the control has no such case")
			continue
		case g.Skipped != "" || w.Skipped != "":
			continue
		}
		ran[g.Case] = true
		for i := range max(len(w.Lines), len(g.Lines)) {
			a, b := line(w.Lines, i), line(g.Lines, i)
			if a == b {
				continue
			}
			if n := find(known, g.Case, a, b, labels); n >= 0 {
				occurred[n] = true
				continue
			}
			wrong = append(wrong, fmt.Sprintf("%s, line %d:\n  control  %s\n  subject  %s", g.Case, i+1, a, b))
		}
	}
	for i := range known {
		d := &known[i]
		if ran[d.Case] && d.applies(labels) && !occurred[i] {
			wrong = append(wrong, fmt.Sprintf("%s: a known difference does not occur, take it off the list: %s = %s", d.Case, d.Call, d.Answer))
		}
	}
	return wrong
}

func line(lines []string, i int) string {
	if i >= len(lines) {
		return "(no line)"
	}
	return lines[i]
}

// find is the index of the entry that allows the lines to differ, or -1.
func find(known []Difference, name, want, got string, labels []string) int {
	for i := range known {
		if d := &known[i]; d.Case == name && d.applies(labels) && d.allows(want, got) {
			return i
		}
	}
	return -1
}

// split cuts a line into call and answer.
func split(line string) (call, answer string) {
	at := strings.LastIndex(line, " = ")
	if at < 0 {
		return line, ""
	}
	return line[:at], line[at+3:]
}
