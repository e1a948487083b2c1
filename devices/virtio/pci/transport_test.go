package pci_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"tenon/devices/irq"
	"tenon/devices/virtio"
	"tenon/devices/virtio/pci"
	"tenon/devices/virtio/queue/queuetest"
)

// TestProbe takes a device from power-on to requests, as Linux does.
func TestProbe(t *testing.T) {
	dev := newFake(3)
	d := newDriver(t, dev)
	d.expect("revision and class", d.read(8, 4), 0x01800001)
	d.expect("subsystem", d.read(0x2c, 4), 0x005a1af4)
	d.expect("interrupt pin", d.read(0x3d, 1), 0)
	d.probe()
	d.expect("MSI-X vectors", d.read(d.msix+2, 2), 4)
	d.expect("num_queues", d.load(d.common+18, 2), 3)
	d.start()
	if dev.env.Features != allFeatures || len(dev.env.Queues) != 3 || dev.env.Queues[0].Size() != 64 {
		t.Errorf("activated with %+v", dev.env)
	}
	for i := range 3 {
		text := fmt.Sprintf("to queue %d", i)
		d.echoed(i, d.echo(i, text), text)
		if v := d.vectors(); !slices.Equal(v, []uint32{uint32(1 + i)}) {
			t.Errorf("queue %d interrupted by vectors %v", i, v)
		}
	}
	d.expect("ISR status while MSI-X is on", d.load(d.isr, 1), 0)

	d.store(d.common+20, 1, 0)
	d.store(d.common+20, 1, 0)
	if n := dev.get(&dev.resets); n != 1 {
		t.Errorf("%d resets of a device that was started once", n)
	}
	d.start()
	d.echoed(1, d.echo(1, "again"), "again")
}

// TestRegistersAfterReset reads the common configuration as it is before the
// driver wrote anything, and again after it wrote everything and reset.
func TestRegistersAfterReset(t *testing.T) {
	dev := newFake(2)
	d := newDriver(t, dev)
	d.probe()
	check := func() {
		t.Helper()
		for _, r := range []struct {
			off  uint64
			n    int
			want uint32
		}{
			{0, 4, 0}, {4, 4, 1<<28 | 1<<29 | 1}, {8, 4, 0}, {12, 4, 0}, {16, 2, 0xffff}, {18, 2, 2}, {20, 1, 0},
			{22, 2, 0}, {24, 2, 256}, {26, 2, 0xffff}, {28, 2, 0}, {30, 2, 0},
			{32, 4, 0}, {36, 4, 0}, {40, 4, 0}, {44, 4, 0}, {48, 4, 0}, {52, 4, 0}, {56, 2, 0}, {58, 2, 0}, {60, 2, 0}, {62, 2, 0},
		} {
			d.expect(fmt.Sprintf("register %d", r.off), d.load(d.common+r.off, r.n), r.want)
		}
	}
	check()
	d.start()
	d.store(d.common+22, 2, 1)
	d.store(d.common+0, 4, 1)
	d.store(d.common+20, 1, 0)
	check()
}

func TestCommon(t *testing.T) {
	d := newDriver(t, newFake(2))
	d.probe()
	c := d.common

	d.store(c, 4, 1)
	d.expect("features 32-63", d.load(c+4, 4), 1|1<<18)
	d.store(c, 4, 2)
	d.expect("features 64-95", d.load(c+4, 4), 0)
	d.store(c+8, 4, 2)
	d.store(c+12, 4, 0xff)
	d.expect("driver features 64-95", d.load(c+12, 4), 0)

	for _, v := range []uint32{3, 4, 0x1000, 0xffff} { // 4 vectors
		want := v
		if v >= 4 {
			want = 0xffff
		}
		d.store(c+16, 2, v)
		d.expect("config_msix_vector", d.load(c+16, 2), want)
		d.store(c+26, 2, v)
		d.expect("queue_msix_vector", d.load(c+26, 2), want)
	}

	for _, tc := range []struct{ write, want uint32 }{
		{128, 128}, {0, 128}, {100, 128}, {512, 128}, {0xffff, 128}, {256, 256}, {1, 1},
	} {
		d.store(c+24, 2, tc.write)
		d.expect(fmt.Sprintf("queue_size after %d", tc.write), d.load(c+24, 2), tc.want)
	}

	d.store(c+22, 2, 1)
	d.expect("queue_notify_off", d.load(c+30, 2), 1)
	d.expect("size of the other queue", d.load(c+24, 2), 256)
	d.mmio.Write(c+40, []byte{1, 2, 3, 4, 5, 6, 7, 8})
	d.expect("64-bit write, low", d.load(c+40, 4), 0x04030201)
	d.expect("64-bit write, high", d.load(c+44, 4), 0x08070605)
	p := make([]byte, 8)
	d.mmio.Read(c+40, p)
	if !bytes.Equal(p, []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("64-bit read %x", p)
	}

	d.store(c+58, 2, 1)
	d.expect("queue_reset, which was not offered", d.load(c+58, 2), 0)
	d.store(c+28, 2, 2)
	d.expect("queue_enable after 2", d.load(c+28, 2), 0)
	d.store(c+28, 2, 1)
	for _, off := range []uint64{32, 36, 40, 44, 48, 52} {
		old := d.load(c+off, 4)
		d.store(c+off, 4, ^old)
		d.expect("address of an enabled queue", d.load(c+off, 4), old)
	}
	d.store(c+24, 2, 2)
	d.expect("size of an enabled queue", d.load(c+24, 2), 256)
	d.store(c+28, 2, 0)
	d.expect("queue_enable after 0", d.load(c+28, 2), 1)

	for _, n := range []int{1, 2} { // wrong widths
		d.store(c+8, n, 1)
	}
	d.expect("driver_feature_select", d.load(c+8, 4), 2)
	d.expect("narrow read", d.load(c+4, 2), 0)

	d.store(c+22, 2, 2) // no such queue
	for off, n := range map[uint64]int{24: 2, 28: 2, 30: 2, 32: 4} {
		d.store(c+off, n, 1)
		d.expect(fmt.Sprintf("register %d of no queue", off), d.load(c+off, n), 0)
	}
	d.store(c+26, 2, 1)
	d.expect("past the registers", d.load(c+64, 4), 0)
}

func TestNegotiation(t *testing.T) {
	for _, tc := range []struct {
		what string
		want uint64
		ok   bool
	}{
		{"everything", allFeatures | 1<<50, true},
		{"only VERSION_1", 1 << 32, true},
		{"legacy", 1<<28 | 1, false},
		{"what was not offered", 1<<32 | 1<<33, false},
		{"a bit the device lacks", 1<<32 | 2, false},
	} {
		d := newDriver(t, newFake(1))
		d.probe()
		d.step(1)
		d.step(2)
		if offered, ok := d.negotiate(tc.want); ok != tc.ok || offered != allFeatures|1<<50 {
			t.Errorf("%s: %v, %#x offered", tc.what, ok, offered)
		}
		d.store(d.common+8, 4, 0)
		d.store(d.common+12, 4, 0)
		if tc.ok {
			d.expect("features after FEATURES_OK", d.load(d.common+12, 4), uint32(tc.want))
			continue
		}
		d.step(4)
		d.expect("status after a refusal and DRIVER_OK", d.status(), 3)
	}
}

// TestSequence writes whole status values at the transport.
func TestSequence(t *testing.T) {
	dev := newFake(1)
	d := newDriver(t, dev)
	d.probe()
	d.store(d.common+20, 1, 4)
	d.step(1)
	d.step(8)
	d.expect("status", d.status(), 1)
	d.step(128)
	d.step(2)
	d.expect("status after FAILED", d.status(), 129)
	if dev.active || dev.resets != 0 {
		t.Errorf("active %v, %d resets; the device was never started", dev.active, dev.resets)
	}
	d.start()
	d.step(4) // again
	if dev.resets != 0 {
		t.Errorf("%d resets of a device that runs", dev.resets)
	}
}

func TestDeviceConfig(t *testing.T) {
	dev := newFake(1)
	d := newDriver(t, dev)
	d.probe()
	for i := range dev.config {
		d.expect("byte", d.load(d.device+uint64(i), 1), uint32(dev.config[i]))
	}
	p := bytes.Repeat([]byte{0xee}, 8)
	d.mmio.Read(d.device+8, p)
	if string(p) != "ation!\x00\x00" {
		t.Errorf("across the end: %q", p)
	}
	d.expect("padding", d.load(d.device+0xffc, 4), 0)
	d.mmio.Write(d.device+10, []byte("ABCDEFGH"))
	d.store(d.device+0x800, 4, 0x41414141)
	if string(dev.config) != "configuratABCD" {
		t.Errorf("written: %q", dev.config)
	}

	d.start()
	if dev.beyond != 0 {
		t.Errorf("%d accesses left the configuration", dev.beyond)
	}
	gen := d.load(d.common+21, 1)
	dev.env.Irq.ConfigChanged()
	if g := d.load(d.common+21, 1); g == gen {
		t.Error("config_generation did not change")
	}
	if v := d.vectors(); !slices.Equal(v, []uint32{0}) {
		t.Errorf("vectors %v", v)
	}
	d.expect("ISR status", d.load(d.isr, 1), 2)
	d.expect("ISR status read again", d.load(d.isr, 1), 0)
}

// readOnly hides the fake's WriteConfig.
type readOnly struct{ virtio.Device }

func TestDeviceConfigReadOnly(t *testing.T) {
	dev := newFake(1)
	tr, err := pci.New(readOnly{dev}, queuetest.Memory(t, ram, ramLen), &irq.Recorder{})
	if err != nil {
		t.Fatal(err)
	}
	tr.WriteBAR(0, 0x2000, []byte("XXXX"))
	if string(dev.config) != "configuration!" {
		t.Errorf("written: %q", dev.config)
	}
}

// TestPolling: without MSI-X the driver learns from the ISR status.
func TestPolling(t *testing.T) {
	dev := newFake(1)
	d := newDriver(t, dev)
	d.probe()
	d.start()
	d.write(d.msix+2, 2, 0)
	d.echoed(0, d.echo(0, "polled"), "polled")
	d.expect("ISR status", d.load(d.isr, 1), 1)
	d.expect("ISR status read again", d.load(d.isr, 1), 0)

	d.write(d.msix+2, 2, 0x8000)
	d.store(d.common+22, 2, 0)
	d.store(d.common+26, 2, 0xffff)
	d.vectors()
	d.rings[0].Listen()
	d.echoed(0, d.echo(0, "no vector"), "no vector")
	if v := d.vectors(); v != nil {
		t.Errorf("vectors %v", v)
	}
}

// TestConfigAccess reaches registers through the capability of §4.1.4.9.
func TestConfigAccess(t *testing.T) {
	dev := newFake(2)
	d := newDriver(t, dev)
	d.probe()
	w := d.window
	d.expect("length", d.read(w+2, 1), 20)
	point := func(bar, off, n uint32) {
		d.write(w+4, 1, bar)
		d.write(w+8, 4, off)
		d.write(w+12, 4, n)
	}
	d.expect("before it points anywhere", d.read(w+16, 4), 0)
	point(0, 18, 2)
	d.expect("num_queues", d.read(w+16, 2), 2)
	point(0, 24, 2)
	d.write(w+16, 2, 32)
	d.expect("queue_size", d.load(d.common+24, 2), 32)
	point(1, 12, 4)
	d.expect("MSI-X vector control", d.read(w+16, 4), 1)

	d.start()
	point(2, 4, 2) // the doorbells' ports
	d.write(w+16, 2, 1)
	d.findBells(d.inMemory)
	point(0, uint32(d.notify-d.common)+4, 2)
	d.write(w+16, 2, 1)
	if n := dev.get(&dev.count); n != 2 {
		t.Errorf("%d notifications", n)
	}
	dev.env.Irq.ConfigChanged()
	point(0, uint32(d.isr-d.common), 1)
	d.expect("length of the window", d.read(w+12, 4), 1)
	d.expect("only pointing at the ISR status", d.load(d.isr, 1), 2)
	dev.env.Irq.ConfigChanged()
	d.expect("ISR status", d.read(w+16, 1), 2)
	d.expect("ISR status again", d.read(w+16, 1), 0)

	for _, bad := range [][3]uint32{{0, 20, 0}, {0, 20, 3}, {0, 20, 8}, {0, 17, 2}, {0, 0x4000, 1}, {0, 0xfffffffc, 4}, {2, 8, 2}, {3, 0, 4}, {6, 0, 4}, {1, 0x1000, 4}} {
		point(bad[0], bad[1], bad[2])
		d.write(w+16, 4, 0x5a5a5a5a)
		d.expect(fmt.Sprintf("data of a window at %#x", bad), d.read(w+16, 4), 0x5a5a5a5a)
	}
	d.expect("status after all that", d.status(), 15)
}

// TestShared finds shared memory as virtio_pci_find_shm_cap does.
func TestShared(t *testing.T) {
	dev := newFake(1)
	dev.info.Shared = []virtio.SharedMemory{{ID: 0, Size: 5 << 30}, {ID: 1, Size: 0x1000}}
	d := newDriver(t, dev)
	d.probe()
	found := 0
	for at := int(d.read(0x34, 1)); at != 0; at = int(d.read(at+1, 1)) {
		if d.read(at, 1) != 9 || d.read(at+3, 1) != 8 {
			continue
		}
		found++
		d.expect("cap_len", d.read(at+2, 1), 24)
		bar, id := int(d.read(at+4, 1)), uint8(d.read(at+5, 1))
		size := uint64(d.read(at+12, 4)) | uint64(d.read(at+20, 4))<<32
		if off := d.read(at+8, 4) | d.read(at+16, 4); off != 0 || size != dev.info.Shared[id].Size {
			t.Errorf("region %d: %#x bytes at %#x", id, size, off)
		}
		if b, ok := d.tr.SharedBAR(id); !ok || b != bar {
			t.Errorf("SharedBAR(%d) = %d, %v; the guest sees %d", id, b, ok, bar)
		}
		r, ok := d.host.BAR(d.slot, bar)
		lo, hi := d.read(0x10+4*bar, 4), d.read(0x14+4*bar, 4)
		if !ok || r.Base != uint64(lo&^0xf)|uint64(hi)<<32 || lo&0xf != 0xc || r.Len < size || r.Base%r.Len != 0 || r.Base < mmio64 {
			t.Errorf("region %d: BAR %d at %#x, registers %#x %#x", id, bar, r, lo, hi)
		}
	}
	if found != 2 {
		t.Errorf("%d regions", found)
	}
	if b, ok := d.tr.SharedBAR(2); ok {
		t.Errorf("SharedBAR(2) = %d", b)
	}
}

func TestNewRefuses(t *testing.T) {
	for what, spoil := range map[string]func(*virtio.Info){
		"queue size 0":     func(i *virtio.Info) { i.QueueSizes[0] = 0 },
		"queue size 100":   func(i *virtio.Info) { i.QueueSizes[0] = 100 },
		"queue size 2048":  func(i *virtio.Info) { i.QueueSizes[0] = 2048 },
		"1025 queues":      func(i *virtio.Info) { i.QueueSizes = slices.Repeat([]uint16{2}, 1025) },
		"long config":      func(i *virtio.Info) { i.ConfigLen = 4097 },
		"empty region":     func(i *virtio.Info) { i.Shared = []virtio.SharedMemory{{}} },
		"small region":     func(i *virtio.Info) { i.Shared = []virtio.SharedMemory{{Size: 512}} },
		"too many regions": func(i *virtio.Info) { i.Shared = make([]virtio.SharedMemory, 3) },
	} {
		dev := newFake(1)
		spoil(&dev.info)
		if _, err := pci.New(dev, queuetest.Memory(t, ram, ramLen), &irq.Recorder{}); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

// TestManyQueues has all 1024 queues and the last one's notification.
func TestManyQueues(t *testing.T) {
	dev := newFake(0)
	dev.info.QueueSizes = slices.Repeat([]uint16{16}, 1024)
	dev.info.ConfigLen = 0
	d := newDriver(t, dev)
	d.probe()
	if at := d.find(9, 4, anywhere); at != 0 {
		t.Error("a device without configuration shows some")
	}
	d.expect("MSI-X vectors", d.read(d.msix+2, 2), 1025)
	d.store(d.common+22, 2, 1023)
	d.expect("queue_notify_off", d.load(d.common+30, 2), 1023)
	d.expect("queue_size", d.load(d.common+24, 2), 16)
}
