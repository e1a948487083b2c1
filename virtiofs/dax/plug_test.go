package dax

import (
	"testing"

	"golang.org/x/sys/unix"
)

// plugsLeft is how many plugs there are.
func (w *Window) plugsLeft() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.plug)
}

// hold has time stand still for the window's plugs, until letGo.
func (w *Window) hold(t testing.TB) {
	t.Helper()
	eventually(t, "the keeper rests", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		rests := !w.keeping
		w.keeping = true
		return rests
	})
}

// letGo waits for the plugs to go.
func (w *Window) letGo(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	w.keeping = false
	w.keep()
	w.mu.Unlock()
	eventually(t, "the plugs go", func() bool { return w.plugsLeft() == 0 })
}

func TestPlug(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f, g := h.add(t, 4*PageSize), h.add(t, 4*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 8 * PageSize})                                 // for reading
	setup(t, w, h, Mapping{File: g, At: 16 * PageSize, Len: 8 * PageSize, Write: true}) // for writing
	for _, c := range []struct {
		what        string
		page        uint64
		store       bool
		during      want
		takes       bool // a store, during
		after       want
		lost        uint64
		read, write Cause // during
	}{
		{"beyond the end", 5, false, want{}, false, hidden, 0, Usable, Truncated},
		{"beyond the end, store", 6, true, want{}, true, hidden, f, Usable, Usable},
		{"beyond the end, for writing", 21, false, want{}, false, hidden, 0, Usable, Truncated},
		{"beyond the end, for writing, store", 22, true, want{}, true, hidden, g, Usable, Usable},
		{"for reading only, store", 1, true, want{}, true, want{f, 1, false}, f, Usable, Usable},
		{"shows nothing, store", 30, true, want{}, true, want{}, 0, Usable, Usable},
		{"can be read", 2, false, want{f, 2, false}, false, want{f, 2, false}, 0, Usable, Protected},
		{"can be written", 17, true, want{g, 1, false}, true, want{g, 1, false}, 0, Usable, Usable},
		{"shows nothing", 31, false, want{}, false, want{}, 0, Usable, Protected},
	} {
		at := c.page * PageSize
		w.hold(t)
		plugIt(t, w, at+77, c.store)
		expect(t, w, at, c.during)
		for _, write := range []bool{false, true} {
			if got, must := w.Examine(at, write), map[bool]Cause{false: c.read, true: c.write}[write]; got != must {
				t.Errorf("%s: Examine(write %v) is %v, want %v", c.what, write, got, must)
			}
		}
		if _, e := w.store(at+100, []byte("x")); (e == 0) != c.takes {
			t.Errorf("%s: a store gives %v", c.what, e)
		}
		w.verify(t)
		w.letGo(t)
		expect(t, w, at, c.after)
		w.verify(t)
		for _, n := range []uint64{f, g} {
			if lost := w.Lost(n); lost != (n == c.lost) || w.Lost(n) {
				t.Errorf("%s: file %d lost stores: %v", c.what, n, lost)
			}
		}
	}
	b := make([]byte, 4*PageSize)
	if _, err := h.files[f-1].ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	for p := range uint64(4) {
		if b[p*PageSize+100] != 0 {
			t.Errorf("a store to scratch is in the file, page %d", p)
		}
	}
}

// TestTrip: a page of a file is hidden until somebody asks why, or for a while. Other
// pages stay.
func TestTrip(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 4*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 8 * PageSize, Write: true})
	w.hold(t)
	trip := func(page uint64) {
		if e := w.Trip(page*PageSize + 5); e != 0 {
			t.Errorf("page %d: %v", page, e)
		}
		w.verify(t)
	}
	for _, page := range []uint64{1, 1, 2, 5, 30} { // twice, another, beyond the end, shows nothing
		trip(page)
	}
	if n := w.plugsLeft(); n != 2 {
		t.Errorf("%d pages are hidden", n)
	}
	expect(t, w, PageSize, want{gone: true})
	expect(t, w, 3*PageSize, want{f, 3, false})
	for _, write := range []bool{false, true} {
		trip(1)
		if got := w.Examine(PageSize, write); got != Usable {
			t.Errorf("Examine(write %v) is %v", write, got)
		}
		expect(t, w, PageSize, want{f, 1, false})
		w.verify(t)
	}
	trip(1)
	plugIt(t, w, PageSize, true) // the host fails all the same
	if _, e := w.store(PageSize, []byte("x")); e != 0 || !w.Lost(f) {
		t.Errorf("a store gives %v, or is not lost", e)
	}
	w.verify(t)
	trip(3)
	w.letGo(t)
	for page := range uint64(4) {
		expect(t, w, page*PageSize, want{f, page, false})
	}
	w.verify(t)
	if e := w.Trip(RangeSize); e != unix.EINVAL {
		t.Errorf("outside the window: %v", e)
	}
}

// TestPlugUpgrade: a page is loaded from, then stored to.
func TestPlugUpgrade(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, PageSize)
	setup(t, w, h, Mapping{File: f, Len: RangeSize, Write: true})
	w.hold(t)
	plugIt(t, w, PageSize, false)
	plugIt(t, w, PageSize, false)
	plugIt(t, w, PageSize, true)
	plugIt(t, w, PageSize, false) // stays what it is
	if _, e := w.store(PageSize, []byte("x")); e != 0 || w.plugsLeft() != 1 {
		t.Errorf("a store gives %v, there are %d plugs", e, w.plugsLeft())
	}
	w.verify(t)
}

// TestPlugBound: however many pages a guest runs into, it costs a bounded number of pages.
func TestPlugBound(t *testing.T) {
	w, h := newRig(t, 8*RangeSize)
	f := h.add(t, 2*RangeSize)
	setup(t, w, h, Mapping{File: f, Len: 8 * RangeSize})
	w.hold(t)
	for p := range uint64(4096) {
		plugIt(t, w, p*PageSize, p%3 != 0 || p < maxPlugs)
		if n := w.plugsLeft(); n > maxPlugs {
			t.Fatalf("%d plugs", n)
		}
	}
	w.verify(t)
	scratch := 0
	for _, a := range w.areas(t) {
		if a.perms == "rw-p" {
			scratch += int(a.to-a.from) / PageSize
		}
	}
	if scratch > maxPlugs {
		t.Errorf("%d scratch pages", scratch)
	}
	w.letGo(t)
	expect(t, w, 0, append(pages(f, 0, 1024), all(hidden, 3072)...)...)
	w.verify(t)
}

// TestPlugOldest: the oldest makes way, and the others stay.
func TestPlugOldest(t *testing.T) {
	w, h := newRig(t, 4*RangeSize)
	f := h.add(t, PageSize)
	setup(t, w, h, Mapping{File: f, Len: 4 * RangeSize})
	w.hold(t)
	for p := uint64(1); p <= maxPlugs+1; p++ {
		plugIt(t, w, p*PageSize, true)
	}
	expect(t, w, PageSize, append([]want{hidden}, append(all(want{}, maxPlugs), hidden)...)...)
	w.verify(t)
	h.failing(unix.ENFILE) // tripwires come without the file
	plugIt(t, w, (maxPlugs+2)*PageSize, true)
	expect(t, w, PageSize, hidden, hidden, want{})
	h.failing(0)
	w.letGo(t)
}

// TestPlugReplaced: what was mapped over a plug stays.
func TestPlugReplaced(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f, g := h.add(t, PageSize), h.add(t, 16*PageSize)
	setup(t, w, h, Mapping{File: f, Len: RangeSize})
	w.hold(t)
	for p := uint64(1); p < 8; p++ {
		plugIt(t, w, p*PageSize, true)
	}
	setup(t, w, h, Mapping{File: g, At: 3 * PageSize, Len: 2 * PageSize})
	if e := w.Unmap(6*PageSize, PageSize); e != 0 {
		t.Fatal(e)
	}
	expect(t, w, 2*PageSize, want{}, want{g, 0, false}, want{g, 1, false}, want{}, want{}, want{}, hidden)
	if n := w.plugsLeft(); n != 4 {
		t.Errorf("%d plugs", n)
	}
	w.verify(t)
	w.letGo(t)
	expect(t, w, 2*PageSize, hidden, want{g, 0, false}, want{g, 1, false}, hidden, want{}, hidden)
	w.verify(t)
}

// TestPlugSplit: the extent around a plug is cut in two.
func TestPlugSplit(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 16*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 16 * PageSize})
	w.hold(t)
	plugIt(t, w, 8*PageSize, true)
	h.before(func() { w.Unmap(4*PageSize, 2*PageSize) })
	w.letGo(t)
	expect(t, w, 3*PageSize, append(append(pages(f, 3, 1), want{}, want{}), pages(f, 6, 10)...)...)
	w.verify(t)
}

// TestPlugGrowth: the file grows under a plug.
func TestPlugGrowth(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, PageSize)
	setup(t, w, h, Mapping{File: f, Len: RangeSize})
	w.hold(t)
	plugIt(t, w, 2*PageSize, false)
	h.grow(t, f, PageSize, 4*PageSize)
	eventually(t, "the file has grown", func() bool { return shows(w, 2*PageSize, want{f, 2, false}) == "" })
	expect(t, w, 0, append(pages(f, 0, 4), hidden)...)
	w.verify(t)
}

// TestPlugStuck: the file of a plugged page cannot be had any more.
func TestPlugStuck(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 8*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 8 * PageSize})
	h.failing(unix.ENFILE)
	plugIt(t, w, 2*PageSize, true)
	plugIt(t, w, 4*PageSize, true)
	eventually(t, "the plugs go", func() bool { return w.plugsLeft() == 0 })
	w.verify(t)
	expect(t, w, 0, append(pages(f, 0, 2), hidden, hidden, hidden)...)
	h.failing(0)
	if c := w.Examine(2*PageSize, false); c != Usable {
		t.Error(c)
	}
	expect(t, w, 0, pages(f, 0, 8)...)
	w.verify(t)
}

// TestLostBound: files that nobody asks about do not pile up.
func TestLostBound(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 0)
	for i := range uint64(maxLost + 10) {
		m := Mapping{File: 1000 + i, Len: PageSize}
		if e := w.Map(h.fd(f), m); e != 0 {
			t.Fatal(e)
		}
		plugIt(t, w, 0, true)
	}
	w.mu.Lock()
	n := len(w.lost)
	w.mu.Unlock()
	if n > maxLost || !w.Lost(1000+maxLost+9) {
		t.Errorf("%d files are remembered, the last one should be", n)
	}
}
