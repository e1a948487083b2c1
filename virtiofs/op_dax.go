package virtiofs

import (
	"math"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

const (
	// mapAlignment is the alignment of mappings as a power of two, and mapPage in
	// bytes: that of host pages.
	mapAlignment = 12
	mapPage      = 1 << mapAlignment
	// maxRemove is how many mappings one request takes away at most
	// (FUSE_REMOVEMAPPING_MAX_ENTRY); up to inlineRemove on a vCPU's own thread.
	maxRemove    = 256
	inlineRemove = 16
)

// opSetupMapping shows a piece of the node's file in the window. Linux names no
// handle, and asks for 2 MiB that may reach beyond the end of the file.
//
// An error is the guest's process's, from read(2) or write(2), or SIGBUS where it
// touches a mapping, but for two that would have it touch the page again for ever:
// EAGAIN (__fuse_dax_fault) and ENOMEM (pagefault_out_of_memory).
func (s *Server) opSetupMapping(r *Request) unix.Errno {
	var in fuse.SetupMappingIn
	in.Decode(r.fixed()[:])
	end := in.Offset + in.Len
	switch {
	case in.Flags&^(fuse.MapRead|fuse.MapWrite) != 0, in.Flags == 0,
		in.Offset%mapPage != 0, end < in.Offset, end > math.MaxInt64, !s.inWindow(in.MOffset, in.Len):
		s.fs.Refuse()
		return unix.EINVAL
	}
	e := s.fs.Map(r.node(), Mapping{
		Offset: in.Offset, At: in.MOffset, Len: in.Len,
		Write: in.Flags&fuse.MapWrite != 0, KillSuidgid: r.killsSuidgid(),
	})
	if e == unix.EAGAIN || e == unix.ENOMEM {
		e = unix.EIO
	}
	return e
}

// opRemoveMapping takes mappings away. One that is out of bounds does not keep the
// others: Linux uses their places again whatever the answer is.
func (s *Server) opRemoveMapping(r *Request) (e unix.Errno) {
	n := fuse.Word32(r.fixed()[:], 0)
	if n > maxRemove || int(n) > r.rest/fuse.RemoveOneSize {
		return unix.EINVAL
	}
	if n > inlineRemove && !r.MayBlock {
		return r.postpone()
	}
	b := r.fixed()[4 : 4+fuse.RemoveOneSize]
	for ; n > 0; n-- {
		if r.in.Copy(b) != nil {
			return unix.EIO
		}
		var one fuse.RemoveMappingOne
		one.Decode(b)
		bad := unix.EINVAL
		if s.inWindow(one.MOffset, one.Len) {
			bad = s.fs.Unmap(one.MOffset, one.Len)
		}
		if e == 0 {
			e = bad
		}
	}
	return e
}

// inWindow reports whether n bytes at an offset are whole pages of the window, and
// at least one.
func (s *Server) inWindow(at, n uint64) bool {
	return (at|n)%mapPage == 0 && n > 0 && n <= s.window && at <= s.window-n
}

// dress makes of a node's attributes those that this session shows.
func (s *Server) dress(a *fuse.Attr) {
	mappable := a.Flags&fuse.AttrDAX != 0
	a.Flags &^= fuse.AttrDAX
	if !s.usesWindow(a.Mode) {
		return
	}
	// Linux fails fsync(2) of a file in the window whose blocks have another size
	// (dax_writeback_mapping_range), and some file systems' have.
	a.Blksize = mapPage
	if mappable && s.agreed(fuse.HasInodeDAX) && (s.options.DAX == DAXAlways || a.Size >= s.options.DAXMinSize) {
		a.Flags |= fuse.AttrDAX
	}
}

// usesWindow reports whether the window is for files of the mode.
func (s *Server) usesWindow(mode uint32) bool {
	return s.window != 0 && mode&unix.S_IFMT == unix.S_IFREG
}
