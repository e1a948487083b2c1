package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// maxDepth bounds how many directories are opened to get at one inode.
const maxDepth = 1024

// whereabouts is what a closed node is opened by.
type whereabouts struct {
	key    key
	parent virtiofs.NodeID
	seen   uint32
	addr   address
}

func (t *inodes) whereabouts(n *inode) (w whereabouts, open bool) {
	s := &t.shard[n.id%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	return whereabouts{n.key, n.parent, n.seen, n.addr}, n.path >= 0
}

// wake opens the pinned node: by its file handle, or by its name in its parent,
// which may have to be opened first. What is found is compared with what the
// guest was told of; it is ESTALE unless it is the same inode, and the guest's
// kernel then looks the name up again.
func (f *FS) wake(n *inode, depth int) unix.Errno {
	w, open := f.inodes.whereabouts(n)
	for !open {
		e := f.openNodeAt(n, &w, depth)
		if e != unix.ESTALE {
			return e
		}
		before := w
		if w, open = f.inodes.whereabouts(n); !open && w == before {
			f.inodes.misplace(n)
			return e
		}
		// Another call has opened it or renamed it meanwhile.
	}
	return 0
}

func (f *FS) openNodeAt(n *inode, w *whereabouts, depth int) unix.Errno {
	if !w.addr.hasHandle() {
		return f.walk(n, w, depth)
	}
	switch e := f.openByHandle(n, w); e {
	case unix.ESTALE:
		return f.rebind(n, w, depth, true)
	case unix.EBADMSG:
		return f.rebind(n, w, depth, false)
	case unix.EPERM, unix.EOPNOTSUPP:
		w.key.mount.lame.Store(true) // a sandbox may have taken the right
		return f.walk(n, w, depth)
	default:
		return guestErrno(e)
	}
}

// openByHandle is ESTALE when the inode is gone and EBADMSG when the handle is
// that of another: it was asked for by name after the attributes were, and the
// name had changed hands.
func (f *FS) openByHandle(n *inode, w *whereabouts) unix.Errno {
	if !f.budget.takeNode() {
		return unix.ENFILE
	}
	var h fileHandle
	w.addr.handle(&h)
	fd, e := openByHandle(w.key.mount.dir, &h, unix.O_PATH)
	if e != 0 {
		f.budget.giveNode()
		return e
	}
	if e := verify(fd, &w.key, n.typ); e != 0 {
		f.budget.closeNode(fd)
		if e == unix.ESTALE {
			e = unix.EBADMSG
		}
		return e
	}
	f.inodes.give(n, fd)
	return 0
}

// verify compares the inode behind a descriptor with what is known of it.
func verify(fd int, k *key, typ uint32) unix.Errno {
	var st unix.Statx_t
	var empty byte
	if e := statx(fd, &empty, unix.AT_EMPTY_PATH, statxMask, &st); e != 0 {
		return e
	}
	if volumeOf(&st) != k.mount.volume || keyOf(&st, k.mount) != *k || typeOf(&st) != typ {
		return unix.ESTALE
	}
	return 0
}

func typeOf(st *unix.Statx_t) uint32 { return uint32(st.Mode) & unix.S_IFMT }

// walk opens the node by its name in its parent.
func (f *FS) walk(n *inode, w *whereabouts, depth int) unix.Errno {
	fd, p, e := f.openPlace(w, depth)
	if e != 0 {
		return e
	}
	f.unpin(p)
	if e := verify(fd, &w.key, n.typ); e != 0 {
		f.budget.closeNode(fd)
		return e
	}
	f.inodes.give(n, fd)
	return 0
}

// openPlace opens whatever has the name now that a node had; the budget is
// charged. The parent it returns is the caller's to unpin.
func (f *FS) openPlace(w *whereabouts, depth int) (fd int, p *inode, e unix.Errno) {
	name := w.addr.name()
	if w.parent == 0 || name == nil || depth >= maxDepth {
		return -1, nil, unix.ESTALE
	}
	p, open := f.inodes.pin(w.parent)
	if p == nil {
		return -1, nil, unix.ESTALE
	}
	if !open {
		if e := f.wake(p, depth+1); e != 0 {
			f.inodes.unpin(p)
			return -1, nil, e
		}
	}
	if !f.budget.takeNode() {
		f.unpin(p)
		return -1, nil, unix.ENFILE
	}
	fd, e = openBeneath(p.fd(), name, unix.O_PATH, 0)
	if e != 0 {
		f.budget.giveNode()
		f.unpin(p)
		if e == unix.ENOENT || e == unix.ENOTDIR {
			e = unix.ESTALE
		}
		return -1, nil, guestErrno(e)
	}
	return fd, p, 0
}

// rebind finds a node whose handle is of no use by its name. If it is still
// there it gets its right handle. If its inode is gone, as when a program on the
// host has written a new file and renamed it over the old one, the node becomes
// the new file's, so that it does not fail for ever. That is safe because nobody
// has the old one open, where the guest itself has not changed names in the
// directory since, and unless another node is the new one's already.
func (f *FS) rebind(n *inode, w *whereabouts, depth int, gone bool) unix.Errno {
	fd, p, e := f.openPlace(w, depth)
	if e != 0 {
		return e
	}
	defer f.unpin(p)
	k, at, e := f.successor(n, w, fd, gone && p.shifts.Load() == w.seen)
	if e == 0 && !f.inodes.adopt(n, &w.key, &k, at) {
		e = unix.ESTALE
	}
	if e != 0 {
		f.budget.closeNode(fd)
		return e
	}
	f.inodes.give(n, fd)
	return 0
}

// successor says as which inode, and by which handle, a node may go on whose
// name leads to the descriptor; other allows one that is not its own.
func (f *FS) successor(n *inode, w *whereabouts, fd int, other bool) (key, address, unix.Errno) {
	var st unix.Statx_t
	var empty byte
	if e := statx(fd, &empty, unix.AT_EMPTY_PATH, statxMask, &st); e != 0 {
		return key{}, "", e
	}
	if volumeOf(&st) != w.key.mount.volume || typeOf(&st) != n.typ {
		return key{}, "", unix.ESTALE
	}
	k := keyOf(&st, w.key.mount)
	same := k == w.key && k.btime != 0
	if !same && (!other || n.typ != unix.S_IFREG && n.typ != unix.S_IFDIR) {
		return key{}, "", unix.ESTALE
	}
	var h fileHandle
	if e := handleOf(fd, &empty, unix.AT_EMPTY_PATH, &h); e != 0 {
		return key{}, "", unix.ESTALE
	}
	return k, newAddress(&h, w.addr.name()), 0
}

// attrByHandle is the attributes of a file the guest has open whose node cannot
// be opened any more.
func (f *FS) attrByHandle(file virtiofs.File, a *fuse.Attr) unix.Errno {
	h, e := f.handles.pinAny(file)
	if e != 0 {
		return unix.ESTALE
	}
	defer f.handles.unpin(h)
	return f.attr(&inode{record: record{path: h.fd}}, a)
}

// statxByHandle is attrByHandle for STATX.
func (f *FS) statxByHandle(file virtiofs.File, mask uint32, st *unix.Statx_t) unix.Errno {
	h, e := f.handles.pinAny(file)
	if e != 0 {
		return unix.ESTALE
	}
	defer f.handles.unpin(h)
	return f.statx(&inode{record: record{path: h.fd}}, mask, st)
}

// pinAny is pin for a handle of either kind.
func (t *handles) pinAny(file virtiofs.File) (*handle, unix.Errno) {
	if h, e := t.pin(file, false); e == 0 {
		return h, 0
	}
	return t.pin(file, true)
}
