package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// parent pins the directory in which the name is to be changed, or says taken
// when the name there is a graft's.
func (f *FS) parent(id virtiofs.NodeID, name virtiofs.Name, taken unix.Errno) (*inode, unix.Errno) {
	p, e := f.pinForChange(id)
	if e != 0 {
		return nil, e
	}
	if f.grafted(p, name.Bytes()) != nil {
		f.unpin(p)
		return nil, taken
	}
	return p, 0
}

// Link implements virtiofs.Names. linkat follows the link in /proc to the inode
// itself, which may be a symbolic link: that one is not followed.
func (f *FS) Link(id, parent virtiofs.NodeID, name virtiofs.Name, e *virtiofs.Entry) unix.Errno {
	n, err := f.pinForChange(id)
	if err != 0 {
		return err
	}
	defer f.unpin(n)
	p, err := f.parent(parent, name, unix.EEXIST)
	if err != 0 {
		return err
	}
	defer f.unpin(p)
	var path fdPath
	if err := linkat(f.proc, path.relative(n.fd()), p.fd(), name.Pointer(), unix.AT_SYMLINK_FOLLOW); err != 0 {
		return err
	}
	return f.intact(e, f.child(p, name.Pointer(), e), n.typ)
}

// Unlink implements virtiofs.Names.
func (f *FS) Unlink(parent virtiofs.NodeID, name virtiofs.Name) unix.Errno {
	return f.remove(parent, name, 0)
}

// Rmdir implements virtiofs.Names.
func (f *FS) Rmdir(parent virtiofs.NodeID, name virtiofs.Name) unix.Errno {
	return f.remove(parent, name, unix.AT_REMOVEDIR)
}

func (f *FS) remove(parent virtiofs.NodeID, name virtiofs.Name, flags int) unix.Errno {
	p, e := f.parent(parent, name, unix.EROFS)
	if e != 0 {
		return e
	}
	defer f.unpin(p)
	n := f.named(p, name)
	p.shifts.Add(1)
	e = unlinkat(p.fd(), name.Pointer(), flags)
	p.shifts.Add(1)
	f.nameless(n, p, name, e == 0)
	return e
}

// Rename implements virtiofs.Names.
func (f *FS) Rename(parent virtiofs.NodeID, name virtiofs.Name, newParent virtiofs.NodeID, newName virtiofs.Name, flags uint32) unix.Errno {
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 {
		return unix.EINVAL
	}
	p, e := f.parent(parent, name, unix.EROFS)
	if e != 0 {
		return e
	}
	defer f.unpin(p)
	q, e := f.parent(newParent, newName, unix.EROFS)
	if e != 0 {
		return e
	}
	defer f.unpin(q)
	moved, there := f.named(p, name), f.named(q, newName)
	p.shifts.Add(1)
	q.shifts.Add(1)
	e = renameat2(p.fd(), name.Pointer(), q.fd(), newName.Pointer(), flags)
	p.shifts.Add(1)
	q.shifts.Add(1)
	switch {
	case moved != nil && moved == there: // two names of one inode: nothing has happened
		f.unpin(there)
		f.unpin(moved)
		return e
	case flags&unix.RENAME_EXCHANGE != 0:
		f.moved(there, p, name, e == 0)
	default:
		f.nameless(there, q, newName, e == 0)
	}
	f.moved(moved, q, newName, e == 0)
	return e
}

// Inodes without file handles are opened by their names again, which therefore
// have to be kept right when the guest itself changes them. The node is open
// meanwhile, so that no other call goes by the name while it changes.

// named pins the node that has the name, if the guest knows it and it depends on
// its name; else nil.
func (f *FS) named(p *inode, name virtiofs.Name) *inode {
	if p.key.mount == nil || p.key.mount.handles() {
		return nil
	}
	var st unix.Statx_t
	if statx(p.fd(), name.Pointer(), unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statxMask, &st) != 0 {
		return nil
	}
	m := f.mountOf(p.key.mount, &st)
	if m == nil {
		return nil
	}
	k := keyOf(&st, m)
	n, e := f.pin(f.inodes.peek(&k, typeOf(&st)))
	if e != 0 {
		return nil
	}
	return n
}

// moved unpins a node from named and, if it was moved, notes where to.
func (f *FS) moved(n, to *inode, name virtiofs.Name, done bool) {
	if n == nil {
		return
	}
	if done {
		f.inodes.place(n.id, to.id, to.shifts.Load(), name.Pointer())
	}
	f.unpin(n)
}

// nameless unpins a node from named. If it has lost the name by which it would
// be opened again, its descriptor is kept for whoever still uses it.
func (f *FS) nameless(n, p *inode, name virtiofs.Name, done bool) {
	if n == nil {
		return
	}
	if w, _ := f.inodes.whereabouts(n); done && w.parent == p.id && string(bytesOf(w.addr.name())) == string(name.Bytes()) {
		f.inodes.keep(n)
		f.inodes.misplace(n)
	}
	f.unpin(n)
}
