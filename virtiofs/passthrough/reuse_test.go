package passthrough

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHandleOfReusedNumber: the handle of a file that is gone is stale, also at the
// moment when the number of its inode is given to another file.
func TestHandleOfReusedNumber(t *testing.T) {
	dir := t.TempDir()
	mount, err := os.Open(dir)
	check(t, err)
	defer mount.Close()
	path := filepath.Join(dir, "file")
	check(t, os.WriteFile(path, nil, 0o600))
	var h fileHandle
	name := append([]byte("file"), 0)
	if e := handleOf(int(mount.Fd()), &name[0], 0, &h); e != 0 {
		t.Skipf("SKIPPED: no file handles here: %v", e)
	}
	check(t, os.Remove(path))
	if _, e := openByHandle(int(mount.Fd()), &h, unix.O_PATH); e != unix.ESTALE {
		t.Skipf("SKIPPED: a file that is gone: %v", e)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 30000 {
			_ = os.WriteFile(path, nil, 0o600)
			_ = os.Remove(path)
		}
	}()
	for n := 0; ; n++ {
		select {
		case <-done:
			return
		default:
		}
		fd, e := openByHandle(int(mount.Fd()), &h, unix.O_PATH)
		if e == 0 {
			closeFD(fd) // a file system without generations
		}
		if e != unix.ESTALE && e != 0 {
			t.Fatalf("after %d times: %v", n, e)
		}
	}
}
