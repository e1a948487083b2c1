package virtiofs_test

import (
	"fmt"
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

// The immunity tests hold the server against what has broken other servers of
// this protocol. Each sends the bytes that a hostile guest's kernel would send.
// The numbers are the same in every package: 05 and 06 are in passthrough, those
// about descriptor chains are in devices/virtio/fs.

// watch reports what happens in directories on the host, to any process: the
// function it returns is the list of events so far, by name.
func watch(t *testing.T, mask uint32, dirs ...string) func() []string {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(fd)) })
	for _, d := range dirs {
		_, err := unix.InotifyAddWatch(fd, d, mask)
		must(t, err)
	}
	var seen []string
	return func() []string {
		buf := make([]byte, 64<<10)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil {
				return seen
			}
			for b := buf[:n]; len(b) > 0; {
				size := unix.SizeofInotifyEvent + int(le.Uint32(b[12:]))
				name := unix.ByteSliceToString(b[unix.SizeofInotifyEvent:size])
				seen = append(seen, fmt.Sprintf("%q %#x", name, le.Uint32(b[4:])))
				b = b[size:]
			}
		}
	}
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

// TestImmunity01Names: a name that is not one component is refused by every
// operation, and nothing outside the share is changed, opened or read.
func TestImmunity01Names(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	outside := filepath.Dir(dir)
	must(t, os.MkdirAll(filepath.Join(outside, "canary", "sub"), 0o755))
	write(t, filepath.Join(outside, "canary", "file"), "untouched")
	write(t, filepath.Join(dir, "good"), "g")
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	good, e := c.Lookup(root, "good")
	ok(t, "LOOKUP", e)
	before := tree(t, outside)
	events := watch(t, unix.IN_ALL_EVENTS, outside, filepath.Join(outside, "canary"), filepath.Join(outside, "canary", "sub"))

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
			if op == "LOOKUP" && strings.HasPrefix(n.name, "dot") {
				continue // names of nodes, see below
			}
			want(t, op+" "+n.name, send(c), n.err)
		}
	}
	// "." and ".." in LOOKUP ask for a node again, for a host of NFS: nothing is
	// above the share's root.
	for _, name := range []string{".", ".."} {
		if up, e := c.Lookup(root, name); e == 0 && up.Node != root {
			t.Errorf("LOOKUP of %s in the root: node %d", name, up.Node)
		}
	}
	if seen := events(); len(seen) != 0 {
		t.Errorf("events outside the share: %v", seen)
	}
	if after := tree(t, outside); after != before {
		t.Errorf("the host changed:\n%s\nbefore:\n%s", after, before)
	}
	if len(events()) == 0 {
		t.Error("the canaries are not watched: reading them went unseen")
	}
	// 255 bytes are the longest good name.
	_, e = c.Mkdir(root, strings.Repeat("n", 255), 0o755)
	ok(t, "MKDIR with 255 bytes", e)
	// An embedded NUL ends the name.
	_, e = c.Call(fuse.Lookup, root, 200, []byte("good\x00/../x\x00"))
	want(t, "bytes after the NUL", e, 0)
}

// bothModes runs a test with nodes that are kept as file handles, where the host
// has them, and with nodes that are kept as descriptors: they are found in
// different ways.
func bothModes(t *testing.T, test func(t *testing.T, mode passthrough.HandleMode)) {
	for name, mode := range map[string]passthrough.HandleMode{"handles": passthrough.HandlesAuto, "descriptors": passthrough.HandlesNever} {
		t.Run(name, func(t *testing.T) { test(t, mode) })
	}
}

// TestImmunity02Symlinks: a link of the host's is shown, never followed.
func TestImmunity02Symlinks(t *testing.T) { bothModes(t, testSymlinks) }

func testSymlinks(t *testing.T, mode passthrough.HandleMode) {
	m := mapShare(t, passthrough.Options{Handles: mode}, virtiofs.Options{})
	dir, c := m.dir, m.Conn
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
		want(t, "SETUPMAPPING "+name, c.SetupMapping(l.Node, 0, page, mapRead, 0), unix.ELOOP)
		want(t, "SETUPMAPPING for writing "+name, c.SetupMapping(l.Node, 0, page, mapBoth, 0), unix.ELOOP)
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

// TestImmunity02Swap: a directory that the host exchanges for a link all the time never
// shows what is behind the link.
func TestImmunity02Swap(t *testing.T) { bothModes(t, testSwap) }

func testSwap(t *testing.T, mode passthrough.HandleMode) {
	dir, c := connect(t, passthrough.Options{Handles: mode})
	secret := filepath.Join(filepath.Dir(dir), "secret")
	for _, d := range []string{secret, filepath.Join(dir, "a")} {
		must(t, os.Mkdir(d, 0o755))
	}
	write(t, filepath.Join(secret, "inside"), "")
	must(t, os.Symlink(secret, filepath.Join(dir, "b")))
	defer swap(dir)()
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
}

// TestImmunity02SwapFiles: nor does a file that the host exchanges for a link:
// nothing that the guest does to it reaches the target.
func TestImmunity02SwapFiles(t *testing.T) { bothModes(t, testSwapFiles) }

func testSwapFiles(t *testing.T, mode passthrough.HandleMode) {
	m := mapShare(t, passthrough.Options{Handles: mode}, virtiofs.Options{})
	dir, c := m.dir, m.Conn
	secret := filepath.Join(filepath.Dir(dir), "secret")
	write(t, secret, "secret")
	write(t, filepath.Join(dir, "a"), "mine!!")
	must(t, os.Symlink(secret, filepath.Join(dir, "b")))
	before := lstat(t, secret)
	defer swap(dir)()
	for range 2000 {
		f, e := c.Lookup(root, "a")
		if e != 0 {
			continue
		}
		if fh, e := c.Open(f.Node, unix.O_RDWR); e == 0 {
			if b, _ := c.Read(f.Node, fh, 0, 6); string(b) == "secret" {
				t.Fatal("the guest has read the link's target")
			}
			_, _ = c.Write(f.Node, fh, 0, []byte("mine!!"), 0, 0)
			ok(t, "RELEASE", c.Release(f.Node, fh, false))
		}
		if c.SetupMapping(f.Node, 0, page, mapBoth, 0) == 0 {
			if b, _ := m.load(0, 6); string(b) == "secret" {
				t.Fatal("the guest has mapped the link's target")
			}
			_ = m.store(0, "mine!!")
			ok(t, "REMOVEMAPPING", c.RemoveMapping(0, page))
		}
		_, _ = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrSize | fuse.FattrMode, Size: 6, Mode: 0o600})
		_, _ = c.Call(fuse.Setxattr, f.Node, 0, fstest.U32(1, 0, 0, 0), fstest.Str("user.a"), []byte("v"))
		c.Forget(f.Node, 1)
		if f, fh, e := c.Create(root, "a", unix.O_RDWR, 0o600); e == 0 {
			_, _ = c.Write(f.Node, fh, 0, []byte("mine!!"), 0, 0)
			ok(t, "RELEASE", c.Release(f.Node, fh, false))
			c.Forget(f.Node, 1)
		}
	}
	if now := lstat(t, secret); read(t, secret) != "secret" || now.Mode != before.Mode || now.Ctim != before.Ctim {
		t.Errorf("the link's target changed: mode %o, before %o", now.Mode, before.Mode)
	}
}

// swap exchanges the names a and b all the time until what it returns is called.
func swap(dir string) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	return func() { close(end); <-ended }
}

// TestImmunity03Specials: FIFOs, sockets and devices are shown and never opened,
// which would wait or do anything at all; the refusal comes at once.
func TestImmunity03Specials(t *testing.T) {
	m := mapShare(t, passthrough.Options{Devices: true}, virtiofs.Options{})
	dir, c := m.dir, m.Conn
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666))
	must(t, unix.Mknod(filepath.Join(dir, "sock"), unix.S_IFSOCK|0o666, 0))
	names := []string{"fifo", "sock"}
	if unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) == nil {
		must(t, unix.Mknod(filepath.Join(dir, "loop"), unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))))
		names = append(names, "null", "loop")
	} else {
		t.Log("SKIPPED: no right to make a device: OPEN of a device is not tested")
	}
	opened := watch(t, unix.IN_OPEN, dir) // no event for O_PATH, which opens nothing
	for _, name := range names {
		promptly(t, name, func() {
			f, e := c.Lookup(root, name)
			ok(t, "LOOKUP "+name, e)
			for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR | unix.O_TRUNC, unix.O_NONBLOCK} {
				_, e := c.Open(f.Node, flags)
				want(t, "OPEN "+name, e, unix.ENXIO)
			}
			_, _, e = c.Create(root, name, unix.O_RDWR, 0o644)
			want(t, "CREATE "+name, e, unix.EEXIST)
			_, e = c.Opendir(f.Node)
			want(t, "OPENDIR "+name, e, unix.ENOTDIR)
			_, e = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrSize})
			want(t, "truncate "+name, e, unix.ENXIO)
			want(t, "SETUPMAPPING "+name, c.SetupMapping(f.Node, 0, page, mapBoth, 0), unix.ENXIO)
			_, e = c.Call(fuse.Syncfs, f.Node, 0, fstest.U64(0))
			want(t, "SYNCFS "+name, e, unix.ENXIO)
			_, e = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrMode, Mode: 0o600})
			ok(t, "chmod "+name, e)
			_, e = c.Call(fuse.Getxattr, f.Node, 100, fstest.U32(100, 0), fstest.Str("user.a"))
			want(t, "GETXATTR "+name, e, unix.ENODATA)
		})
	}
	if seen := opened(); len(seen) != 0 {
		t.Errorf("opened: %v", seen)
	}
	fd, err := unix.Open(filepath.Join(dir, "fifo"), unix.O_RDWR, 0)
	must(t, err)
	must(t, unix.Close(fd))
	if len(opened()) == 0 {
		t.Error("the directory is not watched: opening went unseen")
	}
}

// TestImmunity03Swap: nor is a FIFO or a device opened that the host puts in the
// place of a file between the questions that a LOOKUP asks.
func TestImmunity03Swap(t *testing.T) { bothModes(t, testSwapSpecial) }

func testSwapSpecial(t *testing.T, mode passthrough.HandleMode) {
	dir, c := connect(t, passthrough.Options{Handles: mode})
	write(t, filepath.Join(dir, "a"), "mine")
	must(t, unix.Mkfifo(filepath.Join(dir, "b"), 0o666))
	defer swap(dir)()
	promptly(t, "OPEN", func() {
		for range 2000 {
			f, e := c.Lookup(root, "a")
			if e != 0 {
				continue
			}
			fh, e := c.Open(f.Node, unix.O_RDONLY)
			if f.Attr.Mode&unix.S_IFMT == unix.S_IFIFO && e == 0 {
				t.Error("a FIFO is open")
			}
			if e == 0 {
				ok(t, "RELEASE", c.Release(f.Node, fh, false))
			}
			c.Forget(f.Node, 1)
		}
	})
}

// promptly fails the test when do does not return: its length decides nothing else.
func promptly(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}

// TestImmunity04Mknod: device nodes are made only where the share has the option.
func TestImmunity04Mknod(t *testing.T) {
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

// TestImmunity09ReadOnly: every operation whose row says that it mutates, and every way
// to open for writing, is EROFS and does nothing; reading works.
func TestImmunity09ReadOnly(t *testing.T) {
	m := mapShare(t, passthrough.Options{ReadOnly: true}, virtiofs.Options{})
	dir, c := m.dir, m.Conn
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
	_, e = c.Call(fuse.Ioctl, f.Node, 16, fstest.U64(fh), fstest.U32(0, unix.FS_IOC_SETFLAGS), fstest.U64(0), fstest.U32(4, 0), fstest.U32(0))
	if e == 0 {
		t.Error("IOCTL FS_IOC_SETFLAGS is not refused")
	}
	// A mapping is no way around: there is none for writing, and one for reading
	// cannot be written.
	for _, flags := range []uint64{mapBoth, fuse.MapWrite, mapBoth | 4} {
		want(t, "SETUPMAPPING for writing", c.SetupMapping(f.Node, 0, page, flags, 0), unix.EROFS)
	}
	if s := m.w.Stats(); s.Refused != 3 || s.Setups != 0 {
		t.Errorf("%+v", s)
	}
	ok(t, "SETUPMAPPING", c.SetupMapping(f.Node, 0, page, mapRead, 0))
	m.shows("a read-only share", 0, []byte("data"))
	want(t, "a store to a read-only share", m.store(0, "DATA"), unix.EFAULT)
	if after := tree(t, dir); after != before {
		t.Errorf("the host changed:\n%s\nbefore:\n%s", after, before)
	}
	b, e := c.Read(f.Node, fh, 0, 100)
	if ok(t, "READ", e); string(b) != "data" {
		t.Errorf("READ %q", b)
	}
}
