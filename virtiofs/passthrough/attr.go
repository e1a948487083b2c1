package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// encodeDev is Linux's new_encode_dev: 12 bits of major, 20 of minor.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major&0xfff<<8 | minor&^0xff<<12
}

// fillEntry makes the entry of everything that finds or makes a node.
func (f *FS) fillEntry(e *virtiofs.Entry, m *mount, id virtiofs.NodeID, submount bool, st *unix.Statx_t) {
	e.Node, e.Generation = id, 0
	a := &e.Attr // field by field, as in fillAttr
	a.Ino, a.Size, a.Blocks = st.Ino, st.Size, st.Blocks
	a.Atime, a.AtimeNsec = uint64(st.Atime.Sec), st.Atime.Nsec
	a.Mtime, a.MtimeNsec = uint64(st.Mtime.Sec), st.Mtime.Nsec
	a.Ctime, a.CtimeNsec = uint64(st.Ctime.Sec), st.Ctime.Nsec
	a.Mode, a.Nlink = uint32(st.Mode), st.Nlink
	a.UID, a.GID = f.guestUID(st.Uid), f.guestGID(st.Gid)
	a.Rdev, a.Blksize, a.Flags = encodeDev(st.Rdev_major, st.Rdev_minor), st.Blksize, 0
	if submount {
		a.Flags = fuse.AttrSubmount
	}
	if f.window != nil && typeOf(st) == unix.S_IFREG && f.maps(m, id) {
		a.Flags |= fuse.AttrDAX
	}
}

// Getattr implements virtiofs.Nodes.
func (f *FS) Getattr(file virtiofs.File, a *fuse.Attr) unix.Errno {
	var st unix.Stat_t
	if m, e := f.inodes.glance(file.Node, &st); m != nil {
		if e == 0 {
			f.fillAttr(a, m, file.Node, &st)
		}
		return e
	}
	n, e := f.pin(file.Node)
	if e == unix.ESTALE && file.Handle != 0 {
		return f.attrByHandle(file, a)
	}
	if e != 0 {
		return e
	}
	e = f.attr(n, a)
	f.inodes.remember(n)
	f.unpin(n)
	return e
}

// glance is fstat(2) of a node that was used lately and has its descriptor open, where
// that waits for nothing; elsewhere m is nil.
func (t *inodes) glance(id virtiofs.NodeID, st *unix.Stat_t) (m *mount, e unix.Errno) {
	x := t.recall(id)
	if x == nil {
		return nil, 0
	}
	if e = fstatNow(x.fd, st); !x.still() {
		return nil, 0
	}
	return x.mount, e
}

// attr is by fstat(2), which costs less than statx(2) on a descriptor.
func (f *FS) attr(n *inode, a *fuse.Attr) unix.Errno {
	var st unix.Stat_t
	var e unix.Errno
	if m := n.key.mount; m != nil && m.tellsAtOnce() {
		e = fstatNow(n.fd(), &st)
	} else {
		e = fstat(n.fd(), &st)
	}
	if e != 0 {
		return e
	}
	f.fillAttr(a, n.key.mount, n.id, &st)
	if n.graft {
		disguise(a)
	}
	return 0
}

// fillAttr sets all fields one by one: a literal is put together on the stack and then
// copied, which costs a tenth of the call.
func (f *FS) fillAttr(a *fuse.Attr, m *mount, id virtiofs.NodeID, st *unix.Stat_t) {
	a.Ino, a.Size, a.Blocks = st.Ino, uint64(st.Size), uint64(st.Blocks)
	a.Atime, a.AtimeNsec = uint64(st.Atim.Sec), uint32(st.Atim.Nsec)
	a.Mtime, a.MtimeNsec = uint64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	a.Ctime, a.CtimeNsec = uint64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	a.Mode, a.Nlink = st.Mode, uint32(st.Nlink)
	a.UID, a.GID = f.guestUID(st.Uid), f.guestGID(st.Gid)
	a.Rdev, a.Blksize, a.Flags = 0, uint32(st.Blksize), 0
	if st.Rdev != 0 {
		a.Rdev = encodeDev(unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if f.window != nil && st.Mode&unix.S_IFMT == unix.S_IFREG && f.maps(m, id) {
		a.Flags |= fuse.AttrDAX
	}
}

// tellsAtOnce says that fstat(2) of a descriptor waits for nothing here: the file
// systems whose births can be relied on are the host's own, which have the attributes
// of an open inode in memory and take no lock for them that is held across I/O. Others
// may ask a server.
func (m *mount) tellsAtOnce() bool { return m.births }

// Statx implements virtiofs.Nodes.
func (f *FS) Statx(file virtiofs.File, mask uint32, st *unix.Statx_t) unix.Errno {
	n, e := f.pin(file.Node)
	if e == unix.ESTALE && file.Handle != 0 {
		return f.statxByHandle(file, mask, st)
	}
	if e != 0 {
		return e
	}
	defer f.unpin(n)
	return f.statx(n, mask, st)
}

func (f *FS) statx(n *inode, mask uint32, st *unix.Statx_t) unix.Errno {
	var empty byte
	e := statx(n.fd(), &empty, unix.AT_EMPTY_PATH, mask&(unix.STATX_BASIC_STATS|unix.STATX_BTIME), st)
	st.Uid, st.Gid = f.guestUID(st.Uid), f.guestGID(st.Gid)
	if n.graft {
		st.Mode, st.Uid, st.Gid, st.Nlink = graftMode, 0, 0, 1
	}
	return e
}

// Readlink implements virtiofs.Nodes.
func (f *FS) Readlink(id virtiofs.NodeID, buf []byte) (int, unix.Errno) {
	n, e := f.pin(id)
	if e != 0 {
		return 0, e
	}
	defer f.unpin(n)
	if n.typ != unix.S_IFLNK || len(buf) == 0 {
		return 0, unix.EINVAL
	}
	var empty byte
	return readlinkat(n.fd(), &empty, buf)
}

// pinForChange is pin for what changes the node itself.
func (f *FS) pinForChange(id virtiofs.NodeID) (*inode, unix.Errno) {
	n, e := f.pin(id)
	switch {
	case e != 0:
		return nil, e
	case n.graft, n.sealed:
		f.unpin(n)
		return nil, unix.EROFS
	}
	return n, 0
}

// Setattr implements virtiofs.Nodes. The owner goes first: changing it clears
// the set-id bits that a mode in the same request may ask for.
func (f *FS) Setattr(id virtiofs.NodeID, in *fuse.SetattrIn, a *fuse.Attr) unix.Errno {
	n, e := f.pinForChange(id)
	if e != 0 {
		return e
	}
	defer f.unpin(n)
	if e := f.chown(n, in); e != 0 {
		return e
	}
	if e := f.chmod(n, in); e != 0 {
		return e
	}
	if in.Valid&fuse.FattrSize != 0 {
		if e := f.truncate(n, in); e != 0 {
			return e
		}
	}
	if e := f.utimens(n, in); e != 0 {
		return e
	}
	return f.attr(n, a)
}

func (f *FS) chown(n *inode, in *fuse.SetattrIn) unix.Errno {
	if in.Valid&(fuse.FattrUID|fuse.FattrGID) == 0 {
		return 0
	}
	uid, gid, e := f.newOwner(n, in)
	if e != 0 {
		return e
	}
	var empty byte
	if e := fchownat(n.fd(), &empty, uid, gid, unix.AT_EMPTY_PATH); e != 0 {
		return e
	}
	if !f.xattrs.moved || n.typ != unix.S_IFREG {
		return 0
	}
	var path fdPath
	return f.xattrs.dropCapability(path.absolute(n.fd()))
}

// chmod is by fchmodat2(2), as fchmod(2) refuses O_PATH descriptors, and through /proc
// where there is none, or a sandbox says EPERM of what it does not know: that costs
// twice as much.
func (f *FS) chmod(n *inode, in *fuse.SetattrIn) unix.Errno {
	if in.Valid&fuse.FattrMode == 0 {
		return 0
	}
	var empty byte
	e := fchmodat2(n.fd(), &empty, in.Mode&0o7777, unix.AT_EMPTY_PATH)
	if e != unix.ENOSYS && e != unix.EPERM {
		return e
	}
	var path fdPath
	return fchmodat(f.proc, path.relative(n.fd()), in.Mode&0o7777)
}

// truncate uses the guest's own open file where it names one: the permission to
// write was checked when that was opened, and the mode may forbid it by now.
func (f *FS) truncate(n *inode, in *fuse.SetattrIn) unix.Errno {
	if n.typ == unix.S_IFDIR {
		return unix.EISDIR
	}
	fd := -1
	if in.Valid&fuse.FattrFH != 0 {
		h, e := f.handles.pin(virtiofs.File{Node: n.id, Handle: virtiofs.Handle(in.Fh)}, false)
		if e != 0 {
			return e
		}
		defer f.handles.unpin(h)
		if !h.writable {
			return unix.EINVAL // as ftruncate(2)
		}
		fd = h.fd
	} else {
		opened, e := f.reopen(n, unix.O_WRONLY)
		if e != 0 {
			return e
		}
		defer closeFD(opened)
		fd = opened
	}
	if e := f.strip(fd, in.Valid&fuse.FattrKillSuidgid != 0); e != 0 {
		return e
	}
	return ftruncate(fd, int64(in.Size))
}

// strip takes from an open file, before its contents change, what a file loses
// by that: its capabilities, and with kill the set-id bits.
func (f *FS) strip(fd int, kill bool) unix.Errno {
	if f.xattrs.moved {
		var path fdPath
		if e := f.xattrs.dropCapability(path.absolute(fd)); e != 0 {
			return e
		}
	}
	if !kill {
		return 0
	}
	return f.killSuidgid(fd)
}

// killSuidgid does what the kernel does by itself when a process without
// CAP_FSETID changes a file, and what it leaves undone because this process has
// the capability.
func (f *FS) killSuidgid(fd int) unix.Errno {
	if !f.ids.root() {
		return 0
	}
	return dropSuidgid(fd)
}

// dropSuidgid takes the set-user-id bit, and the set-group-id bit where it is not
// that of a mandatory lock.
func dropSuidgid(fd int) unix.Errno {
	var st unix.Stat_t
	if e := fstat(fd, &st); e != 0 {
		return e
	}
	mode := st.Mode &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	if mode == st.Mode || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0
	}
	return fchmod(fd, mode&0o7777)
}

func (f *FS) utimens(n *inode, in *fuse.SetattrIn) unix.Errno {
	if in.Valid&(fuse.FattrAtime|fuse.FattrMtime) == 0 {
		return 0
	}
	ts := [2]unix.Timespec{
		timespec(in.Valid, fuse.FattrAtime, fuse.FattrAtimeNow, in.Atime, in.AtimeNsec),
		timespec(in.Valid, fuse.FattrMtime, fuse.FattrMtimeNow, in.Mtime, in.MtimeNsec),
	}
	var empty byte
	return utimensat(n.fd(), &empty, &ts, unix.AT_EMPTY_PATH)
}

// timespec is one of utimensat's two times.
func timespec(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

// Access implements virtiofs.Nodes. access(2) would answer for this process, so
// the mode is read for the guest's caller. Linux never asks: it checks by the
// attributes itself.
func (f *FS) Access(c *virtiofs.Caller, id virtiofs.NodeID, mask uint32) unix.Errno {
	var a fuse.Attr
	if e := f.Getattr(virtiofs.File{Node: id}, &a); e != 0 {
		return e
	}
	if mask&^(unix.R_OK|unix.W_OK|unix.X_OK) != 0 {
		return unix.EINVAL
	}
	bits := a.Mode
	switch {
	case c.UID == 0:
		bits = unix.R_OK | unix.W_OK
		if a.Mode&0o111 != 0 || a.Mode&unix.S_IFMT == unix.S_IFDIR {
			bits |= unix.X_OK
		}
	case c.UID == a.UID:
		bits >>= 6
	case c.GID == a.GID:
		bits >>= 3
	}
	if mask&^bits != 0 {
		return unix.EACCES
	}
	return 0
}
