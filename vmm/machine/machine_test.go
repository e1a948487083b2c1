package machine

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tenon/guest/image"
	"tenon/vmm/boot"
	"tenon/vmm/config"
)

// fakeKernel writes a vmlinux with a PVH note, the given text in its one
// segment, and memory in bytes beyond it; it would do nothing if it ran.
func fakeKernel(t *testing.T, text string, memory uint64) string {
	t.Helper()
	const headers, note, load = 64 + 2*56, 20, 0x100_0000
	body := append(make([]byte, 16), text...)
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	put(elf.Header64{
		Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: load,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
	})
	put(elf.Prog64{
		Type: uint32(elf.PT_NOTE), Off: headers, Filesz: note, Memsz: note, Align: 4,
	})
	put(elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: 7, Off: 4096, Vaddr: load, Paddr: load,
		Filesz: uint64(len(body)), Memsz: uint64(len(body)) + memory, Align: 4096,
	})
	const xenPhys32Entry = 18
	put([]uint32{4, 4, xenPhys32Entry})
	b.WriteString("Xen\x00")
	put(uint32(load))
	b.Write(make([]byte, 4096-b.Len()))
	b.Write(body)
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// signatures is what a kernel with the named drivers built in contains.
func signatures(without string) string {
	var all []string
	for _, d := range image.Drivers() {
		if d.Name != without {
			all = append(all, d.Signature)
		}
	}
	return strings.Join(all, "\x00")
}

func testConfig(t *testing.T, kernel string) config.Machine {
	t.Helper()
	c := config.Default()
	c.Kernel, c.CPUs, c.Memory = kernel, 1, 256<<20
	c.Root.Dir, c.Root.ReadOnly = t.TempDir(), true
	c.Command = []string{"true"}
	return c
}

func TestRefusals(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no kernel at all\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	good := fakeKernel(t, signatures(""), 0)
	for _, x := range []struct {
		name, kernel string
		change       func(*config.Machine)
		says         []string
	}{
		{"not a kernel", text, nil, []string{text, boot.ErrNotKernel.Error()}},
		{"kernel without virtio-fs", fakeKernel(t, signatures("virtiofs"), 0), nil, []string{"has no virtio-fs", "CONFIG_VIRTIO_FS"}},
		{"kernel larger than memory", fakeKernel(t, signatures(""), 512<<20), nil, []string{"--memory 256M", "MiB"}},
		{"share that does not exist", good, func(c *config.Machine) {
			c.Shares = []config.Share{{Tag: "data", Dir: "/nonexistent/dir", Sharing: config.DefaultSharing()}}
		}, []string{"data", "/nonexistent/dir", "no such file"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := testConfig(t, x.kernel)
			if x.change != nil {
				x.change(&c)
			}
			m, err := New(c, Options{Init: "/proc/self/exe"})
			if err == nil {
				m.Close()
				t.Fatal("it was accepted")
			}
			for _, part := range x.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

// TestBackEndThatEmulates: where stock kernels cannot run, New says so at once;
// elsewhere the same machine is assembled.
func TestBackEndThatEmulates(t *testing.T) {
	probe := Probe()
	if !probe.Permitted {
		t.Skipf("no KVM: %s", probe.Reason)
	}
	m, err := New(testConfig(t, fakeKernel(t, signatures(""), 0)), Options{Init: "/proc/self/exe"})
	if err == nil {
		defer m.Close()
	}
	if probe.StockKernels != (err == nil) || err != nil && !errors.Is(err, ErrBackEnd) {
		t.Fatalf("the probe says %+v, New says %v", probe, err)
	}
}

// cachedKernel is the kernel of scripts/kernel, with its modules.
func cachedKernel(tb testing.TB, c *config.Machine) (cache string) {
	tb.Helper()
	base, err := os.UserCacheDir()
	if err != nil {
		tb.Skip(err)
	}
	cache = filepath.Join(base, "tenon")
	c.Kernel = filepath.Join(cache, "kernels/default/vmlinuz")
	if _, err := os.Stat(c.Kernel); err != nil {
		tb.Skip("no kernel in the cache: run scripts/kernel")
	}
	modules, err := filepath.Glob(filepath.Join(cache, "kernels/default/lib/modules/*"))
	if err != nil || len(modules) != 1 {
		tb.Skipf("modules of the cached kernel: %v, %v", modules, err)
	}
	c.Modules = modules[0]
	return cache
}

// assemble runs every step of New but the check of the back end: nothing here
// enters the guest.
func assemble(tb testing.TB, m *Machine) {
	tb.Helper()
	m.stages.begin()
	for _, s := range m.steps() {
		if s.name == "back end" {
			continue
		}
		if err := s.build(); err != nil {
			tb.Fatalf("%s: %v", s.name, err)
		}
		m.stages.done(s.name)
	}
}

// TestAssembly puts together the whole machine around a stock kernel: what it
// holds is freed again.
func TestAssembly(t *testing.T) {
	if probe := Probe(); !probe.Permitted {
		t.Skipf("no KVM: %s", probe.Reason)
	}
	c := testConfig(t, "")
	c.CPUs = 4
	cache := cachedKernel(t, &c)
	before := descriptors(t)
	for range 3 {
		m := newMachine(c, Options{Init: "/proc/self/exe", CacheDir: cache})
		assemble(t, m)
		t.Logf("ready for the first KVM_RUN; stages in ms since this process was executed: %v", m.stages.list)
		if len(m.cpus) != c.CPUs || len(m.functions) != 3 {
			t.Errorf("%d processors, %d PCI functions", len(m.cpus), len(m.functions))
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

// TestCloseWaitsForLoading: a step that fails leaves a loader behind that still
// writes to RAM.
func TestCloseWaitsForLoading(t *testing.T) {
	m := newMachine(config.Default(), Options{})
	var err error
	if m.ram, err = newRAM(64 << 20); err != nil {
		t.Fatal(err)
	}
	data := m.ram.regions[0].Data
	m.loading.Go(func() {
		time.Sleep(50 * time.Millisecond)
		data[0] = 1 // SIGSEGV if it is gone
		m.entry.RIP = 1
	})
	m.Close()
	if m.entry.RIP != 1 {
		t.Error("closed while the kernel was being loaded")
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// BenchmarkAssembly is the time from the first step to the first KVM_RUN with a
// cached kernel.
func BenchmarkAssembly(b *testing.B) {
	if probe := Probe(); !probe.Permitted {
		b.Skipf("no KVM: %s", probe.Reason)
	}
	c := config.Default()
	c.CPUs, c.Memory, c.Root.Dir, c.Root.ReadOnly, c.Command = 2, 1<<30, "/", true, []string{"true"}
	cache := cachedKernel(b, &c)
	for b.Loop() {
		m := newMachine(c, Options{Init: "/proc/self/exe", CacheDir: cache})
		assemble(b, m)
		b.StopTimer()
		for i, s := range m.stages.list {
			from := 0.0
			if i > 0 {
				from = m.stages.list[i-1].Done
			}
			if i > 0 {
				b.ReportMetric(s.Done-from, "ms-"+s.Name)
			}
		}
		m.Close()
		b.StartTimer()
	}
}

func TestKernelLogKeepsTail(t *testing.T) {
	var all bytes.Buffer
	l := newKernelLog(&all)
	line := strings.Repeat("x", 99) + "\r\n"
	for range 5 * tailSize / len(line) {
		l.add([]byte(line))
	}
	l.add([]byte("one\ntwo\n"))
	if got := l.lines(2); len(got) != 2 || got[0] != "one" || got[1] != "two" {
		t.Errorf("the last lines are %q", got)
	}
	if len(l.tail) > 2*tailSize {
		t.Errorf("%d bytes are kept", len(l.tail))
	}
	if !strings.HasSuffix(all.String(), "one\ntwo\n") || all.Len() < 4*tailSize {
		t.Errorf("the copy has %d bytes", all.Len())
	}
	if got := newKernelLog(nil).lines(3); got != nil {
		t.Errorf("an empty log has %q", got)
	}
}

// TestBlockedLogDoesNotHoldTheTail: the log's copy goes to somebody who does
// not read; the tail is there all the same.
func TestBlockedLogDoesNotHoldTheTail(t *testing.T) {
	r, w := io.Pipe()
	l := newKernelLog(w)
	done := make(chan struct{})
	go func() {
		l.add([]byte("last words\n"))
		close(done)
	}()
	for len(l.lines(1)) == 0 {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-done:
		t.Error("the copy was written to nobody")
	default:
	}
	r.Close()
	<-done
}

// TestClosedOutputDoesNotStopTheConsole: what the console says after its reader
// is gone is still taken from it.
func TestClosedOutputDoesNotStopTheConsole(t *testing.T) {
	r, w := io.Pipe()
	r.Close()
	src := strings.NewReader(strings.Repeat("x", 1<<20))
	copyOut(w, src)
	if src.Len() != 0 {
		t.Errorf("%d bytes were never read", src.Len())
	}
}
