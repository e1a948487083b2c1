package kvm

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl numbers, x86-64 (include/uapi/linux/kvm.h).
const (
	ioctlSetUserMemoryRegion = 0x4020ae46
	ioctlSetIdentityMapAddr  = 0x4008ae48
	ioctlIRQLine             = 0x4008ae61
	ioctlSignalMSI           = 0x4020aea5
	ioctlRun                 = 0xae80
	ioctlSetMSRs             = 0x4008ae89
)

// The pointer is converted inside the system call's own expression: a Go
// stack that moves on the way down would leave the kernel with the old address.
func ioctlPtr(fd int, op uintptr, p unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), op, uintptr(p))
	if errno != 0 {
		return errno
	}
	return nil
}

func (v *VM) setIdentityMap(gpa uint64) error {
	return ioctlPtr(v.fd, ioctlSetIdentityMapAddr, unsafe.Pointer(&gpa))
}

// userMemoryRegion is struct kvm_userspace_memory_region.
type userMemoryRegion struct {
	slot, flags      uint32
	gpa, size, hvirt uint64
}

// MemReadonly makes guest writes to a slot exit instead (KVM_MEM_READONLY).
const MemReadonly = 1 << 1

// SetMemory gives the guest the host memory mem at gpa as the numbered slot;
// both must be page-aligned. An empty mem removes the slot. The caller keeps
// mem mapped for as long as the machine lives (api.rst,
// KVM_SET_USER_MEMORY_REGION).
func (v *VM) SetMemory(slot, flags uint32, gpa uint64, mem []byte) error {
	r := userMemoryRegion{slot: slot, flags: flags, gpa: gpa, size: uint64(len(mem))}
	r.hvirt = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) // outside the Go heap: it does not move
	if err := ioctlPtr(v.fd, ioctlSetUserMemoryRegion, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("kvm: memory slot %d at %#x, %d bytes: %w", slot, gpa, len(mem), err)
	}
	return nil
}

// irqLevel is struct kvm_irq_level.
type irqLevel struct{ irq, level uint32 }

// SetIRQLine drives one input of the in-kernel interrupt controllers
// (api.rst, KVM_IRQ_LINE).
func (v *VM) SetIRQLine(gsi uint32, high bool) error {
	l := irqLevel{irq: gsi}
	if high {
		l.level = 1
	}
	return ioctlPtr(v.fd, ioctlIRQLine, unsafe.Pointer(&l))
}

// msi is struct kvm_msi.
type msi struct {
	addrLo, addrHi, data, flags, devid uint32
	_                                  [12]byte
}

// SignalMSI injects one message-signalled interrupt (api.rst, KVM_SIGNAL_MSI).
// It allocates nothing. KVM sets a bit and wakes the processor, without waiting
// for anything, so that Go's scheduler need not be told of the call.
func (v *VM) SignalMSI(addr uint64, data uint32) error {
	m := msi{addrLo: uint32(addr), addrHi: uint32(addr >> 32), data: data}
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(v.fd), ioctlSignalMSI, uintptr(unsafe.Pointer(&m)))
	if errno != 0 {
		return errno
	}
	return nil
}
