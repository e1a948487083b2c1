package machine

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/devices/bus"
	"tenon/devices/memory"
	"tenon/virtiofs/dax"
	"tenon/vmm/config"
	"tenon/vmm/kvm"
	"tenon/vmm/vcpu"
)

// A daxGuest is a micro-guest in long mode with RAM and a DAX window, all of it
// mapped to itself and the program's to use. It does what it is told: the words at
// orderAt name one of its routines, and registers for it.
const (
	ramLen   = 128 << 20
	windowAt = 1 << 30
	kernelAt = windowAt + 512<<20 // the first 2 MiB once more, for the kernel only

	pml4At    = 0x2000
	pdptAt    = 0x3000
	lowPDAt   = 0x4000 // the first GiB, with RAM
	highPDAt  = 0x5000 // the second, with the window
	idtAt     = 0x6000
	gdtAt     = 0x7000
	tssAt     = 0x8000
	kernelTop = 0xa000
	userTop   = 0xc000
	entryAt   = 0x10000
	orderAt   = 0x20000
	bufferAt  = 0x30000

	bellAt  = 0x30000000 // the guest wants an order
	badPort = 0x11       // it met an exception that no test wants

	// What a routine came to is behind its order; so is what the machine check was.
	resultAt    = orderAt + 0x28
	mceStatusAt = orderAt + 0x30
	mcgStatusAt = orderAt + 0x38
	signaled    = 0x5160b5 // the result of a routine that a machine check ended
)

// Routines of guestCode.
const (
	doLoad  = entryAt + 0x40 // a byte at rbx
	doLoad8 = entryAt + 0x50 // 8 bytes at rbx
	doStore = entryAt + 0x60 // cl to rbx
	doCopy  = entryAt + 0x70 // rcx bytes from rsi to rdi
	doFetch = entryAt + 0x80 // calls rbx
	doStack = entryAt + 0x90 // pushes rcx to below rbx and pops it
	doScan  = entryAt + 0xa0 // adds up 8 bytes of each 64, rcx times from rbx on
	doTouch = entryAt + 0xb0 // adds up 8 bytes of each page, rcx times from rbx on
	onMC    = entryAt + 0xe0
	onOther = entryAt + 0x130

	// Where onMC names the registers that it clears: MC0_STATUS, MCG_STATUS, and one
	// that does not matter.
	clears1 = entryAt + 0xe1
	clears2 = entryAt + 0xfc
	clears3 = entryAt + 0x10e
)

var guestCode = []byte{
	// loop
	0x89, 0x04, 0x25, 0x00, 0x00, 0x00, 0x30, // mov ds:0x30000000,eax
	0x48, 0x8b, 0x1c, 0x25, 0x00, 0x00, 0x02, 0x00, // mov rbx,ds:0x20000
	0x48, 0x8b, 0x34, 0x25, 0x08, 0x00, 0x02, 0x00, // mov rsi,ds:0x20008
	0x48, 0x8b, 0x3c, 0x25, 0x10, 0x00, 0x02, 0x00, // mov rdi,ds:0x20010
	0x48, 0x8b, 0x0c, 0x25, 0x18, 0x00, 0x02, 0x00, // mov rcx,ds:0x20018
	0x48, 0x8b, 0x04, 0x25, 0x20, 0x00, 0x02, 0x00, // mov rax,ds:0x20020
	0xff, 0xe0, // jmp rax
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,

	// load
	0x0f, 0xb6, 0x03, // movzx eax,[rbx]
	0xe9, 0x88, 0x00, 0x00, 0x00, // jmp d0 <result>
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,

	// load8
	0x48, 0x8b, 0x03, // mov rax,[rbx]
	0xeb, 0x7b, // jmp d0 <result>
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,

	// store
	0x88, 0x0b, // mov [rbx],cl
	0xeb, 0x6c, // jmp d0 <result>
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,

	// copy
	0xf3, 0xa4, // rep movs es:[rdi],ds:[rsi]
	0xeb, 0x5c, // jmp d0 <result>
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,

	// fetch
	0xff, 0xd3, // call rbx
	0xeb, 0x4c, // jmp d0 <result>
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,

	// stack
	0x48, 0x89, 0xe5, // mov rbp,rsp
	0x48, 0x89, 0xdc, // mov rsp,rbx
	0x51,             // push rcx
	0x58,             // pop rax
	0x48, 0x89, 0xec, // mov rsp,rbp
	0xeb, 0x33, // jmp d0 <result>
	0xcc, 0xcc, 0xcc,

	// scan
	0x31, 0xc0, // xor eax,eax
	0x48, 0x03, 0x03, // add rax,[rbx]
	0x48, 0x83, 0xc3, 0x40, // add rbx,0x40
	0x48, 0xff, 0xc9, // dec rcx
	0x75, 0xf4, // jne a2 <scan+0x2>
	0xeb, 0x20, // jmp d0 <result>

	// touch
	0x31, 0xc0, // xor eax,eax
	0x48, 0x03, 0x03, // add rax,[rbx]
	0x48, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, // add rbx,0x1000
	0x48, 0xff, 0xc9, // dec rcx
	0x75, 0xf1, // jne b2 <touch+0x2>
	0xeb, 0x0d, // jmp d0 <result>
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,

	// result
	0x48, 0x89, 0x04, 0x25, 0x28, 0x00, 0x02, 0x00, // mov ds:0x20028,rax
	0xe9, 0x23, 0xff, 0xff, 0xff, // jmp 0 <loop>
	0xcc, 0xcc, 0xcc,

	// mc
	0xb9, 0x01, 0x04, 0x00, 0x00, // mov ecx,0x401
	0x0f, 0x32, // rdmsr
	0x89, 0x04, 0x25, 0x30, 0x00, 0x02, 0x60, // mov ds:0x60020030,eax
	0x89, 0x14, 0x25, 0x34, 0x00, 0x02, 0x60, // mov ds:0x60020034,edx
	0x31, 0xc0, // xor eax,eax
	0x31, 0xd2, // xor edx,edx
	0x0f, 0x30, // wrmsr
	0xb9, 0x7a, 0x01, 0x00, 0x00, // mov ecx,0x17a
	0x0f, 0x32, // rdmsr
	0x89, 0x04, 0x25, 0x38, 0x00, 0x02, 0x60, // mov ds:0x60020038,eax
	0x31, 0xc0, // xor eax,eax
	0x0f, 0x30, // wrmsr
	0xb9, 0x02, 0x04, 0x00, 0x00, // mov ecx,0x402
	0x0f, 0x30, // wrmsr
	0x48, 0xc7, 0xc0, 0xb5, 0x60, 0x51, 0x00, // mov rax,0x5160b5
	0x48, 0x89, 0x04, 0x25, 0x28, 0x00, 0x02, 0x60, // mov ds:0x60020028,rax
	0x48, 0xc7, 0xc0, 0x00, 0x00, 0x01, 0x00, // mov rax,0x10000
	0x48, 0x89, 0x04, 0x24, // mov [rsp],rax
	0x48, 0xcf, // iretq

	// bad
	0xb0, 0x01, // mov al,0x1
	0xe6, 0x11, // out 0x11,al
	0xf4, // hlt
}

// testFiles gives a window its files by the numbers the test made up.
type testFiles map[uint64]string

func (f testFiles) Reopen(file uint64, write bool) (int, unix.Errno) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	fd, err := unix.Open(f[file], flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err.(unix.Errno)
	}
	return fd, 0
}

type daxGuest struct {
	t      testing.TB
	ram    []byte
	window *dax.Window
	faults *faults
	files  testFiles
	dir    string
	smap   bool

	cpu      *vcpu.CPU
	orders   chan []uint64
	answers  chan uint64
	ended    chan error
	answered bool // there has been an order
}

// guestOptions say what a daxGuest is like.
type guestOptions struct {
	policy config.DAXFault
	amd    bool // its processor says that it is AMD's, so that machine checks are tried
	kernel bool // its code runs at CPL 0
	noMCE  bool // it takes no machine checks
	window uint64
}

func newDAXGuest(t testing.TB, o guestOptions) *daxGuest {
	t.Helper()
	sys, err := kvm.Open()
	if err != nil {
		t.Skipf("SKIPPED, no micro-guests: %v", err)
	}
	g := &daxGuest{
		t: t, files: testFiles{}, dir: t.TempDir(),
		orders: make(chan []uint64), answers: make(chan uint64, 1), ended: make(chan error, 1),
	}
	vm, err := sys.NewVM()
	must(t, err)
	must(t, vm.CreateIRQChip(0xfffbd000, 0xfffbc000))
	g.ram, err = unix.Mmap(-1, 0, ramLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(t, err)
	must(t, advise(g.ram))
	g.tables()
	g.window, err = dax.New(max(o.window, 8<<20))
	must(t, err)
	g.window.Attach(g.files)
	must(t, vm.SetMemory(0, 0, 0, g.ram))
	must(t, vm.SetMemory(1, 0, windowAt, g.window.Reservation()))
	mem, err := memory.New(memory.Region{Data: g.ram})
	must(t, err)
	must(t, mem.AddWindow(memory.Region{GPA: windowAt, Data: g.window.Reservation()}))
	var pio, mmio bus.Bus
	must(t, pio.Map(bus.Range{Base: badPort, Len: 1}, "end", end{g}))
	must(t, mmio.Map(bus.Range{Base: bellAt, Len: page}, "bell", g))
	g.cpu = vcpu.New(0, &pio, &mmio)
	f := &faults{mem: mem, windows: []faultWindow{{"data", windowAt, g.window, o.policy}}}
	g.window.Ready = func(piece dax.Mapping) { f.coming.note(windowAt, piece) }
	g.cpu.Back(f)
	g.faults = f
	cpuid, err := sys.SupportedCPUID()
	must(t, err)
	g.smap = slices.ContainsFunc(cpuid, func(e kvm.CPUIDEntry) bool { return e.Function == 7 && e.Index == 0 && e.Ebx>>20&1 != 0 })
	g.start(vm, vcpu.Topology(vendor(cpuid, o.amd), 0, 1, false), o)
	t.Cleanup(func() {
		g.cpu.Stop()
		close(g.orders)
		<-g.ended
		g.cpu.Close()
		vm.Close()
		sys.Close()
		g.window.Close()
		unix.Munmap(g.ram)
	})
	return g
}

// vendor makes a processor say that it is AMD's, or not.
func vendor(cpuid []kvm.CPUIDEntry, amd bool) []kvm.CPUIDEntry {
	list := slices.Clone(cpuid)
	for i := range list {
		if list[i].Function == 0 {
			list[i].Ebx, list[i].Edx, list[i].Ecx = 0x756e6547, 0x49656e69, 0x6c65746e // GenuineIntel
			if amd {
				list[i].Ebx, list[i].Edx, list[i].Ecx = 0x68747541, 0x69746e65, 0x444d4163 // AuthenticAMD
			}
		}
	}
	return list
}

// start runs the guest until it wants its first order.
func (g *daxGuest) start(vm *kvm.VM, cpuid []kvm.CPUIDEntry, o guestOptions) {
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := g.cpu.Init(vm, cpuid, func(r *kvm.Regs, s *kvm.Sregs) { g.registers(r, s, o) })
		ready <- err
		if err == nil {
			err = g.cpu.Loop()
		}
		g.ended <- err
		close(g.ended)
	}()
	must(g.t, <-ready)
}

// tables writes page tables, descriptors and code.
func (g *daxGuest) tables() {
	const present, writable, user, large = 1, 2, 4, 1 << 7
	put := func(at int, v uint64) { binary.LittleEndian.PutUint64(g.ram[at:], v) }
	put(pml4At, pdptAt|present|writable|user)
	put(pdptAt, lowPDAt|present|writable|user)
	put(pdptAt+8, highPDAt|present|writable|user)
	for i := range 512 {
		put(lowPDAt+8*i, uint64(i)<<21|present|writable|user|large)
		put(highPDAt+8*i, windowAt+uint64(i)<<21|present|writable|user|large)
	}
	put(highPDAt+8*256, present|writable|large)
	put(gdtAt+0x08, 0x00209b0000000000) // 64-bit code, CPL 0
	put(gdtAt+0x10, 0x0000930000000000) // data
	put(gdtAt+0x18, 0x0020fb0000000000) // 64-bit code, CPL 3
	put(gdtAt+0x20, 0x0000f30000000000) // data
	put(tssAt+4, kernelAt+kernelTop)    // RSP0
	for vector := range 32 {
		handler := uint64(kernelAt + onOther)
		if vector == 18 {
			handler = kernelAt + onMC
		}
		put(idtAt+16*vector, handler&0xffff|8<<16|0x8e00<<32|handler>>16&0xffff<<48)
	}
	copy(g.ram[entryAt:], guestCode)
}

// registers is the state in which the guest starts.
func (g *daxGuest) registers(r *kvm.Regs, s *kvm.Sregs, o guestOptions) {
	level := uint8(3)
	if o.kernel {
		level = 0
	}
	code := kvm.Segment{Selector: 0x18 | uint16(level), Limit: 0xffffffff, Typ: 11, Present: 1, DPL: level, S: 1, L: 1, G: 1}
	data := kvm.Segment{Selector: 0x20 | uint16(level), Limit: 0xffffffff, Typ: 3, Present: 1, DPL: level, S: 1, DB: 1, G: 1}
	if o.kernel {
		code.Selector, data.Selector = 0x08, 0x10
	}
	s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
	s.TR = kvm.Segment{Base: kernelAt + tssAt, Limit: 0x67, Selector: 0x28, Present: 1, Typ: 11}
	s.GDT.Base, s.GDT.Limit = kernelAt+gdtAt, 0x37
	s.IDT.Base, s.IDT.Limit = kernelAt+idtAt, 0x1ff
	const pae, mce, osfxsr, osxmmexcpt = 1 << 5, 1 << 6, 1 << 9, 1 << 10
	s.CR0, s.CR3, s.CR4, s.EFER = 0x80050033, pml4At, pae|mce|osfxsr|osxmmexcpt, 1<<8|1<<10
	// Linux has SMAP on where there is any: its programs' pages are not the kernel's.
	const smap = 1 << 21
	if g.smap && !o.kernel {
		s.CR4 |= smap
	}
	if o.noMCE {
		s.CR4 &^= mce
	}
	const interrupts, iopl3 = 1 << 9, 3 << 12
	r.RIP, r.RSP, r.RFLAGS = entryAt, userTop, 2|interrupts|iopl3
}

// Read is no access of this guest.
func (g *daxGuest) Read(uint64, []byte) {}

// end stops a guest.
type end struct{ *daxGuest }

func (e end) Write(uint64, []byte) { e.cpu.Stop() }

// Write is the guest's bell, on its thread: it waits for an order.
func (g *daxGuest) Write(uint64, []byte) {
	if g.answered {
		g.answers <- g.word(resultAt)
	}
	g.answered = true
	order, ok := <-g.orders
	if !ok {
		return
	}
	for i, v := range order {
		binary.LittleEndian.PutUint64(g.ram[orderAt+8*i:], v)
	}
}

func (g *daxGuest) word(at int) uint64 { return binary.LittleEndian.Uint64(g.ram[at:]) }

// try has the guest run a routine, and returns its result or the machine's end.
func (g *daxGuest) try(routine, rbx, rsi, rdi, rcx uint64) (uint64, error) {
	g.t.Helper()
	late := time.NewTimer(60 * time.Second)
	defer late.Stop()
	select {
	case g.orders <- []uint64{rbx, rsi, rdi, rcx, routine}:
	case err := <-g.ended:
		return 0, err
	case <-late.C:
		g.t.Fatal("the guest does not take its order")
	}
	select {
	case v := <-g.answers:
		return v, nil
	case err := <-g.ended:
		return 0, err
	case <-late.C:
		g.t.Fatal("the guest hangs in its routine")
	}
	return 0, errors.New("not reached")
}

func (g *daxGuest) do(routine, rbx, rsi, rdi, rcx uint64) uint64 {
	g.t.Helper()
	v, err := g.try(routine, rbx, rsi, rdi, rcx)
	if err != nil {
		g.t.Fatalf("the machine ended: %v", err)
	}
	return v
}

// load and store access a byte at an offset in the window.
func (g *daxGuest) load(at uint64) byte {
	g.t.Helper()
	return byte(g.do(doLoad, windowAt+at, 0, 0, 0))
}

func (g *daxGuest) store(at uint64, v byte) {
	g.t.Helper()
	g.do(doStore, windowAt+at, 0, 0, uint64(v))
}

// file makes a file of so many bytes, each of which names its page, under a number.
func (g *daxGuest) file(number uint64, size int) string {
	g.t.Helper()
	path := filepath.Join(g.dir, strconv.FormatUint(number, 10))
	b := make([]byte, size)
	for i := range b {
		b[i] = pageName(i / dax.PageSize)
	}
	must(g.t, os.WriteFile(path, b, 0o600))
	g.files[number] = path
	return path
}

// pageName is what fills a page of a file: no zeros.
func pageName(page int) byte { return byte(page%251) + 1 }

// show maps a file, from its beginning, into the window.
func (g *daxGuest) show(number, at, n uint64, write bool) {
	g.t.Helper()
	fd, e := g.files.Reopen(number, write)
	if e != 0 {
		g.t.Fatal(e)
	}
	defer unix.Close(fd)
	if e := g.window.Map(fd, dax.Mapping{File: number, At: at, Len: n, Write: write}); e != 0 {
		g.t.Fatalf("map file %d at %#x: %v", number, at, e)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
