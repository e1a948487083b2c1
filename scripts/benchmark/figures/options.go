package figures

import "regexp"

// Options is how a harness is to measure.
type Options struct {
	Rounds int    // that count
	Dir    string // where the shared directories are made; its file system is what is measured
	Smoke  bool   // the least that still does, and checks, everything once: its figures mean nothing
	Only   *regexp.Regexp
	// Log says what is going on: for a person, not for the report.
	Log func(format string, args ...any)
}

// Wanted says whether a row is to be measured.
func (o Options) Wanted(row string) bool { return o.Only == nil || o.Only.MatchString(row) }
