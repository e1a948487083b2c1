package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"tenon/virtiofs/dax"
	"tenon/vmm/config"
	"tenon/vmm/machine"
)

// fake is a machine that does what a test says.
type fake struct {
	config config.Machine
	opts   machine.Options
	life   func(context.Context, *fake) (machine.Outcome, error)

	signals chan int
	sizes   chan [2]uint16
	figures chan struct{}
	closed  bool
}

func (f *fake) Run(ctx context.Context) (machine.Outcome, error) { return f.life(ctx, f) }
func (f *fake) Signal(sig int)                                   { f.signals <- sig }
func (f *fake) Resize(rows, cols uint16)                         { f.sizes <- [2]uint16{rows, cols} }
func (f *fake) Report() machine.Report                           { return machine.Report{Release: "6.12.0-fake"} }
func (f *fake) Figures() machine.Figures {
	f.figures <- struct{}{}
	return machine.Figures{DAX: map[string]dax.Stats{"tag": {Setups: 7}}}
}
func (f *fake) Close() error { f.closed = true; return nil }

// ends is a machine that ends with o at once.
func ends(o machine.Outcome) *fake {
	return &fake{life: func(context.Context, *fake) (machine.Outcome, error) { return o, nil }}
}

// bench is a program in a test: no terminal, a cache with one kernel, a fake machine.
type bench struct {
	*program
	out, err bytes.Buffer
	cache    string // holds kernels/
	built    int    // machines
}

func newBench(t *testing.T, f *fake) *bench {
	t.Helper()
	root := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", root)
	b := &bench{cache: filepath.Join(root, "tenon")}
	release := filepath.Join(b.cache, "kernels", "6.12.0-fake")
	write(t, filepath.Join(release, "vmlinuz"), "kernel")
	write(t, filepath.Join(release, "lib/modules/6.12.0-fake/modules.order"), "")
	if err := os.Symlink("6.12.0-fake", filepath.Join(b.cache, "kernels", defaultKernel)); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	b.program = &program{
		stdin: null, stdout: &b.out, stderr: &b.err,
		newMachine: func(c config.Machine, o machine.Options) (runner, error) {
			b.built++
			f.config, f.opts = c, o
			f.signals, f.sizes, f.figures = make(chan int, 8), make(chan [2]uint16, 8), make(chan struct{}, 8)
			return f, nil
		},
		probe:   func() machine.Capabilities { return machine.Capabilities{Reason: "no KVM in tests"} },
		inspect: inspect,
	}
	return b
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tenon runs a command line.
func (b *bench) tenon(args ...string) int { return b.main(append([]string{"tenon"}, args...)) }

func TestExitStatus(t *testing.T) {
	tail := []string{"[ 1.0] Kernel panic - not syncing: sysrq", "\x1b[2J[ 1.1] end"}
	for _, c := range []struct {
		outcome machine.Outcome
		status  int
		stderr  string // all of it
	}{
		{machine.Outcome{Kind: machine.Exited}, 0, ""},
		{machine.Outcome{Kind: machine.Exited, Status: 7, KernelTail: tail}, 7, ""},
		{machine.Outcome{Kind: machine.Exited, Status: 255}, 255, ""},
		{machine.Outcome{Kind: machine.Signaled, Status: 9}, 137, ""},
		{machine.Outcome{Kind: machine.NotFound, Message: "x: not found"}, 127, "tenon: x: not found\n"},
		{machine.Outcome{Kind: machine.NotExecutable, Message: "/etc: is a directory"}, 126, "tenon: /etc: is a directory\n"},
		{machine.Outcome{Kind: machine.TimedOut, KernelTail: tail}, 124, "tenon: timeout: the guest was ended after 5s\n"},
		{machine.Outcome{Kind: machine.PoweredOff}, 0, ""},
		{machine.Outcome{Kind: machine.SetupFailed, Message: "mount root: no such device", KernelTail: tail[:1]}, 125,
			"tenon: the guest could not be set up: mount root: no such device\ntenon: the kernel's last lines:\n" + tail[0] + "\n"},
		{machine.Outcome{Kind: machine.Died, Message: "the guest reset itself", KernelTail: tail}, 255,
			"tenon: the guest died: the guest reset itself\ntenon: the kernel's last lines:\n" + tail[0] + "\n[2J[ 1.1] end\n"},
		{machine.Outcome{Kind: machine.Died, Message: "gone"}, 255,
			"tenon: the guest died: gone\ntenon: the kernel said nothing: --console serial may show more\n"},
	} {
		f := ends(c.outcome)
		b := newBench(t, f)
		status := b.tenon("run", "--timeout", "5", "--", "x")
		if status != c.status || b.err.String() != c.stderr || b.out.String() != "" {
			t.Errorf("%+v: status %d, want %d; stdout %q, stderr %q, want %q", c.outcome, status, c.status, &b.out, &b.err, c.stderr)
		}
		if !f.closed {
			t.Errorf("%+v: the machine is not closed", c.outcome)
		}
	}
}

func TestKernelTailIsNotWanted(t *testing.T) {
	died := machine.Outcome{Kind: machine.Died, Message: "gone", KernelTail: []string{"Kernel panic"}}
	for _, flag := range []string{"-q", "--quiet", "--kernel-log=-"} {
		b := newBench(t, ends(died))
		if status := b.tenon("run", flag); status != 255 || b.err.String() != "tenon: the guest died: gone\n" {
			t.Errorf("%s: status %d, stderr %q", flag, status, &b.err)
		}
	}
}

// TestTenonsOwnFailures are failures that only the machine finds.
func TestTenonsOwnFailures(t *testing.T) {
	for _, reason := range []string{
		"this host's KVM cannot run stock kernels: use a host with VMX or SVM",
		"no /dev/kvm on this host: load kvm_intel or kvm_amd",
		"kernel /etc/passwd: not a Linux kernel",
		"kernel 6.12 has no virtio-fs (CONFIG_VIRTIO_FS)",
		"--memory 64M: too little memory for this kernel: 96 MiB are needed",
	} {
		b := newBench(t, nil)
		b.newMachine = func(config.Machine, machine.Options) (runner, error) { return nil, errors.New(reason) }
		if status := b.tenon("run"); status != 125 || b.err.String() != "tenon: "+reason+"\n" {
			t.Errorf("New: status %d, stderr %q", status, &b.err)
		}
		f := &fake{life: func(context.Context, *fake) (machine.Outcome, error) {
			return machine.Outcome{}, errors.New(reason)
		}}
		b = newBench(t, f)
		if status := b.tenon("run"); status != 125 || b.err.String() != "tenon: "+reason+"\n" || !f.closed {
			t.Errorf("Run: status %d, stderr %q, closed %v", status, &b.err, f.closed)
		}
	}
}

func TestBadUsage(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write(t, "file", "")
	for _, c := range []struct {
		args string
		want []string // one line each, in any order; each a part of its line
	}{
		{"rnu", []string{`unknown command "rnu" (did you mean run?)`}},
		{"zzz", []string{"unknown command \"zzz\": `tenon --help`"}},
		{"--kernel x", []string{"unknown flag --kernel: `tenon --help`"}},
		{"help zzz", []string{"zzz"}},
		{"run --memroy 1G", []string{"unknown flag --memroy (did you mean --memory?): `tenon run --help`"}},
		{"run --zzz", []string{"unknown flag --zzz: "}},
		{"run -z", []string{"unknown flag -z: "}},
		{"run -m", []string{"flag -m needs a value"}},
		{"run --dry-run=maybe", []string{"dry-run"}},
		{"run -m 1.5G", []string{"--memory: \"1.5G\" has a fraction"}},
		{"run -m 1", []string{"memory 1M is too little"}},
		{"run -m 999999G", []string{"more than this host has"}},
		{"run -c 0", []string{"cpus must be 1 to 255"}},
		{"run -c many", []string{"--cpus: \"many\" is not a number"}},
		{"run -k missing", []string{"kernel " + dir + "/missing does not exist"}},
		{"run -k .", []string{"kernel directory " + dir + " holds none of vmlinuz"}},
		{"run -i missing", []string{"initrd " + dir + "/missing does not exist"}},
		{"run -i file ls", []string{"a command needs Tenon's own init"}},
		{"run -i file --no-initrd", []string{"exclude each other"}},
		{"run --root missing,rw", []string{"root: host directory " + dir + "/missing does not exist"}},
		{"run --root /,overlay", []string{`unknown option "overlay": known are ro|rw, cache=never`}},
		{"run -v /missing:/x", []string{"volume /x: host directory /missing does not exist"}},
		{"run -v /:x", []string{`guest path "x" is not absolute`}},
		{"run -v /:/x -v /:/x", []string{"guest path /x is used twice"}},
		{"run --share data=/missing", []string{`share "data": host directory /missing does not exist`}},
		{"run --share data=file", []string{"is not a directory"}},
		{"run --share a=/ --share a=/", []string{`tag "a" is used twice`}},
		{"run --share " + strings.Repeat("t", 37) + "=/", []string{"the tag is 37 bytes"}},
		{"run --timeout soon", []string{`--timeout: "soon" is not a duration`}},
		{"run --timeout -5s", []string{"timeout -5s is negative"}},
		{"run --console vga", []string{`console "vga" is not known`}},
		{"run --service fast", []string{`service "fast" is not known`}},
		{"run --kernel-log /missing/log", []string{"--kernel-log: open /missing/log"}},
		{"run --report /missing/report", []string{"--report: open /missing/report"}},
		{"doctor now", []string{`tenon doctor takes no argument "now"`}},
		{"version 2", []string{`tenon version takes no argument "2"`}},
		{"run -c 0 -m x --share x --share =/ -v /:y --console vga -k missing", []string{
			"cpus must be", "--memory: ", "--share: ", "the tag is empty", "guest path", "console", "does not exist",
		}},
	} {
		b := newBench(t, ends(machine.Outcome{Kind: machine.Exited}))
		status := b.tenon(strings.Fields(c.args)...)
		lines := strings.Split(strings.TrimSuffix(b.err.String(), "\n"), "\n")
		if status != 125 || len(lines) != len(c.want) || b.out.String() != "" || b.built != 0 {
			t.Errorf("tenon %s: status %d, %d machines, stdout %q, stderr:\n%s", c.args, status, b.built, &b.out, &b.err)
			continue
		}
		for _, line := range lines {
			if !strings.HasPrefix(line, "tenon: ") {
				t.Errorf("tenon %s: line %q", c.args, line)
			}
		}
		for _, want := range c.want {
			if !strings.Contains(b.err.String(), want) {
				t.Errorf("tenon %s: no %q in\n%s", c.args, want, &b.err)
			}
		}
	}
}

func TestNoKernel(t *testing.T) {
	b := newBench(t, nil)
	if err := os.RemoveAll(b.cache); err != nil {
		t.Fatal(err)
	}
	want := "tenon: kernel " + b.cache + "/kernels/default/vmlinuz does not exist: name a file with -k FILE, or fetch a kernel with scripts/kernel\n"
	if status := b.tenon("run"); status != 125 || b.err.String() != want {
		t.Errorf("status %d, stderr %q, want %q", status, &b.err, want)
	}
	b = newBench(t, nil)
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	if status := b.tenon("run"); status != 125 || !strings.Contains(b.err.String(), "set HOME or XDG_CACHE_HOME") {
		t.Errorf("status %d, stderr %q", status, &b.err)
	}
}

func TestDryRun(t *testing.T) {
	golden, err := os.ReadFile("testdata/dry-run.json")
	if err != nil {
		t.Fatal(err)
	}
	wd := t.TempDir()
	t.Chdir(wd)
	for _, kv := range os.Environ() { // t.Setenv brings each back
		name, _, _ := strings.Cut(kv, "=")
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	t.Setenv("TERM", "dumb")
	t.Setenv("LC_ALL", "C")
	t.Setenv("HOME", "/home/me")
	t.Setenv("SECRET", "1")
	b := newBench(t, nil)
	status := b.tenon("run", "--dry-run", "-c", "3", "-m", "256M", "-a", "loglevel=7", "-v", "/usr:/mnt/u,ro",
		"--share", `data=/,rw`, "--console", "serial", "--service", "worker", "--timeout", "90", "-q",
		"--kernel-log", "log", "--report", "report", "--", "echo", "-c", "<&>")
	want := strings.NewReplacer("CACHE", b.cache, "WD", wd).Replace(string(golden))
	if status != 0 || b.err.String() != "" || b.built != 0 || b.out.String() != want {
		t.Errorf("status %d, %d machines, stderr %q, stdout\n%s\nwant\n%s", status, b.built, &b.err, &b.out, want)
	}
	for _, name := range []string{"log", "report"} {
		if exists(name) {
			t.Errorf("a dry run made the file %s", name)
		}
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args, command []string
	}{
		{nil, nil},
		{[]string{"--"}, nil},
		{[]string{"ls", "-l", "--", "-c"}, []string{"ls", "-l", "--", "-c"}},
		{[]string{"--", "ls", "--help"}, []string{"ls", "--help"}},
		{[]string{"-c", "1", "--", "-c"}, []string{"-c"}},
		{[]string{"help"}, []string{"help"}},
		{[]string{"h", "x"}, []string{"h", "x"}},
		{[]string{"--", "echo", "", "a b", "ü\xff"}, []string{"echo", "", "a b", "ü\xff"}},
	} {
		f := ends(machine.Outcome{Kind: machine.Exited})
		b := newBench(t, f)
		if status := b.tenon(append([]string{"run"}, c.args...)...); status != 0 || b.err.String() != "" {
			t.Errorf("%q: status %d, stderr %q", c.args, status, &b.err)
		}
		if strings.Join(f.config.Command, "|") != strings.Join(c.command, "|") || len(f.config.Command) != len(c.command) {
			t.Errorf("%q: command %q, want %q", c.args, f.config.Command, c.command)
		}
	}
}

// TestCommaInVolume: urfave/cli would split the value of a repeated flag at commas.
func TestCommaInVolume(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a,b:c")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f := ends(machine.Outcome{Kind: machine.Exited})
	b := newBench(t, f)
	b.tenon("run", "-v", strings.ReplaceAll(dir, ":", `\:`)+":/x,ro", "--share", "t="+strings.ReplaceAll(dir, ",", `\,`)+",ro")
	want := config.Share{Tag: config.VolumeTag(0), Dir: dir, Guest: "/x", ReadOnly: true, Sharing: config.DefaultSharing()}
	if len(f.config.Volumes) != 1 || !reflect.DeepEqual(f.config.Volumes[0], want) {
		t.Errorf("volumes %+v, want %+v; %s", f.config.Volumes, want, &b.err)
	}
	want = config.Share{Tag: "t", Dir: dir, ReadOnly: true, Sharing: config.DefaultSharing()}
	if len(f.config.Shares) != 1 || !reflect.DeepEqual(f.config.Shares[0], want) {
		t.Errorf("shares %+v, want %+v", f.config.Shares, want)
	}
}

// TestStreams: the command's streams pass through Tenon untouched, and there is no
// terminal.
func TestStreams(t *testing.T) {
	all := make([]byte, 1<<16)
	for i := range all {
		all[i] = byte(i)
	}
	name := filepath.Join(t.TempDir(), "in")
	write(t, name, string(all))
	f := &fake{life: func(_ context.Context, f *fake) (machine.Outcome, error) {
		if _, err := io.Copy(f.opts.Stdout, f.opts.Stdin); err != nil {
			t.Error(err)
		}
		_, err := io.WriteString(f.opts.Stderr, "err")
		return machine.Outcome{Kind: machine.Exited}, err
	}}
	b := newBench(t, f)
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b.stdin = in
	if status := b.tenon("run", "cat"); status != 0 || !bytes.Equal(b.out.Bytes(), all) || b.err.String() != "err" {
		t.Errorf("status %d, %d bytes, stderr %q", status, b.out.Len(), &b.err)
	}
	if f.opts.Terminal || f.opts.KernelLog != nil {
		t.Errorf("options %+v", f.opts)
	}
}

func TestKernelLogAndReport(t *testing.T) {
	dir := t.TempDir()
	log, report := filepath.Join(dir, "log"), filepath.Join(dir, "report")
	write(t, report, strings.Repeat("an older and longer report\n", 99))
	b := newBench(t, &fake{life: func(_ context.Context, f *fake) (machine.Outcome, error) {
		_, err := io.WriteString(f.opts.KernelLog, "Linux version 6.12\n")
		return machine.Outcome{Kind: machine.Exited, Status: 3}, err
	}})
	if status := b.tenon("run", "--kernel-log", log, "--report", report); status != 3 {
		t.Errorf("status %d, stderr %q", status, &b.err)
	}
	if got, err := os.ReadFile(log); err != nil || string(got) != "Linux version 6.12\n" {
		t.Errorf("kernel log %q, %v", got, err)
	}
	got, err := os.ReadFile(report)
	if err != nil || !strings.HasPrefix(string(got), "{\n") || !strings.Contains(string(got), `"kernel_release": "6.12.0-fake"`) || strings.Contains(string(got), "older") {
		t.Errorf("report %q, %v", got, err)
	}
}

func TestReportThatCannotBeWritten(t *testing.T) {
	b := newBench(t, ends(machine.Outcome{Kind: machine.Exited}))
	if status := b.tenon("run", "--report", "/dev/full"); status != 125 || !strings.HasPrefix(b.err.String(), "tenon: --report: ") {
		t.Errorf("status %d, stderr %q", status, &b.err)
	}
}

func TestHelp(t *testing.T) {
	b := newBench(t, nil)
	if status := b.tenon("run", "--help"); status != 0 || b.err.String() != "" {
		t.Errorf("status %d, stderr %q", status, &b.err)
	}
	for _, f := range runFlags() {
		for _, name := range f.Names() {
			dash := "\n  -" + name + ", --"
			if len(name) > 1 {
				dash = " --" + name + " "
			}
			if !strings.Contains(b.out.String(), dash) {
				t.Errorf("no %q in the help", dash)
			}
		}
	}
	for _, line := range strings.Split(b.out.String(), "\n") {
		if len(line) > helpWidth {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	for _, args := range [][]string{{}, {"--help"}, {"help"}, {"doctor", "-h"}, {"help", "version"}} {
		b := newBench(t, nil)
		if status := b.tenon(args...); status != 0 || !strings.HasPrefix(b.out.String(), "Usage:") || b.err.String() != "" {
			t.Errorf("%q: status %d, stdout %q, stderr %q", args, status, &b.out, &b.err)
		}
	}
}
