package virtiofs

import "tenon/virtiofs/fuse"

// Dirents is the reply to READDIR or READDIRPLUS while it is filled.
type Dirents struct {
	// Plus asks for AddPlus: every entry with its node and attributes.
	Plus bool
	// Scratch is the file system's to use during the call.
	Scratch []byte
	// Entry is the file system's to fill and hand to AddPlus.
	Entry Entry

	buf    []byte // what the guest has room for
	n      int
	server *Server
}

// Room is the number of bytes left for entries.
func (d *Dirents) Room() int { return len(d.buf) - d.n }

// Fits reports whether an entry whose name has n bytes still fits. Ask before
// a node's lookup count is raised for it.
func (d *Dirents) Fits(n int) bool { return d.size(n) <= d.Room() }

func (d *Dirents) size(n int) int {
	if d.Plus {
		return fuse.EntryOutSize + fuse.DirentLen(n)
	}
	return fuse.DirentLen(n)
}

// Add appends an entry that Fits. next is the cookie of the entry after it, typ
// is DT_*. With Plus the entry goes without a node: the guest will look it up
// when it needs it.
func (d *Dirents) Add(ino, next uint64, typ uint32, name []byte) {
	b := d.take(len(name))
	if d.Plus {
		clear(b[:fuse.EntryOutSize])
		b = b[fuse.EntryOutSize:]
	}
	fuse.EncodeDirent(b, ino, next, typ, name)
}

// AddPlus appends d.Entry under a name; as Add.
func (d *Dirents) AddPlus(next uint64, typ uint32, name []byte) {
	b := d.take(len(name))
	d.server.encodeEntry(b, &d.Entry)
	fuse.EncodeDirent(b[fuse.EntryOutSize:], d.Entry.Attr.Ino, next, typ, name)
}

func (d *Dirents) take(n int) []byte {
	b := d.buf[d.n : d.n+d.size(n)]
	d.n += len(b)
	return b
}

// generation is what sets a node apart from one that had its id in another life
// of this server: a guest may have stored a handle of that one (an NFS client,
// the index of an overlayfs). The root of a file system has none: Linux makes up
// the inode of a submount's root itself, with generation 0.
func (s *Server) generation(e *Entry) uint64 {
	if e.Node == fuse.RootID || e.Attr.Flags&fuse.AttrSubmount != 0 {
		return 0
	}
	return s.epoch + e.Generation
}

func (s *Server) encodeEntry(b []byte, e *Entry) {
	s.dress(&e.Attr)
	fuse.EncodeEntryOut(b, uint64(e.Node), s.generation(e), &s.entryValid, &s.attrValid, &e.Attr)
}

// Empty reports whether no entry was added yet.
func (d *Dirents) Empty() bool { return d.n == 0 }
