package virtiofs

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

func (s *Server) opOpendir(r *Request) unix.Errno {
	if s.agreed(fuse.NoOpendirSupport) {
		return r.unserved() // the guest goes on with handle 0, and does not ask again
	}
	h, e := s.fs.Opendir(r.node())
	if e == 0 {
		fuse.EncodeOpenOut(r.take(fuse.OpenOutSize), uint64(h), s.options.Policy.DirFlags)
	}
	return e
}

func (s *Server) opReleasedir(r *Request) unix.Errno { return s.fs.Releasedir(r.file()) }

func (s *Server) opFsyncdir(r *Request) unix.Errno {
	return s.fs.Fsyncdir(r.file(), fuse.FsyncFlags(r.fixed()[:])&fuse.FsyncDatasync != 0)
}

// opReaddir serves READDIR and READDIRPLUS. Entries go through scratch memory:
// fewer than the guest has room for is not the end, only none is.
func (s *Server) opReaddir(r *Request) unix.Errno {
	var in fuse.ReadIn
	in.Decode(r.fixed()[:])
	d := &r.dir
	d.Plus = r.hdr.Opcode == fuse.Readdirplus
	d.buf, d.n, d.server = r.buffer(in.Size), 0, s
	e := s.fs.Readdir(r.file(), in.Offset, d)
	if d.n > 0 {
		e = 0 // the error will come again, for the entry it belongs to
	}
	r.body = d.n
	return e
}
