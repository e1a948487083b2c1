package linuxtest

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestDoorbellsArePorts: Linux takes the doorbells that are ports, of all devices,
// and moves none of them from where it found them.
func TestDoorbellsArePorts(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	r := shell(t, "cat /proc/ioports", "--kernel-log", log).want(t, 0)
	const devices = 3 // console, random numbers, the root
	if n := len(regexp.MustCompile(`(?m)^ +1[0-9a-f]{3}-1[0-9a-f]{3} : virtio-pci-modern$`).FindAllString(r.stdout, -1)); n != devices {
		t.Errorf("%d devices ring by ports, want %d:\n%s", n, devices, r.stdout)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "the kernel log", string(b), "root bus resource [io  0x1000-0xffff window]")
	if m := regexp.MustCompile(`.*(BAR.*(can't|conflict|failed)|assigned).*`).FindString(string(b)); m != "" {
		t.Errorf("the kernel log says %q", m)
	}
}
