package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tenon/devices/memory"
	"tenon/guest/channel"
	"tenon/guest/image"
	"tenon/vmm/acpi"
	"tenon/vmm/boot"
	"tenon/vmm/config"
	"tenon/vmm/layout"
)

// openKernel opens the kernel and gathers what it starts with from files. A
// kernel that cannot do the job is refused here.
func (m *Machine) openKernel() (err error) {
	m.image, err = boot.Open(m.config.Kernel, m.cache("vmlinux"))
	if err != nil {
		return err
	}
	if need := m.image.MinMemory(); m.config.Memory < need {
		return fmt.Errorf("--memory %dM: this kernel needs %d MiB at least", m.config.Memory>>20, (need+1<<20-1)>>20)
	}
	return m.findDrivers()
}

// cache is a directory for what can be made again; empty: nothing is kept.
func (m *Machine) cache(name string) string {
	if m.opts.CacheDir == "" {
		return ""
	}
	return filepath.Join(m.opts.CacheDir, name)
}

// driver says where the kernel has a driver.
func (m *Machine) driver(d image.Driver) image.Status {
	if m.modules != nil {
		s, _ := m.modules.Find(d.Name)
		return s
	}
	if m.builtIn(d) {
		return image.BuiltIn
	}
	return image.Missing
}

// builtIn judges by the kernel image alone. One that unpacks itself in the
// guest tells nothing: it gets the benefit of the doubt.
func (m *Machine) builtIn(d image.Driver) bool {
	return m.image.Opaque || m.image.Contains(d.Signature)
}

// findDrivers refuses a kernel that cannot do the job, and learns what of the
// rest is a module.
func (m *Machine) findDrivers() (err error) {
	if m.config.Modules != "" {
		if m.modules, err = image.OpenModules(m.config.Modules); err != nil {
			return err
		}
	}
	for _, d := range image.Drivers() {
		s := m.driver(d)
		m.lateConsole = m.lateConsole || s != image.BuiltIn && d.Name == consoleDriver
		if !m.ownInit() {
			continue // what the user's init needs is the user's to know
		}
		if s == image.Missing && d.Required {
			return &image.MissingError{Release: m.image.Release, Driver: d}
		}
		if s == image.Module && d.Required && m.config.NoInitrd {
			return fmt.Errorf("--no-initrd: kernel %s has %s as a module (%s=m): leave --no-initrd out, or use a kernel with it built in",
				m.image.Release, d.What, d.Config)
		}
	}
	return nil
}

// consoleDriver is the driver behind hvc0 and behind the channel.
const consoleDriver = "virtio_console"

// loadKernel fills RAM with all the kernel starts from but the ACPI
// tables. It runs beside the other steps and only reads what openKernel has set.
func (m *Machine) loadKernel(ram *memory.Map) (boot.Entry, error) {
	initrd, err := m.initrd()
	if err != nil {
		return boot.Entry{}, err
	}
	cmdline, err := m.cmdline()
	if err != nil {
		return boot.Entry{}, err
	}
	e, err := boot.Load(ram, m.image, boot.Params{
		Cmdline: cmdline, Initrd: initrd, RSDP: layout.ACPI,
		RAM: layout.RAM(m.config.Memory),
	})
	if errors.Is(err, boot.ErrTooLittleMemory) {
		err = fmt.Errorf("--memory %dM: %w", m.config.Memory>>20, err)
	}
	return e, err
}

// finishLoading completes what the kernel starts from, and prepares the
// conversation with the init that it will start.
func (m *Machine) finishLoading() error {
	if err := m.writeACPI(); err != nil {
		return err
	}
	m.loading.Wait()
	if m.loadError != nil {
		return m.loadError
	}
	m.modules = nil
	if m.ownInit() {
		m.host = channel.NewHost(m.port, m.spec(), channel.IO{
			Stdin: m.opts.Stdin, Stdout: m.opts.Stdout, Stderr: m.opts.Stderr,
		})
	}
	return nil
}

// initrd returns the user's own, ours, or nil for none.
func (m *Machine) initrd() (boot.Initrd, error) {
	switch {
	case m.config.Initrd != "":
		b, err := os.ReadFile(m.config.Initrd)
		if err != nil {
			return nil, fmt.Errorf("--initrd: %w", err)
		}
		return boot.Bytes(b), nil
	case m.config.NoInitrd:
		return nil, nil
	}
	names := make(map[string]image.Driver)
	for _, d := range image.Drivers() {
		names[d.Name] = d
	}
	return image.New(image.Options{
		Init: m.opts.Init, Modules: m.modules, Release: m.image.Release,
		BuiltIn: func(name string) bool { return m.builtIn(names[name]) },
		Cache:   m.cache("modules"),
	})
}

// serialConsole says that the kernel's console is ttyS0: by choice, or because
// virtio-console is a module, which comes too late for a console.
func (m *Machine) serialConsole() bool {
	return m.config.Console == config.ConsoleSerial || m.lateConsole
}

// cmdline is what the kernel needs to know of this machine, and what the user
// adds. On hvc0 the first messages, those before virtio, go to the serial port.
func (m *Machine) cmdline() (string, error) {
	if m.config.Cmdline != "" {
		return boot.Cmdline(m.config.Cmdline, m.config.Append)
	}
	console := "console=hvc0"
	if m.serialConsole() {
		console = "console=ttyS0"
	}
	quiet := "quiet"
	if m.config.KernelLog != "" || !m.ownInit() {
		quiet = ""
	}
	init := "tenon.init=1"
	if !m.ownInit() {
		init = ""
	}
	root := ""
	if m.config.NoInitrd {
		mode := "rw"
		if m.config.Root.ReadOnly {
			mode = "ro"
		}
		root = fmt.Sprintf("root=%s rootfstype=virtiofs %s init=/%s", m.config.Root.Tag, mode, graftedInit)
		if m.config.Root.DAX == config.DAXAlways {
			root += " rootflags=dax=always"
		}
	}
	return boot.Cmdline(quiet, "earlycon=uart8250,io,0x3f8", console,
		"panic=-1 8250.nr_uarts=1 random.trust_cpu=on cryptomgr.notests", root, init, m.config.Append)
}

func (m *Machine) writeACPI() error {
	blob, err := acpi.Build(acpi.Options{CPUs: m.config.CPUs, MMIO64: m.window64()})
	if err != nil {
		return err
	}
	at, err := m.mem.Slice(layout.ACPI, uint32(len(blob)))
	if err != nil {
		return fmt.Errorf("ACPI tables: %d bytes do not fit: %w", len(blob), err)
	}
	copy(at, blob)
	return nil
}

// spec is what the guest's init has to set up.
func (m *Machine) spec() channel.Spec {
	s := channel.Spec{
		Overlay: m.overlaid(),
		Command: m.config.Command, Dir: m.config.Dir, Env: m.config.Env,
		Terminal: m.opts.Terminal, Rows: m.opts.Rows, Cols: m.opts.Cols,
		Hostname: "tenon",
	}
	if !m.config.NoInitrd {
		s.Root = &channel.Mount{Tag: m.config.Root.Tag, Path: "/", ReadOnly: m.config.Root.ReadOnly, DAX: daxOption(m.config.Root)}
	}
	for _, v := range m.config.Volumes {
		s.Mounts = append(s.Mounts, channel.Mount{Tag: v.Tag, Path: v.Guest, ReadOnly: v.ReadOnly, DAX: daxOption(v)})
	}
	return s
}

// daxOption is the mount option: with it a guest that has no window fails instead of
// doing without. All other modes are the server's to say, file by file.
func daxOption(s config.Share) string {
	if s.DAX == config.DAXAlways {
		return string(s.DAX)
	}
	return ""
}
