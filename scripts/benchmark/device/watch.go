package device

import (
	"runtime"
	"slices"
	"time"

	"tenon/scripts/benchmark/figures"
	"tenon/scripts/benchmark/ring"
)

// turns is how many turns of all sides stand for a round: what others do to the machine
// for some milliseconds then falls on all sides rather than on one.
const turns = 3

// How long one turn of one side measures, and takes at most with what is not on the
// clock, as what makes the next batch possible.
const (
	turnTime    = 10 * time.Millisecond
	turnLimit   = 30 * time.Millisecond
	leastBatch  = 3
	mostBatches = 4096 // whose times are kept
)

// work is what one side does for one row.
type work struct {
	n int // operations of a batch
	// batch does them once, with what counts on the clock. It allocates nothing.
	batch func(*watch) error
	// verify holds what the batch before it brought against what it should have;
	// nil: there is nothing to see but the replies' headers.
	verify func() error
	// close ends it; nil: there is nothing to end.
	close func() error
}

// watch is the clock. What one operation does in several steps, as OPEN and RELEASE,
// adds up.
type watch struct {
	serial  bool            // one operation at a time
	took    time.Duration   // of the batch
	single  bool            // fill singles, which costs a look at the clock for each
	singles []time.Duration // of the batch's operations
	scratch []time.Duration
}

func newWatch(serial bool, n int) *watch {
	return &watch{serial: serial, singles: make([]time.Duration, n), scratch: make([]time.Duration, n)}
}

// do has the share's device answer requests, on the clock.
func (w *watch) do(s *ring.Share, list []*ring.Request) (err error) {
	var took time.Duration
	switch {
	case w.single:
		took, err = s.Serial(ring.Requests, list, w.scratch[:len(list)])
		w.add(len(list))
	case w.serial:
		took, err = s.Serial(ring.Requests, list, nil)
	default:
		took, err = s.Do(ring.Requests, list...)
	}
	w.took += took
	return err
}

// each makes n calls, on the clock.
func (w *watch) each(n int, call func(i int) error) error {
	start := time.Now()
	last := start
	for i := range n {
		if err := call(i); err != nil {
			return err
		}
		if w.single {
			now := time.Now()
			w.scratch[i], last = now.Sub(last), now
		}
	}
	w.took += time.Since(start)
	if w.single {
		w.add(n)
	}
	return nil
}

// add adds a step of the first n operations to those before.
func (w *watch) add(n int) {
	for i, d := range w.scratch[:n] {
		w.singles[i] += d
	}
}

// round measures one turn. Its value is the median of its batches: the machine may
// have other work, and what that does to one batch is for the tail to show.
func (w *watch) round(x work, least bool) (figures.Round, error) {
	times := make([]float64, 0, mostBatches)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for start, spent := time.Now(), time.Duration(0); ; {
		w.took = 0
		if err := x.batch(w); err != nil {
			return figures.Round{}, err
		}
		times = append(times, float64(w.took)/float64(x.n))
		spent += w.took
		if least || len(times) == cap(times) || len(times) >= leastBatch && (spent > turnTime || time.Since(start) > turnLimit) {
			break
		}
	}
	runtime.ReadMemStats(&after)
	r := figures.Round{
		Value:  figures.SpreadOf(times).Median,
		Allocs: float64(after.Mallocs-before.Mallocs) / float64(len(times)*x.n),
		P99:    figures.Tail(times, 0.99),
	}
	var err error
	if w.serial {
		err = w.tails(&r, x, least)
	}
	return r, err
}

// tails measures single operations, for half as long as a turn.
func (w *watch) tails(r *figures.Round, x work, least bool) error {
	w.single = true
	defer func() { w.single = false }()
	var all []time.Duration
	for start := time.Now(); ; {
		clear(w.singles)
		if err := x.batch(w); err != nil {
			return err
		}
		all = append(all, w.singles...)
		if least || time.Since(start) > turnTime/2 {
			break
		}
	}
	slices.Sort(all)
	r.P99, r.P999 = float64(figures.Tail(all, 0.99)), float64(figures.Tail(all, 0.999))
	return nil
}
