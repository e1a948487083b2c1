package dax

import (
	"bufio"
	"fmt"
	"os"
	"testing"
)

// area is one line of /proc/self/maps inside the window.
type area struct {
	from, to uint64 // in the window
	perms    string
	off, ino uint64
}

// areas is what the kernel says about the window's addresses.
func (w *Window) areas(t testing.TB) (list []area) {
	t.Helper()
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	base := uint64(w.base())
	s := bufio.NewScanner(f)
	for s.Scan() {
		var a area
		var dev string
		if _, err := fmt.Sscanf(s.Text(), "%x-%x %s %x %s %d", &a.from, &a.to, &a.perms, &a.off, &dev, &a.ino); err != nil {
			t.Fatalf("%q: %v", s.Text(), err)
		}
		if a.to <= base || a.from >= base+w.Size() {
			continue
		}
		if a.from < base { // merged with memory before it
			a.from = base
		}
		a.from, a.to = a.from-base, min(a.to-base, w.Size())
		list = append(list, a)
	}
	return list
}

// verify holds the model against the kernel, page by page. Nobody else may use the
// window meanwhile but its own goroutines.
func (w *Window) verify(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	inodes := make(map[uint64]uint64)
	next := uint64(0)
	wrong := 0
	areas := w.areas(t)
	if most := 3*w.extents + 2*len(w.plug) + 1; len(areas) > most {
		t.Errorf("%d mappings of the process for %d extents and %d plugs", len(areas), w.extents, len(w.plug))
	}
	for _, a := range areas {
		if a.from != next {
			t.Errorf("there is nothing at %#x to %#x", next, a.from)
		}
		next = a.to
		for at := a.from; at < a.to; at += PageSize {
			p, x := w.look(at), w.find(at)
			is := fmt.Sprintf("%s file %v", a.perms, a.ino != 0)
			is0 := is
			must := "r--p file false"
			switch {
			case p.plug == plugScratch:
				must = "rw-p file false"
			case p.plug == plugTrip:
				must = "---p file false"
			case p.plug == plugZeros, p.id == 0, p.hidden && p.zeroed:
			case p.hidden:
				must = "---p file false"
			case p.write:
				must = "rw-s file true"
			default:
				must = "r--s file true"
			}
			if p.plug == plugNone && p.id != 0 && !p.hidden {
				must += fmt.Sprintf(" at %#x", x.off+at-x.at)
				is += fmt.Sprintf(" at %#x", a.off+at-a.from)
				if ino, ok := inodes[p.file]; ok && ino != a.ino {
					is += " of another inode"
				}
				inodes[p.file] = a.ino
			}
			if is != must {
				if wrong++; wrong < 10 {
					t.Errorf("the page at %#x is %q (%s), the model says %q", at, is, is0, must)
				}
			}
		}
	}
	if next != w.Size() {
		t.Errorf("there is nothing at %#x", next)
	}
	w.count(t)
}

// count holds the numbers that the model keeps against what it is made of.
func (w *Window) count(t testing.TB) {
	t.Helper()
	extents, mapped, writable := 0, 0, 0
	perFile := make(map[*file]int)
	for r, x := range w.ranges {
		if x != nil {
			mapped++
		}
		at := uint64(r) * RangeSize
		for ; x != nil; x = x.next {
			extents++
			perFile[x.file]++
			if x.write {
				writable++
			}
			if x.at < at || x.n == 0 || x.shown > x.n || x.end() > uint64(r+1)*RangeSize {
				t.Errorf("range %d has the extent %+v", r, *x)
			}
			at = x.end()
		}
	}
	if extents != w.extents || extents > w.limit || mapped != w.mapped || int64(writable) != w.writable.Load() {
		t.Errorf("%d extents, %d mapped, %d writable; the model counts %d, %d, %d",
			extents, mapped, writable, w.extents, w.mapped, w.writable.Load())
	}
	if len(perFile) != len(w.known) {
		t.Errorf("%d files are shown, %d are known", len(perFile), len(w.known))
	}
	for number, f := range w.known {
		ring := 0
		for i, x := 0, f.ring; i < f.extents; i, x = i+1, x.after {
			if ring++; x.file != f || x.after.before != x {
				t.Errorf("the ring of file %d is broken", number)
			}
		}
		if f.number != number || ring != perFile[f] {
			t.Errorf("file %d has %d extents, %d in its ring", number, perFile[f], ring)
		}
	}
	if len(w.plug) > maxPlugs {
		t.Errorf("%d plugs", len(w.plug))
	}
}
