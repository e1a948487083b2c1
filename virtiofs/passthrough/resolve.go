package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// statxMask asks for all that a key and attributes are made of. The mount's
// number is the one that no later mount gets, from Linux 6.8 on; the other, which
// older kernels answer with, is given out again as soon as it is free.
const statxMask = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID | unix.STATX_MNT_ID_UNIQUE | unix.STATX_BTIME

// Lookup implements virtiofs.Nodes.
func (f *FS) Lookup(parent virtiofs.NodeID, name virtiofs.Name, e *virtiofs.Entry) unix.Errno {
	if x := f.inodes.recall(parent); x != nil && (parent != fuse.RootID || f.grafts == nil) {
		if err, ok := f.childNear(x, name.Pointer(), e); ok {
			return err
		}
	}
	return f.lookupPinned(parent, name, e)
}

// lookupPinned is Lookup in a directory that was not used lately.
func (f *FS) lookupPinned(parent virtiofs.NodeID, name virtiofs.Name, e *virtiofs.Entry) unix.Errno {
	p, err := f.pin(parent)
	if err != 0 {
		return err
	}
	defer f.unpin(p)
	f.inodes.remember(p)
	if g := f.grafted(p, name.Bytes()); g != nil {
		return f.entryOf(g, e)
	}
	return f.child(p, name.Pointer(), e)
}

// Self implements virtiofs.Nodes.
func (f *FS) Self(id virtiofs.NodeID, e *virtiofs.Entry) unix.Errno {
	n, err := f.pin(id)
	if err != 0 {
		return err
	}
	defer f.unpin(n)
	if err := f.entryOf(n, e); err != 0 {
		return err
	}
	f.inodes.count(id)
	return 0
}

// entryOf fills the entry of a node. It counts no lookup.
func (f *FS) entryOf(n *inode, e *virtiofs.Entry) unix.Errno {
	*e = virtiofs.Entry{Node: n.id}
	err := f.attr(n, &e.Attr)
	if n.submount {
		e.Attr.Flags |= fuse.AttrSubmount
	}
	return err
}

// Parent implements virtiofs.Nodes. The host may have moved the directory out
// of the share, so what is above it must be known already, or it is not shown.
func (f *FS) Parent(id virtiofs.NodeID, e *virtiofs.Entry) unix.Errno {
	if id == fuse.RootID {
		return f.Self(id, e)
	}
	n, err := f.pin(id)
	if err != 0 {
		return err
	}
	defer f.unpin(n)
	if n.typ != unix.S_IFDIR || n.sealed {
		return unix.ESTALE
	}
	above := [3]byte{'.', '.'}
	var st unix.Statx_t
	if err := statx(n.fd(), &above[0], unix.AT_SYMLINK_NOFOLLOW, statxMask, &st); err != 0 {
		return err
	}
	m := f.mountOf(n.key.mount, &st)
	if m == nil {
		return unix.ESTALE
	}
	k := keyOf(&st, m)
	x, ok := f.inodes.find(&k, unix.S_IFDIR)
	if !ok || x.doubt {
		return unix.ESTALE
	}
	f.fillEntry(e, m, x.id, x.submount, &st)
	return 0
}

// Forget implements virtiofs.Nodes.
func (f *FS) Forget(id virtiofs.NodeID, count uint64) {
	if f.options.Immutable {
		f.implicit.close(id)
	}
	if f.window != nil {
		f.mapped.close(id)
	}
	f.inodes.forget(id, count)
}

// child finds the name in the directory and counts one lookup of its node.
func (f *FS) child(p *inode, name *byte, e *virtiofs.Entry) unix.Errno {
	return f.look(p, name, unix.AT_SYMLINK_NOFOLLOW, e)
}

// childNear is child without a pin on the directory, which is left alone where the
// inode is known. ok is false when the directory has to be pinned first.
func (f *FS) childNear(x *opened, name *byte, e *virtiofs.Entry) (err unix.Errno, ok bool) {
	seen := x.node.shifts.Load()
	var st unix.Statx_t
	err = statx(x.fd, name, unix.AT_SYMLINK_NOFOLLOW, statxMask, &st)
	if !x.still() {
		return 0, false
	}
	if err != 0 {
		return err, true
	}
	if volumeOf(&st) == x.mount.volume {
		k := keyOf(&st, x.mount)
		if id, submount, ok := f.inodes.again(&k, typeOf(&st)); ok {
			f.fillEntry(e, x.mount, id, submount, &st)
			return 0, true
		}
	}
	return f.settleNear(x, name, seen, &st, e), true
}

// settleNear is settle for an inode that was not found lately.
func (f *FS) settleNear(x *opened, name *byte, seen uint32, st *unix.Statx_t, e *virtiofs.Entry) unix.Errno {
	p, err := f.pin(x.id)
	if err != 0 {
		return err
	}
	defer f.unpin(p)
	return f.settle(p, name, seen, st, e)
}

// look is child with statx's flags. A node that is known already costs one
// system call: the name is one component, so statx cannot be led elsewhere
// either. With AT_NO_AUTOMOUNT what would be mounted on being used is EISDIR.
func (f *FS) look(p *inode, name *byte, flags int, e *virtiofs.Entry) unix.Errno {
	seen := p.shifts.Load()
	mask := statxMask
	if m := p.key.mount; m != nil && !m.births {
		mask &^= unix.STATX_BTIME // nobody looks at it, and a server far away may have to be asked
	}
	var st unix.Statx_t
	if err := statx(p.fd(), name, flags, uint32(mask), &st); err != 0 {
		return err
	}
	if flags&unix.AT_NO_AUTOMOUNT != 0 && st.Attributes&unix.STATX_ATTR_AUTOMOUNT != 0 {
		return unix.EISDIR
	}
	if p.key.mount == nil {
		return unix.ENOTDIR // a graft
	}
	return f.settle(p, name, seen, &st, e)
}

// settle counts a lookup of what statx(2) has found under a name of the directory.
func (f *FS) settle(p *inode, name *byte, seen uint32, st *unix.Statx_t, e *virtiofs.Entry) unix.Errno {
	m := f.mountOf(p.key.mount, st)
	if m == nil {
		return f.meet(p, name, seen, e)
	}
	k, typ := keyOf(st, m), typeOf(st)
	x, ok := f.inodes.find(&k, typ)
	if ok && x.doubt {
		var h fileHandle
		ok = handleOf(p.fd(), name, 0, &h) == 0 && f.inodes.confirm(x.id, &h)
	}
	if ok {
		if x.lost {
			f.inodes.place(x.id, p.id, seen, name)
		}
		f.fillEntry(e, m, x.id, x.submount, st)
		return 0
	}
	return f.introduce(p, name, seen, &newcomer{key: k, typ: typ}, st, e)
}

// born counts a lookup of what a call has just made. It is not looked for among
// the nodes by its key, which it may have from one that was deleted a moment ago
// and is not forgotten yet: insert tells the two apart.
func (f *FS) born(p *inode, name *byte, e *virtiofs.Entry) unix.Errno {
	seen := p.shifts.Load()
	var st unix.Statx_t
	if err := statx(p.fd(), name, unix.AT_SYMLINK_NOFOLLOW, statxMask, &st); err != 0 {
		return err
	}
	m := f.mountOf(p.key.mount, &st)
	if m == nil {
		return f.meet(p, name, seen, e)
	}
	return f.introduce(p, name, seen, &newcomer{key: keyOf(&st, m), typ: typeOf(&st)}, &st, e)
}

// introduce counts the first lookup of an inode, which is opened if it has to be.
func (f *FS) introduce(p *inode, name *byte, seen uint32, n *newcomer, st *unix.Statx_t, e *virtiofs.Entry) unix.Errno {
	n.path, n.parent, n.seen = -1, p.id, seen
	if n.key.mount != p.key.mount || !f.nameOnly(p, name, n) {
		return f.meet(p, name, seen, e)
	}
	n.key.mount.users.Add(1)
	return f.insert(n, st, e)
}

// nameOnly gives an address to an inode that need not be opened now: it has a file
// handle, or there is no descriptor to be had and its name will do. Otherwise it
// is opened at once: then the host may rename it as it likes.
func (f *FS) nameOnly(p *inode, name *byte, n *newcomer) bool {
	if n.key.mount.handles() {
		var h fileHandle
		if handleOf(p.fd(), name, 0, &h) == 0 {
			n.addr = newAddress(&h, name)
			return true
		}
	}
	if n.key.btime != 0 && f.budget.lacks(1) {
		n.addr = newAddress(nil, name)
		return true
	}
	return false
}

func (f *FS) insert(n *newcomer, st *unix.Statx_t, e *virtiofs.Entry) unix.Errno {
	id, submount, err := f.inodes.insert(n)
	if err == 0 {
		f.fillEntry(e, n.key.mount, id, submount, st)
	}
	return err
}

// meet opens what has the name and counts one lookup of its node.
func (f *FS) meet(p *inode, name *byte, seen uint32, e *virtiofs.Entry) unix.Errno {
	if !f.budget.takeNode() {
		return unix.ENFILE
	}
	fd, err := openBeneath(p.fd(), name, unix.O_PATH, 0)
	if err != 0 {
		f.budget.giveNode()
		return guestErrno(err)
	}
	return f.adopt(p, name, seen, fd, e)
}

// adopt counts one lookup of the inode behind an O_PATH descriptor, which the
// budget was charged for, and gives the descriptor to the table. The name is nil
// when it has none.
func (f *FS) adopt(p *inode, name *byte, seen uint32, fd int, e *virtiofs.Entry) unix.Errno {
	var empty byte
	var st unix.Statx_t
	if err := statx(fd, &empty, unix.AT_EMPTY_PATH, statxMask, &st); err != 0 {
		f.budget.closeNode(fd)
		return err
	}
	m := f.enter(fd, &st)
	n := newcomer{key: keyOf(&st, m), typ: typeOf(&st), path: fd, seen: seen}
	if name != nil {
		n.parent = p.id
	}
	if m != p.key.mount {
		n.submount = n.typ == unix.S_IFDIR && !f.options.OneDevice
		if err := f.seal(&n); err != 0 {
			f.inodes.reject(&n)
			return err
		}
	}
	var h fileHandle
	if m.handles() && handleOf(fd, &empty, unix.AT_EMPTY_PATH, &h) == 0 {
		n.addr = newAddress(&h, name)
	} else {
		n.addr = newAddress(nil, name)
	}
	return f.insert(&n, &st, e)
}

// adoptNode is adopt for a file that has just been made, without a name if that
// is nil, and is open for I/O: with a file handle it needs no other descriptor.
func (f *FS) adoptNode(p *inode, name *byte, fd int, e *virtiofs.Entry) unix.Errno {
	seen := p.shifts.Load()
	m := p.key.mount
	var empty byte
	var st unix.Statx_t
	var h fileHandle
	if m.handles() && handleOf(fd, &empty, unix.AT_EMPTY_PATH, &h) == 0 {
		if err := statx(fd, &empty, unix.AT_EMPTY_PATH, statxMask, &st); err != 0 {
			return err
		}
		if volumeOf(&st) == m.volume {
			n := newcomer{key: keyOf(&st, m), typ: typeOf(&st), path: -1, seen: seen, addr: newAddress(&h, name)}
			if name != nil {
				n.parent = p.id
			}
			m.users.Add(1)
			return f.insert(&n, &st, e)
		}
	}
	if !f.budget.takeNode() {
		return unix.ENFILE
	}
	var path fdPath
	opath, err := openat(f.proc, path.relative(fd), unix.O_PATH, 0)
	if err != 0 {
		f.budget.giveNode()
		return guestErrno(err)
	}
	return f.adopt(p, name, seen, opath, e)
}

// reopen opens the pinned node for I/O. Nothing but regular files and directories
// is ever opened: opening a FIFO can wait forever, opening a device can do
// anything.
func (f *FS) reopen(n *inode, flags int) (int, unix.Errno) {
	switch {
	case n.typ == unix.S_IFLNK:
		return -1, unix.ELOOP
	case n.typ != unix.S_IFREG && n.typ != unix.S_IFDIR:
		return -1, unix.ENXIO
	case n.sealed && n.typ != unix.S_IFDIR:
		return -1, unix.EACCES
	case changes(flags) && (n.graft || f.options.ReadOnly):
		return -1, unix.EROFS
	}
	if fd, ok := f.reopenByHandle(n, flags|unix.O_NOCTTY); ok {
		return fd, 0
	}
	var path fdPath
	fd, e := openat(f.proc, path.relative(n.fd()), flags|unix.O_NOCTTY, 0)
	return fd, guestErrno(e)
}

// reopenByHandle costs less than the link in /proc. What it fails to open, that may
// open, or knows why not. That the handle is the node's own has been found out when
// the node was opened: before that, there could be a FIFO behind it.
func (f *FS) reopenByHandle(n *inode, flags int) (fd int, ok bool) {
	if n.key.mount == nil || !n.key.mount.handles() {
		return -1, false
	}
	w, _ := f.inodes.whereabouts(n)
	if !w.addr.hasHandle() {
		return -1, false
	}
	var h fileHandle
	w.addr.handle(&h)
	fd, e := openByHandle(w.key.mount.dir, &h, flags)
	return fd, e == 0
}

func changes(flags int) bool {
	return writes(flags) || flags&unix.O_TRUNC != 0
}

// guestErrno turns "this process has too many files" into "the system has",
// which is what the guest's process can understand.
func guestErrno(e unix.Errno) unix.Errno {
	if e == unix.EMFILE {
		return unix.ENFILE
	}
	return e
}
