package vcpu

import (
	"testing"

	"tenon/vmm/kvm"
)

func leaf(list []kvm.CPUIDEntry, function, index uint32) kvm.CPUIDEntry {
	for _, e := range list {
		if e.Function == function && e.Index == index {
			return e
		}
	}
	return kvm.CPUIDEntry{}
}

func TestTopologyNamesEveryProcessor(t *testing.T) {
	supported := []kvm.CPUIDEntry{
		{Function: leafFeatures, Ebx: 0xffffffff},
		{Function: leafCaches, Index: 0, Eax: 1 | 1<<5 | 0xffff<<14},
		{Function: leafCaches, Index: 3, Eax: 3 | 3<<5 | 0xffff<<14},
		{Function: leafTopology, Index: 0, Eax: 7, Ebx: 7},
		{Function: leafKVM, Eax: 0xffff},
		{Function: leafAMDSizes, Eax: 0x3027, Ecx: 0xffff},
		{Function: leafAMDTopo, Eax: 9, Ebx: 9, Ecx: 9},
	}
	for _, n := range []int{1, 2, 4, 5, 64} {
		for id := range n {
			list := Topology(supported, id, n, true)
			if got := leaf(list, leafFeatures, 0).Ebx >> 24; got != uint32(id) {
				t.Errorf("n=%d: initial APIC id %d, want %d", n, got, id)
			}
			if got := leaf(list, leafTopology, 0).Edx; got != uint32(id) {
				t.Errorf("n=%d: x2APIC id %d, want %d", n, got, id)
			}
			shift := leaf(list, leafTopology, 1).Eax
			if uint32(id)>>shift != 0 {
				t.Errorf("n=%d: processor %d falls into another socket (shift %d)", n, id, shift)
			}
			if got := leaf(list, leafTopology, 1).Ebx; got != uint32(n) {
				t.Errorf("n=%d: %d cores in the socket", n, got)
			}
			if got := leaf(list, leafAMDTopo, 0).Eax; got != uint32(id) {
				t.Errorf("n=%d: AMD APIC id %d, want %d", n, got, id)
			}
		}
	}
	list := Topology(supported, 0, 4, false)
	if e := leaf(list, leafFeatures, 0); e.Ecx&ecxTSCDeadline != 0 {
		t.Error("the deadline timer is offered though KVM has none")
	}
	if e := leaf(list, leafCaches, 0); e.Eax>>14&0xfff != 0 {
		t.Errorf("level 1 cache shared by %d", e.Eax>>14&0xfff+1)
	}
	if e := leaf(list, leafCaches, 3); e.Eax>>14&0xfff != 3 {
		t.Errorf("level 3 cache shared by %d, want 4", e.Eax>>14&0xfff+1)
	}
	if e := leaf(list, leafKVM, 0); e.Eax&kvmMSIExtDestID != 0 {
		t.Error("extended MSI destination ids are offered")
	}
	if supported[0].Ebx != 0xffffffff {
		t.Error("the supported list was changed in place")
	}
	if got := PhysicalBits(supported); got != 0x27 {
		t.Errorf("physical bits %d, want 39", got)
	}
}
