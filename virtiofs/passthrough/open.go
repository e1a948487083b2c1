package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// openFlags are the flags of open(2) that reach the host. O_APPEND is not among
// them: which write appends is said by each write. Neither is O_DIRECT, whose
// rules of alignment the guest's buffers need not obey.
const openFlags = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC

// Open implements virtiofs.Files.
func (f *FS) Open(id virtiofs.NodeID, o virtiofs.OpenFlags) (h virtiofs.Handle, unchanged bool, e unix.Errno) {
	n, e := f.pin(id)
	if e != 0 {
		return 0, false, e
	}
	defer f.unpin(n)
	if n.typ == unix.S_IFDIR {
		return 0, false, unix.EISDIR
	}
	h, e = f.openNode(n, o)
	return h, false, e
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
