package dax

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

var hidden = want{gone: true}

// plug puts zeros in a page's place, and expects success.
func plugIt(t testing.TB, w *Window, at uint64, store bool) {
	t.Helper()
	if e := w.Plug(at, store); e != 0 {
		t.Fatalf("Plug(%#x, %v): %v", at, store, e)
	}
}

func TestExamine(t *testing.T) {
	w, h := newRig(t, 2*RangeSize)
	f, g := h.add(t, 4*PageSize), h.add(t, 4*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 8 * PageSize})
	setup(t, w, h, Mapping{File: g, At: RangeSize, Len: 8 * PageSize, Write: true})
	for _, c := range []struct {
		what        string
		at          uint64
		read, write Cause
	}{
		{"a page for reading", PageSize, Usable, Protected},
		{"not its first byte", PageSize + 4095, Usable, Protected},
		{"beyond the end", 4 * PageSize, Truncated, Truncated},
		{"shows nothing", 8 * PageSize, Usable, Protected},
		{"a page for writing", RangeSize + PageSize, Usable, Usable},
		{"beyond the end, for writing", RangeSize + 7*PageSize, Truncated, Truncated},
	} {
		if got := w.Examine(c.at, false); got != c.read {
			t.Errorf("%s: reading is %v, want %v", c.what, got, c.read)
		}
		if got := w.Examine(c.at, true); got != c.write {
			t.Errorf("%s: writing is %v, want %v", c.what, got, c.write)
		}
	}
	if s := w.Stats(); s.Mended != 0 {
		t.Errorf("%d mended", s.Mended)
	}
	w.verify(t)
}

// deafen has the window not notice by itself that a file changes.
func (w *Window) deafen(number uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unfollow(w.known[number])
}

func TestGrowth(t *testing.T) {
	for _, write := range []bool{false, true} {
		w, h := newRig(t, 2*RangeSize)
		f := h.add(t, 4*PageSize)
		setup(t, w, h, Mapping{File: f, Len: 2 * RangeSize, Write: write})
		w.deafen(f)
		h.grow(t, f, 4*PageSize, 9*PageSize)
		h.failing(unix.ENFILE)
		expect(t, w, 3*PageSize, want{f, 3, false}, hidden)
		if c := w.Examine(4*PageSize, false); c != Failed {
			t.Errorf("of a file that cannot be opened: %v", c)
		}
		h.failing(0)
		if c := w.Examine(6*PageSize, true); write && c != Usable || !write && c != Protected {
			t.Errorf("after growing (write %v): %v", write, c)
		}
		expect(t, w, 0, append(pages(f, 0, 9), hidden, hidden)...)
		if c := w.Examine(9*PageSize, true); c != Truncated {
			t.Errorf("beyond the new end: %v", c)
		}
		if _, e := w.store(8*PageSize, []byte("x")); (e == 0) != write {
			t.Errorf("a store to what was mended (write %v): %v", write, e)
		}
		w.verify(t)
	}
}

// TestGrowthSeen: whoever writes to a file that he has mapped need not fault for
// every page.
func TestGrowthSeen(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, PageSize)
	setup(t, w, h, Mapping{File: f, Len: RangeSize, Write: true})
	h.grow(t, f, PageSize, 100*PageSize)
	eventually(t, "the file has grown", func() bool { return shows(w, 99*PageSize, want{f, 99, false}) == "" })
	eventually(t, "one page more", func() bool {
		h.grow(t, f, 100*PageSize, 101*PageSize)
		return shows(w, 100*PageSize, want{f, 100, false}) == ""
	})
	expect(t, w, 101*PageSize, hidden)
}

// TestTruncationUnseen: the guest is quicker than inotify.
func TestTruncationUnseen(t *testing.T) {
	for _, write := range []bool{false, true} {
		w, h := newRig(t, RangeSize)
		f := h.add(t, 9*PageSize)
		setup(t, w, h, Mapping{File: f, Len: 12 * PageSize, Write: true})
		w.deafen(f)
		h.grow(t, f, 3*PageSize, 3*PageSize)
		h.failing(unix.ENFILE)
		if c := w.Examine(5*PageSize, write); c != Failed {
			t.Errorf("of a file that cannot be opened: %v", c)
		}
		h.failing(0)
		if c := w.Examine(5*PageSize, write); c != Truncated {
			t.Errorf("beyond the new end: %v", c)
		}
		w.mu.Lock()
		if x := w.find(5 * PageSize); x.shown != 3*PageSize {
			t.Errorf("%#x bytes are shown", x.shown)
		}
		w.mu.Unlock()
		w.verify(t)
		expect(t, w, 0, append(pages(f, 0, 3), hidden, hidden)...)
	}
}

// TestFull: a store to a hole of a file system without room fails, and nobody is
// told of it but the one who stores.
func TestFull(t *testing.T) {
	w, h := newRig(t, RangeSize)
	mountTmpfs(t, h, "size=16k")
	f := h.add(t, 0)
	h.grow(t, f, PageSize*16, 16*PageSize) // holes
	setup(t, w, h, Mapping{File: f, Len: 16 * PageSize, Write: true})
	causes := map[Cause]int{}
	for p := range uint64(16) {
		causes[w.Examine(p*PageSize, true)]++
	}
	if causes[Usable] == 0 || causes[Failed] == 0 || len(causes) != 2 {
		t.Errorf("causes %v, want usable pages and failed ones", causes)
	}
	if c := w.Examine(15*PageSize, false); c != Usable && c != Failed {
		t.Errorf("reading: %v", c)
	}
	w.hold(t)
	plugIt(t, w, 15*PageSize, false)
	if c := w.Examine(15*PageSize, true); c != Failed {
		t.Errorf("storing to the plug: %v", c)
	}
	plugIt(t, w, 15*PageSize, true)
	if _, e := w.store(15*PageSize, []byte("lost")); e != 0 {
		t.Errorf("a store to the plug: %v", e)
	}
	if !w.Lost(f) || w.Lost(f) {
		t.Error("a lost store is to be told once")
	}
	w.verify(t)
}

// TestTruncation: the host makes files shorter, and a moment later a tripwire is
// where a guest would be caught.
func TestTruncation(t *testing.T) {
	w, h := newRig(t, 4*RangeSize)
	f, g := h.add(t, 1024*PageSize), h.add(t, 512*PageSize)
	setup(t, w, h, Mapping{File: f, At: 0, Len: 2 * RangeSize})
	setup(t, w, h, Mapping{File: g, At: 2 * RangeSize, Len: RangeSize})
	setup(t, w, h, Mapping{File: f, Offset: 300 * PageSize, At: 3 * RangeSize, Len: 200 * PageSize, Write: true})
	shorter := func(file uint64, size int64) {
		t.Helper()
		if err := h.files[file-1].Truncate(size); err != nil {
			t.Fatal(err)
		}
	}
	trips := func(at uint64) func() bool { return func() bool { return w.hides(at / PageSize) } }
	shorter(f, 400*PageSize+1)
	eventually(t, "a tripwire", trips(401*PageSize))
	eventually(t, "a tripwire in the other range", trips(RangeSize))
	eventually(t, "a tripwire in the other extent", trips(3*RangeSize+101*PageSize))
	expect(t, w, 399*PageSize, want{f, 399, false})
	expect(t, w, 401*PageSize, hidden)
	expect(t, w, 3*RangeSize, pages(f, 300, 100)...)
	expect(t, w, 3*RangeSize+101*PageSize, hidden)
	expect(t, w, 2*RangeSize, pages(g, 0, 512)...)
	if _, e := w.load(400*PageSize, make([]byte, PageSize)); e != 0 {
		t.Errorf("the page that has the end in it: %v", e)
	}
	w.verify(t)
	shorter(f, 0)
	eventually(t, "a tripwire at once", trips(0))
	eventually(t, "a tripwire in the other extent", trips(3*RangeSize))
	shorter(g, 511*PageSize)
	eventually(t, "a tripwire in the other file", trips(2*RangeSize+511*PageSize))
	h.grow(t, f, 0, 1024*PageSize)
	if c := w.Examine(0, false); c != Usable {
		t.Errorf("after growing again: %v", c)
	}
	expect(t, w, 0, pages(f, 0, 512)...)
	if c := w.Examine(3*RangeSize, true); c != Usable {
		t.Errorf("after growing again: %v", c)
	}
	expect(t, w, 3*RangeSize, pages(f, 300, 200)...)
	w.verify(t)
}

func TestHoleAndDeletion(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 8*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 8 * PageSize, Write: true})
	err := unix.Fallocate(h.fd(f), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 2*PageSize, 2*PageSize)
	if err != nil {
		t.Skipf("SKIPPED: punching holes: %v", err)
	}
	expect(t, w, PageSize, want{f, 1, false}, want{}, want{}, want{f, 4, false})
	name := h.files[f-1].Name()
	if err := unix.Unlink(name); err != nil {
		t.Fatal(err)
	}
	expect(t, w, 4*PageSize, pages(f, 4, 4)...)
	if _, e := w.store(7*PageSize, []byte("still")); e != 0 {
		t.Errorf("a store to a deleted file: %v", e)
	}
	if c := w.Examine(2*PageSize, true); c != Usable {
		t.Errorf("a hole: %v", c)
	}
	// A deleted file, too, can be made shorter.
	h.grow(t, f, PageSize, PageSize)
	eventually(t, "a tripwire", func() bool { return w.hides(1) })
	expect(t, w, 0, want{f, 0, false}, hidden)
	w.verify(t)
}

// TestPoll: no inotify, and what a file comes to is noticed all the same.
func TestPoll(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 8*PageSize)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := old
	none.Cur = 0 // no new descriptor
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	e := w.Map(h.fd(f), Mapping{File: f, Len: 8 * PageSize})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if e != 0 {
		t.Fatal(e)
	}
	w.mu.Lock()
	if w.ino != nil || !w.keeping {
		t.Error("there is inotify, or nobody asks in its place")
	}
	w.mu.Unlock()
	h.grow(t, f, 2*PageSize, 2*PageSize)
	eventually(t, "a tripwire", func() bool { return w.hides(2) })
	w.Reset()
	eventually(t, "nobody asks any more", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return !w.keeping
	})
}

// TestOverflow: events were dropped, so any file may have changed.
func TestOverflow(t *testing.T) {
	w, h := newRig(t, RangeSize)
	for p := range uint64(3) {
		f := h.add(t, PageSize)
		setup(t, w, h, Mapping{File: f, At: p * PageSize, Len: PageSize})
	}
	event := make([]byte, 2*unix.SizeofInotifyEvent)
	for i := range 4 {
		event[i], event[unix.SizeofInotifyEvent+i] = 0xff, 0xff // wd -1
	}
	event[5] = unix.IN_Q_OVERFLOW >> 8
	for range 2 {
		if got := w.modified(event, nil); len(got) != 3 {
			t.Errorf("%v are to be looked at", got)
		}
	}
	if got := w.modified(event[unix.SizeofInotifyEvent:], nil); len(got) != 0 {
		t.Errorf("%v are to be looked at", got)
	}
	for n := range event { // cut short
		w.modified(event[:n], nil)
	}
	event[12], event[13], event[14], event[15] = 0xff, 0xff, 0xff, 0xff // a name that long
	w.modified(event, nil)
}

// TestTwins: two numbers are the same file.
func TestTwins(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 8*PageSize)
	h.mu.Lock()
	h.files = append(h.files, h.files[f-1], h.files[f-1])
	h.mu.Unlock()
	for i := range uint64(3) {
		setup(t, w, h, Mapping{File: f + i, At: i * 8 * PageSize, Len: 8 * PageSize})
	}
	gone := func(of, page uint64) func() bool { return func() bool { return w.hides(of*8 + page) } }
	h.grow(t, f, 6*PageSize, 6*PageSize)
	for i := range uint64(3) {
		eventually(t, "a tripwire", gone(i, 7))
	}
	for left, i := range []uint64{1, 2} { // the middle one, then the last
		if e := w.Unmap(i*8*PageSize, 8*PageSize); e != 0 {
			t.Fatal(e)
		}
		size := int64(5 - left)
		h.grow(t, f, size*PageSize, size*PageSize)
		eventually(t, "a tripwire", gone(0, uint64(size)))
	}
	w.verify(t)
}

// TestManyPieces: a file that is shown in many places is hidden in all.
func TestManyPieces(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 50*PageSize)
	for p := range uint64(50) {
		setup(t, w, h, Mapping{File: f, Offset: p * PageSize, At: (p * 7 % 50) * 2 * PageSize, Len: PageSize, Write: p%2 == 0})
	}
	shown := func(n uint64) func() bool {
		return func() bool { return w.shownOf(f) == n*PageSize }
	}
	h.grow(t, f, PageSize, PageSize)
	eventually(t, "all but one are hidden", shown(1))
	h.grow(t, f, PageSize, 50*PageSize)
	eventually(t, "all are shown again", shown(50))
	for p := range uint64(50) {
		expect(t, w, (p*7%50)*2*PageSize, want{f, p, false}, want{})
	}
	w.verify(t)
}

// TestRemote: what other machines do to a file raises no event.
func TestRemote(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 8*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 8 * PageSize})
	w.mu.Lock()
	x := w.known[f]
	w.unfollow(x)
	x.remote, x.wd = true, 1<<30 // of which no event comes
	w.wds[x.wd] = x
	w.keep()
	w.mu.Unlock()
	h.grow(t, f, 2*PageSize, 2*PageSize)
	eventually(t, "a tripwire", func() bool { return w.hides(2) })
	if fs := fileSystem(h.fd(f)); slices.Contains(remoteTypes[:], fs) || fs == 0 || fileSystem(-1) != 0 {
		t.Errorf("file system %#x, %#x for no file", fs, fileSystem(-1))
	}
}

// hides says whether there is a tripwire at a page, and not only one that is gone.
func (w *Window) hides(page uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.look(page * PageSize).hidden
}

// TestOutOfReach: a file that cannot be opened, as one that was removed, keeps what
// is left of it, and a tripwire comes where it ends.
func TestOutOfReach(t *testing.T) {
	for _, e := range []unix.Errno{unix.ESTALE, unix.ENFILE} {
		w, h := newRig(t, 2*RangeSize)
		f := h.add(t, 1024*PageSize)
		setup(t, w, h, Mapping{File: f, Len: 2 * RangeSize})
		h.failing(e)
		h.grow(t, f, 1000*PageSize, 1000*PageSize)
		eventually(t, "a tripwire", func() bool { return w.hides(1000) })
		expect(t, w, 0, append(pages(f, 0, 1000), all(hidden, 24)...)...)
		if c := w.Examine(1000*PageSize, false); (c == Truncated) != (e == unix.ESTALE) || c == Usable {
			t.Errorf("%v: %v", e, c)
		}
		h.grow(t, f, 6*PageSize, 6*PageSize)
		eventually(t, "a tripwire", func() bool { return w.hides(6) && w.hides(512) })
		expect(t, w, 0, append(pages(f, 0, 6), hidden)...)
		h.grow(t, f, 0, 0)
		eventually(t, "a tripwire", func() bool { return w.hides(0) })
		w.verify(t)
	}
}

func TestSweep(t *testing.T) {
	w, h := newRig(t, 4*RangeSize)
	w.hold(t)
	if w.Sweep() {
		t.Error("an empty window has something to mend")
	}
	f, g := h.add(t, 4*PageSize), h.add(t, RangeSize)
	setup(t, w, h, Mapping{File: g, Len: RangeSize})
	if w.Sweep() {
		t.Error("there is something to mend where all can be read")
	}
	setup(t, w, h, Mapping{File: f, At: RangeSize, Len: 2 * RangeSize})
	w.deafen(g)
	h.grow(t, g, 2*PageSize, 2*PageSize)
	if !w.Sweep() {
		t.Error("nothing was found")
	}
	expect(t, w, PageSize, append([]want{{g, 1, false}}, all(want{}, 510)...)...)
	expect(t, w, RangeSize, append(pages(f, 0, 4), all(want{}, 1020)...)...)
	if c := w.Examine(RangeSize+5*PageSize, false); c != Usable {
		t.Errorf("zeros: %v", c)
	}
	if c := w.Examine(RangeSize+5*PageSize, true); c != Truncated {
		t.Errorf("a store to zeros: %v", c)
	}
	if s := w.Stats(); s.Mended != 0 {
		t.Errorf("%d mended", s.Mended)
	}
	w.letGo(t)
	eventually(t, "tripwires again", func() bool {
		return shows(w, PageSize*511, hidden) == "" && shows(w, 3*RangeSize-PageSize, hidden) == ""
	})
	w.verify(t)
}

// TestSweepOver: a file has grown over the zeros of a Sweep. Where it is cut off again,
// there are tripwires.
func TestSweepOver(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 4*PageSize)
	setup(t, w, h, Mapping{File: f, Len: 8 * PageSize})
	w.hold(t)
	if !w.Sweep() {
		t.Error("nothing was found")
	}
	h.grow(t, f, 4*PageSize, 8*PageSize)
	eventually(t, "the file has grown", func() bool { return w.shownOf(f) == 8*PageSize })
	w.letGo(t)
	eventually(t, "the sweep is over", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return !w.keeping
	})
	h.grow(t, f, 2*PageSize, 2*PageSize)
	eventually(t, "a tripwire", func() bool { return w.hides(2) })
	expect(t, w, 0, append(pages(f, 0, 2), hidden)...)
	w.verify(t)
}

// TestSweepMends: all that was wrong is mended.
func TestSweepMends(t *testing.T) {
	w, h := newRig(t, 4*RangeSize)
	f := h.add(t, 4*PageSize)
	setup(t, w, h, Mapping{File: f, At: RangeSize, Len: 6 * PageSize})
	w.deafen(f)
	h.grow(t, f, 4*PageSize, 6*PageSize)
	if !w.Sweep() {
		t.Error("growth was not found")
	}
	expect(t, w, RangeSize, append(pages(f, 0, 6), want{})...)
	if s := w.Stats(); s.Mended != 1 {
		t.Errorf("%d mended", s.Mended)
	}
	w.verify(t)
	if w.Sweep() {
		t.Error("there is something to mend where all can be read")
	}
}
