package virtiofs_test

import (
	"bytes"
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

// TestImmunity15Handles: a handle is good for the node it was opened on and for
// the operations of its kind, and for nothing else.
func TestImmunity15Handles(t *testing.T) {
	dir, c := connectWith(t, passthrough.Options{}, virtiofs.Options{Locks: true})
	write(t, filepath.Join(dir, "f"), "data")
	write(t, filepath.Join(dir, "g"), "other")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	node, fh := map[string]virtiofs.NodeID{"root": root}, map[string]uint64{}
	for _, name := range []string{"f", "g", "d"} {
		n, e := c.Lookup(root, name)
		ok(t, "LOOKUP", e)
		node[name] = n.Node
		if name == "d" {
			fh[name], e = c.Opendir(n.Node)
		} else {
			fh[name], e = c.Open(n.Node, unix.O_RDWR)
		}
		ok(t, "OPEN", e)
	}
	released, e := c.Open(node["f"], unix.O_RDWR)
	ok(t, "OPEN", e)
	ok(t, "RELEASE", c.Release(node["f"], released, false))
	for _, wrong := range []struct {
		name      string
		file, dir virtiofs.NodeID // of the request, for operations on files and directories
		fh, dirFh uint64
	}{
		{"another file's", node["f"], node["d"], fh["g"], fh["f"]},
		{"the other kind's", node["f"], node["d"], fh["d"], fh["g"]},
		{"of the other kind, on its node", node["d"], node["f"], fh["d"], fh["f"]},
		{"on another node", node["g"], root, fh["f"], fh["d"]},
		{"on no node", 1 << 40, 1 << 40, fh["f"], fh["d"]},
		{"released", node["f"], node["d"], released, released},
		{"never given out", node["f"], node["d"], fh["d"] + 64, fh["d"] + 64},
		{"of all ones", node["f"], node["d"], ^uint64(0), ^uint64(0)},
	} {
		for op, args := range handleOps(node["g"], fh["g"]) {
			n, h := wrong.file, wrong.fh
			if op == fuse.Readdir || op == fuse.Readdirplus || op == fuse.Releasedir || op == fuse.Fsyncdir {
				n, h = wrong.dir, wrong.dirFh
			}
			_, e := c.Call(op, n, 200, args(h))
			wanted := unix.EBADF
			switch { // SETATTR looks at the node first
			case op == fuse.Setattr && n == 1<<40:
				wanted = unix.ESTALE
			case op == fuse.Setattr && n == node["d"]:
				wanted = unix.EISDIR
			}
			want(t, op.String()+" with a handle "+wrong.name, e, wanted)
		}
	}
	for name, h := range map[string]uint64{"f": fh["f"], "g": fh["g"]} {
		ok(t, "RELEASE "+name, c.Release(node[name], h, false))
	}
	ok(t, "RELEASEDIR", c.Release(node["d"], fh["d"], true))
	if got := read(t, filepath.Join(dir, "f")) + read(t, filepath.Join(dir, "g")); got != "dataother" {
		t.Errorf("contents %q", got)
	}
}

// handleOps is the arguments of every operation that takes a handle; to is the
// good one that COPY_FILE_RANGE copies to.
func handleOps(node virtiofs.NodeID, to uint64) map[fuse.Opcode]func(fh uint64) []byte {
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	read := func(fh uint64) []byte { return fstest.ReadArgs(fh, 0, 100) }
	release := func(fh uint64) []byte { return fstest.U64(fh, 0, 0) }
	sync := func(fh uint64) []byte { return fstest.U64(fh, 0) }
	lock := func(fh uint64) []byte {
		return join(fstest.U64(fh, 1, 0, 10), fstest.U32(unix.F_WRLCK, 1, 0, 0))
	}
	clone := func(fh uint64) []byte { return fstest.U64(fh, 0, uint64(node), to, 0, 4, 0) }
	return map[fuse.Opcode]func(fh uint64) []byte{
		fuse.Read:            read,
		fuse.Write:           func(fh uint64) []byte { return join(fstest.WriteArgs(fh, 0, 1, 0, 0), []byte("X")) },
		fuse.Fsync:           sync,
		fuse.Release:         release,
		fuse.Fallocate:       func(fh uint64) []byte { return join(fstest.U64(fh, 0, 100), fstest.U32(0, 0)) },
		fuse.Lseek:           func(fh uint64) []byte { return join(fstest.U64(fh, 0), fstest.U32(unix.SEEK_DATA, 0)) },
		fuse.CopyFileRange:   clone,
		fuse.CopyFileRange64: clone,
		fuse.Setattr: func(fh uint64) []byte {
			return join(fstest.U32(fuse.FattrSize|fuse.FattrFH, 0), fstest.U64(fh, 0), make([]byte, 64))
		},
		fuse.Getlk:       lock,
		fuse.Setlk:       lock,
		fuse.Readdir:     read,
		fuse.Readdirplus: read,
		fuse.Releasedir:  release,
		fuse.Fsyncdir:    sync,
	}
}

// TestImmunity16XattrMap: what the map keeps under a prefix on the host cannot be
// written by naming that prefix, so no guest user forges a trusted attribute,
// and attributes of the host's that no rule names are neither seen nor changed.
func TestImmunity16XattrMap(t *testing.T) {
	for name, rules := range map[string]string{
		"short":    ":map:trusted.:user.virtiofs.:",
		"careless": ":prefix:all:trusted.:user.virtiofs.: :ok:all:::",
	} {
		t.Run(name, func(t *testing.T) { testXattrMap(t, rules) })
	}
}

func testXattrMap(t *testing.T, rules string) {
	m, err := xattrmap.Parse(rules)
	must(t, err)
	dir, c := connect(t, passthrough.Options{Xattrs: m})
	path := filepath.Join(dir, "f")
	write(t, path, "")
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	set := func(name, value string) unix.Errno {
		_, e := c.Call(fuse.Setxattr, f.Node, 0, fstest.U32(uint32(len(value)), 0, 0, 0), fstest.Str(name), []byte(value))
		return e
	}
	if e := set("trusted.secret", "true"); e == unix.EOPNOTSUPP {
		t.Skip("SKIPPED: no user extended attributes on this file system")
	} else {
		ok(t, "SETXATTR", e)
	}
	onHost := func() string {
		b := make([]byte, 100)
		n, err := unix.Lgetxattr(path, "user.virtiofs.trusted.secret", b)
		must(t, err)
		return string(b[:n])
	}
	if onHost() != "true" {
		t.Fatalf("on the host: %q", onHost())
	}
	want(t, "SETXATTR of the name on the host", set("user.virtiofs.trusted.secret", "forged"), unix.EPERM)
	want(t, "SETXATTR below the prefix", set("user.virtiofs.trusted.new", "forged"), unix.EPERM)
	_, e = c.Call(fuse.Removexattr, f.Node, 0, fstest.Str("user.virtiofs.trusted.secret"))
	want(t, "REMOVEXATTR of the name on the host", e, unix.EPERM)
	_, e = c.Call(fuse.Getxattr, f.Node, 100, fstest.U32(100, 0), fstest.Str("user.virtiofs.trusted.secret"))
	want(t, "GETXATTR of the name on the host", e, unix.ENODATA)
	b, e := c.Call(fuse.Listxattr, f.Node, 1000, fstest.U32(1000, 0))
	ok(t, "LISTXATTR", e)
	if !strings.Contains(string(b), "trusted.secret\x00") || strings.Contains(string(b), "user.virtiofs.") {
		t.Errorf("list %q", b)
	}
	if onHost() != "true" {
		t.Errorf("on the host: %q", onHost())
	}
	if _, err := unix.Lgetxattr(path, "user.virtiofs.trusted.new", nil); err != unix.ENODATA {
		t.Errorf("an attribute was forged: %v", err)
	}
}

// TestImmunity18TwoShares: two shares of one directory, for two guests, have
// nothing in common but the files: nodes and handles of one mean nothing in the
// other, and what one gives up the other keeps.
func TestImmunity18TwoShares(t *testing.T) {
	budget, err := passthrough.NewBudget()
	must(t, err)
	dir, a := connect(t, passthrough.Options{Budget: budget})
	write(t, filepath.Join(dir, "f"), "data")
	write(t, filepath.Join(dir, "g"), "other")
	fs, err := passthrough.New(dir, passthrough.Options{Budget: budget})
	must(t, err)
	b := fstest.Dial(t, virtiofs.NewServer(fs, virtiofs.Options{}))
	defer func() { must(t, b.S.Close()) }()
	_, e := b.Init(fstest.AllFlags)
	ok(t, "INIT", e)

	f, e := a.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := a.Open(f.Node, unix.O_RDWR)
	ok(t, "OPEN", e)
	_, e = b.Getattr(f.Node)
	want(t, "GETATTR of the other share's node", e, unix.ESTALE)
	_, e = b.Read(f.Node, fh, 0, 10)
	want(t, "READ of the other share's handle", e, unix.EBADF)
	want(t, "RELEASE of the other share's handle", b.Release(f.Node, fh, false), unix.EBADF)
	b.Forget(f.Node, 1)
	// The numbers may be the same by chance: they mean the other's own file then.
	g, e := b.Lookup(root, "g")
	ok(t, "LOOKUP", e)
	gh, e := b.Open(g.Node, unix.O_RDWR)
	ok(t, "OPEN", e)
	if got, e := a.Read(g.Node, gh, 0, 10); e == 0 && string(got) != "data" {
		t.Errorf("READ of the other share's handle: %q", got)
	}
	_, e = b.Call(fuse.Destroy, 0, 0)
	ok(t, "DESTROY", e)
	b.S.Reset()
	_, e = a.Getattr(f.Node)
	ok(t, "GETATTR after the other share's end", e)
	got, e := a.Read(f.Node, fh, 0, 10)
	if ok(t, "READ after the other share's end", e); string(got) != "data" {
		t.Errorf("READ %q", got)
	}
}

// connectWith is connect with options of the server.
func connectWith(t *testing.T, o passthrough.Options, so virtiofs.Options) (string, *fstest.Conn) {
	t.Helper()
	dir, c := serveWith(t, o, so)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	return dir, c
}
