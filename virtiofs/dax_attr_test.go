package virtiofs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// TestInitMapping: the alignment of mappings comes with the flag that says so.
func TestInitMapping(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	for _, x := range []struct {
		offer uint64
		log2  uint16
	}{{fstest.AllFlags, 12}, {fuse.MapAlignment, 12}, {fstest.AllFlags &^ fuse.MapAlignment, 0}} {
		out, e := m.Init(x.offer)
		if ok(t, "INIT", e); le.Uint16(out[30:]) != x.log2 {
			t.Errorf("offered %#x: map_alignment %d, want %d", x.offer, le.Uint16(out[30:]), x.log2)
		}
	}
}

// coarse is a file system with blocks of 1 MiB, as network file systems' are.
type coarse struct{ virtiofs.FS }

const coarseBlock = 1 << 20

func (f coarse) Lookup(p virtiofs.NodeID, name virtiofs.Name, e *virtiofs.Entry) unix.Errno {
	err := f.FS.Lookup(p, name, e)
	e.Attr.Blksize = coarseBlock
	return err
}

func (f coarse) Getattr(x virtiofs.File, a *fuse.Attr) unix.Errno {
	err := f.FS.Getattr(x, a)
	a.Blksize = coarseBlock
	return err
}

func (f coarse) Setattr(n virtiofs.NodeID, in *fuse.SetattrIn, a *fuse.Attr) unix.Errno {
	err := f.FS.Setattr(n, in, a)
	a.Blksize = coarseBlock
	return err
}

func (f coarse) Statx(x virtiofs.File, mask uint32, st *unix.Statx_t) unix.Errno {
	err := f.FS.Statx(x, mask, st)
	st.Blksize = coarseBlock
	return err
}

// TestBlocks: where there is a window, files have blocks of 4096 bytes in every
// answer, and nothing else has.
func TestBlocks(t *testing.T) {
	for _, window := range []bool{true, false} {
		var o passthrough.Options
		if window {
			var err error
			o.Window, err = dax.New(daxBytes)
			must(t, err)
		}
		dir := t.TempDir()
		write(t, filepath.Join(dir, "f"), "data")
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
		host, err := passthrough.New(dir, o)
		must(t, err)
		s := virtiofs.NewServer(coarse{host}, virtiofs.Options{DAX: virtiofs.DAXInode, DAXMinSize: 1 << 20})
		defer func() { must(t, s.Close()) }()
		c := fstest.Dial(t, s)
		_, e := c.Init(fstest.AllFlags)
		ok(t, "INIT", e)
		for _, name := range []string{"f", "d"} {
			blocks := uint32(coarseBlock)
			if window && name == "f" {
				blocks = 4096
			}
			n, e := c.Lookup(root, name)
			ok(t, "LOOKUP", e)
			got, e := c.Getattr(n.Node)
			ok(t, "GETATTR", e)
			set, e := c.Setattr(n.Node, fstest.Set{})
			ok(t, "SETATTR", e)
			b, e := c.Call(fuse.Statx, n.Node, fuse.StatxOutSize, fstest.U32(0, 0), fstest.U64(0), fstest.U32(0, unix.STATX_BASIC_STATS))
			ok(t, "STATX", e)
			for op, size := range map[string]uint32{"LOOKUP": n.Attr.Blksize, "GETATTR": got.Blksize, "SETATTR": set.Blksize, "STATX": le.Uint32(b[36:])} {
				if size != blocks {
					t.Errorf("window %v, %s of %s: blocks of %d bytes, want %d", window, op, name, size, blocks)
				}
			}
		}
	}
}

// replies is the flags of the node's attributes in every answer that has any, by
// operation.
func replies(t *testing.T, c *fstest.Conn, name string) map[string]uint32 {
	t.Helper()
	flags := map[string]uint32{}
	n, e := c.Lookup(root, name)
	ok(t, "LOOKUP", e)
	flags["LOOKUP"] = n.Attr.AttrFlags
	a, e := c.Getattr(n.Node)
	ok(t, "GETATTR", e)
	flags["GETATTR"] = a.AttrFlags
	a, e = c.Setattr(n.Node, fstest.Set{Valid: fuse.FattrMode, Mode: 0o755})
	ok(t, "SETATTR", e)
	flags["SETATTR"] = a.AttrFlags
	dh, e := c.Opendir(root)
	ok(t, "OPENDIR", e)
	list, e := c.Readdir(root, dh, 0, 1<<15, true)
	ok(t, "READDIRPLUS", e)
	for _, x := range list {
		if x.Name == name {
			flags["READDIRPLUS"] = x.Entry.Attr.AttrFlags
		}
	}
	if a.Mode&unix.S_IFMT == unix.S_IFREG {
		l, e := c.Link(n.Node, root, name+"-link")
		ok(t, "LINK", e)
		flags["LINK"] = l.Attr.AttrFlags
		f, fh, e := c.Create(root, name, unix.O_RDWR, 0o644)
		ok(t, "CREATE", e)
		flags["CREATE"] = f.Attr.AttrFlags
		ok(t, "RELEASE", c.Release(f.Node, fh, false))
	}
	return flags
}

// needOffers skips where no file is offered for the window.
func needOffers(t *testing.T, dir string) {
	t.Helper()
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		t.Skipf("SKIPPED: %s is on an overlayfs, of which no file is offered for the window (set TMPDIR)", dir)
	}
}

// TestAttrDAX: which files are marked for the window: regular ones, by size or all,
// in sessions that have agreed to it.
func TestAttrDAX(t *testing.T) {
	const least = 2 * page
	inode := virtiofs.Options{DAX: virtiofs.DAXInode, DAXMinSize: least}
	always := virtiofs.Options{DAX: virtiofs.DAXAlways, DAXMinSize: least}
	for _, x := range []struct {
		name  string
		so    virtiofs.Options
		offer uint64
		marks map[string]bool
	}{
		{"inode", inode, fstest.AllFlags, map[string]bool{"least": true, "large": true}},
		{"inode, all sizes", virtiofs.Options{DAX: virtiofs.DAXInode}, fstest.AllFlags,
			map[string]bool{"empty": true, "small": true, "least": true, "large": true}},
		{"always", always, fstest.AllFlags, map[string]bool{"empty": true, "small": true, "least": true, "large": true}},
		{"without HAS_INODE_DAX", always, fstest.AllFlags &^ fuse.HasInodeDAX, nil},
		{"for a guest that found no window", inode, fstest.AllFlags &^ fuse.MapAlignment, nil},
		{"never", virtiofs.Options{DAXMinSize: least}, fstest.AllFlags, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			w, err := dax.New(daxBytes)
			must(t, err)
			dir, c := serveWith(t, passthrough.Options{Window: w}, x.so)
			needOffers(t, dir)
			for name, size := range map[string]int{"empty": 0, "small": least - 1, "least": least, "large": 4 * least} {
				write(t, filepath.Join(dir, name), string(make([]byte, size)))
			}
			must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
			must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
			_, e := c.Init(x.offer)
			ok(t, "INIT", e)
			for _, name := range []string{"empty", "small", "least", "large", "dir", "fifo"} {
				for op, flags := range replies(t, c, name) {
					if got := flags&fuse.AttrDAX != 0; got != x.marks[name] {
						t.Errorf("%s of %s: marked is %v", op, name, got)
					}
				}
			}
		})
	}
}

// unmappable is a file system without shared mappings.
type unmappable struct{ virtiofs.FS }

func (f unmappable) Lookup(p virtiofs.NodeID, name virtiofs.Name, e *virtiofs.Entry) unix.Errno {
	err := f.FS.Lookup(p, name, e)
	e.Attr.Flags &^= fuse.AttrDAX
	return err
}

// TestAttrDAXUnmappable: what cannot be mapped is not marked, however large.
func TestAttrDAXUnmappable(t *testing.T) {
	needOffers(t, t.TempDir())
	for can, want := range map[bool]uint32{true: fuse.AttrDAX, false: 0} {
		w, err := dax.New(daxBytes)
		must(t, err)
		dir := t.TempDir()
		write(t, filepath.Join(dir, "f"), "data")
		host, err := passthrough.New(dir, passthrough.Options{Window: w})
		must(t, err)
		var fs virtiofs.FS = host
		if !can {
			fs = unmappable{host}
		}
		s := virtiofs.NewServer(fs, virtiofs.Options{DAX: virtiofs.DAXAlways})
		defer func() { must(t, s.Close()) }()
		c := fstest.Dial(t, s)
		_, e := c.Init(fstest.AllFlags)
		ok(t, "INIT", e)
		f, e := c.Lookup(root, "f")
		if ok(t, "LOOKUP", e); f.Attr.AttrFlags != want {
			t.Errorf("mappable %v: flags %#x", can, f.Attr.AttrFlags)
		}
	}
}

// needTimes skips where stores through mappings change no times, as on tmpfs.
func needTimes(t *testing.T, dir string) {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if st.Type == unix.TMPFS_MAGIC {
		t.Skip("SKIPPED: on tmpfs stores to mapped files change no times")
	}
}

// TestMappingTimes: what is stored after OPEN for writing shows in the file's times,
// though the page was stored to before.
func TestMappingTimes(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	needTimes(t, m.dir)
	path, f := m.file("f", bytes.Repeat([]byte("x"), 2*page))
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapBoth, 0))
	for _, open := range []func() unix.Errno{
		func() unix.Errno { _, e := m.Open(f, unix.O_WRONLY); return e },
		func() unix.Errno { _, e := m.Open(f, unix.O_RDWR); return e },
		func() unix.Errno { _, _, e := m.Create(root, "f", unix.O_RDWR, 0o644); return e },
	} {
		ok(t, "a store", m.store(0, "before"))
		must(t, unix.UtimesNano(path, []unix.Timespec{{Sec: 1000}, {Sec: 1000}}))
		ok(t, "OPEN", open())
		if got := lstat(t, path).Mtim.Sec; got != 1000 {
			t.Errorf("OPEN alone set the modification time to %d", got)
		}
		ok(t, "a store", m.store(0, "after!"))
		if got := lstat(t, path).Mtim.Sec; got == 1000 {
			t.Error("a store after OPEN did not change the modification time")
		}
	}
	m.shows("all the while", 0, []byte("after!xx"))
}

// TestMappingKeepsNoCache: a file that the guest can store to without a request is
// never said to be unchanged: its times do not tell.
func TestMappingKeepsNoCache(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	path, f := m.file("f", bytes.Repeat([]byte("x"), 2*page))
	other, g := m.file("g", bytes.Repeat([]byte("x"), 2*page))
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapBoth, 0))
	ok(t, "SETUPMAPPING", m.SetupMapping(g, 0, piece, mapRead, piece))
	ok(t, "a store", m.store(0, "first"))
	aged(t, path)
	aged(t, other)
	for n, kept := range map[virtiofs.NodeID]bool{f: false, g: true} {
		fh, _ := openKept(t, m.Conn, n, unix.O_RDONLY)
		if n == f {
			ok(t, "a store to a page that is dirty", m.store(0, "again"))
		}
		ok(t, "RELEASE", m.Release(n, fh, false))
		if _, got := openKept(t, m.Conn, n, unix.O_RDONLY); got != kept {
			t.Errorf("kept %v, want %v", got, kept)
		}
	}
}
