package kvm

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Run enters the guest until the next exit (api.rst, KVM_RUN). A signal, or
// SetImmediateExit, gives Interrupted: the run page then still holds the exit
// before, so no caller may look at it. Other errors are the kernel's.
//
// It is a plain Syscall, which lets the scheduler hand this thread's P to
// another goroutine: with RawSyscall a guest that loops would stop the world
// for good.
func (c *VCPU) Run() (Reason, error) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), ioctlRun, 0)
	switch errno {
	case 0:
		return Reason(*(*uint32)(unsafe.Pointer(&c.run[runExitReason]))), nil
	case unix.EINTR, unix.EAGAIN:
		return Interrupted, nil
	}
	return Interrupted, errno
}

// SetImmediateExit makes the next KVM_RUN return at once, or lets it enter
// again. It is the only method for other threads (kvm_run.immediate_exit). The
// store is the byte's own: its neighbour is a request bit of the owner.
func (c *VCPU) SetImmediateExit(on bool) {
	var v byte
	if on {
		v = 1
	}
	*(*byte)(unsafe.Pointer(&c.run[runImmediateExit])) = v
	c.barrier.Add(1) // orders the store before the caller's signal
}

// MSR is one model-specific register and its value.
type MSR struct {
	Index uint32
	_     uint32
	Value uint64
}

// SetMSRs sets registers; it fails naming the first one KVM does not know
// (api.rst, KVM_SET_MSRS returns how many were set).
func (c *VCPU) SetMSRs(msrs ...MSR) error { return c.msrs(ioctlSetMSRs, "set", msrs) }

// msrs hands registers to KVM and takes them back.
func (c *VCPU) msrs(op uintptr, what string, list []MSR) error {
	const limit = 8
	if len(list) > limit {
		return fmt.Errorf("kvm: %s %d MSRs at once, at most %d", what, len(list), limit)
	}
	var arg struct {
		n, _    uint32
		entries [limit]MSR
	}
	arg.n = uint32(copy(arg.entries[:], list))
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), op, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return fmt.Errorf("kvm: %s MSRs: %w", what, errno)
	}
	if int(n) < len(list) {
		return fmt.Errorf("kvm: %s MSR %#x: unknown to this host's KVM", what, list[n].Index)
	}
	copy(list, arg.entries[:])
	return nil
}
