package virtiofs_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// credentials is what the kernel says of the calling thread's identity.
func credentials(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(read(t, "/proc/thread-self/status")) {
		switch key, _, _ := strings.Cut(line, ":"); key {
		case "Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapInh":
			b.WriteString(line)
		}
	}
	return b.String()
}

func needRoot(t *testing.T, what string) {
	t.Helper()
	if unix.Getuid() != 0 {
		t.Skip("SKIPPED: not root: " + what)
	}
}

// TestIdentity: what is created belongs to the guest's caller, by the rules of
// the host's kernel, and the thread is who it was afterwards.
func TestIdentity(t *testing.T) {
	needRoot(t, "who owns what a guest creates is not tested")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir, c := connect(t, passthrough.Options{})
	// A directory that only a member of group 50 may write to, with SGID, so
	// that the group is inherited.
	must(t, os.Mkdir(filepath.Join(dir, "team"), 0o755))
	must(t, unix.Chown(filepath.Join(dir, "team"), 0, 50))
	must(t, unix.Chmod(filepath.Join(dir, "team"), 0o2770))
	team, e := c.Lookup(root, "team")
	ok(t, "LOOKUP", e)
	before := credentials(t)

	groups := append(fstest.U32(16, fuse.ExtGroups), fstest.U32(1, 50)...)
	for i, who := range []struct {
		uid, gid uint32
		ext      []byte
		sgid     uint32 // S_ISGID survives on an executable of the team's group
	}{
		{0, 0, nil, unix.S_ISGID}, {1000, 1000, groups, unix.S_ISGID}, {1000, 1000, nil, 0},
		{0, 77, nil, unix.S_ISGID}, {77, 0, nil, 0},
	} {
		c.UID, c.GID, c.Ext = who.uid, who.gid, who.ext
		name := string(rune('a' + i))
		made := map[string]func(parent virtiofs.NodeID, name string) unix.Errno{
			"file": func(p virtiofs.NodeID, n string) unix.Errno {
				_, fh, e := c.Create(p, n, unix.O_RDWR|unix.O_EXCL, 0o2755)
				if e == 0 && p == team.Node {
					if got := lstat(t, filepath.Join(dir, "team", n)).Mode & unix.S_ISGID; got != who.sgid {
						t.Errorf("%d:%d: SGID bit %o, want %o", who.uid, who.gid, got, who.sgid)
					}
				}
				_ = fh
				return e
			},
			"dir":  func(p virtiofs.NodeID, n string) unix.Errno { _, e := c.Mkdir(p, n, 0o755); return e },
			"fifo": func(p virtiofs.NodeID, n string) unix.Errno { _, e := c.Mknod(p, n, unix.S_IFIFO|0o600, 0); return e },
			"link": func(p virtiofs.NodeID, n string) unix.Errno { _, e := c.Symlink(p, n, "target"); return e },
		}
		for what, make := range made {
			ok(t, what, make(root, name+what))
			ok(t, what+" in the team's directory", make(team.Node, name+what))
			own := lstat(t, filepath.Join(dir, name+what))
			if own.Uid != who.uid || own.Gid != who.gid {
				t.Errorf("%s of %d:%d belongs to %d:%d", what, who.uid, who.gid, own.Uid, own.Gid)
			}
			shared := lstat(t, filepath.Join(dir, "team", name+what))
			if shared.Uid != who.uid || shared.Gid != 50 {
				t.Errorf("%s of %d:%d in the team's directory belongs to %d:%d", what, who.uid, who.gid, shared.Uid, shared.Gid)
			}
			if now := credentials(t); now != before {
				t.Fatalf("after %s as %d:%d the thread is\n%snot\n%s", what, who.uid, who.gid, now, before)
			}
		}
	}
	// Refused ids and failed calls leave no trace either.
	c.UID, c.GID, c.Ext = ^uint32(0), 5, nil
	_, e = c.Mkdir(root, "nobody", 0o755)
	want(t, "MKDIR as -1", e, unix.EINVAL)
	c.UID, c.GID = 1000, 1000
	_, e = c.Mkdir(root, "team", 0o755)
	want(t, "MKDIR of what is there", e, unix.EEXIST)
	if now := credentials(t); now != before {
		t.Fatalf("after failures the thread is\n%snot\n%s", now, before)
	}
}

// TestSubmount: a mount point below the share is crossed and marked, and a file
// with the same inode number on the other side is another node.
func TestSubmount(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	mnt := filepath.Join(dir, "mnt")
	must(t, os.Mkdir(mnt, 0o755))
	plain, e := c.Mkdir(root, "plain", 0o755)
	ok(t, "MKDIR", e)
	if err := unix.Mount("tenon-test", mnt, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED: no mounting here (%v): mounts below the share are not tested", err)
	}
	defer func() { must(t, unix.Unmount(mnt, unix.MNT_DETACH)) }()
	write(t, filepath.Join(mnt, "inside"), "x")
	m, e := c.Lookup(root, "mnt")
	ok(t, "LOOKUP", e)
	again, e := c.Lookup(root, "mnt")
	ok(t, "LOOKUP", e)
	f, e := c.Lookup(m.Node, "inside")
	ok(t, "LOOKUP", e)
	for name, x := range map[string]struct {
		flags, want uint32
	}{"mount point": {m.Attr.AttrFlags, 1}, "mount point again": {again.Attr.AttrFlags, 1},
		"file in it": {f.Attr.AttrFlags, 0}, "plain directory": {plain.Attr.AttrFlags, 0}} {
		if x.flags != x.want {
			t.Errorf("%s: attr.flags %d", name, x.flags)
		}
	}
	_, e = c.Call(fuse.Syncfs, m.Node, 0, fstest.U64(0))
	ok(t, "SYNCFS", e)
	_, e = c.Link(f.Node, root, "across")
	want(t, "LINK across", e, unix.EXDEV)
}
