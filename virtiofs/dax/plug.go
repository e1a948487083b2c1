package dax

import (
	"time"

	"golang.org/x/sys/unix"
)

// plug is a page of zeros in the place of one that the guest could not have.
type plug struct {
	at    uint64
	id    uint64 // never that of another plug
	kind  plugKind
	since time.Time
}

// plugs is the plugs of a window, oldest first, and what they cost.
type plugs struct {
	plug   []plug
	plugID uint64
	zeroed bool                // there may be extents whose hidden part shows zeros
	swept  time.Time           // when that was last so wanted
	lost   map[uint64]struct{} // files whose stores went to scratch
}

const (
	// maxPlugs bounds the memory that scratch takes, and the mappings of plugs.
	maxPlugs = 256
	// maxLost bounds the files that are remembered as having lost stores.
	maxLost = 1024
	// plugTime is how long a plug stays at least: long enough that the program
	// that met it has gone on, short enough that growth is seen soon.
	plugTime = 100 * time.Millisecond
)

type plugKind uint8

const (
	plugNone    plugKind = iota
	plugZeros            // zeros stand in
	plugScratch          // zeros that the guest may store to
	plugTrip             // nothing does: see Trip
)

// view is what a plug shows.
func (k plugKind) view() view {
	switch k {
	case plugScratch:
		return scratch()
	case plugTrip:
		return tripwire()
	}
	return zeros()
}

// plugged says what plugs a page. w.mu is held.
func (w *Window) plugged(at uint64) plugKind {
	for i := range w.plug {
		if w.plug[i].at == at {
			return w.plug[i].kind
		}
	}
	return plugNone
}

// unplug forgets the plugs in a stretch that shows something else. w.mu is held.
func (w *Window) unplug(at, n uint64) {
	keep := w.plug[:0]
	for _, p := range w.plug {
		if p.at < at || p.at-at >= n {
			keep = append(keep, p)
		}
	}
	w.plug = keep
}

// Plug puts zeros in the place of a page that cannot be read, or with store such
// that can be written in the place of one that cannot be written. After a while,
// or when the file has grown, the page is the file's again. A page that can be
// used stays. EINVAL is a page outside the window, ENOMEM no memory for it.
func (w *Window) Plug(at uint64, store bool) unix.Errno {
	if at >= w.space.size {
		return unix.EINVAL
	}
	p, kind := w.lookup(at&^(PageSize-1)), plugZeros
	if store {
		kind = plugScratch
	}
	if c, _ := w.judge(p, store); c == Usable {
		return 0
	}
	return w.replace(p, kind)
}

// Trip hides a page of a file for a while, so that the guest's next access to it is
// reported: KVM keeps quiet about a page that may be used and that the host fails to
// provide. Errors as Plug.
func (w *Window) Trip(at uint64) unix.Errno {
	if at >= w.space.size {
		return unix.EINVAL
	}
	p := w.lookup(at &^ (PageSize - 1))
	if p.id == 0 || p.hidden || p.plug != plugNone {
		return 0
	}
	return w.replace(p, plugTrip)
}

// untrip shows the page that Trip has hidden.
func (w *Window) untrip(at uint64) {
	w.mu.Lock()
	trip := plug{}
	for _, p := range w.plug {
		if p.at == at && p.kind == plugTrip {
			trip = p
		}
	}
	w.mu.Unlock()
	if trip.id != 0 {
		w.restore(trip) // if it cannot be done, the page is still hidden
	}
}

// replace puts a plug in the place of a page, and takes the oldest away where there
// are too many.
func (w *Window) replace(p page, kind plugKind) unix.Errno {
	for {
		oldest, e := w.stop(p, kind)
		if e != unix.EAGAIN {
			return e
		}
		if e := w.restore(oldest); e != 0 {
			return e
		}
	}
}

// stop plugs the page unless it shows something else by now. EAGAIN: the oldest
// plug must make way first.
func (w *Window) stop(p page, kind plugKind) (oldest plug, e unix.Errno) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.look(p.at) != p {
		return plug{}, 0 // the guest tries again
	}
	if len(w.plug) >= maxPlugs {
		return w.plug[0], unix.EAGAIN
	}
	defer w.tidy()
	if e := w.put(p.at, PageSize, kind.view()); e != 0 {
		return plug{}, e
	}
	w.plugID++
	w.plug = append(w.plug, plug{at: p.at, id: w.plugID, kind: kind, since: time.Now()})
	if kind == plugScratch && p.id != 0 {
		w.lose(p.file)
	}
	w.keep()
	return plug{}, 0
}

// restore has the page of a plug show again what it should. After an error, the plug
// is still there.
func (w *Window) restore(old plug) unix.Errno {
	p := w.lookup(old.at)
	fd := -1
	if p.id != 0 && !p.hidden {
		var e unix.Errno
		if fd, e = w.reopen(p.file, p.write); e == 0 {
			defer unix.Close(fd)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return unix.EINVAL
	case !w.stands(old):
		return 0
	}
	defer w.tidy()
	x := w.find(old.at)
	switch {
	case x == nil:
		return w.put(old.at, PageSize, zeros())
	case old.at-x.at >= x.shown:
		return w.put(old.at, PageSize, x.cover())
	case fd >= 0: // of the same file: what replaces an extent takes the plugs in it
		from, to := w.seam(x, old.at)
		return w.put(from, to-from, contents(fd, x.off+(from-x.at), x.write))
	}
	// The file cannot be had: whoever comes here next asks for it again.
	at := old.at - x.at
	e := w.put(old.at, x.shown-at, x.cover())
	if e == 0 {
		x.shown = at
	}
	return e
}

// stands says whether a plug is still there. w.mu is held.
func (w *Window) stands(p plug) bool {
	for i := range w.plug {
		if w.plug[i].id == p.id {
			return true
		}
	}
	return false
}

// lose notes that stores to a file are lost. w.mu is held.
func (w *Window) lose(file uint64) {
	if len(w.lost) >= maxLost {
		for other := range w.lost { // any of them
			delete(w.lost, other)
			break
		}
	}
	w.lost[file] = struct{}{}
}

// Lost says whether stores of the guest to the file were lost since it was last
// asked: pages that the host could not provide (Zeroed) took them.
func (w *Window) Lost(file uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, lost := w.lost[file]
	delete(w.lost, file)
	return lost
}
