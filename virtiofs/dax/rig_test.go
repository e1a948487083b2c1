package dax

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is a directory of files, numbered from 1; it implements Files.
type host struct {
	dir   string
	mu    sync.Mutex
	files []*os.File // open for reading and writing
	fail  unix.Errno // of Reopen
	first func()     // comes before the next Reopen
}

func (h *host) Reopen(number uint64, write bool) (int, unix.Errno) {
	h.mu.Lock()
	first := h.first
	h.first = nil
	h.mu.Unlock()
	if first != nil {
		first()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != 0 {
		return -1, h.fail
	}
	if number < 1 || number > uint64(len(h.files)) {
		return -1, unix.ESTALE
	}
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", h.files[number-1].Fd()), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errno(err)
	}
	return fd, 0
}

// before has something happen before the next Reopen.
func (h *host) before(first func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.first = first
}

// failing has Reopen fail.
func (h *host) failing(e unix.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = e
}

// stamp is what a page of a file begins with.
func stamp(number, page uint64) []byte {
	return fmt.Appendf(nil, "file %02d page %05d", number, page)
}

// grow makes a file size bytes long, and stamps its whole pages from one on.
func (h *host) grow(t testing.TB, number uint64, from, size int64) {
	t.Helper()
	f := h.files[number-1]
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for p := from / PageSize; (p+1)*PageSize <= size; p++ {
		if _, err := f.WriteAt(stamp(number, uint64(p)), p*PageSize); err != nil {
			t.Fatal(err)
		}
	}
}

// add makes a file of stamped pages and returns its number.
func (h *host) add(t testing.TB, size int64) uint64 {
	t.Helper()
	f, err := os.Create(filepath.Join(h.dir, fmt.Sprintf("f%d", len(h.files)+1)))
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.files = append(h.files, f)
	n := uint64(len(h.files))
	h.mu.Unlock()
	h.grow(t, n, 0, size)
	return n
}

func (h *host) close() {
	for _, f := range h.files {
		f.Close()
	}
}

// mountTmpfs has further files of the host be in a file system of their own.
func mountTmpfs(t testing.TB, h *host, options string) {
	t.Helper()
	dir := filepath.Join(h.dir, "tmpfs")
	if err := unix.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("SKIPPED: mount a tmpfs with %s (it takes root): %v", options, err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	h.dir = dir
}

// neighbours is a page of memory before the window and one after it.
func neighbours(t testing.TB, w *Window) (before, after []byte) {
	t.Helper()
	var pages [2][]byte
	for i, at := range []uintptr{w.base() - PageSize, w.base() + uintptr(w.Size())} {
		b, err := mapAt(at)
		if err != nil {
			t.Skipf("SKIPPED: memory next to the window, at %#x, is taken: %v", at, err)
		}
		t.Cleanup(func() { unmap(b) })
		pages[i] = b
	}
	return pages[0], pages[1]
}

func (h *host) fd(number uint64) int { return int(h.files[number-1].Fd()) }

func newRig(t testing.TB, size uint64) (*Window, *host) {
	t.Helper()
	w, err := New(size)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{dir: t.TempDir()}
	w.Attach(h)
	t.Cleanup(func() {
		// Last, because the window may still ask for files.
		defer h.close()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w, h
}

// setup maps, and expects success.
func setup(t testing.TB, w *Window, h *host, m Mapping) {
	t.Helper()
	if e := w.Map(h.fd(m.File), m); e != 0 {
		t.Fatalf("Map(%+v): %v", m, e)
	}
}

// want is what a page must show.
type want struct {
	file, page uint64 // a file's page; file 0: zeros
	gone       bool   // it cannot be read
}

func (x want) String() string {
	switch {
	case x.gone:
		return "a tripwire"
	case x.file == 0:
		return "zeros"
	}
	return string(stamp(x.file, x.page))
}

// shows says what the page is wrong with, "" nothing.
func shows(w *Window, at uint64, x want) string {
	var b [18]byte
	_, e := w.load(at, b[:])
	got := fmt.Sprintf("%q", b)
	switch {
	case e == unix.EFAULT && x.gone:
		return ""
	case e != 0:
		got = e.Error()
	case x.gone:
	case x.file == 0 && b == [18]byte{}:
		return ""
	case x.file != 0 && bytes.Equal(b[:], stamp(x.file, x.page)):
		return ""
	}
	return fmt.Sprintf("window offset %#x shows %s, not %v", at, got, x)
}

// expect checks pages in a row.
func expect(t testing.TB, w *Window, at uint64, pages ...want) {
	t.Helper()
	for i, x := range pages {
		if wrong := shows(w, at+uint64(i)*PageSize, x); wrong != "" {
			t.Error(wrong)
		}
	}
}

// eventually waits for what comes in a moment.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not after 20 s: %s", what)
		}
	}
}

// pages is n pages of a file in a row, from one on.
func pages(file, from, n uint64) (x []want) {
	for i := range n {
		x = append(x, want{file: file, page: from + i})
	}
	return x
}

// all is n pages that are the same.
func all(x want, n int) (s []want) {
	for range n {
		s = append(s, x)
	}
	return s
}
