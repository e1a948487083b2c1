package virtiofs

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

func (s *Server) opMknod(r *Request) unix.Errno {
	var in fuse.MknodIn
	in.Decode(r.fixed()[:])
	return s.entryReply(r, s.fs.Mknod(&r.caller, r.node(), r.name(0), in.Mode, in.Rdev, &r.entry))
}

func (s *Server) opMkdir(r *Request) unix.Errno {
	mode := fuse.Word32(r.fixed()[:], 0)
	return s.entryReply(r, s.fs.Mkdir(&r.caller, r.node(), r.name(0), mode, &r.entry))
}

func (s *Server) opSymlink(r *Request) unix.Errno {
	return s.entryReply(r, s.fs.Symlink(&r.caller, r.node(), r.name(0), r.names[1], &r.entry))
}

func (s *Server) opLink(r *Request) unix.Errno {
	old := NodeID(fuse.Word64(r.fixed()[:], 0))
	return s.entryReply(r, s.fs.Link(old, r.node(), r.name(0), &r.entry))
}

func (s *Server) opUnlink(r *Request) unix.Errno { return s.fs.Unlink(r.node(), r.name(0)) }

func (s *Server) opRmdir(r *Request) unix.Errno { return s.fs.Rmdir(r.node(), r.name(0)) }

func (s *Server) opRename(r *Request) unix.Errno { return s.rename(r, 0) }

func (s *Server) opRename2(r *Request) unix.Errno {
	return s.rename(r, fuse.Word32(r.fixed()[:], 2))
}

func (s *Server) rename(r *Request, flags uint32) unix.Errno {
	to := NodeID(fuse.Word64(r.fixed()[:], 0))
	return s.fs.Rename(r.node(), r.name(0), to, r.name(1), flags)
}
