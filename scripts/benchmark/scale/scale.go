// Package scale is a stub.
package scale

import (
	"errors"

	"tenon/scripts/benchmark/figures"
)

// Run measures.
func Run(o figures.Options) (figures.Report, error) {
	return figures.Report{}, errors.New("scale: not written yet")
}
