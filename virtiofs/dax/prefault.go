package dax

import "golang.org/x/sys/unix"

const (
	// samples is how many pages of a range are asked for being in memory.
	samples = 4
	// maxPrefault is how much of a mapping is read in: a guest could ask for the
	// whole window at once, which Linux does not.
	maxPrefault = 8 * RangeSize
)

// prefault has the kernel read in what has just been mapped, without waiting, if it
// is not in memory, and says whether all of it seems to be there. Another mapping may
// have taken its place meanwhile, which does no harm.
//
// It does not fill the page tables (MADV_POPULATE_READ): for 2 MiB that costs more
// than the 32 faults it spares, as a fault maps 16 pages around it anyway
// (BenchmarkSetup). And it asks about a few pages only: mincore(2) for a range
// costs more than the mmap(2), MADV_WILLNEED on cached pages as much.
func (w *Window) prefault(at, n uint64) (cached bool) {
	cached = n <= maxPrefault
	for n = min(n, maxPrefault); n > 0; {
		piece := min(n, RangeSize-at%RangeSize)
		if !w.cached(at, piece) {
			cached = false
			w.space.advise(at, piece, unix.MADV_WILLNEED) // nothing depends on it
		}
		at, n = at+piece, n-piece
	}
	return cached
}

// cached says whether a stretch seems to be in the page cache.
func (w *Window) cached(at, n uint64) bool {
	for i := range uint64(samples) {
		var r residency
		page := at + (n-PageSize)*i/(samples-1)&^(PageSize-1)
		if w.space.resident(page, PageSize, &r) != 0 || r[0]&1 == 0 {
			return false
		}
	}
	return true
}

// Rearm has the guest's next store to the file through the window show in its
// times, as the first one after mapping it does: until the host writes a page
// back, it does not notice more than one.
func (w *Window) Rearm(file uint64) {
	if w.writable.Load() == 0 {
		return
	}
	for left := -1; left != 0; {
		left = w.rearmSome(file, left)
	}
}

// rearmSome does the next few of a file's extents, left of them, or all if that is
// below zero, and returns how many are left then. It turns the ring: extents that
// others add meanwhile come last and need nothing.
func (w *Window) rearmSome(number uint64, left int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.known[number]
	if w.closed || f == nil || f.extents == 0 {
		return 0
	}
	if left < 0 {
		left = f.extents
	}
	for range min(left, fitBatch) {
		// It takes the pages out of the page tables only: they are the file's.
		if e := f.ring; e.write && e.shown > 0 {
			w.space.advise(e.at, e.shown, unix.MADV_DONTNEED)
		}
		f.ring = f.ring.after
		left--
	}
	return left
}
