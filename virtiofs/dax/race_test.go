package dax

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestReplacedMeanwhile: while a file is opened again, a mapping replaces what it is
// for. What came later stays.
func TestReplacedMeanwhile(t *testing.T) {
	for _, c := range []struct {
		what string
		page uint64 // of 6 that the file has left of 8
		run  func(t *testing.T, w *Window, at uint64)
	}{
		{"Examine of a page that is hidden", 6, func(t *testing.T, w *Window, at uint64) {
			if c := w.Examine(at, false); c != Usable {
				t.Errorf("Examine: %v", c)
			}
		}},
		{"Examine of a page that is gone", 5, func(t *testing.T, w *Window, at uint64) {
			if c := w.Examine(at, true); c != Usable {
				t.Errorf("Examine: %v", c)
			}
		}},
		{"the end of a plug", 1, func(t *testing.T, w *Window, at uint64) {
			w.hold(t)
			plugIt(t, w, at, true)
			w.mu.Lock()
			old := w.plug[0]
			w.mu.Unlock()
			if e := w.restore(old); e != 0 {
				t.Errorf("restore: %v", e)
			}
		}},
		{"Sweep", 6, func(t *testing.T, w *Window, _ uint64) { w.Sweep() }},
	} {
		for _, unmap := range []bool{false, true} {
			t.Run(c.what, func(t *testing.T) {
				w, h := newRig(t, RangeSize)
				f, g := h.add(t, 6*PageSize), h.add(t, 8*PageSize)
				setup(t, w, h, Mapping{File: f, Len: 8 * PageSize, Write: c.page == 5})
				w.deafen(f)
				if c.page == 5 {
					h.grow(t, f, 5*PageSize, 5*PageSize)
				}
				must := pages(g, 0, 8)
				h.before(func() {
					if unmap {
						must = all(want{}, 8)
						w.Unmap(0, 8*PageSize)
						return
					}
					setup(t, w, h, Mapping{File: g, Len: 8 * PageSize})
				})
				c.run(t, w, c.page*PageSize)
				expect(t, w, 0, must...)
				w.verify(t)
			})
		}
	}
}

// TestPlugLate: a mapping comes between the look at a page and its plug.
func TestPlugLate(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f, g := h.add(t, PageSize), h.add(t, 4*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 4 * PageSize})
	p := w.lookup(2 * PageSize)
	setup(t, w, h, Mapping{File: g, Len: 4 * PageSize})
	if _, e := w.stop(p, plugScratch); e != 0 {
		t.Errorf("stop: %v", e)
	}
	expect(t, w, 0, pages(g, 0, 4)...)
	w.verify(t)
}

// TestHideLate: an extent has changed since pages of it were found to be gone.
func TestHideLate(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 6*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 8 * PageSize})
	w.mu.Lock()
	was := *w.find(0)
	w.mu.Unlock()
	for _, c := range []struct {
		what           string
		was, n, remain uint64 // pages
	}{
		{"it shows more", 4, 4, 6},
		{"nothing has changed", 6, 5, 5},
		{"it shows less", 6, 5, 5},
		{"it shows less than is left", 8, 7, 5},
	} {
		was.shown = c.was * PageSize
		w.hide(was, c.n*PageSize)
		expect(t, w, 0, append(pages(f, 0, c.remain), hidden)...)
	}
	was.id++
	was.shown = 5 * PageSize
	w.hide(was, 0)
	expect(t, w, 0, append(pages(f, 0, 5), hidden)...)
	w.verify(t)
}

// TestWritableLate: an extent becomes writable while its file, which grows, is opened
// for reading. It is looked at again.
func TestWritableLate(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, PageSize)
	setup(t, w, h, Mapping{File: f, Len: 4 * PageSize})
	w.mu.Lock()
	x := w.known[f]
	w.unfollow(x)
	x.wd = 1 << 30 // of which no event comes
	w.wds[x.wd] = x
	w.mu.Unlock()
	h.before(func() {
		setup(t, w, h, Mapping{File: f, Offset: 2 * PageSize, Len: 4 * PageSize, At: 8 * PageSize, Write: true})
		if err := h.files[f-1].Truncate(4 * PageSize); err != nil {
			t.Error(err)
		}
	})
	w.check(f)
	eventually(t, "the file has grown", func() bool { return w.shownOf(f) == 6*PageSize })
	if _, e := w.store(8*PageSize, []byte("x")); e != 0 {
		t.Error(e)
	}
	w.verify(t)
}

// TestShorterForAMoment: a page is gone, and back when its file is opened.
func TestShorterForAMoment(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 9*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 12 * PageSize})
	w.deafen(f)
	h.grow(t, f, 3*PageSize, 3*PageSize)
	h.before(func() { h.grow(t, f, 3*PageSize, 9*PageSize) })
	if c := w.Examine(5*PageSize, false); c != Usable {
		t.Error(c)
	}
	expect(t, w, 0, append(pages(f, 0, 9), hidden)...)
}

// TestHole: kernels before Linux 6.12 can leave nothing at all where mmap(2) fails.
func TestHole(t *testing.T) {
	w, h := newRig(t, 2*RangeSize)
	f := h.add(t, 2*RangeSize)
	setup(t, w, h, Mapping{File: f, Len: 2 * RangeSize})
	plugIt(t, w, RangeSize, true)
	bad := contents(-1, 0, false)
	w.mu.Lock()
	if e := w.put(0, PageSize, bad); e != unix.EBADF {
		t.Errorf("put: %v", e)
	}
	w.unmapAt(RangeSize-PageSize, 2*PageSize)
	e := w.put(RangeSize-2*PageSize, 4*PageSize, bad)
	w.mu.Unlock()
	if e != unix.EBADF {
		t.Errorf("put: %v", e)
	}
	expect(t, w, 0, pages(f, 0, 510)...)
	expect(t, w, RangeSize-2*PageSize, append(all(want{}, 4), want{f, 514, false})...)
	w.verify(t)
}
