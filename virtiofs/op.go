package virtiofs

import (
	"math"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

// handler is the code of one operation.
type handler = func(*Server, *Request) unix.Errno

// handlers has the code of each operation that is served. The others are
// ENOSYS, which Linux takes as "never ask again":
//
//   - POLL and BMAP;
//   - without a DAX window SETUPMAPPING and REMOVEMAPPING;
//   - in a session without POSIX locks FLUSH, because data never waits in this
//     process: each write's error was the write's answer, so close() has nothing
//     to report, and a round trip for every close is saved. The guest still
//     writes back its dirty mappings at close and reports their errors itself;
//   - in a session without locks GETLK, SETLK and SETLKW.
var handlers = [fuse.Opcodes]handler{
	fuse.Init:            (*Server).opInit,
	fuse.Destroy:         (*Server).opDestroy,
	fuse.Interrupt:       (*Server).opInterrupt,
	fuse.Lookup:          (*Server).opLookup,
	fuse.Forget:          (*Server).opForget,
	fuse.BatchForget:     (*Server).opBatchForget,
	fuse.Getattr:         (*Server).opGetattr,
	fuse.Setattr:         (*Server).opSetattr,
	fuse.Statx:           (*Server).opStatx,
	fuse.Readlink:        (*Server).opReadlink,
	fuse.Access:          (*Server).opAccess,
	fuse.Statfs:          (*Server).opStatfs,
	fuse.Syncfs:          (*Server).opSyncfs,
	fuse.Mknod:           (*Server).opMknod,
	fuse.Mkdir:           (*Server).opMkdir,
	fuse.Symlink:         (*Server).opSymlink,
	fuse.Link:            (*Server).opLink,
	fuse.Unlink:          (*Server).opUnlink,
	fuse.Rmdir:           (*Server).opRmdir,
	fuse.Rename:          (*Server).opRename,
	fuse.Rename2:         (*Server).opRename2,
	fuse.Open:            (*Server).opOpen,
	fuse.Create:          (*Server).opCreate,
	fuse.Tmpfile:         (*Server).opTmpfile,
	fuse.Release:         (*Server).opRelease,
	fuse.Read:            (*Server).opRead,
	fuse.Write:           (*Server).opWrite,
	fuse.Fsync:           (*Server).opFsync,
	fuse.Fallocate:       (*Server).opFallocate,
	fuse.Lseek:           (*Server).opLseek,
	fuse.CopyFileRange:   (*Server).opCopyFileRange,
	fuse.CopyFileRange64: (*Server).opCopyFileRange,
	fuse.SetupMapping:    (*Server).opSetupMapping,
	fuse.RemoveMapping:   (*Server).opRemoveMapping,
	fuse.Ioctl:           (*Server).opIoctl,
	fuse.Flush:           (*Server).opFlush,
	fuse.Getlk:           (*Server).opGetlk,
	fuse.Setlk:           (*Server).opSetlk,
	fuse.Setlkw:          (*Server).opSetlkw,
	fuse.Opendir:         (*Server).opOpendir,
	fuse.Releasedir:      (*Server).opReleasedir,
	fuse.Fsyncdir:        (*Server).opFsyncdir,
	fuse.Readdir:         (*Server).opReaddir,
	fuse.Readdirplus:     (*Server).opReaddir,
	fuse.Getxattr:        (*Server).opGetxattr,
	fuse.Listxattr:       (*Server).opListxattr,
	fuse.Setxattr:        (*Server).opSetxattr,
	fuse.Removexattr:     (*Server).opRemovexattr,
}

// node is the node of the request's header.
func (r *Request) node() NodeID { return NodeID(r.hdr.NodeID) }

// file is the open file that the first fixed argument names.
func (r *Request) file() File {
	return File{Node: r.node(), Handle: Handle(fuse.Word64(r.fixed()[:], 0))}
}

// take makes the next n bytes the reply's body, which the caller only writes. They are
// the guest's own where these are in one piece, which saves a copy. check has made sure
// of room for the fixed reply; for more see buffer.
func (r *Request) take(n int) []byte {
	if b := r.out.Direct(fuse.OutHeaderSize, n); b != nil {
		r.data = uint32(n)
		return b
	}
	r.body = n
	return r.reply[fuse.OutHeaderSize : fuse.OutHeaderSize+n]
}

// buffer is scratch memory for a reply of up to size bytes, as far as the guest
// has room for it. r.body says how much of it is sent.
func (r *Request) buffer(size uint32) []byte {
	n := min(int64(size), maxReply, int64(r.room-fuse.OutHeaderSize))
	return r.reply[fuse.OutHeaderSize : fuse.OutHeaderSize+n]
}

// offset checks a file offset or length, which the kernel keeps in a loff_t.
func offset(v uint64) (int64, unix.Errno) {
	if v > math.MaxInt64 {
		return 0, unix.EINVAL
	}
	return int64(v), 0
}

func (s *Server) entryReply(r *Request, e unix.Errno) unix.Errno {
	if e == 0 {
		s.encodeEntry(r.take(fuse.EntryOutSize), &r.entry)
	}
	return e
}

func (s *Server) attrReply(r *Request, e unix.Errno) unix.Errno {
	if e == 0 {
		s.dress(&r.attr)
		fuse.EncodeAttrOut(r.take(fuse.AttrOutSize), &s.attrValid, &r.attr)
	}
	return e
}
