package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/dax"
)

// Mappings keep their file alive, not open: a descriptor is only needed to make
// one. FS.mapped keeps those of the files that were mapped last, for Linux maps a
// file range by range.

var _ dax.Files = (*FS)(nil)

// WindowSize implements virtiofs.Mapper.
func (f *FS) WindowSize() uint64 {
	if f.window == nil {
		return 0
	}
	return f.window.Size()
}

// Map implements virtiofs.Mapper.
func (f *FS) Map(id virtiofs.NodeID, m virtiofs.Mapping) unix.Errno {
	h, e := f.mappable(id, m.Write)
	if e != 0 {
		return f.refused(e)
	}
	defer f.unmappable(h)
	if m.Write {
		f.inodes.store(id)
		if e := f.stripStored(h.fd, m.KillSuidgid); e != 0 {
			return f.refused(e)
		}
	}
	return f.window.Map(h.fd, dax.Mapping{File: uint64(id), Offset: m.Offset, At: m.At, Len: m.Len, Write: m.Write})
}

// refused counts what may not be done with a file, and no other error.
func (f *FS) refused(e unix.Errno) unix.Errno {
	switch e {
	case unix.EROFS, unix.EACCES, unix.EPERM, unix.ETXTBSY:
		f.window.Refuse()
	}
	return e
}

// Unmap implements virtiofs.Mapper.
func (f *FS) Unmap(at, length uint64) unix.Errno { return f.window.Unmap(at, length) }

// Refuse implements virtiofs.Mapper.
func (f *FS) Refuse() { f.window.Refuse() }

// mappable returns the node's file, open for reading and with write for writing
// too, until unmappable. For reading it is never opened for both: a file of which
// this process may only read, or which runs, could not be.
func (f *FS) mappable(id virtiofs.NodeID, write bool) (*handle, unix.Errno) {
	if h := f.mapped.pin(id); h != nil {
		if h.writable || !write {
			return h, 0
		}
		f.handles.unpin(h)
	}
	h, e := f.openMappable(id, write)
	if e != 0 && mayBeOpen(e) {
		if h := f.handles.mappable(id, write); h != nil {
			return h, 0
		}
	}
	return h, e
}

// openMappable is mappable for a file that is not in the table.
func (f *FS) openMappable(id virtiofs.NodeID, write bool) (*handle, unix.Errno) {
	n, e := f.pin(id)
	if e != 0 {
		return nil, e
	}
	defer f.unpin(n)
	charged := f.budget.take()
	fd, e := f.openToMap(n, write)
	switch {
	case e != 0 && charged:
		f.budget.give()
		return nil, e
	case e != 0:
		return nil, e
	}
	h := &handle{fd: fd, node: id, writable: write, passing: !charged}
	if !charged {
		return h, 0
	}
	h.refs.Store(2) // the table's and the caller's
	h, old := f.mapped.add(h)
	if old != nil {
		f.handles.unpin(old)
	}
	return h, 0
}

// unmappable ends the use of what mappable returned.
func (f *FS) unmappable(h *handle) {
	if h.passing {
		closeFD(h.fd)
		return
	}
	f.handles.unpin(h)
}

// openToMap opens the node as a mapping needs it.
func (f *FS) openToMap(n *inode, write bool) (int, unix.Errno) {
	if n.typ == unix.S_IFDIR {
		return -1, unix.EISDIR
	}
	if write {
		return f.reopen(n, unix.O_RDWR)
	}
	return f.reopen(n, unix.O_RDONLY)
}

const (
	mapsYes = 1
	mapsNo  = 2
)

// maps says that files of the volume can be mapped, for all that is known: some file
// systems, of a network or in user space, have no mappings that are shared (ENODEV),
// and overlayfs none that would stay with the file. The first file that can be opened
// tells for all of them.
func (f *FS) maps(m *mount, id virtiofs.NodeID) bool {
	if m == nil {
		return true
	}
	if known := m.maps.Load(); known != 0 {
		return known == mapsYes
	}
	n, e := f.pin(id)
	if e != 0 {
		return true
	}
	defer f.unpin(n)
	fd, e := f.reopen(n, unix.O_RDONLY|unix.O_NONBLOCK) // a lease on the host is not waited for
	if e != 0 {
		return true
	}
	defer closeFD(fd)
	answer := int32(mapsYes)
	if !mapsShared(fd) {
		answer = mapsNo
	}
	m.maps.Store(answer)
	return answer == mapsYes
}

// mapsShared makes a mapping of an open file, and drops it unseen.
//
// Of a file that an overlayfs has in a lower layer, a mapping, and each that is made
// later by the same open file, shows what the file was for ever, once anybody has
// opened it for writing ("Non-standard behavior" in overlayfs.rst). Programs do not
// keep files open for long; a guest does.
func mapsShared(fd int) bool {
	// A file of hugetlbfs the window refuses.
	var fs unix.Statfs_t
	if fstatfs(fd, &fs) == 0 && (fs.Type == unix.OVERLAYFS_SUPER_MAGIC || fs.Type == unix.HUGETLBFS_MAGIC) {
		return false
	}
	b, err := unix.Mmap(fd, 0, dax.PageSize, unix.PROT_READ, unix.MAP_SHARED)
	if err == nil {
		_ = unix.Munmap(b)
	}
	return err != unix.ENODEV
}

// stripStored takes from an open file, before the guest can store to it, what a
// file loses when its contents change. The kernel takes nothing off at stores
// through a mapping, nor at the mapping.
func (f *FS) stripStored(fd int, kill bool) unix.Errno {
	var path fdPath
	at := path.absolute(fd)
	if e := dropKernelCapability(at); e != 0 {
		return e
	}
	if f.xattrs.moved {
		if e := f.xattrs.dropCapability(at); e != 0 {
			return e
		}
	}
	if !kill {
		return 0
	}
	return dropSuidgid(fd)
}

// dropKernelCapability is xattrs.dropCapability for the host's own name. Anyone can
// read the attribute, and removing it takes a right even where it is not there.
func dropKernelCapability(path *byte) unix.Errno {
	name := firstByte(capabilityName + "\x00")
	if _, e := getxattr(path, name, nil); e == unix.ENODATA || e == unix.EOPNOTSUPP {
		return 0
	}
	if e := removexattr(path, name); e != unix.ENODATA {
		return e
	}
	return 0
}

// Reopen implements dax.Files. It takes no lock that is held while the window is
// called. A file that is removed can be opened as long as its node can, or while
// it is among those that were mapped last or the guest has it open.
func (f *FS) Reopen(file uint64, write bool) (int, unix.Errno) {
	id := virtiofs.NodeID(file)
	if h := f.mapped.pin(id); h != nil {
		defer f.handles.unpin(h)
		if h.writable || !write {
			return duplicate(h.fd)
		}
	}
	fd, e := f.reopenNode(id, write)
	if e != 0 && mayBeOpen(e) {
		if h := f.handles.mappable(id, write); h != nil {
			defer f.handles.unpin(h)
			return duplicate(h.fd)
		}
	}
	return fd, e
}

func (f *FS) reopenNode(id virtiofs.NodeID, write bool) (int, unix.Errno) {
	n, e := f.pin(id)
	if e != 0 {
		return -1, e
	}
	defer f.unpin(n)
	return f.openToMap(n, write)
}

// mayBeOpen says that a file which cannot be opened may still be open: it is
// removed, or its mode forbids by now what was allowed when the guest opened it. A
// request to map names no handle by which that would show.
func mayBeOpen(e unix.Errno) bool {
	return e == unix.ESTALE || e == unix.EACCES || e == unix.EPERM
}

// mappable returns a file of the node that the guest has open itself, in a way that
// allows the mapping, until unpin; nil when there is none.
func (t *handles) mappable(id virtiofs.NodeID, write bool) *handle {
	for i := range t.shard {
		if h := t.shard[i].mappable(id, write); h != nil {
			return h
		}
	}
	return nil
}

func (s *handleShard) mappable(id virtiofs.NodeID, write bool) *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.byID {
		if h.node != id || h.dir {
			continue
		}
		if mode := accessMode(h.fd); mode == unix.O_RDWR || mode == unix.O_RDONLY && !write {
			h.refs.Add(1)
			return h
		}
	}
	return nil
}
