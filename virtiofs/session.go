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
const initFlags = fuse.AsyncRead | fuse.AtomicOTrunc | fuse.BigWrites | fuse.HasIoctlDir |
	fuse.AsyncDIO | fuse.ParallelDirops | fuse.MaxPages | fuse.CacheSymlinks | fuse.Submounts |
	fuse.HandleKillprivV2 | fuse.SetxattrExt | fuse.InitExt | fuse.CreateSuppGroup

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
	in.Decode((*[fuse.InitInSize]byte)(r.fixed[:]))
	if in.Major < fuse.Major || in.Major == fuse.Major && in.Minor < fuse.MinMinor {
		return unix.EPROTO
	}
	s.session.Store(0)
	s.fs.Reset()
	out := fuse.InitOut{Major: fuse.Major, Minor: fuse.Minor}
	if in.Major == fuse.Major {
		// A later major gets nothing but our version, and asks again with it.
		flags := in.Flags & (initFlags | s.policy.InitFlags)
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
		s.session.Store(flags&^sessionOpen | sessionOpen)
	}
	out.Encode(r.take(fuse.InitOutSize))
	return 0
}

// opDestroy ends the session. The guest forgets and releases nothing before it.
func (s *Server) opDestroy(*Request) unix.Errno {
	s.Reset()
	return 0
}
