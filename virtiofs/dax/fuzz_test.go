package dax

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzWindow turns bytes into calls of a window of 8 MiB, with plain numbers and
// absurd ones, and holds what each page shows against an array of pages.
//
// Inputs are not minimized: the window's own goroutines make coverage a matter of
// chance, so that minimizing takes its whole minute each time.
//
//	go test -run '^$' -fuzz FuzzWindow -fuzztime 1000000x -fuzzminimizetime 1x ./virtiofs/dax
func FuzzWindow(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed)
	}
	x := newFuzzRig(f)
	f.Fuzz(func(t *testing.T, data []byte) { x.run(t, data) })
}

const (
	fuzzSize  = 4 * RangeSize
	fuzzPages = fuzzSize / PageSize
)

// fuzzFiles is the pages of each file in the beginning, and the least that it is
// truncated to.
var fuzzFiles = []struct{ pages, least uint64 }{{40, 0}, {5, 0}, {530, 500}}

// cell is what the array says of a page.
type cell struct {
	file, page uint64 // file 0: zeros
	write      bool
	late       bool // hidden maybe: the file was shorter since
	plugged    bool // zeros maybe: for a while
}

type fuzzRig struct {
	w             *Window
	h             *host
	before, after []byte // memory next to the window
	cells         [fuzzPages]cell
	size          [3]uint64 // of the files, in pages
	stamped       [3]uint64 // pages that were never cut off
	in            []byte
	runs          int
}

func newFuzzRig(f *testing.F) *fuzzRig {
	w, h := newRig(f, fuzzSize)
	if dir, err := os.MkdirTemp("/dev/shm", "dax"); err == nil {
		f.Cleanup(func() { os.RemoveAll(dir) })
		h.dir = dir
	}
	x := &fuzzRig{w: w, h: h}
	for i, file := range fuzzFiles {
		h.add(f, int64(file.pages)*PageSize)
		x.stamped[i] = file.pages
	}
	x.before, x.after = neighbours(f, w)
	x.before[0], x.after[0] = 'b', 'a'
	return x
}

// run is one input.
func (x *fuzzRig) run(t *testing.T, data []byte) {
	x.in = data
	x.reset(t)
	for n := 0; len(x.in) > 0 && n < 32; n++ {
		x.step(t)
	}
	x.check(t)
	if x.before[0] != 'b' || x.after[0] != 'a' {
		t.Fatal("memory next to the window has changed")
	}
	if x.runs++; x.runs%64 == 1 {
		x.w.verify(t)
	}
}

// reset has files and window be as in the beginning.
func (x *fuzzRig) reset(t *testing.T) {
	x.w.Reset()
	clear(x.cells[:])
	for i, file := range fuzzFiles {
		if x.size[i] != file.pages || x.stamped[i] != file.pages {
			x.h.grow(t, uint64(i+1), int64(x.stamped[i])*PageSize, int64(file.pages)*PageSize)
		}
		x.size[i], x.stamped[i] = file.pages, file.pages
	}
}

// byte takes the next byte of the input.
func (x *fuzzRig) byte() byte {
	if len(x.in) == 0 {
		return 0
	}
	b := x.in[0]
	x.in = x.in[1:]
	return b
}

// number takes a number of bytes: mostly whole pages below limit, sometimes any.
func (x *fuzzRig) number(limit uint64) uint64 {
	switch b := x.byte(); {
	case b < 0xf0:
		return (uint64(b)<<8 | uint64(x.byte())) % limit * PageSize
	case b < 0xf8:
		return math.MaxUint64 - (uint64(b-0xf0)*PageSize - 1) // just below 0
	default:
		var raw [8]byte
		x.in = x.in[copy(raw[:], x.in):]
		return binary.LittleEndian.Uint64(raw[:])
	}
}

// step is one call.
func (x *fuzzRig) step(t *testing.T) {
	op := x.byte()
	file := uint64(op>>4)%3 + 1
	flag := op&8 != 0
	switch op & 7 {
	case 0, 1:
		x.mapIt(t, Mapping{file, x.number(600), x.number(fuzzPages), x.number(700), flag})
	case 2:
		x.unmap(t, x.number(fuzzPages), x.number(700))
	case 3:
		x.resize(t, file, uint64(x.byte()), flag)
	case 4:
		x.examine(t, x.number(fuzzPages), flag)
	case 5:
		x.plug(t, x.number(fuzzPages), flag)
	case 6:
		x.storeTo(t, x.number(fuzzPages))
	case 7:
		switch op >> 4 {
		case 0:
			x.w.Reset()
			clear(x.cells[:])
		case 1:
			x.w.Sweep()
			for i := range x.cells {
				x.cells[i].plugged = true
			}
		default:
			x.w.Rearm(file)
		}
	}
}

// valid says whether a stretch is one.
func valid(at, n uint64) bool {
	return n != 0 && at%PageSize == 0 && n%PageSize == 0 && at < fuzzSize && n <= fuzzSize && at+n <= fuzzSize
}

func (x *fuzzRig) mapIt(t *testing.T, m Mapping) {
	e := x.w.Map(x.h.fd(m.File), m)
	good := valid(m.At, m.Len) && m.Offset%PageSize == 0 && m.Offset <= math.MaxInt64-m.Len
	if good != (e == 0) || !good && e != unix.EINVAL {
		t.Fatalf("Map(%+v): %v", m, e)
	}
	if good {
		for i := range m.Len / PageSize {
			x.cells[m.At/PageSize+i] = cell{file: m.File, page: m.Offset/PageSize + i, write: m.Write}
		}
	}
}

func (x *fuzzRig) unmap(t *testing.T, at, n uint64) {
	e := x.w.Unmap(at, n)
	if good := valid(at, n); good != (e == 0) || !good && e != unix.EINVAL {
		t.Fatalf("Unmap(%#x, %#x): %v", at, n, e)
	} else if good {
		clear(x.cells[at/PageSize : (at+n)/PageSize])
	}
}

// resize truncates a file, with partial in the middle of a page.
func (x *fuzzRig) resize(t *testing.T, file, size uint64, partial bool) {
	f := fuzzFiles[file-1]
	size = f.least + size%(f.pages-f.least+8)
	bytes := size * PageSize
	if partial {
		bytes -= min(bytes, 1000)
	}
	if err := x.h.files[file-1].Truncate(int64(bytes)); err != nil {
		t.Fatal(err)
	}
	for i := range x.cells {
		// It was hidden, or it will be and may come back.
		if c := &x.cells[i]; c.file == file && (c.page >= x.size[file-1] || c.page >= size) {
			c.late = true
		}
	}
	x.size[file-1] = size
	x.stamped[file-1] = min(x.stamped[file-1], size)
}

func (x *fuzzRig) examine(t *testing.T, at uint64, write bool) {
	cause := x.w.Examine(at, write)
	if at >= fuzzSize {
		if cause != Protected {
			t.Fatalf("Examine(%#x): %v", at, cause)
		}
		return
	}
	c := &x.cells[at/PageSize]
	must := Usable
	switch {
	case c.plugged:
		return
	case c.file == 0 && write:
		must = Protected
	case c.file == 0:
	case c.page >= x.size[c.file-1]:
		must = Truncated
	case write && !c.write:
		must = Protected
	}
	if must == Truncated && cause == Protected && c.late && write && !c.write {
		return // both is so, until the window notices
	}
	if cause != must {
		t.Fatalf("Examine(%#x, %v) of %+v: %v, want %v", at, write, *c, cause, must)
	}
	if cause == Usable {
		x.now(t, at/PageSize, false)
	}
}

func (x *fuzzRig) plug(t *testing.T, at uint64, store bool) {
	e := x.w.Plug(at, store)
	if (e == 0) != (at < fuzzSize) {
		t.Fatalf("Plug(%#x): %v", at, e)
	}
	if e == 0 {
		x.cells[at/PageSize].plugged = true
	}
}

// storeTo stores, and sees whether that is in the file or not as it should.
func (x *fuzzRig) storeTo(t *testing.T, at uint64) {
	if at >= fuzzSize {
		return // that would not be a test of the window
	}
	at &^= PageSize - 1
	c := x.cells[at/PageSize]
	var old, now [1]byte
	off := int64(c.page*PageSize + 3000)
	if c.file != 0 {
		unix.Pread(x.h.fd(c.file), old[:], off)
	}
	_, e := x.w.store(at+3000, []byte{old[0] + 1})
	if c.file != 0 {
		unix.Pread(x.h.fd(c.file), now[:], off)
	}
	inside := c.file != 0 && c.page < x.size[c.file-1]
	switch changed := old != now; {
	case changed && !(inside && c.write):
		t.Fatalf("a store to %#x, %+v, is in the file", at, c)
	case c.plugged:
	case e == 0 && !(inside && c.write):
		t.Fatalf("a store to %#x, %+v, is possible", at, c)
	case e != 0 && inside && c.write && !c.late:
		t.Fatalf("a store to %#x, %+v: %v", at, c, e)
	case e == 0 && !changed && c.page+1 < x.size[c.file-1]:
		t.Fatalf("a store to %#x, %+v, is nowhere", at, c)
	}
}

// now checks one page. Where late pages may be hidden, mayHide.
func (x *fuzzRig) now(t *testing.T, page uint64, mayHide bool) {
	c := x.cells[page]
	var b [18]byte
	_, e := x.w.load(page*PageSize, b[:])
	ok := false
	empty := b == [18]byte{}
	switch {
	case c.file == 0:
		ok = e == 0 && empty
	case c.plugged && e == 0 && empty:
		ok = true
	case c.page >= x.size[c.file-1]:
		ok = e == unix.EFAULT
	case c.late && mayHide && e == unix.EFAULT:
		ok = true
	case c.page >= x.stamped[c.file-1]:
		ok = e == 0 && empty
	default:
		ok = e == 0 && string(b[:]) == string(stamp(c.file, c.page))
	}
	if !ok {
		t.Fatalf("page %d shows %q (%v), not %+v of files of %v pages, %v stamped", page, b, e, c, x.size, x.stamped)
	}
}

// check looks at the first, the last and one more page of all stretches that are
// alike.
func (x *fuzzRig) check(t *testing.T) {
	for from := uint64(0); from < fuzzPages; {
		to := from + 1
		for to < fuzzPages && x.alike(to) {
			to++
		}
		for _, p := range []uint64{from, from + (to-from)/2, to - 1} {
			x.now(t, p, true)
		}
		from = to
	}
}

// alike says whether a page goes on from the one before it.
func (x *fuzzRig) alike(p uint64) bool {
	c, d := x.cells[p], x.cells[p-1]
	if c.file != 0 {
		d.page++
		if end := x.size[c.file-1]; c.page == end || c.page == x.stamped[c.file-1] {
			return false
		}
	}
	return c == d
}

// seeds is inputs that reach each call.
func seeds() (s [][]byte) {
	for _, text := range []string{
		"",
		// map the 40 pages to the second range, make them 9, look, make them 40, look
		"00 0000 0200 0200; 33 09; 0c 0205; 33 28; 04 0220",
		// for writing; store; split by another; store
		"08 0000 0000 0100; 06 0003; 10 0000 0002 0008; 06 0003; 06 0007",
		// unmap in the middle and over a border
		"20 0000 0100 0212; 02 0150 0020; 02 01f0 0020",
		// beyond the end; plug for loads, then for stores; store
		"18 0000 0000 0200; 05 0040; 06 0040; 0d 0040; 06 0040; 04 0040; 0c 0040",
		// sweep, reset, rearm
		"10 0000 0000 0200; 17; 08 0000 0000 0010; 27; 07",
		// absurd numbers
		"00 ff0000000000000080 0000 0001; 00 0000 f1 0001; 00 0000 0001 f1; 02 f1 0001; 02 0001 f1; 04 f1; 0d f2; 00 f1 0000 0001",
		"00 0000 07ff 0002; 00 0000 0000 0000; 00 ff0100000000000000 0000 0001; 00 ff00f0ffffffffff7f 0000 0001",
	} {
		var b []byte
		fmt.Sscanf(strings.NewReplacer(" ", "", ";", "").Replace(text), "%x", &b)
		s = append(s, b)
	}
	return s
}
