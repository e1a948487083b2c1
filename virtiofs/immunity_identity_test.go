package virtiofs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
	"tenon/virtiofs/xattrmap"
)

// capability is a value of security.capability: version 2, effective,
// CAP_NET_RAW (linux/capability.h, struct vfs_cap_data).
var capability = fstest.U32(0x02000001, 1<<unix.CAP_NET_RAW, 0, 0, 0)

// TestImmunity07FileCapabilities: whatever changes a file's contents or owner takes its
// capabilities, whether the guest asks for that or not and wherever the share
// keeps them; so the changed program does not run with them (CVE-2021-20263).
func TestImmunity07FileCapabilities(t *testing.T) {
	needRoot(t, "capabilities of files cannot be set")
	mapped, err := xattrmap.Parse(":map::user.virtiofs.:")
	must(t, err)
	for where, o := range map[string]struct {
		xattrs *xattrmap.Map
		host   string
	}{
		"as they are": {nil, "security.capability"},
		"mapped":      {mapped, "user.virtiofs.security.capability"},
	} {
		dir, c := connect(t, passthrough.Options{Xattrs: o.xattrs})
		path := filepath.Join(dir, "f")
		write(t, path, "0123456789")
		write(t, filepath.Join(dir, "source"), "bbbb")
		f, e := c.Lookup(root, "f")
		ok(t, "LOOKUP", e)
		for _, kill := range []bool{false, true} {
			for name, change := range changes(t, c, f.Node, kill) {
				must(t, unix.Chmod(path, 0o755))
				_, e = c.Call(fuse.Setxattr, f.Node, 0, fstest.U32(uint32(len(capability)), 0, 0, 0), fstest.Str("security.capability"), capability)
				ok(t, "SETXATTR", e)
				if n, err := unix.Lgetxattr(path, o.host, nil); n == 0 || err != nil {
					t.Fatalf("%s: %s on the host: %d, %v", where, o.host, n, err)
				}
				ok(t, name, change())
				if _, err := unix.Lgetxattr(path, o.host, nil); err != unix.ENODATA {
					t.Errorf("%s, kill %v: after %s the capabilities are there: %v", where, kill, name, err)
				}
				_, e = c.Call(fuse.Getxattr, f.Node, 8, fstest.U32(0, 0), fstest.Str("security.capability"))
				want(t, where+": GETXATTR after "+name, e, unix.ENODATA)
			}
		}
	}
}

// changes is every way to change a file of 10 bytes, with or without the flag
// that its caller may not keep set-id bits.
func changes(t *testing.T, c *fstest.Conn, n virtiofs.NodeID, kill bool) map[string]func() unix.Errno {
	t.Helper()
	fh, e := c.Open(n, unix.O_RDWR)
	ok(t, "OPEN", e)
	source, e := c.Lookup(root, "source")
	ok(t, "LOOKUP", e)
	from, e := c.Open(source.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	var open, write, set uint32
	if kill {
		open, write, set = fuse.OpenKillSuidgid, fuse.WriteKillSuidgid, fuse.FattrKillSuidgid
	}
	setattr := func(s fstest.Set) unix.Errno {
		s.Valid |= set
		_, e := c.Setattr(n, s)
		return e
	}
	return map[string]func() unix.Errno{
		"WRITE":               func() unix.Errno { _, e := c.Write(n, fh, 0, []byte("x"), 0, write); return e },
		"delayed WRITE":       func() unix.Errno { _, e := c.Write(n, fh, 0, []byte("x"), 0, write|fuse.WriteCache); return e },
		"truncate":            func() unix.Errno { return setattr(fstest.Set{Valid: fuse.FattrSize, Size: 3}) },
		"truncate, by handle": func() unix.Errno { return setattr(fstest.Set{Valid: fuse.FattrSize | fuse.FattrFH, Fh: fh, Size: 4}) },
		"chown":               func() unix.Errno { return setattr(fstest.Set{Valid: fuse.FattrUID, UID: 1000}) },
		"chgrp":               func() unix.Errno { return setattr(fstest.Set{Valid: fuse.FattrGID, GID: 1000}) },
		"OPEN O_TRUNC": func() unix.Errno {
			_, e := c.Call(fuse.Open, n, fuse.OpenOutSize, fstest.U32(unix.O_WRONLY|unix.O_TRUNC, open))
			return e
		},
		"CREATE O_TRUNC": func() unix.Errno {
			_, e := c.Call(fuse.Create, root, fuse.EntryOutSize+fuse.OpenOutSize, fstest.U32(unix.O_WRONLY|unix.O_TRUNC, 0o644, 0, open), fstest.Str("f"))
			return e
		},
		"FALLOCATE": func() unix.Errno {
			_, e := c.Call(fuse.Fallocate, n, 0, fstest.U64(fh, 0, 4096), fstest.U32(0, 0))
			return e
		},
		"COPY_FILE_RANGE": func() unix.Errno {
			_, e := c.Call(fuse.CopyFileRange, source.Node, 8, fstest.U64(from, 0, uint64(n), fh, 0, 4, 0))
			return e
		},
	}
}

// TestImmunity08Credentials: a guest's user gets no group of the host's process
// into what it creates (CVE-2022-0358), and after 100,000 requests for many
// users, right and wrong ones, every thread is who it was.
func TestImmunity08Credentials(t *testing.T) {
	needRoot(t, "nothing is created for another user")
	own, err := unix.Getgroups()
	must(t, err)
	must(t, syscall.Setgroups([]int{50})) // of every thread, unlike that of x/sys
	defer func() { must(t, syscall.Setgroups(own)) }()
	dir, c := connect(t, passthrough.Options{})
	must(t, os.Mkdir(filepath.Join(dir, "team"), 0o755))
	must(t, unix.Chown(filepath.Join(dir, "team"), 0, 50))
	must(t, unix.Chmod(filepath.Join(dir, "team"), 0o2777))
	team, e := c.Lookup(root, "team")
	ok(t, "LOOKUP", e)
	before := threads(t)
	var guests sync.WaitGroup
	for g := range 4 {
		guest := fstest.Dial(t, c.S)
		guests.Go(func() { mixedRequests(guest, team.Node, g, 25000/20) })
	}
	guests.Wait()
	for tid, now := range threads(t) {
		if was, known := before[tid]; known && now != was {
			t.Errorf("thread %s is\n%snot\n%s", tid, now, was)
		} else if !known && now != before["self"] {
			t.Errorf("new thread %s is\n%snot\n%s", tid, now, before["self"])
		}
	}
	c.UID, c.GID = 1000, 1000
	_, _, e = c.Create(team.Node, "last", unix.O_RDWR, 0o2755)
	ok(t, "CREATE", e)
	if st := lstat(t, filepath.Join(dir, "team", "last")); st.Uid != 1000 || st.Gid != 50 || st.Mode&unix.S_ISGID != 0 {
		t.Errorf("created by 1000:1000 in an SGID directory of group 50: %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
}

// mixedRequests sends twenty times n requests for several users.
func mixedRequests(c *fstest.Conn, dir virtiofs.NodeID, guest, n int) {
	for i := range n {
		c.UID, c.GID, c.Ext = uint32(i%7)*1000, uint32(i%5)*100, nil
		if i%3 == 0 {
			c.Ext = append(fstest.U32(16, fuse.ExtGroups), fstest.U32(1, 50)...)
		}
		if i%11 == 0 {
			c.UID = ^uint32(0) // is refused
		}
		name := fmt.Sprint(guest, "-", i%3)
		if f, fh, e := c.Create(dir, name, unix.O_RDWR, 0o2755); e == 0 {
			_ = c.Release(f.Node, fh, false)
			c.Forget(f.Node, 1)
		}
		_, _ = c.Mkdir(dir, name, 0o755) // there already
		if s, e := c.Symlink(dir, name+"s", "x"); e == 0 {
			c.Forget(s.Node, 1)
		}
		for range 4 {
			_, _ = c.Lookup(dir, "missing")
			_, _ = c.Getattr(dir)
			_, _ = c.Call(fuse.Access, dir, 0, fstest.U32(unix.W_OK, 0))
		}
		_ = c.Unlink(dir, name+"s")
		_ = c.Unlink(dir, name)
	}
}

// threads is the identity of every thread of this process, and of the caller's
// as "self".
func threads(t *testing.T) map[string]string {
	t.Helper()
	list, err := os.ReadDir("/proc/self/task")
	must(t, err)
	all := map[string]string{"self": credentials(t)}
	for _, task := range list {
		var b strings.Builder
		status, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if err != nil {
			continue // ended
		}
		for line := range strings.Lines(string(status)) {
			switch key, _, _ := strings.Cut(line, ":"); key {
			case "Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapInh":
				b.WriteString(line)
			}
		}
		all[task.Name()] = b.String()
	}
	return all
}
