package virtiofs

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

func (s *Server) opOpen(r *Request) unix.Errno {
	var in fuse.OpenIn
	in.Decode(r.fixed()[:])
	if s.agreed(fuse.NoOpenSupport) {
		return r.unserved() // the guest goes on with handle 0, and does not ask again
	}
	f := s.openFlags(in.Flags, in.OpenFlags)
	f.KillStored = r.killsSuidgid()
	h, unchanged, e := s.fs.Open(r.node(), f)
	if e != 0 {
		return e
	}
	reply := s.options.Policy.OpenFlags
	if unchanged {
		reply |= fuse.OpenKeepCache
	}
	fuse.EncodeOpenOut(r.take(fuse.OpenOutSize), uint64(h), reply)
	return 0
}

// largeFile is O_LARGEFILE of open(2) on x86-64, which has no name in x/sys as
// the kernel sets it by itself.
const largeFile = 0x8000

// openFlags is what the FS is told of flags, which are open(2)'s, and of open,
// which are the request's own.
//
// Linux also opens a file for itself, to get at the file's flags
// (fuse_priv_ioctl_prepare): then it keeps what it has cached, whatever the reply
// says, so this open must not count as the one after which that is up to date. It
// has no O_LARGEFILE.
func (s *Server) openFlags(flags, open uint32) OpenFlags {
	return OpenFlags{
		Flags:       flags,
		KillSuidgid: open&fuse.OpenKillSuidgid != 0,
		Compare:     s.options.Policy.Compare && flags&largeFile != 0,
	}
}

func (s *Server) opCreate(r *Request) unix.Errno {
	mode, f := s.createArgs(r)
	h, e := s.fs.Create(&r.caller, r.node(), r.name(0), mode, f, &r.entry)
	return s.createReply(r, h, e)
}

func (s *Server) opTmpfile(r *Request) unix.Errno {
	mode, f := s.createArgs(r)
	h, e := s.fs.Tmpfile(&r.caller, r.node(), mode, f, &r.entry)
	return s.createReply(r, h, e)
}

func (s *Server) createArgs(r *Request) (mode uint32, f OpenFlags) {
	var in fuse.CreateIn
	in.Decode(r.fixed()[:])
	return in.Mode, s.openFlags(in.Flags, in.OpenFlags)
}

func (s *Server) createReply(r *Request, h Handle, e unix.Errno) unix.Errno {
	if e == 0 {
		b := r.take(fuse.EntryOutSize + fuse.OpenOutSize)
		s.encodeEntry(b, &r.entry)
		fuse.EncodeOpenOut(b[fuse.EntryOutSize:], uint64(h), s.options.Policy.OpenFlags)
	}
	return e
}

// opRead lets the host's kernel write into guest memory. A short answer means
// end of file to the guest, so it reads on until the buffer is full or the file
// has ended.
func (s *Server) opRead(r *Request) unix.Errno {
	var in fuse.ReadIn
	in.Decode(r.fixed()[:])
	off, e := offset(in.Offset)
	if e != 0 {
		return e
	}
	if in.Size > MaxIO || int(in.Size) > r.room-fuse.OutHeaderSize {
		return unix.EINVAL
	}
	f := ReadFlags{MayBlock: r.MayBlock, Window: r.out.InWindow()}
	for r.data < in.Size {
		n, e := s.fs.Read(r.file(), r.out.Rest(fuse.OutHeaderSize+int(r.data), in.Size-r.data), off+int64(r.data), f)
		if e == unix.EAGAIN && !r.MayBlock {
			return r.postpone()
		}
		if e != 0 {
			return e
		}
		if n <= 0 {
			break
		}
		r.data += uint32(n)
	}
	return 0
}

// opWrite lets the host's kernel read guest memory. What fails half way answers
// with what was written. Any length is written at once, as a READ is answered at once
// from the page cache, unless the host is slow of late: workers that write to one file
// at the same time wait for each other, which takes twice as long.
func (s *Server) opWrite(r *Request) unix.Errno {
	var in fuse.WriteIn
	in.Decode(r.fixed()[:])
	off, e := offset(in.Offset)
	if e != 0 {
		return e
	}
	if in.Size > MaxIO || int(in.Size) > r.rest {
		return unix.EINVAL
	}
	if !r.MayBlock && (in.Flags&(unix.O_SYNC|unix.O_DSYNC) != 0 || s.backlog.grown()) {
		return r.postpone()
	}
	if in.Size >= timedWrite {
		defer s.backlog.end(s.backlog.begin())
	}
	f := WriteFlags{
		Append: s.appends(&in), Sync: s.syncs(in.Flags),
		KillSuidgid: in.WriteFlags&fuse.WriteKillSuidgid != 0,
	}
	var done uint32
	for done < in.Size {
		n, e := s.fs.Write(r.file(), r.in.Rest(int(done), in.Size-done), off+int64(done), f)
		if e != 0 && done == 0 {
			return e
		}
		if e != 0 || n <= 0 {
			break
		}
		done += uint32(n)
	}
	b := r.take(int(r.row.Out))
	fuse.PutWord32(b, 0, done)
	fuse.PutWord32(b, 1, 0)
	return 0
}

// appends says whether the host is to find a write's place, so that what several
// machines append does not land on itself. The guest's offset is right
//   - for a delayed write, which comes from its page cache through any of the
//     node's handles: its flags mean nothing;
//   - under a writeback cache, where the file ends later than the host knows, as
//     pages before the end are still in the guest;
//   - with O_DIRECT, as Linux sends the parts of one write at the same time
//     (fuse_direct_IO), unless the policy has all data bypass the page cache.
func (s *Server) appends(in *fuse.WriteIn) bool {
	switch {
	case in.Flags&unix.O_APPEND == 0, in.WriteFlags&fuse.WriteCache != 0, s.agreed(fuse.WritebackCache):
		return false
	case in.Flags&unix.O_DIRECT != 0:
		return s.bypass()
	}
	return true
}

// bypass says that data goes past the guest's page cache.
func (s *Server) bypass() bool { return s.options.Policy.OpenFlags&fuse.OpenDirectIO != 0 }

// syncs is O_SYNC or O_DSYNC where the write itself has to keep that promise. The
// file may have been opened without: RWF_DSYNC of pwritev2(2) and a mount with -o
// sync show in the request alone. After a write to its page cache Linux sends
// FSYNC, after one past it nothing (fuse_direct_write_iter; fuse_cache_write_iter
// where it is O_DIRECT and asynchronous).
func (s *Server) syncs(flags uint32) uint32 {
	if flags&unix.O_DIRECT == 0 && !s.bypass() {
		return 0
	}
	return flags & unix.O_SYNC
}

func (s *Server) opFsync(r *Request) unix.Errno {
	return s.fs.Fsync(r.file(), fuse.FsyncFlags(r.fixed()[:])&fuse.FsyncDatasync != 0)
}

// killsSuidgid says whether a change of contents takes the set-id bits where the
// protocol has no flag for it: whenever the caller is not root, which is as near
// to "lacks CAP_FSETID" as a server can know.
func (r *Request) killsSuidgid() bool { return r.hdr.UID != 0 }

func (s *Server) opFallocate(r *Request) unix.Errno {
	var in fuse.FallocateIn
	in.Decode(r.fixed()[:])
	off, e := offset(in.Offset)
	if e != 0 {
		return e
	}
	n, e := offset(in.Length)
	if e != 0 {
		return e
	}
	if in.Mode&^fallocateModes != 0 {
		return unix.EOPNOTSUPP
	}
	return s.fs.Fallocate(r.file(), in.Mode, off, n, r.killsSuidgid())
}

// fallocateModes is what Linux's FUSE asks for. The other modes move data about,
// of which the guest's page cache would learn nothing.
const fallocateModes = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE

// opLseek serves the two questions that only the host can answer; the guest
// keeps file positions itself.
func (s *Server) opLseek(r *Request) unix.Errno {
	var in fuse.LseekIn
	in.Decode(r.fixed()[:])
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return unix.EINVAL
	}
	off, e := offset(in.Offset)
	if e != 0 {
		return unix.ENXIO // as the host's file systems for what is before the start
	}
	pos, e := s.fs.Lseek(r.file(), off, in.Whence)
	if e == 0 {
		fuse.PutWord64(r.take(int(r.row.Out)), 0, uint64(pos))
	}
	return e
}

// opCopyFileRange serves both opcodes: the 32-bit one answers with the low word
// and padding, and is bounded so that nothing is lost in it.
func (s *Server) opCopyFileRange(r *Request) unix.Errno {
	var in fuse.CopyFileRangeIn
	in.Decode(r.fixed()[:])
	from, e := offset(in.OffIn)
	if e != 0 {
		return e
	}
	to, e := offset(in.OffOut)
	if e != 0 || in.CopyFlags != 0 {
		return unix.EINVAL
	}
	dst := File{Node: NodeID(in.NodeIDOut), Handle: Handle(in.FHOut)}
	n, e := s.fs.CopyFileRange(r.file(), from, dst, to, min(in.Len, maxCopy), r.killsSuidgid())
	if e == 0 {
		fuse.PutWord64(r.take(int(r.row.Out)), 0, uint64(n))
	}
	return e
}

// maxCopy is how many bytes one COPY_FILE_RANGE copies at most: a guest asks
// again for the rest, and a pool's thread is not held for minutes.
const maxCopy = 64 << 20
