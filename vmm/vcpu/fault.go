package vcpu

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"tenon/vmm/kvm"
)

// Memory is guest-physical memory of which the host may fail to provide pages:
// the DAX windows. Several processors call it at once.
type Memory interface {
	// Covers says whether an address lies in it. It is asked at every
	// memory-mapped access, so it is quick.
	Covers(gpa uint64) bool
	// Load copies guest-physical memory, the guest's RAM included, without ever
	// touching a page that may be gone.
	Load(gpa uint64, p []byte) error
	// Ready names a piece of it that the guest is about to read and the host has at
	// hand, each once; n is 0 without one. It is asked after every store to a device,
	// so it is quick.
	Ready() (gpa, n uint64)
	// Fault answers an access that the host could not do. An error ends the machine.
	Fault(f *Fault) (Answer, error)
}

// Answer is what Memory has done about a fault.
type Answer int

const (
	Again  Answer = iota // nothing that could help was found: the access is tried again
	Mended               // the host can do the access now
	Signal               // the program that runs is to be sent SIGBUS; only where Fault.Signal
	Deny                 // it is to be sent SIGSEGV; only where Fault.Obscure
)

// Access is a piece of memory that an instruction uses.
type Access struct {
	GPA   uint64
	Write bool // it stores there, or may
}

// Fault is an access of a processor that the host could not do. KVM tells it in
// two ways: KVM_RUN fails with EFAULT and names no address, or there is an exit
// that names one (KVM_EXIT_MEMORY_FAULT, or KVM_EXIT_MMIO in a memory slot).
type Fault struct {
	// Accesses are those that it may have been, most likely first, at most one
	// in a page; none are known for some instructions.
	Accesses []Access
	// Done says that KVM has the access behind it, as one to a device: a load has
	// read zeros, a store is dropped.
	Done bool
	// Suspected says that KVM has reported nothing: the instruction only seems not to
	// come to an end. What is wrong with an access is to be made such that KVM reports
	// it; the answer does not matter.
	Suspected bool
	// Signal says that the program that runs can be sent SIGBUS: it runs at CPL 3,
	// and its kernel takes machine checks.
	Signal bool
	// Obscure says that a program runs, at CPL 3, and that its instruction accesses
	// memory of which its registers alone do not tell: gathers and scatters do.
	Obscure bool
	// Attempts is how many times in a row, and at short intervals, the same
	// instruction with the same registers has been answered by Again.
	Attempts int
}

// loopInterval is the time within which a fault that comes again is one that the
// answer before did not help: pages that stand in for lost ones stay longer.
const loopInterval = 50 * time.Millisecond

// attempts recognises a fault that comes again and again.
type attempts struct {
	regs  kvm.Regs
	last  time.Time
	count int
}

// note counts a fault of an instruction with these registers.
func (a *attempts) note(r *kvm.Regs, now time.Time) int {
	if *r != a.regs || now.Sub(a.last) > loopInterval {
		a.count = 0
	}
	a.regs, a.last = *r, now
	return a.count
}

// answered counts how the fault was answered, however long that took.
func (a *attempts) answered(with Answer, now time.Time) {
	a.last = now
	if with == Again {
		a.count++
		return
	}
	a.count = 0
}

// isFault says whether KVM_RUN failed because the host could not provide a page.
func isFault(err error) bool { return errors.Is(err, unix.EFAULT) || errors.Is(err, unix.EHWPOISON) }

// fault answers a KVM_RUN that failed because the host could not do an access.
func (c *CPU) fault(cause error) error {
	regs, sregs, err := c.registers()
	if err != nil {
		return err
	}
	f := Fault{Signal: c.signals(sregs), Attempts: c.attempts.note(regs, time.Now())}
	if gpa, ok := c.vcpu.MemoryFault(); ok {
		f.Accesses = []Access{{GPA: gpa, Write: true}}
	} else {
		f.Accesses, f.Obscure = c.accesses(regs, sregs)
	}
	answer, err := c.memory.Fault(&f)
	if err != nil {
		return fmt.Errorf("vcpu %d: access by the instruction at %#x: %w (%w)", c.id, regs.RIP, err, cause)
	}
	c.attempts.answered(answer, time.Now())
	switch answer {
	case Signal:
		return c.machineCheck()
	case Deny:
		return c.vcpu.InjectGP()
	}
	return nil
}

// lost answers an access to memory that KVM could not do and has made one to a
// device: it is done, without effect.
func (c *CPU) lost(a kvm.MMIO) error {
	if !a.Write {
		clear(a.Data)
	}
	_, err := c.memory.Fault(&Fault{Accesses: []Access{{GPA: a.Addr, Write: a.Write}}, Done: true})
	if err != nil {
		return fmt.Errorf("vcpu %d: access by the instruction at %#x: %w", c.id, c.rip(), err)
	}
	return nil
}

// prefault maps what the guest is about to read: one system call instead of as many
// faults as it has pages.
func (c *CPU) prefault() {
	if c.memory == nil || c.faultsOnly {
		return
	}
	gpa, n := c.memory.Ready()
	if n == 0 {
		return
	}
	switch c.vcpu.PreFault(gpa, n) {
	case nil, unix.EINTR, unix.EAGAIN, unix.EFAULT: // the guest's own accesses do the rest
	default:
		c.faultsOnly = true // KVM before Linux 6.11, or without two-dimensional paging
	}
}

// maxInstruction is the longest an instruction can be, in bytes.
const maxInstruction = 15

// accesses are the pages that the instruction at RIP uses, those it is in last. See
// Fault.Obscure.
func (c *CPU) accesses(r *kvm.Regs, s *kvm.Sregs) (list []Access, obscure bool) {
	at := r.RIP
	if !longMode(s) {
		at = uint64(uint32(s.CS.Base + r.RIP))
	}
	code := c.code(at, s)
	for _, o := range decode(code, r, s) {
		list = c.appendPages(list, o, s)
	}
	obscure = len(list) == 0 && s.SS.DPL == userLevel
	return c.appendPages(list, operand{linear: at, size: uint32(max(len(code), 1))}, s), obscure
}

// code returns the bytes of the instruction at a linear address as far as they can
// be read: it may go on in another page, and its page may be a lost one itself.
func (c *CPU) code(at uint64, s *kvm.Sregs) []byte {
	var b [maxInstruction]byte
	n := 0
	for n < len(b) {
		gpa, ok := c.translate(at+uint64(n), s)
		if !ok {
			break
		}
		part := b[n:min(len(b), n+int(pageSize-gpa%pageSize))]
		if c.memory.Load(gpa, part) != nil {
			break
		}
		n += len(part)
	}
	return b[:n]
}

const pageSize = 4096

// appendPages adds the pages of an operand that the guest has mapped.
func (c *CPU) appendPages(list []Access, o operand, s *kvm.Sregs) []Access {
	for at := o.linear; at-o.linear < uint64(o.size); at = (at | (pageSize - 1)) + 1 {
		if gpa, ok := c.translate(at, s); ok {
			list = appendAccess(list, Access{GPA: gpa, Write: o.write})
		}
	}
	return list
}

// appendAccess adds one page, unless the list has it.
func appendAccess(list []Access, a Access) []Access {
	for i := range list {
		if list[i].GPA/pageSize == a.GPA/pageSize {
			list[i].Write = list[i].Write || a.Write
			return list
		}
	}
	return append(list, a)
}
