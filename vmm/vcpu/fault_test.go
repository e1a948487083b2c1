package vcpu

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/vmm/kvm"
)

// lossy is a guest's RAM of which pages are lost, and what became of it.
type lossy struct {
	ram    []byte
	covers uint64 // the page that Covers says yes to
	faults []Fault
	asked  int    // for what is Ready
	ready  uint64 // a page
	lost   uint64 // a page that Load does not get
	answer func(*Fault) (Answer, error)
}

func (m *lossy) Covers(gpa uint64) bool { return m.covers != 0 && gpa/pageSize == m.covers/pageSize }

func (m *lossy) Ready() (gpa, n uint64) {
	m.asked++
	if m.ready == 0 {
		return 0, 0
	}
	return m.ready, pageSize
}

func (m *lossy) Load(gpa uint64, p []byte) error {
	if m.lost != 0 && gpa/pageSize == m.lost/pageSize {
		return unix.EFAULT
	}
	copy(p, m.ram[gpa:])
	return nil
}

func (m *lossy) Fault(f *Fault) (Answer, error) {
	m.faults = append(m.faults, *f)
	return m.answer(f)
}

// Where user64's page tables are.
const (
	pml4At = 0x9000
	pdptAt = 0xa000
	pdAt   = 0xb000
)

// user64 is 64-bit code at CPL 3, to which all of the guest's RAM is mapped. Some
// KVMs interpret code at other levels, and then faults are others.
func user64(r *kvm.Regs, s *kvm.Sregs) {
	code := kvm.Segment{Limit: 0xffffffff, Selector: 0x1b, Present: 1, Typ: 0xb, DPL: 3, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: 0x23, Present: 1, Typ: 0x3, DPL: 3, S: 1, DB: 1, G: 1}
	s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
	s.CR0, s.CR3, s.CR4, s.EFER = 0x80050033, pml4At, 1<<5, 1<<8|1<<10
	r.RIP, r.RSP, r.RFLAGS = codeAt, stackAt, 2|3<<12
}

// lossyGuest runs 64-bit code, and stops at port 0x60.
func lossyGuest(t *testing.T, m *lossy, code ...byte) *guest {
	t.Helper()
	g := newGuestOn(t, m, user64, code...)
	for at, entry := range map[int]uint16{pml4At: pdptAt | 7, pdptAt: pdAt | 7, pdAt: 0x87} {
		binary.LittleEndian.PutUint16(g.mem[at:], entry)
	}
	g.pio.then = g.cpu.Stop
	m.ram = g.mem
	return g
}

// protect changes what may be done with a page of the guest's RAM.
func (g *guest) protect(t *testing.T, at, prot int) {
	t.Helper()
	if err := unix.Mprotect(g.mem[at:at+pageSize], prot); err != nil {
		t.Fatal(err)
	}
}

const lostAt = 0x4000

// storeByte stores 0x5a to lostAt and stops.
var storeByte = []byte{
	0xc6, 0x04, 0x25, 0x00, 0x40, 0x00, 0x00, 0x5a, // mov byte [0x4000], 0x5a
	0xe6, 0x60, // out 0x60, al
	0xeb, 0xfe, // jmp .
}

// TestFaultIsMended: the guest goes on with the access when the page is there again.
func TestFaultIsMended(t *testing.T) {
	m := &lossy{}
	g := lossyGuest(t, m, storeByte...)
	m.answer = func(*Fault) (Answer, error) {
		g.protect(t, lostAt, unix.PROT_READ|unix.PROT_WRITE)
		return Mended, nil
	}
	g.protect(t, lostAt, unix.PROT_NONE)
	if err := g.cpu.Loop(); err != nil {
		t.Fatalf("the guest ended with %v", err)
	}
	if g.mem[lostAt] != 0x5a {
		t.Errorf("the store left %#x", g.mem[lostAt])
	}
	want := []Access{{lostAt, true}, {codeAt, false}}
	if len(m.faults) != 1 || !slices.Equal(m.faults[0].Accesses, want) || m.faults[0].Signal || m.faults[0].Done {
		t.Errorf("faults %+v, want one with %v", m.faults, want)
	}
}

// TestFaultIsDenied: a program whose instruction tells nothing of what it accesses gets
// an exception, which here nobody takes, so the guest shuts down.
func TestFaultIsDenied(t *testing.T) {
	m := &lossy{answer: func(f *Fault) (Answer, error) {
		if !f.Obscure {
			return Again, errors.New("not obscure")
		}
		return Deny, nil
	}}
	g := lossyGuest(t, m,
		0xbb, 0x00, 0x50, 0x00, 0x00, // mov ebx, 0x5000
		0xff, 0xe3, // jmp rbx: what is there cannot be read, so that nobody knows what it does
	)
	g.protect(t, 0x5000, unix.PROT_NONE)
	m.lost = 0x5000
	if err := g.cpu.Loop(); !errors.Is(err, ErrShutdown) {
		t.Fatalf("the guest ended with %v", err)
	}
	if len(m.faults) != 1 {
		t.Errorf("%d faults, want 1", len(m.faults))
	}
}

// TestFaultAttempts counts what does not help, until somebody says that it is enough.
func TestFaultAttempts(t *testing.T) {
	enough := errors.New("enough")
	m := &lossy{}
	g := lossyGuest(t, m, storeByte...)
	m.answer = func(f *Fault) (Answer, error) {
		if f.Attempts == 5 {
			return Again, enough
		}
		return Again, nil
	}
	g.protect(t, lostAt, unix.PROT_READ)
	err := g.cpu.Loop()
	if !errors.Is(err, enough) || !errors.Is(err, unix.EFAULT) {
		t.Fatalf("the guest ended with %v", err)
	}
	if len(m.faults) != 6 {
		t.Errorf("%d faults, want 6", len(m.faults))
	}
}

// TestFaultAfterProgress: a guest that got on in between starts anew, even where its
// registers are the same again.
func TestFaultAfterProgress(t *testing.T) {
	m := &lossy{}
	g := lossyGuest(t, m,
		0xc6, 0x04, 0x25, 0x00, 0x40, 0x00, 0x00, 0x5a, // mov byte [0x4000], 0x5a
		0xe6, 0x60, // out 0x60, al
		0xeb, 0xf4, // jmp to the first
	)
	m.answer = func(*Fault) (Answer, error) {
		g.protect(t, lostAt, unix.PROT_READ|unix.PROT_WRITE)
		return Again, nil
	}
	g.pio.then = func() {
		g.protect(t, lostAt, unix.PROT_READ)
		if len(g.pio.seen) == 3 {
			g.cpu.Stop()
		}
	}
	g.protect(t, lostAt, unix.PROT_READ)
	if err := g.cpu.Loop(); err != nil {
		t.Fatalf("the guest ended with %v", err)
	}
	for i, f := range m.faults {
		if f.Attempts != 0 {
			t.Errorf("fault %d of %d is attempt %d", i, len(m.faults), f.Attempts)
		}
	}
	if len(m.faults) != 3 {
		t.Errorf("%d faults, want 3", len(m.faults))
	}
}

// TestFaultWithoutMemory: nobody answers for this machine's RAM.
func TestFaultWithoutMemory(t *testing.T) {
	g := lossyGuest(t, &lossy{}, storeByte...)
	g.cpu.Back(nil)
	g.protect(t, lostAt, unix.PROT_NONE)
	if err := g.cpu.Loop(); !errors.Is(err, unix.EFAULT) {
		t.Fatalf("the guest ended with %v", err)
	}
}

// TestDeviceAccessInMemory: an access to a page that is memory, which KVM takes for
// one to a device, never reaches a device: it reads zeros.
func TestDeviceAccessInMemory(t *testing.T) {
	m := &lossy{covers: mmioAt, answer: func(*Fault) (Answer, error) { return Again, nil }}
	g := newGuestOn(t, m, flat32,
		0xa1, 0x00, 0x20, 0x00, 0x00, // mov eax, [0x2000]
		0xa3, 0x08, 0x00, 0x00, 0x80, // mov [0x80000008], eax
		0xa1, 0x04, 0x00, 0x00, 0x80, // mov eax, [0x80000004]
		0xa3, 0x00, 0x30, 0x00, 0x00, // mov [0x3000], eax
		0xf4, // hlt
	)
	g.mmio.value = 0x01020304
	copy(g.mem[0x2000:], "1234")
	if err := g.cpu.Loop(); !errors.Is(err, ErrHalted) {
		t.Fatalf("the guest ended with %v", err)
	}
	if len(g.mmio.seen) != 0 {
		t.Errorf("a device saw %v", g.mmio.seen)
	}
	if got := g.mem[0x3000:0x3004]; string(got) != "\x00\x00\x00\x00" {
		t.Errorf("the guest read % x", got)
	}
	want := []Fault{
		{Accesses: []Access{{mmioAt + 8, true}}, Done: true},
		{Accesses: []Access{{mmioAt + 4, false}}, Done: true},
	}
	if !slices.EqualFunc(m.faults, want, func(a, b Fault) bool {
		return slices.Equal(a.Accesses, b.Accesses) && a.Done == b.Done && !a.Signal && a.Attempts == 0
	}) {
		t.Errorf("faults %+v, want %+v", m.faults, want)
	}
}

// TestPrefaultNotAfterLoad: the answer to a load is in the run page until the guest runs
// again, and nothing may come in between that could write there.
func TestPrefaultNotAfterLoad(t *testing.T) {
	m := &lossy{ready: 0x5000}
	g := newGuestOn(t, m, flat32,
		0xa1, 0x04, 0x00, 0x00, 0x80, // mov eax, [0x80000004]
		0xe4, 0x60, // in al, 0x60
		0xf4, // hlt
	)
	if err := g.cpu.Loop(); !errors.Is(err, ErrHalted) {
		t.Fatalf("the guest ended with %v", err)
	}
	if len(g.mmio.seen) != 1 || len(g.pio.seen) != 1 || m.asked != 0 {
		t.Errorf("asked %d times after the accesses %v and %v", m.asked, g.mmio.seen, g.pio.seen)
	}
}

// TestPrefault: KVM is told what the guest is about to read after each store to a
// device and each OUT, unless it cannot do anything about it.
func TestPrefault(t *testing.T) {
	for what, access := range map[string][]byte{
		"mov [0x80000008], eax": {0xa3, 0x08, 0x00, 0x00, 0x80},
		"out 0x61, ax":          {0x66, 0xe7, 0x61},
	} {
		t.Run(what, func(t *testing.T) { prefaults(t, access) })
	}
}

func prefaults(t *testing.T, access []byte) {
	m := &lossy{ready: 0x5000}
	const halt = 0xf4
	g := newGuestOn(t, m, flat32, append(slices.Repeat(access, 3), halt)...)
	if err := g.cpu.Loop(); !errors.Is(err, ErrHalted) {
		t.Fatalf("the guest ended with %v", err)
	}
	want := 3
	if sys, err := kvm.Open(); err != nil || sys.Extension(kvm.CapPreFaultMemory) == 0 {
		want = 1
	}
	if m.asked != want {
		t.Errorf("asked %d times, want %d", m.asked, want)
	}
}

// TestAttempts: only the same instruction with the same registers, soon and answered
// by Again, is the same fault again.
func TestAttempts(t *testing.T) {
	now := time.Now()
	var a attempts
	r, other := kvm.Regs{RIP: 1, RAX: 2}, kvm.Regs{RIP: 1, RAX: 3}
	for i, c := range []struct {
		regs   *kvm.Regs
		later  time.Duration
		takes  time.Duration // to answer
		answer Answer
		want   int
	}{
		{&r, 0, 0, Again, 0}, {&r, time.Millisecond, 0, Again, 1}, {&r, time.Millisecond, 0, Mended, 2},
		{&r, time.Millisecond, 0, Again, 0}, {&r, time.Millisecond, 0, Signal, 1},
		{&r, time.Millisecond, 0, Again, 0}, {&other, time.Millisecond, 0, Again, 0},
		{&other, time.Millisecond, 0, Again, 1}, {&other, 2 * loopInterval, 0, Again, 0},
		// Slow answers are no progress of the guest.
		{&other, time.Millisecond, 2 * loopInterval, Again, 1}, {&other, time.Millisecond, 0, Again, 2},
	} {
		now = now.Add(c.later)
		if got := a.note(c.regs, now); got != c.want {
			t.Errorf("step %d: %d attempts, want %d", i, got, c.want)
		}
		now = now.Add(c.takes)
		a.answered(c.answer, now)
	}
}

// TestAppendAccess: a page is in the list once, and stored to if any operand is.
func TestAppendAccess(t *testing.T) {
	var list []Access
	for _, a := range []Access{{0x1ff8, false}, {0x3000, true}, {0x1000, true}, {0x3008, false}} {
		list = appendAccess(list, a)
	}
	if want := []Access{{0x1ff8, true}, {0x3000, true}}; !slices.Equal(list, want) {
		t.Errorf("%v, want %v", list, want)
	}
}

// TestMachineCheckRecovery: AMD's guests, and theirs only, hear that they may recover.
func TestMachineCheckRecovery(t *testing.T) {
	for vendor, want := range map[uint32]uint32{
		0x68747541: amdSUCCOR | amdOverflows, // AuthenticAMD
		0x6f677948: amdSUCCOR | amdOverflows, // HygonGenuine
		0x756e6547: 0,                        // GenuineIntel
	} {
		list := Topology([]kvm.CPUIDEntry{{Function: leafVendor, Ebx: vendor}, {Function: leafAMDPower}}, 0, 1, true)
		if got := leaf(list, leafAMDPower, 0).Ebx; got != want {
			t.Errorf("vendor %#x: leaf 0x80000007 EBX %#x, want %#x", vendor, got, want)
		}
	}
}
