package pci_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

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

// TestNotifyNobody: what reaches no enabled queue of a running device is dropped.
func TestNotifyNobody(t *testing.T) {
	dev := newFake(2)
	d := newDriver(t, dev)
	d.probe()
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
	d.store(d.notify+2*d.multiplier, 2, 2)
	d.store(d.notify+0xffc, 4, 0)
	if n := dev.get(&dev.count); n != 0 {
		t.Errorf("%d notifications", n)
	}
	d.expect("reading a notification", d.load(d.notify, 2), 0)
	d.kick(1)
	if n := dev.get(&dev.count); n != 1 {
		t.Errorf("%d notifications of queue 1", n)
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
	notify := func(i uint64) { d.mmio.Write(d.notify+i*d.multiplier, []byte{0, 0}) }
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
					d.mmio.Write(d.notify+uint64(cpu%2)*d.multiplier, p)
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
	if a := testing.AllocsPerRun(100, func() { d.mmio.Write(d.notify, p) }); a != 0 {
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
		d.mmio.Write(d.notify, p)
	}
}
