package vcpu

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tenon/vmm/kvm"
)

// For a page that a mapping allows and the host still fails to provide, because it
// has no space for it or cannot read it, KVM does not come back: it has the page
// fetched in the background, does not hear that this failed, and lets the guest try
// again, for ever (kvm_arch_async_page_ready). So processors that do not come out by
// themselves are taken out now and then, and those found twice at the same
// instruction with the same registers have its accesses looked at. Memory then sees to
// it that KVM does come back.

// inspection is what the one who inspects, and then the processor, remembers.
type inspection struct {
	used  time.Duration // processor time of the thread, at the last Inspect
	waits atomic.Bool   // the last look was at a halted processor
	regs  kvm.Regs      // at the last look
}

// Inspect has the processor look whether it is caught in an access that the host
// cannot do, unless it has been idle. It is for one goroutine at a time, while Loop
// runs; it is of use at intervals that are much longer than any instruction takes.
func (c *CPU) Inspect() {
	used := c.processorTime()
	if used == c.inspection.used {
		return // it waits in KVM, and waking it would cost more than all else of an idle guest
	}
	c.inspection.used = used
	if c.inspection.waits.Swap(false) {
		// Most likely the look itself used it. If not, the processor was not caught
		// before that, and if it is now, it goes on using time.
		return
	}
	c.due.Store(true)
	_ = unix.Tgkill(unix.Getpid(), c.tid, unix.SIGURG) // as in Stop
}

// processorTime is how long the thread has run: clock_getcpuclockid(3) for a thread.
func (c *CPU) processorTime() time.Duration {
	const perThread, scheduler = 4, 2
	var t unix.Timespec
	if unix.ClockGettime(int32(^c.tid)<<3|perThread|scheduler, &t) != nil {
		return 0 // the thread is gone
	}
	return time.Duration(t.Nano())
}

// inspect is the processor's own part of Inspect.
func (c *CPU) inspect() error {
	waits, err := c.vcpu.Waits()
	if err != nil || waits {
		c.inspection.waits.Store(waits)
		return err
	}
	regs, err := c.vcpu.Regs()
	if err != nil {
		return err
	}
	same := *regs == c.inspection.regs
	c.inspection.regs = *regs
	if !same || c.memory == nil {
		return nil
	}
	sregs, err := c.vcpu.Sregs()
	if err != nil {
		return err
	}
	list, _ := c.accesses(regs, sregs)
	f := Fault{Accesses: list, Suspected: true}
	if _, err := c.memory.Fault(&f); err != nil {
		return fmt.Errorf("vcpu %d: access by the instruction at %#x: %w", c.id, regs.RIP, err)
	}
	return nil
}
