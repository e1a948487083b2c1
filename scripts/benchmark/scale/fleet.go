package scale

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tenon/scripts/benchmark/figures"
	"tenon/vmm/config"
	"tenon/vmm/kvm"
	"tenon/vmm/layout"
	"tenon/vmm/machine"
	"tenon/vmm/vcpu"
)

// host starts machines: processes of the program itself, as a user would.
type host struct {
	program, kernel, dir string // the binary, what it boots, the directory that it shares
	// emulates: this host's KVM emulates supervisor code, at which a Linux kernel would
	// fail. Ours does not, and the program has to be told that all is well.
	emulates bool
	orders   chan func() // done by a thread that sees the machines' world
}

// vm is one machine.
type vm struct {
	cmd  *exec.Cmd
	says *bufio.Reader
	// begun is how long after exec the guest's first exit was, read how long after that
	// it had seen all of the file.
	begun, read time.Duration
}

// patience is how long a machine may take until its guest rests.
const patience = time.Minute

// start runs one machine until its guest rests.
func (h *host) start() (*vm, error) {
	v := &vm{cmd: exec.Command(h.program, "run", "--kernel", h.kernel, "--cpus", "1",
		"--root", h.dir+",ro,dax=always", "--kernel-log", "-", "--", "true")}
	out, err := v.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	v.says = bufio.NewReader(out)
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL} // ours, or that of the thread that starts it
	started := make(chan error)
	begin := time.Now()
	h.orders <- func() {
		begin = time.Now()
		started <- v.cmd.Start()
	}
	if err := <-started; err != nil {
		return nil, err
	}
	late := time.AfterFunc(patience, func() { v.cmd.Process.Kill() })
	defer late.Stop()
	if err := v.hear(saysBegun); err != nil {
		return nil, err
	}
	v.begun = time.Since(begin)
	if err := v.hear(saysDone); err != nil {
		return nil, err
	}
	v.read = time.Since(begin) - v.begun
	return v, nil
}

// hear waits for the guest's word.
func (v *vm) hear(word byte) error {
	b, err := v.says.ReadByte()
	if err == nil && b == word {
		return nil
	}
	v.cmd.Process.Kill()
	rest, _ := io.ReadAll(v.says)
	return errors.Join(fmt.Errorf("the guest said %q for %q: %s", b, word, rest), err, v.cmd.Wait())
}

// stop ends the machine, as a kernel that is short of memory would.
func (v *vm) stop() {
	v.cmd.Process.Kill()
	v.cmd.Wait() // "signal: killed"
}

// serve is the thread that starts machines. Where KVM emulates, it sees a processor
// that can virtualise: nothing but the program's own check looks at that.
func (h *host) serve(cpuinfo string) error {
	h.orders = make(chan func())
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var err error
		if h.emulates {
			err = pretend(cpuinfo)
		}
		ready <- err
		if err != nil {
			return
		}
		for f := range h.orders {
			f()
		}
	}()
	return <-ready
}

// pretend gives the calling thread, and what it executes, a /proc/cpuinfo with svm
// among the flags.
func pretend(file string) error {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	b = bytes.ReplaceAll(b, []byte("\nflags\t\t: "), []byte("\nflags\t\t: svm "))
	if err := os.WriteFile(file, b, 0o644); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount(file, "/proc/cpuinfo", "", unix.MS_BIND, "")
}

// newHost makes what the machines need, in dir.
func newHost(dir string, size int) (h *host, err error) {
	probe := machine.Probe()
	if !probe.Permitted || !probe.StockKernels && os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: %s", errors.ErrUnsupported, probe.Reason)
	}
	h = &host{emulates: !probe.StockKernels, dir: filepath.Join(dir, "share"), kernel: filepath.Join(dir, "vmlinux")}
	if err := os.Mkdir(h.dir, 0o755); err != nil {
		return nil, err
	}
	if err := h.furnish(size); err != nil {
		return nil, err
	}
	if h.program, err = product(dir); err != nil {
		return nil, err
	}
	if err := h.serve(filepath.Join(dir, "cpuinfo")); err != nil {
		return nil, fmt.Errorf("%w: %s; and no other /proc/cpuinfo can be shown to a program: %w", errors.ErrUnsupported, probe.Reason, err)
	}
	return h, nil
}

// furnish makes the share's file, of size bytes, and the kernel that looks for it.
func (h *host) furnish(size int) error {
	const mark = 0x01
	if err := os.WriteFile(filepath.Join(h.dir, shareFile), bytes.Repeat([]byte{mark}, size), 0o644); err != nil {
		return err
	}
	at, err := windowAt()
	if err != nil {
		return err
	}
	kernel, err := fleetKernel(at, size, mark*0x01010101)
	if err != nil {
		return err
	}
	return os.WriteFile(h.kernel, kernel, 0o644)
}

// windowAt is where the machine has the first share's DAX window: first of all above
// its RAM.
func windowAt() (uint64, error) {
	sys, err := kvm.Open()
	if err != nil {
		return 0, err
	}
	defer sys.Close()
	cpuid, err := sys.SupportedCPUID()
	if err != nil {
		return 0, err
	}
	at, _ := layout.MMIO64(vcpu.PhysicalBits(cpuid), layout.End(layout.RAM(config.Default().Memory)))
	return at, nil
}

// product is the program: TENON, or built from the module that this is run in.
func product(dir string) (string, error) {
	if p := os.Getenv("TENON"); p != "" {
		return p, nil
	}
	p := filepath.Join(dir, "tenon")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "urfave_cli_no_docs", "-o", p, "tenon")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the program: %w: %s", err, out)
	}
	return p, nil
}

// Rows of the fleet.
const (
	rowStart  = "start-up, from exec to the guest's first exit"
	rowRead   = "mapping the file and touching its pages"
	rowRSS    = "resident memory of a machine beyond its guest's"
	rowPSS    = "the same, what is shared divided by its users"
	rowGuest  = "resident memory of its guest, initrd and kernel included"
	rowCache  = "the mapped file of 64 MiB in memory, all machines together"
	limitSide = "what it may be"
)

// fleetRows is what a round of each fleet comes to.
func fleetRows() []figures.Row {
	return []figures.Row{
		{Name: rowStart, Unit: "ms"}, {Name: rowRead, Unit: "ms"},
		{Name: rowRSS, Unit: "MiB"}, {Name: rowPSS, Unit: "MiB"}, {Name: rowGuest, Unit: "MiB"},
		{Name: rowCache, Unit: "MiB"},
	}
}

func fleetSide(n int) string {
	if n == 1 {
		return "1 VM"
	}
	return fmt.Sprintf("%d VMs", n)
}

// fleet measures machines that run side by side, a process each, of one directory.
func fleet(o figures.Options, l *litter, r *figures.Report) error {
	sizes, rounds, file := []int{1, 10, 50}, min(o.Rounds, 5), 64<<20
	if o.Smoke {
		sizes, file = []int{1, 2}, 4<<20
	}
	rows := slices.DeleteFunc(fleetRows(), func(row figures.Row) bool { return !o.Wanted(row.Name) })
	if len(rows) == 0 {
		return nil
	}
	r.Claims = append(r.Claims, fleetClaims(sizes)...) // of what cannot be measured too
	dir, err := l.dir(o.Dir)
	if err != nil {
		return err
	}
	h, err := newHost(dir, file)
	if errors.Is(err, errors.ErrUnsupported) {
		r.Notes = append(r.Notes, "SKIPPED: the fleet of machines: "+err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	defer close(h.orders)
	if h.emulates {
		r.Notes = append(r.Notes, "This host's KVM runs no Linux. The fleet's guests have a kernel of a few steps, which it does run, "+
			"and the program sees a /proc/cpuinfo with svm among its flags, as it would refuse this KVM otherwise.")
	}
	if err := h.rounds(rows, sizes, rounds); err != nil {
		return err
	}
	r.Rows = append(r.Rows, rows...)
	return nil
}

// rounds measures the fleets by turns.
func (h *host) rounds(rows []figures.Row, sizes []int, rounds int) error {
	for i := range rows {
		for _, n := range sizes {
			rows[i].Results = append(rows[i].Results, figures.Result{Name: fleetSide(n)})
		}
		if rows[i].Name == rowRSS {
			limit := slices.Repeat([]figures.Round{{Value: mostMiB, Allocs: -1}}, rounds)
			rows[i].Results = append(rows[i].Results, figures.Result{Name: limitSide, Rounds: limit})
		}
	}
	for round := range rounds {
		for i := range sizes {
			k := (i + round) % len(sizes)
			values, err := h.fleet(sizes[k])
			if err != nil {
				return fmt.Errorf("%s: %w", fleetSide(sizes[k]), err)
			}
			for j := range rows {
				res := &rows[j].Results[k]
				res.Rounds = append(res.Rounds, values[rows[j].Name])
			}
		}
	}
	return nil
}

// mostMiB is what a machine may take beside its guest's memory.
const mostMiB = 15

func fleetClaims(sizes []int) []figures.Claim {
	one, all := fleetSide(sizes[0]), fleetSide(sizes[len(sizes)-1])
	return []figures.Claim{
		{Row: rowRSS, Side: all, Base: limitSide, Limit: 1},
		{Row: rowCache, Side: all, Base: one, Limit: 1.05},
	}
}

// fleet runs so many machines at a time, started one after the other, and returns the
// rows' values.
func (h *host) fleet(n int) (values map[string]figures.Round, err error) {
	var start, read, rss, pss, guest []float64
	var cache float64
	var all []*vm
	defer func() {
		for _, v := range all {
			v.stop()
		}
	}()
	for range n {
		v, err := h.start()
		if err != nil {
			return values, err
		}
		all = append(all, v)
		start = append(start, v.begun.Seconds()*1e3)
		read = append(read, v.read.Seconds()*1e3)
	}
	for _, v := range all {
		m, err := residentOf(v.cmd.Process.Pid, filepath.Join(h.dir, shareFile))
		if err != nil {
			return values, err
		}
		rss, pss, guest = append(rss, m.rss), append(pss, m.pss), append(guest, m.guest)
		cache += m.file
	}
	values = map[string]figures.Round{rowCache: {Value: cache, Allocs: -1}}
	for row, list := range map[string][]float64{rowStart: start, rowRead: read, rowRSS: rss, rowPSS: pss, rowGuest: guest} {
		values[row] = figures.Round{Value: mean(list), P99: figures.Tail(list, 0.99), Allocs: -1}
	}
	return values, nil
}

func mean(list []float64) (m float64) {
	for _, v := range list {
		m += v / float64(len(list))
	}
	return m
}
