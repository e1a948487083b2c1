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
		f.inodes.unpin(p)
		return nil, taken
	}
	return p, 0
}

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
	defer f.inodes.unpin(p)
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
	defer f.inodes.unpin(p)
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
	defer f.inodes.unpin(p)
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

// Link implements virtiofs.Names. linkat follows the link in /proc to the inode
// itself, which may be a symbolic link: that one is not followed.
func (f *FS) Link(id, parent virtiofs.NodeID, name virtiofs.Name, e *virtiofs.Entry) unix.Errno {
	n, err := f.pinForChange(id)
	if err != 0 {
		return err
	}
	defer f.inodes.unpin(n)
	p, err := f.parent(parent, name, unix.EEXIST)
	if err != 0 {
		return err
	}
	defer f.inodes.unpin(p)
	var path fdPath
	err = linkat(f.proc, path.relative(n.fd()), p.fd(), name.Pointer(), unix.AT_SYMLINK_FOLLOW)
	return f.created(p, name, e, err)
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
	defer f.inodes.unpin(p)
	return unlinkat(p.fd(), name.Pointer(), flags)
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
	defer f.inodes.unpin(p)
	q, e := f.parent(newParent, newName, unix.EROFS)
	if e != 0 {
		return e
	}
	defer f.inodes.unpin(q)
	return renameat2(p.fd(), name.Pointer(), q.fd(), newName.Pointer(), flags)
}
