package virtiofs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
	"tenon/virtiofs/xattrmap"
)

func xattrMap(tb testing.TB, rules string) *xattrmap.Map {
	tb.Helper()
	m, err := xattrmap.Parse(rules)
	must(tb, err)
	return m
}

func setxattr(c *fstest.Conn, n virtiofs.NodeID, name, value string) unix.Errno {
	_, e := c.Call(fuse.Setxattr, n, 0, fstest.U32(uint32(len(value)), 0, 0, 0), fstest.Str(name), []byte(value))
	return e
}

func getxattr(c *fstest.Conn, n virtiofs.NodeID, name string) (string, unix.Errno) {
	b, e := c.Call(fuse.Getxattr, n, 4096, fstest.U32(4096, 0), fstest.Str(name))
	return string(b), e
}

// listxattr is the guest's names in a room that is just as large as the server
// says it has to be; one byte less must not do.
func listxattr(t *testing.T, c *fstest.Conn, n virtiofs.NodeID) string {
	t.Helper()
	b, e := c.Call(fuse.Listxattr, n, 8, fstest.U32(0, 0))
	ok(t, "LISTXATTR size", e)
	size := le.Uint32(b)
	if size == 0 {
		return ""
	}
	b, e = c.Call(fuse.Listxattr, n, int(size), fstest.U32(size, 0))
	ok(t, "LISTXATTR", e)
	if uint32(len(b)) != size {
		t.Errorf("%d bytes of names, said %d", len(b), size)
	}
	if size > 1 {
		_, e = c.Call(fuse.Listxattr, n, int(size), fstest.U32(size-1, 0))
		want(t, "LISTXATTR into too little", e, unix.ERANGE)
	}
	return string(b)
}

// needUserXattrs skips where the directory has none.
func needUserXattrs(t *testing.T, path string) {
	t.Helper()
	if err := unix.Lsetxattr(path, "user.probe", []byte("x"), 0); err != nil {
		t.Skipf("SKIPPED: no user extended attributes on this file system: %v", err)
	}
	must(t, unix.Lremovexattr(path, "user.probe"))
}

// needTrustedXattrs is about those that specials can have, and only CAP_SYS_ADMIN set.
func needTrustedXattrs(t *testing.T) {
	t.Helper()
	if err := unix.Lsetxattr(t.TempDir(), "trusted.probe", []byte("x"), 0); err != nil {
		t.Skipf("SKIPPED: no trusted extended attributes, the only ones of specials: %v", err)
	}
}

func TestXattrMap(t *testing.T) {
	dir, c := connect(t, passthrough.Options{Xattrs: xattrMap(t,
		":map:security.:user.virtiofs.:")})
	path := filepath.Join(dir, "f")
	write(t, path, "")
	needUserXattrs(t, path)
	must(t, unix.Lsetxattr(path, "user.host", []byte("h"), 0))
	must(t, unix.Lsetxattr(path, "user.virtiofs.stray", []byte("h"), 0))
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	ok(t, "SETXATTR", setxattr(c, f.Node, "security.a", "value"))
	ok(t, "SETXATTR", setxattr(c, f.Node, "user.b", "as it is"))
	v, e := getxattr(c, f.Node, "security.a")
	if ok(t, "GETXATTR", e); v != "value" {
		t.Errorf("value %q", v)
	}
	got := make([]byte, 100)
	n, err := unix.Lgetxattr(path, "user.virtiofs.security.a", got)
	if must(t, err); string(got[:n]) != "value" {
		t.Errorf("on the host %q", got[:n])
	}
	names := strings.Split(listxattr(t, c, f.Node), "\x00")
	sorted := map[string]bool{}
	for _, name := range names {
		sorted[name] = true
	}
	if len(names) != 4 || !sorted["security.a"] || !sorted["user.b"] || !sorted["user.host"] {
		t.Errorf("names %q", names)
	}
	long := "security." + strings.Repeat("n", 255-len("security."))
	want(t, "SETXATTR of a name that becomes too long", setxattr(c, f.Node, long, "v"), unix.ERANGE)
	_, e = c.Call(fuse.Removexattr, f.Node, 0, fstest.Str("security.a"))
	ok(t, "REMOVEXATTR", e)
	if _, err := unix.Lgetxattr(path, "user.virtiofs.security.a", got); err != unix.ENODATA {
		t.Errorf("removed: %v", err)
	}
}

// TestXattrList: the length of a list is that of what is shown of it, also when
// the host's is long.
func TestXattrList(t *testing.T) {
	dir, c := connect(t, passthrough.Options{Xattrs: xattrMap(t, ":unsupported:all:user.hidden:user.hidden: :bad:all:user.bad:user.bad: :ok:all:::")})
	path := filepath.Join(dir, "f")
	write(t, path, "")
	needUserXattrs(t, path)
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	if l := listxattr(t, c, f.Node); strings.Contains(l, "user.") {
		t.Errorf("list %q", l)
	}
	shown := 0
	for i := range 14 {
		name := "user." + strings.Repeat(string(rune('a'+i)), 60)
		if i%2 == 0 {
			name = "user.hidden." + strings.Repeat(string(rune('a'+i)), 60)
		} else {
			shown += len(name) + 1
		}
		must(t, unix.Lsetxattr(path, name, nil, 0))
	}
	if l := listxattr(t, c, f.Node); strings.Contains(l, "hidden") || strings.Count(l, "user.") != 7 || strings.Contains(l, "user.") && len(l) < shown {
		t.Errorf("list of %d bytes, %d expected: %q", len(l), shown, l)
	}
	want(t, "SETXATTR unsupported", setxattr(c, f.Node, "user.hidden", "v"), unix.EOPNOTSUPP)
	want(t, "SETXATTR bad", setxattr(c, f.Node, "user.bad", "v"), unix.EPERM)
	_, e = getxattr(c, f.Node, "user.bad")
	want(t, "GETXATTR bad", e, unix.ENODATA)
	_, e = getxattr(c, f.Node, "user.hidden")
	want(t, "GETXATTR unsupported", e, unix.EOPNOTSUPP)
	_, e = c.Call(fuse.Removexattr, f.Node, 0, fstest.Str("user.bad"))
	want(t, "REMOVEXATTR bad", e, unix.EPERM)
}

// TestXattrSpecials: nothing is opened for its attributes. A FIFO would wait for
// the other side, and what a link names is not what is asked about.
func TestXattrSpecials(t *testing.T) {
	needTrustedXattrs(t)
	dir, c := connect(t, passthrough.Options{})
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	must(t, os.Symlink("target", filepath.Join(dir, "link")))
	write(t, filepath.Join(dir, "target"), "")
	for _, name := range []string{"fifo", "link"} {
		n, e := c.Lookup(root, name)
		ok(t, "LOOKUP", e)
		ok(t, "SETXATTR of the "+name, setxattr(c, n.Node, "trusted.a", name))
		v, e := getxattr(c, n.Node, "trusted.a")
		if ok(t, "GETXATTR of the "+name, e); v != name {
			t.Errorf("%s: %q", name, v)
		}
		if l := listxattr(t, c, n.Node); !strings.Contains(l, "trusted.a\x00") {
			t.Errorf("%s: list %q", name, l)
		}
		_, e = c.Call(fuse.Removexattr, n.Node, 0, fstest.Str("trusted.a"))
		ok(t, "REMOVEXATTR of the "+name, e)
		want(t, "SETXATTR user of the "+name, setxattr(c, n.Node, "user.a", "v"), unix.EPERM)
	}
	if _, err := unix.Lgetxattr(filepath.Join(dir, "target"), "trusted.a", nil); err != unix.ENODATA {
		t.Errorf("the link's target: %v", err)
	}
}

// TestCapabilitiesStay: what changes neither contents nor owner takes nothing.
func TestCapabilitiesStay(t *testing.T) {
	dir, c := connect(t, passthrough.Options{Xattrs: xattrMap(t, ":map:security.:user.virtiofs.:")})
	needUserXattrs(t, dir)
	f, fh, e := c.Create(root, "f", unix.O_RDWR, 0o755)
	ok(t, "CREATE", e)
	ok(t, "SETXATTR", setxattr(c, f.Node, "security.capability", "caps"))
	d, e := c.Mkdir(root, "d", 0o755)
	ok(t, "MKDIR", e)
	ok(t, "SETXATTR", setxattr(c, d.Node, "security.capability", "caps"))
	for what, do := range map[string]func() unix.Errno{
		"chown of a directory": func() unix.Errno {
			_, e := c.Setattr(d.Node, fstest.Set{Valid: fuse.FattrUID | fuse.FattrKillSuidgid, UID: d.Attr.UID})
			return e
		},
		"OPEN": func() unix.Errno {
			_, e := c.Call(fuse.Open, f.Node, fuse.OpenOutSize, fstest.U32(unix.O_RDWR, fuse.OpenKillSuidgid))
			return e
		},
		"READ":  func() unix.Errno { _, e := c.Read(f.Node, fh, 0, 100); return e },
		"chmod": func() unix.Errno { _, e := c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrMode, Mode: 0o700}); return e },
		"utimes": func() unix.Errno {
			_, e := c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrMtime | fuse.FattrMtimeNow})
			return e
		},
		"SETXATTR": func() unix.Errno { return setxattr(c, f.Node, "user.other", "v") },
		"LINK":     func() unix.Errno { _, e := c.Link(f.Node, root, "l"); return e },
	} {
		ok(t, what, do())
		for name, n := range map[string]virtiofs.NodeID{"file": f.Node, "directory": d.Node} {
			v, e := getxattr(c, n, "security.capability")
			if e != 0 || v != "caps" {
				t.Errorf("%s after %s: %q, %v", name, what, v, e)
			}
		}
	}
}

// TestXattrGraft: a graft's attributes on the host are not the guest's business.
func TestXattrGraft(t *testing.T) {
	file := filepath.Join(t.TempDir(), "init")
	write(t, file, "")
	needUserXattrs(t, file)
	must(t, unix.Lsetxattr(file, "user.a", []byte("secret"), 0))
	_, c := connect(t, passthrough.Options{Grafts: []passthrough.Graft{{Name: "init", File: file}}})
	g, e := c.Lookup(root, "init")
	ok(t, "LOOKUP", e)
	_, e = getxattr(c, g.Node, "user.a")
	want(t, "GETXATTR", e, unix.ENODATA)
	if l := listxattr(t, c, g.Node); l != "" {
		t.Errorf("list %q", l)
	}
	want(t, "SETXATTR", setxattr(c, g.Node, "user.a", "v"), unix.EROFS)
}

// TestMovedCapabilities: where the share keeps capabilities under a name that
// means nothing to the kernel, they go from a file that changes, although this
// process may not touch the attributes of a file that it may not write to.
func TestMovedCapabilities(t *testing.T) {
	if _, inside := asUser(t, "^TestMovedCapabilities$", nil); !inside {
		return
	}
	for name, rules := range map[string]string{"user": ":map:security.:user.virtiofs.:", "trusted": ":map:security.:trusted.virtiofs.:"} {
		dir, c := connect(t, passthrough.Options{Xattrs: xattrMap(t, rules)})
		needUserXattrs(t, dir)
		// Written after its mode has forbidden it, as archives are unpacked.
		f, fh, e := c.Create(root, "f", unix.O_WRONLY, 0o200)
		ok(t, "CREATE", e)
		for _, mode := range []uint32{0o400, 0o000} {
			must(t, unix.Chmod(filepath.Join(dir, "f"), mode))
			_, e = c.Write(f.Node, fh, 0, []byte("x"), 0, 0)
			ok(t, "WRITE, "+name, e)
		}
		if name == "trusted" {
			continue
		}
		must(t, unix.Chmod(filepath.Join(dir, "f"), 0o600))
		ok(t, "SETXATTR", setxattr(c, f.Node, "security.capability", "caps"))
		must(t, unix.Chmod(filepath.Join(dir, "f"), 0o400))
		_, e = c.Write(f.Node, fh, 0, []byte("x"), 0, 0)
		want(t, "WRITE of a file whose capabilities cannot be taken", e, unix.EACCES)
		must(t, unix.Chmod(filepath.Join(dir, "f"), 0o600))
		_, e = c.Write(f.Node, fh, 0, []byte("x"), 0, 0)
		ok(t, "WRITE", e)
		_, e = getxattr(c, f.Node, "security.capability")
		want(t, "GETXATTR", e, unix.ENODATA)
	}
}
