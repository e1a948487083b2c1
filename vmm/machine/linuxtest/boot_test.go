package linuxtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRootIsHostThroughVirtiofs(t *testing.T) {
	report := filepath.Join(t.TempDir(), "report.json")
	r := shell(t, `grep " / " /proc/mounts; uname -r; exit 7`, "--report", report).want(t, 7)
	if !strings.Contains(r.stdout, "virtiofs / ") && !strings.Contains(r.stdout, "overlay / overlay") {
		t.Errorf("the root is no virtiofs: %s", r.stdout)
	}
	contains(t, "the guest", r.stdout, "\n6.12.")
	if r.stderr != "" {
		t.Errorf("standard error: %s", r.stderr)
	}
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var figures struct {
		Stages []struct {
			Name string  `json:"name"`
			Done float64 `json:"done_ms"`
		} `json:"stages"`
		Overhead int `json:"overhead_kib"`
		Shared   int `json:"overhead_shared_kib"`
	}
	if err := json.Unmarshal(b, &figures); err != nil {
		t.Fatal(err)
	}
	t.Logf("stages (ms since exec): %v; resident beyond guest RAM: %d KiB, of which %d shared", figures.Stages, figures.Overhead, figures.Shared)
	const most = 15 << 10
	if figures.Overhead <= 0 || figures.Overhead > most {
		t.Errorf("tenon took %d KiB beyond guest RAM, at most %d are allowed", figures.Overhead, most)
	}
	if figures.Shared <= 0 || figures.Shared >= figures.Overhead {
		t.Errorf("%d KiB of the %d are said to be shared", figures.Shared, figures.Overhead)
	}
	var last []string
	for _, s := range figures.Stages[max(0, len(figures.Stages)-3):] {
		last = append(last, s.Name)
	}
	if want := []string{"first KVM_RUN", "init", "guest"}; !slices.Equal(last, want) {
		t.Errorf("the last stages are %q, want %q", last, want)
	}
}

func TestFourCPUs(t *testing.T) {
	r := shell(t, `nproc; cat /sys/devices/system/cpu/cpu*/topology/physical_package_id | sort -u | wc -l; cat /sys/fs/virtiofs/*/mqs/*/cpu_list`, "-c", "4").want(t, 0)
	f := strings.Fields(r.stdout)
	if len(f) < 3 || f[0] != "4" || f[1] != "1" {
		t.Fatalf("processors, sockets: %q, want 4 in 1", r.stdout)
	}
	if queues := f[2:]; len(queues) < 4 {
		t.Errorf("request queues by processor: %v, want 4", queues)
	}
}

// busyboxRoot makes a root directory with nothing but busybox in it.
func busyboxRoot(t *testing.T) string {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed (apt-get install busybox-static)")
	}
	root := t.TempDir()
	for _, dir := range []string{"bin", "dev", "proc", "sys", "tmp", "run", "etc"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "grep", "uname", "cat", "ls", "mount", "id"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestNoInitrd(t *testing.T) {
	root := busyboxRoot(t)
	r := shell(t, `grep " / " /proc/mounts; uname -r; echo written > /etc/here; ls -a /; exit 7`,
		"--no-initrd", "--root", root+",rw").want(t, 7)
	contains(t, "the guest", r.stdout, "virtiofs rw", "\n6.12.")
	if b, err := os.ReadFile(filepath.Join(root, "etc/here")); err != nil || string(b) != "written\n" {
		t.Errorf("the file written in the guest is %q on the host: %v", b, err)
	}
	if strings.Contains(r.stdout, ".tenon") {
		t.Errorf("the guest's init is listed in the root directory:\n%s", r.stdout)
	}
}

// TestOwnInitrd boots an initrd whose init is not Tenon's: the console is ours,
// and powering off is a success.
func TestOwnInitrd(t *testing.T) {
	root := busyboxRoot(t)
	init := "#!/bin/sh\nbusybox mount -t proc proc /proc\nbusybox echo hello from $(busybox uname -r)\nread line\nbusybox echo got $line\nbusybox poweroff -f\n"
	if err := os.WriteFile(filepath.Join(root, "init"), []byte(init), 0o755); err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	cmd := exec.Command("sh", "-c", `cd "$0" && find . | busybox cpio -o -H newc > "$1"`, root, initrd)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, console := range []string{"hvc", "serial"} {
		t.Run(console, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "kernel.log")
			r := run(t, []byte("typed\n"), "run", "-i", initrd, "--console", console, "--kernel-log", log).want(t, 0)
			contains(t, "the console", r.stdout, "hello from 6.12.", "got typed")
			b, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			contains(t, "the kernel log", string(b), "Linux version 6.12.", "hello from 6.12.")
		})
	}
}

// oldKernel is the modular 6.1 kernel.
func oldKernel(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	kernel := filepath.Join(cache, "tenon/kernels/6.1")
	if _, err := os.Stat(kernel); err != nil {
		t.Skip("no 6.1 kernel in the cache: run scripts/kernel 6.1")
	}
	return kernel
}

func TestModularKernel(t *testing.T) {
	r := shell(t, `grep " / " /proc/mounts; uname -r; exit 7`, "-k", oldKernel(t)).want(t, 7)
	contains(t, "the guest", r.stdout, "\n6.1.")
	if !strings.Contains(r.stdout, "virtiofs / ") && !strings.Contains(r.stdout, "overlay / overlay") {
		t.Errorf("the root is no virtiofs: %s", r.stdout)
	}
}

func TestSerialConsole(t *testing.T) {
	log := filepath.Join(t.TempDir(), "kernel.log")
	shell(t, `echo hello > /dev/kmsg; exit 3`, "--console", "serial", "--kernel-log", log).want(t, 3)
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "the kernel log", string(b), "Linux version 6.12.", "console [ttyS0] enabled")
}

func TestServices(t *testing.T) {
	for _, service := range []string{"exit", "worker", "poll"} {
		t.Run(service, func(t *testing.T) {
			dir := t.TempDir()
			r := shell(t, `cd /mnt && dd if=/dev/urandom of=a bs=64k count=32 conv=fsync 2>/dev/null && cat a > b && cmp a b && sha256sum a`,
				"--service", service, "-c", "2", "-v", dir+":/mnt,rw").want(t, 0)
			sum, err := exec.Command("sha256sum", filepath.Join(dir, "b")).Output()
			if err != nil {
				t.Fatal(err)
			}
			if guest, host := strings.Fields(r.stdout), strings.Fields(string(sum)); len(guest) == 0 || guest[0] != host[0] {
				t.Errorf("guest %s, host %s", r.stdout, sum)
			}
		})
	}
}
