package linuxtest

import (
	"bytes"
	"crypto/rand"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStandardStreams(t *testing.T) {
	r := run(t, []byte("hi\n"), "run", "--", "cat").want(t, 0)
	if r.stdout != "hi\n" || r.stderr != "" {
		t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
	}
	r = shell(t, `echo out; echo err >&2; kill -9 $$`).want(t, 128+9)
	if r.stdout != "out\n" || !strings.HasPrefix(r.stderr, "err\n") {
		t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
	}
}

func TestTenMiBThroughStdio(t *testing.T) {
	data := make([]byte, 10<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	r := run(t, data, "run", "--", "cat").want(t, 0)
	if !bytes.Equal([]byte(r.stdout), data) {
		t.Errorf("%d bytes came back, or other ones", len(r.stdout))
	}
}

func TestCommandsThatCannotRun(t *testing.T) {
	run(t, nil, "run", "--", "no-such-command").want(t, 127)
	run(t, nil, "run", "--", "/etc/passwd").want(t, 126)
}

func TestTimeout(t *testing.T) {
	r := run(t, nil, "run", "--timeout", "20s", "--", "sleep", "1000").want(t, 124)
	contains(t, "standard error", r.stderr, "timeout")
}

// TestTimeoutWithoutGuest is a timeout that passes before the guest can hear of it.
func TestTimeoutWithoutGuest(t *testing.T) {
	if r := run(t, nil, "run", "--timeout", "1s", "--", "true").want(t, 124); r.took > 30*time.Second {
		t.Errorf("it took %v", r.took)
	}
}

func TestPanicIsNoPass(t *testing.T) {
	r := runOnce(t, nil, "run", "--", "sh", "-c", `echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 1000`).want(t, 255)
	contains(t, "standard error", r.stderr, "Kernel panic")
	if r.stdout != "" {
		t.Errorf("the kernel log is on standard output: %s", r.stdout)
	}
}

func TestPowerOffIsNoPass(t *testing.T) {
	runOnce(t, nil, "run", "--", "sh", "-c", `echo 1 > /proc/sys/kernel/sysrq; echo o > /proc/sysrq-trigger; sleep 1000`).want(t, 255)
}

// TestTerm sends SIGTERM to tenon: the command hears of it, what it writes
// then is on the host, and the status says how it ended.
func TestTerm(t *testing.T) {
	tenon := needKVM(t)
	dir := t.TempDir()
	cmd := exec.Command(tenon, "run", "-v", dir+":/mnt,rw", "--", "sh", "-c",
		`trap 'echo ended > /mnt/ended; exit 9' TERM; echo ready; while :; do sleep 0.1; done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(bootTime, func() { cmd.Process.Kill() })
	defer kill.Stop()
	ready := make([]byte, 6)
	if _, err := out.Read(ready); err != nil {
		t.Fatalf("the guest never got ready: %v\n%s", err, stderr.String())
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != 128+15 {
		t.Errorf("exit status %d, want 143\n%s", status, stderr.String())
	}
	if got, err := exec.Command("cat", dir+"/ended").Output(); err != nil || string(got) != "ended\n" {
		t.Errorf("the command's last words are %q: %v", got, err)
	}
}
