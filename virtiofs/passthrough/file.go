package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// openFlags are the flags of open(2) that reach the host. O_APPEND is not among
// them: which write appends is said by each write. Neither is O_DIRECT, whose
// rules of alignment the guest's buffers need not obey.
const openFlags = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC

// inlineRead is how many bytes are read on a vCPU's own thread from a file
// system that cannot say whether it would wait.
const inlineRead = 128 << 10

// Open implements virtiofs.Files.
func (f *FS) Open(id virtiofs.NodeID, o virtiofs.OpenFlags) (virtiofs.Handle, unix.Errno) {
	n := f.inodes.pin(id)
	if n == nil {
		return 0, unix.ESTALE
	}
	defer f.inodes.unpin(n)
	if n.typ == unix.S_IFDIR {
		return 0, unix.EISDIR
	}
	return f.openNode(n, o)
}

func (f *FS) openNode(n *inode, o virtiofs.OpenFlags) (virtiofs.Handle, unix.Errno) {
	if !f.budget.take() {
		return 0, unix.ENFILE
	}
	flags := int(o.Flags) & openFlags
	fd, e := f.reopen(n, flags)
	if e == unix.EPERM && o.Flags&unix.O_APPEND != 0 {
		// chattr +a: the host wants to hear what every write will say anyway.
		fd, e = f.reopen(n, flags|unix.O_APPEND)
	}
	if e != 0 {
		f.budget.give()
		return 0, e
	}
	if o.KillSuidgid && o.Flags&unix.O_TRUNC != 0 {
		if e := f.killSuidgid(fd); e != 0 {
			f.budget.close(fd)
			return 0, e
		}
	}
	return f.handles.add(&handle{fd: fd, node: n.id, writable: writes(flags)}), 0
}

// Create implements virtiofs.Files. The file is made with O_EXCL; where it is
// there already and the guest does not mind, it is opened like any other, which
// is the only way an existing file is opened.
func (f *FS) Create(c *virtiofs.Caller, parent virtiofs.NodeID, name virtiofs.Name, mode uint32, o virtiofs.OpenFlags, e *virtiofs.Entry) (virtiofs.Handle, unix.Errno) {
	p, err := f.parent(parent, name, unix.EEXIST)
	if err != 0 {
		return 0, err
	}
	defer f.inodes.unpin(p)
	flags := int(o.Flags)&openFlags | unix.O_CREAT | unix.O_EXCL
	h, err := f.make(c, p, name.Pointer(), flags, mode, e)
	if err != unix.EEXIST || o.Flags&unix.O_EXCL != 0 {
		return h, err
	}
	if err := f.child(p, name.Pointer(), e); err != 0 {
		return 0, err
	}
	h, err = f.openFound(e.Node, o)
	if err != 0 {
		f.inodes.forget(e.Node, 1)
	}
	return h, err
}

// openFound opens the node for which a lookup has just been counted.
func (f *FS) openFound(id virtiofs.NodeID, o virtiofs.OpenFlags) (virtiofs.Handle, unix.Errno) {
	n := f.inodes.pin(id)
	if n == nil {
		return 0, unix.ESTALE
	}
	defer f.inodes.unpin(n)
	if n.typ != unix.S_IFREG {
		return 0, unix.EEXIST // CREATE answers with regular files only
	}
	return f.openNode(n, o)
}

// Tmpfile implements virtiofs.Files.
func (f *FS) Tmpfile(c *virtiofs.Caller, parent virtiofs.NodeID, mode uint32, o virtiofs.OpenFlags, e *virtiofs.Entry) (virtiofs.Handle, unix.Errno) {
	p, err := f.pinForChange(parent)
	if err != 0 {
		return 0, err
	}
	defer f.inodes.unpin(p)
	here := [2]byte{'.'}
	flags := int(o.Flags)&(openFlags|unix.O_EXCL) | unix.O_TMPFILE
	return f.make(c, p, &here[0], flags, mode, e)
}

// make creates a file for the caller, opens it and counts a lookup of its node.
// The node's descriptor comes from the open file, not from the name, which
// another may have got meanwhile.
func (f *FS) make(c *virtiofs.Caller, p *inode, name *byte, flags int, mode uint32, e *virtiofs.Entry) (virtiofs.Handle, unix.Errno) {
	switched, err := f.create(c, 2)
	if err != 0 {
		return 0, err
	}
	fd, err := openBeneath(p.fd(), name, flags, mode&0o7777)
	f.ids.leave(switched)
	if err != 0 {
		return 0, guestErrno(err)
	}
	if !f.budget.take() {
		closeFD(fd)
		return 0, unix.ENFILE
	}
	if err := f.adoptOpen(p, fd, e); err != 0 {
		f.budget.close(fd)
		return 0, err
	}
	return f.handles.add(&handle{fd: fd, node: e.Node, writable: writes(flags)}), 0
}

// adoptOpen is adopt for a file that is open for I/O.
func (f *FS) adoptOpen(p *inode, fd int, e *virtiofs.Entry) unix.Errno {
	if !f.budget.take() {
		return unix.ENFILE
	}
	var path fdPath
	opath, err := openat(f.proc, path.relative(fd), unix.O_PATH, 0)
	if err != 0 {
		f.budget.give()
		return guestErrno(err)
	}
	return f.adopt(p, opath, e)
}

// Release implements virtiofs.Files.
func (f *FS) Release(file virtiofs.File) unix.Errno { return f.handles.drop(file, false) }

// Read implements virtiofs.Files. Without mayBlock the kernel is asked for what
// is in the page cache (RWF_NOWAIT); file systems that do not know the question
// are read plainly as long as it is little.
func (f *FS) Read(file virtiofs.File, to []unix.Iovec, off int64, mayBlock bool) (int, unix.Errno) {
	h, e := f.handles.pin(file, false)
	if e != 0 {
		return 0, e
	}
	defer f.handles.unpin(h)
	if mayBlock {
		return preadv2(h.fd, to, off, 0)
	}
	if !h.plain.Load() {
		n, e := preadv2(h.fd, to, off, unix.RWF_NOWAIT)
		if e != unix.EOPNOTSUPP {
			return n, e
		}
		h.plain.Store(true)
	}
	if total(to) > inlineRead {
		return 0, unix.EAGAIN
	}
	return preadv2(h.fd, to, off, 0)
}

func total(v []unix.Iovec) uint64 {
	var n uint64
	for i := range v {
		n += v[i].Len
	}
	return n
}

// Write implements virtiofs.Files.
func (f *FS) Write(file virtiofs.File, from []unix.Iovec, off int64, w virtiofs.WriteFlags) (int, unix.Errno) {
	h, e := f.handles.pin(file, false)
	if e != 0 {
		return 0, e
	}
	defer f.handles.unpin(h)
	if e := f.prepareWrite(h, w.KillSuidgid); e != 0 {
		return 0, e
	}
	flags := 0
	if w.Append {
		flags = unix.RWF_APPEND
	}
	return pwritev2(h.fd, from, off, flags)
}

// prepareWrite refuses a handle that is open for reading only, before anything
// is changed, and takes the set-id bits where the guest's caller may not keep them.
func (f *FS) prepareWrite(h *handle, kill bool) unix.Errno {
	if !h.writable {
		return unix.EBADF
	}
	if !kill {
		return 0
	}
	return f.killSuidgid(h.fd)
}

// Fsync implements virtiofs.Files.
func (f *FS) Fsync(file virtiofs.File, dataOnly bool) unix.Errno {
	return f.sync(file, false, dataOnly)
}

func (f *FS) sync(file virtiofs.File, dir, dataOnly bool) unix.Errno {
	h, e := f.handles.pin(file, dir)
	if e != 0 {
		return e
	}
	defer f.handles.unpin(h)
	return fsync(h.fd, dataOnly)
}

// Fallocate implements virtiofs.Files.
func (f *FS) Fallocate(file virtiofs.File, mode uint32, off, n int64, kill bool) unix.Errno {
	h, e := f.handles.pin(file, false)
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
	h, e := f.handles.pin(file, false)
	if e != 0 {
		return 0, e
	}
	defer f.handles.unpin(h)
	return lseek(h.fd, off, int(whence))
}

// CopyFileRange implements virtiofs.Files.
func (f *FS) CopyFileRange(from virtiofs.File, fromOff int64, to virtiofs.File, toOff int64, n uint64, kill bool) (int, unix.Errno) {
	src, e := f.handles.pin(from, false)
	if e != 0 {
		return 0, e
	}
	defer f.handles.unpin(src)
	dst, e := f.handles.pin(to, false)
	if e != 0 {
		return 0, e
	}
	defer f.handles.unpin(dst)
	if e := f.prepareWrite(dst, kill); e != 0 {
		return 0, e
	}
	return copyFileRange(src.fd, fromOff, dst.fd, toOff, n)
}
