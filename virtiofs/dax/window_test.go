package dax

import (
	"bytes"
	"math"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

const top = math.MaxUint64

func TestNew(t *testing.T) {
	for _, size := range []uint64{0, 1, PageSize, RangeSize / 2, 3 * RangeSize, RangeSize + PageSize, 1 << 63, 1 << 62, 1 << 56} {
		if w, err := New(size); err == nil {
			w.Close()
			t.Errorf("New(%#x): no error", size)
		}
	}
	for _, size := range []uint64{RangeSize, 64 << 20, 16 << 30} {
		w, err := New(size)
		if err != nil {
			t.Fatal(err)
		}
		if w.base()%RangeSize != 0 || uint64(len(w.Reservation())) != size || w.Size() != size {
			t.Errorf("New(%#x): %#x bytes at %#x", size, len(w.Reservation()), w.base())
		}
		expect(t, w, 0, want{})
		expect(t, w, size-PageSize, want{})
		if _, e := w.store(0, []byte{1}); e != unix.EFAULT {
			t.Errorf("New(%#x): a store gives %v", size, e)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestShows is the contents of pages after a few calls. f is of 1024 pages and g of 5
// and a half, each map and unmap counts pages.
func TestShows(t *testing.T) {
	type op struct {
		file           uint64 // 0: unmap
		page, at, n    uint64
		write, refused bool
	}
	const f, g = 1, 2
	hidden := want{gone: true}
	for _, c := range []struct {
		name string
		ops  []op
		at   uint64
		want []want
	}{
		{"nothing", nil, 0, all(want{}, 4)},
		{"one page", []op{{f, 7, 3, 1, false, false}}, 2, []want{{}, {f, 7, false}, {}}},
		{"a whole range", []op{{f, 0, 512, 512, true, false}}, 511, append([]want{{}}, pages(f, 0, 512)...)},
		{"two ranges at once", []op{{f, 0, 100, 600, false, false}}, 99, append(append([]want{{}}, pages(f, 0, 600)...), want{})},
		{"beyond the end", []op{{g, 0, 0, 512, false, false}}, 0, append(pages(g, 0, 5), want{g, 5, false}, hidden, hidden)},
		{"the end of a range", []op{{g, 0, 0, 512, false, false}}, 510, []want{hidden, hidden, {}}},
		{"wholly beyond", []op{{g, 6, 0, 3, false, false}}, 0, []want{hidden, hidden, hidden, {}}},
		{"far beyond", []op{{g, 1 << 50, 0, 3, false, false}}, 0, []want{hidden, hidden, hidden, {}}},
		{"hidden across ranges", []op{{g, 0, 509, 515, true, false}}, 508, append(append([]want{{}}, append(pages(g, 0, 5), want{g, 5, false})...), hidden, hidden, hidden)},
		{"replaced by itself", []op{{f, 0, 0, 9, false, false}, {f, 0, 0, 9, true, false}}, 0, append(pages(f, 0, 9), want{})},
		{"replaced by more", []op{{f, 0, 2, 2, false, false}, {f, 50, 0, 6, false, false}}, 0, append(pages(f, 50, 6), want{})},
		{"head replaced", []op{{f, 0, 4, 8, false, false}, {f, 50, 2, 4, false, false}}, 1, append(append([]want{{}}, pages(f, 50, 4)...), pages(f, 2, 6)...)},
		{"tail replaced", []op{{f, 0, 4, 8, false, false}, {f, 50, 10, 4, false, false}}, 4, append(append(pages(f, 0, 6), pages(f, 50, 4)...), want{})},
		{"middle replaced", []op{{f, 0, 0, 12, false, false}, {f, 50, 4, 4, true, false}}, 0, append(append(append(pages(f, 0, 4), pages(f, 50, 4)...), pages(f, 8, 4)...), want{})},
		{"middle unmapped", []op{{f, 0, 0, 12, true, false}, {0, 0, 4, 4, false, false}}, 0, append(append(append(pages(f, 0, 4), all(want{}, 4)...), pages(f, 8, 4)...), want{})},
		{"several replaced", []op{{f, 0, 0, 3, false, false}, {f, 20, 3, 3, false, false}, {f, 40, 6, 3, false, false}, {f, 99, 2, 5, false, false}}, 0,
			append(append(pages(f, 0, 2), pages(f, 99, 5)...), pages(f, 41, 2)...)},
		{"hidden split", []op{{g, 0, 0, 12, false, false}, {0, 0, 3, 1, false, false}, {0, 0, 8, 1, false, false}}, 0,
			[]want{{g, 0, false}, {g, 1, false}, {g, 2, false}, {}, {g, 4, false}, {g, 5, false}, hidden, hidden, {}, hidden, hidden, hidden, {}}},
		{"hidden replaced", []op{{g, 0, 0, 12, false, false}, {f, 1, 7, 2, false, false}}, 5,
			[]want{{g, 5, false}, hidden, {f, 1, false}, {f, 2, false}, hidden}},
		{"unmapped across ranges", []op{{f, 0, 0, 1024, false, false}, {0, 0, 511, 2, false, false}}, 510,
			[]want{{f, 510, false}, {}, {}, {f, 513, false}}},
		{"unmapped twice", []op{{f, 0, 0, 4, false, false}, {0, 0, 0, 4, false, false}, {0, 0, 0, 4, false, false}}, 0, all(want{}, 5)},
		{"refused changes nothing", []op{{f, 0, 0, 4, false, false}, {f, 4, 1023, 2, false, true}, {0, 0, 1024, 1, false, true}}, 0, append(pages(f, 0, 4), want{})},
		{"the last page", []op{{f, 9, 1023, 1, false, false}}, 1022, []want{{}, {f, 9, false}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, h := newRig(t, 2*RangeSize)
			h.add(t, 1024*PageSize)
			h.add(t, 6*PageSize)
			if err := h.files[g-1].Truncate(5*PageSize + 2048); err != nil {
				t.Fatal(err)
			}
			for _, o := range c.ops {
				var e unix.Errno
				if o.file == 0 {
					e = w.Unmap(o.at*PageSize, o.n*PageSize)
				} else {
					e = w.Map(h.fd(o.file), Mapping{o.file, o.page * PageSize, o.at * PageSize, o.n * PageSize, o.write})
				}
				if (e == unix.EINVAL) != o.refused || e != 0 && e != unix.EINVAL {
					t.Fatalf("%+v: %v", o, e)
				}
			}
			expect(t, w, c.at*PageSize, c.want...)
			w.verify(t)
		})
	}
}

// TestBounds is numbers that would reach memory outside the window.
func TestBounds(t *testing.T) {
	const size = 4 * RangeSize
	w, h := newRig(t, size)
	before, after := neighbours(t, w)
	before[0], after[0] = 'b', 'a'
	defer func() {
		if before[0] != 'b' || after[0] != 'a' {
			t.Error("memory next to the window has changed")
		}
	}()
	f := h.add(t, size)
	base := uint64(w.base())
	for _, c := range []struct{ off, at, n uint64 }{
		{0, 0, 0},
		{0, size, 0},
		{0, 0, 1},
		{0, 1, PageSize},
		{1, 0, PageSize},
		{0, 0, PageSize + 1},
		{0, 0, size + PageSize},
		{0, size, PageSize},
		{0, size - PageSize, 2 * PageSize},
		{0, size + PageSize, PageSize},
		{0, top - PageSize + 1, PageSize},
		{0, top - PageSize + 1, 2 * PageSize},
		{0, PageSize, top - PageSize + 1},
		{0, RangeSize, top - RangeSize + 1},
		{0, 0, 1 << 63},
		{0, 1 << 63, PageSize},
		{0, 1 << 63, 1 << 63},
		{0, -base, PageSize},
		{0, base + size, PageSize},
		{0, top - PageSize + 1, top - PageSize + 1},
		{size + 1, 0, PageSize},
		{1 << 63, 0, PageSize},
		{top - PageSize + 1, 0, PageSize},
		{top - PageSize + 1, 0, 2 * PageSize},
		{math.MaxInt64 - PageSize + 1, 0, 2 * PageSize},
	} {
		if e := w.Map(h.fd(f), Mapping{File: f, Offset: c.off, At: c.at, Len: c.n}); e != unix.EINVAL {
			t.Errorf("Map(offset %#x, at %#x, %#x bytes): %v", c.off, c.at, c.n, e)
		}
		if c.off != 0 {
			continue
		}
		if e := w.Unmap(c.at, c.n); e != unix.EINVAL {
			t.Errorf("Unmap(%#x, %#x bytes): %v", c.at, c.n, e)
		}
		// The last door, where the first is open.
		if e := w.space.place(c.at, c.n, zeros()); e != unix.EINVAL {
			t.Errorf("place(%#x, %#x bytes): %v", c.at, c.n, e)
		}
		if e := w.space.advise(c.at, c.n, unix.MADV_DONTNEED); e != unix.EINVAL {
			t.Errorf("advise(%#x, %#x bytes): %v", c.at, c.n, e)
		}
		var r residency
		if e := w.space.resident(c.at, c.n, &r); e != unix.EINVAL {
			t.Errorf("resident(%#x, %#x bytes): %v", c.at, c.n, e)
		}
	}
	for _, at := range []uint64{size, size + 1, 1 << 63, top, top - PageSize + 1, -base} {
		if c := w.Examine(at, true); c != Protected {
			t.Errorf("Examine(%#x): %v", at, c)
		}
		if e := w.Plug(at, true); e != unix.EINVAL {
			t.Errorf("Plug(%#x): %v", at, e)
		}
		if w.space.readable(at) {
			t.Errorf("%#x is readable", at)
		}
	}
	if s := w.Stats(); s.Setups != 0 || s.Removes != 0 || s.Mapped != 0 || s.Refused != 25 {
		t.Errorf("%+v", s)
	}
	setup(t, w, h, Mapping{File: f, At: 0, Len: size})
	expect(t, w, size-PageSize, want{f, size/PageSize - 1, false})
}

func TestCoherence(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 8*PageSize)
	setup(t, w, h, Mapping{File: f, Offset: PageSize, At: 4 * PageSize, Len: 4 * PageSize, Write: true})
	if _, err := h.files[f-1].WriteAt([]byte("by the host"), 2*PageSize+100); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 11)
	if _, e := w.load(5*PageSize+100, b); e != 0 || string(b) != "by the host" {
		t.Errorf("the guest sees %q, %v", b, e)
	}
	if _, e := w.store(7*PageSize+50, []byte("by the guest")); e != 0 {
		t.Fatal(e)
	}
	b = make([]byte, 12)
	if _, err := h.files[f-1].ReadAt(b, 4*PageSize+50); err != nil || string(b) != "by the guest" {
		t.Errorf("the host sees %q, %v", b, err)
	}
}

// TestReadOnly: what was mapped for reading cannot be written, although the
// descriptor could.
func TestReadOnly(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 4*PageSize)
	old, err := os.ReadFile(h.files[f-1].Name())
	if err != nil {
		t.Fatal(err)
	}
	setup(t, w, h, Mapping{File: f, Len: 6 * PageSize})
	h.grow(t, f, 4*PageSize, 4*PageSize)
	for at := uint64(0); at < 8*PageSize; at += PageSize {
		if _, e := w.store(at, []byte("broken")); e != unix.EFAULT {
			t.Errorf("a store at %#x gives %v", at, e)
		}
	}
	if now, err := os.ReadFile(h.files[f-1].Name()); err != nil || !bytes.Equal(old, now) {
		t.Errorf("the file has changed (%v)", err)
	}
	h.grow(t, f, 4*PageSize, 5*PageSize)
	if c := w.Examine(4*PageSize, false); c != Usable {
		t.Errorf("after growing: %v", c)
	}
	if _, e := w.store(4*PageSize, []byte("broken")); e != unix.EFAULT {
		t.Errorf("a store to what was mended gives %v", e)
	}
}

func TestMapErrors(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, 4*PageSize)
	open := func(path string, flags int) int {
		t.Helper()
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	name := h.files[f-1].Name()
	reading, writing := open(name, unix.O_RDONLY), open(name, unix.O_WRONLY)
	for _, shown := range []bool{false, true} {
		if shown {
			setup(t, w, h, Mapping{File: f, Len: 4 * PageSize})
		}
		for _, c := range []struct {
			what  string
			fd    int
			write bool
			e     unix.Errno
		}{
			{"for writing, open for reading", reading, true, unix.EACCES},
			{"open for writing only", writing, false, unix.EACCES},
			{"a directory", open(h.dir, unix.O_RDONLY), false, unix.ENODEV},
			{"a device", open("/dev/zero", unix.O_RDWR), false, unix.ENODEV},
			{"a path", open(name, unix.O_PATH), false, unix.EBADF},
			{"nothing", -1, false, unix.EBADF},
		} {
			if e := w.Map(c.fd, Mapping{File: f, Len: 4 * PageSize, Write: c.write}); e != c.e {
				t.Errorf("%s: %v, want %v", c.what, e, c.e)
			}
			if shown {
				expect(t, w, 0, pages(f, 0, 4)...)
			} else {
				expect(t, w, 0, all(want{}, 4)...)
			}
			w.verify(t)
		}
	}
	if s := w.Stats(); s.Refused != 8 || s.Setups != 1 || s.Upgrades != 0 {
		t.Errorf("%+v", s)
	}
}

func TestStats(t *testing.T) {
	w, h := newRig(t, 8*RangeSize)
	f := h.add(t, 4*RangeSize)
	setup(t, w, h, Mapping{File: f, Len: RangeSize})                                                               // 1 range
	setup(t, w, h, Mapping{File: f, At: RangeSize, Len: 2 * RangeSize})                                            // 3
	setup(t, w, h, Mapping{File: f, Len: RangeSize, Write: true})                                                  // an upgrade
	setup(t, w, h, Mapping{File: f, Len: RangeSize, Write: true})                                                  // it was
	setup(t, w, h, Mapping{File: f, Offset: PageSize, At: RangeSize, Len: PageSize, Write: true})                  // something else
	setup(t, w, h, Mapping{File: f, Offset: 2 * PageSize, At: RangeSize + 2*PageSize, Len: PageSize, Write: true}) // in part
	w.Refuse()
	for _, r := range []uint64{2, 2, 3} {
		if e := w.Unmap(r*RangeSize, RangeSize); e != 0 {
			t.Fatal(e)
		}
	}
	w.Count(Truncated, Signaled)
	w.Count(Truncated, Zeroed)
	w.Count(Failed, Zeroed)
	w.Count(Protected, Zeroed)
	w.Count(Protected, Stopped)
	want := Stats{Size: 8 * RangeSize, Ranges: 8, Mapped: 2, Free: 6, Setups: 6, Removes: 3, Upgrades: 2, Refused: 1,
		Truncated: 2, Failed: 1, Protected: 2, Signaled: 1, Zeroed: 3}
	if s := w.Stats(); s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
	w.Reset()
	want.Mapped, want.Free = 0, 8
	if s := w.Stats(); s != want {
		t.Errorf("after Reset %+v, want %+v", s, want)
	}
}

// TestLimit: pieces of a page cannot use up the mappings of the process.
func TestLimit(t *testing.T) {
	w, h := newRig(t, RangeSize)
	f := h.add(t, RangeSize)
	g := h.add(t, PageSize)
	m := Mapping{File: f, Len: PageSize}
	for i := range uint64(2 + 64) {
		m.Offset, m.At = i*3%512*PageSize, i*2*PageSize
		setup(t, w, h, m)
	}
	m.At += 2 * PageSize
	if e := w.Map(h.fd(f), m); e != unix.ENOMEM {
		t.Errorf("one more: %v", e)
	}
	expect(t, w, m.At, want{})
	m.At = 4 * PageSize
	setup(t, w, h, m) // in the place of another
	if e := w.Unmap(m.At, PageSize); e != 0 {
		t.Fatal(e)
	}
	setup(t, w, h, Mapping{File: f, At: 256 * PageSize, Len: 256 * PageSize})
	if e := w.Unmap(300*PageSize, PageSize); e != unix.ENOMEM {
		t.Errorf("unmapping that splits: %v", e)
	}
	if e := w.Map(h.fd(g), Mapping{File: g, At: 300 * PageSize, Len: PageSize}); e != unix.ENOMEM {
		t.Errorf("mapping that splits: %v", e)
	}
	expect(t, w, 299*PageSize, pages(f, 43, 3)...)
	w.verify(t)
	setup(t, w, h, Mapping{File: f, Len: RangeSize})
	expect(t, w, 0, pages(f, 0, 512)...)
	big, err := New(1 << 40)
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	if big.limit > 65530/3 {
		t.Errorf("a window of 1 TiB may have %d extents", big.limit)
	}
}

func TestReset(t *testing.T) {
	w, h := newRig(t, 2*RangeSize)
	f := h.add(t, RangeSize+PageSize)
	for range 3 {
		setup(t, w, h, Mapping{File: f, Len: 2 * RangeSize, Write: true})
		expect(t, w, RangeSize, want{f, 512, false}, want{gone: true})
		if e := w.Plug(RangeSize+4*PageSize, true); e != 0 {
			t.Fatal(e)
		}
		w.Reset()
		expect(t, w, 0, all(want{}, 1024)...)
		w.verify(t)
		if w.Lost(f) {
			t.Error("what was lost before the reset is still known")
		}
		if len(w.known) != 0 || len(w.wds) != 0 || w.writable.Load() != 0 || w.extents != 0 {
			t.Errorf("after Reset: %d files, %d watches, %d writable, %d extents",
				len(w.known), len(w.wds), w.writable.Load(), w.extents)
		}
	}
}

func TestClose(t *testing.T) {
	w, err := New(RangeSize)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{dir: t.TempDir()}
	w.Attach(h)
	f := h.add(t, PageSize)
	setup(t, w, h, Mapping{File: f, Len: RangeSize})
	plugIt(t, w, PageSize, true)
	old, shown := w.plug[0], *w.find(0)
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, e := w.load(0, make([]byte, 1)); e != unix.EFAULT {
		t.Errorf("after Close there is still something: %v", e)
	}
	if e := w.Map(h.fd(f), Mapping{File: f, Len: RangeSize}); e != unix.EINVAL {
		t.Errorf("Map: %v", e)
	}
	if e := w.Unmap(0, RangeSize); e != unix.EINVAL {
		t.Errorf("Unmap: %v", e)
	}
	h.grow(t, f, PageSize, 2*PageSize) // there would be something to mend
	w.Examine(PageSize, true)
	w.Examine(RangeSize-PageSize, true)
	w.Plug(RangeSize-PageSize, true)
	w.restore(old)
	w.hide(shown, 0)
	w.Sweep()
	w.Rearm(f)
	w.Reset()
	w.keep()
	for at := uint64(0); at < RangeSize; at += PageSize {
		if _, e := w.load(at, make([]byte, 1)); e != unix.EFAULT {
			t.Fatalf("something was mapped at %#x after Close: %v", at, e)
		}
	}
	for _, a := range w.areas(t) {
		if a.to-a.from == PageSize {
			t.Errorf("a tripwire was set after Close: %+v", a)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	w, h := newRig(t, 4*RangeSize)
	f, g := h.add(t, 4*RangeSize), h.add(t, RangeSize/2)
	for _, c := range []struct {
		what string
		run  func()
	}{
		{"Map over another", func() {
			setup(t, w, h, Mapping{File: f, At: RangeSize, Len: RangeSize, Write: true})
			setup(t, w, h, Mapping{File: f, Offset: RangeSize, At: RangeSize, Len: RangeSize})
		}},
		{"Map and Unmap of the only piece", func() {
			setup(t, w, h, Mapping{File: g, At: 0, Len: RangeSize})
			if e := w.Unmap(0, RangeSize); e != 0 {
				t.Fatal(e)
			}
		}},
		{"splitting", func() {
			setup(t, w, h, Mapping{File: f, At: 0, Len: RangeSize})
			setup(t, w, h, Mapping{File: g, At: 5 * PageSize, Len: PageSize})
		}},
		{"Rearm", func() { w.Rearm(f) }},
		{"Lost", func() { w.Lost(f) }},
	} {
		if n := testing.AllocsPerRun(100, c.run); n > 0 {
			t.Errorf("%s allocates %v times", c.what, n)
		}
	}
}
