package passthrough

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// key is who an inode is. Its number alone is given to another as soon as it is
// deleted and not held open; with the time of its birth the two are told apart.
type key struct {
	ino   uint64
	btime int64 // ns since the epoch; 0 where it cannot be relied on, see mount.births
	mount *mount
}

func keyOf(st *unix.Statx_t, m *mount) key {
	k := key{ino: st.Ino, mount: m}
	if m.births && st.Mask&unix.STATX_BTIME != 0 {
		k.btime = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return k
}

// inode is one node the guest knows. It owns an O_PATH descriptor only while it
// is used or was used lately: what it holds otherwise is what opens it again, a
// file handle or its parent and name. There can be millions, so it is kept small
// (104 bytes and the address).
type inode struct {
	record

	// refs is 1 for being in the table and 1 for each call that uses the node
	// now, so that no descriptor is closed, and its number given to something
	// else, under a call's feet.
	refs atomic.Int32
	// shifts counts, of a directory, the names that the guest has moved or
	// removed in it.
	shifts atomic.Uint32
}

// record is all of an inode that is read and written under its shard's lock, or by
// those who have pinned it.
type record struct {
	id     virtiofs.NodeID
	key    key
	parent virtiofs.NodeID // the directory it was last seen in; 0: none is known
	addr   address         // its file handle, if it has one, and its name there

	nlookup uint64
	path    int // O_PATH descriptor, -1 while it is closed; read it with fd

	typ  uint32 // S_IFMT part of the mode
	next uint32 // in the chain of the key's bucket, see link
	turn uint32 // 1 + index in Budget.clock; 0: not in it
	seen uint32 // the parent's shifts when the name was noted

	submount bool // a directory on which another file system begins
	graft    bool
	sealed   bool // on a file system of the host's kernel: never opened
	used     bool // since the clock's hand last passed
	kept     bool // never closed before it is forgotten: nothing could open it again
	lost     bool // could not be opened by its parent and name
	dead     bool // forgotten, and still used by a call
	stored   bool // was mapped for writing: its times do not tell all changes
}

// fd is the descriptor that names the inode. The caller has pinned it.
func (n *inode) fd() int { return n.path }

// pin returns the node with its descriptor open, which it stays until unpin. An
// unknown id is ESTALE, and so is an inode that is gone from the host.
func (f *FS) pin(id virtiofs.NodeID) (*inode, unix.Errno) {
	n, open := f.inodes.pin(id)
	if n == nil {
		return nil, unix.ESTALE
	}
	if open {
		return n, 0
	}
	if e := f.wake(n, 0); e != 0 {
		f.inodes.unpin(n)
		return nil, e
	}
	return n, 0
}

func (f *FS) unpin(n *inode) { f.inodes.unpin(n) }

// Stats is how much a guest makes the process hold.
type Stats struct {
	Nodes       int64 // inodes the guest knows beside the root and the grafts
	Descriptors int64 // of these, how many own a descriptor
	Files       int64 // files and directories the guest has opened
}

// Stats counts.
func (f *FS) Stats() Stats {
	return Stats{Nodes: f.inodes.nodes.Load(), Descriptors: f.inodes.open.Load(), Files: f.handles.count()}
}
