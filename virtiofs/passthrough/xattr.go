package passthrough

import (
	"bytes"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/xattrmap"
)

// xattrs is how names of extended attributes differ between guest and host.
//
// The attributes are reached through the path in /proc, which leads to the inode
// itself whatever its type, and opens nothing.
type xattrs struct {
	rules *xattrmap.Map // nil: not at all
	acl   bool          // POSIX ACLs are shown

	// moved says that security.capability of the guest's files has another name
	// here, which is capability. The kernel then does not know that it has to go
	// when a file changes, and this process takes it away (CVE-2021-20263).
	moved      bool
	capability xattrmap.Name
}

const capabilityName = "security.capability"

func newXattrs(o *Options) xattrs {
	x := xattrs{rules: o.Xattrs, acl: o.ACL}
	host, e := x.rules.Host([]byte(capabilityName), &x.capability)
	x.moved = e == 0 && string(host) != capabilityName
	return x
}

// host is the NUL-terminated name on the host for one of the guest's; buf is
// where it is made.
func (x *xattrs) host(name virtiofs.CString, buf *xattrmap.Name) (*byte, unix.Errno) {
	if !x.acl && isACL(name.Bytes()) {
		return nil, unix.EOPNOTSUPP
	}
	if x.rules == nil {
		return name.Pointer(), 0
	}
	host, e := x.rules.Host(name.Bytes(), buf)
	if e == 0 && !x.acl && isACL(host) {
		e = unix.EOPNOTSUPP
	}
	return &buf[0], e
}

// guest is the guest's name for one of the host's; not shown for what it does
// not get to see.
func (x *xattrs) guest(name []byte) (guest []byte, shown bool) {
	if !x.acl && isACL(name) {
		return nil, false
	}
	return x.rules.Client(name)
}

// dropCapability takes the guest's capabilities off a file on which the kernel
// does not see them. Where that is refused and they are not there anyway, it
// has done its work.
func (x *xattrs) dropCapability(path *byte) unix.Errno {
	e := removexattr(path, &x.capability[0])
	switch e {
	case unix.ENODATA, unix.EOPNOTSUPP:
		return 0
	case unix.EPERM, unix.EACCES:
		if there, listed := x.hasCapability(path); listed == 0 && !there {
			return 0
		}
	}
	return e
}

// hasCapability looks for the name in the list, for which no permission on the
// file is needed.
func (x *xattrs) hasCapability(path *byte) (bool, unix.Errno) {
	var few [listRoom]byte
	list, e := listAll(path, few[:])
	for len(list) > 0 && e == 0 {
		var name []byte
		if name, list, e = nextName(list); e == 0 && bytes.HasPrefix(x.capability[:], name) {
			return true, 0
		}
	}
	return false, e
}

// Getxattr implements virtiofs.Xattrs. A name that the guest may not use has no
// value, as getxattr(2) knows no EPERM.
func (f *FS) Getxattr(id virtiofs.NodeID, name virtiofs.CString, buf []byte) (int, unix.Errno) {
	n, e := f.pin(id)
	if e != 0 {
		return 0, e
	}
	defer f.unpin(n)
	var room xattrmap.Name
	host, e := f.xattrs.host(name, &room)
	if e == unix.EPERM || e == 0 && n.graft {
		return 0, unix.ENODATA
	}
	if e != 0 {
		return 0, e
	}
	var path fdPath
	return getxattr(path.absolute(n.fd()), host, buf)
}

// Listxattr implements virtiofs.Xattrs. The host's list is read whole, as its
// length says nothing about that of the guest's.
func (f *FS) Listxattr(id virtiofs.NodeID, buf []byte) (int, unix.Errno) {
	n, e := f.pin(id)
	if e != 0 {
		return 0, e
	}
	defer f.unpin(n)
	if n.graft {
		return 0, 0
	}
	var path fdPath
	var few [listRoom]byte
	list, e := listAll(path.absolute(n.fd()), few[:])
	size := 0
	for len(list) > 0 && e == 0 {
		var name []byte
		if name, list, e = nextName(list); e != 0 {
			break
		}
		name, shown := f.xattrs.guest(name[:len(name)-1])
		if !shown {
			continue
		}
		if len(buf) > 0 && size+len(name) >= len(buf) {
			return 0, unix.ERANGE
		}
		if len(buf) > 0 {
			buf[size+copy(buf[size:], name)] = 0
		}
		size += len(name) + 1
	}
	return size, e
}

// listRoom is enough for the names of most files; xattrListMax for all (Linux
// XATTR_LIST_MAX).
const (
	listRoom     = 512
	xattrListMax = 64 << 10
)

// listAll returns the host's whole list of names, in few if it fits.
func listAll(path *byte, few []byte) ([]byte, unix.Errno) {
	n, e := listxattr(path, few)
	if e == unix.ERANGE {
		few = make([]byte, xattrListMax)
		n, e = listxattr(path, few)
	}
	if e != 0 {
		return nil, e
	}
	return few[:n], 0
}

// nextName cuts the first name, with its NUL, off a list.
func nextName(list []byte) (name, rest []byte, e unix.Errno) {
	end := bytes.IndexByte(list, 0) + 1
	if end < 2 {
		return nil, nil, unix.EIO
	}
	return list[:end], list[end:], 0
}

// Setxattr implements virtiofs.Xattrs.
func (f *FS) Setxattr(id virtiofs.NodeID, name virtiofs.CString, value []byte, flags uint32, killSgid bool) unix.Errno {
	n, e := f.pinForChange(id)
	if e != 0 {
		return e
	}
	defer f.unpin(n)
	var room xattrmap.Name
	host, e := f.xattrs.host(name, &room)
	if e != 0 {
		return e
	}
	var path fdPath
	e = setxattr(path.absolute(n.fd()), host, value, flags)
	if e == 0 && killSgid && isAccessACL(name.Bytes()) {
		return f.killSgid(n)
	}
	return e
}

// Removexattr implements virtiofs.Xattrs.
func (f *FS) Removexattr(id virtiofs.NodeID, name virtiofs.CString) unix.Errno {
	n, e := f.pinForChange(id)
	if e != 0 {
		return e
	}
	defer f.unpin(n)
	var room xattrmap.Name
	host, e := f.xattrs.host(name, &room)
	if e != 0 {
		return e
	}
	var path fdPath
	return removexattr(path.absolute(n.fd()), host)
}
