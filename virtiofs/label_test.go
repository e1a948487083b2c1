package virtiofs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// label is one fuse_secctx.
func label(name, value string) []byte {
	b := append(fstest.U32(uint32(len(value)), 0), fstest.Str(name)...)
	b = append(b, value...)
	return append(b, make([]byte, -len(b)&7)...)
}

// secctx is the extension with the labels.
func secctx(labels ...[]byte) []byte {
	var all []byte
	for _, l := range labels {
		all = append(all, l...)
	}
	return append(fstest.U32(uint32(8+len(all)), uint32(len(labels))), all...)
}

// makers is every request that makes a node, and its handle if it has one.
func makers(c *fstest.Conn) map[string]func(name string) (fstest.Entry, uint64, unix.Errno) {
	plain := func(n fstest.Entry, e unix.Errno) (fstest.Entry, uint64, unix.Errno) { return n, 0, e }
	return map[string]func(name string) (fstest.Entry, uint64, unix.Errno){
		"MKDIR": func(n string) (fstest.Entry, uint64, unix.Errno) { return plain(c.Mkdir(root, n, 0o755)) },
		"MKNOD": func(n string) (fstest.Entry, uint64, unix.Errno) {
			return plain(c.Mknod(root, n, unix.S_IFIFO|0o644, 0))
		},
		"SYMLINK": func(n string) (fstest.Entry, uint64, unix.Errno) { return plain(c.Symlink(root, n, "target")) },
		"CREATE":  func(n string) (fstest.Entry, uint64, unix.Errno) { return c.Create(root, n, unix.O_RDWR, 0o644) },
		"TMPFILE": func(string) (fstest.Entry, uint64, unix.Errno) {
			b, e := c.Call(fuse.Tmpfile, root, fuse.EntryOutSize+fuse.OpenOutSize, fstest.U32(unix.O_RDWR, 0o644, 0, 0), fstest.Str("/"))
			if e != 0 {
				return fstest.Entry{}, 0, e
			}
			return fstest.ParseEntry(b), le.Uint64(b[fuse.EntryOutSize:]), 0
		},
	}
}

// TestLabels: a new node has the security attributes that came with the request,
// whatever its type; one that cannot have them is not there.
func TestLabels(t *testing.T) {
	needTrustedXattrs(t)
	budget, err := passthrough.NewBudget()
	must(t, err)
	dir, c := serveWith(t, passthrough.Options{Budget: budget, Xattrs: xattrMap(t, ":prefix:all:security.:trusted.v.: :bad:all:trusted.:trusted.: :ok:all:::")}, virtiofs.Options{Labels: true})
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	for what, make := range makers(c) {
		c.Ext = append(secctx(label("security.one", "first\x00"), label("security.two", "12345678")), append(fstest.U32(16, fuse.ExtGroups), fstest.U32(1, 7)...)...)
		n, fh, e := make(what)
		ok(t, what, e)
		for name, value := range map[string]string{"security.one": "first\x00", "security.two": "12345678"} {
			got, e := getxattr(c, n.Node, name)
			if e != 0 || got != value {
				t.Errorf("%s: %s is %q, %v", what, name, got, e)
			}
		}
		if what != "TMPFILE" {
			if _, err := unix.Lgetxattr(filepath.Join(dir, what), "trusted.v.security.one", nil); err != nil {
				t.Errorf("%s: on the host: %v", what, err)
			}
		}
		if fh != 0 {
			ok(t, "RELEASE", c.Release(n.Node, fh, false))
		}
		c.Forget(n.Node, 1)
		// The second label is refused.
		c.Ext = secctx(label("security.one", "first"), label("trusted.no", "x"))
		_, _, e = make(what + ".refused")
		want(t, what+" with a label that is refused", e, unix.EPERM)
		if _, err := os.Lstat(filepath.Join(dir, what+".refused")); !os.IsNotExist(err) {
			t.Errorf("%s: what could not be labelled is there: %v", what, err)
		}
	}
	if n := budget.Used(); n != 0 {
		t.Errorf("%d descriptors are in use", n)
	}
}

// TestLabelBlocks: labels are taken only where they were agreed on and only if
// the block is right.
func TestLabelBlocks(t *testing.T) {
	many := func(n int) (all [][]byte) {
		for i := range n {
			all = append(all, label(fmt.Sprint("user.", i), "v"))
		}
		return all
	}
	short := func(b []byte) []byte { // a block that ends early and says so
		b = b[:len(b)-8]
		le.PutUint32(b, uint32(len(b)))
		return b
	}
	sized := label("user.a", "v")
	le.PutUint32(sized, 1000)
	huge := label("user.a", "v")
	le.PutUint32(huge, noID)
	unended := append(fstest.U32(0, 0), "user.abc"...)
	for name, x := range map[string]struct {
		ext    []byte
		err    unix.Errno
		labels int
	}{
		"none":                  {secctx(), 0, 0},
		"one":                   {secctx(label("user.a", "v")), 0, 1},
		"without a value":       {secctx(label("user.a", "")), 0, 1},
		"31":                    {secctx(many(31)...), 0, 31},
		"the last unpadded":     {append(fstest.U32(24, 1), append(fstest.U32(1, 0), "user.a\x00v"...)...), 0, 1},
		"fewer than it says":    {short(secctx(label("user.a", "12345678"), label("user.b", ""))), unix.EINVAL, 0},
		"none, but says one":    {fstest.U32(8, 1), unix.EINVAL, 0},
		"value over the end":    {secctx(sized), unix.EINVAL, 0},
		"value of 4 GiB":        {secctx(huge), unix.EINVAL, 0},
		"name without an end":   {secctx(unended), unix.EINVAL, 0},
		"no name":               {secctx(append(fstest.U32(7, 0), make([]byte, 8)...)), unix.EINVAL, 0},
		"name of 256 bytes":     {secctx(label("user."+strings.Repeat("n", 251), "v")), unix.EINVAL, 0},
		"two blocks":            {append(secctx(label("user.a", "v")), secctx(label("user.b", "v"))...), unix.EINVAL, 0},
		"value of 100000 bytes": {secctx(label("user.a", strings.Repeat("v", 100000))), unix.E2BIG, 0},
	} {
		for _, agreed := range []bool{true, false} {
			dir, c := serveWith(t, passthrough.Options{}, virtiofs.Options{Labels: agreed})
			needUserXattrs(t, dir)
			_, e := c.Init(fstest.AllFlags)
			ok(t, "INIT", e)
			wanted, labels := x.err, x.labels
			if !agreed {
				labels = 0
				if wanted == unix.EINVAL {
					wanted = 0
				}
			}
			c.Ext = x.ext
			d, e := c.Mkdir(root, "d", 0o755)
			want(t, fmt.Sprintf("%s, agreed %v", name, agreed), e, wanted)
			if _, err := os.Lstat(filepath.Join(dir, "d")); (err == nil) != (wanted == 0) {
				t.Errorf("%s, agreed %v: %v", name, agreed, err)
			}
			if e == 0 {
				if n := strings.Count(listxattr(t, c, d.Node), "user."); n != labels {
					t.Errorf("%s, agreed %v: %d labels, want %d", name, agreed, n, labels)
				}
			}
		}
	}
}
