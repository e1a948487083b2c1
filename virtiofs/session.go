package virtiofs

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

// initFlags is what every session takes of what its guest offers.
//
//   - HandleKillprivV2 lets the guest write without asking for
//     security.capability each time; the FS clears the bits when told.
//   - MaxPages and BigWrites make requests of 1 MiB possible.
//   - CacheSymlinks is safe under every policy: a link's target never changes,
//     another target is another inode.
//   - ExportSupport costs nothing until a guest exports the file system or asks
//     for a file handle.
const initFlags = fuse.AsyncRead | fuse.AtomicOTrunc | fuse.ExportSupport | fuse.BigWrites |
	fuse.HasIoctlDir | fuse.AsyncDIO | fuse.ParallelDirops | fuse.MaxPages | fuse.CacheSymlinks |
	fuse.Submounts | fuse.HandleKillprivV2 | fuse.SetxattrExt | fuse.InitExt | fuse.CreateSuppGroup

// aclFlags come together or not at all: without DontMask the guest has taken
// the umask off where a default ACL should have stood in for it, and without
// SetxattrExt an ACL that must take the set-group-id bit does not say so.
const aclFlags = fuse.PosixACL | fuse.DontMask | fuse.SetxattrExt

// extMinor is the first minor in which a request says where its creation
// extensions begin (fuse_in_header.total_extlen).
const extMinor = 38

// Numbers of the INIT reply. The background limits are far above Linux's
// default of 12, which would hold back readahead and asynchronous I/O.
const (
	maxBackground = 1024 // requests
	congestion    = 768  // requests
	maxPages      = MaxIO / 4096
)

// opInit opens a session. A guest that never said goodbye (reboot, crash of its
// kernel) begins with INIT too, so whatever an earlier session left is dropped.
func (s *Server) opInit(r *Request) unix.Errno {
	var in fuse.InitIn
	in.Decode((*[fuse.InitInSize]byte)(r.fixed()[:]))
	if in.Major < fuse.Major || in.Major == fuse.Major && in.Minor < fuse.MinMinor {
		return unix.EPROTO
	}
	s.session.Store(0)
	s.fs.Reset()
	out := fuse.InitOut{Major: fuse.Major, Minor: fuse.Minor}
	if in.Major == fuse.Major {
		// A later major gets nothing but our version, and asks again with it.
		flags := s.agree(in.Flags, in.Minor)
		out = fuse.InitOut{
			Major:         fuse.Major,
			Minor:         min(in.Minor, fuse.Minor),
			MaxReadahead:  in.MaxReadahead,
			Flags:         flags,
			MaxBackground: maxBackground,
			Congestion:    congestion,
			MaxWrite:      MaxIO,
			TimeGran:      1,
			MaxPages:      maxPages,
		}
		if flags&fuse.MapAlignment != 0 {
			out.MapAlignment = mapAlignment
		}
		s.session.Store(flags&^sessionOpen | sessionOpen)
	}
	out.Encode(r.take(fuse.InitOutSize))
	return 0
}

// agree picks what this session takes of the flags that a guest offers.
func (s *Server) agree(offered uint64, minor uint32) uint64 {
	o := &s.options
	take := initFlags | o.Policy.InitFlags
	if o.Writeback {
		take |= fuse.WritebackCache
	}
	if o.Locks {
		take |= fuse.PosixLocks | fuse.FlockLocks
	}
	if o.ACL && offered&aclFlags == aclFlags {
		take |= aclFlags
	}
	if o.Labels && minor >= extMinor {
		take |= fuse.SecurityCtx
	}
	if s.window != 0 && offered&fuse.MapAlignment != 0 {
		// A guest that found no window offers HAS_INODE_DAX alone, and would not keep
		// the names of files that are marked for it (fuse_dax_dontcache).
		take |= fuse.MapAlignment | fuse.HasInodeDAX
	}
	if o.Policy.NoOpen && s.readOnly {
		take |= fuse.NoOpendirSupport
		if !o.Locks { // a lock of flock(2) is held by an open file
			take |= fuse.NoOpenSupport
		}
	}
	flags := offered & take
	if flags&fuse.NoOpenSupport != 0 {
		// Without an OPEN to carry O_TRUNC the guest must send SETATTR, or a
		// truncation would be lost in silence instead of being EROFS.
		flags &^= fuse.AtomicOTrunc
	}
	return flags
}

// agreed reports whether the session has the INIT flag.
func (s *Server) agreed(flag uint64) bool { return s.session.Load()&flag != 0 }

// opDestroy ends the session. The guest forgets and releases nothing before it.
func (s *Server) opDestroy(*Request) unix.Errno {
	s.Reset()
	return 0
}
