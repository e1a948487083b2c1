package dax

import "golang.org/x/sys/unix"

// Cause is why a page of the window cannot be used.
type Cause uint8

const (
	Usable    Cause = iota // it can be: whatever the fault was, trying again helps
	Truncated              // beyond the end of its file
	Failed                 // the host could not provide it: an I/O error, no space
	Protected              // it may be read and not written: shown for reading only, or shows nothing
)

// Answer is what was done about a fault.
type Answer uint8

const (
	Signaled Answer = iota // the guest's program was sent SIGBUS
	Zeroed                 // a page of zeros stands in, whose contents go again
	Stopped                // the machine ends
)

// page is what the window shows at one page, as it was a moment ago.
type page struct {
	at     uint64
	id     uint64 // of the extent; 0: there is none, and zeros are shown
	file   uint64
	write  bool // by the extent
	hidden bool // beyond the file's end
	zeroed bool // and zeros are shown there for a while
	plug   plugKind
}

// look says what is shown at a page. w.mu is held.
func (w *Window) look(at uint64) page {
	p := page{at: at, plug: w.plugged(at)}
	if e := w.find(at); e != nil {
		p.id, p.file, p.write = e.id, e.file.number, e.write
		p.hidden = at-e.at >= e.shown
		p.zeroed = e.zeroed
	}
	return p
}

// lookup is look for those who do not hold the lock.
func (w *Window) lookup(at uint64) page {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.look(at)
}

// judge says what an access comes to. sure is false where only a look at the file
// can tell more.
func (w *Window) judge(p page, write bool) (c Cause, sure bool) {
	switch {
	case p.plug == plugScratch, p.plug == plugZeros && !write:
		return Usable, true
	case p.id == 0 && write:
		return Protected, true
	case p.id == 0, p.hidden && p.zeroed && !write:
		return Usable, true
	case p.hidden:
		return Truncated, false
	case write && !p.write:
		return Protected, true
	case p.plug == plugZeros: // stands in for a page that could not be had
		return Failed, true
	case w.touch(p.at, write):
		return Usable, true
	}
	return Failed, false
}

// touch says whether the host can provide the page of a file.
func (w *Window) touch(at uint64, write bool) bool {
	if !w.space.readable(at) {
		return false
	}
	if !write {
		return true
	}
	e := w.space.advise(at, PageSize, unix.MADV_POPULATE_WRITE)
	return e == 0 || e == unix.EINVAL // before Linux 5.14: nobody knows
}

// Examine says why the page at a window offset cannot be read, or with write not
// be written. What can be mended is mended: pages of a file that has grown are
// shown again, which counts as a fault that was mended.
func (w *Window) Examine(at uint64, write bool) Cause {
	if at >= w.space.size {
		return Protected
	}
	p := w.lookup(at &^ (PageSize - 1))
	if p.plug == plugTrip {
		w.untrip(p.at)
		p = w.lookup(p.at)
	}
	c, sure := w.judge(p, write)
	if sure {
		return c
	}
	if c = w.mend(p, write); c == Failed && w.touch(p.at, write) {
		return Usable // the file was shorter for a moment only
	}
	return c
}

// mend has the extent at a page show what its file has by now.
func (w *Window) mend(p page, write bool) Cause {
	fd, e := w.reopen(p.file, p.write)
	switch {
	case e == unix.ESTALE && p.hidden:
		return Truncated // it was removed, and does not come back
	case e != 0:
		return Failed
	}
	defer unix.Close(fd)
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.find(p.at)
	if w.closed || x == nil || x.id != p.id {
		return Usable // it shows something else by now
	}
	size, e := sizeOf(fd)
	if e == 0 {
		e = w.fit(x, size, fd)
	}
	defer w.tidy()
	switch {
	case e != 0:
		return Failed
	case p.at-x.at >= x.shown:
		return Truncated
	case !p.hidden:
		return Failed
	}
	w.stats.mended.Add(1)
	if write && !x.write {
		return Protected
	}
	return Usable
}

// reopen is Files.Reopen.
func (w *Window) reopen(file uint64, write bool) (int, unix.Errno) {
	if w.files == nil {
		return -1, unix.ENOSYS
	}
	return w.files.Reopen(file, write)
}

// fit has an extent show its file up to its end, and hides the rest. fd is open
// for writing too if the extent is. After an error the extent may be gone.
//
// What has grown is mapped together with what was shown before it: see seam.
func (w *Window) fit(x *extent, size uint64, fd int) unix.Errno {
	want := within(size, x.off, x.n)
	var e unix.Errno
	switch {
	case want > x.shown:
		from, _ := w.seam(x, x.at+x.shown)
		e = w.put(from, x.at+want-from, contents(fd, x.off+(from-x.at), x.write))
	case want < x.shown:
		e = w.put(x.at+want, x.shown-want, x.cover())
	}
	if e == 0 {
		x.shown = want
	}
	return e
}

// seam is the stretch around a page in which an extent shows its file, from one plug
// to the next. It is one mapping of the process, and stays one as it is mapped as a
// whole: the kernel joins mappings of the same open file only, and Reopen gives another
// one each time. A file that grows page by page, or has one page after the other
// plugged, would take a mapping for each. w.mu is held.
func (w *Window) seam(x *extent, at uint64) (from, to uint64) {
	from, to = x.at, x.at+x.shown
	for i := range w.plug {
		switch p := w.plug[i].at; {
		case p < from || p >= to || p == at:
		case p < at:
			from = p + PageSize
		default:
			to = p
		}
	}
	return from, to
}

// cover is what the hidden part of an extent shows.
func (e *extent) cover() view {
	if e.zeroed {
		return zeros()
	}
	return tripwire()
}
