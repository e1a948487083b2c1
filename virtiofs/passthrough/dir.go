package passthrough

import (
	"bytes"
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// Opendir implements virtiofs.Dirs.
func (f *FS) Opendir(id virtiofs.NodeID) (virtiofs.Handle, unix.Errno) {
	n, e := f.pin(id)
	if e != 0 {
		return 0, e
	}
	defer f.unpin(n)
	if n.typ != unix.S_IFDIR {
		return 0, unix.ENOTDIR
	}
	if !f.budget.take() {
		return 0, unix.ENFILE
	}
	fd, e := f.reopen(n, unix.O_RDONLY|unix.O_DIRECTORY)
	if e != 0 {
		f.budget.give()
		return 0, e
	}
	return f.handles.add(&handle{fd: fd, node: id, dir: true}), 0
}

// Releasedir implements virtiofs.Dirs.
func (f *FS) Releasedir(file virtiofs.File) unix.Errno {
	h, e := f.handles.drop(file, true)
	if e == 0 {
		f.handles.unpin(h)
	}
	return e
}

// Fsyncdir implements virtiofs.Dirs.
func (f *FS) Fsyncdir(file virtiofs.File, dataOnly bool) unix.Errno {
	return f.sync(file, true, dataOnly)
}

// Layout of struct linux_dirent64 (getdents64(2)).
const (
	direntOff    = 8
	direntReclen = 16
	direntType   = 18
	direntName   = 19
	direntMax    = (direntName + 255 + 1 + 7) &^ 7
)

// mostSwell and mostSwellPlus are handle.swell of names of one byte: 24 bytes become 32,
// with attributes 160.
const (
	mostSwell     = 22
	mostSwellPlus = 107
)

// Readdir implements virtiofs.Dirs. Nothing is kept between calls but the
// descriptor's position: entries that were read and did not fit are read again
// from their cookie. So a guest's open directories cost the host no buffers.
func (f *FS) Readdir(file virtiofs.File, cookie uint64, d *virtiofs.Dirents) unix.Errno {
	h, e := f.opened(file, true)
	if e != 0 {
		return e
	}
	defer f.handles.unpin(h)
	n, e := f.pin(file.Node)
	if e != 0 {
		return e
	}
	defer f.unpin(n)
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.seek(cookie); e != 0 {
		return e
	}
	return f.list(n, h, d)
}

// list adds entries to the reply, from where the directory's descriptor stands. h.mu
// is held.
func (f *FS) list(n *inode, h *handle, d *virtiofs.Dirents) unix.Errno {
	swell := &h.swell[0]
	if d.Plus {
		swell = &h.swell[1]
	}
	for first := true; first || d.Fits(1); first = false {
		size, e := nextDirents(h.fd, d, *swell)
		if e != 0 || size == 0 {
			return e
		}
		room := d.Room()
		full, e := f.fill(n, h, d, d.Scratch[:size])
		if full || e != 0 {
			h.pos, *swell = noPosition, 0 // the descriptor is past entries the guest has not got
			if d.Empty() && e == 0 {
				return unix.EINVAL // no room for even one entry, as getdents(2)
			}
			return e
		}
		if used := room - d.Room(); used > 0 {
			*swell = (used*16 + size - 1) / size
		}
	}
	return 0
}

// nextDirents reads as much of a directory as will fit into the reply: to go back for
// what does not costs more than to read twice, and the more the larger the directory
// is (ext4 sorts a part of it again). Names are as long as those before them, as a
// rule. Where not even one fits, there is nothing.
func nextDirents(fd int, d *virtiofs.Dirents, swell int) (size int, e unix.Errno) {
	if swell == 0 {
		if swell = mostSwell; d.Plus {
			swell = mostSwellPlus
		}
	}
	size, e = getdents(fd, d.Scratch[:min(d.Room()*16/swell, len(d.Scratch))])
	switch {
	case e != unix.EINVAL:
		return size, e
	case d.Empty():
		return getdents(fd, d.Scratch[:direntMax])
	}
	return 0, 0
}

// seek takes the directory to the cookie. h.mu is held.
func (h *handle) seek(cookie uint64) unix.Errno {
	if cookie > math.MaxInt64 {
		return unix.EINVAL
	}
	if h.pos == int64(cookie) {
		return 0
	}
	if _, e := lseek(h.fd, int64(cookie), unix.SEEK_SET); e != 0 {
		return e
	}
	h.pos = int64(cookie)
	return 0
}

// fill adds the entries in buf to the reply as far as they fit. h.mu is held.
func (f *FS) fill(n *inode, h *handle, d *virtiofs.Dirents, buf []byte) (full bool, e unix.Errno) {
	for len(buf) > direntName {
		reclen := int(binary.NativeEndian.Uint16(buf[direntReclen:]))
		if reclen <= direntName || reclen > len(buf) {
			return false, unix.EIO
		}
		rec := buf[:reclen]
		buf = buf[reclen:]
		end := bytes.IndexByte(rec[direntName:], 0)
		if end <= 0 {
			return false, unix.EIO
		}
		name := rec[direntName : direntName+end]
		if !d.Fits(len(name)) {
			return true, 0
		}
		next := binary.NativeEndian.Uint64(rec[direntOff:])
		f.add(n, d, rec, name, next)
		h.pos = int64(next)
	}
	return false, 0
}

// add adds one entry. With attributes, one that is gone meanwhile is left out,
// and one whose attributes cannot be had is listed without; "." and ".." have
// no node of their own, so no lookup is counted for them.
func (f *FS) add(n *inode, d *virtiofs.Dirents, rec, name []byte, next uint64) {
	ino, typ := binary.NativeEndian.Uint64(rec), uint32(rec[direntType])
	if d.Plus && string(name) != "." && string(name) != ".." {
		e := f.listed(n, name, &d.Entry)
		if e == 0 {
			d.AddPlus(next, d.Entry.Attr.Mode>>12, name)
			return
		}
		if e == unix.ENOENT {
			return
		}
	}
	d.Add(ino, next, typ, name)
}

// listed is Lookup of a name that getdents has returned, NUL and all.
func (f *FS) listed(n *inode, name []byte, e *virtiofs.Entry) unix.Errno {
	if g := f.grafted(n, name); g != nil {
		return f.entryOf(g, e)
	}
	return f.look(n, &name[0], unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, e)
}
