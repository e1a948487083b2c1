// Package device measures what requests cost that a driver puts into a ring, without a
// guest: served by Tenon's device in this process, by both virtiofsds over vhost-user,
// and beside them the system calls that the requests stand for.
package device

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"tenon/scripts/benchmark/figures"
	"tenon/scripts/benchmark/ring"
	"tenon/scripts/benchmark/vhostuser"
)

// side is one of those that are compared, ready to be measured.
type side struct {
	name    string
	subject subject
	window  bool // it has a DAX window, or what stands for it
	rewind  func()
	close   func() error
}

// Run measures.
func Run(o figures.Options) (r figures.Report, err error) {
	r = figures.Report{Title: "Requests in a ring", Base: sideBare}
	// As a vCPU's, the driver's thread is its own, and the runtime has more processors
	// than the machine, so that a thread that comes back finds one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), runtime.NumCPU()+2)))
	defer unix.Umask(unix.Umask(0)) // the shared directory's umask is the guest's
	dir, err := os.MkdirTemp(o.Dir, "tenon-bench-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	peers, missing := vhostuser.Find()
	r.Notes = notes(dir, peers, missing)
	sides, err := openSides(dir, peers)
	defer func() {
		for _, s := range sides {
			err = errors.Join(err, s.close())
		}
	}()
	if err != nil {
		return r, err
	}
	err = measureAll(&r, o, sides)
	return r, err
}

// measureAll measures the rows that are wanted.
func measureAll(r *figures.Report, o figures.Options, sides []side) error {
	for _, x := range rows {
		if !o.Wanted(x.name) {
			continue
		}
		o.Log("%s", x.name)
		measured, err := x.measure(o, sides)
		if err != nil {
			return err
		}
		r.Rows = append(r.Rows, measured)
		r.Claims = append(r.Claims, x.claims()...)
	}
	return nil
}

// openSides makes the sides, all of the same directory: what a file costs depends on
// where it happens to lie, more than on who serves it. On an error those that were made
// are returned too.
func openSides(dir string, peers []vhostuser.Daemon) (sides []side, err error) {
	type starter struct {
		name  string
		start func(dir string) ring.Start
	}
	list := []starter{{sideBare, nil}, {sideGo, nil}, {sideTenon, func(dir string) ring.Start {
		return ring.Local(dir, ring.LocalOptions{Window: windowSize})
	}}}
	for _, p := range peers {
		list = append(list, starter{peerSide(p), p.Start})
	}
	if err := makeTree(dir); err != nil {
		return nil, err
	}
	for _, x := range list {
		s, err := openSide(x.name, dir, x.start)
		if err != nil {
			return sides, fmt.Errorf("%s: %w", x.name, err)
		}
		sides = append(sides, s)
	}
	return sides, nil
}

func openSide(name, dir string, start func(string) ring.Start) (side, error) {
	if start == nil {
		b, err := newBare(dir, name == sideGo)
		if err != nil {
			return side{}, err
		}
		return side{name, b, true, b.memory.Rewind, b.close}, nil
	}
	window := name == sideTenon
	d, err := newDriven(dir, start(dir), window)
	if err != nil {
		return side{}, err
	}
	return side{name, d, window, d.share.Rewind, d.share.Close}, nil
}

// measure is the row's figures, of the sides that can do it.
func (x row) measure(o figures.Options, sides []side) (figures.Row, error) {
	var list []figures.Side
	var ends []func() error
	for _, s := range sides {
		if !x.has(s) {
			continue
		}
		s.rewind()
		job, err := x.prepare(s)
		if err != nil {
			return figures.Row{}, fmt.Errorf("%s, %s: %w", x.name, s.name, err)
		}
		ends = append(ends, job.close)
		w := newWatch(x.serial, job.n)
		list = append(list, figures.Side{Name: s.name, Run: func() (figures.Round, error) { return w.round(job, o.Smoke) }})
	}
	rounds := turns * o.Rounds
	if o.Smoke {
		rounds = 1
	}
	measured, err := figures.Measure(x.name, "ns", rounds, list...)
	for _, end := range ends {
		if end != nil {
			err = errors.Join(err, end())
		}
	}
	return measured, err
}

// has says whether the row is measured for a side.
func (x row) has(s side) bool {
	return (s.window || !x.window) && (x.short() || s.name != sideGo)
}

// prepare makes the row's work for a side, does it once, and looks at what came of it.
func (x row) prepare(s side) (work, error) {
	job, err := x.do(s.subject, x)
	if err != nil {
		return work{}, err
	}
	if err := job.batch(newWatch(x.serial, job.n)); err != nil {
		return work{}, err
	}
	if job.verify != nil {
		err = job.verify()
	}
	return job, err
}
