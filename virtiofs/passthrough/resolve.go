package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// statxMask asks for all that a key and attributes are made of.
const statxMask = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID

// Lookup implements virtiofs.Nodes.
func (f *FS) Lookup(parent virtiofs.NodeID, name virtiofs.Name, e *virtiofs.Entry) unix.Errno {
	p, err := f.pin(parent)
	if err != 0 {
		return err
	}
	defer f.unpin(p)
	if g := f.grafted(p, name.Bytes()); g != nil {
		return f.graftEntry(g, e)
	}
	return f.child(p, name.Pointer(), e)
}

// Self implements virtiofs.Nodes.
func (f *FS) Self(id virtiofs.NodeID, e *virtiofs.Entry) unix.Errno { return unix.ESTALE }

// Parent implements virtiofs.Nodes.
func (f *FS) Parent(id virtiofs.NodeID, e *virtiofs.Entry) unix.Errno { return unix.ESTALE }

// Forget implements virtiofs.Nodes.
func (f *FS) Forget(id virtiofs.NodeID, count uint64) { f.inodes.forget(id, count) }

func (f *FS) graftEntry(g *inode, e *virtiofs.Entry) unix.Errno {
	*e = virtiofs.Entry{Node: g.id}
	return f.attr(g, &e.Attr)
}

// child finds the name in the directory and counts one lookup of its node. A
// node that is known already costs one system call: the name is one component,
// so statx cannot be led elsewhere either.
func (f *FS) child(p *inode, name *byte, e *virtiofs.Entry) unix.Errno {
	var st unix.Statx_t
	if err := statx(p.fd(), name, unix.AT_SYMLINK_NOFOLLOW, statxMask, &st); err != 0 {
		return err
	}
	id, submount, ok := f.inodes.find(keyOf(&st))
	if ok {
		fillEntry(e, id, submount, &st)
		return 0
	}
	if !f.budget.take() {
		return unix.ENFILE
	}
	fd, err := openBeneath(p.fd(), name, unix.O_PATH, 0)
	if err != 0 {
		f.budget.give()
		return guestErrno(err)
	}
	return f.adopt(p, fd, e)
}

// adopt counts one lookup of the inode behind an O_PATH descriptor, which the
// budget was charged for, and gives the descriptor to the table.
func (f *FS) adopt(p *inode, fd int, e *virtiofs.Entry) unix.Errno {
	var empty byte
	var st unix.Statx_t
	if err := statx(fd, &empty, unix.AT_EMPTY_PATH, statxMask, &st); err != 0 {
		f.budget.close(fd)
		return err
	}
	n := &inode{key: keyOf(&st), path: fd, typ: uint32(st.Mode) & unix.S_IFMT}
	if n.key.dev != p.key.dev || n.key.mnt != p.key.mnt {
		n.submount = n.typ == unix.S_IFDIR && !f.options.OneDevice
		if err := f.seal(n); err != 0 {
			f.budget.close(fd)
			return err
		}
	}
	id, submount := f.inodes.insert(n)
	fillEntry(e, id, submount, &st)
	return 0
}

// reopen opens the node for I/O. Nothing but regular files and directories is
// ever opened: opening a FIFO can wait forever, opening a device can do
// anything.
func (f *FS) reopen(n *inode, flags int) (int, unix.Errno) {
	switch {
	case n.typ == unix.S_IFLNK:
		return -1, unix.ELOOP
	case n.typ != unix.S_IFREG && n.typ != unix.S_IFDIR:
		return -1, unix.ENXIO
	case n.sealed && n.typ != unix.S_IFDIR:
		return -1, unix.EACCES
	case changes(flags) && f.isBusy(n):
		return -1, unix.ETXTBSY
	case changes(flags) && (n.graft || f.options.ReadOnly):
		return -1, unix.EROFS
	}
	var path fdPath
	fd, e := openat(f.proc, path.relative(n.fd()), flags|unix.O_NOCTTY, 0)
	return fd, guestErrno(e)
}

// isBusy says whether the node is the file of Options.Busy, by whatever name.
func (f *FS) isBusy(n *inode) bool {
	return f.options.Busy != nil && n.key.dev == f.busy.dev && n.key.ino == f.busy.ino
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
