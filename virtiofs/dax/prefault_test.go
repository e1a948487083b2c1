package dax

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smaps is the sum of a figure of /proc/self/smaps over the window, in bytes.
func (w *Window) smaps(t testing.TB, figure string) (total uint64) {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mine := false
	for s := bufio.NewScanner(f); s.Scan(); {
		var from, to uintptr
		var kb uint64
		if n, _ := fmt.Sscanf(s.Text(), "%x-%x ", &from, &to); n == 2 {
			mine = from >= w.base() && from < w.base()+uintptr(w.Size())
		} else if n, _ := fmt.Sscanf(s.Text(), figure+": %d kB", &kb); n == 1 && mine {
			total += kb << 10
		}
	}
	return total
}

// TestPrefault: what is not in the page cache is read in without a guest's touch,
// and nobody waits for it.
func TestPrefault(t *testing.T) {
	w, h := newRig(t, 4*RangeSize)
	f := h.add(t, 4*RangeSize)
	if err := h.files[f-1].Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(h.fd(f), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if w.resides(h.fd(f), 3*RangeSize) {
		t.Skip("SKIPPED: the file system does not let go of pages")
	}
	setup(t, w, h, Mapping{File: f, Offset: RangeSize, At: PageSize, Len: 2*RangeSize - 9*PageSize})
	eventually(t, "it is read in", func() bool {
		return w.cached(PageSize, RangeSize-PageSize) && w.cached(RangeSize, RangeSize-8*PageSize)
	})
}

// resides says whether the page at an offset of a file is in the page cache.
func (w *Window) resides(fd int, off uint64) bool {
	const at = 0
	if w.space.place(at, PageSize, contents(fd, off, false)) != 0 {
		return false
	}
	defer w.space.place(at, PageSize, zeros())
	return w.cached(at, PageSize)
}

// TestReady: who wants to know is told of what is mapped and at hand.
func TestReady(t *testing.T) {
	w, h := newRig(t, 4*RangeSize)
	var told []Mapping
	w.Ready = func(m Mapping) { told = append(told, m) }
	f := h.add(t, 8*PageSize)
	m := Mapping{File: f, Offset: 2 * PageSize, At: RangeSize, Len: RangeSize}
	setup(t, w, h, m)
	setup(t, w, h, Mapping{File: f, Offset: 8 * PageSize, At: 0, Len: RangeSize}) // nothing of the file
	w.Map(h.fd(f), Mapping{File: f, At: 4 * RangeSize, Len: RangeSize})           // refused
	m.Len = 6 * PageSize
	if len(told) != 1 || told[0] != m {
		t.Errorf("told of %+v, want %+v", told, m)
	}
	cold := h.add(t, RangeSize)
	if err := h.files[cold-1].Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(h.fd(cold), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if w.resides(h.fd(cold), 0) {
		t.Skip("SKIPPED: the file system does not let go of pages")
	}
	setup(t, w, h, Mapping{File: cold, Len: RangeSize})
	if len(told) != 1 {
		t.Errorf("told of %+v, which is still to be read", told[1:])
	}
}

// shmemHuge is how much of all memory is huge pages of tmpfs, in bytes.
func shmemHuge(t testing.TB) (n uint64) {
	t.Helper()
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		fmt.Sscanf(line, "ShmemHugePages: %d kB", &n)
	}
	return n << 10
}

// TestHuge: huge pages of files are huge in the page tables, without advice, because
// the window begins where it does.
func TestHuge(t *testing.T) {
	w, h := newRig(t, 4*RangeSize)
	mountTmpfs(t, h, "huge=always,size=16m")
	before := shmemHuge(t)
	f := h.add(t, 2*RangeSize)
	if n := shmemHuge(t); n < before+2*RangeSize {
		t.Skipf("SKIPPED: the kernel has no huge pages left for the file (%#x bytes, %#x before)", n, before)
	}
	setup(t, w, h, Mapping{File: f, Offset: RangeSize, At: 2 * RangeSize, Len: RangeSize, Write: true})
	expect(t, w, 2*RangeSize, pages(f, 512, 512)...)
	if n := w.smaps(t, "ShmemPmdMapped"); n != RangeSize {
		t.Errorf("%#x bytes are mapped as huge pages", n)
	}
}

// TestRearm: without it, the second store in a row is not seen in the file's times.
func TestRearm(t *testing.T) {
	w, h := newRig(t, 64*RangeSize)
	f, g := h.add(t, 64*RangeSize), h.add(t, RangeSize)
	long := unix.Timespec{Sec: 1e9}
	age := func() {
		t.Helper()
		path := fmt.Sprintf("/proc/self/fd/%d", h.fd(f))
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{long, long}, 0); err != nil {
			t.Fatal(err)
		}
	}
	touched := func() bool {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Fstat(h.fd(f), &st); err != nil {
			t.Fatal(err)
		}
		return st.Mtim != long
	}
	for r := range uint64(64) {
		setup(t, w, h, Mapping{File: f, Offset: r * RangeSize, At: r * RangeSize, Len: RangeSize, Write: true})
	}
	for r := range uint64(64) {
		store := func() {
			t.Helper()
			if _, e := w.store(r*RangeSize, []byte("x")); e != 0 {
				t.Fatal(e)
			}
		}
		store()
		age()
		store()
		if touched() {
			t.Skip("SKIPPED: this file system notices every store")
		}
	}
	w.Rearm(g)
	for r := range uint64(64) {
		age()
		if r%8 == 0 {
			w.Rearm(f)
		}
		if _, e := w.store(r*RangeSize, []byte("x")); e != 0 {
			t.Fatal(e)
		}
		if !touched() {
			t.Errorf("range %d: a store after Rearm is not seen", r)
		}
	}
	expectByte := make([]byte, 6)
	if _, e := w.load(3*RangeSize, expectByte); e != 0 || string(expectByte) != "xile 0" {
		t.Errorf("the contents are %q, %v", expectByte, e)
	}
}
