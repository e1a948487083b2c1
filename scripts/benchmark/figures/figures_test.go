package figures

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// counted is a side whose rounds take the values of a list, and notes its turns.
func counted(name string, turns *[]string, values ...float64) Side {
	n := -1 // the round that warms up has a value of its own
	return Side{name, func() (Round, error) {
		*turns = append(*turns, name)
		n++
		if n == 0 {
			return Round{Value: 1e9}, nil
		}
		return Round{Value: values[n-1], P99: 2 * values[n-1], Allocs: float64(n - 1)}, nil
	}}
}

func TestMeasure(t *testing.T) {
	var turns []string
	row, err := Measure("READ", "ns", 3, counted("bare", &turns, 100, 300, 200), counted("ring", &turns, 150, 300, 500))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(turns, " "); got != "bare ring bare ring ring bare bare ring" {
		t.Errorf("turns: %s", got)
	}
	bare, _ := row.Result("bare")
	if got, want := bare.Value(), (Spread{Median: 200, Least: 100, Most: 300}); got != want {
		t.Errorf("values: %v, want %v", got, want)
	}
	if p99, p999 := bare.Tails(); p99 != 400 || p999 != 0 {
		t.Errorf("tails: %v, %v", p99, p999)
	}
	if got := bare.Allocs(); got != 2 {
		t.Errorf("allocations: %v", got)
	}
	// Round by round 1.5, 1 and 2.5: not what the medians come to.
	if got, ok := row.Ratio("ring", "bare"); !ok || got != (Spread{Median: 1.5, Least: 1, Most: 2.5}) {
		t.Errorf("ratio: %v, %v", got, ok)
	}
	if _, ok := row.Ratio("ring", "nobody"); ok {
		t.Error("a ratio over a side that is not there")
	}
}

func TestMeasureFails(t *testing.T) {
	broken := errors.New("broken")
	_, err := Measure("READ", "ns", 1, Side{"peer", func() (Round, error) { return Round{}, broken }})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "READ, peer") {
		t.Errorf("error: %v", err)
	}
}

func TestSpreadAndTail(t *testing.T) {
	if got := SpreadOf([]float64{4, 1, 3, 2}); got != (Spread{2.5, 1, 4}) {
		t.Errorf("of an even list: %v", got)
	}
	if got := SpreadOf(nil); got != (Spread{}) {
		t.Errorf("of nothing: %v", got)
	}
	list := make([]int, 1000)
	for i := range list {
		list[i] = 1000 - i
	}
	for _, c := range []struct {
		q    float64
		want int
	}{{0, 1}, {0.5, 501}, {0.99, 991}, {0.999, 1000}, {1, 1000}} {
		if got := Tail(slices.Clone(list), c.q); got != c.want {
			t.Errorf("tail %v: %d, want %d", c.q, got, c.want)
		}
	}
	if got := Tail([]int{}, 0.5); got != 0 {
		t.Errorf("tail of nothing: %d", got)
	}
}

// report is one row, of which one claim holds, one does not, and one is not known.
func report() Report {
	round := func(v ...float64) (list []Round) {
		for _, v := range v {
			list = append(list, Round{Value: v, Allocs: -1})
		}
		return list
	}
	return Report{
		Title: "Requests", Command: "scripts/bench device", Base: "bare", Notes: []string{"a peer is missing"},
		Rows: []Row{
			{"READ", "ns", []Result{{"bare", round(100, 100)}, {"ring", round(140, 160)}}},
			{"COUNTED", "ns", []Result{{"ring", []Round{{Allocs: 1}, {Allocs: 2}, {Allocs: 3}}}}},
		},
		Claims: []Claim{
			{Row: "READ", Side: "ring", Base: "bare", Limit: 1.5},
			{Row: "READ", Side: "ring", Base: "bare", Limit: 1.4},
			{Row: "READ", Side: "bare", Base: "ring", Limit: 0.5, AtLeast: true},
			{Row: "READ", Side: "bare", Base: "ring", Limit: 0.9, AtLeast: true},
			{Row: "READ", Side: "peer", Base: "ring", Limit: 3, AtLeast: true},
			{Row: "WRITE", Side: "ring", Base: "bare", Limit: 3},
			{Row: "COUNTED", Side: "ring", Limit: 2, Allocs: true},
			{Row: "COUNTED", Side: "ring", Limit: 1.9, Allocs: true},
			{Row: "COUNTED", Side: "bare", Limit: 2, Allocs: true},
			{Row: "READ", Side: "ring", Limit: 2, Allocs: true}, // not counted
		},
	}
}

func TestVerdicts(t *testing.T) {
	r := report()
	var got []string
	for _, v := range r.Verdicts() {
		word := "missed"
		switch {
		case !v.Known:
			word = "unknown"
		case v.Holds:
			word = "holds"
		}
		got = append(got, word)
	}
	if want := "holds missed holds missed unknown unknown holds missed unknown unknown"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func TestWrite(t *testing.T) {
	r := report()
	var text, data strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"- a peer is missing",
		"| median / p99 / p99.9 | bare | ring |",
		"| READ | 100 ns | 150 ns : 1.50 (1.40-1.60) |",
		"| READ: ring at most 1.50 of bare | 1.50 (1.40-1.60) | holds |",
		"| READ: ring at most 1.40 of bare | 1.50 (1.40-1.60) | MISSED |",
		"| READ: peer at least 3 of ring | - | NOT MEASURED |",
		"| COUNTED: ring at most 2 allocations | 2 (1-3) | holds |",
	} {
		if !strings.Contains(text.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, &text)
		}
	}
	if err := r.WriteJSON(&data); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal([]byte(data.String()), &back); err != nil {
		t.Fatal(err)
	}
	var again strings.Builder
	if err := back.WriteText(&again); err != nil || again.String() != text.String() {
		t.Errorf("%v, what was read back is\n%s\nand was\n%s", err, &again, &text)
	}
	if !strings.Contains(data.String(), `"Holds": true`) {
		t.Errorf("no verdicts in\n%s", &data)
	}
}
