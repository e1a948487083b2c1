package virtiofs

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

// NodeID names one inode within a session. The root is fuse.RootID; other ids
// are the file system's own and are never given out twice.
type NodeID uint64

// Handle names one open file or directory within a session; never 0.
type Handle uint64

// File is an open file or directory together with the node the guest says it
// belongs to. A handle of another node is EBADF.
type File struct {
	Node   NodeID
	Handle Handle
}

// MaxGroups is how many supplementary groups a request can carry here.
const MaxGroups = 32

// Caller is the guest's process on whose behalf a node is created. Ids are the
// guest's file system ids.
type Caller struct {
	UID, GID, PID uint32
	Groups        []uint32 // supplementary groups that matter for this request
	// Umask is taken off the mode of what is created unless the directory has a
	// default ACL; 0 where the guest has applied it already (no FUSE_DONT_MASK).
	Umask  uint32
	Labels []Label // set on what is created (FUSE_SECURITY_CTX)
}

// Label is one security attribute that a guest gives a new inode.
type Label struct {
	Name  CString
	Value []byte
}

// Entry is the answer to everything that finds or makes a node; the node's
// lookup count has risen by one.
type Entry struct {
	Node       NodeID
	Generation uint64
	Attr       fuse.Attr // AttrDAX here: the file can be mapped
}

// FS is a file system behind a Server. All names are checked already, all
// sizes are bounded, all pointers point to scratch memory that is valid during
// the call only. Methods are called concurrently, also for the same node or
// handle and also for ones that do not exist: unknown nodes are ESTALE, unknown
// handles EBADF. Every method answers with the errno the guest's process sees.
type FS interface {
	Volume
	Nodes
	Names
	Files
	Dirs
	Xattrs
	Locks
	Ioctls
	Mapper
}

// Volume is the file system as a whole.
type Volume interface {
	// ReadOnly says that the server must refuse every change. It is asked once.
	ReadOnly() bool
	Statfs(n NodeID, s *unix.Statfs_t) unix.Errno
	// Syncfs writes back the file system that holds the node.
	Syncfs(n NodeID) unix.Errno
	// Reset drops every handle and every node but the root.
	Reset()
	Close() error
}

// Nodes is what can be asked of an inode.
type Nodes interface {
	Lookup(parent NodeID, name Name, e *Entry) unix.Errno
	// Self counts a lookup of the node itself, which a guest calls "."; Parent
	// one of the directory it is in, "..", which for the root is the root.
	Self(n NodeID, e *Entry) unix.Errno
	Parent(n NodeID, e *Entry) unix.Errno
	// Forget takes count off the node's lookup count, not below zero; a node
	// that reaches it is dropped.
	Forget(n NodeID, count uint64)
	// Getattr asks the node; the handle may be 0, and is of use where the node
	// cannot be reached by itself any more. AttrDAX is as in an Entry.
	Getattr(f File, a *fuse.Attr) unix.Errno
	Setattr(n NodeID, in *fuse.SetattrIn, a *fuse.Attr) unix.Errno
	Statx(f File, mask uint32, st *unix.Statx_t) unix.Errno // as Getattr
	// Readlink returns the length of the target, cut off at len(buf).
	Readlink(n NodeID, buf []byte) (int, unix.Errno)
	Access(c *Caller, n NodeID, mask uint32) unix.Errno
}

// Names is what changes directories.
type Names interface {
	Mknod(c *Caller, parent NodeID, name Name, mode, rdev uint32, e *Entry) unix.Errno
	Mkdir(c *Caller, parent NodeID, name Name, mode uint32, e *Entry) unix.Errno
	Symlink(c *Caller, parent NodeID, name Name, target CString, e *Entry) unix.Errno
	Link(n, parent NodeID, name Name, e *Entry) unix.Errno
	Unlink(parent NodeID, name Name) unix.Errno
	Rmdir(parent NodeID, name Name) unix.Errno
	Rename(parent NodeID, name Name, newParent NodeID, newName Name, flags uint32) unix.Errno
}

// OpenFlags is how a file is to be opened: the flags of open(2), and whether
// a truncation by O_TRUNC takes the set-user-id and set-group-id bits with it.
type OpenFlags struct {
	Flags       uint32
	KillSuidgid bool
	// KillStored takes these bits when the file is opened for writing and is mapped
	// for that already: the stores to come send no WRITE that could take them.
	KillStored bool
	Compare    bool // tell whether the contents changed since the last close
}

// WriteFlags is how data is to be written.
type WriteFlags struct {
	Append      bool   // at the end, wherever the offset points
	Sync        uint32 // O_SYNC or O_DSYNC: stored before the answer; 0: not
	KillSuidgid bool   // drop the set-user-id and set-group-id bits first
}

// ReadFlags is how a READ is to be made.
type ReadFlags struct {
	MayBlock bool // it may wait for storage; otherwise EAGAIN is the answer
	Window   bool // some of the buffers may lie in a DAX window
}

// Files is what can be done to open regular files.
type Files interface {
	// Open says with f.Compare whether the contents are for certain the same as
	// when the node's last handle was released, else unchanged is false.
	Open(n NodeID, f OpenFlags) (h Handle, unchanged bool, e unix.Errno)
	Create(c *Caller, parent NodeID, name Name, mode uint32, f OpenFlags, e *Entry) (Handle, unix.Errno)
	// Tmpfile creates a file without a name in the directory's file system.
	Tmpfile(c *Caller, parent NodeID, mode uint32, f OpenFlags, e *Entry) (Handle, unix.Errno)
	Release(f File) unix.Errno
	// Read is one preadv(2): it may return less than asked, also before the end.
	Read(f File, to []unix.Iovec, off int64, r ReadFlags) (int, unix.Errno)
	// Write is one pwritev(2): it may write less than asked.
	Write(f File, from []unix.Iovec, off int64, w WriteFlags) (int, unix.Errno)
	Fsync(f File, dataOnly bool) unix.Errno
	// Fallocate and CopyFileRange clear the set-id bits first if told to kill them.
	Fallocate(f File, mode uint32, off, n int64, kill bool) unix.Errno
	// Lseek finds data or holes: whence is SEEK_DATA or SEEK_HOLE.
	Lseek(f File, off int64, whence uint32) (int64, unix.Errno)
	CopyFileRange(from File, fromOff int64, to File, toOff int64, n uint64, kill bool) (int, unix.Errno)
}

// Dirs is what can be done to open directories.
type Dirs interface {
	Opendir(n NodeID) (Handle, unix.Errno)
	Releasedir(f File) unix.Errno
	Fsyncdir(f File, dataOnly bool) unix.Errno
	// Readdir adds the entries from the cookie on until d is full; it adds none
	// at the directory's end.
	Readdir(f File, cookie uint64, d *Dirents) unix.Errno
}

// Xattrs is the extended attributes of an inode.
type Xattrs interface {
	// Getxattr and Listxattr answer with the size when buf is empty and with
	// ERANGE when it is too small.
	Getxattr(n NodeID, name CString, buf []byte) (int, unix.Errno)
	Listxattr(n NodeID, buf []byte) (int, unix.Errno)
	// Setxattr takes the set-group-id bit off the node, if told to kill it, when
	// the ACL that decides about access is set.
	Setxattr(n NodeID, name CString, value []byte, flags uint32, killSgid bool) unix.Errno
	Removexattr(n NodeID, name CString) unix.Errno
}

// Lock is one advisory lock (fuse_file_lock).
type Lock struct {
	Owner      uint64 // who holds it among the guest's processes; of no account with Flock
	Start, End uint64 // bytes, the last one included; End 1<<63-1 is the end of the file
	Type       uint32 // F_RDLCK, F_WRLCK or F_UNLCK
	PID        uint32
	Flock      bool // of flock(2): the whole file, and held by the open file
}

// Locks is advisory locks that hold against other guests and the host.
type Locks interface {
	// Getlk exchanges l for a lock that is in its way, or sets its Type to F_UNLCK.
	Getlk(f File, l *Lock) unix.Errno
	// Setlk takes or drops a lock. It never waits: EAGAIN is another's lock.
	Setlk(f File, l *Lock) unix.Errno
	// Flush drops the owner's locks on the node but those of flock(2), as every
	// close(2) of a file by that owner does.
	Flush(f File, owner uint64) unix.Errno
}

// Ioctls is the ioctl(2) commands that mean something on a file of the host.
type Ioctls interface {
	// Ioctl runs a command on an open file or directory; in is the argument's
	// bytes and out has room for the answer, whose length it returns. ENOTTY is
	// a command that is not known.
	Ioctl(f File, dir bool, cmd uint32, in, out []byte) (int, unix.Errno)
}

// Mapper is the DAX window: memory of the guest in which pieces of files are
// shown (virtio 1.3 §5.11.6.4).
type Mapper interface {
	// WindowSize is the window's length in bytes, a multiple of 2 MiB, which never
	// changes; 0: there is none, and the others are never called.
	WindowSize() uint64
	// Map shows a piece of the node's file in the window, in the place of what it
	// showed there.
	Map(n NodeID, m Mapping) unix.Errno
	// Unmap takes away what the window shows at an offset of it. What it is told
	// obeys the rules of a Mapping.
	Unmap(at, length uint64) unix.Errno
	// Refuse counts a mapping that the server has refused.
	Refuse()
}

// Mapping is a piece of a file and its place in the window. The numbers are
// bytes, multiples of 4096, and the place is inside the window.
type Mapping struct {
	Offset uint64 // in the file; the piece may reach beyond its end
	At     uint64 // in the window
	Len    uint64
	Write  bool // the guest may store
	// KillSuidgid drops the set-user-id and set-group-id bits first: no WRITE
	// comes that would.
	KillSuidgid bool
}
