package pci_test

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"tenon/devices/bus"
	"tenon/devices/irq"
	"tenon/devices/memory"
	hostpci "tenon/devices/pci"
	"tenon/devices/virtio"
	"tenon/devices/virtio/pci"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

// fake is a device that copies what it reads from a chain into the same chain.
type fake struct {
	info   virtio.Info
	config []byte
	refuse error           // of Activate
	sulk   error           // said to be Broken by Activate
	beyond int             // configuration accesses that leave the configuration
	hold   []chan struct{} // by queue: Notify says that it is inside, then waits

	mu     sync.Mutex
	env    virtio.Env
	active bool
	inside int // calls of Notify now
	stale  int // calls of Notify while not active
	resets int
	chain  *queue.Chain
	count  int // notifications
}

func newFake(queues int) *fake {
	f := &fake{config: []byte("configuration!"), chain: queue.NewChain(256)}
	f.info = virtio.Info{ID: 26, Class: 0x018000, Features: 1 | 1<<50, ConfigLen: uint32(len(f.config))}
	for range queues {
		f.info.QueueSizes = append(f.info.QueueSizes, 256)
	}
	return f
}

func (f *fake) Info() virtio.Info { return f.info }

func (f *fake) Config(off uint32, p []byte) { copy(p, f.part(off, len(p))) }

func (f *fake) WriteConfig(off uint32, p []byte) { copy(f.part(off, len(p)), p) }

func (f *fake) part(off uint32, n int) []byte {
	if int(off)+n > len(f.config) {
		f.beyond++
	}
	return f.config[off:]
}

func (f *fake) Activate(e virtio.Env) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.env, f.active = e, true
	if f.sulk != nil {
		e.Broken(f.sulk)
	}
	return f.refuse
}

func (f *fake) Notify(i int) {
	f.mu.Lock()
	f.inside++
	if !f.active {
		f.stale++
	}
	f.count++
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		hold[i] <- struct{}{}
		<-hold[i]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inside--
	f.drain(i)
}

func (f *fake) drain(i int) {
	q := f.env.Queues[i]
	for {
		ok, err := q.Pop(f.chain)
		if err != nil {
			f.env.Broken(err)
			return
		}
		if !ok {
			break
		}
		var b [64]byte
		p := b[:min(len(b), f.chain.In.Len(), f.chain.Out.Len())]
		if f.chain.In.Copy(p) != nil || f.chain.Out.Put(p) != nil {
			f.env.Broken(errors.New("chain too short"))
			return
		}
		q.Push(f.chain.Head, uint32(len(p)))
	}
	if q.MustSignal() {
		f.env.Irq.Queue(i)
	}
}

func (f *fake) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inside != 0 {
		f.stale++
	}
	f.active = false
	f.resets++
}

// get reads state under the lock.
func (f *fake) get(field *int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *field
}

// Guest-physical addresses of these tests.
const (
	ram    = 0x100000
	ramLen = 1 << 20
	mmio32 = 0xc0000000
	mmio64 = 0x4000000000
	ports  = 0x1000 // the window of I/O ports
)

// driver is the guest: a bus with one device, driven as Linux's
// virtio_pci_modern does.
type driver struct {
	t     testing.TB
	dev   *fake
	tr    *pci.Transport
	host  *hostpci.Host
	slot  int
	pio   bus.Bus
	mmio  bus.Bus
	mem   *memory.Map
	msi   irq.Recorder
	rings []*queuetest.Ring

	common, isr, device uint64 // addresses
	bells               *bus.Bus
	notify, multiplier  uint64 // addresses on bells
	window              int    // the pci-cfg capability
	table               uint64
	msix                int // the MSI-X capability
}

func newDriver(t testing.TB, dev *fake) *driver {
	return newDriverOn(t, dev, hostpci.Windows{
		MMIO32: bus.Range{Base: mmio32, Len: 0x20000000},
		MMIO64: bus.Range{Base: mmio64, Len: 0x4000000000},
		Ports:  bus.Range{Base: ports, Len: 0x1000},
	})
}

func newDriverOn(t testing.TB, dev *fake, w hostpci.Windows) *driver {
	d := &driver{t: t, dev: dev, mem: queuetest.Memory(t, ram, ramLen)}
	d.host = hostpci.NewHost(w)
	var err error
	if d.tr, err = pci.New(dev, d.mem, &d.msi); err != nil {
		t.Fatal(err)
	}
	if d.slot, err = d.host.Add(d.tr); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		d.pio.Map(bus.Range{Base: 0xcf8, Len: 8}, "config", d.host.ConfigIO()),
		d.pio.Map(bus.Range{Base: ports, Len: 0x1000}, "ports", d.host.Ports()),
		d.mmio.Map(w.MMIO32, "mmio32", d.host.Memory32()),
		d.mmio.Map(w.MMIO64, "mmio64", d.host.Memory64()),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d.pio.Freeze()
	d.mmio.Freeze()
	t.Cleanup(d.tr.Reset)
	return d
}

func (d *driver) address(reg int) uint64 {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], 1<<31|uint32(d.slot)<<11|uint32(reg&^3))
	d.pio.Write(0xcf8, p[:])
	return 0xcfc + uint64(reg&3)
}

func (d *driver) read(reg, n int) uint32 {
	var p [4]byte
	d.pio.Read(d.address(reg), p[:n])
	return binary.LittleEndian.Uint32(p[:])
}

func (d *driver) write(reg, n int, v uint32) {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], v)
	d.pio.Write(d.address(reg), p[:n])
}

func (d *driver) load(addr uint64, n int) uint32 {
	p := make([]byte, 4)
	d.mmio.Read(addr, p[:n])
	return binary.LittleEndian.Uint32(p)
}

func (d *driver) store(addr uint64, n int, v uint32) {
	p := make([]byte, 4)
	binary.LittleEndian.PutUint32(p, v)
	d.mmio.Write(addr, p[:n])
}

func (d *driver) expect(what string, got, want uint32) {
	d.t.Helper()
	if got != want {
		d.t.Errorf("%s: %#x, want %#x", what, got, want)
	}
}

// find walks the capability list and returns the first that fits, or 0.
func (d *driver) find(id, cfgType uint32, fits func(at int) bool) int {
	for at := int(d.read(0x34, 1)); at != 0; at = int(d.read(at+1, 1)) {
		if d.read(at, 1) == id && (cfgType == 0 || d.read(at+3, 1) == cfgType) && fits(at) {
			return at
		}
	}
	return 0
}

func anywhere(int) bool { return true }

// bar reads the register of the BAR that a virtio capability names.
func (d *driver) bar(at int) uint32 { return d.read(0x10+4*int(d.read(at+4, 1)), 4) }

// Where virtio_pci_find_capability looks: in BARs that are there.
func (d *driver) inMemory(at int) bool { return d.bar(at) != 0 && d.bar(at)&1 == 0 }
func (d *driver) present(at int) bool  { return d.bar(at) != 0 }

// section maps what a capability in memory describes (vp_modern_map_capability).
func (d *driver) section(cfgType uint32, minLen uint32) (addr uint64) {
	d.t.Helper()
	at := d.find(9, cfgType, d.inMemory)
	if at == 0 {
		d.t.Fatalf("no capability of type %d", cfgType)
	}
	return uint64(d.bar(at)&^0xf) + d.offset(at, minLen)
}

// offset returns where in its BAR a section of at least minLen bytes lies.
func (d *driver) offset(at int, minLen uint32) uint64 {
	d.t.Helper()
	off, n := d.read(at+8, 4), d.read(at+12, 4)
	if n < minLen || off%4 != 0 {
		d.t.Fatalf("capability %d: offset %#x, length %d; want at least %d", d.read(at+3, 1), off, n, minLen)
	}
	return uint64(off)
}

// findBells maps the first notify capability that fits: memory or ports.
func (d *driver) findBells(fits func(at int) bool) {
	d.t.Helper()
	at := d.find(9, 2, fits)
	if at == 0 {
		d.t.Fatal("no doorbells")
	}
	d.expect("length of the notify capability", d.read(at+2, 1), 20)
	d.multiplier = uint64(d.read(at+16, 4))
	off := d.offset(at, uint32(4*len(d.dev.info.QueueSizes)))
	if bar := d.bar(at); bar&1 != 0 {
		d.bells, d.notify = &d.pio, uint64(bar&^3)+off
	} else {
		d.bells, d.notify = &d.mmio, uint64(bar&^0xf)+off
	}
}

// probe is vp_modern_probe.
func (d *driver) probe() {
	d.t.Helper()
	d.expect("vendor and device", d.read(0, 4), 0x1040<<16+0x1af4+uint32(d.dev.info.ID)<<16)
	d.write(4, 2, 7)
	d.common = d.section(1, 56)
	d.isr = d.section(3, 1)
	d.findBells(d.present)
	if d.dev.info.ConfigLen > 0 {
		d.device = d.section(4, d.dev.info.ConfigLen)
	}
	d.window = d.find(9, 5, anywhere)
	d.msix = d.find(0x11, 0, anywhere)
	table := d.read(d.msix+4, 4)
	d.table = uint64(d.read(0x10+4*int(table&7), 4)) + uint64(table&^7)
}

func (d *driver) status() uint32 { return d.load(d.common+20, 1) }

// step adds a status bit (virtio_add_status).
func (d *driver) step(bit uint32) { d.store(d.common+20, 1, d.status()|bit) }

// negotiate is vp_get_features, vp_finalize_features and the check of FEATURES_OK.
func (d *driver) negotiate(want uint64) (offered uint64, ok bool) {
	for i := range uint32(2) {
		d.store(d.common, 4, i)
		offered |= uint64(d.load(d.common+4, 4)) << (32 * i)
	}
	for i := range uint32(2) {
		d.store(d.common+8, 4, i)
		d.store(d.common+12, 4, uint32(want>>(32*i)))
	}
	d.step(8)
	return offered, d.status()&8 != 0
}

const allFeatures = 1<<28 | 1<<29 | 1<<32 | 1

// enableMSIX is pci_alloc_irq_vectors and setting up the table.
func (d *driver) enableMSIX() {
	d.write(d.msix+2, 2, 0xc000)
	for i := range len(d.dev.info.QueueSizes) + 1 {
		entry := d.table + 16*uint64(i)
		d.store(entry, 4, 0xfee00000)
		d.store(entry+4, 4, 0)
		d.store(entry+8, 4, uint32(0x40+i))
		d.store(entry+12, 4, 0)
	}
	d.write(d.msix+2, 2, 0x8000)
}

// setup is setup_vq for queue i with a ring in fake memory, all but enabling it.
func (d *driver) setup(i int, size uint16) *queuetest.Ring {
	d.t.Helper()
	l, end := queuetest.Place(ram+memory.GPA(i)<<16, size)
	if end > ram+memory.GPA(i+1)<<16 {
		d.t.Fatal("rings overlap")
	}
	d.store(d.common+22, 2, uint32(i))
	d.store(d.common+24, 2, uint32(size))
	d.expect("queue_size", d.load(d.common+24, 2), uint32(size))
	for off, v := range map[uint64]memory.GPA{32: l.Desc, 40: l.Avail, 48: l.Used} {
		d.store(d.common+off, 4, uint32(v))
		d.store(d.common+off+4, 4, uint32(v>>32))
	}
	d.store(d.common+26, 2, uint32(1+i))
	d.expect("queue_msix_vector", d.load(d.common+26, 2), uint32(1+i))
	return queuetest.New(d.t, d.mem, l, allFeatures)
}

func (d *driver) enable(i int) {
	d.store(d.common+22, 2, uint32(i))
	d.store(d.common+28, 2, 1)
	d.expect("queue_enable", d.load(d.common+28, 2), 1)
}

// configure resets the device and goes all the way to just before DRIVER_OK.
func (d *driver) configure() {
	d.t.Helper()
	d.store(d.common+20, 1, 0)
	d.expect("status after reset", d.status(), 0)
	d.step(1)
	d.step(2)
	if offered, ok := d.negotiate(allFeatures); !ok {
		d.t.Fatalf("features refused; %#x were offered", offered)
	}
	d.enableMSIX()
	d.store(d.common+16, 2, 0)
	d.expect("config_msix_vector", d.load(d.common+16, 2), 0)
	d.rings = nil
	for i := range d.dev.info.QueueSizes {
		d.clearRing(i)
		d.rings = append(d.rings, d.setup(i, 64))
	}
	for i := range d.dev.info.QueueSizes {
		d.enable(i)
	}
}

// clearRing zeroes the memory of a ring, as a driver allocates it.
func (d *driver) clearRing(i int) {
	b, err := d.mem.Slice(ram+memory.GPA(i)<<16, 1<<16)
	if err != nil {
		d.t.Fatal(err)
	}
	clear(b)
}

// start is configure and DRIVER_OK.
func (d *driver) start() {
	d.t.Helper()
	d.configure()
	d.step(4)
	d.expect("status", d.status(), 15)
}

// kick writes queue i's notification, at the address its queue_notify_off says.
func (d *driver) kick(i int) {
	d.store(d.common+22, 2, uint32(i))
	d.ring(uint64(d.load(d.common+30, 2))*d.multiplier, 2, uint32(i))
}

// ring writes at an offset in the notification section.
func (d *driver) ring(off uint64, n int, v uint32) {
	p := make([]byte, 4)
	binary.LittleEndian.PutUint32(p, v)
	d.bells.Write(d.notify+off, p[:n])
}

// echo sends text through queue i, whose buffers lie after its ring.
func (d *driver) echo(i int, text string) (head uint16) {
	d.t.Helper()
	at := ram + memory.GPA(i)<<16 + 0x8000
	r := d.rings[i]
	r.Write(at, []byte(text))
	head, ok := r.Add(
		queuetest.Buffer{At: at, Len: uint32(len(text))},
		queuetest.Buffer{At: at + 0x1000, Len: uint32(len(text)), Write: true},
	)
	if !ok {
		d.t.Fatal("the ring is full")
	}
	d.kick(i)
	return head
}

// echoed checks the answer to echo.
func (d *driver) echoed(i int, head uint16, text string) {
	d.t.Helper()
	got, n, ok := d.rings[i].Used()
	if !ok || got != head || n != uint32(len(text)) {
		d.t.Fatalf("queue %d: used %d of %d bytes, %v; want %d of %d", i, got, n, ok, head, len(text))
	}
	if s := d.rings[i].Read(ram+memory.GPA(i)<<16+0x9000, n); string(s) != text {
		d.t.Errorf("queue %d: %q, want %q", i, s, text)
	}
}

// vectors takes the MSI-X vectors sent since the last call.
func (d *driver) vectors() (v []uint32) {
	for _, m := range d.msi.Messages() {
		v = append(v, m.Data-0x40)
	}
	return v
}
