package virtiofs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// TestAttributes holds every attribute against lstat(2) for every type of file.
func TestAttributes(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	write(t, filepath.Join(dir, "file"), "0123456789")
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o1777))
	must(t, os.Symlink("file", filepath.Join(dir, "link")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	for _, name := range []string{"file", "dir", "link", "fifo"} {
		st := lstat(t, filepath.Join(dir, name))
		wantAttr := fstest.Attr{
			Ino: st.Ino, Size: uint64(st.Size), Blocks: uint64(st.Blocks),
			Atime: uint64(st.Atim.Sec), Mtime: uint64(st.Mtim.Sec), Ctime: uint64(st.Ctim.Sec),
			AtimeNsec: uint32(st.Atim.Nsec), MtimeNsec: uint32(st.Mtim.Nsec), CtimeNsec: uint32(st.Ctim.Nsec),
			Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Blksize: uint32(st.Blksize),
		}
		e, err := c.Lookup(root, name)
		ok(t, "LOOKUP", err)
		if e.Attr != wantAttr || e.EntryValid != 1 {
			t.Errorf("%s: LOOKUP\n got %+v\nwant %+v", name, e.Attr, wantAttr)
		}
		again, err := c.Lookup(root, name) // by the other path: the node is known
		if ok(t, "LOOKUP", err); again != e {
			t.Errorf("%s: LOOKUP again\n got %+v\nwant %+v", name, again, e)
		}
		a, err := c.Getattr(e.Node)
		if ok(t, "GETATTR", err); a != wantAttr {
			t.Errorf("%s: GETATTR\n got %+v\nwant %+v", name, a, wantAttr)
		}
		b, err := c.Call(fuse.Statx, e.Node, fuse.StatxOutSize, fstest.U32(0, 0), fstest.U64(0), fstest.U32(0, unix.STATX_BASIC_STATS|unix.STATX_BTIME))
		ok(t, "STATX", err)
		x := b[32:]
		if le.Uint64(x[32:]) != st.Ino || le.Uint64(x[40:]) != uint64(st.Size) || uint32(le.Uint16(x[28:])) != st.Mode || le.Uint64(b) != 1 {
			t.Errorf("%s: STATX ino %d size %d mode %o", name, le.Uint64(x[32:]), le.Uint64(x[40:]), le.Uint16(x[28:]))
		}
		if mask := le.Uint32(x); mask&unix.STATX_BTIME != 0 && le.Uint64(x[80:]) == 0 {
			t.Errorf("%s: no birth time in mask %#x", name, mask)
		}
	}
	b, e := c.Call(fuse.Statfs, root, 80)
	ok(t, "STATFS", e)
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if le.Uint64(b) != st.Blocks || le.Uint32(b[40:]) != uint32(st.Bsize) || le.Uint32(b[48:]) != uint32(st.Frsize) || le.Uint32(b[44:]) != 255 {
		t.Errorf("STATFS %x", b)
	}
}

func TestSetattr(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	write(t, filepath.Join(dir, "f"), "0123456789")
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	stat := func() *unix.Stat_t { return lstat(t, filepath.Join(dir, "f")) }

	a, e := c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrMode, Mode: unix.S_IFREG | 0o1640})
	if ok(t, "mode", e); stat().Mode != unix.S_IFREG|0o1640 || a.Mode != stat().Mode {
		t.Errorf("mode %o", a.Mode)
	}
	a, e = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrSize, Size: 4})
	if ok(t, "size", e); a.Size != 4 || read(t, filepath.Join(dir, "f")) != "0123" {
		t.Errorf("size %d", a.Size)
	}
	_, e = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrAtime | fuse.FattrMtime, Atime: 11, AtimeNsec: 12, Mtime: 13, MtimeNsec: 14})
	ok(t, "times", e)
	if st := stat(); st.Atim != (unix.Timespec{Sec: 11, Nsec: 12}) || st.Mtim != (unix.Timespec{Sec: 13, Nsec: 14}) {
		t.Errorf("times %v %v", st.Atim, st.Mtim)
	}
	_, e = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrMtime | fuse.FattrMtimeNow, Mtime: 1})
	ok(t, "mtime now", e)
	if st := stat(); st.Atim.Sec != 11 || st.Mtim.Sec < 1_600_000_000 {
		t.Errorf("times %v %v", st.Atim, st.Mtim)
	}
	before := stat()
	a, e = c.Setattr(f.Node, fstest.Set{})
	if ok(t, "nothing", e); a.Size != 4 || stat().Ctim != before.Ctim {
		t.Error("an empty SETATTR changed something")
	}
	d, e := c.Mkdir(root, "d", 0o755)
	ok(t, "MKDIR", e)
	_, e = c.Setattr(d.Node, fstest.Set{Valid: fuse.FattrSize})
	want(t, "truncate a directory", e, unix.EISDIR)
	if unix.Getuid() != 0 {
		t.Skip("SKIPPED: only root may give files away: chown is not tested")
	}
	for _, o := range []struct{ valid, uid, gid uint32 }{{fuse.FattrUID, 1000, 0}, {fuse.FattrGID, 1000, 2000}, {fuse.FattrUID | fuse.FattrGID, 3, 4}} {
		a, e = c.Setattr(f.Node, fstest.Set{Valid: o.valid, UID: o.uid, GID: o.gid})
		if ok(t, "owner", e); a.UID != o.uid || a.GID != o.gid {
			t.Errorf("owner %d:%d, want %d:%d", a.UID, a.GID, o.uid, o.gid)
		}
	}
	// Owner and mode at once: the mode is what is left.
	a, e = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrUID | fuse.FattrMode, UID: 5, Mode: 0o6755})
	if ok(t, "owner and mode", e); a.Mode&0o7777 != 0o6755 {
		t.Errorf("mode %o", a.Mode)
	}
}

// TestKillSuidgid: the set-id bits go when the guest says so, and only then,
// though this process could keep them.
func TestKillSuidgid(t *testing.T) {
	if unix.Getuid() != 0 {
		t.Skip("SKIPPED: the host's kernel clears the bits for a process that is not root")
	}
	dir, c := connect(t, passthrough.Options{})
	path := filepath.Join(dir, "f")
	write(t, path, "0123456789")
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_RDWR)
	ok(t, "OPEN", e)
	open := func(flags, kill uint32) unix.Errno {
		_, e := c.Call(fuse.Open, f.Node, 16, fstest.U32(flags, kill))
		return e
	}
	for _, k := range []struct {
		name     string
		from, to uint32
		do       func() unix.Errno
	}{
		{"WRITE kill", 0o6755, 0o755, func() unix.Errno {
			_, e := c.Write(f.Node, fh, 0, []byte("x"), 0, fuse.WriteKillSuidgid)
			return e
		}},
		{"WRITE kill, sgid without x", 0o6745, 0o2745, func() unix.Errno {
			_, e := c.Write(f.Node, fh, 0, []byte("x"), 0, fuse.WriteKillSuidgid)
			return e
		}},
		{"WRITE", 0o6755, 0o6755, func() unix.Errno { _, e := c.Write(f.Node, fh, 0, []byte("x"), 0, 0); return e }},
		{"truncate kill", 0o6755, 0o755, func() unix.Errno {
			_, e := c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrSize | fuse.FattrKillSuidgid, Size: 3})
			return e
		}},
		{"truncate by handle kill", 0o6755, 0o755, func() unix.Errno {
			_, e := c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrSize | fuse.FattrFH | fuse.FattrKillSuidgid, Fh: fh, Size: 2})
			return e
		}},
		{"truncate", 0o6755, 0o6755, func() unix.Errno {
			_, e := c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrSize, Size: 1})
			return e
		}},
		{"OPEN O_TRUNC kill", 0o6755, 0o755, func() unix.Errno { return open(unix.O_WRONLY|unix.O_TRUNC, fuse.OpenKillSuidgid) }},
		{"OPEN O_TRUNC", 0o6755, 0o6755, func() unix.Errno { return open(unix.O_WRONLY|unix.O_TRUNC, 0) }},
		{"chown", 0o6755, 0o755, func() unix.Errno {
			_, e := c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrUID | fuse.FattrKillSuidgid, UID: 1})
			return e
		}},
	} {
		must(t, unix.Chmod(path, k.from))
		ok(t, k.name, k.do())
		if got := lstat(t, path).Mode & 0o7777; got != k.to {
			t.Errorf("%s: mode %o, want %o", k.name, got, k.to)
		}
	}
}

func TestNamesChange(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	d, e := c.Mkdir(root, "d", 0o1770)
	ok(t, "MKDIR", e)
	if lstat(t, filepath.Join(dir, "d")).Mode != unix.S_IFDIR|0o1770 {
		t.Error("mode of the directory")
	}
	_, e = c.Mkdir(root, "d", 0o755)
	want(t, "MKDIR again", e, unix.EEXIST)
	s, e := c.Symlink(d.Node, "s", "../some where/else")
	ok(t, "SYMLINK", e)
	b, e := c.Call(fuse.Readlink, s.Node, 4096)
	if ok(t, "READLINK", e); string(b) != "../some where/else" {
		t.Errorf("READLINK %q", b)
	}
	b, e = c.Call(fuse.Readlink, s.Node, 4)
	if ok(t, "READLINK into little", e); string(b) != "../s" {
		t.Errorf("READLINK %q", b)
	}
	_, e = c.Call(fuse.Readlink, d.Node, 4096)
	want(t, "READLINK of a directory", e, unix.EINVAL)
	f, e := c.Mknod(d.Node, "f", unix.S_IFREG|0o600, 0)
	ok(t, "MKNOD", e)
	l, e := c.Link(f.Node, root, "l")
	if ok(t, "LINK", e); l.Node != f.Node || l.Attr.Nlink != 2 {
		t.Errorf("node %d links %d", l.Node, l.Attr.Nlink)
	}
	_, e = c.Link(d.Node, root, "dl")
	want(t, "LINK of a directory", e, unix.EPERM)
	want(t, "RENAME no replace", c.Rename(d.Node, "f", root, "l", unix.RENAME_NOREPLACE), unix.EEXIST)
	want(t, "RENAME with unknown flags", c.Rename(d.Node, "f", root, "l", 1<<30), unix.EINVAL)
	ok(t, "RENAME exchange", c.Rename(d.Node, "s", root, "l", unix.RENAME_EXCHANGE))
	if lstat(t, filepath.Join(dir, "l")).Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Error("not exchanged")
	}
	_, e = c.Call(fuse.Rename, d.Node, 0, fstest.U64(uint64(root)), fstest.Str("f"), fstest.Str("moved"))
	ok(t, "RENAME", e)
	m, e := c.Lookup(root, "moved")
	if ok(t, "LOOKUP", e); m.Node != f.Node {
		t.Error("renaming made another node")
	}
	_, e = c.Call(fuse.Rmdir, root, 0, fstest.Str("d"))
	want(t, "RMDIR of a full directory", e, unix.ENOTEMPTY)
	want(t, "UNLINK of a directory", c.Unlink(root, "d"), unix.EISDIR)
	ok(t, "UNLINK", c.Unlink(d.Node, "s"))
	want(t, "UNLINK again", c.Unlink(d.Node, "s"), unix.ENOENT)
	_, e = c.Call(fuse.Rmdir, root, 0, fstest.Str("d"))
	ok(t, "RMDIR", e)
	_, e = c.Mkdir(d.Node, "x", 0o755)
	want(t, "MKDIR in a removed directory", e, unix.ENOENT)
	_, e = c.Mkdir(9999, "x", 0o755)
	want(t, "MKDIR in nothing", e, unix.ESTALE)
	_, e = c.Lookup(m.Node, "x")
	want(t, "LOOKUP in a file", e, unix.ENOTDIR)
}

// TestReaddir lists directories of many sizes through buffers of many sizes and
// holds them against the host's own listing.
func TestReaddir(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	for _, n := range []int{0, 1, 10, 700} {
		name := fmt.Sprint("d", n)
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		var names []string
		for i := range n {
			entry := fmt.Sprintf("%d%s", i, strings.Repeat("x", i%250))
			names = append(names, entry)
			write(t, filepath.Join(dir, name, entry), "")
		}
		wantNames := append(names, ".", "..")
		sort.Strings(wantNames)
		d, e := c.Lookup(root, name)
		ok(t, "LOOKUP", e)
		for _, plus := range []bool{false, true} {
			for _, size := range []uint32{430, 600, 4096, 32 << 10, 1 << 20} {
				fh, e := c.Opendir(d.Node)
				ok(t, "OPENDIR", e)
				var got []string
				var cookies []uint64
				for cookie := uint64(0); ; {
					cookies = append(cookies, cookie)
					list, e := c.Readdir(d.Node, fh, cookie, size, plus)
					ok(t, "READDIR", e)
					if len(list) == 0 {
						break
					}
					for _, x := range list {
						got = append(got, x.Name)
						cookie = x.Next
						checkDirent(t, c, filepath.Join(dir, name), x, plus)
					}
				}
				sort.Strings(got)
				if strings.Join(got, "\n") != strings.Join(wantNames, "\n") {
					t.Fatalf("%s plus %v size %d: %d names, want %d", name, plus, size, len(got), len(wantNames))
				}
				// Any cookie again, as seekdir(3) does.
				back := cookies[len(cookies)/2]
				first, e := c.Readdir(d.Node, fh, back, size, false)
				ok(t, "READDIR", e)
				second, e := c.Readdir(d.Node, fh, back, size, false)
				ok(t, "READDIR", e)
				if fmt.Sprint(first) != fmt.Sprint(second) {
					t.Fatal("the same cookie gave different entries")
				}
				ok(t, "RELEASEDIR", c.Release(d.Node, fh, true))
			}
		}
	}
	fh, e := c.Opendir(root)
	ok(t, "OPENDIR", e)
	_, e = c.Readdir(root, fh, 0, 20, false)
	want(t, "READDIR into too little", e, unix.EINVAL)
	_, e = c.Readdir(root, fh, ^uint64(0), 4096, false)
	want(t, "READDIR from -1", e, unix.EINVAL)
	_, e = c.Call(fuse.Fsyncdir, root, 0, fstest.U64(fh), fstest.U32(0, 0))
	ok(t, "FSYNCDIR", e)
	want(t, "RELEASE of a directory's handle", c.Release(root, fh, false), unix.EBADF)
}

// checkDirent holds one entry against the host and gives its lookup back.
func checkDirent(t *testing.T, c *fstest.Conn, dir string, x fstest.Dirent, plus bool) {
	t.Helper()
	st := lstat(t, filepath.Join(dir, x.Name))
	dots := x.Name == "." || x.Name == ".."
	if x.Type != st.Mode>>12 || x.Ino != st.Ino {
		t.Fatalf("%s: type %d inode %d", x.Name, x.Type, x.Ino)
	}
	if !plus {
		return
	}
	if (x.Entry.Node == 0) != dots {
		t.Fatalf("%s: node %d", x.Name, x.Entry.Node)
	}
	if !dots {
		if x.Entry.Attr.Mode != st.Mode || x.Entry.Attr.Ino != st.Ino {
			t.Fatalf("%s: attributes %+v", x.Name, x.Entry.Attr)
		}
		c.Forget(x.Entry.Node, 1)
	}
}

func TestXattr(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	write(t, filepath.Join(dir, "f"), "")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	if err := unix.Setxattr(filepath.Join(dir, "f"), "user.probe", []byte("x"), 0); err != nil {
		t.Skipf("SKIPPED: no user extended attributes on this file system: %v", err)
	}
	set := func(n virtiofs.NodeID, name, value string, flags uint32) unix.Errno {
		_, e := c.Call(fuse.Setxattr, n, 0, fstest.U32(uint32(len(value)), flags, 0, 0), fstest.Str(name), []byte(value))
		return e
	}
	get := func(n virtiofs.NodeID, name string, size uint32) (string, unix.Errno) {
		b, e := c.Call(fuse.Getxattr, n, int(max(size, 8)), fstest.U32(size, 0), fstest.Str(name))
		return string(b), e
	}
	list := func(n virtiofs.NodeID, size uint32) (string, unix.Errno) {
		b, e := c.Call(fuse.Listxattr, n, int(max(size, 8)), fstest.U32(size, 0))
		return string(b), e
	}
	for _, name := range []string{"f", "d"} {
		f, e := c.Lookup(root, name)
		ok(t, "LOOKUP", e)
		ok(t, "SETXATTR", set(f.Node, "user.a", "value", 0))
		want(t, "SETXATTR create", set(f.Node, "user.a", "v", unix.XATTR_CREATE), unix.EEXIST)
		want(t, "SETXATTR replace", set(f.Node, "user.no", "v", unix.XATTR_REPLACE), unix.ENODATA)
		ok(t, "SETXATTR empty", set(f.Node, "user.e", "", 0))
		v, e := get(f.Node, "user.a", 100)
		if ok(t, "GETXATTR", e); v != "value" {
			t.Errorf("value %q", v)
		}
		v, e = get(f.Node, "user.a", 0)
		if ok(t, "GETXATTR size", e); v != string(fstest.U64(5)) {
			t.Errorf("size %x", v)
		}
		_, e = get(f.Node, "user.a", 4)
		want(t, "GETXATTR into too little", e, unix.ERANGE)
		_, e = get(f.Node, "user.none", 100)
		want(t, "GETXATTR of none", e, unix.ENODATA)
		_, e = get(f.Node, "user.a", ^uint32(0)>>8)
		ok(t, "GETXATTR of 16 MiB", e)
		_, e = get(f.Node, "system.posix_acl_access", 100)
		want(t, "GETXATTR of an ACL", e, unix.EOPNOTSUPP)
		want(t, "SETXATTR of an ACL", set(f.Node, "system.posix_acl_access", "v", 0), unix.EOPNOTSUPP)
		l, e := list(f.Node, 1000)
		if ok(t, "LISTXATTR", e); !strings.Contains(l, "user.a\x00") || !strings.Contains(l, "user.e\x00") {
			t.Errorf("list %q", l)
		}
		_, e = list(f.Node, 3)
		want(t, "LISTXATTR into too little", e, unix.ERANGE)
		l, e = list(f.Node, 0)
		if ok(t, "LISTXATTR size", e); le.Uint32([]byte(l)) < 14 {
			t.Errorf("size %x", l)
		}
		_, e = c.Call(fuse.Removexattr, f.Node, 0, fstest.Str("user.a"))
		ok(t, "REMOVEXATTR", e)
		_, e = get(f.Node, "user.a", 100)
		want(t, "GETXATTR of a removed one", e, unix.ENODATA)
		_, e = c.Call(fuse.Setxattr, f.Node, 0, fstest.U32(1, 0, 0, 0), fstest.Str("user."+strings.Repeat("n", 251)), []byte("v"))
		want(t, "name of 256 bytes", e, unix.ENAMETOOLONG)
	}
	// The 8-byte form, for a guest that was not promised the other.
	_, e := c.Init(fuse.AsyncRead)
	ok(t, "INIT", e)
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	_, e = c.Call(fuse.Setxattr, f.Node, 0, fstest.U32(5, 0), fstest.Str("user.short"), []byte("value"))
	ok(t, "SETXATTR of the short form", e)
	if v, e := get(f.Node, "user.short", 100); e != 0 || v != "value" {
		t.Errorf("value %q %v", v, e)
	}
}

func TestAccess(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	path := filepath.Join(dir, "f")
	write(t, path, "")
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	me := uint32(os.Getuid())
	for _, a := range []struct {
		mode, uid, gid, mask uint32
		err                  unix.Errno
	}{
		{0o700, me + 1, ^uint32(1), 4, unix.EACCES}, {0o704, me + 1, ^uint32(1), 4, 0},
		{0o754, me + 1, uint32(os.Getgid()), 5, 0}, {0o754, me + 1, uint32(os.Getgid()), 2, unix.EACCES},
		{0o000, 0, 0, 6, 0}, {0o000, 0, 0, 1, unix.EACCES}, {0o001, 0, 0, 1, 0}, {0o777, 0, 0, 8, unix.EINVAL},
	} {
		must(t, unix.Chmod(path, a.mode))
		if a.uid == 0 && me != 0 {
			continue
		}
		c.UID, c.GID = a.uid, a.gid
		_, e := c.Call(fuse.Access, f.Node, 0, fstest.U32(a.mask, 0))
		want(t, fmt.Sprintf("ACCESS %o of %o as %d:%d", a.mask, a.mode, a.uid, a.gid), e, a.err)
	}
}

// TestKillSuidgidWithoutFlag: FALLOCATE and COPY_FILE_RANGE have no flag that
// says the caller may not keep the set-id bits.
func TestKillSuidgidWithoutFlag(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	path := filepath.Join(dir, "suid")
	write(t, path, "aaaa")
	write(t, filepath.Join(dir, "source"), "bbbb")
	n, e := c.Lookup(root, "suid")
	ok(t, "LOOKUP", e)
	h, e := c.Open(n.Node, unix.O_RDWR)
	ok(t, "OPEN", e)
	s, e := c.Lookup(root, "source")
	ok(t, "LOOKUP", e)
	hs, e := c.Open(s.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	calls := map[string]func() unix.Errno{
		"FALLOCATE": func() unix.Errno {
			_, e := c.Call(fuse.Fallocate, n.Node, 0, fstest.U64(h, 0, 4096), fstest.U32(0, 0))
			return e
		},
		"COPY_FILE_RANGE": func() unix.Errno {
			_, e := c.Call(fuse.CopyFileRange, s.Node, 8, fstest.U64(hs, 0, uint64(n.Node), h, 0, 4, 0))
			return e
		},
	}
	for name, call := range calls {
		for uid, mode := range map[uint32]uint32{1000: 0o777, 0: 0o6777} {
			must(t, unix.Chmod(path, 0o6777))
			c.UID, c.GID = uid, uid
			ok(t, name, call())
			if got := lstat(t, path).Mode & 0o7777; got != mode {
				t.Errorf("%s by uid %d: mode %o, want %o", name, uid, got, mode)
			}
		}
	}
}
