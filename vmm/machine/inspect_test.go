package machine

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/dax"
	"tenon/vmm/config"
	"tenon/vmm/vcpu"
)

// caught is a guest with a file in its window that has a hole from the second page
// on, on a file system without space.
func caught(t *testing.T, o guestOptions) *daxGuest {
	t.Helper()
	g := newDAXGuest(t, o)
	full := t.TempDir()
	if err := unix.Mount("full", full, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("SKIPPED: a small file system takes the right to mount: %v", err)
	}
	t.Cleanup(func() {
		g.window.Reset()
		if err := unix.Unmount(full, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(full, "sparse")
	must(t, os.WriteFile(path, []byte{7}, 0o600))
	must(t, os.Truncate(path, 16*page))
	_ = os.WriteFile(filepath.Join(full, "filler"), make([]byte, 64<<10), 0o600) // what fits of it
	g.files[1] = path
	g.show(1, 0, dax.RangeSize, true)
	end := make(chan struct{})
	inspected := make(chan struct{})
	go func() {
		defer close(inspected)
		g.faults.inspect([]*vcpu.CPU{g.cpu}, end)
	}()
	t.Cleanup(func() {
		close(end)
		<-inspected
	})
	if got := g.load(0); got != 7 {
		t.Errorf("the first page reads %d", got)
	}
	return g
}

// TestGuestCaughtIsSignaled: KVM never comes back from a store to a page that the host
// has no space for. The guest's kernel hears of it all the same.
func TestGuestCaughtIsSignaled(t *testing.T) {
	g := caught(t, guestOptions{policy: config.DAXFaultSigbus, amd: true})
	if got := g.do(doStore, windowAt+2*page, 0, 0, 9); got != signaled {
		t.Errorf("the store comes to %#x, not to a machine check", got)
	}
	if s := g.window.Stats(); s.Failed != 1 || s.Signaled != 1 || s.Zeroed != 0 {
		t.Errorf("figures: %+v", s)
	}
	if got := g.load(0); got != 7 {
		t.Errorf("then the first page reads %d", got)
	}
}

// TestGuestCaughtGetsZeros: it goes on with a page of its own, and what it stored there
// is lost, not unnoticed.
func TestGuestCaughtGetsZeros(t *testing.T) {
	g := caught(t, guestOptions{policy: config.DAXFaultZero})
	g.store(2*page, 9)
	if s := g.window.Stats(); s.Failed == 0 || s.Failed != s.Zeroed || s.Signaled != 0 {
		t.Errorf("figures: %+v", s)
	}
	if !g.window.Lost(1) {
		t.Error("a store was lost and nobody is told")
	}
	if got := g.load(4 * page); got != 0 {
		t.Errorf("another hole reads %d", got)
	}
}
