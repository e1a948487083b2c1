package boot

import (
	"os"
	"path/filepath"
	"testing"

	"tenon/vmm/layout"
)

// stockKernel returns a kernel of the user's cache, or skips.
func stockKernel(t *testing.T, name string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip("SKIPPED: no cache directory: ", err)
	}
	path := filepath.Join(cache, "tenon", "kernels", name, "vmlinuz")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("SKIPPED: no stock kernel %s: run scripts/kernel %s", path, name)
	}
	return path
}

func TestStockKernels(t *testing.T) {
	for _, c := range []struct {
		name     string
		virtiofs bool // built in
	}{{"6.12", true}, {"6.1", false}} {
		t.Run(c.name, func(t *testing.T) {
			path, dir := stockKernel(t, c.name), t.TempDir()
			i := open(t, path, dir)
			if i.Opaque || i.Release == "" || i.Release != i.banner() {
				t.Errorf("opaque %v, release %q, banner %q", i.Opaque, i.Release, i.banner())
			}
			if got := i.Contains("virtiofs"); got != c.virtiofs {
				t.Errorf("Contains(virtiofs) = %v", got)
			}
			_, e, err := loadInto(t, open(t, path, dir), Params{RAM: layout.RAM(i.MinMemory())})
			if err != nil || e.Mode != PVH32 || !i.program.holds(e.RIP) {
				t.Errorf("entry %v at %#x: %v", e.Mode, e.RIP, err)
			}
		})
	}
}
