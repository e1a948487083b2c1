package cli

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"tenon/vmm/machine"
)

func TestDoctor(t *testing.T) {
	able := machine.Capabilities{Present: true, Permitted: true, StockKernels: true}
	builtIn := func(kernel) (string, string, error) { return "6.12.0-fake", "built in", nil }
	for _, c := range []struct {
		name    string
		probe   machine.Capabilities
		inspect func(kernel) (string, string, error)
		status  int
		lines   []string // beginnings
	}{
		{"all good", able, builtIn, 0, []string{
			"ok    KVM ", "ok    permission ", "ok    stock kernels ", "ok    kernel         6.12.0-fake, ", "ok    virtio-fs      built in",
		}},
		{"no KVM", machine.Capabilities{Reason: "load kvm"}, builtIn, 1, []string{
			"FAIL  KVM            load kvm", "ok    kernel", "ok    virtio-fs",
		}},
		{"not permitted", machine.Capabilities{Present: true, Reason: "join kvm"}, builtIn, 1, []string{
			"ok    KVM", "FAIL  permission     join kvm", "ok    kernel", "ok    virtio-fs",
		}},
		{"not able", machine.Capabilities{Present: true, Permitted: true, Reason: "emulated"}, builtIn, 1, []string{
			"ok    KVM", "ok    permission", "FAIL  stock kernels  emulated", "ok    kernel", "ok    virtio-fs",
		}},
		{"no virtio-fs", able, func(kernel) (string, string, error) { return "6.1", "", errors.New("no") }, 1, []string{
			"ok    KVM", "ok    permission", "ok    stock kernels", "ok    kernel         6.1, ", "FAIL  virtio-fs      no",
		}},
		{"not a kernel", able, inspect, 1, []string{
			"ok    KVM", "ok    permission", "ok    stock kernels", "FAIL  kernel         kernel /",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.program.probe = func() machine.Capabilities { return c.probe }
			b.program.inspect = c.inspect
			status := b.tenon("doctor")
			lines := strings.Split(strings.TrimSuffix(b.out.String(), "\n"), "\n")
			if status != c.status || len(lines) != len(c.lines) || b.err.String() != "" {
				t.Fatalf("status %d, stderr %q, stdout\n%s", status, &b.err, &b.out)
			}
			for i, want := range c.lines {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("%q does not begin with %q", lines[i], want)
				}
			}
		})
	}
}

func TestDoctorWithoutKernel(t *testing.T) {
	b := newBench(t, nil)
	if err := os.RemoveAll(filepath.Join(b.cache, "kernels")); err != nil {
		t.Fatal(err)
	}
	if status := b.tenon("doctor"); status != 1 || !strings.Contains(b.out.String(), "run scripts/kernel\n") {
		t.Errorf("status %d, stdout %s", status, &b.out)
	}
}

func TestDoctorKVMOnly(t *testing.T) {
	b := newBench(t, nil)
	if status := b.tenon("doctor", "--kvm-only"); status != 1 || b.out.String() != "" || b.err.String() != "tenon: no KVM in tests\n" {
		t.Errorf("status %d, stdout %q, stderr %q", status, &b.out, &b.err)
	}
	b = newBench(t, nil)
	b.probe = func() machine.Capabilities {
		return machine.Capabilities{Present: true, Permitted: true, StockKernels: true}
	}
	if status := b.tenon("doctor", "--kvm-only"); status != 0 || b.out.String() != "" || b.err.String() != "" {
		t.Errorf("status %d, stdout %q, stderr %q", status, &b.out, &b.err)
	}
}

func TestVersion(t *testing.T) {
	var first string
	for _, args := range [][]string{{"version"}, {"--version"}, {"version", "--verbose"}} {
		b := newBench(t, nil)
		if status := b.tenon(args...); status != 0 || b.err.String() != "" {
			t.Errorf("%q: status %d, stderr %q", args, status, &b.err)
		}
		line, rest, _ := strings.Cut(b.out.String(), "\n")
		if first == "" {
			first = line
		}
		if !strings.HasPrefix(line, "tenon ") || line != first {
			t.Errorf("%q: %s", args, line)
		}
		if verbose := len(args) > 1; verbose != strings.HasSuffix(rest, "\nkvm      no KVM in tests\n") || !verbose && rest != "" {
			t.Errorf("%q: %s", args, rest)
		}
	}
}

func TestVersionOf(t *testing.T) {
	for stamped, want := range map[string]string{
		"v1.2.3": "v1.2.3", "v0.0.0-20260101000000-abcdef+dirty": "v0.0.0-20260101000000-abcdef+dirty",
		"": "(built without version control)", "(devel)": "(built without version control)",
	} {
		if got := versionOf(&debug.BuildInfo{Main: debug.Module{Version: stamped}}); got != want {
			t.Errorf("%q gives %q", stamped, got)
		}
	}
}
