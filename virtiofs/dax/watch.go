package dax

import (
	"encoding/binary"
	"os"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// watch is how a window learns that files were made shorter behind its back, so
// that it can hide pages which are gone before a guest is caught in them. It is
// inotify(7), whose IN_MODIFY comes after the size has changed; files for which
// that cannot be had (max_user_instances, max_user_watches, no /proc) or is not
// enough (other machines change them) are asked for their size every now and then.
// Asking is better than reading their last page, which could wait for storage and
// would tell of that page only.
type watch struct {
	ino   *os.File        // nil without
	inoFD int             // its descriptor, until Close
	wds   map[int32]*file // the first of those with the same wd, further ones by twin
	// keeping says that the keeper runs.
	keeping bool
}

const (
	// calm is between two looks at events: a file that is written to without end
	// costs one look in that time. What was made shorter is noticed as late.
	calm = 2 * time.Millisecond
	// pollTime is between two looks at a file without events, and pollBatch the
	// files that are looked at in one go: others' turns come by chance.
	pollTime  = 250 * time.Millisecond
	pollBatch = 64
	// fitBatch bounds the mappings that are changed without letting go of the lock.
	fitBatch = 16
)

// follow watches a file of which something will be shown. w.mu is held.
func (w *Window) follow(f *file, fd int) {
	if f.remote {
		w.keep()
	}
	if w.ino == nil {
		ino, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			w.keep()
			return
		}
		w.ino = os.NewFile(uintptr(ino), "inotify")
		w.inoFD = ino
		w.tasks.Add(1)
		go w.observe(w.ino)
	}
	wd, e := watchModify(w.inoFD, fd)
	if e != 0 {
		w.keep()
		return
	}
	f.wd = wd
	f.twin, w.wds[wd] = w.wds[wd], f
}

// fileSystem is the type of the file system that a file is on (statfs(2)), 0 if that
// cannot be found out.
func fileSystem(fd int) int64 {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil {
		return 0
	}
	return fs.Type
}

// remoteTypes is those whose files can change without a system call on this machine
// (linux/magic.h).
var remoteTypes = [...]int64{
	unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC,
	unix.CEPH_SUPER_MAGIC, unix.V9FS_MAGIC, unix.FUSE_SUPER_MAGIC, unix.AFS_SUPER_MAGIC,
	unix.CODA_SUPER_MAGIC, unix.OCFS2_SUPER_MAGIC,
	0x01161970, // GFS2_MAGIC
	0x0bd00bd0, // Lustre
}

// unfollow is for a file of which nothing is shown any more. w.mu is held.
func (w *Window) unfollow(f *file) {
	if f.wd < 0 {
		return
	}
	first := w.wds[f.wd]
	switch {
	case first != f: // the same inode under another number
		for first.twin != f {
			first = first.twin
		}
		first.twin = f.twin
	case f.twin != nil:
		w.wds[f.wd] = f.twin
	default:
		delete(w.wds, f.wd)
		// It fails if the inode is gone, and the watch with it.
		unix.InotifyRmWatch(w.inoFD, uint32(f.wd))
	}
	f.wd, f.twin = -1, nil
}

// observe looks at files that inotify says have changed, until Close.
func (w *Window) observe(ino *os.File) {
	defer w.tasks.Done()
	buf := make([]byte, 16<<10)
	var changed []uint64
	for {
		n, err := ino.Read(buf)
		if err != nil {
			return
		}
		changed = w.modified(buf[:n], changed[:0])
		for _, number := range changed {
			w.check(number)
		}
		time.Sleep(calm)
	}
}

// modified adds the numbers of the files that events are about, each once.
func (w *Window) modified(events []byte, to []uint64) []uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		name := uint64(binary.NativeEndian.Uint32(events[12:]))
		events = events[min(unix.SizeofInotifyEvent+name, uint64(len(events))):]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for _, f := range w.known {
				to = f.noteModified(to)
			}
		}
		for f := w.wds[wd]; f != nil; f = f.twin {
			to = f.noteModified(to)
		}
	}
	for _, number := range to {
		w.known[number].modified = false
	}
	return to
}

// noteModified adds the file's number if it is not there yet.
func (f *file) noteModified(to []uint64) []uint64 {
	if f.modified {
		return to
	}
	f.modified = true
	return append(to, f.number)
}

// check has all extents of a file show it up to the end that it has now.
func (w *Window) check(number uint64) {
	w.mu.Lock()
	f := w.known[number]
	write := f != nil && f.writable > 0
	w.mu.Unlock()
	if f == nil {
		return
	}
	fd, e := w.reopen(number, write)
	if e != 0 {
		w.feel(number)
		return
	}
	defer unix.Close(fd)
	for !w.fitSome(number, fd) {
	}
}

// fitSome fits the next few extents of a file, and says whether all are done, or
// cannot be.
func (w *Window) fitSome(number uint64, fd int) (done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.known[number]
	if w.closed || f == nil {
		return true
	}
	size, e := sizeOf(fd)
	if f.retry = e != 0; f.retry {
		w.keep()
		return true
	}
	defer w.tidy()
	changed := 0
	for i, x := 0, f.ring; i < f.extents; i, x = i+1, x.after {
		if within(size, x.off, x.n) == x.shown {
			continue
		}
		if changed++; changed > fitBatch {
			return false
		}
		// It fails where one has become writable that fd is not for.
		if w.fit(x, size, fd) != 0 {
			f.retry = true // the ring may not be what it was
			w.keep()
			return true
		}
	}
	return true
}

// feel is check for a file that cannot be opened, as one that was removed: which of
// its pages are left is found out by reading some, which may wait for storage.
func (w *Window) feel(number uint64) {
	var list []extent
	w.mu.Lock()
	if f := w.known[number]; f != nil {
		for i, x := 0, f.ring; i < f.extents; i, x = i+1, x.after {
			list = append(list, *x)
		}
	}
	w.mu.Unlock()
	for _, x := range list {
		left := sort.Search(int(x.shown/PageSize), func(page int) bool {
			return !w.space.readable(x.at + uint64(page)*PageSize)
		})
		w.hide(x, uint64(left)*PageSize)
	}
}

// hide hides an extent but for the first n bytes of what it showed, if it is still
// the same. What it shows more than that by now is right.
func (w *Window) hide(was extent, n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.find(was.at)
	if w.closed || n >= was.shown || x == nil || x.id != was.id || x.shown <= n {
		return
	}
	defer w.tidy()
	if w.put(x.at+n, x.shown-n, x.cover()) == 0 {
		x.shown = n
	}
}

// keep starts the keeper if it does not run. w.mu is held.
func (w *Window) keep() {
	if !w.keeping && !w.closed {
		w.keeping = true
		w.tasks.Add(1)
		go w.keeper()
	}
}

// keeper does what is to be done after a time, for as long as there is something.
func (w *Window) keeper() {
	defer w.tasks.Done()
	polled := time.Now()
	tick := time.NewTicker(plugTime / 2)
	defer tick.Stop()
	for w.needed() {
		var now time.Time
		select {
		case <-w.done:
			return
		case now = <-tick.C:
		}
		w.expire(now.Add(-plugTime))
		if now.Sub(polled) >= pollTime {
			polled = now
			w.poll()
		}
	}
}

// needed says whether the keeper has something to do; if not, it ends.
func (w *Window) needed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keeping = len(w.plug) > 0 || w.zeroed || w.blind()
	return w.keeping
}

// asked says whether the file must be asked for its size.
func (f *file) asked() bool { return f.wd < 0 || f.remote || f.retry }

// blind says whether there is a file that must be asked for its size. w.mu is held.
func (w *Window) blind() bool {
	for _, f := range w.known {
		if f.asked() {
			return true
		}
	}
	return false
}

// poll checks files that inotify does not tell of.
func (w *Window) poll() {
	var ask []uint64
	w.mu.Lock()
	for _, f := range w.known {
		if f.asked() && len(ask) < pollBatch {
			ask = append(ask, f.number)
		}
	}
	w.mu.Unlock()
	for _, number := range ask {
		w.check(number)
	}
}

// expire takes away the plugs that were there before a moment.
func (w *Window) expire(before time.Time) {
	for {
		w.mu.Lock()
		old := plug{}
		if len(w.plug) > 0 && w.plug[0].since.Before(before) {
			old = w.plug[0]
		}
		w.mu.Unlock()
		if old.id == 0 || w.restore(old) != 0 {
			break
		}
	}
	w.unzero(before)
}
