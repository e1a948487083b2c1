package guestinit

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/guest/channel"
)

// childEnv makes the test binary the init of a container: PID 1 of its own
// namespaces, the channel on descriptor 3. Its value is the directory for the
// tree that stands for the initramfs.
const childEnv = "TENON_TEST_INIT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" && os.Getpid() == 1 {
		if err := asInit(dir); err != nil {
			fmt.Fprintln(os.Stderr, "init:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// asInit is Main with bind mounts for shares and without what a container has
// no right to: the drivers, the port and the power switch.
func asInit(dir string) error {
	if err := container(dir); err != nil {
		return fmt.Errorf("container: %w", err)
	}
	// Whoever runs the tests may have left descriptors open; the kernel does not.
	if err := unix.CloseRange(3, 1<<20, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	host, err := unix.Open("/host", unix.O_PATH|unix.O_CLOEXEC, 0) // outlives the switch of roots
	if err != nil {
		return err
	}
	s := &session{
		guest:   channel.NewGuest(os.NewFile(3, "port")),
		drivers: new(modules),
		stop:    stopRequests(),
		share: func(m channel.Mount, target string) error {
			source := fmt.Sprintf("/proc/self/fd/%d%s", host, m.Tag)
			if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil || !m.ReadOnly {
				return err
			}
			return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		},
	}
	return s.run()
}

// container builds a tree with the machine's own at /host and enters it.
func container(dir string) error {
	dev := filepath.Join(dir, "dev")
	do := []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "") },
	}
	for _, sub := range []string{"host", "proc", "sys", "dev"} {
		do = append(do, func() error { return os.Mkdir(filepath.Join(dir, sub), 0o755) })
	}
	do = append(do,
		func() error { return unix.Mount("/", filepath.Join(dir, "host"), "", unix.MS_BIND|unix.MS_REC, "") },
		func() error { return unix.Mount("proc", filepath.Join(dir, "proc"), "proc", 0, "") },
		func() error { return unix.Mount("tmpfs", filepath.Join(dir, "sys"), "tmpfs", 0, "") },
		func() error { return unix.Mount("tmpfs", dev, "tmpfs", 0, "") },
		func() error { return os.WriteFile(filepath.Join(dev, "null"), nil, 0o666) },
		func() error { return unix.Mount("/dev/null", filepath.Join(dev, "null"), "", unix.MS_BIND, "") },
		func() error { return os.Symlink("pts/ptmx", filepath.Join(dev, "ptmx")) },
		func() error { return unix.Chroot(dir) },
		func() error { return unix.Chdir("/") },
	)
	for i, step := range do {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// started calls a function at the first output: the command then runs. An
// error of the function is the stream's.
type started struct {
	bytes.Buffer
	f func() error
}

func (s *started) Write(p []byte) (int, error) {
	if f := s.f; f != nil {
		s.f = nil
		if err := f(); err != nil {
			return 0, err
		}
	}
	return s.Buffer.Write(p)
}

// guest runs one session in a container and returns its result and output.
// steer, unless nil, is called when the command has begun to write. An init
// that ends in order but without an exit record gives no result.
func guest(t *testing.T, spec channel.Spec, stdin io.Reader, steer func(h *channel.Host) error) (r channel.Result, stdout, stderr string) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(fds[0], true)
	port, theirs := os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "guest port")
	defer port.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+t.TempDir(), "GORACE=atexit_sleep_ms=0")
	cmd.ExtraFiles = []*os.File{theirs}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
	}
	if err := cmd.Start(); errors.Is(err, os.ErrPermission) {
		t.Skip("needs root: the guest's init is tested in namespaces of its own")
	} else if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if spec.Root == nil {
		spec.Root = &channel.Mount{Tag: "/"}
	}
	var out started
	var errs bytes.Buffer
	h := channel.NewHost(port, spec, channel.IO{Stdin: stdin, Stdout: &out, Stderr: &errs})
	if steer != nil {
		out.f = func() error { return steer(h) }
	}
	r, err = h.Run()
	if waitErr := cmd.Wait(); waitErr != nil || err != nil && !errors.Is(err, channel.ErrNoResult) {
		t.Fatalf("session: %v; init: %v: %s", err, waitErr, complaint.String())
	}
	return r, out.String(), errs.String()
}

func sh(script string) channel.Spec {
	return channel.Spec{Command: []string{"sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

func TestSession(t *testing.T) {
	exited := func(status int) channel.Result { return channel.Result{Kind: channel.Exited, Status: status} }
	script := filepath.Join(t.TempDir(), "script")
	os.WriteFile(script, []byte("#!/no/such/interpreter\n"), 0o755)
	blob := filepath.Join(t.TempDir(), "blob")
	os.WriteFile(blob, []byte("neither ELF nor script"), 0o755)
	overTerminal := func(s channel.Spec) channel.Spec {
		s.Terminal, s.Rows, s.Cols = true, 33, 101
		return s
	}
	for _, c := range []struct {
		name           string
		spec           channel.Spec
		stdin          string
		want           channel.Result
		stdout, stderr string
	}{
		{"status and streams", sh("echo out; echo err >&2; exit 7"), "", exited(7), "out\n", "err\n"},
		{"input", sh("tr a-z A-Z"), "text", exited(0), "TEXT", ""},
		{"unread input", sh("exit 3"), strings.Repeat("x", 1<<20), exited(3), "", ""},
		{"killed", sh("kill -9 $$"), "", channel.Result{Kind: channel.Signaled, Status: 9}, "", ""},
		{"orphans are reaped", sh("(sh -c 'exit 5' &) ; sh -c 'exit 6' & wait $!; exit 4"), "", exited(4), "", ""},
		{"the command does not wait for others", sh("sleep 1000 & echo started"), "", exited(0), "started\n", ""},
		{"others that ignore SIGTERM", sh("(trap '' TERM; exec sleep 1000) & sleep 0.1; echo started"), "", exited(0), "started\n", ""},
		{"not a terminal", sh("for i in 0 1 2; do test -t $i && echo $i; done; exit 0"), "", exited(0), "", ""},
		{"nothing else open", channel.Spec{Command: []string{"ls", "/proc/self/fd"}}, "", exited(0), "0\n1\n2\n3\n", ""}, // 3 is ls's own
		// Signals from 32 are the C library's and whatever started the tests may ignore one.
		{"default signals", sh("for s in $(grep -E 'Sig(Blk|Ign):' /proc/self/status | cut -f2); do echo $((0x$s & 0x7fffffff)); done"), "", exited(0), "0\n0\n", ""},
		{"session leader", sh("set -- $(cat /proc/$$/stat); test $1 = $5 && test $1 = $6"), "", exited(0), "", ""},
		{"host name", func() channel.Spec { s := sh("cat /proc/sys/kernel/hostname"); s.Hostname = "inside"; return s }(), "", exited(0), "inside\n", ""},
		{"loopback", sh("grep -c 'lo$' /proc/net/if_inet6; grep -c 127.0.0.1 /proc/net/fib_trie >/dev/null && echo up"), "", exited(0), "1\nup\n", ""},
		{"working directory", func() channel.Spec { s := sh("pwd; echo $PWD"); s.Dir = "/usr"; return s }(), "", exited(0), "/usr\n/usr\n", ""},
		{"devices", sh("test -c /dev/null && test -d /dev/shm && test -d /dev/pts && echo x | cat /dev/fd/0 && ls /run"), "", exited(0), "x\n", ""},
		{"not found", channel.Spec{Command: []string{"no-such-command"}}, "", channel.Result{Kind: channel.NotFound, Message: "no-such-command: command not found in the guest"}, "", ""},
		{"no interpreter", channel.Spec{Command: []string{script}}, "", channel.Result{Kind: channel.NotExecutable, Message: script + ": cannot be executed in the guest: its interpreter or loader is not in the guest"}, "", ""},
		{"no program", channel.Spec{Command: []string{blob}}, "", channel.Result{Kind: channel.NotExecutable, Message: blob + ": cannot be executed in the guest: neither a program for this machine nor a script that names its interpreter"}, "", ""},
		{"terminal", overTerminal(sh("test -t 0 && test -t 1 && test -t 2 && stty size; exit 8")), "", exited(8), "33 101\r\n", ""},
		{"end of input on a terminal", overTerminal(sh("stty -echo; cat; echo end")), "", exited(0), "end\r\n", ""},
		{"shell", channel.Spec{Env: []string{"SHELL=/bin/sh", "HOME=/nowhere"}}, "echo $0; exit 9\n", exited(9), "-sh\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var stdin io.Reader
			if c.stdin != "" {
				stdin = strings.NewReader(c.stdin)
			}
			r, stdout, stderr := guest(t, c.spec, stdin, nil)
			if r != c.want || stdout != c.stdout || stderr != c.stderr {
				t.Errorf("result %+v, want %+v\nstdout %q, want %q\nstderr %q, want %q", r, c.want, stdout, c.stdout, stderr, c.stderr)
			}
		})
	}
}

func TestSessionIsEightBitClean(t *testing.T) {
	input := make([]byte, 3<<20)
	rand.Read(input)
	r, stdout, _ := guest(t, sh("cat"), bytes.NewReader(input), nil)
	if r.Kind != channel.Exited || stdout != string(input) {
		t.Errorf("result %+v, %d of %d bytes", r, len(stdout), len(input))
	}
}

func TestSignalAndResize(t *testing.T) {
	in, out := io.Pipe()
	defer out.Close()
	spec := sh(`trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.02; done`)
	spec.Terminal, spec.Rows, spec.Cols = true, 24, 80
	r, stdout, _ := guest(t, spec, in, func(h *channel.Host) error {
		h.Resize(40, 120)
		return nil
	})
	if r != (channel.Result{Kind: channel.Exited, Status: 3}) || !strings.Contains(stdout, "40 120") {
		t.Errorf("resize: %+v, output %q", r, stdout)
	}
	// The whole group gets it: a shell runs its trap only once its child has ended.
	// The child says ready itself, after the fork.
	r, _, _ = guest(t, sh("trap : TERM; sh -c 'echo ready; exec sleep 1000'; exit 5"), nil, func(h *channel.Host) error {
		h.Signal(int(unix.SIGTERM))
		return nil
	})
	if r != (channel.Result{Kind: channel.Exited, Status: 5}) {
		t.Errorf("signal: %+v", r)
	}
}

// A command whose output nobody reads ends as it would in a shell pipeline,
// or on a terminal that hangs up.
func TestClosedOutput(t *testing.T) {
	closed := func(*channel.Host) error { return unix.EPIPE }
	r, stdout, _ := guest(t, channel.Spec{Command: []string{"yes"}}, nil, closed)
	if r != (channel.Result{Kind: channel.Signaled, Status: int(unix.SIGPIPE)}) || stdout != "" {
		t.Errorf("pipe: %+v, output %q", r, stdout)
	}
	spec := sh("echo ready; sleep 1000; exit 1")
	spec.Terminal = true
	if r, _, _ = guest(t, spec, nil, closed); r != (channel.Result{Kind: channel.Signaled, Status: int(unix.SIGHUP)}) {
		t.Errorf("terminal: %+v", r)
	}
}

// "poweroff" in the guest signals init and expects the machine to end.
func TestStopRequest(t *testing.T) {
	r, stdout, _ := guest(t, sh("echo ready; kill -USR2 1; sleep 1000"), nil, nil)
	if r != (channel.Result{}) || stdout != "ready\n" {
		t.Errorf("%+v, output %q", r, stdout)
	}
}

// roots makes a root without a file system of its own: programs come from the
// machine's /usr as a volume.
func roots(t *testing.T, dirs ...string) (root string, usr channel.Mount) {
	t.Helper()
	if info, err := os.Lstat("/bin"); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Skip("needs a machine whose /bin is in /usr")
	}
	root = t.TempDir()
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"bin", "lib", "lib64"} {
		os.Symlink("usr/"+link, filepath.Join(root, link))
	}
	os.Chmod(root, 0o711)
	return root, channel.Mount{Tag: "/usr", Path: "/usr", ReadOnly: true}
}

var fullRoot = []string{"proc", "sys", "dev", "usr", "tmp", "var/tmp", "run", "etc"}

func TestReadOnlyRoot(t *testing.T) {
	root, usr := roots(t, fullRoot...)
	spec := sh("touch /tmp/a /var/tmp/b /run/c && stat -c %a /tmp /run; touch /etc/made")
	spec.Root, spec.Mounts = &channel.Mount{Tag: root, ReadOnly: true}, []channel.Mount{usr}
	r, stdout, stderr := guest(t, spec, nil, nil)
	if r.Status != 1 || stdout != "1777\n755\n" || !strings.Contains(stderr, "Read-only file system") {
		t.Errorf("%+v %q %q", r, stdout, stderr)
	}
	if left, _ := filepath.Glob(root + "/{tmp,var/tmp,run,etc}/*"); len(left) != 0 {
		t.Errorf("on the host: %v", left)
	}
}

func TestWritableRootAndVolumes(t *testing.T) {
	root, usr := roots(t, fullRoot...)
	volume, fixed := t.TempDir(), t.TempDir()
	spec := sh("echo one >/etc/made; echo two >/data/deep/made; touch /fixed/made; exit 11")
	spec.Root = &channel.Mount{Tag: root}
	spec.Mounts = []channel.Mount{usr, {Tag: volume, Path: "/data/deep"}, {Tag: fixed, Path: "fixed", ReadOnly: true}}
	r, _, stderr := guest(t, spec, nil, nil)
	if r.Status != 11 || !strings.Contains(stderr, "Read-only file system") {
		t.Errorf("%+v %q", r, stderr)
	}
	for path, want := range map[string]string{root + "/etc/made": "one\n", volume + "/made": "two\n"} {
		if got, err := os.ReadFile(path); string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

func TestOverlay(t *testing.T) {
	root, usr := roots(t, fullRoot...)
	spec := sh("echo one >/etc/made && cat /etc/made && rmdir /var/tmp && stat -c %a / && cat /data/file")
	volume := t.TempDir()
	os.WriteFile(volume+"/file", []byte("of the volume\n"), 0o644)
	spec.Root, spec.Overlay = &channel.Mount{Tag: root, ReadOnly: true}, true
	spec.Mounts = []channel.Mount{usr, {Tag: volume, Path: "/data"}}
	r, stdout, stderr := guest(t, spec, nil, nil)
	if r.Status != 0 || stdout != "one\n711\nof the volume\n" {
		t.Errorf("%+v %q %q", r, stdout, stderr)
	}
	for _, path := range []string{"/etc/made", "/data"} {
		if _, err := os.Stat(root + path); err == nil {
			t.Errorf("%s is on the host", path)
		}
	}
	if _, err := os.Stat(root + "/var/tmp"); err != nil {
		t.Errorf("removed from the host: %v", err)
	}
}

func TestSetupFails(t *testing.T) {
	bare, usr := roots(t, "dev", "usr")
	full, _ := roots(t, fullRoot...)
	os.WriteFile(full+"/file", nil, 0o644)
	for _, c := range []struct {
		name, root string
		mounts     []channel.Mount
		want       string
	}{
		{"no /proc", bare, []channel.Mount{usr}, "mount point /share/proc is missing and cannot be made: read-only file system"},
		{"no mount point", full, []channel.Mount{usr, {Tag: "/usr", Path: "/data"}}, `share "/usr": mount point /data is missing and cannot be made: read-only file system`},
		{"a file", full, []channel.Mount{{Tag: "/usr", Path: "/file"}}, `share "/usr": mount point /file is not a directory`},
		{"no share", full, []channel.Mount{{Tag: "/absent", Path: "/usr"}}, "no such file or directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := sh("true")
			spec.Root, spec.Mounts = &channel.Mount{Tag: c.root, ReadOnly: true}, c.mounts
			if r, _, _ := guest(t, spec, nil, nil); r.Kind != channel.SetupFailed || r.Message != c.want {
				t.Errorf("%+v, want %q", r, c.want)
			}
		})
	}
}
