package dax

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestGrowthIsOneMapping: a file that grows page by page, and is opened anew each
// time, takes no more mappings of the process than one that was long from the start.
// The kernel joins neighbours of the same open file only.
func TestGrowthIsOneMapping(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, PageSize)
	setup(t, w, h, Mapping{File: f, Len: 64 * PageSize})
	for n := range int64(60) {
		h.grow(t, f, n*PageSize, (n+1)*PageSize)
		if c := w.Examine(uint64(n)*PageSize, false); c != Usable {
			t.Fatalf("page %d: %v", n, c)
		}
	}
	expect(t, w, 0, append(pages(f, 0, 60), hidden)...)
	if n := len(w.areas(t)); n > 3 {
		t.Errorf("%d mappings for one piece of a file", n)
	}
	w.verify(t)
}

// TestPlugsLeaveOneMapping: nor does one with pages that were plugged for a while, in
// whatever order they go, and those that are left stay.
func TestPlugsLeaveOneMapping(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, RangeSize-PageSize)
	setup(t, w, h, Mapping{File: f, Len: RangeSize})
	w.hold(t)
	const plugs = 100
	for i := range uint64(plugs) {
		plugIt(t, w, i*37%plugs*3*PageSize, true)
	}
	for left := plugs - 1; left >= 0; left-- {
		if e := w.restore(w.plug[left/2]); e != 0 {
			t.Fatal(e)
		}
		if n := len(w.areas(t)); w.plugsLeft() != left || n > 2*left+2 {
			t.Fatalf("%d mappings for one piece of a file with %d plugs, want %d", n, w.plugsLeft(), left)
		}
		w.verify(t)
		if left == 1 { // what has grown does not end them either
			h.grow(t, f, RangeSize-PageSize, RangeSize)
			eventually(t, "the last page", func() bool { return w.shownOf(f) == RangeSize })
		}
	}
	expect(t, w, 0, pages(f, 0, 512)...)
	if n := len(w.areas(t)); n != 1 {
		t.Errorf("%d mappings for one piece of a file", n)
	}
	w.letGo(t)
}

// TestHugePagesRefused: a file of hugetlbfs, of which mmap(2) maps whole huge pages
// however little it is asked for, would reach into other mappings and out of the window.
func TestHugePagesRefused(t *testing.T) {
	w, _ := newRig(t, RangeSize)
	fd, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB)
	if err != nil {
		t.Skipf("SKIPPED: no huge pages in this kernel: %v", err)
	}
	defer unix.Close(fd)
	if e := w.Map(fd, Mapping{File: 1, Len: PageSize}); e != unix.ENODEV {
		t.Errorf("Map: %v", e)
	}
	expect(t, w, 0, all(want{}, 512)...)
	w.verify(t)
}
