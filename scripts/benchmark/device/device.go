// Package device is a stub.
package device

import (
	"errors"

	"tenon/scripts/benchmark/figures"
)

// Run measures.
func Run(o figures.Options) (figures.Report, error) {
	return figures.Report{}, errors.New("device: not written yet")
}
