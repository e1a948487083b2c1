// Package exit measures what a file request costs a guest from the doorbell to the used
// entry, beside a bare exit and the bare system call: a program of a few bytes rings
// the doorbells of virtio-fs devices on any host with KVM.
package exit

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"tenon/devices/virtio/fs"
	"tenon/scripts/benchmark/figures"
	"tenon/vmm/kvm"
)

// Names of rows begin with the request.
const (
	read4K     = "READ 4K"
	singleDeep = ", 1 deep"
)

// Names of sides.
const (
	bareExit  = "bare exit"
	allowance = "bare exit + 2 system calls"
	// There: as that takes on an exit, whose caches the exit has left cold.
	allowanceThere = "bare exit + 2 system calls there"
	inline         = "inline"
	auto           = "auto"
	worker         = "worker"
	poll           = "poll"
)

// Run measures.
func Run(o figures.Options) (figures.Report, error) {
	r := figures.Report{Title: "A request from the doorbell to its answer", Base: bareExit, Claims: claims(), Notes: []string{
		"Values are medians of single round trips by the guest's clock; where n requests are made at a time, and for the tails of these, a batch by n.",
		"The guest looks for its replies itself: there are no interrupts. Every reply's length and error is checked.",
	}}
	if sys, err := kvm.Open(); err != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("SKIPPED: no micro-guests: %v", err))
		return r, nil
	} else {
		sys.Close()
	}
	if o.Smoke {
		o.Rounds = 1
	}
	// As the machine has it: a vCPU that leaves the guest needs a P at once.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 2))
	b := &bench{o: o, report: &r}
	defer b.close()
	if err := b.open(); err != nil {
		return r, err
	}
	return r, b.run()
}

// bench is a guest with a share for each service.
type bench struct {
	o      figures.Options
	report *figures.Report

	dir    string
	file   int
	g      *guest
	vm     int
	shares map[string]*share
}

var services = []struct {
	name string
	fs.Service
}{{inline, fs.ServiceExit}, {auto, fs.ServiceAuto}, {worker, fs.ServiceWorker}, {poll, fs.ServicePoll}}

func (b *bench) open() (err error) {
	b.file, b.shares = -1, map[string]*share{}
	if b.dir, err = os.MkdirTemp(b.o.Dir, "exit"); err != nil {
		return err
	}
	path, err := newFile(b.dir)
	if err != nil {
		return err
	}
	if b.file, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	if b.g, err = newGuest(); err != nil {
		return err
	}
	if b.vm, err = kvmFile("kvm-vm"); err != nil {
		return err
	}
	for _, s := range services {
		if b.shares[s.name], err = b.g.addShare(b.dir, s.Service); err != nil {
			return fmt.Errorf("a share with service %s: %w", s.name, err)
		}
	}
	return b.g.start()
}

func (b *bench) close() {
	for _, s := range b.shares { // before the memory goes that they look at
		if s != nil {
			s.close()
		}
	}
	if b.g != nil {
		b.g.close()
	}
	if b.file >= 0 {
		unix.Close(b.file)
	}
	os.RemoveAll(b.dir)
}

// request is a kind of request and the system call it stands for.
type request struct {
	name, bare string
	queue      int
	call       func() error
}

func (b *bench) requests() []request {
	block := make([]byte, blockSize)
	var st unix.Statx_t
	return []request{
		{read4K, "pread", reads, func() error { _, err := unix.Pread(b.file, block, 0); return err }},
		{"GETATTR", "statx", getattrs, func() error { return statx(b.file, &st) }},
	}
}

// wanted says whether a row is to be measured, and that it now will be.
func (b *bench) wanted(row string) bool {
	if !b.o.Wanted(row) {
		return false
	}
	b.o.Log("%s", row)
	return true
}

// count is how many times to do what takes that long, for a round.
func (b *bench) count(n int) int {
	if b.o.Smoke {
		return 50
	}
	return n
}

func (b *bench) run() error {
	requests := b.requests()
	for _, q := range requests {
		if err := b.single(q); err != nil {
			return err
		}
		for _, n := range []int{4, 16} {
			if err := b.deep(q, fmt.Sprintf("%s, %d deep, one doorbell", q.name, n), 1, n); err != nil {
				return err
			}
		}
	}
	read := requests[0]
	for _, rows := range []func() error{
		// Linux makes requests of several threads available one by one.
		func() error { return b.deep(read, read4K+", 16 deep, a doorbell each", 16, 1) },
		func() error { return b.collected(read) },
		b.stores, b.interrupts,
	} {
		if err := rows(); err != nil {
			return err
		}
	}
	for _, s := range b.shares {
		if err := s.check(); err != nil {
			return err
		}
	}
	return nil
}

// near is what is done by turns on the vCPU's own thread: nothing, the system call
// alone, and the request.
func (b *bench) near(q request) *turns {
	b.g.work = func() { _ = q.call() }
	return &turns{g: b.g, rounds: b.count(1500), steps: []step{
		{kind: bare, doorbells: 1, doorbell: plainAt, availIdx: orderAt},
		{kind: bare, doorbells: 1, doorbell: workAt, availIdx: orderAt},
		b.shares[inline].step(q.queue, 1, 1),
		b.shares[auto].step(q.queue, 1, 1),
	}}
}

// served is the request of one service.
func (b *bench) served(service string, rounds int, q request, doorbells, batch int) *turns {
	return &turns{g: b.g, rounds: b.count(rounds), steps: []step{b.shares[service].step(q.queue, doorbells, batch)}}
}

// single measures one request at a time.
func (b *bench) single(q request) error {
	name := q.name + singleDeep
	if !b.wanted(name) {
		return nil
	}
	near := b.near(q)
	threads, polled := b.served(worker, 1500, q, 1, 1), b.served(poll, 3000, q, 1, 1)
	events := b.served(inline, 1500, q, 1, 1)
	events.around = eventServer(b.vm, b.g, events.steps[0].doorbell)
	row, err := figures.Measure(name, "ns", b.o.Rounds,
		near.side(bareExit, 0), near.side(exitWith(q), 1), near.side(inline, 2), near.side(auto, 3),
		figures.Side{Name: q.bare, Run: func() (figures.Round, error) { return b.calls(q.call) }},
		threads.side(worker, 0), polled.side(poll, 0), events.side("ioeventfd, thread", 0))
	if err != nil {
		return err
	}
	row.Results = append(row.Results, plus(allowance, row, map[string]float64{bareExit: 1, q.bare: 2}),
		plus(allowanceThere, row, map[string]float64{bareExit: -1, exitWith(q): 2}))
	b.report.Rows = append(b.report.Rows, row, doorbells(name, b.o.Rounds, near.rung[2], threads.rung[0], polled.rung[0]))
	return nil
}

// exitWith is the side that makes the request's system call alone.
func exitWith(q request) string { return "exit with " + q.bare }

// claims are known before anything is measured: what cannot be is not passed over.
func claims() []figures.Claim {
	row := read4K + singleDeep
	return []figures.Claim{
		{Row: row, Side: inline, Base: allowance, Limit: 1},
		{Row: row, Side: inline, Base: allowanceThere, Limit: 1},
	}
}

// deep measures several requests at a time.
func (b *bench) deep(q request, name string, bells, batch int) error {
	if !b.wanted(name) {
		return nil
	}
	near := &turns{g: b.g, rounds: b.count(500), steps: []step{
		{kind: bare, doorbells: 1, doorbell: plainAt, availIdx: orderAt},
		b.shares[inline].step(q.queue, bells, batch),
		b.shares[auto].step(q.queue, bells, batch),
	}}
	if bells > 1 {
		near.rounds = b.count(100)
	}
	threads, polled := b.served(worker, 500, q, bells, batch), b.served(poll, 1000, q, bells, batch)
	events := b.served(inline, 500, q, bells, batch)
	events.around = eventServer(b.vm, b.g, events.steps[0].doorbell)
	row, err := figures.Measure(name, "ns", b.o.Rounds, near.side(bareExit, 0), near.side(inline, 1), near.side(auto, 2),
		threads.side(worker, 0), polled.side(poll, 0), events.side("ioeventfd, thread", 0))
	if err != nil {
		return err
	}
	b.report.Rows = append(b.report.Rows, row, doorbells(name, b.o.Rounds, near.rung[1], threads.rung[0], polled.rung[0]))
	return nil
}

// doorbells is a row about how many doorbells a request took.
func doorbells(name string, rounds int, in, threads, polled []figures.Round) figures.Row {
	row := figures.Row{Name: "doorbells: " + name, Unit: "a request"}
	for i, list := range [][]figures.Round{in, threads, polled} {
		row.Results = append(row.Results, figures.Result{
			Name: []string{inline, worker, poll}[i], Rounds: list[max(len(list)-rounds, 0):], // without the first, which warms up
		})
	}
	return row
}

// collected measures one request at a time while the garbage collector has work.
func (b *bench) collected(q request) error {
	name := q.name + ", 1 deep, GC under load"
	if !b.wanted(name) {
		return nil
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	load := newGarbage()
	near := b.near(q)
	row, err := figures.Measure(name, "ns", b.o.Rounds, near.side(bareExit, 0), near.side(inline, 2), near.side(auto, 3),
		b.served(worker, 1500, q, 1, 1).side(worker, 0), b.served(poll, 1500, q, 1, 1).side(poll, 0))
	load.stop()
	runtime.ReadMemStats(&after)
	for i := range row.Results {
		for n := range row.Results[i].Rounds {
			row.Results[i].Rounds[n].Allocs = -1 // the load's are among them
		}
	}
	b.report.Rows = append(b.report.Rows, row)
	b.report.Notes = append(b.report.Notes, fmt.Sprintf("GC under load: %.0f collections a second, of %d MiB.",
		float64(after.NumGC-before.NumGC)/time.Since(began).Seconds(), garbageSize>>20))
	return err
}

// stores measures what a doorbell alone costs the guest.
func (b *bench) stores() error {
	const name = "a doorbell, nobody waits"
	if !b.wanted(name) {
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := ioEvent(b.vm, eventAt, false, fd, false); err != nil {
		return err
	}
	if err := ioEvent(b.vm, eventPort, true, fd, false); err != nil {
		return err
	}
	forget, err := coalesce(b.vm, mergedAt)
	if err != nil {
		return err
	}
	b.g.full = forget
	t := &turns{g: b.g, rounds: b.count(1000), steps: []step{
		{kind: bare, doorbells: 1, doorbell: plainAt, availIdx: orderAt},
		{kind: bare | port, doorbells: 1, doorbell: plainPort, availIdx: orderAt},
		{kind: bare, doorbells: 1, doorbell: eventAt, availIdx: orderAt},
		{kind: bare | port, doorbells: 1, doorbell: eventPort, availIdx: orderAt},
		{kind: bare, doorbells: 1, doorbell: mergedAt, availIdx: orderAt},
	}}
	row, err := figures.Measure(name, "ns", b.o.Rounds, t.side(bareExit, 0), t.side("port", 1),
		t.side("ioeventfd", 2), t.side("ioeventfd, port", 3), t.side("coalesced", 4))
	b.report.Rows = append(b.report.Rows, row)
	return err
}

// interrupts measures what the host pays to send an MSI.
func (b *bench) interrupts() error {
	const name = "an MSI, the host's call"
	if !b.wanted(name) {
		return nil
	}
	const addr, data = 0xfee00000, 0x40 // to the local APIC 0, vector 0x40
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := irqEvent(b.vm, fd, addr, data); err != nil {
		return err
	}
	one := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	row, err := figures.Measure(name, "ns", b.o.Rounds,
		figures.Side{Name: "KVM_SIGNAL_MSI", Run: func() (figures.Round, error) {
			return b.calls(func() error { return b.g.vm.SignalMSI(addr, data) })
		}},
		figures.Side{Name: "irqfd", Run: func() (figures.Round, error) {
			return b.calls(func() error { _, err := unix.Write(fd, one); return err })
		}})
	b.report.Rows = append(b.report.Rows, row)
	return err
}

// calls is the time of one system call.
func (b *bench) calls(call func() error) (figures.Round, error) {
	const batch = 20
	times := make([]float64, b.count(1000))
	for i := range times {
		began := time.Now()
		for range batch {
			if err := call(); err != nil {
				return figures.Round{}, err
			}
		}
		times[i] = float64(time.Since(began)) / batch
	}
	return figures.Round{Value: figures.Tail(times, 0.5), Allocs: -1}, nil
}
