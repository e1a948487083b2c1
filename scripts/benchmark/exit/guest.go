package exit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"tenon/devices/bus"
	"tenon/devices/memory"
	"tenon/devices/pci"
	"tenon/vmm/kvm"
	"tenon/vmm/layout"
	"tenon/vmm/vcpu"
)

// guest is a machine with one vCPU, a PCI bus and a program that does what it is
// ordered to.
type guest struct {
	ram  []byte
	mem  *memory.Map
	sys  *kvm.System
	vm   *kvm.VM
	cpu  *vcpu.CPU
	pio  bus.Bus
	mmio bus.Bus
	pci  *pci.Host

	next    memory.GPA // what follows is free for rings and chains
	work    func()     // what the host does at workAt
	full    func()     // and when nothing more fits into the page of mergedAt
	orders  chan order
	rang    chan report
	started bool
	ended   chan error
	tick    float64 // nanoseconds of the guest's clock
	mallocs uint64  // when the last order was given
}

// report is what was found when the guest rang for another order.
type report struct {
	at     time.Time
	allocs uint64 // since the order
}

// patience is for one order: what takes longer hangs.
const patience = 60 * time.Second

// newGuest returns a machine whose guest waits for its first order when start has
// been called, after all devices have been added.
func newGuest() (*guest, error) {
	g := &guest{
		next: ringsAt, work: func() {}, full: func() {},
		orders: make(chan order), rang: make(chan report), ended: make(chan error, 1),
	}
	if err := g.build(); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *guest) build() (err error) {
	if g.sys, err = kvm.Open(); err != nil {
		return err
	}
	if g.vm, err = g.sys.NewVM(); err != nil {
		return err
	}
	if err = g.vm.CreateIRQChip(layout.TSS, layout.IdentityMap); err != nil {
		return err
	}
	if g.ram, err = unix.Mmap(-1, 0, ramLen, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE); err != nil {
		return fmt.Errorf("guest memory: mmap: %w", err)
	}
	_ = unix.Madvise(g.ram, unix.MADV_HUGEPAGE) // as the machine does; not every kernel has them
	clear(g.ram)                                // all of it there
	tables(g.ram)
	copy(g.ram[entryAt:], program)
	if err = g.vm.SetMemory(0, 0, 0, g.ram); err != nil {
		return err
	}
	if g.mem, err = memory.New(memory.Region{Data: g.ram}); err != nil {
		return err
	}
	return g.buses()
}

func (g *guest) buses() error {
	w := pci.Windows{
		MMIO32: bus.Range{Base: layout.MMIO32, Len: layout.MMIO32Len},
		MMIO64: bus.Range{Base: 1 << 40, Len: 1 << 40},
	}
	g.pci = pci.NewHost(w)
	plain := store(func() {})
	return errors.Join(
		g.pio.Map(bus.Range{Base: plainPort, Len: 2}, "plain port", plain),
		g.pio.Map(bus.Range{Base: eventPort, Len: 2}, "event port", plain),
		g.mmio.Map(bus.Range{Base: bellAt, Len: 4}, "bell", store(g.bell)),
		g.mmio.Map(bus.Range{Base: plainAt, Len: 4}, "plain", plain),
		g.mmio.Map(bus.Range{Base: workAt, Len: 4}, "work", store(func() { g.work() })),
		g.mmio.Map(bus.Range{Base: eventAt, Len: 4}, "event", plain),
		g.mmio.Map(bus.Range{Base: mergedAt, Len: 4}, "merged stores", store(func() { g.full() })),
		g.mmio.Map(w.MMIO32, "BARs", g.pci.Memory32()),
	)
}

// store is the handler of an address that is only stored to.
type store func()

// Read implements bus.Handler.
func (s store) Read(_ uint64, p []byte) { clear(p) }

// Write implements bus.Handler.
func (s store) Write(uint64, []byte) { s() }

// start runs the guest until it rings for the first time and sets its clock.
func (g *guest) start() error {
	g.pio.Freeze()
	g.mmio.Freeze()
	cpuid, err := g.sys.SupportedCPUID()
	if err != nil {
		return err
	}
	g.cpu = vcpu.New(0, &g.pio, &g.mmio)
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := g.cpu.Init(g.vm, vcpu.Topology(cpuid, 0, 1, false), registers)
		ready <- err
		if err == nil {
			g.ended <- g.cpu.Loop()
		}
	}()
	if err := <-ready; err != nil {
		return err
	}
	g.started = true
	return g.calibrate()
}

// registers is long mode at CPL 3, which is all that some hosts' KVM runs fast. There
// is no IDT: an exception ends the guest.
func registers(r *kvm.Regs, s *kvm.Sregs) {
	code := kvm.Segment{Selector: 0x1b, Limit: 0xffffffff, Typ: 11, Present: 1, DPL: 3, S: 1, L: 1, G: 1}
	data := kvm.Segment{Selector: 0x23, Limit: 0xffffffff, Typ: 3, Present: 1, DPL: 3, S: 1, DB: 1, G: 1}
	s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
	s.TR = kvm.Segment{Limit: 0x67, Selector: 0x28, Present: 1, Typ: 11}
	const pae = 1 << 5
	s.CR0, s.CR3, s.CR4, s.EFER = 0x80050033, pml4At, pae, 1<<8|1<<10
	const iopl3 = 3 << 12
	r.RIP, r.RFLAGS = entryAt, 2|iopl3
}

// bell gives the guest an order, on its thread.
func (g *guest) bell() {
	now := time.Now()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	g.rang <- report{now, m.Mallocs - g.mallocs}
	o, ok := <-g.orders
	if !ok {
		return
	}
	g.put(orderAt, o)
	runtime.ReadMemStats(&m)
	g.mallocs = m.Mallocs
}

// wait waits for the bell.
func (g *guest) wait() (report, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case r := <-g.rang:
		return r, nil
	case err := <-g.ended:
		g.ended <- err
		return report{}, fmt.Errorf("the guest ended: %w", err)
	case <-late.C:
		return report{}, errors.New("the guest hangs")
	}
}

// calibrate finds out how fast the guest's clock goes.
func (g *guest) calibrate() error {
	first, err := g.wait()
	if err != nil {
		return err
	}
	began := g.clock()
	time.Sleep(300 * time.Millisecond)
	g.tick = 1
	last, err := g.do(1, step{kind: bare, doorbells: 1, doorbell: plainAt, availIdx: orderAt})
	if err != nil {
		return err
	}
	g.tick = float64(last.at.Sub(first.at)) / float64(g.clock()-began)
	return nil
}

// clock is the guest's when it rang last.
func (g *guest) clock() uint64 { return g.word(orderAt + 32) }

func (g *guest) word(at int) uint64 { return binary.LittleEndian.Uint64(g.ram[at:]) }

// result is what came of an order.
type result struct {
	report
	times [][]float64 // of each step: nanoseconds of every round
	rung  []uint64    // of each step: how many doorbells the device wanted
}

// do has the guest go through the steps so many times. Every reply is checked.
func (g *guest) do(rounds int, steps ...step) (result, error) {
	r := result{times: make([][]float64, len(steps)), rung: make([]uint64, len(steps))}
	if room := (ramLen - samplesAt) / 4; rounds*len(steps) > room {
		return r, fmt.Errorf("%d rounds of %d steps: there is room for %d times", rounds, len(steps), room)
	}
	for i, s := range steps {
		g.put(stepsAt+i*stepSize, s)
	}
	var err error
	g.orders <- order{uint64(rounds), samplesAt, stepsAt, stepsAt + uint64(len(steps)*stepSize)}
	if r.report, err = g.wait(); err != nil {
		return r, err
	}
	for i := range steps {
		at := stepsAt + i*stepSize
		if n := g.word(at + failuresOff); n != 0 {
			return r, fmt.Errorf("%d of %d replies are wrong", n, uint64(rounds)*steps[i].requests())
		}
		r.rung[i] = g.word(at + rungOff)
		r.times[i] = make([]float64, rounds)
		for n := range rounds {
			ticks := binary.LittleEndian.Uint32(g.ram[samplesAt+4*(n*len(steps)+i):])
			r.times[i][n] = float64(ticks) * g.tick
		}
	}
	return r, nil
}

// put writes what is of a fixed size to the guest's memory.
func (g *guest) put(at int, v any) {
	if _, err := binary.Encode(g.ram[at:], binary.LittleEndian, v); err != nil {
		panic(err) // v is one of our structs
	}
}

// close ends the guest. Nobody may wait for it any more.
func (g *guest) close() {
	if g.started {
		g.cpu.Stop()
		close(g.orders)
		for over := false; !over; {
			select {
			case <-g.rang: // it was just about to ring
			case <-g.ended:
				over = true
			}
		}
	}
	if g.cpu != nil {
		_ = g.cpu.Close()
	}
	if g.vm != nil {
		_ = g.vm.Close()
	}
	if g.sys != nil {
		_ = g.sys.Close()
	}
	if g.ram != nil {
		_ = unix.Munmap(g.ram)
	}
}
