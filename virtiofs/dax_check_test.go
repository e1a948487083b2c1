package virtiofs_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// TestAllocMapping: a file that was mapped lately is mapped again, and taken away,
// without allocating.
func TestAllocMapping(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	_, f := m.file("f", pattern(piece))
	setup := func(flags, at uint64) *hot {
		return prepared(m.Conn, 0, m.Message(fuse.SetupMapping, f, fstest.MapArgs(^uint64(0), 0, piece, flags, at)))
	}
	read, both := setup(mapRead, 0), setup(mapBoth, piece)
	remove := prepared(m.Conn, 0, m.Message(fuse.RemoveMapping, f, fstest.U32(2), fstest.U64(0, piece, piece, piece)))
	serve := func() {
		for _, h := range []*hot{read, both, remove} {
			if n, again := h.serve(); n != fuse.OutHeaderSize || again {
				t.Fatalf("%d bytes, again %v", n, again)
			}
		}
	}
	m.UID = 1000
	serve()
	if a := testing.AllocsPerRun(100, serve); a != 0 {
		t.Errorf("%v allocations", a)
	}
	if s := m.w.Stats(); s.Setups != 2*102 {
		t.Errorf("%+v", s)
	}
}

// blind is a file system that maps all it is told to, or fails at it.
type blind struct {
	virtiofs.FS
	err            unix.Errno
	calls, refused int
}

func (b *blind) WindowSize() uint64 { return daxBytes }
func (b *blind) Refuse()            { b.refused++ }

func (b *blind) Map(virtiofs.NodeID, virtiofs.Mapping) unix.Errno {
	b.calls++
	return b.err
}

func (b *blind) Unmap(uint64, uint64) unix.Errno {
	b.calls++
	return b.err
}

func blindly(t *testing.T) (*blind, *fstest.Conn) {
	t.Helper()
	host, err := passthrough.New(t.TempDir(), passthrough.Options{})
	must(t, err)
	b := &blind{FS: host}
	s := virtiofs.NewServer(b, virtiofs.Options{DAX: virtiofs.DAXInode})
	t.Cleanup(func() { must(t, s.Close()) })
	c := fstest.Dial(t, s)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	return b, c
}

// TestMappingChecks: what breaks a rule does not even reach the file system.
func TestMappingChecks(t *testing.T) {
	b, c := blindly(t)
	for _, x := range badMappings(root) {
		want(t, x.name, c.SetupMapping(root, x.off, x.n, x.flags, x.pos), unix.EINVAL)
		if b.calls != 0 || b.refused != 1 {
			t.Errorf("%s: mapped %d times, refused %d times", x.name, b.calls, b.refused)
		}
		b.calls, b.refused = 0, 0
		if x.off == 0 && x.flags == mapRead {
			want(t, "REMOVEMAPPING, "+x.name, c.RemoveMapping(x.pos, x.n), unix.EINVAL)
		}
	}
	if b.calls != 0 {
		t.Errorf("removed %d times", b.calls)
	}
	ok(t, "REMOVEMAPPING", c.RemoveMapping(0, daxBytes, daxBytes-page, page))
	if b.calls != 2 {
		t.Errorf("removed %d times, want 2", b.calls)
	}
}

// TestMappingNeverAgain: no answer has the guest touch the page for ever.
func TestMappingNeverAgain(t *testing.T) {
	b, c := blindly(t)
	for host, guest := range map[unix.Errno]unix.Errno{
		0: 0, unix.EAGAIN: unix.EIO, unix.ENOMEM: unix.EIO, unix.EIO: unix.EIO, unix.ENODEV: unix.ENODEV, unix.ENOSYS: unix.EOPNOTSUPP,
	} {
		b.err = host
		want(t, errName(host), c.SetupMapping(root, 0, page, mapRead, 0), guest)
	}
}

// BenchmarkMapping is the price of SETUPMAPPING and REMOVEMAPPING of 2 MiB beyond that
// of the window's own work.
func BenchmarkMapping(b *testing.B) {
	for _, flags := range []uint64{mapRead, mapBoth} {
		name := map[uint64]string{mapRead: "read", mapBoth: "write"}[flags]
		m := mapShare(b, passthrough.Options{}, virtiofs.Options{})
		path, f := m.file("f", pattern(piece))
		setup := prepared(m.Conn, 0, m.Message(fuse.SetupMapping, f, fstest.MapArgs(^uint64(0), 0, piece, flags, 0)))
		remove := prepared(m.Conn, 0, m.Message(fuse.RemoveMapping, f, fstest.U32(1), fstest.U64(0, piece)))
		b.Run(name+"/serve", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				setup.serve()
				remove.serve()
			}
		})
		fd, err := unix.Open(path, unix.O_RDWR, 0)
		must(b, err)
		defer func() { must(b, unix.Close(fd)) }()
		b.Run(name+"/window", func(b *testing.B) {
			for b.Loop() {
				ok(b, "Map", m.w.Map(fd, dax.Mapping{File: uint64(f), Len: piece, Write: flags == mapBoth}))
				ok(b, "Unmap", m.w.Unmap(0, piece))
			}
		})
	}
}
