// Package figures measures things side by side and says what came out: rounds of all
// sides by turns, medians with their spread, ratios formed round by round, tables and
// JSON.
package figures

import (
	"cmp"
	"fmt"
	"slices"
)

// Round is what one round of one side showed. Times are in the row's unit, as a rule
// nanoseconds for one operation; zero tails are unknown.
type Round struct {
	Value     float64 // of one operation: the time of the round by its operations
	P99, P999 float64 // of single operations
	Allocs    float64 // for one operation; negative: not counted
}

// Side is one of those that are compared.
type Side struct {
	Name string
	Run  func() (Round, error) // one round
}

// Result is a side's rounds.
type Result struct {
	Name   string
	Rounds []Round
}

// Row is one thing measured for some sides. All results have as many rounds, and
// rounds of the same index were measured one right after the other.
type Row struct {
	Name    string
	Unit    string // of values: "ns"
	Results []Result
}

// Measure runs rounds of all sides by turns, each round beginning with another side,
// so that what else the machine does falls on all of them. A round before those that
// count warms up.
func Measure(name, unit string, rounds int, sides ...Side) (Row, error) {
	row := Row{Name: name, Unit: unit, Results: make([]Result, len(sides))}
	for i := range sides {
		row.Results[i].Name = sides[i].Name
	}
	for n := -1; n < rounds; n++ {
		for i := range sides {
			k := (i + max(n, 0)) % len(sides)
			r, err := sides[k].Run()
			if err != nil {
				return row, fmt.Errorf("%s, %s: %w", name, sides[k].Name, err)
			}
			if n >= 0 {
				row.Results[k].Rounds = append(row.Results[k].Rounds, r)
			}
		}
	}
	return row, nil
}

// Spread is a median and the least and the greatest of the same list.
type Spread struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

// SpreadOf returns the spread of a list; of an empty one it is zero.
func SpreadOf(list []float64) Spread {
	if len(list) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(list))
	mid := s[len(s)/2]
	if len(s)%2 == 0 {
		mid = (s[len(s)/2-1] + mid) / 2
	}
	return Spread{Median: mid, Least: s[0], Most: s[len(s)-1]}
}

// spread is the spread of what part picks of a result's rounds.
func (r Result) spread(part func(Round) float64) Spread {
	list := make([]float64, len(r.Rounds))
	for i := range r.Rounds {
		list[i] = part(r.Rounds[i])
	}
	return SpreadOf(list)
}

// Value is the spread of the values.
func (r Result) Value() Spread { return r.spread(func(r Round) float64 { return r.Value }) }

// Tails are the medians of the tails; zero where they are unknown.
func (r Result) Tails() (p99, p999 float64) {
	return r.spread(func(r Round) float64 { return r.P99 }).Median,
		r.spread(func(r Round) float64 { return r.P999 }).Median
}

// Allocs is the most allocations of any round, for one operation; negative: not counted.
func (r Result) Allocs() float64 { return r.spread(func(r Round) float64 { return r.Allocs }).Most }

// Result finds a side's result.
func (r Row) Result(side string) (Result, bool) {
	i := slices.IndexFunc(r.Results, func(res Result) bool { return res.Name == side })
	if i < 0 {
		return Result{}, false
	}
	return r.Results[i], true
}

// Ratio is the spread of a side's values over those of base, round by round: what
// slows both down in a round does not show. ok is false when one of them is missing.
func (r Row) Ratio(side, base string) (s Spread, ok bool) {
	a, aok := r.Result(side)
	b, bok := r.Result(base)
	if !aok || !bok || len(a.Rounds) != len(b.Rounds) || len(a.Rounds) == 0 {
		return Spread{}, false
	}
	list := make([]float64, len(a.Rounds))
	for i := range list {
		list[i] = a.Rounds[i].Value / b.Rounds[i].Value
	}
	return SpreadOf(list), true
}

// Tail returns the smallest of the sorted or unsorted samples that the share q of them
// does not exceed: Tail(list, 0.99). The list is sorted by it.
func Tail[T cmp.Ordered](list []T, q float64) T {
	var none T
	if len(list) == 0 {
		return none
	}
	slices.Sort(list)
	return list[min(int(q*float64(len(list))), len(list)-1)]
}
