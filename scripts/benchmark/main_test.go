package main

import (
	"os"
	"strings"
	"testing"

	"tenon/scripts/benchmark/figures"
)

// TestMain lets harnesses start this program for what is done in other processes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && children[os.Args[1]] != nil {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestSmoke has every harness do everything once, and check what comes back. What a
// harness could not have, such as a peer, counts as a skipped test.
func TestSmoke(t *testing.T) {
	t.Chdir("../..") // where scripts/bench starts it, and scripts/peers is
	for _, name := range []string{"device", "exit", "scale", "guest"} {
		t.Run(name, func(t *testing.T) {
			report, err := harnesses[name](figures.Options{Rounds: 1, Dir: t.TempDir(), Smoke: true, Log: t.Logf})
			if err != nil {
				t.Fatal(err)
			}
			skipped := 0
			for _, note := range report.Notes {
				if what, ok := strings.CutPrefix(note, "SKIPPED: "); ok {
					skipped++
					t.Run("part", func(t *testing.T) { t.Skip(what) })
				}
			}
			if len(report.Rows) == 0 && skipped == 0 {
				t.Error("nothing was measured")
			}
			for _, row := range report.Rows {
				for _, r := range row.Results {
					if len(r.Rounds) == 0 || r.Value().Least <= 0 {
						t.Errorf("%s, %s: %v", row.Name, r.Name, r.Rounds)
					}
				}
			}
		})
	}
}
