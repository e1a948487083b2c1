package virtiofs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/idmap"
	"tenon/virtiofs/passthrough"
)

// noID is what the system calls take for "none".
const noID = ^uint32(0)

// user is the ordinary user, with a group of its own number, as whom tests run
// again.
const user = 12345

func idMap(tb testing.TB, rules ...string) *idmap.Map {
	tb.Helper()
	m, err := idmap.Parse(rules...)
	must(tb, err)
	return m
}

func squash(uid, gid uint32) *idmap.Maps {
	return &idmap.Maps{UID: idmap.Squash(uid), GID: idmap.Squash(gid)}
}

// shownOwners is a file's owner by every way in which a guest is told of one.
func shownOwners(t *testing.T, c *fstest.Conn, parent virtiofs.NodeID, name string) map[string][2]uint32 {
	t.Helper()
	n, e := c.Lookup(parent, name)
	ok(t, "LOOKUP", e)
	again, e := c.Lookup(parent, name)
	ok(t, "LOOKUP of what is known", e)
	a, e := c.Getattr(n.Node)
	ok(t, "GETATTR", e)
	b, e := c.Call(fuse.Statx, n.Node, fuse.StatxOutSize, fstest.U32(0, 0), fstest.U64(0), fstest.U32(0, unix.STATX_BASIC_STATS))
	ok(t, "STATX", e)
	set, e := c.Setattr(n.Node, fstest.Set{Valid: fuse.FattrAtime | fuse.FattrAtimeNow})
	ok(t, "SETATTR", e)
	link, e := c.Link(n.Node, parent, name+".link")
	ok(t, "LINK", e)
	ok(t, "UNLINK", c.Unlink(parent, name+".link"))
	owners := map[string][2]uint32{
		"LOOKUP": {n.Attr.UID, n.Attr.GID}, "LOOKUP of what is known": {again.Attr.UID, again.Attr.GID}, "GETATTR": {a.UID, a.GID},
		"STATX": {le.Uint32(b[32+20:]), le.Uint32(b[32+24:])}, "SETATTR": {set.UID, set.GID}, "LINK": {link.Attr.UID, link.Attr.GID},
	}
	fh, e := c.Opendir(parent)
	ok(t, "OPENDIR", e)
	list, e := c.Readdir(parent, fh, 0, 32<<10, true)
	ok(t, "READDIRPLUS", e)
	for _, d := range list {
		if d.Name == name {
			owners["READDIRPLUS"] = [2]uint32{d.Entry.Attr.UID, d.Entry.Attr.GID}
		}
	}
	ok(t, "RELEASEDIR", c.Release(parent, fh, true))
	if len(owners) != 7 {
		t.Errorf("READDIRPLUS does not list %s", name)
	}
	return owners
}

// TestIDMaps: what the guest creates, gives away and asks about has its ids on
// its side and the host's on the other.
func TestIDMaps(t *testing.T) {
	needRoot(t, "who owns what a guest creates is not tested")
	dir, c := connect(t, passthrough.Options{IDs: &idmap.Maps{
		UID: idMap(t, "map:0:100000:1000", "forbid-guest:5000:10", "squash-guest:2000:77:100", "host:77:2000:1"),
		GID: idMap(t, "map:0:200000:1000", "forbid-guest:5000:10"),
	}})
	must(t, os.Chmod(dir, 0o777))
	for i, w := range []struct{ uid, gid, hostUID, hostGID, shownUID, shownGID uint32 }{
		{0, 0, 100000, 200000, 0, 0}, {999, 1, 100999, 200001, 999, 1}, {1000, 1000, 1000, 1000, 1000, 1000}, {2050, 3, 77, 200003, 2000, 3},
	} {
		c.UID, c.GID = w.uid, w.gid
		name := fmt.Sprint("f", i)
		f, _, e := c.Create(root, name, unix.O_RDWR, 0o644)
		ok(t, "CREATE", e)
		if st := lstat(t, filepath.Join(dir, name)); st.Uid != w.hostUID || st.Gid != w.hostGID {
			t.Errorf("created by %d:%d: belongs to %d:%d, want %d:%d", w.uid, w.gid, st.Uid, st.Gid, w.hostUID, w.hostGID)
		}
		for what, shown := range shownOwners(t, c, root, name) {
			if shown != [2]uint32{w.shownUID, w.shownGID} {
				t.Errorf("%s shows %v, want %d:%d", what, shown, w.shownUID, w.shownGID)
			}
		}
		a, e := c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrUID | fuse.FattrGID | fuse.FattrKillSuidgid, UID: 7, GID: 8})
		ok(t, "chown", e)
		if st := lstat(t, filepath.Join(dir, name)); st.Uid != 100007 || st.Gid != 200008 || a.UID != 7 || a.GID != 8 {
			t.Errorf("given to 7:8: belongs to %d:%d, shown as %d:%d", st.Uid, st.Gid, a.UID, a.GID)
		}
	}
	// What is forbidden or no id at all changes nothing.
	c.UID, c.GID = 0, 0
	f, e := c.Lookup(root, "f0")
	ok(t, "LOOKUP", e)
	for _, bad := range []struct {
		valid, uid, gid uint32
		err             unix.Errno
	}{
		{fuse.FattrUID, 5000, 0, unix.EPERM}, {fuse.FattrUID | fuse.FattrGID, 1, 5009, unix.EPERM}, {fuse.FattrGID, 0, 5009, unix.EPERM},
		{fuse.FattrUID, noID, 0, unix.EINVAL}, {fuse.FattrGID, 0, noID, unix.EINVAL},
	} {
		_, e := c.Setattr(f.Node, fstest.Set{Valid: bad.valid, UID: bad.uid, GID: bad.gid})
		want(t, fmt.Sprintf("chown to %d:%d", bad.uid, bad.gid), e, bad.err)
		if st := lstat(t, filepath.Join(dir, "f0")); st.Uid != 100007 || st.Gid != 200008 {
			t.Errorf("refused and belongs to %d:%d", st.Uid, st.Gid)
		}
		if bad.valid&fuse.FattrUID != 0 {
			c.UID = bad.uid
		}
		if bad.valid&fuse.FattrGID != 0 {
			c.GID = bad.gid
		}
		_, e = c.Mkdir(root, "refused", 0o755)
		want(t, fmt.Sprintf("MKDIR by %d:%d", c.UID, c.GID), e, bad.err)
		c.UID, c.GID = 0, 0
	}
	if unix.Access(filepath.Join(dir, "refused"), unix.F_OK) == nil {
		t.Error("created for a forbidden user")
	}
}

// TestGroupsMapped: a caller's supplementary groups are the host's by the same
// map; a forbidden one does not count.
func TestGroupsMapped(t *testing.T) {
	needRoot(t, "nothing is created for another user")
	dir, c := connect(t, passthrough.Options{IDs: &idmap.Maps{GID: idMap(t, "map:50:60050:1", "guest:51:60050:1", "forbid-guest:52:1")}})
	team := filepath.Join(dir, "team")
	must(t, os.Mkdir(team, 0o755))
	must(t, unix.Chown(team, 0, 60050))
	must(t, unix.Chmod(team, 0o2775))
	p, e := c.Lookup(root, "team")
	ok(t, "LOOKUP", e)
	c.UID, c.GID = 1000, 1000
	for group, sgid := range map[uint32]uint32{50: unix.S_ISGID, 51: unix.S_ISGID, 52: 0, 60050: unix.S_ISGID} {
		name := fmt.Sprint(group)
		c.Ext = append(fstest.U32(16, fuse.ExtGroups), fstest.U32(1, group)...)
		_, _, e := c.Create(p.Node, name, unix.O_RDWR, 0o2755)
		ok(t, "CREATE", e)
		if st := lstat(t, filepath.Join(team, name)); st.Gid != 60050 || st.Mode&unix.S_ISGID != sgid {
			t.Errorf("by a member of %d: group %d, mode %o", group, st.Gid, st.Mode)
		}
	}
}

// TestCallerKeepsItsRights: what the guest's kernel has let its process do is
// done, though the host's would refuse that user: it does not know all its
// groups and none of its capabilities.
func TestCallerKeepsItsRights(t *testing.T) {
	needRoot(t, "nothing is created for another user")
	dir, c := connect(t, passthrough.Options{Devices: true})
	must(t, os.Chmod(dir, 0o700))
	c.UID, c.GID = 1000, 1000
	before := credentials(t)
	_, e := c.Mkdir(root, "d", 0o700)
	ok(t, "MKDIR", e)
	_, _, e = c.Create(root, "f", unix.O_RDWR|unix.O_EXCL, 0o600)
	ok(t, "CREATE", e)
	_, e = c.Symlink(root, "s", "t")
	ok(t, "SYMLINK", e)
	names := []string{"d", "f", "s"}
	if err := unix.Mknod(filepath.Join(dir, "probe"), unix.S_IFCHR|0o600, 1<<8|3); err != nil {
		t.Logf("SKIPPED: devices, which this process may not make: %v", err)
	} else {
		_, e = c.Mknod(root, "null", unix.S_IFCHR|0o600, 1<<8|3)
		ok(t, "MKNOD of a device", e)
		names = append(names, "null")
	}
	for _, name := range names {
		if st := lstat(t, filepath.Join(dir, name)); st.Uid != 1000 || st.Gid != 1000 {
			t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
		}
	}
	if now := credentials(t); now != before {
		t.Errorf("the thread is\n%snot\n%s", now, before)
	}
}

// TestSquashByRoot: one owner for everything, also where this process could
// give files to anybody.
func TestSquashByRoot(t *testing.T) {
	needRoot(t, "nothing is created for another user")
	dir, c := connect(t, passthrough.Options{IDs: squash(user, user)})
	must(t, os.Chmod(dir, 0o777))
	c.UID, c.GID = 1000, 1001
	f, _, e := c.Create(root, "f", unix.O_RDWR, 0o644)
	ok(t, "CREATE", e)
	if st := lstat(t, filepath.Join(dir, "f")); st.Uid != user || st.Gid != user || f.Attr.UID != 0 || f.Attr.GID != 0 {
		t.Errorf("belongs to %d:%d, shown as %d:%d", st.Uid, st.Gid, f.Attr.UID, f.Attr.GID)
	}
	_, e = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrUID | fuse.FattrGID, UID: 33, GID: 33})
	ok(t, "chown", e)
	if st := lstat(t, filepath.Join(dir, "f")); st.Uid != user || st.Gid != user {
		t.Errorf("belongs to %d:%d", st.Uid, st.Gid)
	}
}

// asUser runs tests of this binary again as an ordinary user, with a directory
// of its own for temporary files, which it prepares. Where it is that run
// already, it returns the directory.
func asUser(t *testing.T, pattern string, prepare func(dir string)) (dir string, inside bool) {
	t.Helper()
	return as(t, syscall.Credential{Uid: user, Gid: user}, pattern, prepare)
}

// as is asUser for anybody.
func as(t *testing.T, who syscall.Credential, pattern string, prepare func(dir string)) (dir string, inside bool) {
	t.Helper()
	if dir := os.Getenv("TENON_TEST_USER"); dir != "" {
		return dir, true
	}
	needRoot(t, "no other user can be taken on")
	// By descriptor: others may not go where this binary is, and a copy might lie on a
	// file system from which nothing can be run.
	exe, err := os.Open("/proc/self/exe")
	must(t, err)
	defer func() { must(t, exe.Close()) }()
	dir = t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	tmp := filepath.Join(dir, "tmp")
	must(t, os.Mkdir(tmp, 0o755))
	must(t, os.Chown(tmp, int(who.Uid), int(who.Gid)))
	if prepare != nil {
		prepare(tmp)
	}
	cmd := exec.Command("/proc/self/fd/3", "-test.v", "-test.run", pattern)
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Dir, cmd.Env = tmp, append(os.Environ(), "TMPDIR="+tmp, "GOTMPDIR=", "TENON_TEST_USER="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &who}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("as %v: %v\n%s", who, err, out)
	}
	return "", false
}

// TestOwnGroups: the groups of this process are not the guest's caller's. With
// them its user would make set-group-id files of a group that it is not in
// (CVE-2022-0358).
func TestOwnGroups(t *testing.T) {
	if _, inside := as(t, syscall.Credential{Groups: []uint32{50, 60}}, "^TestOwnGroups$", nil); !inside {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir, c := connect(t, passthrough.Options{})
	team := filepath.Join(dir, "team")
	must(t, os.Mkdir(team, 0o755))
	must(t, unix.Chown(team, 0, 50))
	must(t, unix.Chmod(team, 0o2777))
	p, e := c.Lookup(root, "team")
	ok(t, "LOOKUP", e)
	before := credentials(t)
	if !strings.Contains(before, "50 60") {
		t.Fatalf("this process is\n%s", before)
	}
	c.UID, c.GID = 1000, 1000
	for name, group := range map[string]uint32{"alien": 0, "member": 50, "other's": 60} {
		c.Ext = nil
		if group != 0 {
			c.Ext = append(fstest.U32(16, fuse.ExtGroups), fstest.U32(1, group)...)
		}
		_, _, e := c.Create(p.Node, name, unix.O_RDWR, 0o2755)
		ok(t, "CREATE", e)
		if st := lstat(t, filepath.Join(team, name)); st.Gid != 50 || (st.Mode&unix.S_ISGID != 0) != (group == 50) {
			t.Errorf("%s: group %d, mode %o", name, st.Gid, st.Mode)
		}
		if now := credentials(t); now != before {
			t.Errorf("the thread is\n%snot\n%s", now, before)
		}
	}
}

// TestOrdinaryUser: all that needs no privilege works without one. The tests
// that a guest's everyday work is made of run again as another user.
func TestOrdinaryUser(t *testing.T) {
	_, _ = asUser(t, "^(TestAttributes|TestSetattr|TestNamesChange|TestReaddir|TestXattr|TestReadWrite|TestCreate|TestAppend|TestTmpfile|TestUnlinked|TestLseekFallocate|TestAllocServe|TestXattrMap)$", nil)
}

// TestSquashByUser is what a guest's root does that unpacks archives and
// installs packages into a share of somebody who may not chown(2).
func TestSquashByUser(t *testing.T) {
	dir, inside := asUser(t, "^TestSquashByUser$", func(dir string) {
		must(t, os.Mkdir(filepath.Join(dir, "share"), 0o777))
		must(t, os.Chown(filepath.Join(dir, "share"), user, user))
		write(t, filepath.Join(dir, "share", "foreign"), "root's")
	})
	if !inside {
		return
	}
	dir = filepath.Join(dir, "share")
	fs, err := passthrough.New(dir, passthrough.Options{IDs: squash(user, user)})
	must(t, err)
	s := virtiofs.NewServer(fs, virtiofs.Options{})
	defer func() { must(t, s.Close()) }()
	c := fstest.Dial(t, s)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	unix.Umask(0)

	f, _, e := c.Create(root, "file", unix.O_RDWR, 0o644)
	ok(t, "CREATE", e)
	d, e := c.Mkdir(root, "dir", 0o755)
	ok(t, "MKDIR", e)
	l, e := c.Symlink(root, "link", "file")
	ok(t, "SYMLINK", e)
	for what, n := range map[string]fstest.Entry{"file": f, "dir": d, "link": l} {
		if n.Attr.UID != 0 || n.Attr.GID != 0 {
			t.Errorf("%s is shown as %d:%d", what, n.Attr.UID, n.Attr.GID)
		}
		for _, id := range []uint32{0, 42, 1000, user} {
			a, e := c.Setattr(n.Node, fstest.Set{Valid: fuse.FattrUID | fuse.FattrGID | fuse.FattrKillSuidgid, UID: id, GID: id})
			ok(t, fmt.Sprintf("chown of the %s to %d", what, id), e)
			if a.UID != 0 || a.GID != 0 {
				t.Errorf("%s is shown as %d:%d", what, a.UID, a.GID)
			}
		}
	}
	// chown(2) takes the set-id bits, also when it changes no owner.
	_, e = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrMode, Mode: 0o6755})
	ok(t, "chmod", e)
	a, e := c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrUID | fuse.FattrKillSuidgid})
	if ok(t, "chown", e); a.Mode&0o7777 != 0o755 {
		t.Errorf("mode %o after chown", a.Mode)
	}
	// Somebody else's file is shown as root's too, and stays whose it is.
	x, e := c.Lookup(root, "foreign")
	ok(t, "LOOKUP", e)
	if x.Attr.UID != 0 || x.Attr.GID != 0 {
		t.Errorf("foreign is shown as %d:%d", x.Attr.UID, x.Attr.GID)
	}
	_, e = c.Setattr(x.Node, fstest.Set{Valid: fuse.FattrUID | fuse.FattrGID})
	ok(t, "chown of a foreign file to whom it is shown as", e)
	_, e = c.Setattr(x.Node, fstest.Set{Valid: fuse.FattrUID, UID: 42})
	want(t, "chown of a foreign file", e, unix.EPERM)
	_, e = c.Setattr(x.Node, fstest.Set{Valid: fuse.FattrMode, Mode: 0o777})
	want(t, "chmod of a foreign file", e, unix.EPERM)
	_, e = c.Open(x.Node, unix.O_RDWR)
	want(t, "OPEN of a foreign file for writing", e, unix.EACCES)
	_, e = c.Mknod(root, "device", unix.S_IFCHR|0o600, 1<<8|3)
	want(t, "MKNOD of a device", e, unix.EPERM)
	_, e = c.Call(fuse.Setxattr, f.Node, 0, fstest.U32(1, 0, 0, 0), fstest.Str("trusted.a"), []byte("v"))
	want(t, "SETXATTR trusted", e, unix.EPERM)
	_, e = c.Call(fuse.Getxattr, f.Node, 100, fstest.U32(100, 0), fstest.Str("trusted.a"))
	want(t, "GETXATTR trusted", e, unix.ENODATA)
	if st := lstat(t, filepath.Join(dir, "foreign")); st.Uid != 0 || st.Gid != 0 {
		t.Errorf("foreign belongs to %d:%d", st.Uid, st.Gid)
	}
}
