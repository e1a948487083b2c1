// Package guest is a stub.
package guest

import (
	"errors"

	"tenon/scripts/benchmark/figures"
)

// Run measures.
func Run(o figures.Options) (figures.Report, error) {
	return figures.Report{}, errors.New("guest: not written yet")
}
