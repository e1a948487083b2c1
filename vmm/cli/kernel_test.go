package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindKernel(t *testing.T) {
	b := newBench(t, nil)
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{
		"bare/vmlinux",
		"tree/vmlinux", "tree/arch/x86/boot/bzImage",
		"copied/bzImage", "copied/vmlinux", "copied/lib/modules/6.9/modules.order",
		"two/vmlinuz", "two/lib/modules/6.1/x", "two/lib/modules/6.2/x",
		"unpacked/boot/vmlinuz-6.1", "unpacked/lib/modules/6.1/modules.order", "unpacked/lib/modules/6.2/x",
		"unpacked/boot/vmlinuz-6.3",
		"6.1", // a file goes before a kernel of the cache
	} {
		write(t, name, "")
	}
	for _, name := range []string{"6.1", "6.12"} {
		if err := os.Symlink("6.12.0-fake", filepath.Join(b.cache, "kernels", name)); err != nil {
			t.Fatal(err)
		}
	}
	cached := filepath.Join(b.cache, "kernels/6.12.0-fake")
	fromCache := kernel{Image: cached + "/vmlinuz", Modules: cached + "/lib/modules/6.12.0-fake"}
	for name, want := range map[string]kernel{
		"":                          fromCache,
		"default":                   fromCache,
		"6.12":                      fromCache,
		"6.12.0-fake":               fromCache,
		cached:                      fromCache,
		"6.1":                       {Image: "6.1"},
		"missing":                   {Image: "missing"},
		"missing/vmlinuz":           {Image: "missing/vmlinuz"},
		"bare":                      {Image: "bare/vmlinux"},
		"tree":                      {Image: "tree/arch/x86/boot/bzImage"},
		"tree/vmlinux":              {Image: "tree/vmlinux"},
		"copied":                    {Image: "copied/bzImage", Modules: "copied/lib/modules/6.9"},
		"two":                       {Image: "two/vmlinuz"},
		"unpacked/boot/vmlinuz-6.1": {Image: "unpacked/boot/vmlinuz-6.1", Modules: "unpacked/lib/modules/6.1"},
		"unpacked/boot/vmlinuz-6.3": {Image: "unpacked/boot/vmlinuz-6.3"},
	} {
		for _, path := range []*string{&want.Image, &want.Modules} {
			if *path != "" && !filepath.IsAbs(*path) {
				*path = filepath.Join(dir, *path)
			}
		}
		if got, err := findKernel(name); err != nil || got != want {
			t.Errorf("%q is %+v, %v, want %+v", name, got, err, want)
		}
	}
	if got, err := findKernel("."); err == nil {
		t.Errorf("a directory without a kernel is %+v", got)
	}
}

func TestRunningKernel(t *testing.T) {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	k, err := findKernel("host")
	if err != nil || !strings.Contains(k.Image, strings.TrimSpace(string(release))) || !filepath.IsAbs(k.Image) {
		t.Errorf("%+v, %v", k, err)
	}
}
