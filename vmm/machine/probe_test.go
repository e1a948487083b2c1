package machine

import (
	"errors"
	"strings"
	"testing"

	"tenon/vmm/kvm"
)

// TestProbeNamesTheInstruction runs the micro-guest with an instruction that
// every KVM can run, and with one that no processor can.
func TestProbeNamesTheInstruction(t *testing.T) {
	sys, err := kvm.Open()
	if err != nil {
		t.Skipf("no micro-guests: %v", err)
	}
	defer sys.Close()
	cpuid, err := sys.SupportedCPUID()
	if err != nil {
		t.Fatal(err)
	}
	nop, ud2 := probeStep{"NOP", []byte{0x90}}, probeStep{"UD2", []byte{0x0f, 0x0b}}
	if err := microGuest(sys, cpuid, []probeStep{nop, nop}); err != nil {
		t.Errorf("two NOPs: %v", err)
	}
	err = microGuest(sys, cpuid, []probeStep{nop, ud2, nop})
	if !errors.Is(err, ErrBackEnd) || !strings.Contains(err.Error(), "UD2") {
		t.Errorf("UD2 after a NOP: %v", err)
	}
	if hardwareVirtualisation() {
		return
	}
	if all := microGuest(sys, cpuid, probeSteps(cpuid)); (all == nil) != Probe().StockKernels {
		t.Errorf("the micro-guest says %v, the probe %+v", all, Probe())
	}
}
