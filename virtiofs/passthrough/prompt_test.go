package passthrough

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

func TestPromptly(t *testing.T) {
	for _, c := range []struct {
		size   uint64
		window bool
		want   bool
	}{
		{4096, false, true},
		{promptRead, false, true},
		{promptRead + 1, false, false},
		{1, true, false},
	} {
		if got := promptly(c.size, c.window); got != c.want {
			t.Errorf("%d bytes, window %v: %v", c.size, c.window, got)
		}
	}
}

// openedFile is a share of a directory with one file of the contents, open.
func openedFile(t *testing.T, dir string, contents []byte) (*FS, virtiofs.File, *handle) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "f"), contents, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := New(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	var x virtiofs.Entry
	if e := f.Lookup(fuse.RootID, name(t, "f"), &x); e != 0 {
		t.Fatal(e)
	}
	id, _, e := f.Open(x.Node, virtiofs.OpenFlags{Flags: unix.O_RDWR})
	if e != 0 {
		t.Fatal(e)
	}
	file := virtiofs.File{Node: x.Node, Handle: id}
	h, e := f.handles.pin(file, false)
	if e != 0 {
		t.Fatal(e)
	}
	t.Cleanup(func() { f.handles.unpin(h) })
	return f, file, h
}

func contents(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8)
	}
	return b
}

// TestReadCached: what is read promptly is only what is in the cache, and after it was
// not, the next read takes the longer way, until all is there again.
func TestReadCached(t *testing.T) {
	want := contents(256 << 10)
	f, file, h := openedFile(t, t.TempDir(), want)
	buf := make([]byte, 16<<10)
	read := func(off int64) (int, unix.Errno) {
		t.Helper()
		n, e := f.Read(file, []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}, off, virtiofs.ReadFlags{})
		if e == 0 && !bytes.Equal(buf[:n], want[off:off+int64(n)]) {
			t.Errorf("%d bytes at %d: others than in the file", n, off)
		}
		if whole := e == 0 && n == len(buf); h.cached.Load() != whole && h.plain.Load() == plainNo {
			t.Errorf("%d bytes, %v: cached is %v", n, e, h.cached.Load())
		}
		return n, e
	}
	if h.plain.Load() != plainNo || h.cached.Load() {
		t.Fatal("known before anything was read")
	}
	for range 3 {
		if n, e := read(0); n != len(buf) || e != 0 {
			t.Fatal(n, e)
		}
	}
	if h.plain.Load() != plainNo {
		t.Skip("SKIPPED: the temporary directory's file system has no RWF_NOWAIT")
	}
	if e := fsync(h.fd, false); e != 0 {
		t.Fatal(e)
	}
	if err := unix.Fadvise(h.fd, 16<<10, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	// Half of it is there: short or nothing, unless the host has read ahead already.
	if n, e := read(8 << 10); e != 0 && e != unix.EAGAIN || e == 0 && n < 8<<10 {
		t.Error(n, e)
	}
	if _, e := read(128 << 10); e != 0 && e != unix.EAGAIN {
		t.Error(e)
	}
	if n, e := f.Read(file, []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}, 0, virtiofs.ReadFlags{MayBlock: true}); n != len(buf) || e != 0 {
		t.Error(n, e)
	}
	if n, e := read(0); n != len(buf) || e != 0 {
		t.Error(n, e)
	}
	if n, e := read(int64(len(want)) - 100); e == 0 && n != 100 {
		t.Error("at the end:", n, e)
	}
}

// TestReadPlain: a file system without RWF_NOWAIT is asked for it only once, and read
// plainly: as long as it is little, or any length where there is no storage.
func TestReadPlain(t *testing.T) {
	var fs unix.Statfs_t
	if unix.Statfs("/dev/shm", &fs) != nil || fs.Type != typeTmpfs {
		t.Skip("SKIPPED: no tmpfs in /dev/shm")
	}
	dir, err := os.MkdirTemp("/dev/shm", "tenon")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	want := contents(inlineRead + 4096)
	f, file, h := openedFile(t, dir, want)
	buf := make([]byte, len(want))
	for range 2 {
		for _, size := range []int{4096, inlineRead, inlineRead + 4096} {
			clear(buf)
			n, e := f.Read(file, []unix.Iovec{{Base: &buf[0], Len: uint64(size)}}, 0, virtiofs.ReadFlags{})
			if n != size || e != 0 || !bytes.Equal(buf[:n], want[:n]) {
				t.Errorf("%d bytes: %d, %v", size, n, e)
			}
		}
		if h.plain.Load() == plainNo {
			t.Skip("SKIPPED: this kernel's tmpfs has RWF_NOWAIT")
		}
		if h.plain.Load() != plainMemory {
			t.Error("tmpfs is taken for one with storage")
		}
	}
	h.plain.Store(plainYes) // as on one that has
	for size, want := range map[uint64]unix.Errno{inlineRead: 0, inlineRead + 1: unix.EAGAIN} {
		if _, e := f.Read(file, []unix.Iovec{{Base: &buf[0], Len: size}}, 0, virtiofs.ReadFlags{}); e != want {
			t.Errorf("%d bytes at once: %v, want %v", size, e, want)
		}
	}
}

// TestHandlesRecent: a handle that is found without a lock is refused as any other
// once it is released, under another node, or as another kind, and so is one that has
// its place.
func TestHandlesRecent(t *testing.T) {
	f, file, h := openedFile(t, t.TempDir(), []byte("x"))
	pin := func(file virtiofs.File, dir bool) unix.Errno {
		got, e := f.handles.pin(file, dir)
		if e == 0 {
			if got.id != file.Handle || got.fd < 0 {
				t.Errorf("handle %d is %d", file.Handle, got.id)
			}
			f.handles.unpin(got)
		}
		return e
	}
	same := virtiofs.File{Node: file.Node}
	for same.Handle%recentHandles != file.Handle%recentHandles {
		var e unix.Errno
		if same.Handle, _, e = f.Open(file.Node, virtiofs.OpenFlags{}); e != 0 {
			t.Fatal(e)
		}
	}
	for range 2 { // each takes the place of the other
		for _, x := range []virtiofs.File{file, file, same, same} {
			if e := pin(x, false); e != 0 {
				t.Error(e)
			}
		}
	}
	for _, x := range []struct {
		file virtiofs.File
		dir  bool
	}{
		{same, true},
		{virtiofs.File{Node: same.Node + 1, Handle: same.Handle}, false},
		{virtiofs.File{Node: same.Node, Handle: same.Handle + recentHandles}, false},
	} {
		if e := pin(x.file, x.dir); e != unix.EBADF {
			t.Errorf("%+v, directory %v: %v", x.file, x.dir, e)
		}
	}
	if e := f.Release(same); e != 0 {
		t.Error(e)
	}
	if e := pin(file, false); e != 0 {
		t.Error(e)
	}
	if e := f.Release(file); e != 0 { // it is still pinned by h
		t.Error(e)
	}
	for _, x := range []virtiofs.File{same, file} {
		if e := pin(x, false); e != unix.EBADF {
			t.Errorf("after RELEASE: %v", e)
		}
	}
	if h.refs.Load() != 1 {
		t.Errorf("%d uses of a file that one call uses", h.refs.Load())
	}
}

// TestRevive: a file whose last use has ended is closed, and stays so.
func TestRevive(t *testing.T) {
	var h handle
	if h.revive() || h.refs.Load() != 0 {
		t.Error("a closed file is used again")
	}
	h.refs.Store(1)
	if !h.revive() || h.refs.Load() != 2 {
		t.Error("an open file cannot be used")
	}
}

// TestHandlesRecentReset: a session's end takes the handles that were used last too.
func TestHandlesRecentReset(t *testing.T) {
	f, file, _ := openedFile(t, t.TempDir(), []byte("x"))
	f.handles.reset()
	if _, e := f.handles.pin(file, false); e != unix.EBADF {
		t.Error(e)
	}
}

// TestHandlesRace: while files are released others use them or are refused, and no
// descriptor is used after it was closed (it would be another file's by then).
func TestHandlesRace(t *testing.T) {
	f, first, _ := openedFile(t, t.TempDir(), []byte("own"))
	for range 300 {
		id, _, e := f.Open(first.Node, virtiofs.OpenFlags{})
		if e != 0 {
			t.Fatal(e)
		}
		file := virtiofs.File{Node: first.Node, Handle: id}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				buf := make([]byte, 3)
				for {
					n, e := f.Read(file, []unix.Iovec{{Base: &buf[0], Len: 3}}, 0, virtiofs.ReadFlags{})
					if e == unix.EBADF {
						return
					}
					if n != 3 || e != 0 || string(buf) != "own" {
						t.Errorf("%d, %v, %q", n, e, buf)
						return
					}
				}
			})
		}
		if e := f.Release(file); e != 0 {
			t.Error(e)
		}
		wg.Wait()
	}
}
