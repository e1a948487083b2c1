package vcpu

import (
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/devices/bus"
	"tenon/vmm/kvm"
)

// A micro-guest is a few bytes of 32-bit code at codeAt, entered with flat
// segments and paging off, on a machine without interrupt controllers.
const (
	codeAt  = 0x1000
	stackAt = 0x8000
	ramSize = 64 << 10
	mmioAt  = 0x8000_0000
)

// access is one bus access as a device sees it.
type access struct {
	write bool
	off   uint64
	data  uint32
	size  int
}

// recorder answers reads with its value and remembers everything.
type recorder struct {
	value uint32
	seen  []access
	then  func() // after a write; nil: nothing
}

func (r *recorder) Read(off uint64, p []byte) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], r.value)
	copy(p, b[:])
	r.seen = append(r.seen, access{false, off, r.value, len(p)})
}

func (r *recorder) Write(off uint64, p []byte) {
	var b [4]byte
	copy(b[:], p)
	r.seen = append(r.seen, access{true, off, binary.LittleEndian.Uint32(b[:]), len(p)})
	if r.then != nil {
		r.then()
	}
}

// guest is a micro-guest ready to run on the calling goroutine's thread.
type guest struct {
	cpu       *CPU
	mem       []byte
	pio, mmio recorder
}

func newGuest(t *testing.T, code ...byte) *guest { return newGuestOn(t, nil, flat32, code...) }

// newGuestOn is newGuest with memory that may be lost, and another way to enter.
func newGuestOn(t *testing.T, lossy Memory, entry Entry, code ...byte) *guest {
	t.Helper()
	sys, err := kvm.Open()
	if err != nil {
		t.Skipf("no micro-guests: %v", err)
	}
	vm, err := sys.NewVM()
	if err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(-1, 0, ramSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.SetMemory(0, 0, 0, mem); err != nil {
		t.Fatal(err)
	}
	copy(mem[codeAt:], code)
	g := &guest{mem: mem}
	var pio, mmio bus.Bus
	for _, e := range []error{
		pio.Map(bus.Range{Base: 0x60, Len: 16}, "port", &g.pio),
		mmio.Map(bus.Range{Base: mmioAt, Len: 0x1000}, "mmio", &g.mmio),
	} {
		if e != nil {
			t.Fatal(e)
		}
	}
	g.cpu = New(0, &pio, &mmio)
	if lossy != nil {
		g.cpu.Back(lossy)
	}
	cpuid, err := sys.SupportedCPUID()
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	t.Cleanup(func() {
		g.cpu.Close()
		vm.Close()
		sys.Close()
		unix.Munmap(mem)
		runtime.UnlockOSThread()
	})
	if err := g.cpu.Init(vm, Topology(cpuid, 0, 1, false), entry); err != nil {
		t.Fatal(err)
	}
	return g
}

// flat32 is protected mode without paging.
func flat32(r *kvm.Regs, s *kvm.Sregs) {
	code := kvm.Segment{Limit: 0xffffffff, Selector: 0x08, Present: 1, Typ: 0xb, S: 1, DB: 1, G: 1}
	data := code
	data.Selector, data.Typ = 0x10, 0x3
	s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
	s.CR0 |= 1
	r.RIP, r.RSP, r.RFLAGS = codeAt, stackAt, 2
}

func equal(a, b []access) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestMicroGuestReachesDevices(t *testing.T) {
	g := newGuest(t,
		0xa1, 0x04, 0x00, 0x00, 0x80, // mov eax, [0x80000004]
		0x40,                         // inc eax
		0xa3, 0x08, 0x00, 0x00, 0x80, // mov [0x80000008], eax
		0x66, 0xa3, 0x10, 0x00, 0x00, 0x80, // mov [0x80000010], ax
		0xe4, 0x60, // in al, 0x60
		0xe6, 0x61, // out 0x61, al
		0xf4, // hlt
	)
	g.mmio.value, g.pio.value = 0x01020304, 0x5a
	if err := g.cpu.Loop(); !errors.Is(err, ErrHalted) {
		t.Fatalf("the guest ended with %v", err)
	}
	if want := []access{
		{false, 4, 0x01020304, 4}, {true, 8, 0x01020305, 4}, {true, 16, 0x0305, 2},
	}; !equal(g.mmio.seen, want) {
		t.Errorf("memory-mapped accesses %v, want %v", g.mmio.seen, want)
	}
	if want := []access{{false, 0, 0x5a, 1}, {true, 1, 0x5a, 1}}; !equal(g.pio.seen, want) {
		t.Errorf("port accesses %v, want %v", g.pio.seen, want)
	}
}

func TestMicroGuestStringOutput(t *testing.T) {
	g := newGuest(t,
		0xbe, 0x00, 0x20, 0x00, 0x00, // mov esi, 0x2000
		0xb9, 0x05, 0x00, 0x00, 0x00, // mov ecx, 5
		0x66, 0xba, 0x62, 0x00, // mov dx, 0x62
		0xfc,       // cld
		0xf3, 0x6e, // rep outsb
		0xf4, // hlt
	)
	copy(g.mem[0x2000:], "tenon")
	if err := g.cpu.Loop(); !errors.Is(err, ErrHalted) {
		t.Fatalf("the guest ended with %v", err)
	}
	var got []byte
	for _, a := range g.pio.seen {
		got = append(got, byte(a.data))
	}
	if string(got) != "tenon" {
		t.Errorf("the port received %q", got)
	}
}

func TestMicroGuestReadsOnesWhereNothingIs(t *testing.T) {
	g := newGuest(t,
		0xa1, 0x00, 0x00, 0x00, 0x90, // mov eax, [0x90000000]: no device
		0xa3, 0x00, 0x00, 0x00, 0x80, // mov [0x80000000], eax
		0xf4, // hlt
	)
	if err := g.cpu.Loop(); !errors.Is(err, ErrHalted) {
		t.Fatalf("the guest ended with %v", err)
	}
	if want := []access{{true, 0, 0xffffffff, 4}}; !equal(g.mmio.seen, want) {
		t.Errorf("the guest read %v, want all ones", g.mmio.seen)
	}
}

// TestStopLeavesGuest stops a guest that never exits by itself, again and
// again: a kick that were lost between two KVM_RUNs would hang it.
func TestStopLeavesGuest(t *testing.T) {
	for i := range 20 {
		g := newGuest(t, 0xeb, 0xfe) // jmp .
		timer := time.AfterFunc(time.Duration(i)*200*time.Microsecond, g.cpu.Stop)
		if err := g.cpu.Loop(); err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
		timer.Stop()
	}
}

// TestStopLeavesExitStorm does the same to a guest that is hardly ever inside.
func TestStopLeavesExitStorm(t *testing.T) {
	g := newGuest(t, 0xe6, 0x61, 0xeb, 0xfc) // out 0x61, al; jmp back
	timer := time.AfterFunc(5*time.Millisecond, g.cpu.Stop)
	defer timer.Stop()
	if err := g.cpu.Loop(); err != nil {
		t.Fatal(err)
	}
	if len(g.pio.seen) == 0 {
		t.Error("the guest never reached its device")
	}
}

// TestStopHoldsUntilEntry: a Stop whose signal came before KVM_RUN keeps the
// thread out of the guest all the same.
func TestStopHoldsUntilEntry(t *testing.T) {
	g := newGuest(t, 0xf4) // hlt
	g.cpu.Stop()
	if reason, err := g.cpu.vcpu.Run(); err != nil || reason != kvm.Interrupted {
		t.Errorf("the guest was entered: %v, %v", reason, err)
	}
}

func TestGuestThatCannotGoOn(t *testing.T) {
	g := newGuest(t, 0xff, 0x25, 0x00, 0x00, 0x00, 0x90) // jmp [0x90000000]: to 0xffffffff
	err := g.cpu.Loop()
	var emulation *EmulationError
	if !errors.As(err, &emulation) && !errors.Is(err, ErrShutdown) {
		t.Fatalf("the guest ended with %v", err)
	}
}
