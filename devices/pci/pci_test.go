package pci_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"

	"tenon/devices/bus"
	"tenon/devices/irq"
	"tenon/devices/pci"
)

// function is a test device: BARs are remembered bytes, MSI-X in BAR 4.
type function struct {
	config *pci.Config
	msix   *pci.MSIX
	mu     sync.Mutex
	writes []string
}

const msixBAR = 4

func (f *function) Config() *pci.Config { return f.config }

func (f *function) ReadBAR(bar int, off uint64, p []byte) {
	if bar == msixBAR {
		f.msix.Read(off, p)
		return
	}
	for i := range p {
		p[i] = byte(bar<<4) + byte(off) + byte(i)
	}
}

func (f *function) WriteBAR(bar int, off uint64, p []byte) {
	if bar == msixBAR {
		f.msix.Write(off, p)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes = append(f.writes, fmt.Sprintf("%d+%#x=%x", bar, off, p))
}

func (f *function) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.writes
	f.writes = nil
	return w
}

// The machine of these tests.
const (
	mem32 = 0xc0000000
	mem64 = 0x4000000000
	ecam  = 0xe0000000
	ports = 0x1000
)

type machine struct {
	t    *testing.T
	host *pci.Host
	pio  bus.Bus
	mmio bus.Bus
	msi  irq.Recorder
}

func newMachine(t *testing.T) *machine {
	w := pci.Windows{
		MMIO32: bus.Range{Base: mem32, Len: 0x20000000},
		MMIO64: bus.Range{Base: mem64, Len: 0x4000000000},
		Ports:  bus.Range{Base: ports, Len: 0x1000},
	}
	m := &machine{t: t, host: pci.NewHost(w)}
	for _, e := range []struct {
		b *bus.Bus
		r bus.Range
		h bus.Handler
	}{
		{&m.pio, bus.Range{Base: 0xcf8, Len: 8}, m.host.ConfigIO()},
		{&m.pio, w.Ports, m.host.Ports()},
		{&m.mmio, bus.Range{Base: ecam, Len: 1 << 20}, m.host.ECAM()},
		{&m.mmio, w.MMIO32, m.host.Memory32()},
		{&m.mmio, w.MMIO64, m.host.Memory64()},
	} {
		if err := e.b.Map(e.r, "pci", e.h); err != nil {
			t.Fatal(err)
		}
	}
	m.pio.Freeze()
	m.mmio.Freeze()
	return m
}

// add plugs a function with a 32-bit BAR 0, a 64-bit BAR 2 and MSI-X in BAR 4.
func (m *machine) add(vectors int) (*function, int) {
	m.t.Helper()
	msix, err := pci.NewMSIX(vectors, msixBAR, &m.msi)
	if err != nil {
		m.t.Fatal(err)
	}
	f := &function{msix: msix}
	h := pci.Header{
		Vendor: 0x1af4, Device: 0x105a, Subvendor: 0x1af4, Subsystem: 0x5a, Class: 0x018000, Revision: 1,
		Capabilities: []pci.Capability{
			{ID: pci.CapVendor, Body: []byte{7, 1, 2, 3, 4}, Mask: []byte{0, 0xff}},
			msix.Capability(),
		},
	}
	h.BARs[0].Size = 0x4000
	h.BARs[2] = pci.BAR{Size: 1 << 30, Wide: true}
	h.BARs[msixBAR] = msix.BAR()
	if f.config, err = pci.NewConfig(h); err != nil {
		m.t.Fatal(err)
	}
	slot, err := m.host.Add(f)
	if err != nil {
		m.t.Fatal(err)
	}
	return f, slot
}

// address selects a register by CF8, as Linux does, and returns its port.
func (m *machine) address(slot, reg int) uint64 {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], 1<<31|uint32(slot)<<11|uint32(reg&^3))
	m.pio.Write(0xcf8, p[:])
	return 0xcfc + uint64(reg&3)
}

func (m *machine) read(slot, reg, n int) uint32 {
	var p [4]byte
	m.pio.Read(m.address(slot, reg), p[:n])
	return binary.LittleEndian.Uint32(p[:])
}

func (m *machine) write(slot, reg, n int, v uint32) {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], v)
	m.pio.Write(m.address(slot, reg), p[:n])
}

func (m *machine) load(addr uint64, n int) []byte {
	p := bytes.Repeat([]byte{0xee}, n)
	m.mmio.Read(addr, p)
	return p
}

func (m *machine) store32(addr uint64, v uint32) {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], v)
	m.mmio.Write(addr, p[:])
}

func (m *machine) load32(addr uint64) uint32 { return binary.LittleEndian.Uint32(m.load(addr, 4)) }

func (m *machine) expect(what string, got, want uint32) {
	m.t.Helper()
	if got != want {
		m.t.Errorf("%s: %#x, want %#x", what, got, want)
	}
}

// TestProbe is Linux's check that configuration mechanism #1 works, then its
// scan of the bus.
func TestProbe(t *testing.T) {
	m := newMachine(t)
	_, slot := m.add(2)
	m.pio.Write(0xcfb, []byte{1})
	m.pio.Write(0xcf8, []byte{0, 0, 0, 0x80})
	var p [4]byte
	m.pio.Read(0xcf8, p[:])
	m.expect("CONFIG_ADDRESS", binary.LittleEndian.Uint32(p[:]), 1<<31)
	m.expect("host bridge class", m.read(0, 0x0a, 2), 0x0600)
	m.expect("host bridge header type", m.read(0, 0x0e, 1), 0)
	m.expect("slot", uint32(slot), 1)
	for i := 2; i < 32; i++ {
		m.expect("empty slot", m.read(i, 0, 4), 0xffffffff)
	}
	m.expect("ids", m.read(1, 0, 4), 0x105a1af4)
	m.expect("subsystem", m.read(1, 0x2c, 4), 0x005a1af4)
	m.expect("class and revision", m.read(1, 8, 4), 0x01800001)
	m.expect("interrupt pin", m.read(1, 0x3d, 1), 0)
	m.expect("expansion ROM", m.read(1, 0x30, 4), 0)
	m.expect("status", m.read(1, 6, 2), 0x10)

	ids := []uint32{}
	for at := m.read(1, 0x34, 1); at != 0; at = m.read(1, int(at)+1, 1) {
		m.expect("alignment of a capability", at&3, 0)
		ids = append(ids, m.read(1, int(at), 1))
	}
	if !slices.Equal(ids, []uint32{pci.CapVendor, pci.CapMSIX}) {
		t.Errorf("capabilities %#x", ids)
	}
}

// TestWidths reads the same registers by CF8/CFC and ECAM in every width.
func TestWidths(t *testing.T) {
	m := newMachine(t)
	m.add(2)
	full := m.load(ecam+1<<15, 8)
	full = append(full, m.load(ecam+1<<15+8, 8)...)
	if !bytes.Equal(full[:4], []byte{0xf4, 0x1a, 0x5a, 0x10}) {
		t.Fatalf("ECAM reads %x", full)
	}
	for _, n := range []int{1, 2, 4} {
		for reg := 0; reg+n <= len(full); reg++ {
			var want [4]byte
			copy(want[:], full[reg:reg+n])
			if got := m.load(ecam+1<<15+uint64(reg), n); !bytes.Equal(got, want[:n]) {
				t.Errorf("ECAM %d at %d: %x, want %x", n, reg, got, want[:n])
			}
			w := binary.LittleEndian.Uint32(want[:])
			if reg&3+n > 4 { // leaves the ports
				w = 0xffffffff >> (32 - 8*n)
			}
			m.expect(fmt.Sprintf("CF8/CFC %d at %d", n, reg), m.read(1, reg, n), w)
		}
	}

	ones := func(n int) []byte { return bytes.Repeat([]byte{0xff}, n) }
	for _, tc := range []struct {
		what string
		addr uint64
		n    int
		want []byte
	}{
		{"extended space", 1<<15 + 0x100, 4, make([]byte, 4)},
		{"across the end of the header space", 1<<15 + 0xfc, 8, make([]byte, 8)},
		{"last dword", 1<<15 + 0xffc, 4, make([]byte, 4)},
		{"across functions", 1<<15 + 0xffe, 4, ones(4)},
		{"function 1", 1<<15 + 1<<12, 4, ones(4)},
		{"absent slot", 9 << 15, 8, ones(8)},
	} {
		if got := m.load(ecam+tc.addr, tc.n); !bytes.Equal(got, tc.want) {
			t.Errorf("ECAM %s: %x, want %x", tc.what, got, tc.want)
		}
	}

	for _, tc := range []struct {
		what    string
		address uint32
		want    uint32
	}{
		{"enabled", 1<<31 | 1<<11, 0x105a1af4},
		{"disabled", 1 << 11, 0xffffffff},
		{"bus 1", 1<<31 | 1<<16 | 1<<11, 0xffffffff},
		{"function 1", 1<<31 | 1<<11 | 1<<8, 0xffffffff},
	} {
		var p [4]byte
		binary.LittleEndian.PutUint32(p[:], tc.address)
		m.pio.Write(0xcf8, p[:])
		m.pio.Read(0xcfc, p[:])
		m.expect(tc.what, binary.LittleEndian.Uint32(p[:]), tc.want)
	}
	p := []byte{0}
	m.pio.Write(0xcf8, p)
	m.pio.Read(0xcf8, p)
	m.expect("byte read of CONFIG_ADDRESS, which has 32-bit accesses only", uint32(p[0]), 0xff)
}

// TestWriteMasks writes all ones everywhere and sees what sticks.
func TestWriteMasks(t *testing.T) {
	m := newMachine(t)
	f, _ := m.add(2)
	before := make([]byte, 256)
	f.config.Read(0, before)
	for reg := 0; reg < 256; reg += 4 {
		m.write(1, reg, 4, 0xffffffff)
	}
	after := make([]byte, 256)
	f.config.Read(0, after)
	want := bytes.Clone(before)
	for reg, mask := range map[int]byte{
		0x04: 0x06, 0x05: 0x04, 0x0c: 0xff, 0x3c: 0xff,
		0x11: 0xc0, 0x12: 0xff, 0x13: 0xff, // BAR 0: 16 KiB
		0x1b: 0xc0, 0x1c: 0xff, 0x1d: 0xff, 0x1e: 0xff, 0x1f: 0xff, // BAR 2: 1 GiB, 64-bit
		0x21: 0xf0, 0x22: 0xff, 0x23: 0xff, // BAR 4: 4 KiB
		0x43:     0xff, // the vendor capability's mask
		0x48 + 3: 0xc0, // MSI-X enable and function mask
	} {
		want[reg] |= mask
	}
	if !bytes.Equal(after, want) {
		t.Errorf("after writing ones:\n%x, want\n%x", after, want)
	}
	for _, reg := range []uint64{0xfc, 0x104, 0xff8} {
		m.mmio.Write(ecam+1<<15+reg, make([]byte, 8))
	}
	if f.config.Read(0, after); !bytes.Equal(after, want) {
		t.Errorf("after writing extended space:\n%x, want\n%x", after, want)
	}
}

func TestNewConfigRefuses(t *testing.T) {
	bar := func(n int, b pci.BAR) (h pci.Header) { h.BARs[n] = b; return h }
	twice := bar(0, pci.BAR{Size: 4096, Wide: true})
	twice.BARs[1].Size = 4096
	for what, h := range map[string]pci.Header{
		"small":           bar(0, pci.BAR{Size: 2048}),
		"odd":             bar(0, pci.BAR{Size: 4096 + 4}),
		"4 GiB in 32 bit": bar(0, pci.BAR{Size: 1 << 32}),
		"wide at the end": bar(5, pci.BAR{Size: 4096, Wide: true}),
		"overlapping":     twice,
		"2 ports":         bar(0, pci.BAR{Size: 2, Ports: true}),
		"512 ports":       bar(0, pci.BAR{Size: 512, Ports: true}),
		"wide ports":      bar(0, pci.BAR{Size: 256, Ports: true, Wide: true}),
		"long capability": {Capabilities: []pci.Capability{{Body: make([]byte, 191)}}},
		"long mask":       {Capabilities: []pci.Capability{{Body: make([]byte, 2), Mask: make([]byte, 3)}}},
	} {
		if _, err := pci.NewConfig(h); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, err := pci.NewConfig(bar(4, pci.BAR{Size: 1 << 40, Wide: true})); err != nil {
		t.Error(err)
	}
}

// TestBAR sizes the BARs as Linux does, then uses, moves and disables them.
func TestBAR(t *testing.T) {
	m := newMachine(t)
	f, slot := m.add(2)
	base, ok := m.host.BAR(slot, 0)
	if !ok || base.Base != uint64(m.read(1, 0x10, 4)) || base.Len != 0x4000 || base.Base%0x4000 != 0 {
		t.Fatalf("BAR 0 at %#x, register %#x", base, m.read(1, 0x10, 4))
	}
	wide, ok := m.host.BAR(slot, 2)
	if lo, hi := m.read(1, 0x18, 4), m.read(1, 0x1c, 4); !ok || uint64(lo)|uint64(hi)<<32 != wide.Base|0xc || wide.Base < mem64 || wide.Base%(1<<30) != 0 {
		t.Fatalf("BAR 2 at %#x, registers %#x %#x", wide, lo, hi)
	}
	for _, n := range []int{-1, 1, 3, 6} {
		if r, ok := m.host.BAR(slot, n); ok {
			t.Errorf("BAR %d is at %#x", n, r)
		}
	}
	if r, ok := m.host.BAR(7, 0); ok {
		t.Errorf("BAR 0 of an absent function is at %#x", r)
	}

	m.expect("before decoding is on", m.load32(base.Base), 0xffffffff)
	m.write(1, 4, 2, 2)
	m.expect("BAR 0", m.load32(base.Base+8), 0x0b0a0908)
	m.expect("BAR 2", m.load32(wide.Base), 0x23222120)
	m.expect("last dword", m.load32(base.Base+0x3ffc), 0xfffefdfc)
	m.expect("across the end", m.load32(base.Base+0x3ffe), 0xffffffff)
	m.mmio.Write(base.Base+4, []byte{1, 2})
	m.mmio.Write(wide.Base+1<<29, []byte{3})
	m.mmio.Write(base.Base+0x3fff, []byte{1, 2})
	if got := f.take(); !slices.Equal(got, []string{"0+0x4=0102", "2+0x20000000=03"}) {
		t.Errorf("writes %v", got)
	}

	// Sizing.
	for _, tc := range []struct {
		reg  int
		want uint32
	}{{0x10, 0xffffc000}, {0x14, 0}, {0x18, 0xc000000c}, {0x1c, 0xffffffff}, {0x20, 0xfffff000}, {0x24, 0}, {0x30, 0}} {
		old := m.read(1, tc.reg, 4)
		m.write(1, tc.reg, 4, 0xffffffff)
		m.expect(fmt.Sprintf("size at %#x", tc.reg), m.read(1, tc.reg, 4), tc.want)
		m.write(1, tc.reg, 4, old)
		m.expect(fmt.Sprintf("restored %#x", tc.reg), m.read(1, tc.reg, 4), old)
	}
	m.expect("BAR 0 after sizing", m.load32(base.Base+8), 0x0b0a0908)

	m.write(1, 0x10, 4, mem32+0x1000000)
	m.expect("moved BAR 0", m.load32(mem32+0x1000000), 0x03020100)
	m.expect("its old place", m.load32(base.Base), 0xffffffff)
	m.write(1, 0x1c, 4, uint32((mem64+1<<36)>>32))
	m.expect("moved BAR 2", m.load32(mem64+1<<36+wide.Base&0xffffffff), 0x23222120)
	m.write(1, 0x13, 1, 0xc2) // one byte of BAR 0
	m.expect("moved by a byte", m.load32(0xc3000000), 0xffffffff)
	m.expect("moved by a byte", m.load32(0xc2000000|uint64(m.read(1, 0x10, 4))&0xffffff), 0x03020100)

	m.write(1, 4, 2, 0)
	m.expect("decoding off", m.load32(mem64+1<<36+wide.Base&0xffffffff), 0xffffffff)
}

// withPorts is a function with 16 ports in BAR 3 and 4 KiB of memory in BAR 0.
func withPorts(t *testing.T) *function {
	t.Helper()
	h := pci.Header{Vendor: 0x1af4}
	h.BARs[0].Size = 0x1000
	h.BARs[3] = pci.BAR{Size: 16, Ports: true}
	c, err := pci.NewConfig(h)
	if err != nil {
		t.Fatal(err)
	}
	return &function{config: c}
}

// TestPorts sizes, uses, moves and disables a BAR in I/O space.
func TestPorts(t *testing.T) {
	m := newMachine(t)
	f := withPorts(t)
	slot, err := m.host.Add(f)
	if err != nil {
		t.Fatal(err)
	}
	r, ok := m.host.BAR(slot, 3)
	if reg := m.read(1, 0x1c, 4); !ok || r.Len != 16 || r.Base < ports || uint64(reg) != r.Base|1 {
		t.Fatalf("BAR 3 at %#x, register %#x", r, reg)
	}
	out := func(port uint64, p ...byte) { m.pio.Write(port, p) }
	in := func(port uint64) uint32 {
		var p [4]byte
		m.pio.Read(port, p[:])
		return binary.LittleEndian.Uint32(p[:])
	}
	m.write(1, 4, 2, 2) // memory only
	m.expect("before decoding is on", in(r.Base), 0xffffffff)
	m.write(1, 4, 2, 0x403)
	m.expect("command", m.read(1, 4, 2), 0x403)
	m.expect("BAR 3", in(r.Base+4), 0x37363534)
	m.expect("across the end", in(r.Base+14), 0xffffffff)
	m.expect("as memory", m.load32(r.Base), 0xffffffff)
	out(r.Base+6, 1, 2)
	out(r.Base+15, 1, 2)
	out(r.Base+16, 1)
	if got := f.take(); !slices.Equal(got, []string{"3+0x6=0102"}) {
		t.Errorf("writes %v", got)
	}

	m.write(1, 0x1c, 4, 0xffffffff)
	m.expect("size", m.read(1, 0x1c, 4), 0xfffffff1)
	m.write(1, 0x1c, 4, 0x1238)
	m.expect("moved register", m.read(1, 0x1c, 4), 0x1231)
	m.expect("moved BAR 3", in(0x1230), 0x33323130)
	m.expect("its old place", in(r.Base), 0xffffffff)

	// At the address of the memory BAR, in the other space.
	mem, _ := m.host.BAR(slot, 0)
	m.write(1, 0x1c, 4, uint32(mem.Base))
	m.expect("memory under ports of that number", m.load32(mem.Base), 0x03020100)

	m.write(1, 0x1c, 4, 0x1231)
	m.write(1, 4, 2, 1)
	m.expect("with memory off", in(0x1230), 0x33323130)
	m.expect("memory", m.load32(mem.Base), 0xffffffff)
	m.write(1, 4, 2, 0)
	m.expect("decoding off", in(0x1230), 0xffffffff)
}

// TestNoPorts: a host without a window of ports shows no BAR that is in it.
func TestNoPorts(t *testing.T) {
	host := pci.NewHost(pci.Windows{MMIO32: bus.Range{Base: mem32, Len: 0x6000}})
	f := withPorts(t)
	slot, err := host.Add(f)
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := host.BAR(slot, 3); ok {
		t.Errorf("BAR 3 is at %#x", r)
	}
	f.config.Write(0x1c, []byte{0xff, 0xff, 0xff, 0xff})
	f.config.Write(4, []byte{0xff, 0xff})
	p := make([]byte, 4)
	if f.config.Read(0x1c, p); !bytes.Equal(p, make([]byte, 4)) {
		t.Errorf("BAR 3 reads % x", p)
	}
	if f.config.Read(4, p[:1]); p[0] != 6 {
		t.Errorf("command %#x", p[0])
	}
}

// TestBAROverlap: a guest that puts BARs over each other gets one of them.
func TestBAROverlap(t *testing.T) {
	m := newMachine(t)
	var f [3]*function
	for i := range f {
		var slot int
		f[i], slot = m.add(2)
		m.write(slot, 0x10, 4, mem32+0x8000)
		m.write(slot, 0x20, 4, mem32+0x8000+uint32(slot)<<12)
		m.write(slot, 4, 2, 2)
	}
	for off := uint64(0); off < 0x4000; off += 0x1000 {
		m.mmio.Write(mem32+0x8000+off, []byte{7})
		want := fmt.Sprintf("0+%#x=07", off)
		if a, b, c := f[0].take(), f[1].take(), f[2].take(); !slices.Equal(a, []string{want}) || len(b)+len(c) != 0 {
			t.Errorf("writes %v, %v, %v; want the lowest slot to answer alone", a, b, c)
		}
	}
}

func TestAddFull(t *testing.T) {
	host := pci.NewHost(pci.Windows{MMIO32: bus.Range{Base: mem32, Len: 0x6000}})
	function := func(bar pci.BAR) *function {
		h := pci.Header{}
		h.BARs[0] = bar
		c, err := pci.NewConfig(h)
		if err != nil {
			t.Fatal(err)
		}
		return &function{config: c}
	}
	for _, tc := range []struct {
		bar pci.BAR
		at  uint64 // 0: no room
	}{
		{pci.BAR{Size: 0x1000}, mem32},
		{pci.BAR{Size: 0x2000}, mem32 + 0x2000},
		{pci.BAR{Size: 0x4000}, 0},
		{pci.BAR{Size: 0x1000, Wide: true}, 0},
		{pci.BAR{Size: 0x2000}, mem32 + 0x4000},
		{pci.BAR{Size: 0x1000}, 0},
	} {
		slot, err := host.Add(function(tc.bar))
		if (err == nil) != (tc.at != 0) {
			t.Errorf("%+v: error %v", tc.bar, err)
		}
		if r, _ := host.BAR(slot, 0); err == nil && r.Base != tc.at {
			t.Errorf("%+v: at %#x, want %#x", tc.bar, r.Base, tc.at)
		}
	}
	n := 3
	var err error
	for ; err == nil; n++ {
		_, err = host.Add(function(pci.BAR{}))
	}
	if n != 32 {
		t.Errorf("the bus was full after %d functions: %v", n-1, err)
	}
}

// TestCapabilityHooks: they see what was touched, and no lock is held.
func TestCapabilityHooks(t *testing.T) {
	m := newMachine(t)
	var log []string
	h := pci.Header{Vendor: 1, Capabilities: []pci.Capability{
		{ID: 9, Body: make([]byte, 4)},
		{
			ID: 9, Body: []byte{1, 2, 3, 4}, Mask: []byte{0xff, 0xff},
			BeforeRead: func(b pci.Body, off, n int) {
				log = append(log, fmt.Sprintf("read %d+%d", off, n))
				b.Store(4, []byte{0xab, 0xcd, 0xef}) // one too many
			},
			AfterWrite: func(b pci.Body, off, n int) {
				p := []byte{0, 0, 0, 0, 0}
				b.Load(2, p)
				log = append(log, fmt.Sprintf("write %d+%d %x", off, n, p))
			},
		},
		{ID: 9, Body: []byte{5}},
	}}
	c, err := pci.NewConfig(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.host.Add(&function{config: c}); err != nil {
		t.Fatal(err)
	}
	at := int(m.read(1, 0x41, 1))
	m.expect("body", m.read(1, at+2, 2), 0x0201)
	m.expect("refreshed", m.read(1, at+4, 2), 0xcdab)
	m.write(1, at+3, 1, 0x77)
	m.write(1, 0x40, 4, 0)
	m.write(1, at-4, 4, 0) // ends where it starts
	m.mmio.Write(ecam+1<<15+uint64(at)-4, bytes.Repeat([]byte{0x55}, 8))
	want := []string{"read 2+2", "read 4+2", "write 3+1 0177abcd00", "write 0+4 5555abcd00"}
	if !slices.Equal(log, want) {
		t.Errorf("hooks saw %q, want %q", log, want)
	}
	m.expect("next capability", m.read(1, at+8, 4), 0x050009)
}

func TestNewMSIXRefuses(t *testing.T) {
	for _, n := range []int{-1, 0, 2049} {
		if _, err := pci.NewMSIX(n, 0, nil); err == nil {
			t.Errorf("%d vectors accepted", n)
		}
	}
	x, err := pci.NewMSIX(2048, 0, nil)
	if err != nil || x.BAR().Size != 1<<16 || x.Len() != 2048 {
		t.Errorf("2048 vectors: %v, BAR %+v", err, x.BAR())
	}
}
