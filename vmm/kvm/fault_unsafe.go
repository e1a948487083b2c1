package kvm

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

// ioctl numbers of a vCPU, x86-64 (include/uapi/linux/kvm.h).
const (
	ioctlTranslate     = 0xc018ae85
	ioctlGetMSRs       = 0xc008ae88
	ioctlGetMPState    = 0x8004ae98
	ioctlX86SetupMCE   = 0x4008ae9c
	ioctlX86SetMCE     = 0x4040ae9e
	ioctlGetVCPUEvents = 0x8040ae9f
	ioctlSetVCPUEvents = 0x4040aea0
	ioctlPreFault      = 0xc040aed5
)

// translation is struct kvm_translation.
type translation struct {
	linear, physical         uint64
	valid, writable, forUser uint8
	_                        [5]uint8
}

// Translate walks the guest's page tables with the rights of its kernel (api.rst,
// KVM_TRANSLATE). ok is false where nothing is mapped, or SMAP is in the way.
func (c *VCPU) Translate(linear uint64) (gpa uint64, ok bool) {
	t := translation{linear: linear}
	if err := ioctlPtr(c.fd, ioctlTranslate, unsafe.Pointer(&t)); err != nil {
		return 0, false
	}
	return t.physical, t.valid != 0
}

// MSRs fills in the values of the registers that msrs name, at most 8. It fails
// naming the first one KVM does not know (api.rst, KVM_GET_MSRS returns how many
// were read).
func (c *VCPU) MSRs(msrs []MSR) error { return c.msrs(ioctlGetMSRs, "read", msrs) }

// Waits says that the processor runs nothing: it has halted until an interrupt comes, or
// was never started (api.rst, KVM_GET_MP_STATE). One that waits for a page of memory
// does not wait in this sense.
func (c *VCPU) Waits() (bool, error) {
	const runnable = 0 // KVM_MP_STATE_RUNNABLE
	var state uint32
	if err := ioctlPtr(c.fd, ioctlGetMPState, unsafe.Pointer(&state)); err != nil {
		return false, fmt.Errorf("kvm: multiprocessing state: %w", err)
	}
	return state != runnable, nil
}

// SetupMCE gives the processor an MCG_CAP: the number of its banks in bits 0 to 7, and
// what else KVM knows of it (api.rst, KVM_X86_SETUP_MCE).
func (c *VCPU) SetupMCE(cap uint64) error {
	if err := ioctlPtr(c.fd, ioctlX86SetupMCE, unsafe.Pointer(&cap)); err != nil {
		return fmt.Errorf("kvm: machine-check capabilities %#x: %w", cap, err)
	}
	return nil
}

// MCE is a machine check (struct kvm_x86_mce): what the guest finds in the
// registers of a bank and in MCG_STATUS.
type MCE struct {
	Status, Addr, Misc, MCGStatus uint64
	Bank                          uint8
	_                             [7]uint8
	_                             [3]uint64
}

// InjectMCE makes the guest's next instruction a machine-check exception, when m
// is an uncorrected error and its bank enabled (api.rst, KVM_X86_SET_MCE). A guest
// that has CR4.MCE clear, or is in its handler still, ends by a triple fault.
func (c *VCPU) InjectMCE(m MCE) error {
	if err := ioctlPtr(c.fd, ioctlX86SetMCE, unsafe.Pointer(&m)); err != nil {
		return fmt.Errorf("kvm: inject a machine check: %w", err)
	}
	return nil
}

// events is struct kvm_vcpu_events.
type events struct {
	exceptionInjected, exceptionNr, exceptionHasCode, exceptionPending uint8
	exceptionCode                                                      uint32
	interruptInjected, interruptNr, interruptSoft, interruptShadow     uint8
	nmiInjected, nmiPending, nmiMasked, _                              uint8
	sipiVector, flags                                                  uint32
	_                                                                  [40]uint8
}

func (e *events) pending() bool {
	return e.exceptionInjected|e.exceptionPending|e.interruptInjected|e.nmiInjected|e.nmiPending != 0
}

func (c *VCPU) events(e *events) error {
	if err := ioctlPtr(c.fd, ioctlGetVCPUEvents, unsafe.Pointer(e)); err != nil {
		return fmt.Errorf("kvm: pending events: %w", err)
	}
	return nil
}

// EventsPending says whether an exception, interrupt or NMI is on its way into the
// guest (api.rst, KVM_GET_VCPU_EVENTS): another one would come on top of it.
func (c *VCPU) EventsPending() (bool, error) {
	var e events
	err := c.events(&e)
	return e.pending(), err
}

// InjectGP makes the guest's next instruction a general-protection exception with
// error code 0 (api.rst, KVM_SET_VCPU_EVENTS), unless something else is on its way
// into the guest.
func (c *VCPU) InjectGP() error {
	var e events
	if err := c.events(&e); err != nil || e.pending() {
		return err
	}
	const vectorGP = 13
	e.exceptionInjected, e.exceptionNr, e.exceptionHasCode, e.exceptionCode = 1, vectorGP, 1, 0
	if err := ioctlPtr(c.fd, ioctlSetVCPUEvents, unsafe.Pointer(&e)); err != nil {
		return fmt.Errorf("kvm: inject a general-protection exception: %w", err)
	}
	return nil
}

// MemoryFault returns the address of the access that made the last Run fail with
// EFAULT or EHWPOISON, where KVM tells it (struct kvm_run.memory_fault), and forgets
// it: a kernel that tells nothing leaves the exit before in the run page.
func (c *VCPU) MemoryFault() (gpa uint64, ok bool) {
	reason := (*uint32)(unsafe.Pointer(&c.run[runExitReason]))
	if Reason(*reason) != ExitMemoryFault {
		return 0, false
	}
	*reason = 0
	return binary.LittleEndian.Uint64(c.run[runUnion+8:]), true
}

// PreFault has KVM map guest-physical memory as reads by the guest would, one fault a
// page (api.rst, KVM_PRE_FAULT_MEMORY): gpa and n are multiples of the page size. The
// error says how far this host's KVM can do it at all: what it could not map, the
// guest's own accesses will.
func (c *VCPU) PreFault(gpa, n uint64) error {
	a := struct { // struct kvm_pre_fault_memory
		gpa, size, flags uint64
		_                [5]uint64
	}{gpa: gpa, size: n}
	return ioctlPtr(c.fd, ioctlPreFault, unsafe.Pointer(&a))
}
