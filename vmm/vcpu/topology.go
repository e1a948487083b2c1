package vcpu

import (
	"math/bits"

	"tenon/vmm/kvm"
)

// CPUID leaves that describe one processor among several (Intel SDM vol. 2
// CPUID; AMD APM vol. 3 appendix E).
const (
	leafVendor     = 0x0
	leafFeatures   = 0x1
	leafCaches     = 0x4
	leafTopology   = 0xb
	leafTopologyV2 = 0x1f
	leafKVM        = 0x40000001
	leafAMDPower   = 0x80000007
	leafAMDSizes   = 0x80000008
	leafAMDCaches  = 0x8000001d
	leafAMDTopo    = 0x8000001e

	ecxX2APIC      = 1 << 21
	ecxTSCDeadline = 1 << 24
	ecxHypervisor  = 1 << 31
	edxHTT         = 1 << 28

	kvmMSIExtDestID = 1 << 15

	topologySMT  = 1
	topologyCore = 2
)

// Topology returns the CPUID list of processor id out of n: the leaves of
// KVM_GET_SUPPORTED_CPUID with one socket of n cores written in, each core one
// thread, APIC id = processor id. tscDeadline says that KVM offers the
// deadline timer, without which the guest calibrates its timer in a busy loop.
func Topology(supported []kvm.CPUIDEntry, id, n int, tscDeadline bool) []kvm.CPUIDEntry {
	list := withLevels(supported)
	amd := reportsAMD(list)
	for i := range list {
		switch e := &list[i]; e.Function {
		case leafFeatures:
			features(e, id, n, tscDeadline)
		case leafCaches:
			caches(e, n)
		case leafAMDCaches:
			amdCaches(e, n)
		case leafTopology, leafTopologyV2:
			topology(e, id, n)
		case leafKVM:
			// Extended destination ids in MSIs need translation by the machine,
			// which does none: 255 processors do not need it.
			e.Eax &^= kvmMSIExtDestID
		case leafAMDPower:
			// Machine checks do not come from the host, so what it has does not count.
			if amd {
				e.Ebx |= amdSUCCOR | amdOverflows
			}
		case leafAMDSizes:
			e.Ecx = e.Ecx&^0xf0ff | uint32(idBits(n))<<12 | uint32(n-1)&0xff
		case leafAMDTopo:
			e.Eax, e.Ebx, e.Ecx = uint32(id), uint32(id)&0xff, 0
		}
	}
	return list
}

// withLevels copies the list and gives the extended topology leaves three
// sub-leaves, to be written by topology: since Linux 6.2 KVM gives only the first.
func withLevels(supported []kvm.CPUIDEntry) []kvm.CPUIDEntry {
	const significantIndex = 1 // KVM_CPUID_FLAG_SIGNIFCANT_INDEX
	list := make([]kvm.CPUIDEntry, 0, len(supported)+4)
	for _, e := range supported {
		switch {
		case e.Function != leafTopology && e.Function != leafTopologyV2:
			list = append(list, e)
		case e.Index == 0:
			for i := range uint32(3) {
				e.Index, e.Flags = i, significantIndex
				list = append(list, e)
			}
		}
	}
	return list
}

// idBits is the width of an APIC id for n processors.
func idBits(n int) int { return bits.Len(uint(n - 1)) }

func features(e *kvm.CPUIDEntry, id, n int, tscDeadline bool) {
	e.Ebx = e.Ebx&0xffff | uint32(id)<<24 | uint32(min(n, 255))<<16
	e.Ecx |= ecxX2APIC | ecxHypervisor
	if tscDeadline {
		e.Ecx |= ecxTSCDeadline
	}
	e.Edx &^= edxHTT
	if n > 1 {
		e.Edx |= edxHTT
	}
}

// caches rewrites who shares a cache: levels 1 and 2 are a core's own, level 3
// is everyone's.
func caches(e *kvm.CPUIDEntry, n int) {
	if e.Eax&0x1f == 0 {
		return // no more caches
	}
	cores := uint32(1)<<idBits(n) - 1
	e.Eax = e.Eax&0x3fff | min(cores, 63)<<26 | sharing(e, cores)<<14
}

func amdCaches(e *kvm.CPUIDEntry, n int) {
	if e.Eax&0x1f == 0 {
		return
	}
	e.Eax = e.Eax&0x3fff | sharing(e, uint32(n-1))<<14
}

func sharing(e *kvm.CPUIDEntry, all uint32) uint32 {
	if level := e.Eax >> 5 & 7; level < 3 {
		return 0
	}
	return min(all, 0xfff)
}

// topology writes the extended topology leaf: level 0 is the threads of a core
// (one), level 1 the cores of the socket, level 2 the end of the list.
func topology(e *kvm.CPUIDEntry, id, n int) {
	e.Eax, e.Ebx, e.Ecx, e.Edx = 0, 0, e.Index, uint32(id)
	switch e.Index {
	case 0:
		e.Ebx = 1
		e.Ecx |= topologySMT << 8
	case 1:
		e.Eax, e.Ebx = uint32(idBits(n)), uint32(n)
		e.Ecx |= topologyCore << 8
	}
}

// PhysicalBits returns the width of guest-physical addresses (leaf 0x80000008),
// 36 when the processor does not say.
func PhysicalBits(supported []kvm.CPUIDEntry) uint {
	for i := range supported {
		if supported[i].Function == leafAMDSizes {
			return uint(supported[i].Eax & 0xff)
		}
	}
	return 36
}
