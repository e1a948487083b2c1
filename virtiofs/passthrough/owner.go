package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
	"tenon/virtiofs/idmap"
)

// noID is no user's and no group's id; chown(2) takes it for "leave it".
const noID = ^uint32(0)

// guestUID and guestGID are what the guest is told of an owner on the host.
func (f *FS) guestUID(id uint32) uint32 {
	if f.options.IDs == nil {
		return id
	}
	return f.options.IDs.UID.ToGuest(id)
}

// guestGID is described at guestUID.
func (f *FS) guestGID(id uint32) uint32 {
	if f.options.IDs == nil {
		return id
	}
	return f.options.IDs.GID.ToGuest(id)
}

// hostUID and hostGID are an owner on the host that the guest names: EPERM where
// the id is forbidden, EINVAL for what is none.
func (f *FS) hostUID(id uint32) (uint32, unix.Errno) {
	if f.options.IDs == nil {
		return valid(id)
	}
	return toHost(f.options.IDs.UID, id)
}

// hostGID is described at hostUID.
func (f *FS) hostGID(id uint32) (uint32, unix.Errno) {
	if f.options.IDs == nil {
		return valid(id)
	}
	return toHost(f.options.IDs.GID, id)
}

func valid(id uint32) (uint32, unix.Errno) {
	if id == noID {
		return noID, unix.EINVAL
	}
	return id, 0
}

func toHost(m *idmap.Map, id uint32) (uint32, unix.Errno) {
	if id == noID {
		return noID, unix.EINVAL
	}
	host, ok := m.ToHost(id)
	if !ok {
		return noID, unix.EPERM
	}
	return host, 0
}

// newOwner is what chown(2) is to be called with. An id that the node has
// already, as the guest sees it, is left alone: where many ids are one, a guest
// that unpacks an archive or installs a package gives away what it owns to
// whom it is shown as the owner, and this process may not be allowed even that.
// chown(2) still does the rest, such as clearing the set-id bits.
func (f *FS) newOwner(n *inode, in *fuse.SetattrIn) (uid, gid uint32, e unix.Errno) {
	uid, gid = noID, noID
	if in.Valid&fuse.FattrUID != 0 {
		if uid, e = f.hostUID(in.UID); e != 0 {
			return 0, 0, e
		}
	}
	if in.Valid&fuse.FattrGID != 0 {
		if gid, e = f.hostGID(in.GID); e != 0 {
			return 0, 0, e
		}
	}
	if f.options.IDs == nil {
		return uid, gid, 0
	}
	var st unix.Stat_t
	if e := fstat(n.fd(), &st); e != 0 {
		return 0, 0, e
	}
	if uid != noID && f.guestUID(st.Uid) == in.UID {
		uid = noID
	}
	if gid != noID && f.guestGID(st.Gid) == in.GID {
		gid = noID
	}
	return uid, gid, 0
}

// hostGroups appends the groups on the host that the guest names. One that is
// forbidden is left out: nobody asked to create anything for it.
func (f *FS) hostGroups(guest, host []uint32) []uint32 {
	for _, g := range guest {
		if id, e := f.hostGID(g); e == 0 && len(host) < cap(host) {
			host = append(host, id)
		}
	}
	return host
}
