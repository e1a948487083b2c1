package dax

import (
	"time"

	"golang.org/x/sys/unix"
)

// Sweep is for a fault of which nobody knows the page: it mends what can be
// mended, and shows zeros for a while in the place of all pages beyond the ends of
// their files. It says whether there was any of either. It does not find pages
// that the host fails to read: that would be to read all of them.
func (w *Window) Sweep() bool {
	w.mu.Lock()
	var files []uint64
	for number := range w.known {
		files = append(files, number)
	}
	w.mu.Unlock()
	mended := false
	for _, number := range files {
		before := w.shownOf(number)
		w.check(number)
		mended = mended || w.shownOf(number) > before
	}
	if mended {
		w.stats.mended.Add(1)
	}
	return w.zero() || mended
}

// shownOf is how many bytes of a file are shown.
func (w *Window) shownOf(number uint64) (n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.known[number]
	if f == nil {
		return 0
	}
	for i, x := 0, f.ring; i < f.extents; i, x = i+1, x.after {
		n += x.shown
	}
	return n
}

// zero shows zeros in the place of all tripwires, and says whether there were any.
func (w *Window) zero() (any bool) {
	w.sweeps()
	for r := range w.ranges {
		changed, _ := w.cover(uint64(r), true)
		any = any || changed
	}
	w.sweeps() // their time begins now
	return any
}

// sweeps notes that there may be zeros in the place of tripwires from now on.
func (w *Window) sweeps() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.swept, w.zeroed = time.Now(), true
	w.keep()
}

// unzero sets the tripwires again if the last Sweep was before a moment.
func (w *Window) unzero(before time.Time) {
	w.mu.Lock()
	due := w.zeroed && w.swept.Before(before)
	if due {
		w.zeroed = false
	}
	w.mu.Unlock()
	if !due {
		return
	}
	for r := range w.ranges {
		if _, e := w.cover(uint64(r), false); e != 0 {
			w.mu.Lock()
			w.zeroed = true // the next tick tries again
			w.mu.Unlock()
		}
	}
}

// cover changes what hides the hidden pages of a range: zeros or tripwires. It
// says whether there was anything to change.
func (w *Window) cover(r uint64, zeroed bool) (changed bool, e unix.Errno) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false, 0
	}
	defer w.tidy()
	for x := w.ranges[r]; x != nil; x = x.next {
		if x.shown == x.n {
			x.zeroed = false // should it be cut off again
		}
		if x.shown == x.n || x.zeroed == zeroed {
			continue
		}
		x.zeroed = zeroed
		if e = w.put(x.at+x.shown, x.n-x.shown, x.cover()); e != 0 {
			x.zeroed = !zeroed // x may be in no range any more
			return changed, e
		}
		changed = true
	}
	return changed, 0
}
