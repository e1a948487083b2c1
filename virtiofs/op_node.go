package virtiofs

import (
	"bytes"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

func (s *Server) opLookup(r *Request) unix.Errno {
	switch r.dots {
	case 1:
		return s.entryReply(r, s.fs.Self(r.node(), &r.entry))
	case 2:
		return s.entryReply(r, s.fs.Parent(r.node(), &r.entry))
	}
	e := s.fs.Lookup(r.node(), r.name(0), &r.entry)
	if e == unix.ENOENT && s.options.Policy.Negative > 0 {
		// Node 0 is "no such name, and remember that": ENOENT would be asked again.
		r.entry = Entry{}
		fuse.EncodeEntryOut(r.take(fuse.EntryOutSize), 0, 0, &s.negative, &fuse.Timeout{}, &r.entry.Attr)
		return 0
	}
	return s.entryReply(r, e)
}

// dots tells the two names that are not one component but are answered in a
// session with fuse.ExportSupport: 1 for ".", 2 for "..", 0 for all others.
func dots(name []byte) int {
	switch {
	case bytes.HasPrefix(name, []byte(".\x00")):
		return 1
	case bytes.HasPrefix(name, []byte("..\x00")):
		return 2
	}
	return 0
}

func (s *Server) opForget(r *Request) unix.Errno {
	s.fs.Forget(r.node(), fuse.Word64(r.fixed()[:], 0))
	return 0
}

// opBatchForget trusts the bytes that are there, not the count.
func (s *Server) opBatchForget(r *Request) unix.Errno {
	n := min(int(fuse.Word32(r.fixed()[:], 0)), r.rest/fuse.ForgetOneSize)
	one := r.fixed()[8 : 8+fuse.ForgetOneSize]
	for ; n > 0; n-- {
		if r.in.Copy(one) != nil {
			return unix.EIO
		}
		s.fs.Forget(NodeID(fuse.Word64(one, 0)), fuse.Word64(one, 1))
	}
	return 0
}

func (s *Server) opGetattr(r *Request) unix.Errno {
	f := File{Node: r.node()}
	if fuse.Word32(r.fixed()[:], 0)&fuse.GetattrFH != 0 {
		f.Handle = Handle(fuse.Word64(r.fixed()[:], 1))
	}
	return s.attrReply(r, s.fs.Getattr(f, &r.attr))
}

func (s *Server) opSetattr(r *Request) unix.Errno {
	r.setin.Decode(r.fixed()[:])
	if _, e := offset(r.setin.Size); e != 0 && r.setin.Valid&fuse.FattrSize != 0 {
		return e
	}
	return s.attrReply(r, s.fs.Setattr(r.node(), &r.setin, &r.attr))
}

func (s *Server) opStatx(r *Request) unix.Errno {
	var in fuse.StatxIn
	in.Decode(r.fixed()[:])
	f := File{Node: r.node()}
	if in.GetattrFlags&fuse.GetattrFH != 0 {
		f.Handle = Handle(in.FH)
	}
	if e := s.fs.Statx(f, in.Mask, &r.statx); e != 0 {
		return e
	}
	if s.usesWindow(uint32(r.statx.Mode)) {
		r.statx.Blksize = mapPage
	}
	r.statx.Mask &= unix.STATX_BASIC_STATS | unix.STATX_BTIME // what fuse_statx has room for
	r.statx.Attributes &= statxAttributes
	r.statx.Attributes_mask &= statxAttributes
	fuse.EncodeStatxOut(r.take(fuse.StatxOutSize), s.attrValid, &r.statx)
	return 0
}

// statxAttributes is the attributes of a file itself. Whether it is a mount's
// root or is mapped by DAX is another matter on the guest's side.
const statxAttributes = unix.STATX_ATTR_COMPRESSED | unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND |
	unix.STATX_ATTR_NODUMP | unix.STATX_ATTR_ENCRYPTED | unix.STATX_ATTR_VERITY

func (s *Server) opReadlink(r *Request) unix.Errno {
	n, e := s.fs.Readlink(r.node(), r.buffer(maxTarget+1))
	r.body = n
	return e
}

func (s *Server) opAccess(r *Request) unix.Errno {
	r.caller = Caller{UID: r.hdr.UID, GID: r.hdr.GID, PID: r.hdr.PID}
	return s.fs.Access(&r.caller, r.node(), fuse.Word32(r.fixed()[:], 0))
}

func (s *Server) opStatfs(r *Request) unix.Errno {
	st := &r.statfs
	if e := s.fs.Statfs(r.node(), st); e != 0 {
		return e
	}
	out := fuse.StatfsOut{
		Blocks:          st.Blocks,
		BlocksFree:      st.Bfree,
		BlocksAvailable: st.Bavail,
		Files:           st.Files,
		FilesFree:       st.Ffree,
		BlockSize:       uint32(st.Bsize),
		NameLength:      maxName,
		FragmentSize:    uint32(st.Frsize),
	}
	out.Encode(r.take(int(r.row.Out)))
	return 0
}

func (s *Server) opSyncfs(r *Request) unix.Errno { return s.fs.Syncfs(r.node()) }

// opInterrupt ignores the request: what may wait is on its way in the pool and
// ends by itself, and a guest on virtio-fs sends none.
func (s *Server) opInterrupt(*Request) unix.Errno { return 0 }
