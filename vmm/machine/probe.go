package machine

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tenon/devices/bus"
	"tenon/vmm/kvm"
	"tenon/vmm/vcpu"
)

// Capabilities is what this host's KVM can do for us.
type Capabilities struct {
	Present      bool   // /dev/kvm exists
	Permitted    bool   // and opens
	StockKernels bool   // and runs what stock kernels run at CPL 0
	Reason       string // why not, with the remedy; empty when all is well
}

// Probe asks KVM, and where the processor shows no hardware virtualisation
// runs a micro-guest that executes at CPL 0 the instructions at which
// emulating back ends stop: INT3, CMPXCHG16B, XRSTOR and, where the processor
// has it, BMI2.
func Probe() Capabilities {
	sys, err := kvm.Open()
	if err != nil {
		return Capabilities{
			Present: !errors.Is(err, kvm.ErrAbsent), Reason: err.Error(),
		}
	}
	defer sys.Close()
	c := Capabilities{Present: true, Permitted: true}
	if err := stockKernels(sys); err != nil {
		c.Reason = err.Error()
		return c
	}
	c.StockKernels = true
	return c
}

// ErrBackEnd is the verdict on a KVM that emulates supervisor code.
var ErrBackEnd = errors.New("this host's KVM cannot run stock kernels (its back end emulates supervisor code)")

func stockKernels(sys *kvm.System) error {
	if hardwareVirtualisation() {
		return nil
	}
	cpuid, err := sys.SupportedCPUID()
	if err != nil {
		return err
	}
	return microGuest(sys, cpuid, probeSteps(cpuid))
}

// hardwareVirtualisation reads the first processor's flags. With VMX or SVM
// visible KVM runs guest code natively and the micro-guest, which costs
// milliseconds at every start, can tell nothing new.
func hardwareVirtualisation() bool {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return false
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if name, flags, ok := strings.Cut(sc.Text(), ":"); ok && strings.TrimSpace(name) == "flags" {
			flags += " "
			return strings.Contains(flags, " vmx ") || strings.Contains(flags, " svm ")
		}
	}
	return false
}

// The micro-guest's memory: one slot at 0.
const (
	probeSize  = 64 << 10
	probePML4  = 0x1000
	probePDPT  = 0x2000
	probePD    = 0x3000
	probeGDT   = 0x4000
	probeIDT   = 0x5000
	probeISR   = 0x7000
	probeCode  = 0x8000
	probeStack = 0xf000
	probePort  = 0xf4

	selCode = 0x08
	selData = 0x10
)

// probeStep is one instruction under test; the guest writes the step's index
// to the port after it.
type probeStep struct {
	name string
	code []byte
}

// probeSteps returns the instructions this processor has. The operands lie at
// 0x9000 (16 bytes) and 0xa000 (an XSAVE area of zeros: the initial state).
func probeSteps(cpuid []kvm.CPUIDEntry) []probeStep {
	steps := []probeStep{
		{"INT3", []byte{0xcc}},
		{"CMPXCHG16B", []byte{0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x90, 0x00, 0x00}},
	}
	for _, e := range cpuid {
		const xsave, bmi2 = 1 << 26, 1 << 8
		if e.Function == 1 && e.Ecx&xsave != 0 {
			steps = append(steps, probeStep{"XRSTOR", []byte{
				0x0f, 0x20, 0xe0, // mov rax, cr4
				0x48, 0x0d, 0x00, 0x02, 0x04, 0x00, // or rax, OSFXSR|OSXSAVE
				0x0f, 0x22, 0xe0, // mov cr4, rax
				0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
				0x31, 0xd2, // xor edx, edx
				0x0f, 0xae, 0x2c, 0x25, 0x00, 0xa0, 0x00, 0x00, // xrstor [0xa000]
			}})
		}
		if e.Function == 7 && e.Index == 0 && e.Ebx&bmi2 != 0 {
			steps = append(steps, probeStep{"RORX (BMI2)", []byte{0xc4, 0xe3, 0x7b, 0xf0, 0xc0, 0x01}})
		}
	}
	return steps
}

// probeMemory builds page tables (identity, 2 MiB), descriptor tables and the code.
func probeMemory(mem []byte, steps []probeStep) {
	le := binary.LittleEndian
	const presentWritable, large = 3, 1 << 7
	le.PutUint64(mem[probePML4:], probePDPT|presentWritable)
	le.PutUint64(mem[probePDPT:], probePD|presentWritable)
	le.PutUint64(mem[probePD:], presentWritable|large)
	le.PutUint64(mem[probeGDT+selCode:], 0x00af9b000000ffff) // 64-bit code
	le.PutUint64(mem[probeGDT+selData:], 0x00cf93000000ffff) // flat data
	const breakpoint, interruptGate = 3, 0x8e00
	gate := mem[probeIDT+breakpoint*16:]
	le.PutUint16(gate, probeISR)
	le.PutUint16(gate[2:], selCode)
	le.PutUint16(gate[4:], interruptGate)
	copy(mem[probeISR:], []byte{0x48, 0xcf}) // iretq
	code := mem[probeCode:probeCode]
	for i, s := range steps {
		code = append(code, s.code...)
		code = append(code, 0xb0, byte(i), 0xe6, probePort) // mov al, i; out port, al
	}
	_ = append(code, 0xf4) // hlt
}

// probeEntry is 64-bit mode at CPL 0 with the tables of probeMemory.
func probeEntry(r *kvm.Regs, s *kvm.Sregs) {
	const pe, pg, pae, lme, lma = 1 << 0, 1 << 31, 1 << 5, 1 << 8, 1 << 10
	s.CR0 |= pe | pg
	s.CR3, s.CR4, s.EFER = probePML4, pae, lme|lma
	s.GDT = kvm.Descriptor{Base: probeGDT, Limit: selData + 7}
	s.IDT = kvm.Descriptor{Base: probeIDT, Limit: 4*16 - 1}
	s.CS = kvm.Segment{Limit: 0xffffffff, Selector: selCode, Present: 1, Typ: 0xb, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: selData, Present: 1, Typ: 0x3, S: 1, DB: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	r.RIP, r.RSP, r.RFLAGS = probeCode, probeStack, 2
}

// lastStep is the device at the port.
type lastStep struct{ done int }

func (l *lastStep) Read(uint64, []byte)      {}
func (l *lastStep) Write(_ uint64, p []byte) { l.done = int(p[0]) + 1 }

// probeTime bounds a micro-guest that neither stops nor fails.
const probeTime = 2 * time.Second

// microGuest runs the steps; the error names the one that failed.
func microGuest(sys *kvm.System, cpuid []kvm.CPUIDEntry, steps []probeStep) error {
	mem, err := unix.Mmap(-1, 0, probeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("probe: %d bytes of memory: %w", probeSize, err)
	}
	defer unix.Munmap(mem)
	probeMemory(mem, steps)
	var seen lastStep
	if err := runProbe(sys, mem, cpuid, &seen); !errors.Is(err, vcpu.ErrHalted) {
		if seen.done < len(steps) {
			return fmt.Errorf("%w: %s at CPL 0 fails. Use a host with VMX or SVM (nested is enough), or scripts/lab", ErrBackEnd, steps[seen.done].name)
		}
		return fmt.Errorf("%w: %v", ErrBackEnd, err)
	}
	return nil
}

func runProbe(sys *kvm.System, mem []byte, cpuid []kvm.CPUIDEntry, seen *lastStep) error {
	vm, err := sys.NewVM()
	if err != nil {
		return err
	}
	defer vm.Close()
	if err := vm.SetMemory(0, 0, 0, mem); err != nil {
		return err
	}
	var pio, mmio bus.Bus
	if err := pio.Map(bus.Range{Base: probePort, Len: 1}, "probe", seen); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cpu := vcpu.New(0, &pio, &mmio)
	if err := cpu.Init(vm, vcpu.Topology(cpuid, 0, 1, false), probeEntry); err != nil {
		return err
	}
	defer cpu.Close()
	limit := time.AfterFunc(probeTime, cpu.Stop)
	defer limit.Stop()
	return cpu.Loop()
}
