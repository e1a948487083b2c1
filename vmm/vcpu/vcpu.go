// Package vcpu runs virtual processors: one goroutine is one locked thread is
// one vCPU. It turns exits into bus accesses; devices answer on this thread,
// and the guest goes on when they return.
package vcpu

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tenon/devices/bus"
	"tenon/vmm/kvm"
)

// The ways a processor ends by the guest's own doing.
var (
	ErrShutdown = errors.New("vcpu: the guest shut down by a triple fault")
	ErrHalted   = errors.New("vcpu: the guest halted for ever")
)

// EmulationError says that KVM met an instruction it cannot run: a property of
// the host's KVM, not of the guest.
type EmulationError struct {
	RIP  uint64
	Insn []byte // its bytes, when KVM tells them
}

// Error names the address and the instruction's bytes.
func (e *EmulationError) Error() string {
	return fmt.Sprintf("KVM cannot run the instruction at %#x (bytes % x)", e.RIP, e.Insn)
}

// CPU is one virtual processor. Init and Loop belong to the goroutine that
// owns it, which must be locked to its thread; Stop is for any.
type CPU struct {
	id        int
	pio, mmio *bus.Bus
	vcpu      *kvm.VCPU
	tid       int
	stop      atomic.Bool

	memory   Memory // nil: the host provides all of the guest's
	reports  bool   // the guest takes machine checks
	attempts attempts
	// faultsOnly: this host's KVM maps memory only when the guest accesses it.
	faultsOnly bool

	due        atomic.Bool // Inspect wants a look
	inspection inspection
}

// Entry sets the registers for a guest's first instruction.
type Entry func(*kvm.Regs, *kvm.Sregs)

// New returns processor id (its APIC id too) on the given buses.
func New(id int, pio, mmio *bus.Bus) *CPU {
	return &CPU{id: id, pio: pio, mmio: mmio}
}

// Back says who answers for memory that the host may fail to provide. It comes
// before Init; without it such an access ends the guest.
func (c *CPU) Back(m Memory) { c.memory = m }

// Init creates the KVM side on the calling thread and sets what the guest sees
// of it. cpuid is the list for this processor (see Topology). entry changes the
// registers from their state at reset to the one the guest starts in; it is nil
// for processors that wait for INIT and SIPI.
func (c *CPU) Init(vm *kvm.VM, cpuid []kvm.CPUIDEntry, entry Entry) error {
	vcpu, err := vm.NewVCPU(c.id)
	if err != nil {
		return err
	}
	c.vcpu = vcpu
	c.tid = unix.Gettid()
	return c.configure(cpuid, entry)
}

func (c *CPU) configure(cpuid []kvm.CPUIDEntry, entry Entry) error {
	if err := c.vcpu.SetCPUID(cpuid); err != nil {
		return err
	}
	if err := c.vcpu.SetMSRs(resetMSRs()...); err != nil {
		return err
	}
	c.setupMCE(cpuid)
	if entry == nil {
		return nil
	}
	regs, sregs, err := c.registers()
	if err != nil {
		return err
	}
	entry(regs, sregs)
	if err := c.vcpu.SetSregs(sregs); err != nil {
		return err
	}
	return c.vcpu.SetRegs(regs)
}

func (c *CPU) registers() (*kvm.Regs, *kvm.Sregs, error) {
	regs, err := c.vcpu.Regs()
	if err != nil {
		return nil, nil, err
	}
	sregs, err := c.vcpu.Sregs()
	return regs, sregs, err
}

// MSRs with values other than at reset (Intel SDM vol. 4).
const (
	msrMiscEnable  = 0x1a0
	msrMTRRDefType = 0x2ff

	miscEnableFastString = 1
	mtrrEnableWriteBack  = 1<<11 | 6 // MTRRs on, type write-back where none says otherwise
)

// resetMSRs makes all memory write-back by default: with MTRRs off Linux would
// map the shared-memory window of virtio-fs uncached.
func resetMSRs() []kvm.MSR {
	return []kvm.MSR{
		{Index: msrMTRRDefType, Value: mtrrEnableWriteBack},
		{Index: msrMiscEnable, Value: miscEnableFastString},
	}
}

// Loop runs the guest until Stop (nil) or until it cannot go on. The error is
// ErrShutdown, ErrHalted, *EmulationError, or one of KVM's.
func (c *CPU) Loop() error {
	for !c.stop.Load() {
		reason, err := c.vcpu.Run()
		if err == nil {
			err = c.exit(reason)
		} else {
			err = c.runError(err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// exit does what the guest left for.
func (c *CPU) exit(reason kvm.Reason) error {
	if reason != kvm.Interrupted {
		c.attempts.count = 0 // the guest gets on
	}
	switch reason {
	case kvm.ExitMMIO:
		return c.accessMMIO()
	case kvm.ExitIO:
		c.accessPIO()
	case kvm.Interrupted, kvm.ExitIntr:
		if c.due.Swap(false) {
			return c.inspect()
		}
	default:
		return c.end(reason)
	}
	return nil
}

func (c *CPU) accessMMIO() error {
	a := c.vcpu.MMIO()
	switch {
	case c.memory != nil && c.memory.Covers(a.Addr):
		return c.lost(a)
	case a.Write:
		c.mmio.Write(a.Addr, a.Data)
		c.prefault() // a load's answer waits in the run page, where KVM may tell of a fault
	default:
		c.mmio.Read(a.Addr, a.Data)
	}
	return nil
}

func (c *CPU) accessPIO() {
	a := c.vcpu.IO()
	for p := a.Data; len(p) >= a.Size; p = p[a.Size:] {
		if a.In {
			c.pio.Read(uint64(a.Port), p[:a.Size])
		} else {
			c.pio.Write(uint64(a.Port), p[:a.Size])
		}
	}
	if !a.In { // as after a store, see accessMMIO
		c.prefault()
	}
}

func (c *CPU) end(reason kvm.Reason) error {
	switch reason {
	case kvm.ExitShutdown:
		return ErrShutdown
	case kvm.ExitHalt:
		return ErrHalted
	case kvm.ExitInternalError:
		sub, insn := c.vcpu.InternalError()
		if sub == kvm.InternalErrorEmulation {
			return &EmulationError{RIP: c.rip(), Insn: insn}
		}
		return fmt.Errorf("vcpu %d: KVM internal error %d at %#x", c.id, sub, c.rip())
	case kvm.ExitFailEntry:
		return fmt.Errorf("vcpu %d: the processor refused to enter the guest, hardware reason %#x", c.id, c.vcpu.FailEntry())
	case kvm.ExitSystemEvent:
		return ErrShutdown
	}
	return fmt.Errorf("vcpu %d: unexpected exit %v at %#x", c.id, reason, c.rip())
}

// runError answers an error of KVM_RUN: nil when the guest goes on.
func (c *CPU) runError(err error) error {
	if c.memory != nil && isFault(err) {
		return c.fault(err)
	}
	return fmt.Errorf("vcpu %d: KVM_RUN at %#x: %w", c.id, c.rip(), err)
}

func (c *CPU) rip() uint64 {
	r, err := c.vcpu.Regs()
	if err != nil {
		return 0
	}
	return r.RIP
}

// Stop makes Loop return soon, from any thread, any number of times. The
// signal takes the thread out of a KVM_RUN in progress; immediate_exit, which
// stays set, keeps it out of the next. SIGURG is the runtime's own preemption
// signal, so it needs no handler of ours and does no harm elsewhere.
func (c *CPU) Stop() {
	c.stop.Store(true)
	c.vcpu.SetImmediateExit(true)
	// A thread that is gone already is what we want: the error says nothing.
	_ = unix.Tgkill(unix.Getpid(), c.tid, unix.SIGURG)
}

// Close frees the KVM side, if Init got that far. No Stop or Loop may follow.
func (c *CPU) Close() error {
	if c.vcpu == nil {
		return nil
	}
	return c.vcpu.Close()
}
