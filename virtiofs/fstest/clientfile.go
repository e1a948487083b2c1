package fstest

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// clientFile is an open file of a Client.
type clientFile struct {
	c     *Client
	node  virtiofs.NodeID
	fh    uint64
	flags uint32
	dir   bool
}

func (c *Client) add(n virtiofs.NodeID, fh uint64, flags int, dir bool) *clientFile {
	c.open[n]++
	return &clientFile{c, n, fh, uint32(flags), dir}
}

// Close releases the handle and checks that it is gone.
func (f *clientFile) Close() unix.Errno {
	defer f.c.settle()
	if f.c.open[f.node]--; f.c.open[f.node] == 0 {
		delete(f.c.open, f.node)
	}
	if f.fh == 0 && f.c.noOpen {
		return 0
	}
	if e := f.c.c.Release(f.node, f.fh, f.dir); e != 0 {
		return e
	}
	if e := f.c.c.Release(f.node, f.fh, f.dir); e != unix.EBADF {
		return unix.EREMOTEIO // released, and known nevertheless
	}
	return 0
}

func (f *clientFile) writable() bool { return f.flags&unix.O_ACCMODE != unix.O_RDONLY }

func (f *clientFile) Stat() (Stat, unix.Errno) {
	b, e := f.c.c.Call(fuse.Getattr, f.node, fuse.AttrOutSize, U32(fuse.GetattrFH, 0), U64(f.fh))
	if e != 0 {
		return Stat{}, e
	}
	return statReply(ParseAttr(b[16:]), 0)
}

func (f *clientFile) Pread(n int, off int64) (data []byte, e unix.Errno) {
	switch {
	case f.dir:
		return nil, unix.EISDIR
	case off < 0:
		return nil, unix.EINVAL
	case f.flags&unix.O_ACCMODE == unix.O_WRONLY:
		return nil, unix.EBADF
	}
	for len(data) < n {
		want := min(n-len(data), f.c.piece)
		b, e := f.c.c.Read(f.node, f.fh, uint64(off)+uint64(len(data)), uint32(want))
		if e != 0 {
			return data, e
		}
		data = append(data, b...)
		if len(b) < want {
			break
		}
	}
	return data, 0
}

func (f *clientFile) Pwrite(data []byte, off int64) (done int, e unix.Errno) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	if f.flags&unix.O_APPEND != 0 {
		// Where Linux appends: a server with FUSE_WRITEBACK_CACHE takes the guest's
		// word for it.
		a, e := f.c.c.Getattr(f.node)
		if e != 0 {
			return 0, e
		}
		off = int64(a.Size)
	}
	var kill uint32
	if f.c.c.UID != 0 {
		kill = fuse.WriteKillSuidgid
	}
	for done < len(data) {
		b := data[done:min(len(data), done+f.c.piece)]
		n, e := f.c.c.Write(f.node, f.fh, uint64(off)+uint64(done), b, f.flags, kill)
		if e != 0 && done == 0 {
			return 0, e
		}
		done += int(n)
		if e != 0 || int(n) < len(b) {
			break
		}
	}
	return done, 0
}

func (f *clientFile) Truncate(size int64) unix.Errno {
	if !f.writable() {
		return unix.EINVAL
	}
	return f.c.set(f.node, Set{Valid: fuse.FattrSize | fuse.FattrFH, Fh: f.fh, Size: uint64(size)})
}

func (f *clientFile) Fallocate(mode uint32, off, n int64) unix.Errno {
	_, e := f.c.c.Call(fuse.Fallocate, f.node, 0, U64(f.fh, uint64(off), uint64(n)), U32(mode, 0))
	return e
}

func (f *clientFile) Find(off int64, whence int) (int64, unix.Errno) {
	b, e := f.c.c.Call(fuse.Lseek, f.node, 8, U64(f.fh, uint64(off)), U32(uint32(whence), 0))
	if e != 0 {
		return -1, e
	}
	return int64(le.Uint64(b)), 0
}

func (f *clientFile) CopyTo(to File, off, toOff int64, n int) (int, unix.Errno) {
	dst, ok := to.(*clientFile)
	if !ok {
		return 0, unix.EXDEV
	}
	if dst.flags&unix.O_APPEND != 0 || f.flags&unix.O_ACCMODE == unix.O_WRONLY {
		return 0, unix.EBADF
	}
	b, e := f.c.c.Call(fuse.CopyFileRange, f.node, 8,
		U64(f.fh, uint64(off), uint64(dst.node), dst.fh, uint64(toOff), uint64(n), 0))
	if e != 0 {
		return 0, e
	}
	return int(le.Uint32(b)), 0
}

func (f *clientFile) Sync(dataOnly bool) unix.Errno {
	op, flags := fuse.Fsync, uint32(0)
	if f.dir {
		op = fuse.Fsyncdir
	}
	if dataOnly {
		flags = fuse.FsyncDatasync
	}
	_, e := f.c.c.Call(op, f.node, 0, U64(f.fh), U32(flags, 0))
	return e
}

func (f *clientFile) Syncfs() unix.Errno {
	_, e := f.c.c.Call(fuse.Syncfs, root, 0, U64(0))
	return e
}

func (f *clientFile) Chmod(mode uint32) unix.Errno {
	return f.c.set(f.node, Set{Valid: fuse.FattrMode, Mode: mode})
}

func (f *clientFile) Chown(uid, gid uint32) unix.Errno { return f.c.set(f.node, owner(uid, gid)) }

func (f *clientFile) Utimens(atime, mtime unix.Timespec) unix.Errno {
	s, e := times(atime, mtime)
	if e != 0 {
		return e
	}
	s.Valid, s.Fh = s.Valid|fuse.FattrFH, f.fh
	return f.c.set(f.node, s)
}

func (f *clientFile) Link(path string) unix.Errno {
	defer f.c.settle()
	return f.c.link(f.node, path)
}

// Readdir sends READDIRPLUS, and READDIR for every other batch, whose cookies
// must fit each other.
func (f *clientFile) Readdir(cookie int64, size int) ([]Name, unix.Errno) {
	if !f.dir {
		return nil, unix.ENOTDIR
	}
	defer f.c.settle()
	plus := cookie == 0 || cookie&16 != 0
	list, e := f.c.c.Readdir(f.node, f.fh, uint64(cookie), uint32(size), plus)
	var names []Name
	for _, d := range list {
		f.c.count(d.Entry.Node)
		names = append(names, Name{d.Name, uint8(d.Type), int64(d.Next)})
	}
	return names, e
}

func (f *clientFile) Flags() (uint32, unix.Errno) {
	b, e := f.ioctl(unix.FS_IOC_GETFLAGS, nil, 4)
	if e != 0 {
		return 0, e
	}
	return le.Uint32(b), 0
}

func (f *clientFile) SetFlags(flags uint32) unix.Errno {
	_, e := f.ioctl(unix.FS_IOC_SETFLAGS, U32(flags), 0)
	return e
}

// ioctl sends IOCTL and returns the command's answer.
func (f *clientFile) ioctl(cmd uint32, in []byte, out int) ([]byte, unix.Errno) {
	var flags uint32
	if f.dir {
		flags = fuse.IoctlDir
	}
	b, e := f.c.c.Call(fuse.Ioctl, f.node, 16+out,
		U64(f.fh), U32(flags, cmd), U64(0), U32(uint32(len(in)), uint32(out)), in)
	if e != 0 {
		return nil, e
	}
	if result := int32(le.Uint32(b)); result < 0 {
		return nil, unix.Errno(-result)
	}
	if len(b) < 16+out {
		return nil, unix.EPROTO
	}
	return b[16:], 0
}
