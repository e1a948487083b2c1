// Package scale measures what grows: request streams over queues, inodes that the
// server knows, and machines on one host.
package scale

import (
	"fmt"

	"tenon/scripts/benchmark/figures"
)

// Run measures all three. The sides of a row are the same thing with more of it.
func Run(o figures.Options) (figures.Report, error) {
	report := figures.Report{Title: "Scale: streams, queues, inodes, machines"}
	var l litter
	defer l.remove()
	defer l.watch()()
	for _, part := range []struct {
		name string
		run  func(figures.Options, *litter, *figures.Report) error
	}{{"streams", streams}, {"inodes", inodes}, {"fleet", fleet}} {
		if err := part.run(o, &l, &report); err != nil {
			return report, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return report, nil
}
