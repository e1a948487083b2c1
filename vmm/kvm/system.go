// Package kvm is the machine's only door to /dev/kvm: typed calls for what a
// VMM needs, each citing Documentation/virt/kvm/api.rst. Set-up calls go
// through gokvm where it is right; everything on the run path, everything with
// an interrupt in it and everything whose argument may sit on a Go stack is
// written here.
package kvm

import (
	"errors"
	"fmt"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"
)

// Device is the path of KVM's control device.
const Device = "/dev/kvm"

// The reasons why KVM cannot be used at all; errors.Is finds them in what Open returns.
var (
	ErrAbsent     = errors.New("no " + Device + " on this host: load kvm_intel or kvm_amd, or enable virtualisation in the firmware (or nested virtualisation in the outer machine)")
	ErrPermission = errors.New("no permission for " + Device + ": join its group (usually `sudo usermod -aG kvm $USER`, then log in again)")
)

// apiVersion is the only KVM API there is (api.rst, KVM_GET_API_VERSION).
const apiVersion = 12

// Capabilities used (api.rst, KVM_CHECK_EXTENSION); the value is an int32, 0 means absent.
const (
	CapIRQChip          = kvm.Capability(0)
	CapUserMemory       = kvm.Capability(3)
	CapMaxVCPUs         = kvm.Capability(66)
	CapTSCDeadlineTimer = kvm.Capability(72)
	CapSignalMSI        = kvm.Capability(77)
	CapReadonlyMem      = kvm.Capability(81)
	CapImmediateExit    = kvm.Capability(136)
	CapPreFaultMemory   = kvm.Capability(236)
)

// System is an open /dev/kvm.
type System struct {
	fd       int
	mmapSize int
}

// Open opens /dev/kvm and checks its API version.
func Open() (*System, error) {
	fd, err := unix.Open(Device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == unix.ENOENT || err == unix.ENXIO || err == unix.ENODEV:
		return nil, ErrAbsent
	case err == unix.EACCES || err == unix.EPERM:
		return nil, ErrPermission
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", Device, err)
	}
	s := &System{fd: fd}
	if err := s.check(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *System) check() error {
	v, err := kvm.GetAPIVersion(uintptr(s.fd))
	if err != nil {
		return fmt.Errorf("%s is not KVM: %w", Device, err)
	}
	if v != apiVersion {
		return fmt.Errorf("%s speaks KVM API %d, %d is needed", Device, v, apiVersion)
	}
	n, err := kvm.GetVCPUMMmapSize(uintptr(s.fd))
	if err != nil {
		return fmt.Errorf("kvm: size of the run page: %w", err)
	}
	s.mmapSize = int(n)
	for _, need := range []struct {
		c    kvm.Capability
		name string
	}{
		{CapIRQChip, "KVM_CAP_IRQCHIP"}, {CapUserMemory, "KVM_CAP_USER_MEMORY"},
		{CapSignalMSI, "KVM_CAP_SIGNAL_MSI"}, {CapImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"},
	} {
		if s.Extension(need.c) == 0 {
			return fmt.Errorf("this host's KVM lacks %s: a newer host kernel is needed", need.name)
		}
	}
	return nil
}

// Extension returns the value of a capability, 0 when it is absent.
func (s *System) Extension(c kvm.Capability) int {
	v, err := kvm.CheckExtension(uintptr(s.fd), c)
	if err != nil {
		return 0
	}
	return int(v)
}

// CPUIDEntry is one leaf (struct kvm_cpuid_entry2).
type CPUIDEntry = kvm.CPUIDEntry2

// maxCPUIDEntries is KVM_MAX_CPUID_ENTRIES of the kernel.
const maxCPUIDEntries = 256

// SupportedCPUID returns the leaves that hardware and KVM can give a guest,
// the KVM leaves at 0x40000000 included (api.rst, KVM_GET_SUPPORTED_CPUID).
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	c := &kvm.CPUID{Nent: maxCPUIDEntries, Entries: make([]CPUIDEntry, maxCPUIDEntries)}
	if err := kvm.GetSupportedCPUID(uintptr(s.fd), c); err != nil {
		return nil, fmt.Errorf("kvm: supported CPUID: %w", err)
	}
	return c.Entries[:c.Nent], nil
}

// Close closes the device; VMs made from it live on.
func (s *System) Close() error {
	return unix.Close(s.fd)
}
