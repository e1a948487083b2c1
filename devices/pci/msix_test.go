package pci_test

import (
	"slices"
	"sync"
	"testing"

	"tenon/devices/irq"
	"tenon/devices/pci"
)

// msixMachine is a machine with one function whose table is mapped at table
// and whose MSI-X capability is at control.
func msixMachine(t *testing.T, vectors int) (m *machine, f *function, table uint64, control int) {
	m = newMachine(t)
	f, slot := m.add(vectors)
	r, _ := m.host.BAR(slot, msixBAR)
	m.write(slot, 4, 2, 6)
	control = int(m.read(slot, int(m.read(slot, 0x34, 1))+1, 1))
	m.expect("capability", m.read(slot, control, 1), 0x11)
	m.expect("table size", m.read(slot, control+2, 2), uint32(vectors-1))
	m.expect("table", m.read(slot, control+4, 4), msixBAR)
	m.expect("pending bits", m.read(slot, control+8, 4), uint32(vectors*16)|msixBAR)
	return m, f, r.Base, control + 2
}

// message is what program gives to vector i.
func message(i int) irq.Message {
	return irq.Message{Addr: 0x1_fee00000 + uint64(i)<<12, Data: 0x20 + uint32(i)}
}

// program fills the table by 32-bit writes as Linux does and unmasks.
func (m *machine) program(table uint64, i int) {
	entry := table + 16*uint64(i)
	msg := message(i)
	m.store32(entry+12, 1)
	m.store32(entry+0, uint32(msg.Addr))
	m.store32(entry+4, uint32(msg.Addr>>32))
	m.store32(entry+8, msg.Data)
	m.store32(entry+12, 0)
}

func (m *machine) messages(what string, want ...int) {
	m.t.Helper()
	msgs := []irq.Message{}
	for _, i := range want {
		msgs = append(msgs, message(i))
	}
	if got := m.msi.Messages(); !slices.Equal(got, msgs) {
		m.t.Errorf("%s: sent %#x, want %#x", what, got, msgs)
	}
}

func TestMSIX(t *testing.T) {
	m, f, table, control := msixMachine(t, 40)
	pba := table + 40*16
	signal := func(i int) { f.msix.Vector(i).Signal() }

	m.program(table, 0)
	signal(0)
	m.messages("disabled")
	m.expect("pending while disabled", m.load32(pba), 0)

	m.write(1, control, 2, 0xc000) // enable, everything masked
	m.expect("masked at reset", m.load32(table+16+12), 1)
	for _, i := range []int{1, 2, 33} {
		m.program(table, i)
	}
	signal(0)
	signal(33)
	m.messages("function masked")
	m.expect("pending 0-31", m.load32(pba), 1)
	m.expect("pending 32-39", m.load32(pba+4), 2)

	m.write(1, control, 2, 0x8000)
	m.messages("function unmasked", 0, 33)
	m.expect("pending after that", m.load32(pba)|m.load32(pba+4), 0)
	signal(1)
	m.messages("one", 1)

	m.store32(table+2*16+12, 1)
	signal(2)
	signal(2)
	m.messages("masked")
	m.expect("pending", m.load32(pba), 1<<2)
	m.store32(pba, 0)
	m.expect("pending bits are read-only", m.load32(pba), 1<<2)
	m.store32(table+2*16+8, 0x22)
	m.messages("still masked")
	m.store32(table+2*16+12, 0)
	m.messages("unmasked: one message for two signals", 2)

	signal(39)
	m.messages("never unmasked")
	m.write(1, control, 2, 0)
	m.program(table, 39)
	m.messages("unmasked while disabled")
	m.write(1, control, 2, 0x8000)
	m.messages("enabled again", 39)
}

func TestMSIXTable(t *testing.T) {
	m, _, table, _ := msixMachine(t, 2)
	m.mmio.Write(table, []byte{0x07, 0x10, 0xe0, 0xfe, 1, 0, 0, 0}) // 64 bits
	m.expect("address without its low bits", m.load32(table), 0xfee01004)
	m.expect("upper address", m.load32(table+4), 1)
	m.store32(table+8, 0x12345678)
	m.expect("byte lane", uint32(m.load(table+9, 1)[0]), 0x56)
	for _, p := range [][]byte{{1}, {1, 1}} { // neither is allowed
		m.mmio.Write(table+8, p)
	}
	m.mmio.Write(table+6, []byte{9, 9, 9, 9})
	m.expect("data", m.load32(table+8), 0x12345678)
	m.store32(table+12, 0xfffffffe)
	m.expect("control has one bit", m.load32(table+12), 0)
	m.expect("after the pending bits", m.load32(table+0xff0), 0)
	m.mmio.Write(table+2*16-4, []byte{0, 0, 0, 0, 1, 1, 1, 1}) // runs into the pending bits
	m.expect("second entry's control", m.load32(table+16+12), 0)
}

// TestMSIXRace: whatever the order of signals and masks, a signal is either
// sent or pending, and the last unmask sends what is pending.
func TestMSIXRace(t *testing.T) {
	m, f, table, control := msixMachine(t, 2)
	m.program(table, 0)
	m.write(1, control, 2, 0x8000)
	var wg sync.WaitGroup
	wg.Add(2)
	go func() {
		defer wg.Done()
		for range 300 {
			m.store32(table+12, 1)
			m.write(1, control, 2, 0xc000)
			m.store32(table+12, 0)
			m.write(1, control, 2, 0x8000)
		}
	}()
	go func() {
		defer wg.Done()
		for range 300 {
			f.msix.Vector(0).Signal()
		}
	}()
	wg.Wait()
	n := len(m.msi.Messages())
	if n == 0 || n > 300 {
		t.Errorf("%d messages for 300 signals", n)
	}
	m.expect("pending at the end", m.load32(table+32), 0)
	f.msix.Vector(0).Signal()
	m.messages("at the end", 0)
}

func TestAllocBAR(t *testing.T) {
	m := newMachine(t)
	_, slot := m.add(2)
	r, _ := m.host.BAR(slot, msixBAR)
	m.write(slot, 4, 2, 2)
	p := make([]byte, 4)
	if n := testing.AllocsPerRun(100, func() { m.mmio.Write(r.Base, p); m.mmio.Read(r.Base, p) }); n != 0 {
		t.Errorf("%v allocations an access", n)
	}
}

// sends counts messages without remembering them.
type sends int

func (n *sends) SendMSI(uint64, uint32) { *n++ }

func TestAllocSignal(t *testing.T) {
	var n sends
	x, err := pci.NewMSIX(1, 0, &n)
	if err != nil {
		t.Fatal(err)
	}
	h := pci.Header{Capabilities: []pci.Capability{x.Capability()}}
	c, err := pci.NewConfig(h)
	if err != nil {
		t.Fatal(err)
	}
	c.Write(0x42, []byte{0, 0x80})
	x.Write(12, make([]byte, 4))
	if a := testing.AllocsPerRun(100, x.Vector(0).Signal); a != 0 || n < 100 {
		t.Errorf("%v allocations a signal, %d sent", a, n)
	}
}
