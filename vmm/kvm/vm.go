package kvm

import (
	"fmt"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// VM is one virtual machine: memory slots, the in-kernel interrupt
// controllers, and the vCPUs made from it.
type VM struct {
	fd       int
	mmapSize int
}

// NewVM creates an empty machine (api.rst, KVM_CREATE_VM).
func (s *System) NewVM() (*VM, error) {
	for {
		fd, err := kvm.CreateVM(uintptr(s.fd))
		if err == unix.EINTR {
			continue // a signal during the allocations KVM does here
		}
		if err != nil {
			return nil, fmt.Errorf("kvm: create VM: %w", err)
		}
		return &VM{fd: int(fd), mmapSize: s.mmapSize}, nil
	}
}

// CreateIRQChip creates the in-kernel PIC, I/O APIC and local APICs. It must
// precede the first vCPU (api.rst, KVM_CREATE_IRQCHIP). tss and identity are
// guest-physical addresses of three pages and one page outside RAM, needed by
// older Intel processors (KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR).
func (v *VM) CreateIRQChip(tss uint32, identity uint64) error {
	if err := kvm.SetTSSAddr(uintptr(v.fd), tss); err != nil {
		return fmt.Errorf("kvm: TSS address: %w", err)
	}
	if err := v.setIdentityMap(identity); err != nil {
		return fmt.Errorf("kvm: identity map address: %w", err)
	}
	if err := kvm.CreateIRQChip(uintptr(v.fd)); err != nil {
		return fmt.Errorf("kvm: create interrupt controllers: %w", err)
	}
	return nil
}

// Close drops the machine; its memory stays the caller's.
func (v *VM) Close() error {
	return unix.Close(v.fd)
}
