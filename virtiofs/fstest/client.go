package fstest

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

const root = virtiofs.NodeID(fuse.RootID)

// Client is a Target on a FUSE connection, without caches: each operation looks
// its path up from the root, and forgets all of it at its end. Like Linux it
// applies the umask, asks for set-id bits to be dropped, and refuses what never
// reaches a file system (an empty target of a link, say); unlike Linux it leaves
// all checks of permission out.
type Client struct {
	c      *Conn
	umask  uint32
	groups []uint32

	lookups map[virtiofs.NodeID]uint64 // what the server counts for us
	open    map[virtiofs.NodeID]int    // open files of a node: it is not forgotten
	seen    map[virtiofs.NodeID]struct{}
	noOpen  bool // the server serves handle 0 (FUSE_NO_OPEN_SUPPORT)
	piece   int  // bytes of one READ or WRITE
}

var _ Target = (*Client)(nil)

// NewClient opens a session that offers every flag.
func NewClient(c *Conn) (*Client, error) {
	if _, e := c.Init(AllFlags); e != 0 {
		return nil, fmt.Errorf("INIT: %w", e)
	}
	return Attach(c), nil
}

// Attach is NewClient for a connection whose session is open already.
func Attach(c *Conn) *Client {
	return &Client{
		c: c, piece: 128 << 10,
		lookups: map[virtiofs.NodeID]uint64{}, open: map[virtiofs.NodeID]int{}, seen: map[virtiofs.NodeID]struct{}{},
	}
}

// Close checks that the server has forgotten what it was told to forget: every
// node that this client ever knew must be stale. All files must be closed, those
// of other clients in the session too.
func (c *Client) Close() error {
	if len(c.open) > 0 || len(c.lookups) > 0 {
		return fmt.Errorf("%d nodes have open files, %d are not forgotten", len(c.open), len(c.lookups))
	}
	for n := range c.seen {
		if _, e := c.c.Getattr(n); e != unix.ESTALE {
			return fmt.Errorf("node %d is forgotten, and GETATTR answers %v, want ESTALE", n, e)
		}
	}
	return nil
}

// count takes note of an entry that the server counted a lookup for.
func (c *Client) count(n virtiofs.NodeID) {
	if n != 0 && n != root {
		c.lookups[n]++
		c.seen[n] = struct{}{}
	}
}

// settle forgets what no open file needs: by FORGET, or more than a few by
// BATCH_FORGET.
func (c *Client) settle() {
	var batch []byte
	for n, count := range c.lookups {
		if c.open[n] > 0 {
			continue
		}
		delete(c.lookups, n)
		batch = append(batch, U64(uint64(n), count)...)
	}
	if n := len(batch) / fuse.ForgetOneSize; n <= 8 {
		for one := range slices.Chunk(batch, fuse.ForgetOneSize) {
			c.c.Forget(virtiofs.NodeID(le.Uint64(one)), le.Uint64(one[8:]))
		}
		return
	}
	for some := range slices.Chunk(batch, 256*fuse.ForgetOneSize) {
		_, _ = c.c.Call(fuse.BatchForget, 0, 0, U32(uint32(len(some)/fuse.ForgetOneSize), 0), some)
	}
}

// entry takes note of an answer with an entry.
func (c *Client) entry(en Entry, e unix.Errno) unix.Errno {
	if e == 0 {
		c.count(en.Node)
	}
	return e
}

// As implements Target. Groups go with requests that create, as Linux sends them.
func (c *Client) As(w Who, f func(Target)) unix.Errno {
	uid, gid, umask, groups := c.c.UID, c.c.GID, c.umask, c.groups
	c.c.UID, c.c.GID, c.umask, c.groups = w.UID, w.GID, w.Umask, w.Groups
	f(c)
	c.c.UID, c.c.GID, c.umask, c.groups = uid, gid, umask, groups
	return 0
}

// creating finds the directory and the name of what is to be made. Of the
// caller's groups it sends the directory's, if that is one (FUSE_CREATE_SUPP_GROUP).
func (c *Client) creating(path string) (dir virtiofs.NodeID, name string, e unix.Errno) {
	dir, a, name, e := c.parent(path)
	c.c.Ext = nil
	if e == 0 && slices.Contains(c.groups, a.GID) {
		c.c.Ext = append(U32(16, fuse.ExtGroups), U32(1, a.GID)...)
	}
	return dir, name, e
}

// Mkdir implements Target.
func (c *Client) Mkdir(path string, mode uint32) unix.Errno {
	defer c.settle()
	dir, name, e := c.creating(path)
	if e != 0 {
		return e
	}
	en, e := c.c.entry(fuse.Mkdir, dir, U32(mode&^c.umask, c.umask), Str(name))
	return c.entry(en, e)
}

// Mknod implements Target.
func (c *Client) Mknod(path string, mode, major, minor uint32) unix.Errno {
	defer c.settle()
	dir, name, e := c.creating(path)
	if e != 0 {
		return e
	}
	rdev := minor&0xff | major<<8 | minor&^0xff<<12
	en, e := c.c.entry(fuse.Mknod, dir, U32(mode&^c.umask, rdev, c.umask, 0), Str(name))
	return c.entry(en, e)
}

// Symlink implements Target.
func (c *Client) Symlink(target, path string) unix.Errno {
	defer c.settle()
	if target == "" {
		return unix.ENOENT
	}
	dir, name, e := c.creating(path)
	if e != 0 {
		return e
	}
	return c.entry(c.c.Symlink(dir, name, target))
}

// Link implements Target.
func (c *Client) Link(old, path string) unix.Errno {
	defer c.settle()
	n, _, e := c.walk(old, false)
	if e != 0 {
		return e
	}
	return c.link(n, path)
}

func (c *Client) link(n virtiofs.NodeID, path string) unix.Errno {
	dir, _, name, e := c.parent(path)
	if e != 0 {
		return e
	}
	return c.entry(c.c.Link(n, dir, name))
}

// Unlink implements Target.
func (c *Client) Unlink(path string) unix.Errno {
	defer c.settle()
	dir, _, name, e := c.parent(path)
	if e != 0 {
		return e
	}
	return c.c.Unlink(dir, name)
}

// Rmdir implements Target.
func (c *Client) Rmdir(path string) unix.Errno {
	defer c.settle()
	dir, _, name, e := c.parent(path)
	if e != 0 {
		return e
	}
	_, e = c.c.Call(fuse.Rmdir, dir, 0, Str(name))
	return e
}

// Rename implements Target.
func (c *Client) Rename(old, path string, flags uint32) unix.Errno {
	defer c.settle()
	from, _, name, e := c.parent(old)
	if e != 0 {
		return e
	}
	to, _, newName, e := c.parent(path)
	if e != 0 {
		return e
	}
	return c.c.Rename(from, name, to, newName, flags)
}

// Readlink implements Target.
func (c *Client) Readlink(path string) (string, unix.Errno) {
	defer c.settle()
	n, a, e := c.walk(path, false)
	if e != 0 {
		return "", e
	}
	if a.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", unix.EINVAL
	}
	return c.readlink(n)
}

func (c *Client) readlink(n virtiofs.NodeID) (string, unix.Errno) {
	b, e := c.c.Call(fuse.Readlink, n, 4096)
	return string(b), e
}
