package virtiofs_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/idmap"
	"tenon/virtiofs/passthrough"
)

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// acl is a value of an ACL (linux/posix_acl_xattr.h): the permissions of the
// owner, of user 1000, of the group, the mask and all others.
func acl(owner, user, group, mask, other uint16) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, owner, noID}, {0x02, user, 1000}, {0x04, group, noID}, {0x10, mask, noID}, {0x20, other, noID}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

// needACLs skips where the directory has none.
func needACLs(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Lsetxattr(dir, defaultACL, []byte(acl(7, 7, 7, 7, 7)), 0); err != nil {
		t.Skipf("SKIPPED: no POSIX ACLs on this file system: %v", err)
	}
	must(t, unix.Lremovexattr(dir, defaultACL))
}

func TestACL(t *testing.T) {
	dir, c := serveWith(t, passthrough.Options{ACL: true}, virtiofs.Options{ACL: true})
	needACLs(t, dir)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	f, _, e := c.Create(root, "f", unix.O_RDWR, 0o640)
	ok(t, "CREATE", e)
	_, e = getxattr(c, f.Node, accessACL)
	want(t, "GETXATTR of no ACL", e, unix.ENODATA)
	value := acl(7, 4, 4, 5, 0)
	ok(t, "SETXATTR", setxattr(c, f.Node, accessACL, value))
	v, e := getxattr(c, f.Node, accessACL)
	if ok(t, "GETXATTR", e); v != value {
		t.Errorf("ACL %x, want %x", v, value)
	}
	if l := listxattr(t, c, f.Node); !strings.Contains(l, accessACL+"\x00") {
		t.Errorf("list %q", l)
	}
	a, e := c.Getattr(f.Node)
	if ok(t, "GETATTR", e); a.Mode&0o777 != 0o750 {
		t.Errorf("mode %o, want the ACL's owner, mask and others", a.Mode)
	}
	want(t, "SETXATTR of what is no ACL", setxattr(c, f.Node, accessACL, value[:9]), unix.EINVAL)
	want(t, "SETXATTR of a file's default ACL", setxattr(c, f.Node, defaultACL, value), unix.EACCES)
	_, e = c.Call(fuse.Removexattr, f.Node, 0, fstest.Str(accessACL))
	ok(t, "REMOVEXATTR", e)
	_, e = getxattr(c, f.Node, accessACL)
	want(t, "GETXATTR of a removed ACL", e, unix.ENODATA)
}

// TestNoACL: a share without ACLs neither shows nor lists those of the host.
func TestNoACL(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	needACLs(t, dir)
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(t, unix.Lsetxattr(filepath.Join(dir, "d"), accessACL, []byte(acl(7, 7, 7, 7, 5)), 0))
	must(t, unix.Lsetxattr(filepath.Join(dir, "d"), defaultACL, []byte(acl(7, 7, 7, 7, 5)), 0))
	d, e := c.Lookup(root, "d")
	ok(t, "LOOKUP", e)
	for _, name := range []string{accessACL, defaultACL} {
		_, e = getxattr(c, d.Node, name)
		want(t, "GETXATTR "+name, e, unix.EOPNOTSUPP)
		want(t, "SETXATTR "+name, setxattr(c, d.Node, name, acl(7, 0, 0, 7, 0)), unix.EOPNOTSUPP)
		_, e = c.Call(fuse.Removexattr, d.Node, 0, fstest.Str(name))
		want(t, "REMOVEXATTR "+name, e, unix.EOPNOTSUPP)
	}
	if l := listxattr(t, c, d.Node); strings.Contains(l, "posix_acl") {
		t.Errorf("list %q", l)
	}
}

// plain is a file system that has no ACLs, as VFAT.
type plain struct{ virtiofs.FS }

func (p plain) Getxattr(n virtiofs.NodeID, name virtiofs.CString, buf []byte) (int, unix.Errno) {
	return 0, unix.EOPNOTSUPP
}

// TestACLWithoutHost: where the host has no ACLs a guest that asks is told that
// there is none, or it could use nothing but its own files.
func TestACLWithoutHost(t *testing.T) {
	for _, agreed := range []bool{true, false} {
		host, err := passthrough.New(t.TempDir(), passthrough.Options{ACL: true})
		must(t, err)
		s := virtiofs.NewServer(plain{host}, virtiofs.Options{ACL: agreed})
		defer func() { must(t, s.Close()) }()
		c := fstest.Dial(t, s)
		_, e := c.Init(fstest.AllFlags)
		ok(t, "INIT", e)
		for name, err := range map[string]unix.Errno{
			accessACL: unix.ENODATA, defaultACL: unix.ENODATA, accessACL + "x": unix.EOPNOTSUPP, "user.a": unix.EOPNOTSUPP,
		} {
			if !agreed {
				err = unix.EOPNOTSUPP
			}
			_, e = getxattr(c, root, name)
			want(t, "GETXATTR "+name, e, err)
		}
	}
}

// TestUmask: the umask of the guest's process is taken off by the server where
// that was agreed on, but not where a default ACL says what new files get.
func TestUmask(t *testing.T) {
	for _, agreed := range []bool{true, false} {
		dir, c := serveWith(t, passthrough.Options{ACL: true}, virtiofs.Options{ACL: agreed})
		needACLs(t, dir)
		_, e := c.Init(fstest.AllFlags)
		ok(t, "INIT", e)
		plain, e := c.Mkdir(root, "plain", 0o755)
		ok(t, "MKDIR", e)
		withACL, e := c.Mkdir(root, "acl", 0o755)
		ok(t, "MKDIR", e)
		must(t, unix.Lsetxattr(filepath.Join(dir, "acl"), defaultACL, []byte(acl(7, 7, 7, 7, 7)), 0))
		const umask = 0o137
		for what, make := range map[string]func(p virtiofs.NodeID) ([]byte, unix.Errno){
			"CREATE": func(p virtiofs.NodeID) ([]byte, unix.Errno) {
				return c.Call(fuse.Create, p, fuse.EntryOutSize+fuse.OpenOutSize, fstest.U32(unix.O_RDWR, 0o1777, umask, 0), fstest.Str("file"))
			},
			"MKDIR": func(p virtiofs.NodeID) ([]byte, unix.Errno) {
				return c.Call(fuse.Mkdir, p, fuse.EntryOutSize, fstest.U32(0o1777, umask), fstest.Str("dir"))
			},
			"MKNOD": func(p virtiofs.NodeID) ([]byte, unix.Errno) {
				return c.Call(fuse.Mknod, p, fuse.EntryOutSize, fstest.U32(unix.S_IFIFO|0o1777, 0, umask, 0), fstest.Str("fifo"))
			},
			"TMPFILE": func(p virtiofs.NodeID) ([]byte, unix.Errno) {
				return c.Call(fuse.Tmpfile, p, fuse.EntryOutSize+fuse.OpenOutSize, fstest.U32(unix.O_RDWR, 0o1777, umask, 0), fstest.Str("/"))
			},
		} {
			for parent, mode := range map[virtiofs.NodeID]uint32{plain.Node: 0o1640, withACL.Node: 0o1777} {
				if !agreed {
					mode = 0o1777 // the guest has taken it off already
				}
				b, e := make(parent)
				if what == "TMPFILE" && e == unix.EOPNOTSUPP {
					continue
				}
				ok(t, what, e)
				if got := fstest.ParseEntry(b).Attr.Mode & 0o7777; got != mode {
					t.Errorf("%s, umask agreed on: %v, ACL: %v: mode %o, want %o", what, agreed, parent == withACL.Node, got, mode)
				}
			}
		}
	}
}

// TestACLKillsSgid: an ACL set by one who is not in the group takes the
// set-group-id bit, if and only if the guest says so, and with it capabilities
// of which the host's kernel does not know.
func TestACLKillsSgid(t *testing.T) {
	needRoot(t, "the host's kernel takes the bit from others")
	dir, c := serveWith(t, passthrough.Options{ACL: true, Xattrs: xattrMap(t, ":map:security.:user.virtiofs.:")}, virtiofs.Options{ACL: true})
	needACLs(t, dir)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	write(t, filepath.Join(dir, "f"), "")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	for _, name := range []string{"f", "d"} {
		n, e := c.Lookup(root, name)
		ok(t, "LOOKUP", e)
		set := func(acl, value string, flags uint32) {
			_, e := c.Call(fuse.Setxattr, n.Node, 0, fstest.U32(uint32(len(value)), 0, flags, 0), fstest.Str(acl), []byte(value))
			ok(t, "SETXATTR", e)
		}
		for _, k := range []struct {
			acl      string
			flags    uint32
			from, to uint32
		}{
			{accessACL, fuse.SetxattrKillSgid, 0o6711, 0o4754},
			{accessACL, fuse.SetxattrKillSgid, 0o1711, 0o1754},
			{accessACL, 0, 0o6711, 0o6754},
			{"user.a", fuse.SetxattrKillSgid, 0o6711, 0o6711},
		} {
			must(t, unix.Lsetxattr(filepath.Join(dir, name), "user.virtiofs.security.capability", []byte("caps"), 0))
			_ = unix.Lremovexattr(filepath.Join(dir, name), accessACL)
			must(t, unix.Chmod(filepath.Join(dir, name), k.from))
			set(k.acl, acl(7, 4, 4, 5, 4), k.flags)
			if got := lstat(t, filepath.Join(dir, name)).Mode & 0o7777; got != k.to {
				t.Errorf("%s, flags %d, %s: mode %o becomes %o, want %o", name, k.flags, k.acl, k.from, got, k.to)
			}
			_, e := getxattr(c, n.Node, "security.capability")
			if gone := e == unix.ENODATA; gone != (name == "f" && k.acl == accessACL && k.flags != 0) {
				t.Errorf("%s, flags %d, %s: the capabilities are gone: %v", name, k.flags, k.acl, gone)
			}
		}
	}
}

// TestACLContradictions: options that ACLs cannot be had with are refused with
// a message that names them.
func TestACLContradictions(t *testing.T) {
	for name, o := range map[string]passthrough.Options{
		"uid-map":  {ACL: true, IDs: &idmap.Maps{UID: idMap(t, "map:0:1000:1")}},
		"squash":   {ACL: true, IDs: squash(1, 1)},
		"prefixed": {ACL: true, Xattrs: xattrMap(t, ":map::user.virtiofs.:")},
		"hidden":   {ACL: true, Xattrs: xattrMap(t, ":bad:server::system.: :ok:all:::")},
		"refused":  {ACL: true, Xattrs: xattrMap(t, ":unsupported:client:system.posix_acl_default:: :ok:all:::")},
	} {
		_, err := passthrough.New(t.TempDir(), o)
		if err == nil || !strings.Contains(err.Error(), "posix-acl") || !strings.Contains(err.Error(), "-map") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, o := range map[string]passthrough.Options{
		"moved elsewhere": {ACL: true, Xattrs: xattrMap(t, ":map:security.:user.virtiofs.:")},
		"first":           {ACL: true, Xattrs: xattrMap(t, ":ok:all:system.posix_acl_:system.posix_acl_: :map::user.virtiofs.:")},
		"without ACLs":    {IDs: squash(1, 1), Xattrs: xattrMap(t, ":map::user.virtiofs.:")},
	} {
		fs, err := passthrough.New(t.TempDir(), o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		must(t, fs.Close())
	}
}
