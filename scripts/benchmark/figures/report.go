package figures

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Claim is what a ratio is to be: at most Limit, or with AtLeast at least that. With
// Allocs it is what the side allocates for one operation, whatever the base.
type Claim struct {
	Row, Side, Base string
	Limit           float64
	AtLeast         bool
	Allocs          bool
}

// Report is what one harness found.
type Report struct {
	Title   string
	Command string // that makes it again
	Host    Host
	Base    string   // the side that ratios are formed with; empty: each row's first
	Notes   []string // a sentence each: what is left out and why
	Rows    []Row
	Claims  []Claim
}

// Verdict is what came of a claim.
type Verdict struct {
	Claim
	Ratio Spread
	Known bool // false: one of the sides is missing
	Holds bool
}

// Verdicts holds the claims against the rows. It is the median that counts.
func (r *Report) Verdicts() []Verdict {
	var list []Verdict
	for _, c := range r.Claims {
		v := Verdict{Claim: c}
		for _, row := range r.Rows {
			if row.Name == c.Row {
				v.Ratio, v.Known = c.of(row)
			}
		}
		v.Holds = v.Known && (c.AtLeast && v.Ratio.Median >= c.Limit || !c.AtLeast && v.Ratio.Median <= c.Limit)
		list = append(list, v)
	}
	return list
}

// of is what the claim is about, in its row.
func (c Claim) of(row Row) (s Spread, ok bool) {
	if !c.Allocs {
		return row.Ratio(c.Side, c.Base)
	}
	res, ok := row.Result(c.Side)
	s = res.spread(func(r Round) float64 { return r.Allocs })
	return s, ok && len(res.Rounds) > 0 && s.Least >= 0
}

// WriteText writes the report as Markdown, which is also for reading as it is: a line
// for each row, with a column for each side, and a table of the claims. After a side's
// own figures comes their ratio to the base's.
func (r *Report) WriteText(w io.Writer) error {
	b := &strings.Builder{}
	fmt.Fprintf(b, "## %s\n\n`%s`, %s\n", r.Title, r.Command, r.Host)
	for _, n := range r.Notes {
		fmt.Fprintf(b, "\n- %s", n)
	}
	if len(r.Notes) > 0 {
		b.WriteString("\n")
	}
	rest := r.Rows
	for len(rest) > 0 {
		rest = r.table(b, rest)
	}
	r.claims(b)
	_, err := io.WriteString(w, b.String())
	return err
}

// table writes the rows that have the same sides as the first, and returns the others.
func (r *Report) table(b *strings.Builder, rows []Row) (rest []Row) {
	sides := r.sides(rows[0])
	fmt.Fprintf(b, "\n| median / p99 / p99.9 | %s |\n|---|%s\n", strings.Join(sides, " | "), strings.Repeat("--:|", len(sides)))
	for _, row := range rows {
		if slices.Equal(r.sides(row), sides) {
			r.line(b, row, sides)
		} else {
			rest = append(rest, row)
		}
	}
	return rest
}

// sides is the names of a row's sides, the base before the others.
func (r *Report) sides(row Row) []string {
	base := r.base(row)
	list := []string{base}
	for _, res := range row.Results {
		if res.Name != base {
			list = append(list, res.Name)
		}
	}
	return list
}

// base is the side that a row's ratios are formed with.
func (r *Report) base(row Row) string { return cmp.Or(r.Base, row.Results[0].Name) }

// line writes one row.
func (r *Report) line(b *strings.Builder, row Row, sides []string) {
	fmt.Fprintf(b, "| %s |", row.Name)
	for _, side := range sides {
		res, ok := row.Result(side)
		if !ok { // the base was not measured
			b.WriteString(" |")
			continue
		}
		p99, p999 := res.Tails()
		fmt.Fprintf(b, " %s", scaled(res.Value().Median, row.Unit))
		for _, tail := range []float64{p99, p999} {
			if tail != 0 {
				fmt.Fprintf(b, " / %s", scaled(tail, row.Unit))
			}
		}
		if ratio, ok := row.Ratio(side, sides[0]); ok && side != sides[0] {
			fmt.Fprintf(b, " : %s", spread(ratio))
		}
		if a := res.Allocs(); a >= 0.01 {
			fmt.Fprintf(b, "; %s allocations", number(a))
		}
		b.WriteString(" |")
	}
	b.WriteString("\n")
}

// claims writes what was to be shown and whether it was.
func (r *Report) claims(b *strings.Builder) {
	if len(r.Claims) == 0 {
		return
	}
	b.WriteString("\n| to be shown | ratio | |\n|---|--:|---|\n")
	for _, v := range r.Verdicts() {
		sign, of, ratio, word := "at most", "of "+v.Base, spread(v.Ratio), "holds"
		if v.Allocs {
			of = "allocations"
		}
		if v.AtLeast {
			sign = "at least"
		}
		switch {
		case !v.Known:
			ratio, word = "-", "NOT MEASURED"
		case !v.Holds:
			word = "MISSED"
		}
		fmt.Fprintf(b, "| %s: %s %s %s %s | %s | %s |\n", v.Row, v.Side, sign, number(v.Limit), of, ratio, word)
	}
}

// WriteJSON writes everything that was measured, one indented object.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(struct {
		*Report
		Verdicts []Verdict
	}{r, r.Verdicts()})
}

// spread is a median and, in brackets, what it lies between if it is not alone.
func spread(s Spread) string {
	if s.Least == s.Most {
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s-%s)", number(s.Median), number(s.Least), number(s.Most))
}

// scaled is a value with its unit, times in the largest that leaves three digits.
func scaled(v float64, unit string) string {
	if unit == "ns" {
		switch {
		case v >= 1e8:
			v, unit = v/1e9, "s"
		case v >= 1e5:
			v, unit = v/1e6, "ms"
		case v >= 1e4:
			v, unit = v/1e3, "us"
		}
	}
	return number(v) + " " + unit
}

// number prints three digits that count.
func number(v float64) string {
	switch {
	case v >= 100 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
