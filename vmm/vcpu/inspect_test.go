package vcpu

import (
	"runtime"
	"testing"
	"time"

	"tenon/devices/bus"
	"tenon/vmm/kvm"
)

// TestInspectLeavesWaiting: a processor that waits for what may never come is looked at
// once, and then uses no time.
func TestInspectLeavesWaiting(t *testing.T) {
	sys, err := kvm.Open()
	if err != nil {
		t.Skipf("SKIPPED, no micro-guests: %v", err)
	}
	defer sys.Close()
	vm, err := sys.NewVM()
	check(t, err)
	defer vm.Close()
	check(t, vm.CreateIRQChip(0xfffbd000, 0xfffbc000))
	cpuid, err := sys.SupportedCPUID()
	check(t, err)
	c := New(1, new(bus.Bus), new(bus.Bus)) // nobody starts it
	ready, ended := make(chan error), make(chan error)
	go func() {
		runtime.LockOSThread()
		err := c.Init(vm, Topology(cpuid, 1, 2, false), nil)
		ready <- err
		if err == nil {
			ended <- c.Loop()
		}
	}()
	check(t, <-ready)
	defer func() {
		c.Stop()
		check(t, <-ended)
		check(t, c.Close())
	}()
	const tick = 20 * time.Millisecond
	for deadline := time.Now().Add(10 * time.Second); !c.inspection.waits.Load(); time.Sleep(tick) {
		if time.Now().After(deadline) {
			t.Fatal("nobody has looked at it")
		}
		c.Inspect()
	}
	used := time.Duration(0)
	for now := c.processorTime(); now != used; now = c.processorTime() {
		used = now
		time.Sleep(tick) // it goes to sleep again
	}
	for range 5 {
		c.Inspect()
		time.Sleep(tick)
	}
	if now := c.processorTime(); now != used || used == 0 {
		t.Errorf("it has used %v, and %v before", now, used)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
