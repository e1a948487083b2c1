package fstest

import (
	"strings"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

const maxLinks = 40 // symbolic links followed in one path (path_resolution(7))

// spot is a node on the way down a path.
type spot struct {
	node virtiofs.NodeID
	attr Attr
}

// walker goes down a path, and up again at "..".
type walker struct {
	c     *Client
	stack []spot
	links int
}

func (c *Client) walker() (*walker, unix.Errno) {
	a, e := c.c.Getattr(root)
	return &walker{c: c, stack: []spot{{root, a}}}, e
}

func (w *walker) here() spot { return w.stack[len(w.stack)-1] }

// walk finds what is at the path. Its node is looked up until settle.
func (c *Client) walk(path string, follow bool) (virtiofs.NodeID, Attr, unix.Errno) {
	w, e := c.walker()
	if e == 0 {
		e = w.down(path, follow)
	}
	s := w.here()
	return s.node, s.attr, e
}

// parent finds the directory of the path's last component.
func (c *Client) parent(path string) (dir virtiofs.NodeID, a Attr, name string, e unix.Errno) {
	at := strings.LastIndexByte(path, '/') + 1
	dir, a, e = c.walk(path[:at], true)
	if e == 0 && a.Mode&unix.S_IFMT != unix.S_IFDIR {
		e = unix.ENOTDIR
	}
	return dir, a, path[at:], e
}

func (w *walker) down(path string, follow bool) unix.Errno {
	parts := strings.Split(path, "/")
	for i, name := range parts {
		last := i == len(parts)-1
		if e := w.step(name, !last || follow); e != 0 {
			return e
		}
	}
	return 0
}

func (w *walker) step(name string, follow bool) unix.Errno {
	dir := w.here()
	if dir.attr.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	switch name {
	case "", ".":
		return 0
	case "..":
		w.stack = w.stack[:max(1, len(w.stack)-1)]
		return 0
	}
	en, e := w.c.c.Lookup(dir.node, name)
	if w.c.entry(en, e) != 0 {
		return e
	}
	if en.Node == 0 {
		return unix.ENOENT // with a time for which that may be believed
	}
	if follow && en.Attr.Mode&unix.S_IFMT == unix.S_IFLNK {
		return w.link(en.Node)
	}
	w.stack = append(w.stack, spot{en.Node, en.Attr})
	return 0
}

// link goes where a symbolic link points; the suite has no absolute ones.
func (w *walker) link(n virtiofs.NodeID) unix.Errno {
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	target, e := w.c.readlink(n)
	if e != 0 {
		return e
	}
	return w.down(target, true)
}

// Open implements Target.
func (c *Client) Open(path string, flags int, mode uint32) (File, unix.Errno) {
	defer c.settle()
	if flags&unix.O_TMPFILE == unix.O_TMPFILE {
		return c.tmpfile(path, flags, mode)
	}
	if flags&unix.O_CREAT != 0 {
		f, e := c.create(path, flags, mode)
		if e != unix.EEXIST || flags&unix.O_EXCL != 0 {
			return f, e
		}
	}
	n, a, e := c.walk(path, flags&unix.O_NOFOLLOW == 0)
	if e == unix.ENOENT && flags&unix.O_CREAT != 0 {
		return c.throughLink(path, flags, mode)
	}
	if e != 0 {
		return nil, e
	}
	typ := a.Mode & unix.S_IFMT
	switch {
	case typ != unix.S_IFDIR && flags&unix.O_DIRECTORY != 0:
		return nil, unix.ENOTDIR
	case typ == unix.S_IFLNK:
		return nil, unix.ELOOP
	case typ == unix.S_IFDIR && (flags&(unix.O_CREAT|unix.O_ACCMODE|unix.O_TRUNC) != 0):
		return nil, unix.EISDIR
	case typ == unix.S_IFDIR:
		return c.opened(n, flags, true)
	}
	return c.opened(n, flags, false)
}

// throughLink creates the file that a dangling link points to.
func (c *Client) throughLink(path string, flags int, mode uint32) (File, unix.Errno) {
	n, a, e := c.walk(path, false)
	if e != 0 || a.Mode&unix.S_IFMT != unix.S_IFLNK {
		return nil, e
	}
	target, e := c.readlink(n)
	if e != 0 {
		return nil, e
	}
	return c.create(path[:strings.LastIndexByte(path, '/')+1]+target, flags, mode)
}

// opened sends OPEN or OPENDIR. Linux leaves out the flags that say how a name
// is found, and takes ENOSYS for "open nothing, the handle is 0".
func (c *Client) opened(n virtiofs.NodeID, flags int, dir bool) (File, unix.Errno) {
	op, args := fuse.Open, U32(uint32(flags&^(unix.O_CREAT|unix.O_EXCL|unix.O_NOCTTY)), c.kill(flags))
	if dir {
		op = fuse.Opendir
	}
	fh, e := c.c.open(op, n, args)
	if e == unix.ENOSYS {
		fh, e = 0, 0
		c.noOpen = true
	}
	if e != 0 {
		return nil, e
	}
	return c.add(n, fh, flags, dir), 0
}

// kill is the flag of OPEN and CREATE that takes set-id bits with O_TRUNC.
func (c *Client) kill(flags int) uint32 {
	if flags&unix.O_TRUNC != 0 && c.c.UID != 0 {
		return fuse.OpenKillSuidgid
	}
	return 0
}

func (c *Client) create(path string, flags int, mode uint32) (File, unix.Errno) {
	dir, name, e := c.creating(path)
	if e != 0 {
		return nil, e
	}
	return c.made(fuse.Create, dir, name, flags|unix.O_EXCL, mode)
}

func (c *Client) tmpfile(path string, flags int, mode uint32) (File, unix.Errno) {
	dir, name, e := c.creating(path + "/")
	if e != 0 {
		return nil, e
	}
	return c.made(fuse.Tmpfile, dir, name+"/", flags, mode)
}

// made sends CREATE or TMPFILE.
func (c *Client) made(op fuse.Opcode, dir virtiofs.NodeID, name string, flags int, mode uint32) (File, unix.Errno) {
	b, e := c.c.Call(op, dir, fuse.EntryOutSize+fuse.OpenOutSize,
		U32(uint32(flags&^unix.O_NOCTTY), unix.S_IFREG|mode&^c.umask, c.umask, c.kill(flags)), Str(name))
	if e != 0 {
		return nil, e
	}
	en := ParseEntry(b)
	c.count(en.Node)
	return c.add(en.Node, le.Uint64(b[fuse.EntryOutSize:]), flags, false), 0
}
