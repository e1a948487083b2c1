// Package linuxtest boots stock Linux kernels with the tenon binary and looks
// at what comes out: the top rung of the tests. It needs a KVM that runs stock
// kernels (scripts/lab gives one), a kernel from scripts/kernel and bin/tenon.
//
// Sizes are small enough for an emulated machine. For longer runs these variables
// set them: TENON_TEST_FILES (a tree to walk), TENON_TEST_MEMORY (of its guest, as
// for tenon run -m), TENON_TEST_TAR_FILES, TENON_TEST_GIT_FILES, TENON_TEST_C_FILES,
// TENON_TEST_ROWS (in a transaction each), TENON_TEST_STORM_SECONDS,
// TENON_TEST_DAX_ACCESSES, TENON_TEST_INCREMENTS, TENON_TEST_GUESTS and TENON_TEST_SHARED_MIB (that each of
// these reads). TENON_TEST_FIGURES=1 measures throughput, in TENON_TEST_ROUNDS.
package linuxtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// bootTime bounds one guest: boots take a second on hardware, and some ten
// seconds in an emulated machine.
const bootTime = 4 * time.Minute

// program finds bin/tenon, wherever the test was started from.
var program = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("TENON"); path != "" {
		return path, nil
	}
	for _, up := range []string{".", "../../.."} {
		path, err := filepath.Abs(filepath.Join(up, "bin", "tenon"))
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("bin/tenon is missing: run make build")
})

// needKVM skips the test where no stock kernel can run.
func needKVM(t *testing.T) string {
	t.Helper()
	tenon, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tenon, "doctor", "--kvm-only").CombinedOutput(); err != nil {
		t.Skipf("no KVM that runs stock kernels: %s", bytes.TrimSpace(out))
	}
	return tenon
}

// result is what a run of tenon left behind.
type result struct {
	stdout, stderr string
	status         int
	took           time.Duration
}

// again lists the guests that died in an emulated machine and were started once
// more; TestStartedAgain tells of them.
var again []string

// run runs tenon with stdin and the arguments. Software emulation of nested
// virtualisation crashes a guest now and then, with any VMM: there, and only
// there, a guest that died is started once more.
func run(t *testing.T, stdin []byte, args ...string) result {
	t.Helper()
	r := runOnce(t, stdin, args...)
	if r.status == 255 && os.Getenv("LAB_EMULATED") != "" {
		t.Logf("the guest died in an emulated machine and is started again:\n%s", r.stderr)
		again = append(again, t.Name())
		return runOnce(t, stdin, args...)
	}
	return r
}

// runOnce is run for tests of how a guest dies.
func runOnce(t *testing.T, stdin []byte, args ...string) result {
	t.Helper()
	tenon := needKVM(t)
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, tenon, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	from := time.Now()
	err := cmd.Run()
	r := result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(from)}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("tenon %q: %v", args, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("tenon %q did not end within %v\nstdout: %s\nstderr: %s", args, bootTime, r.stdout, r.stderr)
	}
	t.Logf("%v: tenon %s", r.took.Round(10*time.Millisecond), strings.Join(args, " "))
	return r
}

// shell runs a script in a guest with the given flags before it.
func shell(t *testing.T, script string, flags ...string) result {
	t.Helper()
	return run(t, nil, append(append([]string{"run"}, flags...), "--", "sh", "-c", script)...)
}

// want fails the test unless the run exited with status.
func (r result) want(t *testing.T, status int) result {
	t.Helper()
	if r.status != status {
		t.Fatalf("exit status %d, want %d\nstdout: %s\nstderr: %s", r.status, status, r.stdout, r.stderr)
	}
	return r
}

// contains fails the test unless text holds every part.
func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s does not say %q:\n%s", what, p, text)
		}
	}
}
