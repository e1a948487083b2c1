// Package dax is the DAX window of a virtio-fs device (virtio 1.3 §5.11.6.4): a
// range of this process's addresses that a guest sees as memory, and in which
// pieces of host files take the place of one another. The guest's loads and
// stores then touch the host's page cache: no request, no copy.
//
// Nothing in this process may look through the window: a page beyond the end of
// a file that was truncated is SIGBUS to a load and EFAULT to a system call.
package dax

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// PageSize is the granularity of mappings in bytes, and RangeSize that in which
// Linux asks for them (FUSE_DAX_SHIFT).
const (
	PageSize  = 4096
	RangeSize = 2 << 20
)

// Files is where the window gets a file again that it has mapped.
type Files interface {
	// Reopen opens the file that mappings name by the given number, for reading,
	// and for writing too with write. The descriptor is the caller's to close.
	// ESTALE is a file that was removed and cannot be opened any more. It is called
	// from several goroutines, also between the calls of the window's methods.
	Reopen(file uint64, write bool) (fd int, e unix.Errno)
}

// Mapping is a piece of a file and its place in the window; all three numbers
// are in bytes and multiples of PageSize.
type Mapping struct {
	File   uint64 // names the file to Files; the same number is the same file
	Offset uint64 // in the file; the piece may reach beyond its end
	At     uint64 // in the window
	Len    uint64
	Write  bool // the guest may store
}

// Window is one DAX window. It is safe for concurrent use.
type Window struct {
	space space
	files Files
	stats counters
	// Ready is told of each piece of a file that has just been mapped and seems to be
	// in the host's memory. It is set, if at all, before the first Map.
	Ready func(Mapping)

	// mu guards the model and the system calls that change what is shown, so that
	// both say the same, and file sizes that are asked for them. Nothing that may
	// wait for a disk is done under it; a network file system may hold all of them.
	mu     sync.Mutex
	closed bool
	table
	plugs
	watch

	done  chan struct{}  // closed by Close
	tasks sync.WaitGroup // goroutines of this window
}

// New reserves a window of size bytes, a power of two and at least RangeSize. It
// begins at a multiple of RangeSize, so that huge pages of files fit, and shows
// zeros that cannot be written.
func New(size uint64) (*Window, error) {
	if size < RangeSize || bits.OnesCount64(size) != 1 || size > math.MaxInt64/2 {
		return nil, fmt.Errorf("dax: a window of %d bytes: it takes a power of two from %d on", size, RangeSize)
	}
	s, err := reserve(size)
	if err != nil {
		return nil, err
	}
	w := &Window{space: s, table: newTable(size / RangeSize), done: make(chan struct{})}
	w.watch.wds = make(map[int32]*file)
	w.plugs.lost = make(map[uint64]struct{})
	return w, nil
}

// Attach says where files come from. It comes before the first Map.
func (w *Window) Attach(f Files) { w.files = f }

// Size is the window's length in bytes.
func (w *Window) Size() uint64 { return w.space.size }

// Reservation is the window's addresses, for the guest's memory map and for
// iovecs of system calls: Go code must not look at the bytes.
func (w *Window) Reservation() []byte { return w.space.bytes() }

// Map shows a piece of the file behind fd, which is open for reading and with
// m.Write also for writing, and is not needed any more when it returns. What the
// window showed there before is replaced at once, wholly or in part; where an
// error comes in between, it shows either, or zeros. EINVAL is a mapping that is
// empty, not of whole pages, or not inside the window; ENOMEM too many of them;
// ENODEV something else than a regular file; others are those of mmap(2).
func (w *Window) Map(fd int, m Mapping) unix.Errno {
	if !inside(m.At, m.Len, w.space.size) || m.Offset%PageSize != 0 ||
		m.Offset > math.MaxInt64-m.Len {
		w.stats.refused.Add(1)
		return unix.EINVAL
	}
	w.mu.Lock()
	shown, e := w.show(fd, m)
	w.mu.Unlock()
	switch e {
	case 0:
		w.stats.setups.Add(1)
	case unix.EACCES, unix.EPERM, unix.EINVAL, unix.ENODEV:
		w.stats.refused.Add(1)
	}
	if shown > 0 && w.prefault(m.At, shown) && w.Ready != nil {
		m.Len = shown
		w.Ready(m)
	}
	return e
}

// show is Map under the lock. It returns how many bytes show the file.
func (w *Window) show(fd int, m Mapping) (shown uint64, e unix.Errno) {
	if w.closed {
		return 0, unix.EINVAL
	}
	if !w.room(m.At, m.Len, true) {
		return 0, unix.ENOMEM
	}
	f, fresh := w.record(m.File)
	w.rest(f)
	defer w.tidy()
	if fresh {
		fs := fileSystem(fd)
		if fs == unix.HUGETLBFS_MAGIC {
			return 0, unix.ENODEV // mmap(2) rounds up to huge pages: over what is beside us
		}
		f.remote = slices.Contains(remoteTypes[:], fs)
		if e = mappable(contents(fd, 0, m.Write)); e != 0 {
			return 0, e
		}
		w.follow(f, fd)
	}
	// Only now: whoever makes the file shorter from here on raises an event.
	size, e := sizeOf(fd)
	if e != 0 {
		return 0, e
	}
	shown = within(size, m.Offset, m.Len)
	upgrade := w.upgrades(m)
	placed := uint64(0)
	if shown > 0 {
		if e = w.put(m.At, shown, contents(fd, m.Offset, m.Write)); e == 0 {
			placed = shown
		}
	}
	if e == 0 && shown < m.Len {
		if e = w.put(m.At+shown, m.Len-shown, tripwire()); e == 0 {
			placed = m.Len
		}
	}
	m.Len = placed
	w.carve(m.At, m.Len)
	w.insert(f, m, shown)
	if e == 0 && upgrade {
		w.stats.upgrades.Add(1)
	}
	return min(shown, placed), e
}

// upgrades says whether a mapping shows for writing what is shown for reading.
func (w *Window) upgrades(m Mapping) bool {
	e := w.find(m.At)
	return e != nil && m.Write && !e.write && e.file.number == m.File && e.off+(m.At-e.at) == m.Offset
}

// within is how many bytes of a file's piece have pages; the last may be in part
// beyond its end.
func within(size, off, n uint64) uint64 {
	if size <= off {
		return 0
	}
	return min((size-off+PageSize-1)&^(PageSize-1), n)
}

// sizeOf is the size of a regular file.
func sizeOf(fd int) (uint64, unix.Errno) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, errno(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, unix.ENODEV
	}
	return uint64(st.Size), 0
}

// errno is the error of a system call.
func errno(err error) unix.Errno {
	if e, ok := err.(unix.Errno); ok {
		return e
	}
	return unix.EIO
}

// put has a stretch show something else; plugs in it go. After an error it shows
// what it did before, or zeros and belongs to no extent.
func (w *Window) put(at, n uint64, v view) unix.Errno {
	e := w.space.place(at, n, v)
	if e == 0 {
		w.unplug(at, n)
		return 0
	}
	// Before Linux 6.12 what was there may be gone, and nothing be in its place.
	if w.hole(at, n) && w.space.place(at, n, zeros()) == 0 {
		w.unplug(at, n)
		w.carve(at, n)
	}
	if e == unix.EAGAIN {
		return unix.ENOMEM // a guest asks again for ever
	}
	return e
}

// hole says whether there are addresses in a stretch that show nothing at all.
func (w *Window) hole(at, n uint64) bool {
	for n > 0 {
		var r residency
		piece := min(n, RangeSize)
		if w.space.resident(at, piece, &r) == unix.ENOMEM {
			return true
		}
		at, n = at+piece, n-piece
	}
	return false
}

// Unmap shows zeros instead of files; errors as Map.
func (w *Window) Unmap(at, n uint64) unix.Errno {
	if !inside(at, n, w.space.size) {
		return unix.EINVAL
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return unix.EINVAL
	}
	if !w.room(at, n, false) {
		return unix.ENOMEM
	}
	defer w.tidy()
	if e := w.put(at, n, zeros()); e != 0 {
		return e
	}
	w.carve(at, n)
	w.stats.removes.Add(1)
	return 0
}

// tidy stops following the files of which nothing is shown any more.
func (w *Window) tidy() {
	for _, f := range w.idle {
		f.idle = false
		if f.extents == 0 {
			w.unfollow(f)
			w.forget(f)
		}
	}
	w.idle = w.idle[:0]
}

// Reset shows zeros everywhere, and forgets what was lost.
func (w *Window) Reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.put(0, w.space.size, zeros()) != 0 {
		return
	}
	w.carve(0, w.space.size)
	w.tidy()
	clear(w.lost)
}

// Close gives the addresses back. No guest may see them any more.
func (w *Window) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	ino := w.ino
	w.mu.Unlock()
	close(w.done)
	if ino != nil {
		ino.Close()
	}
	w.tasks.Wait()
	return w.space.release()
}
