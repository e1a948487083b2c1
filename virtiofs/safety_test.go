package virtiofs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// tree lists every path below dir with its type, mode, size and link target.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		target, _ := os.Readlink(p)
		b.WriteString(strings.Join([]string{p, fi.Mode().String(), target, fi.ModTime().String(), "\n"}, " "))
		if fi.Mode().IsRegular() {
			b.WriteString(read(t, p))
		}
		return nil
	}))
	return b.String()
}

// nameOps has a request for every operation that takes path components, with
// the name in every place it can stand.
func nameOps(node virtiofs.NodeID, name []byte) map[string]func(c *fstest.Conn) unix.Errno {
	call := func(op fuse.Opcode, args ...[]byte) func(c *fstest.Conn) unix.Errno {
		return func(c *fstest.Conn) unix.Errno {
			_, e := c.Call(op, root, 200, args...)
			return e
		}
	}
	good := fstest.Str("good")
	return map[string]func(c *fstest.Conn) unix.Errno{
		"LOOKUP":       call(fuse.Lookup, name),
		"MKNOD":        call(fuse.Mknod, fstest.U32(unix.S_IFREG|0o644, 0, 0, 0), name),
		"MKDIR":        call(fuse.Mkdir, fstest.U32(0o755, 0), name),
		"SYMLINK":      call(fuse.Symlink, name, fstest.Str("target")),
		"UNLINK":       call(fuse.Unlink, name),
		"RMDIR":        call(fuse.Rmdir, name),
		"LINK":         call(fuse.Link, fstest.U64(uint64(node)), name),
		"CREATE":       call(fuse.Create, fstest.U32(unix.O_RDWR, 0o644, 0, 0), name),
		"RENAME from":  call(fuse.Rename, fstest.U64(1), name, good),
		"RENAME to":    call(fuse.Rename, fstest.U64(1), good, name),
		"RENAME2 from": call(fuse.Rename2, fstest.U64(1), fstest.U32(0, 0), name, good),
		"RENAME2 to":   call(fuse.Rename2, fstest.U64(1), fstest.U32(0, 0), good, name),
	}
}

// TestNames: a name that is not one component is refused by every operation,
// and nothing outside the share changes.
func TestNames(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	outside := filepath.Dir(dir)
	must(t, os.MkdirAll(filepath.Join(outside, "canary", "sub"), 0o755))
	write(t, filepath.Join(outside, "canary", "file"), "untouched")
	write(t, filepath.Join(dir, "good"), "g")
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	good, e := c.Lookup(root, "good")
	ok(t, "LOOKUP", e)
	before := tree(t, outside)

	for _, n := range []struct {
		name string
		wire []byte
		err  unix.Errno
	}{
		{"empty", []byte{0}, unix.EINVAL},
		{"dot", fstest.Str("."), unix.EINVAL},
		{"dot dot", fstest.Str(".."), unix.EINVAL},
		{"slash", fstest.Str("sub/x"), unix.EINVAL},
		{"slash alone", fstest.Str("/"), unix.EINVAL},
		{"slash behind", fstest.Str("sub/"), unix.EINVAL},
		{"parent's file", fstest.Str("../canary/file"), unix.EINVAL},
		{"parent's new", fstest.Str("../new"), unix.EINVAL},
		{"absolute", fstest.Str(filepath.Join(outside, "new")), unix.EINVAL},
		{"256 bytes", fstest.Str(strings.Repeat("n", 256)), unix.ENAMETOOLONG},
		{"5000 bytes", fstest.Str(strings.Repeat("n", 5000)), unix.ENAMETOOLONG},
		{"without NUL", []byte("abc"), unix.EINVAL},
	} {
		for op, send := range nameOps(good.Node, n.wire) {
			if n.name == "without NUL" && (op == "SYMLINK" || strings.HasSuffix(op, "from")) {
				continue // the next string's bytes end it
			}
			want(t, op+" "+n.name, send(c), n.err)
		}
	}
	if after := tree(t, outside); after != before {
		t.Errorf("the host changed:\n%s\nbefore:\n%s", after, before)
	}
	// 255 bytes are the longest good name.
	_, e = c.Mkdir(root, strings.Repeat("n", 255), 0o755)
	ok(t, "MKDIR with 255 bytes", e)
	// An embedded NUL ends the name.
	_, e = c.Call(fuse.Lookup, root, 200, []byte("good\x00/../x\x00"))
	want(t, "bytes after the NUL", e, 0)
}

// TestSymlinks: a link of the host's is shown, never followed.
func TestSymlinks(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	secret := filepath.Join(filepath.Dir(dir), "secret")
	must(t, os.Mkdir(secret, 0o755))
	write(t, filepath.Join(secret, "file"), "secret")
	for name, target := range map[string]string{"toDir": secret, "toFile": secret + "/file", "toRoot": "/", "up": "..", "dangling": "nowhere"} {
		must(t, os.Symlink(target, filepath.Join(dir, name)))
		before := tree(t, secret)
		l, e := c.Lookup(root, name)
		ok(t, "LOOKUP "+name, e)
		if l.Attr.Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Fatalf("%s: mode %o", name, l.Attr.Mode)
		}
		b, e := c.Call(fuse.Readlink, l.Node, 4096)
		if ok(t, "READLINK", e); string(b) != target {
			t.Errorf("READLINK %s = %q", name, b)
		}
		_, e = c.Open(l.Node, unix.O_RDONLY)
		want(t, "OPEN "+name, e, unix.ELOOP)
		_, e = c.Opendir(l.Node)
		want(t, "OPENDIR "+name, e, unix.ENOTDIR)
		_, e = c.Lookup(l.Node, "file")
		want(t, "LOOKUP through "+name, e, unix.ENOTDIR)
		_, e = c.Mkdir(l.Node, "new", 0o755)
		want(t, "MKDIR through "+name, e, unix.ENOTDIR)
		_, e = c.Setattr(l.Node, fstest.Set{Valid: fuse.FattrSize})
		want(t, "truncate "+name, e, unix.ELOOP)
		_, e = c.Call(fuse.Setxattr, l.Node, 0, fstest.U32(1, 0, 0, 0), fstest.Str("user.a"), []byte("v"))
		want(t, "SETXATTR "+name, e, unix.EPERM) // user.* is for files and directories
		_, _, e = c.Create(root, name, unix.O_RDWR, 0o644)
		want(t, "CREATE "+name, e, unix.EEXIST)
		h, e := c.Link(l.Node, root, name+"-hard")
		ok(t, "LINK "+name, e)
		if h.Node != l.Node {
			t.Errorf("%s: the hard link is another node", name)
		}
		// Owner and times of the link itself.
		_, e = c.Setattr(l.Node, fstest.Set{Valid: fuse.FattrMtime | fuse.FattrUID, Mtime: 1000, UID: uint32(unix.Getuid())})
		ok(t, "SETATTR "+name, e)
		if st := lstat(t, filepath.Join(dir, name)); st.Mtim.Sec != 1000 {
			t.Errorf("%s: mtime of the link is %d", name, st.Mtim.Sec)
		}
		if after := tree(t, secret); after != before {
			t.Errorf("%s: the target changed", name)
		}
	}
}

// TestSwap: a directory that the host exchanges for a link all the time never
// shows what is behind the link.
func TestSwap(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	secret := filepath.Join(filepath.Dir(dir), "secret")
	for _, d := range []string{secret, filepath.Join(dir, "a")} {
		must(t, os.Mkdir(d, 0o755))
	}
	write(t, filepath.Join(secret, "inside"), "")
	must(t, os.Symlink(secret, filepath.Join(dir, "b")))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "a"), unix.AT_FDCWD, filepath.Join(dir, "b"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 2000 {
		d, e := c.Lookup(root, "a")
		if e != 0 {
			continue
		}
		if _, e := c.Lookup(d.Node, "inside"); e == 0 {
			t.Fatal("the guest got behind the link")
		}
		c.Forget(d.Node, 1)
	}
	close(stop)
	<-done
}

// TestSpecialFiles: FIFOs, sockets and devices are shown and never opened, at once.
func TestSpecialFiles(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666))
	must(t, unix.Mknod(filepath.Join(dir, "sock"), unix.S_IFSOCK|0o666, 0))
	names := []string{"fifo", "sock"}
	if unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) == nil {
		names = append(names, "null")
	} else {
		t.Log("SKIPPED: no right to make a device: OPEN of a device is not tested")
	}
	for _, name := range names {
		f, e := c.Lookup(root, name)
		ok(t, "LOOKUP "+name, e)
		opened := make(chan unix.Errno)
		go func() {
			for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
				_, e := c.Open(f.Node, flags)
				opened <- e
			}
		}()
		for range 3 {
			select {
			case e := <-opened:
				want(t, "OPEN "+name, e, unix.ENXIO)
			case <-time.After(10 * time.Second):
				t.Fatalf("OPEN %s hangs", name)
			}
		}
		_, _, e = c.Create(root, name, unix.O_RDWR, 0o644)
		want(t, "CREATE "+name, e, unix.EEXIST)
	}
}

func TestMknodDevices(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	for _, m := range []struct {
		name       string
		mode, rdev uint32
		err        unix.Errno
	}{
		{"char", unix.S_IFCHR, 1<<8 | 3, unix.EPERM}, {"block", unix.S_IFBLK, 1 << 8, unix.EPERM}, {"block0", unix.S_IFBLK, 0, unix.EPERM},
		{"fifo", unix.S_IFIFO, 0, 0}, {"sock", unix.S_IFSOCK, 0, 0}, {"reg", unix.S_IFREG, 0, 0},
		{"dir", unix.S_IFDIR, 0, unix.EINVAL}, {"link", unix.S_IFLNK, 0, unix.EINVAL},
	} {
		e, err := c.Mknod(root, m.name, m.mode|0o640, m.rdev)
		if want(t, "MKNOD "+m.name, err, m.err); err == 0 && e.Attr.Mode != m.mode|0o640 {
			t.Errorf("%s: mode %o", m.name, e.Attr.Mode)
		}
		if made := unix.Access(filepath.Join(dir, m.name), unix.F_OK) == nil; made != (m.err == 0) {
			t.Errorf("%s: made is %v", m.name, made)
		}
	}
	if unix.Getuid() != 0 {
		t.Skip("SKIPPED: only root may make devices: the Devices option is not tested")
	}
	dir, c = connect(t, passthrough.Options{Devices: true})
	// 0x12345 as minor needs both halves of the encoding.
	e, err := c.Mknod(root, "char", unix.S_IFCHR|0o600, 0x45|7<<8|0x12300<<12)
	ok(t, "MKNOD", err)
	if st := lstat(t, filepath.Join(dir, "char")); unix.Major(st.Rdev) != 7 || unix.Minor(st.Rdev) != 0x12345 {
		t.Errorf("device %d:%#x", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if e.Attr.Rdev != 0x45|7<<8|0x12300<<12 {
		t.Errorf("rdev %#x", e.Attr.Rdev)
	}
}

// TestReadOnly: every operation whose row says that it mutates, and every way
// to open for writing, is EROFS and does nothing; reading works.
func TestReadOnly(t *testing.T) {
	dir, c := connect(t, passthrough.Options{ReadOnly: true})
	write(t, filepath.Join(dir, "f"), "data")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	before := tree(t, dir)
	fill := make([]byte, 0, 200)
	for op := fuse.Opcode(1); op < fuse.Opcodes; op++ {
		row := fuse.Row(op)
		if !row.Mutates {
			continue
		}
		in := int(row.In)
		if op == fuse.Setxattr {
			in = fuse.SetxattrExtSize
		}
		args := append(fill, make([]byte, in)...)
		for _, k := range row.Names {
			switch k {
			case fuse.Component, fuse.Ignored:
				args = append(args, "f\x00"...)
			case fuse.Target, fuse.XattrName:
				args = append(args, "user.x\x00"...)
			}
		}
		_, e := c.Call(op, f.Node, 200, args)
		want(t, op.String(), e, unix.EROFS)
	}
	for _, flags := range []uint32{unix.O_WRONLY, unix.O_RDWR, unix.O_ACCMODE, unix.O_TRUNC, unix.O_CREAT, unix.O_TMPFILE | unix.O_RDWR} {
		_, e := c.Open(f.Node, flags)
		want(t, "OPEN", e, unix.EROFS)
	}
	_, e = c.Call(fuse.Access, f.Node, 0, fstest.U32(unix.W_OK, 0))
	want(t, "ACCESS", e, unix.EROFS)
	_, e = c.Call(fuse.Access, f.Node, 0, fstest.U32(unix.R_OK, 0))
	want(t, "ACCESS", e, 0)
	if after := tree(t, dir); after != before {
		t.Errorf("the host changed:\n%s\nbefore:\n%s", after, before)
	}
	b, e := c.Read(f.Node, fh, 0, 100)
	if ok(t, "READ", e); string(b) != "data" {
		t.Errorf("READ %q", b)
	}
}

// TestGraft: a graft is there, is read-only in every way, and its name is taken.
func TestGraft(t *testing.T) {
	host := filepath.Join(t.TempDir(), "binary")
	write(t, host, "#!init")
	dir, c := connect(t, passthrough.Options{Grafts: []passthrough.Graft{{Name: "init", File: host}}})
	write(t, filepath.Join(dir, "init"), "the share's own")
	write(t, filepath.Join(dir, "f"), "f")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	g, e := c.Lookup(root, "init")
	ok(t, "LOOKUP", e)
	if a := g.Attr; a.Mode != unix.S_IFREG|0o555 || a.Size != 6 || a.UID != 0 || a.Nlink != 1 {
		t.Errorf("attributes %+v", a)
	}
	fh, e := c.Open(g.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	b, e := c.Read(g.Node, fh, 0, 100)
	if ok(t, "READ", e); string(b) != "#!init" {
		t.Errorf("READ %q", b)
	}
	ok(t, "RELEASE", c.Release(g.Node, fh, false))
	c.Forget(g.Node, 1<<40)
	a, e := c.Getattr(g.Node)
	if ok(t, "GETATTR after FORGET", e); a.Mode != unix.S_IFREG|0o555 {
		t.Errorf("mode %o", a.Mode)
	}
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP f", e)

	errs := map[string]struct{ got, want unix.Errno }{}
	put := func(name string, got, want unix.Errno) {
		errs[name] = struct{ got, want unix.Errno }{got, want}
	}
	_, e = c.Open(g.Node, unix.O_RDWR)
	put("OPEN for writing", e, unix.EROFS)
	_, e = c.Open(g.Node, unix.O_RDONLY|unix.O_TRUNC)
	put("OPEN with O_TRUNC", e, unix.EROFS)
	_, e = c.Setattr(g.Node, fstest.Set{Valid: fuse.FattrMode, Mode: 0o777})
	put("SETATTR", e, unix.EROFS)
	_, e = c.Call(fuse.Setxattr, g.Node, 0, fstest.U32(1, 0, 0, 0), fstest.Str("user.a"), []byte("v"))
	put("SETXATTR", e, unix.EROFS)
	_, e = c.Link(g.Node, root, "other")
	put("LINK of it", e, unix.EROFS)
	_, e = c.Mkdir(g.Node, "x", 0o755)
	put("MKDIR in it", e, unix.EROFS)
	_, e = c.Lookup(g.Node, "x")
	put("LOOKUP in it", e, unix.ENOTDIR)
	_, e = c.Mkdir(root, "init", 0o755)
	put("MKDIR", e, unix.EEXIST)
	_, e = c.Symlink(root, "init", "x")
	put("SYMLINK", e, unix.EEXIST)
	_, e = c.Link(f.Node, root, "init")
	put("LINK", e, unix.EEXIST)
	_, _, e = c.Create(root, "init", unix.O_RDWR, 0o644)
	put("CREATE", e, unix.EEXIST)
	put("UNLINK", c.Unlink(root, "init"), unix.EROFS)
	put("RENAME over it", c.Rename(root, "f", root, "init", 0), unix.EROFS)
	put("RENAME of it", c.Rename(root, "init", root, "g", 0), unix.EROFS)
	for name, x := range errs {
		want(t, name, x.got, x.want)
	}
	// Below the root the name is like any other.
	d, e := c.Lookup(root, "d")
	ok(t, "LOOKUP d", e)
	_, e = c.Mkdir(d.Node, "init", 0o755)
	ok(t, "MKDIR d/init", e)
	if read(t, host) != "#!init" || read(t, filepath.Join(dir, "init")) != "the share's own" {
		t.Error("a file on the host changed")
	}
}

// TestSetup: errors before there is a server name the object and the remedy.
func TestSetup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	dir := t.TempDir()
	for _, s := range []struct {
		dir  string
		o    passthrough.Options
		want string
	}{
		{filepath.Join(dir, "missing"), passthrough.Options{}, "missing"},
		{file, passthrough.Options{}, "name a directory"},
		{dir, passthrough.Options{Grafts: []passthrough.Graft{{Name: "a/b", File: file}}}, "a/b"},
		{dir, passthrough.Options{Grafts: []passthrough.Graft{{Name: "x", File: dir + "/gone"}}}, "gone"},
		{dir, passthrough.Options{Grafts: []passthrough.Graft{{Name: "x", File: dir}}}, "not a regular file"},
	} {
		fs, err := passthrough.New(s.dir, s.o)
		if err == nil {
			_ = fs.Close()
			t.Errorf("%s: no error", s.dir)
		} else if !strings.Contains(err.Error(), s.want) {
			t.Errorf("error %q does not say %q", err, s.want)
		}
	}
}

// TestReadOnlyHandle: what is open for reading is not changed by a WRITE, not
// even in its set-id bits, whether it is a file of the share or a graft.
func TestReadOnlyHandle(t *testing.T) {
	graft := filepath.Join(t.TempDir(), "graft")
	write(t, graft, "x")
	must(t, unix.Chmod(graft, 0o4755))
	dir, c := connect(t, passthrough.Options{Grafts: []passthrough.Graft{{Name: "init", File: graft}}})
	file := filepath.Join(dir, "file")
	write(t, file, "x")
	must(t, unix.Chmod(file, 0o4755))
	for name, path := range map[string]string{"init": graft, "file": file} {
		n, e := c.Lookup(root, name)
		ok(t, "LOOKUP", e)
		h, e := c.Open(n.Node, unix.O_RDONLY)
		ok(t, "OPEN", e)
		_, e = c.Write(n.Node, h, 0, []byte("y"), 0, fuse.WriteKillSuidgid)
		want(t, "WRITE to a handle for reading", e, unix.EBADF)
		if mode := lstat(t, path).Mode & 0o7777; mode != 0o4755 {
			t.Errorf("%s: mode %o after a refused WRITE", name, mode)
		}
	}
}

// TestBusy: a file that guest RAM is mapped to cannot be written or truncated.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vmlinux")
	write(t, path, "kernel")
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	dir, c := connect(t, passthrough.Options{Busy: f})
	must(t, os.Link(path, filepath.Join(dir, "vmlinux")))
	n, e := c.Lookup(root, "vmlinux")
	ok(t, "LOOKUP", e)
	_, e = c.Open(n.Node, unix.O_WRONLY)
	want(t, "OPEN for writing", e, unix.ETXTBSY)
	_, e = c.Open(n.Node, unix.O_RDONLY|unix.O_TRUNC)
	want(t, "OPEN with O_TRUNC", e, unix.ETXTBSY)
	_, e = c.Setattr(n.Node, fstest.Set{Valid: fuse.FattrSize})
	want(t, "SETATTR of the size", e, unix.ETXTBSY)
	_, e = c.Open(n.Node, unix.O_RDONLY)
	ok(t, "OPEN for reading", e)
}
