package virtiofs_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// TestExport: "." is the node itself and ".." the directory it is in, which for
// the root is the root; each counts a lookup. No other request knows these names,
// and without EXPORT_SUPPORT LOOKUP does not either.
func TestExport(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	a, e := c.Lookup(root, "a")
	ok(t, "LOOKUP", e)
	b, e := c.Lookup(a.Node, "b")
	ok(t, "LOOKUP", e)
	for _, x := range []struct {
		node virtiofs.NodeID
		name string
		want virtiofs.NodeID
	}{
		{root, ".", root}, {root, "..", root},
		{a.Node, ".", a.Node}, {a.Node, "..", root},
		{b.Node, ".", b.Node}, {b.Node, "..", a.Node},
	} {
		got, e := c.Lookup(x.node, x.name)
		if ok(t, "LOOKUP "+x.name, e); got.Node != x.want || got.Attr.Mode&unix.S_IFMT != unix.S_IFDIR {
			t.Errorf("LOOKUP %s in %d: node %d mode %o, want node %d", x.name, x.node, got.Node, got.Attr.Mode, x.want)
		}
	}
	c.Forget(b.Node, 1) // one lookup by name, one as "."
	_, e = c.Getattr(b.Node)
	ok(t, "GETATTR of what . has counted", e)
	c.Forget(b.Node, 1)
	_, e = c.Getattr(b.Node)
	want(t, "GETATTR after FORGET", e, unix.ESTALE)
	_, e = c.Lookup(b.Node, ".")
	want(t, "LOOKUP . of a forgotten node", e, unix.ESTALE)

	for _, name := range []string{".", ".."} {
		_, e = c.Mkdir(a.Node, name, 0o755)
		want(t, "MKDIR "+name, e, unix.EINVAL)
		want(t, "UNLINK "+name, c.Unlink(a.Node, name), unix.EINVAL)
	}
	_, c = serve(t, passthrough.Options{})
	_, e = c.Init(fstest.AllFlags &^ fuse.ExportSupport)
	ok(t, "INIT", e)
	for _, name := range []string{".", ".."} {
		_, e = c.Lookup(root, name)
		want(t, "LOOKUP without EXPORT_SUPPORT", e, unix.EINVAL)
	}
}

// TestGeneration: a node has one generation as long as the server lives, another
// server's nodes have others, and the root, whose inode the guest makes up by
// itself, has 0.
func TestGeneration(t *testing.T) {
	generation := func(c *fstest.Conn, name string) uint64 {
		b, e := c.Call(fuse.Lookup, root, fuse.EntryOutSize, fstest.Str(name))
		ok(t, "LOOKUP", e)
		return le.Uint64(b[8:])
	}
	seen := map[uint64]bool{}
	for range 8 {
		_, c := policyShare(t, passthrough.Options{}, virtiofs.Options{})
		g := generation(c, "f")
		if g == 0 || g>>32 != 0 || g != generation(c, "f") {
			t.Errorf("generation %#x", g) // Linux keeps 32 bits
		}
		seen[g] = true
		dh, e := c.Opendir(root)
		ok(t, "OPENDIR", e)
		b, e := c.Call(fuse.Readdirplus, root, 4096, fstest.ReadArgs(dh, 0, 4096))
		ok(t, "READDIRPLUS", e)
		found := false
		for len(b) > 0 {
			if le.Uint64(b) != 0 {
				found = true
				if le.Uint64(b[8:]) != g {
					t.Errorf("generation %#x in READDIRPLUS, %#x in LOOKUP", le.Uint64(b[8:]), g)
				}
			}
			b = b[fuse.EntryOutSize+fuse.DirentLen(int(le.Uint32(b[fuse.EntryOutSize+16:]))):]
		}
		if !found {
			t.Error("READDIRPLUS without a node")
		}
		if g := generation(c, ".."); g != 0 {
			t.Errorf("generation %#x of the root", g)
		}
	}
	if len(seen) < 7 {
		t.Errorf("8 servers and %d generations", len(seen))
	}
}

// TestGenerationOfSubmount: Linux makes up the inode of a submount's root with
// generation 0, and would not know it again under another.
func TestGenerationOfSubmount(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	mnt := filepath.Join(dir, "mnt")
	must(t, os.Mkdir(mnt, 0o755))
	if err := unix.Mount("tenon-test", mnt, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED: no mounting here (%v): the generation of a submount's root is not tested", err)
	}
	defer func() { must(t, unix.Unmount(mnt, unix.MNT_DETACH)) }()
	must(t, os.Mkdir(filepath.Join(mnt, "in"), 0o755))
	m, e := c.Lookup(root, "mnt")
	ok(t, "LOOKUP", e)
	in, e := c.Lookup(m.Node, "in")
	ok(t, "LOOKUP", e)
	for _, x := range []struct {
		name string
		node virtiofs.NodeID
	}{{"mnt", root}, {".", m.Node}, {"..", in.Node}} {
		b, e := c.Call(fuse.Lookup, x.node, fuse.EntryOutSize, fstest.Str(x.name))
		ok(t, "LOOKUP "+x.name, e)
		if got := fstest.ParseEntry(b); got.Node != m.Node || le.Uint64(b[8:]) != 0 {
			t.Errorf("LOOKUP %s: node %d of generation %#x, want node %d of 0", x.name, got.Node, le.Uint64(b[8:]), m.Node)
		}
	}
}

// TestFallocateModes: what a guest's page cache would not learn of is refused.
func TestFallocateModes(t *testing.T) {
	dir, c := policyShare(t, passthrough.Options{}, virtiofs.Options{})
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_RDWR)
	ok(t, "OPEN", e)
	_, e = c.Write(f.Node, fh, 0, pattern(1<<20), 0, 0)
	ok(t, "WRITE", e)
	for _, x := range []struct {
		name string
		mode uint32
		err  unix.Errno
	}{
		{"plain", 0, 0},
		{"KEEP_SIZE", unix.FALLOC_FL_KEEP_SIZE, 0},
		{"PUNCH_HOLE", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 0},
		{"ZERO_RANGE", unix.FALLOC_FL_ZERO_RANGE, 0},
		{"COLLAPSE_RANGE", unix.FALLOC_FL_COLLAPSE_RANGE, unix.EOPNOTSUPP},
		{"INSERT_RANGE", unix.FALLOC_FL_INSERT_RANGE, unix.EOPNOTSUPP},
		{"UNSHARE_RANGE", unix.FALLOC_FL_UNSHARE_RANGE, unix.EOPNOTSUPP},
		{"the highest bit", 1 << 31, unix.EOPNOTSUPP},
	} {
		before := lstat(t, filepath.Join(dir, "f"))
		_, e := c.Call(fuse.Fallocate, f.Node, 0, fstest.U64(fh, 4096, 4096), fstest.U32(x.mode, 0))
		if e == unix.EOPNOTSUPP && x.err == 0 {
			t.Logf("SKIPPED: %s: this file system has none", x.name)
			continue
		}
		want(t, x.name, e, x.err)
		if after := lstat(t, filepath.Join(dir, "f")); after.Size != before.Size {
			t.Errorf("%s: size %d, was %d", x.name, after.Size, before.Size)
		}
	}
}

// TestStatxHandle: the handle counts when the request says so.
func TestStatxHandle(t *testing.T) {
	_, c := policyShare(t, passthrough.Options{}, virtiofs.Options{})
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	c.Forget(f.Node, 1) // now only the open file is left of it
	for flags, err := range map[uint32]unix.Errno{0: unix.ESTALE, fuse.GetattrFH: 0} {
		_, e := c.Call(fuse.Statx, f.Node, fuse.StatxOutSize, fstest.U32(flags, 0), fstest.U64(fh), fstest.U32(0, unix.STATX_BASIC_STATS))
		want(t, "STATX", e, err)
	}
}

// TestStatx: what statx(2) on the host says of the file, but nothing about the
// host's mounts.
func TestStatx(t *testing.T) {
	dir, c := policyShare(t, passthrough.Options{}, virtiofs.Options{})
	appendOnly(t, filepath.Join(dir, "f"))
	// The root of a mount has an attribute that says so.
	if err := unix.Mount("tenon-test", filepath.Join(dir, "d"), "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED: no mounting here (%v): the host's mounts are not hidden from anyone", err)
	}
	defer func() { must(t, unix.Unmount(filepath.Join(dir, "d"), unix.MNT_DETACH)) }()
	for _, name := range []string{"f", "d"} {
		f, e := c.Lookup(root, name)
		ok(t, "LOOKUP", e)
		x := struct {
			name string
			node virtiofs.NodeID
			path string
		}{name, f.Node, filepath.Join(dir, name)}
		b, e := c.Call(fuse.Statx, x.node, fuse.StatxOutSize, fstest.U32(0, 0), fstest.U64(0), fstest.U32(0, ^uint32(0)))
		ok(t, "STATX", e)
		b = b[32:]
		var st unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, x.path, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
		const file = unix.STATX_ATTR_COMPRESSED | unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND |
			unix.STATX_ATTR_NODUMP | unix.STATX_ATTR_ENCRYPTED | unix.STATX_ATTR_VERITY
		if got := le.Uint64(b[8:]); got != st.Attributes&file {
			t.Errorf("%s: attributes %#x, want %#x", x.name, got, st.Attributes&file)
		}
		if got := le.Uint64(b[56:]); got != st.Attributes_mask&file {
			t.Errorf("%s: attributes' mask %#x, want %#x", x.name, got, st.Attributes_mask&file)
		}
		if mask := le.Uint32(b); mask&unix.STATX_BTIME != 0 && (le.Uint64(b[80:]) != uint64(st.Btime.Sec) || le.Uint32(b[88:]) != st.Btime.Nsec) {
			t.Errorf("%s: birth time differs", x.name)
		} else if mask&^(unix.STATX_BASIC_STATS|unix.STATX_BTIME) != 0 {
			t.Errorf("%s: mask %#x", x.name, mask)
		}
	}
}
