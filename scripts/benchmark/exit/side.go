package exit

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tenon/scripts/benchmark/figures"
)

// turns is steps that the guest goes through by turns, so that whatever else the host
// does falls on all of them alike. It takes each a few times in a row: its code and
// data are then in the caches, as far as an exit leaves them there.
type turns struct {
	g      *guest
	rounds int // how often each step is taken
	steps  []step
	around func(run func() error) error // sets up and takes down what a round needs; nil: nothing

	ready []bool // of each step: its figures are waiting to be fetched
	found []figures.Round
	rung  [][]figures.Round // doorbells a request, all rounds
}

const inARow = 8

// side is the figures of one of the steps.
func (t *turns) side(name string, i int) figures.Side {
	return figures.Side{Name: name, Run: func() (figures.Round, error) {
		if t.ready == nil {
			t.ready = make([]bool, len(t.steps))
			t.found = make([]figures.Round, len(t.steps))
			t.rung = make([][]figures.Round, len(t.steps))
		}
		if !t.ready[i] {
			if err := t.run(); err != nil {
				return figures.Round{}, err
			}
		}
		t.ready[i] = false
		return t.found[i], nil
	}}
}

func (t *turns) run() error {
	if t.around == nil {
		return t.measure()
	}
	return t.around(t.measure)
}

func (t *turns) measure() error {
	var list []step
	requests := uint64(0) // in one round
	for _, s := range t.steps {
		list = append(list, slices.Repeat([]step{s}, inARow)...)
		requests += inARow * s.requests()
	}
	rounds := (t.rounds + inARow - 1) / inARow
	r, err := t.g.do(rounds, list...)
	if err != nil {
		return err
	}
	for i := range t.steps {
		times := slices.Concat(r.times[inARow*i : inARow*(i+1)]...)
		rung := uint64(0)
		for _, n := range r.rung[inARow*i : inARow*(i+1)] {
			rung += n
		}
		n := float64(max(t.steps[i].requests(), 1))
		x := figures.Round{
			Value: figures.Tail(times, 0.5) / n, P99: figures.Tail(times, 0.99) / n, P999: figures.Tail(times, 0.999) / n,
			Allocs: -1,
		}
		if t.steps[i].requests() > 0 {
			x.Allocs = float64(r.allocs) / float64(uint64(rounds)*requests)
		}
		t.ready[i], t.found[i] = true, x
		t.rung[i] = append(t.rung[i], figures.Round{Value: float64(rung) / (float64(len(times)) * n), Allocs: -1})
	}
	return nil
}

// plus is a result that stands for a sum: so many times each of others, round by round.
func plus(name string, row figures.Row, parts map[string]float64) figures.Result {
	sum := figures.Result{Name: name}
	for part, times := range parts {
		r, _ := row.Result(part)
		if sum.Rounds == nil {
			sum.Rounds = make([]figures.Round, len(r.Rounds))
		}
		for i := range r.Rounds {
			sum.Rounds[i].Value += times * r.Rounds[i].Value
			sum.Rounds[i].Allocs = -1
		}
	}
	return sum
}

// eventServer answers doorbells as a device does whose notifications come through
// ioeventfd to a thread: the thread reads the eventfd and does what the exit would.
func eventServer(vm int, g *guest, addr uint64) func(run func() error) error {
	return func(run func() error) error {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := ioEvent(vm, addr, false, fd, false); err != nil {
			return err
		}
		var done sync.WaitGroup
		one := []byte{1, 0, 0, 0, 0, 0, 0, 0}
		over := make(chan struct{})
		done.Go(func() {
			var p [8]byte
			for {
				if _, err := unix.Read(fd, p[:]); err != nil && err != unix.EINTR {
					return
				}
				select {
				case <-over:
					return
				default:
				}
				g.mmio.Write(addr, p[:2])
			}
		})
		err = run()
		close(over)
		_, _ = unix.Write(fd, one)
		done.Wait()
		if e := ioEvent(vm, addr, false, fd, true); err == nil {
			err = e
		}
		return err
	}
}

// garbageSize is how many bytes live in the heap while the collector has work.
const garbageSize = 8 << 20

// garbage is a goroutine that allocates some hundred MB a second, in pieces that point
// to each other.
type garbage struct {
	over chan struct{}
	done sync.WaitGroup
}

type piece struct {
	next *piece
	_    [1016]byte
}

func newGarbage() *garbage {
	g := &garbage{over: make(chan struct{})}
	g.done.Go(func() {
		live := make([]*piece, garbageSize/1024)
		for i := 0; ; i++ {
			at := i % len(live)
			live[at] = &piece{next: live[(at+1)%len(live)]}
			live[at].next = nil
			if i%256 == 0 {
				select {
				case <-g.over:
					return
				case <-time.After(500 * time.Microsecond):
				}
			}
		}
	})
	return g
}

func (g *garbage) stop() {
	close(g.over)
	g.done.Wait()
}
