package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

func name(t *testing.T, s string) virtiofs.Name {
	t.Helper()
	n, _, e := virtiofs.ParseName(append([]byte(s), 0))
	if e != 0 {
		t.Fatal(e)
	}
	return n
}

// share shares a new directory with files f0, f1, ... of four bytes.
func share(t *testing.T, files int, limit int64) *FS {
	t.Helper()
	return shareWith(t, files, limit, Options{})
}

func shareWith(t *testing.T, files int, limit int64, o Options) *FS {
	t.Helper()
	dir := t.TempDir()
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), []byte("data"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return shareDir(t, dir, limit, o)
}

func shareDir(t *testing.T, dir string, limit int64, o Options) *FS {
	t.Helper()
	o.Budget = &Budget{limit: limit}
	f, err := New(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if b := f.budget; b.used.Load() != 0 || b.files.Load() != 0 || b.kept.Load() != 0 || b.idle.Load() != 0 || len(b.clock) != 0 || b.cached.Load() != 0 || len(b.caches) != 0 {
			t.Errorf("left: %d descriptors, %d files, %d kept, %d idle, %d in the clock, %d cached in %d caches",
				b.used.Load(), b.files.Load(), b.kept.Load(), b.idle.Load(), len(b.clock), b.cached.Load(), len(b.caches))
		}
	})
	return f
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestConcurrent: nodes and handles that come and go on many threads are
// counted right, and no call sees a descriptor that became another's.
func TestConcurrent(t *testing.T) {
	f := share(t, 4, 1000)
	before := descriptors(t)
	var wg sync.WaitGroup
	names := []virtiofs.Name{name(t, "f0"), name(t, "f1"), name(t, "f2"), name(t, "f3")}
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var e virtiofs.Entry
			var a fuse.Attr
			buf := make([]byte, 8)
			iov := []unix.Iovec{{Base: &buf[0], Len: 8}}
			for i := range 500 {
				if err := f.Lookup(fuse.RootID, names[(i+w)%4], &e); err != 0 {
					t.Error(err)
					return
				}
				h, _, err := f.Open(e.Node, virtiofs.OpenFlags{})
				if err != 0 {
					t.Error(err)
					return
				}
				file := virtiofs.File{Node: e.Node, Handle: h}
				if n, err := f.Read(file, iov, 0, virtiofs.ReadFlags{MayBlock: true}); n != 4 || err != 0 {
					t.Errorf("read %d %v", n, err)
				}
				if err := f.Getattr(virtiofs.File{Node: e.Node}, &a); err != 0 || a.Size != 4 {
					t.Errorf("size %d %v", a.Size, err)
				}
				if err := f.Release(file); err != 0 {
					t.Error(err)
				}
				f.Forget(e.Node, 1)
			}
		}()
	}
	wg.Wait()
	if f.Stats().Nodes != 0 || f.budget.Used() != 0 || descriptors(t) != before {
		t.Errorf("%d nodes, %d in use, %d descriptors more", f.Stats().Nodes, f.budget.Used(), descriptors(t)-before)
	}
}

// TestFDPath holds the paths of descriptors against the formatted number.
func TestFDPath(t *testing.T) {
	for _, fd := range []int{0, 7, 10, 99, 100, 1 << 20, 1<<31 - 1} {
		var p fdPath
		p.absolute(fd)
		if got, want := unix.ByteSliceToString(p[:]), fmt.Sprint(procRoot, fd); got != want {
			t.Errorf("absolute %q, want %q", got, want)
		}
		p.relative(fd)
		if got, want := unix.ByteSliceToString(p[:]), fmt.Sprint(fd); got != want {
			t.Errorf("relative %q, want %q", got, want)
		}
	}
}
