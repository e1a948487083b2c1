// Package exit is a stub.
package exit

import (
	"errors"

	"tenon/scripts/benchmark/figures"
)

// Run measures.
func Run(o figures.Options) (figures.Report, error) {
	return figures.Report{}, errors.New("exit: not written yet")
}
