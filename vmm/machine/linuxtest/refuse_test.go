package linuxtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRefused gives tenon what it cannot run: one line on standard error that
// names the thing, status 125. No KVM is needed.
func TestRefused(t *testing.T) {
	tenon, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no kernel\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("t", 37)
	for _, x := range []struct {
		name string
		args []string
		says []string
	}{
		{"file that is no kernel", []string{"-k", text}, []string{text, "not a Linux kernel"}},
		{"kernel that does not exist", []string{"-k", dir + "/none"}, []string{dir + "/none"}},
		{"share that does not exist", []string{"--share", "data=" + dir + "/none"}, []string{dir + "/none"}},
		{"tag of 37 bytes", []string{"--share", long + "=" + dir}, []string{long, "36"}},
		{"tag used twice", []string{"--share", "data=" + dir, "--share", "data=" + dir}, []string{"data", "twice"}},
		{"unknown share option", []string{"--share", "data=" + dir + ",fast"}, []string{"fast", "ro"}},
		{"less memory than the kernel needs", []string{"-m", "70"}, []string{"70M", "MiB"}},
		{"unknown flag", []string{"--kernell", text}, []string{"kernell"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			refused(t, exec.Command(tenon, append(append([]string{"run"}, x.args...), "--", "true")...), x.says...)
		})
	}
	t.Run("no KVM device", func(t *testing.T) {
		if err := exec.Command("unshare", "-m", "true").Run(); err != nil {
			t.Skipf("no mount namespace to hide /dev/kvm in: %v", err)
		}
		refused(t, exec.Command("unshare", "-m", "sh", "-c", `mount -t tmpfs none /dev && exec "$0" run -- true`, tenon), "/dev/kvm")
	})
}

func refused(t *testing.T, cmd *exec.Cmd, says ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 125 {
		t.Errorf("it ended with %v, want exit status 125", err)
	}
	if n := strings.Count(stderr.String(), "\n"); n != 1 || stdout.Len() != 0 {
		t.Errorf("%d lines on standard error, %d bytes on standard output:\n%s%s", n, stdout.Len(), stderr.String(), stdout.String())
	}
	contains(t, "standard error", stderr.String(), says...)
}
