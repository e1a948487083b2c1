package fstest

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// Stat implements Target.
func (c *Client) Stat(path string, follow bool) (Stat, unix.Errno) {
	defer c.settle()
	n, _, e := c.walk(path, follow)
	if e != 0 {
		return Stat{}, e
	}
	return statReply(c.c.Getattr(n))
}

// statReply is the answer to GETATTR as a Stat. The device is the whole server's.
func statReply(a Attr, e unix.Errno) (Stat, unix.Errno) {
	return Stat{
		Ino: a.Ino, Mode: a.Mode, Nlink: a.Nlink, UID: a.UID, GID: a.GID,
		Major: a.Rdev >> 8 & 0xfff, Minor: a.Rdev&0xff | a.Rdev>>12&^0xff,
		Size: int64(a.Size), Blocks: int64(a.Blocks),
		Atime: unix.Timespec{Sec: int64(a.Atime), Nsec: int64(a.AtimeNsec)},
		Mtime: unix.Timespec{Sec: int64(a.Mtime), Nsec: int64(a.MtimeNsec)},
		Ctime: unix.Timespec{Sec: int64(a.Ctime), Nsec: int64(a.CtimeNsec)},
	}, e
}

// Btime implements Target by STATX.
func (c *Client) Btime(path string) (t unix.Timespec, e unix.Errno) {
	defer c.settle()
	n, _, e := c.walk(path, false)
	if e != 0 {
		return t, e
	}
	b, e := c.c.Call(fuse.Statx, n, fuse.StatxOutSize, U32(0, 0), U64(0), U32(0, unix.STATX_BTIME))
	if e != 0 {
		return t, e
	}
	x := b[fuse.StatxOutSize-fuse.StatxSize:] // struct statx
	if le.Uint32(x)&unix.STATX_BTIME == 0 {
		return t, unix.ENODATA
	}
	return unix.Timespec{Sec: int64(le.Uint64(x[80:])), Nsec: int64(le.Uint32(x[88:]))}, 0
}

// setattr changes what is at the path.
func (c *Client) setattr(path string, follow bool, s Set) unix.Errno {
	defer c.settle()
	n, _, e := c.walk(path, follow)
	if e != 0 {
		return e
	}
	return c.set(n, s)
}

func (c *Client) set(n virtiofs.NodeID, s Set) unix.Errno {
	if s.Valid&fuse.FattrSize != 0 {
		if int64(s.Size) < 0 {
			return unix.EINVAL
		}
		if c.c.UID != 0 {
			s.Valid |= fuse.FattrKillSuidgid
		}
	}
	_, e := c.c.Setattr(n, s)
	return e
}

// Chmod implements Target.
func (c *Client) Chmod(path string, mode uint32) unix.Errno {
	return c.setattr(path, true, Set{Valid: fuse.FattrMode, Mode: mode})
}

// Chown implements Target.
func (c *Client) Chown(path string, uid, gid uint32, follow bool) unix.Errno {
	return c.setattr(path, follow, owner(uid, gid))
}

func owner(uid, gid uint32) Set {
	s := Set{UID: uid, GID: gid}
	if uid != ^uint32(0) {
		s.Valid |= fuse.FattrUID
	}
	if gid != ^uint32(0) {
		s.Valid |= fuse.FattrGID
	}
	return s
}

// Truncate implements Target.
func (c *Client) Truncate(path string, size int64) unix.Errno {
	return c.setattr(path, true, Set{Valid: fuse.FattrSize, Size: uint64(size)})
}

// Utimens implements Target.
func (c *Client) Utimens(path string, atime, mtime unix.Timespec, follow bool) unix.Errno {
	s, e := times(atime, mtime)
	if e != 0 {
		return e
	}
	return c.setattr(path, follow, s)
}

// times checks what the kernel checks before a file system sees it.
func times(atime, mtime unix.Timespec) (s Set, e unix.Errno) {
	for _, t := range []struct {
		ts       unix.Timespec
		set, now uint32
		sec      *uint64
		nsec     *uint32
	}{
		{atime, fuse.FattrAtime, fuse.FattrAtimeNow, &s.Atime, &s.AtimeNsec},
		{mtime, fuse.FattrMtime, fuse.FattrMtimeNow, &s.Mtime, &s.MtimeNsec},
	} {
		switch n := t.ts.Nsec; {
		case n == unix.UTIME_OMIT:
		case n == unix.UTIME_NOW:
			s.Valid |= t.set | t.now
		case n < 0 || n >= 1e9:
			return s, unix.EINVAL
		default:
			s.Valid |= t.set
			*t.sec, *t.nsec = uint64(t.ts.Sec), uint32(n)
		}
	}
	return s, 0
}

// Statfs implements Target.
func (c *Client) Statfs(path string) (v Volume, e unix.Errno) {
	defer c.settle()
	n, _, e := c.walk(path, true)
	if e != 0 {
		return v, e
	}
	b, e := c.c.Call(fuse.Statfs, n, 80)
	if e != 0 {
		return v, e
	}
	return Volume{le.Uint32(b[40:]), le.Uint32(b[48:]), le.Uint32(b[44:]), le.Uint64(b), le.Uint64(b[24:])}, 0
}

// xattr asks for an attribute's value or for the list of names. Both take the
// same answer: its length where size is 0.
func (c *Client) xattr(op fuse.Opcode, path string, size int, name []byte) ([]byte, int, unix.Errno) {
	defer c.settle()
	n, _, e := c.walk(path, false)
	if e != 0 {
		return nil, 0, e
	}
	b, e := c.c.Call(op, n, max(size, 8), U32(uint32(size), 0), name)
	switch {
	case e != 0:
		return nil, 0, e
	case size == 0:
		return nil, int(le.Uint32(b)), 0
	}
	return b, len(b), 0
}

// xattrName checks a name's length.
func xattrName(name string) unix.Errno {
	if name == "" || len(name) > 255 {
		return unix.ERANGE
	}
	return 0
}

// Getxattr implements Target.
func (c *Client) Getxattr(path, name string, size int) ([]byte, int, unix.Errno) {
	if e := xattrName(name); e != 0 {
		return nil, 0, e
	}
	return c.xattr(fuse.Getxattr, path, size, Str(name))
}

// Listxattr implements Target.
func (c *Client) Listxattr(path string, size int) ([]byte, int, unix.Errno) {
	return c.xattr(fuse.Listxattr, path, size, nil)
}

// Setxattr implements Target.
func (c *Client) Setxattr(path, name string, value []byte, flags int) unix.Errno {
	defer c.settle()
	if e := xattrName(name); e != 0 {
		return e
	}
	n, _, e := c.walk(path, false)
	if e != 0 {
		return e
	}
	_, e = c.c.Call(fuse.Setxattr, n, 0, U32(uint32(len(value)), uint32(flags), 0, 0), Str(name), value)
	return e
}

// Removexattr implements Target.
func (c *Client) Removexattr(path, name string) unix.Errno {
	defer c.settle()
	if e := xattrName(name); e != 0 {
		return e
	}
	n, _, e := c.walk(path, false)
	if e != 0 {
		return e
	}
	_, e = c.c.Call(fuse.Removexattr, n, 0, Str(name))
	return e
}
