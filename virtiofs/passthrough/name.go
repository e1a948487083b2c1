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
	defer f.unpin(p)
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
	defer f.unpin(p)
	q, e := f.parent(newParent, newName, unix.EROFS)
	if e != 0 {
		return e
	}
	defer f.unpin(q)
	return renameat2(p.fd(), name.Pointer(), q.fd(), newName.Pointer(), flags)
}
