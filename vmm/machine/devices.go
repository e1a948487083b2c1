package machine

import (
	"fmt"

	"tenon/devices/bus"
	"tenon/devices/legacy"
	"tenon/devices/pci"
	"tenon/devices/virtio"
	"tenon/devices/virtio/console"
	virtiopci "tenon/devices/virtio/pci"
	"tenon/devices/virtio/rng"
	"tenon/guest/channel"
	"tenon/vmm/kvm"
	"tenon/vmm/layout"
	"tenon/vmm/vcpu"
)

// msiSender delivers MSIs through KVM. An error would mean that the guest
// programmed an address that is no interrupt: like hardware, nothing happens.
type msiSender struct{ vm *kvm.VM }

func (s msiSender) SendMSI(addr uint64, data uint32) { _ = s.vm.SignalMSI(addr, data) }

// line is one input of the I/O APIC.
type line struct {
	vm  *kvm.VM
	gsi uint32
}

func (l line) Raise() { _ = l.vm.SetIRQLine(l.gsi, true) }
func (l line) Lower() { _ = l.vm.SetIRQLine(l.gsi, false) }

func (m *Machine) buildDevices() error {
	processSettings(m.config.CPUs)
	m.pci = pci.NewHost(pci.Windows{
		MMIO32: bus.Range{Base: layout.MMIO32, Len: layout.MMIO32Len},
		MMIO64: m.window64(),
		Ports:  bus.Range{Base: layout.PCIPorts, Len: layout.PCIPortsLen},
	})
	if err := m.buildConsole(); err != nil {
		return err
	}
	if _, err := m.addFunction(rng.New()); err != nil {
		return fmt.Errorf("virtio-rng: %w", err)
	}
	if err := m.buildShares(); err != nil {
		return err
	}
	return m.buildBuses()
}

// window64 is where 64-bit BARs go, above RAM.
func (m *Machine) window64() layout.Range {
	base, size := layout.MMIO64(vcpu.PhysicalBits(m.cpuid), layout.End(layout.RAM(m.config.Memory)))
	return layout.Range{Base: base, Len: size}
}

// buildConsole makes the kernel's console and, unless the user's own initrd is
// in charge, the channel to the guest's init.
func (m *Machine) buildConsole() error {
	m.login = &console.Port{Name: "console", Console: true}
	ports := []*console.Port{m.login}
	if m.ownInit() {
		m.login.Sink = m.log.add
		m.port = &console.Port{Name: channel.PortName}
		ports = append(ports, m.port)
	}
	m.console = console.New(ports...)
	m.console.Resize(m.opts.Cols, m.opts.Rows)
	if _, err := m.addFunction(m.console); err != nil {
		return fmt.Errorf("virtio-console: %w", err)
	}
	return nil
}

// ownInit says that the guest's init is ours and a command runs.
func (m *Machine) ownInit() bool { return m.config.Initrd == "" }

// addFunction puts the device on the PCI bus, as the last of m.functions.
func (m *Machine) addFunction(d virtio.Device) (slot int, err error) {
	t, err := virtiopci.New(d, m.mem, msiSender{m.vm})
	if err != nil {
		return 0, err
	}
	if slot, err = m.pci.Add(t); err != nil {
		return 0, err
	}
	m.functions = append(m.functions, t)
	return slot, nil
}

// buildBuses gives every address to its device. After that the tables are frozen.
func (m *Machine) buildBuses() error {
	window64 := m.window64()
	m.serial = legacy.NewSerial(line{m.vm, layout.COM1IRQ}, m.serialOut)
	reset := func() { m.finish(cause{kind: causeReset}) }
	off := func() { m.finish(cause{kind: causePowerOff}) }
	for _, e := range []struct {
		bus       *bus.Bus
		name      string
		base, len uint64
		h         bus.Handler
	}{
		{&m.pio, "COM1", layout.COM1, layout.COM1Len, m.serial},
		{&m.pio, "i8042", layout.I8042, layout.I8042Len, &legacy.I8042{OnReset: reset}},
		{&m.pio, "ACPI power", layout.Power, layout.PowerLen, &legacy.Power{OnReset: reset, OnOff: off}},
		{&m.pio, "PCI configuration", layout.PCIConfig, layout.PCIConfigLen, m.pci.ConfigIO()},
		{&m.pio, "PCI ports", layout.PCIPorts, layout.PCIPortsLen, m.pci.Ports()},
		{&m.mmio, "PCI window", layout.MMIO32, layout.MMIO32Len, m.pci.Memory32()},
		{&m.mmio, "PCI configuration", layout.ECAM, layout.ECAMLen, m.pci.ECAM()},
		{&m.mmio, "PCI 64-bit window", window64.Base, window64.Len, m.pci.Memory64()},
	} {
		if err := e.bus.Map(bus.Range{Base: e.base, Len: e.len}, e.name, e.h); err != nil {
			return err
		}
	}
	m.pio.Freeze()
	m.mmio.Freeze()
	return nil
}

// serialOut takes what the guest writes to ttyS0: the kernel's early messages,
// or its whole console.
func (m *Machine) serialOut(p []byte) {
	m.log.add(p)
	if !m.ownInit() {
		_, _ = m.opts.Stdout.Write(p) // a closed stdout does not end the guest
	}
}
