package dax

import "sync/atomic"

// extent is a piece of a file that one range of the window shows. Its first bytes
// show the file, the rest, beyond the file's end, is hidden: tripwires, or zeros
// for a while. All numbers are bytes of whole pages.
type extent struct {
	file   *file
	id     uint64 // never that of another extent
	off    uint64 // in the file
	at, n  uint64 // in the window
	shown  uint64
	write  bool
	zeroed bool // what is hidden shows zeros (Sweep)

	next *extent // in the same range, by place
	// The ring of the file's extents.
	before, after *extent
}

func (e *extent) end() uint64 { return e.at + e.n }

// cutTail leaves the first n bytes.
func (e *extent) cutTail(n uint64) {
	e.n = n
	e.shown = min(e.shown, n)
}

// cutHead takes the first n bytes away.
func (e *extent) cutHead(n uint64) {
	e.off += n
	e.at += n
	e.n -= n
	e.shown -= min(e.shown, n)
}

// file is a file of which the window shows something.
type file struct {
	number   uint64
	extents  int
	writable int     // of the extents
	ring     *extent // nil without any
	idle     bool    // is in the list of those that may be without

	wd       int32 // inotify's name for it, -1 without
	twin     *file // the next one with the same wd
	modified bool  // is in the list of those that have changed
	remote   bool  // inotify does not tell all of it
	retry    bool  // what it shows could not be changed
}

// table is the model of what a window shows. Everything in it is for the holder
// of the window's lock.
type table struct {
	ranges  []*extent        // the first extent of each
	known   map[uint64]*file // by number
	extents int              // in use
	limit   int              // of extents
	mapped  int              // ranges with extents
	ids     uint64
	// writable is the extents that the guest may store to; anybody may ask.
	writable atomic.Int64

	idle        []*file // which may have no extents any more
	spareExtent *extent // linked by next
	spareFile   *file   // linked by twin
}

// maxExtents bounds the extents of any window: each is up to three of the 65530
// mappings that a process may have (vm.max_map_count), and Go ends the process
// when it gets none.
const maxExtents = 16384

func extentLimit(ranges uint64) int { return int(min(2*ranges+64, maxExtents)) }

// Mappings is how many mappings of the process (vm.max_map_count) a window of so many
// bytes takes at most: an extent is a piece of a file, what is beyond the file's end,
// and nothing in between the next; a plug cuts one in two.
func Mappings(size uint64) uint64 {
	return 3*uint64(extentLimit(size/RangeSize)) + 2*maxPlugs + 1
}

func newTable(ranges uint64) table {
	return table{
		ranges: make([]*extent, ranges),
		known:  make(map[uint64]*file),
		limit:  extentLimit(ranges),
	}
}

// find returns the extent that shows a page, nil without.
func (t *table) find(at uint64) *extent {
	for e := t.ranges[at/RangeSize]; e != nil && e.at <= at; e = e.next {
		if at < e.end() {
			return e
		}
	}
	return nil
}

// room says whether the extents stay within their limit when a stretch shows a
// file, or with fresh false nothing, in the place of what it shows.
func (t *table) room(at, n uint64, fresh bool) bool {
	count := t.extents
	for r := at / RangeSize; r <= (at+n-1)/RangeSize; r++ {
		if fresh {
			count++
		}
		for e := t.ranges[r]; e != nil; e = e.next {
			switch {
			case e.at >= at && e.end() <= at+n:
				count--
			case e.at < at && e.end() > at+n:
				count++
			}
		}
	}
	return count <= t.limit
}

// carve takes a stretch out of all extents.
func (t *table) carve(at, n uint64) {
	for r := at / RangeSize; n > 0 && r <= (at+n-1)/RangeSize; r++ {
		had := t.ranges[r] != nil
		t.carveRange(&t.ranges[r], at, at+n)
		if had && t.ranges[r] == nil {
			t.mapped--
		}
	}
}

func (t *table) carveRange(link **extent, from, to uint64) {
	for *link != nil {
		e := *link
		switch {
		case e.end() <= from:
			link = &e.next
		case e.at >= to:
			return
		case e.at >= from && e.end() <= to:
			*link = e.next
			t.drop(e)
		case e.at >= from:
			e.cutHead(to - e.at)
			return
		default:
			if e.end() > to {
				tail := t.add(e.file, e.write)
				tail.off, tail.at, tail.n, tail.shown, tail.zeroed = e.off, e.at, e.n, e.shown, e.zeroed
				tail.cutHead(to - e.at)
				tail.next, e.next = e.next, tail
			}
			e.cutTail(from - e.at)
			link = &e.next
		}
	}
}

// insert adds extents for a stretch that none has. shown is how many bytes of it
// show the file.
func (t *table) insert(f *file, m Mapping, shown uint64) {
	for m.Len > 0 {
		n := min(m.Len, RangeSize-m.At%RangeSize)
		e := t.add(f, m.Write)
		e.off, e.at, e.n, e.shown = m.Offset, m.At, n, min(shown, n)
		link := &t.ranges[m.At/RangeSize]
		if *link == nil {
			t.mapped++
		}
		for *link != nil && (*link).at < e.at {
			link = &(*link).next
		}
		e.next, *link = *link, e
		m.Offset, m.At, m.Len, shown = m.Offset+n, m.At+n, m.Len-n, shown-e.shown
	}
}

// add makes an extent of the file, last in its ring.
func (t *table) add(f *file, write bool) *extent {
	e := t.spareExtent
	if e == nil {
		e = new(extent)
	} else {
		t.spareExtent = e.next
	}
	t.ids++
	*e = extent{file: f, id: t.ids, write: write}
	if f.ring == nil {
		e.before, e.after, f.ring = e, e, e
	} else {
		e.before, e.after = f.ring.before, f.ring
		e.before.after, e.after.before = e, e
	}
	t.extents++
	f.extents++
	if write {
		f.writable++
		t.writable.Add(1)
	}
	return e
}

// drop forgets an extent that is in no range any more.
func (t *table) drop(e *extent) {
	f := e.file
	t.extents--
	f.extents--
	if e.write {
		f.writable--
		t.writable.Add(-1)
	}
	e.before.after, e.after.before = e.after, e.before
	switch {
	case f.extents == 0:
		f.ring = nil
		t.rest(f)
	case f.ring == e:
		f.ring = e.after
	}
	*e = extent{next: t.spareExtent}
	t.spareExtent = e
}

// record returns the file's record, a new one if nothing of it was shown.
func (t *table) record(number uint64) (f *file, fresh bool) {
	if f = t.known[number]; f != nil {
		return f, false
	}
	if f = t.spareFile; f == nil {
		f = new(file)
	} else {
		t.spareFile = f.twin
	}
	*f = file{number: number, wd: -1}
	t.known[number] = f
	return f, true
}

// rest notes that nothing may be shown of the file any more.
func (t *table) rest(f *file) {
	if !f.idle {
		f.idle = true
		t.idle = append(t.idle, f)
	}
}

// forget drops the record of a file of which nothing is shown.
func (t *table) forget(f *file) {
	delete(t.known, f.number)
	*f = file{twin: t.spareFile}
	t.spareFile = f
}
