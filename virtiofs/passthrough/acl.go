package passthrough

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/xattrmap"
)

// aclPrefix begins the names under which the kernel shows POSIX ACLs. A guest
// that was not told of them (FUSE_POSIX_ACL) must not see them: it would check
// permissions by the mode alone and copy them wrong.
const (
	aclPrefix  = "system.posix_acl_"
	accessACL  = aclPrefix + "access\x00"
	defaultACL = aclPrefix + "default\x00"
)

func isACL(name []byte) bool { return bytes.HasPrefix(name, []byte(aclPrefix)) }

// contradiction says which options cannot be had together.
func (o *Options) contradiction() error {
	if !o.ACL {
		return nil
	}
	if o.IDs != nil {
		return errors.New("posix-acl together with uid-map, gid-map or owner=squash: the host would hold users to ACLs that name the guest's (leave out one of them)")
	}
	for _, name := range []string{accessACL, defaultACL} {
		name = name[:len(name)-1]
		var room xattrmap.Name
		if host, e := o.Xattrs.Host([]byte(name), &room); e != 0 || string(host) != name {
			return fmt.Errorf("posix-acl together with an xattr-map that does not leave %s as it is: the host would not know the ACL (put :ok:all:%s:%s: first)", name, aclPrefix, aclPrefix)
		}
		if guest, shown := o.Xattrs.Client([]byte(name)); !shown || string(guest) != name {
			return fmt.Errorf("posix-acl together with an xattr-map that hides %s: the guest would not see the ACL (put :ok:all:%s:%s: first)", name, aclPrefix, aclPrefix)
		}
	}
	return nil
}

// hasDefaultACL says whether what is created in the directory gets its mode by
// an ACL, and the umask counts for nothing (acl(5), "object creation").
func (n *inode) hasDefaultACL() bool {
	var path fdPath
	size, e := getxattr(path.absolute(n.fd()), &[]byte(defaultACL)[0], nil)
	return e == 0 && size > 0
}

// isAccessACL says that the name is that of the ACL which decides about access.
func isAccessACL(name []byte) bool { return string(name) == accessACL[:len(accessACL)-1] }

// killSgid takes the set-group-id bit of a node, and the capabilities of a file,
// from which the guest's caller may not keep them (posix_acl_update_mode in
// Linux): this process could, so the kernel left them. The group's bits are those
// of the ACL's mask and stay what they are.
func (f *FS) killSgid(n *inode) unix.Errno {
	var path fdPath
	if f.xattrs.moved && n.typ == unix.S_IFREG {
		if e := f.xattrs.dropCapability(path.absolute(n.fd())); e != 0 {
			return e
		}
	}
	var st unix.Stat_t
	if e := fstat(n.fd(), &st); e != 0 || st.Mode&unix.S_ISGID == 0 {
		return e
	}
	return fchmodat(f.proc, path.relative(n.fd()), st.Mode&0o7777&^unix.S_ISGID)
}
