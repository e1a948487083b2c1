package vcpu

import (
	"fmt"

	"tenon/vmm/kvm"
)

// A program that touches what is gone is sent SIGBUS by its kernel, when that is told
// of an uncorrected error by a machine check (Intel SDM vol. 3 chapter 16, AMD APM
// vol. 2 chapter 9). It must not be told an address: Linux would take that page out of
// use for ever, and a window's page shows another file before long.
//
// That is how AMD's processors may report an error, so this is for their guests. On
// Intel's Linux wants an address, and every processor to take the exception.

// Machine-check registers and what is in them. Bank 0 is that of the data cache.
const (
	msrMCGStatus = 0x17a
	msrMCGCtl    = 0x17b
	msrMC0Ctl    = 0x400
	msrMC0Status = 0x401

	mcgCtlP  = 1 << 8 // MCG_CAP: there is an MCG_CTL
	mceBanks = 10     // as many as other virtual machines have

	mcgEIPV = 1 << 1  // MCG_STATUS: the instruction pointer is that of the error's cause
	mcgMCIP = 1 << 2  // in progress
	mciVAL  = 1 << 63 // MC0_STATUS: there is an error
	mciUC   = 1 << 61 // uncorrected
	mciEN   = 1 << 60 // its reporting was enabled

	allEnabled = 1<<64 - 1 // of a control register
	cr4MCE     = 1 << 6
	userLevel  = 3

	amdSUCCOR    = 1 << 1 // CPUID 0x80000007 EBX: software may recover from uncorrected errors
	amdOverflows = 1 << 0 // and from such that came too fast
)

// amdVendors are what CPUID leaf 0 says in EBX of processors that report errors
// as AMD's do.
var amdVendors = [...]uint32{
	0x68747541, // AuthenticAMD
	0x6f677948, // HygonGenuine
}

// reportsAMD says whether the processor reports errors as AMD's do.
func reportsAMD(cpuid []kvm.CPUIDEntry) bool {
	for i := range cpuid {
		if cpuid[i].Function != leafVendor {
			continue
		}
		for _, v := range amdVendors {
			if cpuid[i].Ebx == v {
				return true
			}
		}
	}
	return false
}

// setupMCE gives the processor machine checks, where they can be used. A KVM without
// any leaves it at that: the guest does without.
func (c *CPU) setupMCE(cpuid []kvm.CPUIDEntry) {
	if c.memory != nil && reportsAMD(cpuid) {
		c.reports = c.vcpu.SetupMCE(mcgCtlP|mceBanks) == nil
	}
}

// signals says whether a machine check now makes the guest's kernel send the running
// program SIGBUS, and does no harm: the kernel takes it, is not in its handler still,
// and nothing else is on its way into the guest, which would come first and leave the
// machine check to the kernel itself.
func (c *CPU) signals(s *kvm.Sregs) bool {
	if !c.reports || s.SS.DPL != userLevel || s.CR4&cr4MCE == 0 {
		return false
	}
	state := [...]kvm.MSR{{Index: msrMCGStatus}, {Index: msrMC0Status}, {Index: msrMCGCtl}, {Index: msrMC0Ctl}}
	if err := c.vcpu.MSRs(state[:]); err != nil {
		return false
	}
	if state[0].Value&mcgMCIP != 0 || state[1].Value&mciVAL != 0 ||
		state[2].Value != allEnabled || state[3].Value != allEnabled {
		return false
	}
	pending, err := c.vcpu.EventsPending()
	return err == nil && !pending
}

// machineCheck makes the guest's kernel send the running program SIGBUS. RIPV is
// clear: the program cannot go on, and old kernels too then do nothing but that.
func (c *CPU) machineCheck() error {
	err := c.vcpu.InjectMCE(kvm.MCE{Status: mciVAL | mciUC | mciEN, MCGStatus: mcgMCIP | mcgEIPV})
	if err != nil {
		return fmt.Errorf("vcpu %d: %w", c.id, err)
	}
	return nil
}
