package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"tenon/guest/channel"
	"tenon/vmm/kvm"
	"tenon/vmm/vcpu"
)

// Kind is how a run ended.
type Kind int

// The ways a run ends. Exited to SetupFailed are the guest's init's own words.
const (
	Exited        Kind = iota + 1 // Status is the command's exit status
	Signaled                      // Status is the signal's number
	NotFound                      // there is no such command in the guest
	NotExecutable                 // the command cannot be executed
	SetupFailed                   // the guest's init could not prepare the system; Message says why
	Died                          // the guest went without a word: panic, reset, power-off
	TimedOut                      // Config.Timeout passed
	Terminated                    // the context ended; nothing more is known of the command
	PoweredOff                    // the user's own initrd powered the machine off
)

// Outcome is the end of a run.
type Outcome struct {
	Kind       Kind
	Status     int
	Message    string
	KernelTail []string // last lines of the kernel log
}

// tailLines is how much of the kernel log an Outcome carries.
const tailLines = 40

// Times the guest has to end by itself before it is stopped.
const (
	timeoutGrace = 2 * time.Second        // after a timeout's SIGTERM
	stopGrace    = 3 * time.Second        // for devices and vCPUs to come to rest
	wordGrace    = 300 * time.Millisecond // for a report that left the guest just before its end
)

// cause is why the vCPUs stopped; the first one counts.
type cause struct {
	kind   causeKind
	result channel.Result // of causeResult
	err    error          // of causeError
}

type causeKind int

const (
	causeResult   causeKind = iota + 1 // the command's end was reported
	causePowerOff                      // ACPI S5
	causeReset                         // ACPI reset, i8042, triple fault
	causeError                         // KVM or a device gave up
	causeTimeout
	causeCancel
)

// finish ends the run, from any thread; only the first call counts.
func (m *Machine) finish(c cause) {
	m.endOnce.Do(func() {
		m.cause = c
		close(m.end)
	})
}

// Run runs the guest until the command's end is known, the guest is gone, the
// timeout passed or ctx ended. An error is Tenon's own failure or the host's;
// whatever the guest does is an Outcome. Run once.
func (m *Machine) Run(ctx context.Context) (Outcome, error) {
	m.startCPUs()
	m.startConsole()
	// What assembly left in the heap goes back to the host while the guest boots.
	go debug.FreeOSMemory()
	m.awaitEnd(ctx)
	m.awaitWord()
	m.stages.done("guest")
	m.stopCPUs()
	m.drainConsole()
	if m.config.Report != "" {
		var err error
		if m.rss, err = m.measureRSS(); err != nil {
			return Outcome{}, fmt.Errorf("report: resident memory: %w", err)
		}
	}
	return m.outcome()
}

// awaitEnd waits for whatever ends the run first, and sees to it that cause is set.
func (m *Machine) awaitEnd(ctx context.Context) {
	timeout, stop := m.startTimeout()
	defer stop()
	var hello <-chan struct{}
	if m.host != nil {
		hello = m.host.Hello()
	}
	for {
		select {
		case <-hello:
			hello = nil
			m.stages.done("init")
			continue
		case <-m.end:
		case <-timeout:
			m.expire(ctx)
		case <-ctx.Done():
			m.finish(cause{kind: causeCancel})
		}
		<-m.end
		select {
		case <-hello: // it came just before the end
			m.stages.done("init")
		default:
		}
		return
	}
}

func (m *Machine) startTimeout() (<-chan time.Time, func()) {
	if m.config.Timeout == 0 {
		return nil, func() {}
	}
	t := time.NewTimer(m.config.Timeout)
	return t.C, func() { t.Stop() }
}

// expire gives the command a chance to end by SIGTERM, so that its files are
// whole, and stops the guest when it does not take it.
func (m *Machine) expire(ctx context.Context) {
	m.Signal(int(unix.SIGTERM))
	grace := time.NewTimer(timeoutGrace)
	defer grace.Stop()
	select {
	case <-m.end:
	case <-grace.C:
	case <-ctx.Done():
	}
	// Whatever came meanwhile, the run is one that timed out.
	m.finish(cause{kind: causeTimeout})
	m.cause = cause{kind: causeTimeout}
}

// startCPUs lets every vCPU run on its own goroutine; see buildCPUs.
func (m *Machine) startCPUs() {
	m.stages.done("first KVM_RUN")
	close(m.launch)
	if len(m.faults.windows) > 0 {
		go m.faults.inspect(m.cpus, m.end)
	}
}

// startConsole moves bytes between the guest and our surroundings.
func (m *Machine) startConsole() {
	if !m.ownInit() {
		go func() {
			defer close(m.copied)
			copyOut(io.MultiWriter(m.log, m.opts.Stdout), m.login)
		}()
		if m.opts.Stdin != nil {
			go m.typeIn()
		}
		return
	}
	go func() {
		result, err := m.host.Run()
		switch {
		case err == nil:
			m.word <- result
			m.finish(cause{kind: causeResult, result: result})
		case !errors.Is(err, channel.ErrNoResult):
			// Bytes that make no sense: this is no init of ours. Without a
			// word at all, the guest's own end tells what happened.
			m.finish(cause{kind: causeError, err: fmt.Errorf("channel to the guest: %w", err)})
		}
	}()
}

// awaitWord waits a moment for the report of a guest that powered off: it may
// still be on its way through the channel, and then it is what counts.
func (m *Machine) awaitWord() {
	if !m.ownInit() || m.cause.kind != causePowerOff && m.cause.kind != causeReset {
		return
	}
	select {
	case r := <-m.word:
		m.cause = cause{kind: causeResult, result: r}
	case <-time.After(wordGrace):
	}
}

// copyOut copies until the machine closes r. A closed standard output does not
// end the guest, and a console that nobody reads would stop it.
func copyOut(w io.Writer, r io.Reader) {
	if _, err := io.Copy(w, r); err != nil {
		_, _ = io.Copy(io.Discard, r)
	}
}

// drainConsole lets what a guest with its own init said last reach standard
// output. Somebody who does not read that is not waited for.
func (m *Machine) drainConsole() {
	if m.ownInit() || m.stuck {
		return
	}
	m.console.Close()
	select {
	case <-m.copied:
	case <-time.After(stopGrace):
	}
}

// typeIn gives our input to the console the kernel has.
func (m *Machine) typeIn() {
	b := make([]byte, 256)
	for {
		n, err := m.opts.Stdin.Read(b)
		if n > 0 && m.serialConsole() {
			_, _ = m.serial.Feed(b[:n])
		} else if n > 0 {
			_, _ = m.login.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}

// stopCPUs brings every vCPU thread to its end. A thread held in a system call
// on a dead file system would hold us for ever: after a grace it is left
// behind, to end with the process.
func (m *Machine) stopCPUs() {
	done := make(chan struct{})
	go func() {
		m.running.Wait()
		close(done)
	}()
	for _, c := range m.cpus {
		c.Stop()
	}
	select {
	case <-done:
	case <-time.After(stopGrace):
		m.stuck = true
	}
}

func (m *Machine) outcome() (Outcome, error) {
	o := Outcome{KernelTail: m.log.lines(tailLines)}
	switch m.cause.kind {
	case causeError:
		return o, m.cause.err
	case causeTimeout:
		o.Kind = TimedOut
	case causeCancel:
		o.Kind = Terminated
	case causeReset:
		o.Kind = Died
		o.Message = "the guest reset itself"
	case causePowerOff:
		o.Kind, o.Message = Died, "the guest powered off before the command's end was reported"
		if !m.ownInit() {
			o.Kind, o.Message = PoweredOff, ""
		}
	case causeResult:
		r := m.cause.result
		o.Kind, o.Status, o.Message = resultKinds[r.Kind], r.Status, r.Message
	}
	return o, nil
}

var resultKinds = map[channel.Kind]Kind{
	channel.Exited:        Exited,
	channel.Signaled:      Signaled,
	channel.NotFound:      NotFound,
	channel.NotExecutable: NotExecutable,
	channel.SetupFailed:   SetupFailed,
}

// Signal delivers a signal to the command in the guest. It never blocks.
func (m *Machine) Signal(sig int) {
	if m.host != nil {
		m.host.Signal(sig)
	}
}

// Resize tells the guest the size of our terminal. It never blocks.
func (m *Machine) Resize(rows, cols uint16) {
	if m.host != nil {
		m.host.Resize(rows, cols)
	}
	m.console.Resize(cols, rows)
}

// buildCPUs creates every vCPU on the thread that will run it, and waits until
// all are ready or one failed.
func (m *Machine) buildCPUs() error {
	ready := make(chan error, m.config.CPUs)
	deadline := m.sys.Extension(kvm.CapTSCDeadlineTimer) != 0
	for id := range m.config.CPUs {
		c := vcpu.New(id, &m.pio, &m.mmio)
		m.cpus = append(m.cpus, c)
		if len(m.faults.windows) > 0 {
			c.Back(&m.faults)
		}
		var entry vcpu.Entry
		if id == 0 {
			entry = m.entry.Set
		}
		cpuid := vcpu.Topology(m.cpuid, id, m.config.CPUs, deadline)
		m.running.Add(1)
		go m.runCPU(c, func() error { return c.Init(m.vm, cpuid, entry) }, ready)
	}
	var first error
	for range m.config.CPUs {
		if err := <-ready; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// runCPU is the life of one vCPU thread. The goroutine ends locked, so the
// thread ends with it.
func (m *Machine) runCPU(c *vcpu.CPU, build func() error, ready chan<- error) {
	runtime.LockOSThread()
	defer m.running.Done()
	err := build()
	ready <- err
	if err != nil {
		return
	}
	select {
	case <-m.launch:
	case <-m.abandon:
		return
	}
	if err := c.Loop(); err != nil {
		m.finish(endOf(err))
	}
}

// endOf tells the guest's own end from the host's failure.
func endOf(err error) cause {
	var emulation *vcpu.EmulationError
	switch {
	case errors.Is(err, vcpu.ErrShutdown):
		return cause{kind: causeReset}
	case errors.As(err, &emulation):
		return cause{kind: causeError, err: fmt.Errorf("%w: %w", ErrBackEnd, err)}
	}
	return cause{kind: causeError, err: err}
}
