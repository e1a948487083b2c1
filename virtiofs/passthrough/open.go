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
	return f.openNode(n, o)
}

func (f *FS) openNode(n *inode, o virtiofs.OpenFlags) (h virtiofs.Handle, unchanged bool, e unix.Errno) {
	if !f.budget.take() {
		return 0, false, unix.ENFILE
	}
	fd, e := f.openAs(n, o)
	if e == 0 && o.Flags&unix.O_TRUNC != 0 {
		if e = f.strip(fd, o.KillSuidgid); e != 0 {
			closeFD(fd)
		}
	}
	if e != 0 {
		f.budget.give()
		return 0, false, e
	}
	m := n.key.mount
	open := &handle{fd: fd, node: n.id, writable: writes(int(o.Flags)), prompt: m != nil && m.tellsAtOnce()}
	if open.writable && f.window != nil && f.inodes.stored(n.id) {
		f.window.Rearm(uint64(n.id))
		// What this process may not take, it could not have taken at a WRITE either.
		_ = f.stripStored(fd, o.KillStored)
	}
	if o.Compare {
		open.seen, unchanged = f.opening(open)
	}
	return f.handles.add(open), unchanged, 0
}

// openAs opens the node as the guest asks, or as the host lets it.
func (f *FS) openAs(n *inode, o virtiofs.OpenFlags) (int, unix.Errno) {
	asked, flags := int(o.Flags)&openFlags, f.hostFlags(o.Flags)
	fd, e := f.reopen(n, flags)
	switch {
	case flags != asked && (e == unix.EACCES || e == unix.EPERM):
		return f.reopen(n, asked) // may be written but not read
	case e == unix.EPERM && o.Flags&unix.O_APPEND != 0 && !f.options.Writeback:
		// chattr +a: the host wants to hear what every write will say anyway. A
		// writeback cache writes whole pages, what is there already included.
		return f.reopen(n, asked|unix.O_APPEND)
	}
	return fd, e
}

// hostFlags is the flags of open(2) for the host. A guest with a writeback cache
// reads the rest of a page before it changes a part, through whatever handle.
func (f *FS) hostFlags(guest uint32) int {
	flags := int(guest) & openFlags
	if f.options.Writeback && flags&unix.O_ACCMODE == unix.O_WRONLY {
		flags = flags&^unix.O_ACCMODE | unix.O_RDWR
	}
	return flags
}
