package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

const (
	// inlineRead is how many bytes are read on a vCPU's own thread from a file
	// system that cannot say whether it would wait.
	inlineRead = 128 << 10
	// promptRead is how many bytes are read without telling Go's scheduler: where
	// copying takes longer, telling it costs nothing in comparison.
	promptRead = 32 << 10
)

// Release implements virtiofs.Files.
func (f *FS) Release(file virtiofs.File) unix.Errno {
	h, e := f.handles.drop(file, false)
	if e != 0 {
		return e
	}
	f.closing(h)
	f.handles.unpin(h)
	f.releaseLocks(file)
	return 0
}

// Read implements virtiofs.Files. Unless it may block the kernel is asked for what
// is in the page cache (RWF_NOWAIT); file systems that do not know the question
// are read plainly as long as it is little.
func (f *FS) Read(file virtiofs.File, to []unix.Iovec, off int64, r virtiofs.ReadFlags) (int, unix.Errno) {
	h, e := f.opened(file, false)
	if e != 0 {
		return 0, e
	}
	n, e := h.read(to, off, r)
	if e == unix.EFAULT && f.mend(to, true) {
		n, e = h.read(to, off, r)
	}
	f.handles.unpin(h)
	return n, e
}

func (h *handle) read(to []unix.Iovec, off int64, r virtiofs.ReadFlags) (int, unix.Errno) {
	switch size := total(to); {
	case r.MayBlock:
		return preadv2(h.fd, to, off, 0)
	case h.plain.Load() == plainNo:
		n, e := h.readCached(to, off, size, r.Window)
		if e != unix.EOPNOTSUPP {
			return n, e
		}
		h.plain.Store(plainOf(h.fd))
		fallthrough
	default:
		if size > inlineRead && h.plain.Load() != plainMemory {
			return 0, unix.EAGAIN
		}
		return preadv2(h.fd, to, off, 0)
	}
}

// How a file system takes RWF_NOWAIT.
const (
	plainNo     uint32 = iota // it knows it, as far as anybody has asked
	plainYes                  // it does not
	plainMemory               // nor does it, because it has no storage to wait for
)

// plainOf is for a file whose file system does not know RWF_NOWAIT.
func plainOf(fd int) uint32 {
	var fs unix.Statfs_t
	if fstatfs(fd, &fs) == 0 && fs.Type == typeTmpfs {
		return plainMemory
	}
	return plainYes
}

// readCached reads what is in the page cache. It may be less than there is in the
// file, as when the next page is not there.
//
// Go's scheduler is not told of the call (see preadNow) where promptly says so, and
// what was read last was all in the cache: for what is missing the kernel looks, and
// even begins to read it, before it says EAGAIN.
func (h *handle) readCached(to []unix.Iovec, off int64, size uint64, window bool) (n int, e unix.Errno) {
	cached := h.cached.Load()
	if cached && promptly(size, window) {
		n, e = preadNow(h.fd, to, off)
	} else {
		n, e = preadv2(h.fd, to, off, unix.RWF_NOWAIT)
	}
	if now := e == 0 && uint64(n) == size; now != cached {
		h.cached.Store(now)
	}
	return n, e
}

// promptly says that to fill the buffers is soon done: they are small, and in RAM,
// where a fault is no worse than one of a store by this process to the same place. In
// a window it can be a read from a file.
func promptly(size uint64, window bool) bool { return size <= promptRead && !window }

func total(v []unix.Iovec) uint64 {
	var n uint64
	for i := range v {
		n += v[i].Len
	}
	return n
}

// Write implements virtiofs.Files.
func (f *FS) Write(file virtiofs.File, from []unix.Iovec, off int64, w virtiofs.WriteFlags) (int, unix.Errno) {
	h, e := f.opened(file, false)
	if e != 0 {
		return 0, e
	}
	n := 0
	if e = f.prepareWrite(h, w.KillSuidgid); e == 0 {
		n, e = pwritev2(h.fd, from, off, writeFlags(w))
	}
	if e == unix.EFAULT && f.mend(from, false) {
		n, e = pwritev2(h.fd, from, off, writeFlags(w))
	}
	f.handles.unpin(h)
	return n, e
}

// writeFlags is the flags of pwritev2(2). O_SYNC holds the bit of O_DSYNC.
func writeFlags(w virtiofs.WriteFlags) int {
	flags := 0
	if w.Append {
		flags = unix.RWF_APPEND
	}
	switch {
	case w.Sync&unix.O_SYNC == unix.O_SYNC:
		flags |= unix.RWF_SYNC
	case w.Sync&unix.O_DSYNC != 0:
		flags |= unix.RWF_DSYNC
	}
	return flags
}

// prepareWrite refuses a handle that is open for reading only, before anything
// is changed, and takes the set-id bits where the guest's caller may not keep them.
func (f *FS) prepareWrite(h *handle, kill bool) unix.Errno {
	if !h.writable {
		return unix.EBADF
	}
	return f.strip(h.fd, kill)
}

// Fsync implements virtiofs.Files.
func (f *FS) Fsync(file virtiofs.File, dataOnly bool) unix.Errno {
	return f.sync(file, false, dataOnly)
}

func (f *FS) sync(file virtiofs.File, dir, dataOnly bool) unix.Errno {
	h, e := f.opened(file, dir)
	if e != 0 {
		return e
	}
	defer f.handles.unpin(h)
	if e := fsync(h.fd, dataOnly); e != 0 || f.window == nil {
		return e
	}
	if f.window.Lost(uint64(file.Node)) {
		return unix.EIO
	}
	return 0
}

// Fallocate implements virtiofs.Files.
func (f *FS) Fallocate(file virtiofs.File, mode uint32, off, n int64, kill bool) unix.Errno {
	h, e := f.opened(file, false)
	if e != 0 {
		return e
	}
	defer f.handles.unpin(h)
	if e := f.prepareWrite(h, kill); e != 0 {
		return e
	}
	return fallocate(h.fd, mode, off, n)
}

// Lseek implements virtiofs.Files. The descriptor's own position, which it
// moves, is used by nothing else.
func (f *FS) Lseek(file virtiofs.File, off int64, whence uint32) (int64, unix.Errno) {
	h, e := f.opened(file, false)
	if e != 0 {
		return 0, e
	}
	defer f.handles.unpin(h)
	return lseek(h.fd, off, int(whence))
}

// CopyFileRange implements virtiofs.Files.
func (f *FS) CopyFileRange(from virtiofs.File, fromOff int64, to virtiofs.File, toOff int64, n uint64, kill bool) (int, unix.Errno) {
	src, e := f.opened(from, false)
	if e != 0 {
		return 0, e
	}
	defer f.handles.unpin(src)
	dst, e := f.opened(to, false)
	if e != 0 {
		return 0, e
	}
	defer f.handles.unpin(dst)
	if e := f.prepareWrite(dst, kill); e != 0 {
		return 0, e
	}
	return copyFileRange(src.fd, fromOff, dst.fd, toOff, n)
}
