package virtiofs

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

// Limits in bytes. They bound what one request can make the server copy,
// allocate or ask the host for, whatever sizes the guest names.
const (
	MaxIO       = 1 << 20  // data of one READ or WRITE; init_out.max_write
	maxVariable = 68 << 10 // names, extensions and the value of SETXATTR (XATTR_SIZE_MAX is 64 KiB)
	maxReply    = 64 << 10 // replies that pass through scratch: entries, attribute values, listings
	dirScratch  = 32 << 10
	maxFixed    = 128
	firstArgs   = 40           // taken with the header: READ's and WRITE's arguments, most short names
	maxRequest  = MaxIO + 4096 // the longest request: WRITE
)

// Options is how a Server serves.
type Options struct {
	Policy    Policy // the zero Policy stands for Auto()
	Writeback bool   // the guest may delay writes (FUSE_WRITEBACK_CACHE)
	Locks     bool   // locks are the FS's; otherwise they are local to the guest
	ACL       bool   // POSIX ACLs (FUSE_POSIX_ACL), applied by the FS
	Labels    bool   // security attributes of new inodes come with the request (FUSE_SECURITY_CTX)
	DAX       DAX    // which files the guest maps, where the FS has a window
	// DAXMinSize is the size in bytes from which DAXInode marks files.
	DAXMinSize uint64
	Observer   Observer // nil: none
}

// DAX chooses the files that a guest uses through the window instead of its page
// cache, unless its mount options say otherwise.
type DAX uint8

const (
	DAXNever  DAX = iota // no window is shown
	DAXInode             // regular files from a size on, each marked by FUSE_ATTR_DAX
	DAXAlways            // every regular file
)

// Observer is told of every request that was answered, on the thread that
// served it: it must not block. op may be one that is not Known.
type Observer interface {
	Served(op fuse.Opcode, node NodeID, e unix.Errno, written uint32)
}

// Server answers FUSE requests from one file system: it decodes, checks, calls
// the FS and encodes. It makes no system calls, keeps no queue and starts no
// goroutine. A Server is safe for concurrent use with a Request for each call.
type Server struct {
	fs      FS
	options Options
	// epoch is the generation of this server's nodes, see Server.generation.
	epoch uint64
	// session is the flags that INIT agreed on, with sessionOpen; 0 without a session.
	session  atomic.Uint64
	unlocked atomic.Uint64 // see Unlocked
	backlog  backlog
	window   uint64 // bytes of the DAX window; 0: nothing is mapped
	readOnly bool
	handlers [fuse.Opcodes]handler // of what is served
	// How long a guest may trust names, attributes and that a name is missing, as the
	// policy says.
	entryValid, attrValid, negative fuse.Timeout
}

// sessionOpen marks Server.session as an open session. It is a bit that no INIT
// flag has (FUSE_INIT_RESERVED).
const sessionOpen uint64 = 1 << 31

// NewServer returns a server for the file system, which it owns from now on.
func NewServer(fs FS, o Options) *Server {
	if o.Policy == (Policy{}) {
		o.Policy = Auto()
	}
	s := &Server{
		fs: fs, options: o, epoch: uint64(rand.Uint32N(math.MaxInt32-1) + 1),
		readOnly: fs.ReadOnly(), handlers: handlers,
	}
	s.backlog.epoch = time.Now()
	s.entryValid, s.attrValid = timeout(o.Policy.EntryValid), timeout(o.Policy.AttrValid)
	s.negative = timeout(o.Policy.Negative)
	if o.DAX != DAXNever {
		s.window = fs.WindowSize()
	}
	if s.window == 0 {
		s.handlers[fuse.SetupMapping], s.handlers[fuse.RemoveMapping] = nil, nil
	}
	return s
}

// Request is one request being served: the scratch memory that serving needs.
// Make one for each place that serves and use it for one Serve at a time.
type Request struct {
	// MayBlock lets Serve wait for storage. A vCPU's own thread leaves it false.
	MayBlock bool
	// NoWait refuses a lock that would have to be waited for (ENOLCK): the caller
	// has no place to keep the request. Kept says that it was kept already.
	NoWait, Kept bool

	in, out Cursor
	hdr     fuse.InHeader
	row     *fuse.Op
	dots    int  // LOOKUP: 1 for ".", 2 for "..", else 0
	rest    int  // bytes of the request that are not consumed yet
	taken   int  // bytes behind the header that are in text already
	room    int  // bytes of the writable part
	later   bool // see postpone
	never   bool // see unserved

	caller  Caller
	names   [2]CString
	payload []byte // what follows the names
	data    uint32 // bytes of the reply that are in the guest's memory already
	body    int    // bytes of the reply in reply[fuse.OutHeaderSize:]

	entry  Entry
	attr   fuse.Attr
	setin  fuse.SetattrIn
	lock   Lock
	statfs unix.Statfs_t
	statx  unix.Statx_t
	dir    Dirents

	groups [MaxGroups]uint32
	labels [maxLabels]Label
	// Without pointers and last, so that the garbage collector passes them over.
	text  [fuse.InHeaderSize + maxFixed + maxVariable]byte // the request without its payload
	reply [fuse.OutHeaderSize + maxReply]byte
}

// NewRequest allocates a request with all its scratch memory (about 170 KiB, of
// which only what requests have needed becomes resident).
func NewRequest() *Request {
	return &Request{dir: Dirents{Scratch: make([]byte, dirScratch)}}
}

// Serve answers the request in the readable part in with a reply in the
// writable part out and returns the reply's length, which is the used length
// of the chain: 0 for requests that have no reply. It never panics, whatever
// the bytes are. Both parts stand at their first byte.
//
// again says that the request was left alone: nothing was done, and nothing
// written but perhaps data of a READ. Without r.MayBlock it may wait, and the
// caller serves it once more with r.MayBlock set, elsewhere. With r.MayBlock it
// waits for a lock (SETLKW), for which no thread is to be held: the caller keeps
// it and serves it once more each time that Unlocked has risen, and now and then
// for the sake of locks that others hold, until it is answered. Reset, INIT and
// DESTROY end the wait.
func (s *Server) Serve(r *Request, in, out Cursor) (written uint32, again bool) {
	r.in, r.out = in, out
	r.body, r.data, r.dots = 0, 0, 0
	r.later, r.never = false, false
	r.rest, r.room = in.Len()-fuse.InHeaderSize, out.Len()
	if r.rest < 0 {
		return 0, false // nothing to answer to
	}
	if r.begin() != nil { // what it was shall not look like a success
		r.hdr = fuse.InHeader{}
		return r.finish(unix.EIO), false
	}
	r.hdr.Decode((*[fuse.InHeaderSize]byte)(r.text[:]))
	r.row = fuse.Row(r.hdr.Opcode)
	e := s.check(r)
	if e == 0 {
		if r.row.MayBlock && !r.MayBlock {
			return 0, true
		}
		e = s.handlers[r.hdr.Opcode](s, r)
		if r.later {
			return 0, true
		}
		if e == unix.ENOSYS && !r.never {
			e = unix.EOPNOTSUPP
		}
	}
	if !r.row.NoReply {
		written = r.finish(e)
	}
	if s.options.Observer != nil {
		s.options.Observer.Served(r.hdr.Opcode, r.node(), e, written)
	}
	return written, false
}

// postpone is for a handler that has done nothing: the request is to be served
// again, where it may block or when its lock may be free. EAGAIN alone does not
// say so: the host too may give it, for what is done already and must not be done
// twice.
func (r *Request) postpone() unix.Errno {
	r.later = true
	return unix.EAGAIN
}

// unserved answers what the guest is never to ask for again. The host's ENOSYS must
// not say so: a file system below the share that lacks an operation would take it
// from all the others.
func (r *Request) unserved() unix.Errno {
	r.never = true
	return unix.ENOSYS
}

// finish writes the reply's header, and what the handler left in reply and not in the
// guest's memory.
func (r *Request) finish(e unix.Errno) uint32 {
	if e != 0 {
		r.body, r.data = 0, 0
	}
	n := fuse.OutHeaderSize + r.body
	h := fuse.OutHeader{Len: uint32(n) + r.data, Error: -int32(e), Unique: r.hdr.Unique}
	if r.body == 0 {
		if b := r.out.Direct(0, fuse.OutHeaderSize); b != nil {
			h.Encode(b)
			return h.Len
		}
	}
	h.Encode(r.reply[:])
	if r.room < n || r.out.Put(r.reply[:n]) != nil {
		return 0 // the guest gave no room even for an error
	}
	return h.Len
}

// Reset ends the session: every node and handle is dropped, and the next
// request must be INIT. For a device reset; nothing may be in Serve.
func (s *Server) Reset() {
	s.session.Store(0)
	s.fs.Reset()
	s.unlocked.Add(1)
}

// Close ends the session and closes the file system.
func (s *Server) Close() error {
	s.Reset()
	return s.fs.Close()
}
