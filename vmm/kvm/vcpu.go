package kvm

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// Register files as KVM has them (struct kvm_regs, kvm_sregs, kvm_segment).
type (
	Regs       = kvm.Regs
	Sregs      = kvm.Sregs
	Segment    = kvm.Segment
	Descriptor = kvm.Descriptor
)

// Reason says why a vCPU came back from the guest (KVM_EXIT_*).
type Reason uint32

// The exits a machine with in-kernel interrupt controllers sees.
const (
	ExitIO            Reason = 2
	ExitDebug         Reason = 4
	ExitHalt          Reason = 5
	ExitMMIO          Reason = 6
	ExitShutdown      Reason = 8
	ExitFailEntry     Reason = 9
	ExitIntr          Reason = 10
	ExitInternalError Reason = 17
	ExitSystemEvent   Reason = 24
	ExitMemoryFault   Reason = 39

	// Interrupted is ours: KVM_RUN returned EINTR, the run page is stale.
	Interrupted Reason = 0xffffffff
)

// String returns the name of the exit.
func (r Reason) String() string {
	switch r {
	case Interrupted:
		return "interrupted"
	case ExitSystemEvent:
		return "EXITSYSTEMEVENT"
	case ExitMemoryFault:
		return "EXITMEMORYFAULT"
	}
	return kvm.ExitType(r).String()
}

// Offsets in struct kvm_run.
const (
	runImmediateExit = 1
	runExitReason    = 8
	runUnion         = 32
)

// VCPU is one virtual processor. All its methods but Kick's immediate-exit
// store belong to the thread that created it.
type VCPU struct {
	fd      int
	run     []byte
	barrier atomic.Uint32 // never read: its locked addition is a full fence (amd64)
}

// NewVCPU creates the processor with the given id, which is also its APIC id
// (api.rst, KVM_CREATE_VCPU), on the calling thread.
func (v *VM) NewVCPU(id int) (*VCPU, error) {
	fd, err := kvm.CreateVCPU(uintptr(v.fd), id)
	if err != nil {
		return nil, fmt.Errorf("kvm: create vCPU %d: %w", id, err)
	}
	run, err := unix.Mmap(int(fd), 0, v.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(int(fd))
		return nil, fmt.Errorf("kvm: map the run page of vCPU %d: %w", id, err)
	}
	return &VCPU{fd: int(fd), run: run}, nil
}

// Close unmaps the run page and closes the processor.
func (c *VCPU) Close() error {
	err := unix.Munmap(c.run)
	if e := unix.Close(c.fd); err == nil {
		err = e
	}
	return err
}

// SetCPUID sets what the guest's CPUID instruction returns.
func (c *VCPU) SetCPUID(entries []CPUIDEntry) error {
	if err := kvm.SetCPUID2(uintptr(c.fd), &kvm.CPUID{Nent: uint32(len(entries)), Entries: entries}); err != nil {
		return fmt.Errorf("kvm: set CPUID of %d entries: %w", len(entries), err)
	}
	return nil
}

// Regs returns the general registers in heap memory, fit to be given back to
// SetRegs: gokvm passes the address through a plain call, which is safe only
// for memory that does not move.
func (c *VCPU) Regs() (*Regs, error) { return kvm.GetRegs(uintptr(c.fd)) }

// SetRegs sets the general registers; r must come from Regs.
func (c *VCPU) SetRegs(r *Regs) error { return kvm.SetRegs(uintptr(c.fd), r) }

// Sregs returns segment, control and descriptor-table registers, in heap memory as Regs does.
func (c *VCPU) Sregs() (*Sregs, error) { return kvm.GetSregs(uintptr(c.fd)) }

// SetSregs sets them; s must come from Sregs.
func (c *VCPU) SetSregs(s *Sregs) error { return kvm.SetSregs(uintptr(c.fd), s) }

// IO is a port access (struct kvm_run.io). Data holds Count items of Size
// bytes in the run page: to be filled when In, to be read otherwise.
type IO struct {
	In   bool
	Size int
	Port uint16
	Data []byte // Size * count bytes
}

// IO decodes the last ExitIO. The view is valid until the next Run.
func (c *VCPU) IO() IO {
	u := c.run[runUnion:]
	size := int(u[1])
	off := binary.LittleEndian.Uint64(u[8:])
	n := uint64(size) * uint64(binary.LittleEndian.Uint32(u[4:]))
	return IO{
		In:   u[0] == 0,
		Size: size,
		Port: binary.LittleEndian.Uint16(u[2:]),
		Data: c.run[off : off+n],
	}
}

// MMIO is an access to an address without memory (struct kvm_run.mmio).
type MMIO struct {
	Addr  uint64
	Write bool
	Data  []byte // 1 to 8 bytes in the run page
}

// MMIO decodes the last ExitMMIO. The view is valid until the next Run.
func (c *VCPU) MMIO() MMIO {
	u := c.run[runUnion:]
	n := min(binary.LittleEndian.Uint32(u[16:]), 8)
	return MMIO{
		Addr:  binary.LittleEndian.Uint64(u),
		Write: u[20] != 0,
		Data:  u[8 : 8+n],
	}
}

// Internal error suberrors (KVM_INTERNAL_ERROR_*).
const InternalErrorEmulation = 1

// InternalError decodes the last ExitInternalError: its suberror and, when KVM
// stopped at an instruction it cannot emulate, the bytes of that instruction.
func (c *VCPU) InternalError() (suberror uint32, insn []byte) {
	u := c.run[runUnion:]
	suberror = binary.LittleEndian.Uint32(u)
	const flagInsnBytes = 1
	if suberror == InternalErrorEmulation && binary.LittleEndian.Uint32(u[4:]) >= 3 &&
		binary.LittleEndian.Uint64(u[8:])&flagInsnBytes != 0 {
		n := min(int(u[16]), 15)
		insn = append(insn, u[17:17+n]...)
	}
	return suberror, insn
}

// SystemEvent returns the type of the last ExitSystemEvent (KVM_SYSTEM_EVENT_*:
// 1 shutdown, 2 reset, 3 crash).
func (c *VCPU) SystemEvent() uint32 {
	return binary.LittleEndian.Uint32(c.run[runUnion:])
}

// FailEntry returns the hardware's reason of the last ExitFailEntry.
func (c *VCPU) FailEntry() uint64 {
	return binary.LittleEndian.Uint64(c.run[runUnion:])
}
