package virtiofs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
