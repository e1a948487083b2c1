package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/xattrmap"
)

// birth is one node that is to be made.
type birth struct {
	mode   uint32 // its type, 0 for a file that is opened, and its permissions
	rdev   uint32
	target *byte // of a symbolic link
	flags  int   // of open(2), for a file that is opened
}

// call makes the node, and nothing else.
func (b *birth) call(dir int, name *byte) (fd int, e unix.Errno) {
	switch b.mode & unix.S_IFMT {
	case 0:
		return openBeneath(dir, name, b.flags, b.mode)
	case unix.S_IFDIR:
		return -1, mkdirat(dir, name, b.mode&0o7777)
	case unix.S_IFLNK:
		return -1, symlinkat(b.target, dir, name)
	}
	return -1, mknodat(dir, name, b.mode, b.rdev)
}

// Mknod implements virtiofs.Names. The device 0:0 is overlayfs's whiteout,
// which is no device and needs no right.
func (f *FS) Mknod(c *virtiofs.Caller, parent virtiofs.NodeID, name virtiofs.Name, mode, rdev uint32, e *virtiofs.Entry) unix.Errno {
	typ := mode & unix.S_IFMT
	switch typ {
	case 0:
		typ, rdev = unix.S_IFREG, 0
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
		rdev = 0
	case unix.S_IFCHR, unix.S_IFBLK:
		whiteout := typ == unix.S_IFCHR && rdev == 0
		if !f.options.Devices && !whiteout {
			return unix.EPERM
		}
	default:
		return unix.EINVAL
	}
	return f.bear(c, parent, name, &birth{mode: typ | mode&0o7777, rdev: rdev}, e)
}

// Mkdir implements virtiofs.Names.
func (f *FS) Mkdir(c *virtiofs.Caller, parent virtiofs.NodeID, name virtiofs.Name, mode uint32, e *virtiofs.Entry) unix.Errno {
	return f.bear(c, parent, name, &birth{mode: unix.S_IFDIR | mode&0o7777}, e)
}

// Symlink implements virtiofs.Names. The target is the guest's business: no
// link is ever followed here.
func (f *FS) Symlink(c *virtiofs.Caller, parent virtiofs.NodeID, name virtiofs.Name, target virtiofs.CString, e *virtiofs.Entry) unix.Errno {
	return f.bear(c, parent, name, &birth{mode: unix.S_IFLNK, target: target.Pointer()}, e)
}

// bear makes a node that is not opened, labels it and counts a lookup of it.
func (f *FS) bear(c *virtiofs.Caller, parent virtiofs.NodeID, name virtiofs.Name, b *birth, e *virtiofs.Entry) unix.Errno {
	p, err := f.parent(parent, name, unix.EEXIST)
	if err != 0 {
		return err
	}
	defer f.unpin(p)
	_, err = f.make(c, p, name.Pointer(), b, 1)
	if err == 0 {
		err = f.intact(e, f.born(p, name.Pointer(), e), b.mode)
	}
	if err != 0 || len(c.Labels) == 0 {
		return err
	}
	n, err := f.pin(e.Node)
	if err == 0 {
		err = f.label(c.Labels, n.fd())
		f.unpin(n)
	}
	if err != 0 {
		f.unmake(p, name, b)
		f.inodes.forget(e.Node, 1)
	}
	return err
}

// intact is what the lookup of a new name answers when somebody else may have
// changed the name since: where it is gone, or another type of inode's, ESTALE,
// upon which the guest's kernel asks once more. Of an entry of a type that it did
// not ask for it would say EIO.
func (f *FS) intact(e *virtiofs.Entry, err unix.Errno, mode uint32) unix.Errno {
	switch {
	case err == unix.ENOENT:
		return unix.ESTALE
	case err == 0 && (e.Attr.Mode^mode)&unix.S_IFMT != 0:
		f.inodes.forget(e.Node, 1)
		return unix.ESTALE
	}
	return err
}

// make makes a node as the guest's caller; name is in p. It refuses where there
// would not be as many descriptors left as are needed to tell the guest of it: a
// file that is there although its creation failed breaks whoever tries again.
func (f *FS) make(c *virtiofs.Caller, p *inode, name *byte, b *birth, descriptors int64) (fd int, e unix.Errno) {
	if f.budget.lacks(descriptors) || f.inodes.full() {
		return -1, unix.ENFILE
	}
	uid, e := f.hostUID(c.UID)
	if e != 0 {
		return -1, e
	}
	gid, e := f.hostGID(c.GID)
	if e != 0 {
		return -1, e
	}
	if c.Umask != 0 && !p.hasDefaultACL() {
		b.mode &^= c.Umask & 0o777
	}
	var groups [virtiofs.MaxGroups]uint32
	g, e := f.ids.become(uid, gid, f.hostGroups(c.Groups, groups[:0]))
	if e != 0 {
		return -1, e
	}
	fd, e = b.call(p.fd(), name)
	if f.ids.mayRetry(&g, e) {
		fd, e = b.call(p.fd(), name)
	}
	f.ids.leave(g)
	return fd, guestErrno(e)
}

// label sets the security attributes of a new node, which the descriptor names,
// as this process: the guest's kernel sets them, not the guest's caller.
func (f *FS) label(labels []virtiofs.Label, fd int) unix.Errno {
	var path fdPath
	node := path.absolute(fd)
	for i := range labels {
		var room xattrmap.Name
		name, e := f.xattrs.host(labels[i].Name, &room)
		if e != 0 {
			return e
		}
		if e := setxattr(node, name, labels[i].Value, 0); e != 0 {
			return e
		}
	}
	return 0
}

// unmake removes a new node that the guest is not told of after all. A node
// without its label is not left behind: nobody would know that it lacks one.
func (f *FS) unmake(p *inode, name virtiofs.Name, b *birth) {
	flags := 0
	if b.mode&unix.S_IFMT == unix.S_IFDIR {
		flags = unix.AT_REMOVEDIR
	}
	_ = unlinkat(p.fd(), name.Pointer(), flags)
}

// Create implements virtiofs.Files. The file is made with O_EXCL; where it is
// there already and the guest does not mind, it is opened like any other, which
// is the only way an existing file is opened.
func (f *FS) Create(c *virtiofs.Caller, parent virtiofs.NodeID, name virtiofs.Name, mode uint32, o virtiofs.OpenFlags, e *virtiofs.Entry) (virtiofs.Handle, unix.Errno) {
	p, err := f.parent(parent, name, unix.EEXIST)
	if err != 0 {
		return 0, err
	}
	defer f.unpin(p)
	b := birth{mode: mode & 0o7777, flags: f.hostFlags(o.Flags) | unix.O_CREAT | unix.O_EXCL}
	fd, err := f.make(c, p, name.Pointer(), &b, 2)
	if err == unix.EEXIST && o.Flags&unix.O_EXCL == 0 {
		return f.createFound(p, name, o, e)
	}
	if err != 0 {
		return 0, err
	}
	// Before there is a handle: a guest that guesses it could release it, and the
	// descriptor's number would be another file's.
	if err := f.label(c.Labels, fd); err != 0 {
		closeFD(fd)
		f.unmake(p, name, &b)
		return 0, err
	}
	return f.adoptOpen(p, name.Pointer(), fd, b.flags, e)
}

// createFound opens the file that is there already.
func (f *FS) createFound(p *inode, name virtiofs.Name, o virtiofs.OpenFlags, e *virtiofs.Entry) (virtiofs.Handle, unix.Errno) {
	if err := f.child(p, name.Pointer(), e); err != 0 {
		return 0, err
	}
	h, err := f.openFound(e.Node, o)
	if err != 0 {
		f.inodes.forget(e.Node, 1)
	}
	return h, err
}

// openFound opens the node for which a lookup has just been counted.
func (f *FS) openFound(id virtiofs.NodeID, o virtiofs.OpenFlags) (virtiofs.Handle, unix.Errno) {
	n, e := f.pin(id)
	if e != 0 {
		return 0, e
	}
	defer f.unpin(n)
	if n.typ != unix.S_IFREG {
		return 0, unix.EEXIST // CREATE answers with regular files only
	}
	h, _, e := f.openNode(n, o)
	return h, e
}

// Tmpfile implements virtiofs.Files.
func (f *FS) Tmpfile(c *virtiofs.Caller, parent virtiofs.NodeID, mode uint32, o virtiofs.OpenFlags, e *virtiofs.Entry) (virtiofs.Handle, unix.Errno) {
	p, err := f.pinForChange(parent)
	if err != 0 {
		return 0, err
	}
	defer f.unpin(p)
	here := [2]byte{'.'}
	b := birth{mode: mode & 0o7777, flags: f.hostFlags(o.Flags) | int(o.Flags)&unix.O_EXCL | unix.O_TMPFILE}
	fd, err := f.make(c, p, &here[0], &b, 2)
	if err != 0 {
		return 0, err
	}
	if err := f.label(c.Labels, fd); err != 0 {
		closeFD(fd)
		return 0, err
	}
	return f.adoptOpen(p, nil, fd, b.flags, e)
}

// adoptOpen counts a lookup of a new file's node and keeps the file open. The
// node's descriptor comes from the open file, not from the name, which another
// may have got meanwhile.
func (f *FS) adoptOpen(p *inode, name *byte, fd, flags int, e *virtiofs.Entry) (virtiofs.Handle, unix.Errno) {
	if !f.budget.take() {
		closeFD(fd)
		return 0, unix.ENFILE
	}
	if err := f.adoptNode(p, name, fd, e); err != 0 {
		f.budget.close(fd)
		return 0, err
	}
	return f.handles.add(&handle{fd: fd, node: e.Node, writable: writes(flags)}), 0
}
