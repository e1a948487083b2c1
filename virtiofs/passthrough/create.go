package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// Mknod implements virtiofs.Names. The device 0:0 is overlayfs's whiteout,
// which is no device and needs no right.
func (f *FS) Mknod(c *virtiofs.Caller, parent virtiofs.NodeID, name virtiofs.Name, mode, rdev uint32, e *virtiofs.Entry) unix.Errno {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, 0:
		rdev = 0
	case unix.S_IFCHR, unix.S_IFBLK:
		whiteout := mode&unix.S_IFMT == unix.S_IFCHR && rdev == 0
		if !f.options.Devices && !whiteout {
			return unix.EPERM
		}
	default:
		return unix.EINVAL
	}
	p, err := f.parent(parent, name, unix.EEXIST)
	if err != 0 {
		return err
	}
	defer f.unpin(p)
	switched, err := f.create(c, 1)
	if err != 0 {
		return err
	}
	err = mknodat(p.fd(), name.Pointer(), mode&(unix.S_IFMT|0o7777), rdev)
	f.ids.leave(switched)
	return f.created(p, name, e, err)
}

// Mkdir implements virtiofs.Names.
func (f *FS) Mkdir(c *virtiofs.Caller, parent virtiofs.NodeID, name virtiofs.Name, mode uint32, e *virtiofs.Entry) unix.Errno {
	p, err := f.parent(parent, name, unix.EEXIST)
	if err != 0 {
		return err
	}
	defer f.unpin(p)
	switched, err := f.create(c, 1)
	if err != 0 {
		return err
	}
	err = mkdirat(p.fd(), name.Pointer(), mode&0o7777)
	f.ids.leave(switched)
	return f.created(p, name, e, err)
}

// Symlink implements virtiofs.Names. The target is the guest's business: no
// link is ever followed here.
func (f *FS) Symlink(c *virtiofs.Caller, parent virtiofs.NodeID, name virtiofs.Name, target virtiofs.CString, e *virtiofs.Entry) unix.Errno {
	p, err := f.parent(parent, name, unix.EEXIST)
	if err != 0 {
		return err
	}
	defer f.unpin(p)
	switched, err := f.create(c, 1)
	if err != 0 {
		return err
	}
	err = symlinkat(target.Pointer(), p.fd(), name.Pointer())
	f.ids.leave(switched)
	return f.created(p, name, e, err)
}

// create takes on the caller's identity for making a file. It refuses where
// there would be no descriptors left to tell the guest of it, as many as it
// needs: a file that is there although its creation failed breaks whoever tries
// again.
func (f *FS) create(c *virtiofs.Caller, descriptors int64) (switched bool, e unix.Errno) {
	if f.budget.lacks(descriptors) {
		return false, unix.ENFILE
	}
	return f.ids.become(c)
}

// created looks up what a call has just made, unless it failed.
func (f *FS) created(p *inode, name virtiofs.Name, e *virtiofs.Entry, err unix.Errno) unix.Errno {
	if err != 0 {
		return guestErrno(err)
	}
	return f.child(p, name.Pointer(), e)
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
	n, e := f.pin(id)
	if e != 0 {
		return 0, e
	}
	defer f.unpin(n)
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
	defer f.unpin(p)
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
