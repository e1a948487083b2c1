package machine

import (
	"sync"
	"testing"

	"tenon/virtiofs/dax"
)

// TestComing: a piece that follows the one before it in its file is coming, once.
func TestComing(t *testing.T) {
	const mib = 1 << 20
	piece := func(file, offset, at, n uint64) dax.Mapping {
		return dax.Mapping{File: file, Offset: offset, At: at, Len: n}
	}
	var c coming
	for i, step := range []struct {
		m      dax.Mapping
		gpa, n uint64 // what is coming then
	}{
		{piece(1, 2*mib, 4*mib, 2*mib), 0, 0},                      // nobody knows
		{piece(1, 4*mib, 8*mib, 2*mib), windowAt + 8*mib, 2 * mib}, // the next one
		{piece(1, 8*mib, 0, 2*mib), 0, 0},                          // one is left out
		{piece(2, 0, 2*mib, 2*mib), 0, 0},                          // another file begins
		{piece(1, 10*mib, 0, page), windowAt, page},                // the first goes on
		{piece(2, 2*mib, 6*mib, mib), windowAt + 6*mib, mib},       // so does the other
		{piece(2, 3*mib, 6*mib, 8*mib), 0, 0},                      // too much at a time
	} {
		c.note(windowAt, step.m)
		if gpa, n := c.take(); gpa != step.gpa || n != step.n {
			t.Errorf("step %d: %#x, %#x bytes; want %#x, %#x", i, gpa, n, step.gpa, step.n)
		}
		if gpa, n := c.take(); n != 0 {
			t.Errorf("step %d: %#x again, %#x bytes", i, gpa, n)
		}
	}
}

// TestComingOnce: of processors that ask at the same time, one gets the piece and the
// others none.
func TestComingOnce(t *testing.T) {
	var c coming
	var group sync.WaitGroup
	for file := range uint64(4) {
		group.Go(func() {
			for i := range uint64(50000) {
				c.note(windowAt, dax.Mapping{File: file, Offset: i * page, At: i * page, Len: page})
				if gpa, n := c.take(); n != 0 && (n != page || gpa < windowAt) {
					t.Errorf("%#x, %#x bytes", gpa, n)
					return
				}
			}
		})
	}
	group.Wait()
}
