package fstest

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// AllFlags offers every INIT flag there is.
const AllFlags = ^uint64(0)

// Init opens a session as a guest of minor 45 that offers the flags.
func (c *Conn) Init(flags uint64) (out []byte, e unix.Errno) {
	return c.Call(fuse.Init, 0, fuse.InitOutSize,
		U32(fuse.Major, fuse.Minor, 128<<10, uint32(flags), uint32(flags>>32)), make([]byte, 44))
}

// Entry is fuse_entry_out as far as tests look at it.
type Entry struct {
	Node       virtiofs.NodeID
	EntryValid uint64
	Attr       Attr
}

// Attr is fuse_attr.
type Attr struct {
	Ino, Size, Blocks, Atime, Mtime, Ctime          uint64
	AtimeNsec, MtimeNsec, CtimeNsec                 uint32
	Mode, Nlink, UID, GID, Rdev, Blksize, AttrFlags uint32
}

// ParseEntry decodes fuse_entry_out.
func ParseEntry(b []byte) Entry {
	return Entry{Node: virtiofs.NodeID(le.Uint64(b)), EntryValid: le.Uint64(b[16:]), Attr: ParseAttr(b[40:])}
}

// ParseAttr decodes fuse_attr.
func ParseAttr(b []byte) (a Attr) {
	for i, p := range []*uint64{&a.Ino, &a.Size, &a.Blocks, &a.Atime, &a.Mtime, &a.Ctime} {
		*p = le.Uint64(b[8*i:])
	}
	for i, p := range []*uint32{&a.AtimeNsec, &a.MtimeNsec, &a.CtimeNsec, &a.Mode, &a.Nlink,
		&a.UID, &a.GID, &a.Rdev, &a.Blksize, &a.AttrFlags} {
		*p = le.Uint32(b[48+4*i:])
	}
	return a
}

// entry makes a call that answers with an entry.
func (c *Conn) entry(op fuse.Opcode, node virtiofs.NodeID, args ...[]byte) (Entry, unix.Errno) {
	c.tb.Helper()
	b, e := c.Call(op, node, fuse.EntryOutSize, args...)
	if e != 0 {
		return Entry{}, e
	}
	return ParseEntry(b), 0
}

// Lookup sends LOOKUP.
func (c *Conn) Lookup(parent virtiofs.NodeID, name string) (Entry, unix.Errno) {
	c.tb.Helper()
	return c.entry(fuse.Lookup, parent, Str(name))
}

// Mkdir sends MKDIR.
func (c *Conn) Mkdir(parent virtiofs.NodeID, name string, mode uint32) (Entry, unix.Errno) {
	c.tb.Helper()
	return c.entry(fuse.Mkdir, parent, U32(mode, 0), Str(name))
}

// Mknod sends MKNOD.
func (c *Conn) Mknod(parent virtiofs.NodeID, name string, mode, rdev uint32) (Entry, unix.Errno) {
	c.tb.Helper()
	return c.entry(fuse.Mknod, parent, U32(mode, rdev, 0, 0), Str(name))
}

// Symlink sends SYMLINK.
func (c *Conn) Symlink(parent virtiofs.NodeID, name, target string) (Entry, unix.Errno) {
	c.tb.Helper()
	return c.entry(fuse.Symlink, parent, Str(name), Str(target))
}

// Link sends LINK.
func (c *Conn) Link(node, parent virtiofs.NodeID, name string) (Entry, unix.Errno) {
	c.tb.Helper()
	return c.entry(fuse.Link, parent, U64(uint64(node)), Str(name))
}

// Rename sends RENAME2.
func (c *Conn) Rename(parent virtiofs.NodeID, name string, to virtiofs.NodeID, newName string, flags uint32) unix.Errno {
	c.tb.Helper()
	_, e := c.Call(fuse.Rename2, parent, 0, U64(uint64(to)), U32(flags, 0), Str(name), Str(newName))
	return e
}

// Unlink sends UNLINK.
func (c *Conn) Unlink(parent virtiofs.NodeID, name string) unix.Errno {
	c.tb.Helper()
	_, e := c.Call(fuse.Unlink, parent, 0, Str(name))
	return e
}

// Getattr sends GETATTR.
func (c *Conn) Getattr(node virtiofs.NodeID) (Attr, unix.Errno) {
	c.tb.Helper()
	b, e := c.Call(fuse.Getattr, node, fuse.AttrOutSize, U32(0, 0), U64(0))
	if e != 0 {
		return Attr{}, e
	}
	return ParseAttr(b[16:]), 0
}

// Set is the arguments of SETATTR.
type Set struct {
	Valid                uint32
	Fh, Size             uint64
	Atime, Mtime         uint64
	AtimeNsec, MtimeNsec uint32
	Mode, UID, GID       uint32
}

// Setattr sends SETATTR.
func (c *Conn) Setattr(node virtiofs.NodeID, s Set) (Attr, unix.Errno) {
	c.tb.Helper()
	b, e := c.Call(fuse.Setattr, node, fuse.AttrOutSize,
		U32(s.Valid, 0), U64(s.Fh, s.Size, 0, s.Atime, s.Mtime, 0),
		U32(s.AtimeNsec, s.MtimeNsec, 0, s.Mode, 0, s.UID, s.GID, 0))
	if e != 0 {
		return Attr{}, e
	}
	return ParseAttr(b[16:]), 0
}

// Open sends OPEN and returns the handle.
func (c *Conn) Open(node virtiofs.NodeID, flags uint32) (uint64, unix.Errno) {
	c.tb.Helper()
	return c.open(fuse.Open, node, U32(flags, 0))
}

// Opendir sends OPENDIR and returns the handle.
func (c *Conn) Opendir(node virtiofs.NodeID) (uint64, unix.Errno) {
	c.tb.Helper()
	return c.open(fuse.Opendir, node, U32(0, 0))
}

func (c *Conn) open(op fuse.Opcode, node virtiofs.NodeID, args []byte) (uint64, unix.Errno) {
	c.tb.Helper()
	b, e := c.Call(op, node, fuse.OpenOutSize, args)
	if e != 0 {
		return 0, e
	}
	return le.Uint64(b), 0
}

// Create sends CREATE and returns the entry and the handle.
func (c *Conn) Create(parent virtiofs.NodeID, name string, flags, mode uint32) (Entry, uint64, unix.Errno) {
	c.tb.Helper()
	b, e := c.Call(fuse.Create, parent, fuse.EntryOutSize+fuse.OpenOutSize, U32(flags, mode, 0, 0), Str(name))
	if e != 0 {
		return Entry{}, 0, e
	}
	return ParseEntry(b), le.Uint64(b[fuse.EntryOutSize:]), 0
}

// Read sends READ.
func (c *Conn) Read(node virtiofs.NodeID, fh uint64, off uint64, size uint32) ([]byte, unix.Errno) {
	c.tb.Helper()
	return c.Call(fuse.Read, node, int(size), ReadArgs(fh, off, size))
}

// ReadArgs is fuse_read_in.
func ReadArgs(fh, off uint64, size uint32) []byte {
	b := append(U64(fh, off), U32(size, 0)...)
	return append(b, U64(0, 0)...)
}

// Write sends WRITE and returns how much was written. flags are those of the
// open file, write those of the request.
func (c *Conn) Write(node virtiofs.NodeID, fh, off uint64, data []byte, flags, write uint32) (uint32, unix.Errno) {
	c.tb.Helper()
	b, e := c.Call(fuse.Write, node, 8, WriteArgs(fh, off, uint32(len(data)), flags, write), data)
	if e != 0 {
		return 0, e
	}
	return le.Uint32(b), 0
}

// WriteArgs is fuse_write_in.
func WriteArgs(fh, off uint64, size, flags, write uint32) []byte {
	b := append(U64(fh, off), U32(size, write)...)
	b = append(b, U64(0)...)
	return append(b, U32(flags, 0)...)
}

// SetupMapping sends SETUPMAPPING as Linux does, which names no handle.
func (c *Conn) SetupMapping(node virtiofs.NodeID, off, n, flags, at uint64) unix.Errno {
	c.tb.Helper()
	_, e := c.Call(fuse.SetupMapping, node, 0, MapArgs(^uint64(0), off, n, flags, at))
	return e
}

// MapArgs is fuse_setupmapping_in.
func MapArgs(fh, off, n, flags, at uint64) []byte { return U64(fh, off, n, flags, at) }

// RemoveMapping sends REMOVEMAPPING of places and lengths, in turns.
func (c *Conn) RemoveMapping(ones ...uint64) unix.Errno {
	c.tb.Helper()
	_, e := c.Call(fuse.RemoveMapping, 0, 0, U32(uint32(len(ones)/2)), U64(ones...))
	return e
}

// Release sends RELEASE or, for a directory, RELEASEDIR.
func (c *Conn) Release(node virtiofs.NodeID, fh uint64, dir bool) unix.Errno {
	c.tb.Helper()
	op := fuse.Release
	if dir {
		op = fuse.Releasedir
	}
	_, e := c.Call(op, node, 0, U64(fh, 0, 0))
	return e
}

// Forget sends FORGET.
func (c *Conn) Forget(node virtiofs.NodeID, n uint64) {
	c.tb.Helper()
	_, _ = c.Call(fuse.Forget, node, 0, U64(n))
}

// Dirent is an entry of READDIR or, with a node perhaps, of READDIRPLUS.
type Dirent struct {
	Entry     Entry
	Ino, Next uint64
	Type      uint32
	Name      string
}

// Readdir sends READDIR or READDIRPLUS from a cookie.
func (c *Conn) Readdir(node virtiofs.NodeID, fh, cookie uint64, size uint32, plus bool) ([]Dirent, unix.Errno) {
	c.tb.Helper()
	op := fuse.Readdir
	if plus {
		op = fuse.Readdirplus
	}
	b, e := c.Call(op, node, int(size), ReadArgs(fh, cookie, size))
	var list []Dirent
	for e == 0 && len(b) > 0 {
		var d Dirent
		if plus {
			d.Entry = ParseEntry(b)
			b = b[fuse.EntryOutSize:]
		}
		n := int(le.Uint32(b[16:]))
		d.Ino, d.Next, d.Type = le.Uint64(b), le.Uint64(b[8:]), le.Uint32(b[20:])
		d.Name = string(b[fuse.DirentSize : fuse.DirentSize+n])
		b = b[fuse.DirentLen(n):]
		list = append(list, d)
	}
	return list, e
}
