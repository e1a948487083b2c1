package virtiofs_test

import (
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// TestCreationRaces: whatever the host does with a name that a guest is making, the
// guest gets the type it asked for, or an error after which its kernel asks again.
// An entry of another type, or ENOENT, would be an error of the file system to it.
func TestCreationRaces(t *testing.T) {
	for _, mode := range []passthrough.HandleMode{passthrough.HandlesAuto, passthrough.HandlesNever} {
		dir, c := connect(t, passthrough.Options{Handles: mode})
		file, _, e := c.Create(fuse.RootID, "file", unix.O_RDWR, 0o644)
		ok(t, "CREATE", e)
		stop, done := make(chan struct{}), sync.WaitGroup{}
		done.Add(1)
		go func() {
			defer done.Done()
			x, away := filepath.Join(dir, "x"), filepath.Join(dir, "away")
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = unix.Rename(x, away)
				if fd, err := unix.Open(x, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY, 0o600); err == nil {
					_ = unix.Close(fd)
				}
				_ = unix.Unlink(x)
				_ = unix.Rmdir(away)
				_ = unix.Unlink(away)
			}
		}()
		errors := map[unix.Errno]int{}
		for range 10000 {
			entry, e := c.Mkdir(fuse.RootID, "x", 0o755)
			errors[e]++
			if e == 0 && entry.Attr.Mode&unix.S_IFMT != unix.S_IFDIR {
				t.Fatalf("MKDIR answers with mode %o", entry.Attr.Mode)
			}
			link, e := c.Link(file.Node, fuse.RootID, "x")
			errors[e]++
			if e == 0 && link.Attr.Mode&unix.S_IFMT != unix.S_IFREG {
				t.Fatalf("LINK answers with mode %o", link.Attr.Mode)
			}
		}
		close(stop)
		done.Wait()
		delete(errors, 0)
		t.Logf("errors: %v", errors)
		delete(errors, unix.EEXIST)
		delete(errors, unix.ESTALE)
		if len(errors) != 0 {
			t.Errorf("errors: %v", errors)
		}
	}
}
