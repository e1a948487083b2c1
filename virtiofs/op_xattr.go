package virtiofs

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

func (s *Server) opGetxattr(r *Request) unix.Errno {
	size := fuse.Word32(r.fixed()[:], 0)
	n, e := s.fs.Getxattr(r.node(), r.names[0], r.buffer(size))
	if e == unix.EOPNOTSUPP && s.agreed(fuse.PosixACL) && isACL(r.names[0]) {
		// Where the host's file system has no ACLs, nothing has one. Linux asks for
		// it to check a permission, and any other error is what the process gets,
		// be it root (fuse_get_acl, acl_permission_check).
		e = unix.ENODATA
	}
	return r.xattrReply(size, n, e)
}

// isACL tells the names of POSIX ACLs.
func isACL(name CString) bool {
	n := string(name.Bytes())
	return n == "system.posix_acl_access" || n == "system.posix_acl_default"
}

func (s *Server) opListxattr(r *Request) unix.Errno {
	size := fuse.Word32(r.fixed()[:], 0)
	n, e := s.fs.Listxattr(r.node(), r.buffer(size))
	return r.xattrReply(size, n, e)
}

// xattrReply answers with the n bytes in the buffer or, when the guest asked
// with size 0, with their number (fuse_getxattr_out).
func (r *Request) xattrReply(size uint32, n int, e unix.Errno) unix.Errno {
	if e != 0 {
		return e
	}
	if size != 0 {
		if n > len(r.buffer(size)) {
			return unix.ERANGE // the room was 0, which the FS took for the question
		}
		r.body = n
		return 0
	}
	if len(r.buffer(8)) < 8 {
		return unix.EINVAL
	}
	fuse.PutWord64(r.take(8), 0, uint64(n))
	return 0
}

func (s *Server) opSetxattr(r *Request) unix.Errno {
	size, flags := fuse.Word32(r.fixed()[:], 0), fuse.Word32(r.fixed()[:], 1)
	if int64(size) > int64(len(r.payload)) {
		return unix.EINVAL
	}
	killSgid := s.session.Load()&fuse.SetxattrExt != 0 && fuse.Word32(r.fixed()[:], 2)&fuse.SetxattrKillSgid != 0
	return s.fs.Setxattr(r.node(), r.names[0], r.payload[:size], flags, killSgid)
}

func (s *Server) opRemovexattr(r *Request) unix.Errno {
	return s.fs.Removexattr(r.node(), r.names[0])
}
