package passthrough

import (
	"bytes"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// aclPrefix begins the names under which the kernel shows POSIX ACLs. A guest
// that was not told of them (FUSE_POSIX_ACL) must not see them: it would check
// permissions by the mode alone and copy them wrong.
const aclPrefix = "system.posix_acl_"

func isACL(name []byte) bool { return bytes.HasPrefix(name, []byte(aclPrefix)) }

// Extended attributes are reached through the path in /proc, which leads to the
// inode itself whatever its type, and opens nothing.

// Getxattr implements virtiofs.Xattrs.
func (f *FS) Getxattr(id virtiofs.NodeID, name virtiofs.CString, buf []byte) (int, unix.Errno) {
	n, e := f.pin(id)
	if e != 0 {
		return 0, e
	}
	defer f.unpin(n)
	switch {
	case isACL(name.Bytes()):
		return 0, unix.EOPNOTSUPP
	case n.graft:
		return 0, unix.ENODATA
	}
	var path fdPath
	return getxattr(path.absolute(n.fd()), name.Pointer(), buf)
}

// Listxattr implements virtiofs.Xattrs. The names of ACLs are taken out in
// place; the answer to "how much" may be too large by them.
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
	size, e := listxattr(path.absolute(n.fd()), buf)
	if e != 0 || len(buf) == 0 {
		return size, e
	}
	kept := 0
	for rest := buf[:size]; len(rest) > 0; {
		end := bytes.IndexByte(rest, 0) + 1
		if end == 0 {
			return 0, unix.EIO
		}
		if !isACL(rest) {
			kept += copy(buf[kept:], rest[:end])
		}
		rest = rest[end:]
	}
	return kept, 0
}

// Setxattr implements virtiofs.Xattrs.
func (f *FS) Setxattr(id virtiofs.NodeID, name virtiofs.CString, value []byte, flags uint32) unix.Errno {
	n, e := f.pinForChange(id)
	if e != 0 {
		return e
	}
	defer f.unpin(n)
	if isACL(name.Bytes()) {
		return unix.EOPNOTSUPP
	}
	var path fdPath
	return setxattr(path.absolute(n.fd()), name.Pointer(), value, flags)
}

// Removexattr implements virtiofs.Xattrs.
func (f *FS) Removexattr(id virtiofs.NodeID, name virtiofs.CString) unix.Errno {
	n, e := f.pinForChange(id)
	if e != 0 {
		return e
	}
	defer f.unpin(n)
	if isACL(name.Bytes()) {
		return unix.EOPNOTSUPP
	}
	var path fdPath
	return removexattr(path.absolute(n.fd()), name.Pointer())
}
