package pci_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"tenon/devices/bus"
	hostpci "tenon/devices/pci"
	"tenon/devices/virtio"
	"tenon/devices/virtio/pci"
)

// TestActivateFails: whatever keeps the device from starting, the driver is
// told to reset it, and can.
func TestActivateFails(t *testing.T) {
	for _, tc := range []struct {
		what  string
		spoil func(d *driver)
		want  string
	}{
		{"ring outside RAM", func(d *driver) { d.store(d.common+36, 4, 0x10) }, "descriptor table"},
		{"ring not aligned", func(d *driver) { d.store(d.common+48, 4, ram+0x5001) }, "used ring"},
		{"device", func(d *driver) { d.dev.refuse = errors.New("out of order") }, "out of order"},
		{"device that breaks as it starts", func(d *driver) { d.dev.sulk = errors.New("broken") }, "broken"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			d := newDriver(t, newFake(1))
			d.probe()
			d.configure()
			d.store(d.common+20, 1, 0)
			d.step(1)
			d.step(2)
			d.negotiate(allFeatures)
			d.setup(0, 64)
			d.store(d.common+16, 2, 0)
			tc.spoil(d)
			d.enable(0)
			d.step(4)
			d.expect("status", d.status(), 15|64)
			if v := d.vectors(); !slices.Equal(v, []uint32{0}) {
				t.Errorf("vectors %v", v)
			}
			if err := d.tr.Err(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v", err)
			}
			d.kick(0)
			if n := d.dev.get(&d.dev.count); n != 0 {
				t.Errorf("%d notifications", n)
			}
			d.dev.refuse, d.dev.sulk = nil, nil
			d.start()
			d.echoed(0, d.echo(0, "works"), "works")
			if err := d.tr.Err(); err != nil {
				t.Errorf("error after the reset: %v", err)
			}
		})
	}
}

// TestBroken: a ring that breaks the rules stops the device until its reset.
func TestBroken(t *testing.T) {
	dev := newFake(2)
	d := newDriver(t, dev)
	d.probe()
	d.start()
	old := dev.env
	d.rings[0].SetAvailIdx(1000)
	d.kick(0)
	d.expect("status", d.status(), 15|64)
	d.expect("ISR status", d.load(d.isr, 1), 2)
	if v := d.vectors(); !slices.Equal(v, []uint32{0}) {
		t.Errorf("vectors %v", v)
	}
	dev.env.Broken(errors.New("once more"))
	if v := d.vectors(); v != nil {
		t.Errorf("told twice: vectors %v", v)
	}
	if err := d.tr.Err(); err == nil || err.Error() == "once more" {
		t.Errorf("error %v, want the first", err)
	}
	d.echo(1, "dropped")
	if n := dev.get(&dev.count); n != 1 {
		t.Errorf("%d notifications, want the one that broke it", n)
	}
	d.start()
	old.Broken(errors.New("from before the reset"))
	d.expect("status", d.status(), 15)
	d.echoed(1, d.echo(1, "works"), "works")
}

// TestNotifyNobody: what reaches no enabled queue of a running device is dropped,
// by either way.
func TestNotifyNobody(t *testing.T) {
	t.Run("ports", func(t *testing.T) { notifyNobody(t, (*driver).present) })
	t.Run("memory", func(t *testing.T) { notifyNobody(t, (*driver).inMemory) })
}

func notifyNobody(t *testing.T, fits func(d *driver, at int) bool) {
	dev := newFake(2)
	d := newDriver(t, dev)
	d.probe()
	d.findBells(func(at int) bool { return fits(d, at) })
	d.configure()
	d.kick(0)
	d.store(d.common+20, 1, 0)
	d.step(1)
	d.step(2)
	d.negotiate(allFeatures)
	d.setup(1, 64)
	d.enable(1)
	d.step(4)
	if dev.env.Queues[0] != nil || dev.env.Queues[1] == nil {
		t.Errorf("queues %v", dev.env.Queues)
	}
	d.store(d.common+22, 2, 0)
	d.store(d.common+28, 2, 1)
	d.expect("queue_enable of queue 0 after DRIVER_OK", d.load(d.common+28, 2), 0)
	d.kick(0)
	d.ring(2*d.multiplier, 2, 2)
	d.ring(0xffc, 4, 0)
	if n := dev.get(&dev.count); n != 0 {
		t.Errorf("%d notifications", n)
	}
	p := []byte{0xee, 0xee}
	if d.bells.Read(d.notify, p); p[0] != 0 || p[1] != 0 {
		t.Errorf("a doorbell reads % x", p)
	}
	d.kick(1)
	if n := dev.get(&dev.count); n != 1 {
		t.Errorf("%d notifications of queue 1", n)
	}
}

// TestPorts: a driver finds the doorbells as ports first, then in memory, and
// both lead to the queues.
func TestPorts(t *testing.T) {
	dev := newFake(3)
	d := newDriver(t, dev)
	d.probe()
	d.start()
	d.echoed(2, d.echo(2, "by a port"), "by a port")
	at := d.notify
	if d.bells != &d.pio || at < ports || at%16 != 0 {
		t.Fatalf("doorbells at %#x", at)
	}
	// The address says which queue, whatever the width and the value.
	for _, width := range []int{1, 2, 4} {
		before := dev.get(&dev.count)
		if d.ring(d.multiplier, width, 0xffffffff); dev.get(&dev.count) != before+1 {
			t.Errorf("%d bytes rang %d times", width, dev.get(&dev.count)-before)
		}
	}
	before := dev.get(&dev.count)
	d.ring(14, 4, 0)             // leaves the BAR
	d.ring(3*d.multiplier, 2, 0) // in the BAR, but no queue
	d.ring(16, 2, 0)             // behind it
	d.write(4, 2, 6)             // ports off
	d.ring(0, 2, 0)
	if n := dev.get(&dev.count) - before; n != 0 {
		t.Errorf("%d notifications of nobody", n)
	}
	d.findBells(d.inMemory)
	d.echoed(2, d.echo(2, "by a store"), "by a store")
	d.write(4, 2, 5) // ports, but no memory
	d.ring(0, 2, 0)
	d.bells, d.notify = &d.pio, at
	d.ring(0, 2, 0)
	if n := dev.get(&dev.count) - before; n != 2 {
		t.Errorf("%d notifications, want one by a store and one by a port", n)
	}
}

// TestNoPorts: where there are no ports for the doorbells, a driver takes those
// in memory.
func TestNoPorts(t *testing.T) {
	memory := hostpci.Windows{MMIO32: bus.Range{Base: mmio32, Len: 1 << 24}, MMIO64: bus.Range{Base: mmio64, Len: 1 << 30}}
	all := memory
	all.Ports = bus.Range{Base: ports, Len: 0x1000}
	two := newFake(1)
	two.info.Shared = []virtio.SharedMemory{{ID: 0, Size: 4096}, {ID: 1, Size: 4096}}
	for _, tc := range []struct {
		what string
		dev  *fake
		w    hostpci.Windows
		bar  uint32 // of the doorbells' ports; 0: none
	}{
		{"64 queues", newFake(64), all, ports | 1},
		{"65 queues, more than 256 ports", newFake(65), all, 0},
		{"no BAR left", two, all, 0},
		{"a host without ports", newFake(1), memory, 0},
	} {
		t.Run(tc.what, func(t *testing.T) {
			d := newDriverOn(t, tc.dev, tc.w)
			if len(tc.dev.info.Shared) == 0 {
				d.expect("BAR 2", d.read(0x18, 4), tc.bar)
			}
			d.probe()
			if (d.bells == &d.pio) != (tc.bar != 0) {
				t.Errorf("doorbells at %#x", d.notify)
			}
			d.expect("command", d.read(4, 2), 6|tc.bar&1)
		})
	}
}

// TestResetWaits: a reset comes back when the notification inside has left, and
// lets no other in meanwhile.
func TestResetWaits(t *testing.T) {
	dev := newFake(2)
	d := newDriver(t, dev)
	d.probe()
	d.start()
	hold := []chan struct{}{make(chan struct{}), make(chan struct{})}
	dev.mu.Lock()
	dev.hold = hold
	dev.mu.Unlock()
	notify := func(i uint64) { d.ring(i*d.multiplier, 2, 0) }
	var wg sync.WaitGroup
	wg.Add(2)
	go func() { defer wg.Done(); notify(0) }()
	<-hold[0]
	go func() { defer wg.Done(); d.mmio.Write(d.common+20, []byte{0}) }()
	// Once the reset has begun, notifications are dropped; until then they hold.
	for dropped := false; !dropped; {
		before := dev.get(&dev.count)
		done := make(chan struct{})
		go func() { notify(1); close(done) }()
		select {
		case <-done:
			dropped = dev.get(&dev.count) == before
		case <-hold[1]:
			hold[1] <- struct{}{}
			<-done
		}
	}
	if n := dev.get(&dev.resets); n != 0 {
		t.Error("the device was reset with a notification inside")
	}
	hold[0] <- struct{}{}
	wg.Wait()
	d.expect("status", d.status(), 0)
	if dev.resets != 1 || dev.stale != 0 {
		t.Errorf("%d resets, %d notifications out of time", dev.resets, dev.stale)
	}
}

// TestRaceReset: vCPUs notify all the time while one resets and starts again.
func TestRaceReset(t *testing.T) {
	dev := newFake(2)
	d := newDriver(t, dev)
	d.probe()
	d.start()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for cpu := range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p := []byte{0, 0}
			for {
				select {
				case <-stop:
					return
				default:
					d.bells.Write(d.notify+uint64(cpu%2)*d.multiplier, p)
				}
			}
		}()
	}
	for i := range 50 {
		d.start()
		if i%2 == 0 {
			dev.env.Broken(errors.New("on purpose"))
		}
	}
	close(stop)
	wg.Wait()
	if n := dev.get(&dev.stale); n != 0 {
		t.Errorf("%d notifications reached a stopped device", n)
	}
	d.start()
	d.echoed(0, d.echo(0, "still here"), "still here")
}

// idle is a device that does nothing, for counting allocations.
type idle struct {
	virtio.Device
	irq virtio.Interrupter
	n   int
}

func (i *idle) Activate(e virtio.Env) error { i.irq = e.Irq; return nil }
func (i *idle) Notify(q int)                { i.n++; i.irq.Queue(q) }

// sends counts messages.
type sends int

func (n *sends) SendMSI(uint64, uint32) { *n++ }

// TestAllocNotify: a notification and the interrupt that answers it allocate nothing.
func TestAllocNotify(t *testing.T) {
	d := newDriver(t, newFake(1))
	dev := &idle{Device: d.dev}
	var n sends
	var err error
	if d.tr, err = pci.New(dev, d.mem, &n); err != nil {
		t.Fatal(err)
	}
	if d.slot, err = d.host.Add(d.tr); err != nil {
		t.Fatal(err)
	}
	d.probe()
	d.start()
	p := []byte{0, 0}
	if a := testing.AllocsPerRun(100, func() { d.bells.Write(d.notify, p) }); a != 0 {
		t.Errorf("%v allocations a notification", a)
	}
	if dev.n < 100 || int(n) < 100 {
		t.Errorf("%d notifications, %d interrupts", dev.n, n)
	}
}

// BenchmarkNotify is a notification from the bus to the device and its interrupt.
func BenchmarkNotify(b *testing.B) {
	d := newDriver(b, newFake(1))
	dev := &idle{Device: d.dev}
	var n sends
	d.tr, _ = pci.New(dev, d.mem, &n)
	d.slot, _ = d.host.Add(d.tr)
	d.probe()
	d.start()
	p := []byte{0, 0}
	b.ReportAllocs()
	for b.Loop() {
		d.bells.Write(d.notify, p)
	}
}
