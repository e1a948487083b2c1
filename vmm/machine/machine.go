// Package machine assembles one virtual machine from a config.Machine: KVM,
// RAM, buses, devices, kernel. It is the only package that knows them all. New
// builds everything or nothing, Run runs the guest to its end, Close gives
// everything back.
package machine

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tenon/devices/bus"
	"tenon/devices/legacy"
	"tenon/devices/memory"
	"tenon/devices/pci"
	"tenon/devices/virtio/console"
	virtiopci "tenon/devices/virtio/pci"
	"tenon/guest/channel"
	"tenon/guest/image"
	"tenon/vmm/boot"
	"tenon/vmm/config"
	"tenon/vmm/kvm"
	"tenon/vmm/layout"
	"tenon/vmm/vcpu"
)

// Options is what the machine gets from its surroundings.
type Options struct {
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer
	Terminal       bool // stdin is a terminal in raw mode: the command gets one too
	Rows, Cols     uint16
	KernelLog      io.Writer // gets the whole kernel log; nil: only the tail is kept
	Init           string    // the binary that is the guest's init
	CacheDir       string    // for decompressed kernels
}

// Machine is one virtual machine, ready to run once.
type Machine struct {
	config config.Machine
	opts   Options
	stages stages
	rss    rss

	sys  *kvm.System
	vm   *kvm.VM
	ram  ram
	mem  *memory.Map
	cpus []*vcpu.CPU

	pio, mmio bus.Bus
	pci       *pci.Host
	functions []*virtiopci.Transport
	shares    []share
	faults    faults // what the guest has mapped
	serial    *legacy.Serial
	console   *console.Device
	login     *console.Port // the kernel's console
	port      *console.Port // the channel to the guest's init
	log       *kernelLog
	host      *channel.Host

	image       *boot.Image
	modules     *image.Modules // of the kernel, until it is loaded; nil: it has none
	lateConsole bool           // the kernel has virtio-console as a module: too late for its own console
	loading     sync.WaitGroup // loadKernel, which sets the next two
	entry       boot.Entry
	loadError   error
	cpuid       []kvm.CPUIDEntry

	launch  chan struct{}  // closed when the vCPUs may run
	abandon chan struct{}  // closed when they never will
	running sync.WaitGroup // vCPU goroutines
	stuck   bool           // a vCPU thread did not come to rest: nothing can be freed

	copied  chan struct{}       // closed when the console of the user's own init is read to its end
	word    chan channel.Result // the command's end as the guest reported it
	end     chan struct{}       // closed when cause is set
	endOnce sync.Once
	cause   cause
}

// New assembles the machine. On error everything opened is closed again.
func New(c config.Machine, o Options) (*Machine, error) {
	m := newMachine(c, o)
	m.stages.begin()
	for _, step := range m.steps() {
		if err := step.build(); err != nil {
			m.Close()
			return nil, err
		}
		m.stages.done(step.name)
	}
	return m, nil
}

// newMachine is a machine of which nothing is built.
func newMachine(c config.Machine, o Options) *Machine {
	return &Machine{
		config: c, opts: o, log: newKernelLog(o.KernelLog),
		launch: make(chan struct{}), abandon: make(chan struct{}),
		copied: make(chan struct{}), word: make(chan channel.Result, 1), end: make(chan struct{}),
	}
}

// step is one part of the assembly, and a stage of the report.
type step struct {
	name  string
	build func() error
}

func (m *Machine) steps() []step {
	return []step{
		// What the user named comes first: it is what the user can mend.
		{"kernel", m.openKernel},
		{"ram", m.mapRAM},
		{"shares", m.openShares},
		{"kvm", m.openKVM},
		{"back end", m.checkBackEnd},
		{"vm", m.createVM},
		{"memory", m.buildMemory},
		{"devices", m.buildDevices},
		{"boot", m.finishLoading},
		{"vcpus", m.buildCPUs},
	}
}

func (m *Machine) openKVM() error {
	sys, err := kvm.Open()
	if err != nil {
		return err
	}
	m.sys = sys
	return nil
}

func (m *Machine) checkBackEnd() error { return stockKernels(m.sys) }

func (m *Machine) createVM() (err error) {
	sys := m.sys
	if most := sys.Extension(kvm.CapMaxVCPUs); most > 0 && m.config.CPUs > most {
		return fmt.Errorf("--cpus %d: this host's KVM runs at most %d", m.config.CPUs, most)
	}
	if m.cpuid, err = sys.SupportedCPUID(); err != nil {
		return err
	}
	if m.vm, err = sys.NewVM(); err != nil {
		return err
	}
	return m.vm.CreateIRQChip(layout.TSS, layout.IdentityMap)
}

// mapRAM makes the guest's RAM and begins to load the kernel into it, which
// takes longer than the steps before finishLoading.
func (m *Machine) mapRAM() (err error) {
	if m.ram, err = newRAM(m.config.Memory); err != nil {
		return err
	}
	if m.mem, err = memory.New(m.ram.regions...); err != nil {
		return err
	}
	own, err := memory.New(m.ram.regions...) // while m.mem gets its windows
	if err != nil {
		return err
	}
	m.loading.Go(func() { m.entry, m.loadError = m.loadKernel(own) })
	return nil
}

func (m *Machine) buildMemory() error {
	for i, r := range m.ram.regions {
		if err := m.vm.SetMemory(uint32(i), 0, uint64(r.GPA), r.Data); err != nil {
			return err
		}
	}
	return nil
}

// Close frees what New and Run hold. The machine must not be running. Where the
// host keeps one of our threads in a system call for ever (a dead network file
// system), nothing is freed: the thread may still write to guest memory, and
// the process is about to end anyway.
func (m *Machine) Close() error {
	close(m.abandon)
	if m.stuck {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.release()
	}()
	select {
	case <-done:
	case <-time.After(stopGrace):
	}
	return nil
}

func (m *Machine) release() {
	m.loading.Wait()
	m.running.Wait()
	for _, c := range m.cpus {
		c.Close()
	}
	if m.console != nil {
		m.console.Close()
	}
	if m.serial != nil {
		m.serial.Close()
	}
	for _, f := range m.functions {
		f.Reset()
	}
	for _, s := range m.shares {
		s.server.Close()
	}
	if m.image != nil {
		m.image.Close()
	}
	if m.vm != nil {
		m.vm.Close()
	}
	if m.sys != nil {
		m.sys.Close()
	}
	m.ram.free()
}

// processSettings makes the process fit to be a machine: every vCPU that
// leaves KVM_RUN needs a P at once, beside those that do the host's work, and
// file modes are the guest's to choose.
func processSettings(cpus int) {
	if want := runtime.NumCPU() + cpus + 1; runtime.GOMAXPROCS(0) < want {
		runtime.GOMAXPROCS(want)
	}
	unix.Umask(0)
}
