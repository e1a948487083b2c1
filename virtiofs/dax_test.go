package virtiofs_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// Flags and sizes of mappings in these tests.
const (
	mapRead  = fuse.MapRead
	mapBoth  = fuse.MapRead | fuse.MapWrite
	page     = dax.PageSize
	piece    = dax.RangeSize
	daxBytes = 2 * piece
)

// mapper is a guest with a DAX window. What it loads and stores there goes by
// system calls: like everything in this process they touch the window from
// outside, and a page that is not there is EFAULT.
type mapper struct {
	*fstest.Conn
	t    testing.TB
	dir  string
	w    *dax.Window
	copy int // memfd between the window and Go memory
}

// mapShare is a share with a window, in which every file is mapped unless so says
// otherwise, and a session that is offered every flag.
func mapShare(tb testing.TB, o passthrough.Options, so virtiofs.Options) *mapper {
	tb.Helper()
	var err error
	o.Window, err = dax.New(daxBytes)
	must(tb, err)
	if so.DAX == virtiofs.DAXNever {
		so.DAX = virtiofs.DAXAlways
	}
	m := &mapper{t: tb, w: o.Window}
	m.copy, err = unix.MemfdCreate("tenon-test", unix.MFD_CLOEXEC)
	must(tb, err)
	tb.Cleanup(func() { must(tb, unix.Close(m.copy)) })
	m.dir, m.Conn = serveWith(tb, o, so)
	_, e := m.Init(fstest.AllFlags)
	ok(tb, "INIT", e)
	return m
}

// file makes a file on the host and looks it up.
func (m *mapper) file(name string, data []byte) (path string, node virtiofs.NodeID) {
	m.t.Helper()
	path = filepath.Join(m.dir, name)
	must(m.t, os.WriteFile(path, data, 0o644))
	return path, m.look(name)
}

func (m *mapper) look(name string) virtiofs.NodeID {
	m.t.Helper()
	f, e := m.Lookup(root, name)
	ok(m.t, "LOOKUP", e)
	return f.Node
}

// load is the bytes that the window shows.
func (m *mapper) load(at uint64, n int) ([]byte, unix.Errno) {
	m.t.Helper()
	done, err := unix.Pwrite(m.copy, m.w.Reservation()[at:at+uint64(n)], 0)
	if err != nil {
		return nil, err.(unix.Errno)
	}
	b := make([]byte, done)
	_, err = unix.Pread(m.copy, b, 0)
	must(m.t, err)
	return b, 0
}

// store writes to the window.
func (m *mapper) store(at uint64, data string) unix.Errno {
	m.t.Helper()
	_, err := unix.Pwrite(m.copy, []byte(data), 0)
	must(m.t, err)
	n, err := unix.Pread(m.copy, m.w.Reservation()[at:at+uint64(len(data))], 0)
	if err != nil {
		return err.(unix.Errno)
	}
	if n != len(data) {
		m.t.Fatalf("stored %d of %d bytes", n, len(data))
	}
	return 0
}

// shows fails unless the window shows the bytes.
func (m *mapper) shows(what string, at uint64, data []byte) {
	m.t.Helper()
	got, e := m.load(at, len(data))
	if e != 0 || !bytes.Equal(got, data) {
		m.t.Errorf("%s: the window shows %.20q (%d bytes, %v) at %#x, want %.20q", what, got, len(got), errName(e), at, data)
	}
}

var zeros [64 << 10]byte

// TestMapping: what is mapped shows in the window, wherever and in what order it
// was mapped, what replaces it shows instead, and what is removed shows zeros.
func TestMapping(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	a := bytes.Repeat([]byte("a"), 16*page)
	copy(a[5*page:], "five")
	_, f := m.file("f", a)
	b := bytes.Repeat([]byte("b"), 16*page)
	_, g := m.file("g", b)

	m.shows("nothing is mapped", 0, zeros[:])
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapRead, 0))
	m.shows("a range from the start of a file", 0, a)
	m.shows("the range behind it", piece, zeros[:])
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 5*page, page, mapRead, piece+3*page))
	m.shows("one page", piece+3*page, a[5*page:6*page])
	m.shows("the page before it", piece+2*page, zeros[:page])
	m.shows("the page behind it", piece+4*page, zeros[:page])
	ok(t, "SETUPMAPPING", m.SetupMapping(g, 0, 4*page, mapRead, 2*page))
	m.shows("before what was replaced", 0, a[:2*page])
	m.shows("what was replaced", 2*page, b[:4*page])
	m.shows("behind what was replaced", 6*page, a[6*page:])

	ok(t, "REMOVEMAPPING", m.RemoveMapping(3*page, page, piece+3*page, page))
	m.shows("beside what was removed", 2*page, b[:page])
	m.shows("what was removed", 3*page, zeros[:page])
	m.shows("beside what was removed", 4*page, b[:2*page])
	m.shows("what was removed with it", piece+3*page, zeros[:page])
	ok(t, "REMOVEMAPPING", m.RemoveMapping(0, piece))
	m.shows("all was removed", 0, zeros[:])
	ok(t, "REMOVEMAPPING of what shows nothing", m.RemoveMapping(0, piece))
	if s := m.w.Stats(); s.Setups != 3 || s.Mapped != 0 {
		t.Errorf("%+v", s)
	}
}

// TestMappingWrite: guest and host see each other's stores at once; a mapping for
// reading is made writable in its place.
func TestMappingWrite(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	path, f := m.file("f", bytes.Repeat([]byte("x"), 2*page))
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapRead, 0))
	want(t, "a store to a mapping for reading", m.store(0, "guest"), unix.EFAULT)
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapBoth, 0))
	ok(t, "a store", m.store(3, "guest"))
	if got := read(t, path)[:10]; got != "xxxguestxx" {
		t.Errorf("the file begins with %q", got)
	}
	fh, e := m.Open(f, unix.O_RDWR)
	ok(t, "OPEN", e)
	got, e := m.Read(f, fh, 0, 10)
	if ok(t, "READ", e); string(got) != "xxxguestxx" {
		t.Errorf("READ %q", got)
	}
	_, e = m.Write(f, fh, page, []byte("request"), 0, 0)
	ok(t, "WRITE", e)
	m.shows("what WRITE has written", page, []byte("requestxx"))
	host, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer host.Close()
	_, err = host.WriteAt([]byte("host"), 0)
	must(t, err)
	m.shows("what the host has written", 0, []byte("hostuest"))
	// Only a store makes a mapping for writing, a load does not: the next one for
	// reading shows the same.
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, page, mapRead, piece))
	m.shows("mapped once more", piece, []byte("hostuest"))
	want(t, "a store to the mapping for reading", m.store(piece, "guest"), unix.EFAULT)
	if s := m.w.Stats(); s.Upgrades != 1 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
}

// TestMappingGrows: a mapping that reaches beyond the end of its file shows what
// the file gets there, however it grows, and the file does not grow by it.
func TestMappingGrows(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	path, f := m.file("f", []byte("short"))
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapBoth, 0))
	m.shows("the end of the file", 0, []byte("short\x00\x00"))
	ok(t, "SETUPMAPPING beyond the end", m.SetupMapping(f, 1<<40, piece, mapRead, piece))
	if st := lstat(t, path); st.Size != 5 {
		t.Errorf("mapping made the file %d bytes long", st.Size)
	}
	fh, e := m.Open(f, unix.O_RDWR)
	ok(t, "OPEN", e)
	_, e = m.Write(f, fh, page+1, []byte("longer"), 0, 0)
	ok(t, "WRITE", e)
	if m.w.Examine(page, false) != dax.Usable {
		t.Error("the file has grown and its page cannot be used")
	}
	m.shows("what was appended", page, []byte("\x00longer"))
	ok(t, "a store to what was appended", m.store(page+1, "Longer"))
	if got := read(t, path); got[len(got)-6:] != "Longer" {
		t.Errorf("the file ends with %q", got[len(got)-6:])
	}
}

// TestRemoveMapping: the count is not believed beyond the bytes that are there, one
// mapping that is out of bounds does not keep the others, and many are for the pool.
func TestRemoveMapping(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	_, f := m.file("f", bytes.Repeat([]byte("x"), piece))
	for _, x := range []struct {
		name    string
		count   uint32
		ones    []uint64
		err     unix.Errno
		removed []uint64 // pages
	}{
		{"none", 0, nil, 0, nil},
		{"none of one", 0, []uint64{0, page}, 0, nil},
		{"one of two", 1, []uint64{0, page, page, page}, 0, []uint64{0}},
		{"two of one", 2, []uint64{0, page}, unix.EINVAL, nil},
		{"2^32-1", 1<<32 - 1, []uint64{0, page}, unix.EINVAL, nil},
		{"half of one", 1, []uint64{0}, unix.EINVAL, nil},
		{"no length", 1, []uint64{0, 0}, unix.EINVAL, nil},
		{"all ones", 1, []uint64{0, 1<<64 - 1}, unix.EINVAL, nil},
		{"all ones of 32 bits", 1, []uint64{0, 1<<32 - 1}, unix.EINVAL, nil},
		{"not of pages", 1, []uint64{0, 100}, unix.EINVAL, nil},
		{"not at a page", 1, []uint64{100, page}, unix.EINVAL, nil},
		{"beyond the window", 1, []uint64{daxBytes, page}, unix.EINVAL, nil},
		{"over the end", 1, []uint64{daxBytes - page, 2 * page}, unix.EINVAL, nil},
		{"round the end", 1, []uint64{1<<64 - page, 2 * page}, unix.EINVAL, nil},
		{"bad ones around a good one", 3, []uint64{1, page, 2 * page, page, 0, daxBytes + page}, unix.EINVAL, []uint64{2}},
	} {
		ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapRead, 0))
		_, e := m.Call(fuse.RemoveMapping, f, 0, fstest.U32(x.count), fstest.U64(x.ones...))
		want(t, x.name, e, x.err)
		shown := bytes.Repeat([]byte("x"), 4*page)
		for _, p := range x.removed {
			clear(shown[p*page:][:page])
		}
		m.shows(x.name, 0, shown)
	}
	for _, x := range []struct {
		count  int
		pooled bool
		err    unix.Errno
	}{{1, false, 0}, {16, false, 0}, {17, true, 0}, {256, true, 0}, {257, false, unix.EINVAL}} {
		ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapRead, 0))
		var ones []byte
		for i := range x.count {
			ones = append(ones, fstest.U64(uint64(i)*page, page)...)
		}
		reply, pooled := m.Raw(m.Message(fuse.RemoveMapping, f, fstest.U32(uint32(x.count)), ones), 16)
		want(t, fmt.Sprintf("REMOVEMAPPING of %d", x.count), unix.Errno(-int32(le.Uint32(reply[4:]))), x.err)
		if pooled != x.pooled {
			t.Errorf("%d: in the pool is %v", x.count, pooled)
		}
		at := uint64(x.count) * page
		if x.err != 0 {
			at = 0
		} else {
			m.shows("the last that was removed", at-page, zeros[:page])
		}
		m.shows("what was not removed", at, []byte("xxx"))
	}
}

// TestMappingStrips: a file loses its set-id bits and its capabilities before the
// guest can store to it, as it does at a write; for reading it keeps them.
func TestMappingStrips(t *testing.T) {
	for name, o := range map[string]passthrough.Options{"kept": {}, "moved": {Xattrs: xattrMap(t, ":map:security.:user.virtiofs.:")}} {
		t.Run(name, func(t *testing.T) { testStrips(t, o) })
	}
}

func testStrips(t *testing.T, o passthrough.Options) {
	needRoot(t, "no capabilities can be given to files")
	m := mapShare(t, o, virtiofs.Options{})
	path, f := m.file("f", []byte("data"))
	needUserXattrs(t, m.dir)
	capability := func() string {
		v, _ := getxattr(m.Conn, f, "security.capability")
		return v
	}
	// VFS_CAP_REVISION_2 with CAP_CHOWN
	value := string(fstest.U32(0x02000001, 1, 0, 0, 0))
	host := func() bool {
		_, err := unix.Getxattr(path, "security.capability", nil)
		return err == nil
	}
	set := func(mode uint32) {
		must(t, unix.Chmod(path, mode))
		ok(t, "SETXATTR", setxattr(m.Conn, f, "security.capability", value))
		must(t, unix.Setxattr(path, "security.capability", []byte(value), 0))
	}
	for _, x := range []struct {
		name  string
		uid   uint32
		flags uint64
		from  uint32
		to    uint32
		caps  bool
	}{
		{"for reading", 1000, mapRead, 0o6755, 0o6755, true},
		{"for root", 0, mapBoth, 0o6755, 0o6755, false},
		{"for a user", 1000, mapBoth, 0o6755, 0o755, false},
		{"for a user, again", 1000, mapBoth, 0o6755, 0o755, false}, // the file is open by now
		{"for a user, without x for the group", 1000, mapBoth, 0o6745, 0o2745, false},
	} {
		set(x.from)
		m.UID = x.uid
		ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, page, x.flags, 0))
		m.UID = 0
		if got := lstat(t, path).Mode & 0o7777; got != x.to {
			t.Errorf("%s: mode %o, want %o", x.name, got, x.to)
		}
		if got := capability() != ""; got != x.caps {
			t.Errorf("%s: the guest's capabilities are there: %v", x.name, got)
		}
		if got := host(); got != x.caps {
			t.Errorf("%s: the host's capabilities are there: %v", x.name, got)
		}
	}
}

// TestMappingStripsAtOpen: a file that is mapped for writing already gets no request
// that could take its bits, so opening it does.
func TestMappingStripsAtOpen(t *testing.T) {
	needRoot(t, "it takes another's set-id bits")
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	path, f := m.file("f", []byte("data"))
	_, g := m.file("g", []byte("data"))
	open := func(node virtiofs.NodeID, uid, flags uint32) {
		m.UID = uid
		h, e := m.Open(node, flags)
		m.UID = 0
		ok(t, "OPEN", e)
		ok(t, "RELEASE", m.Release(node, h, false))
	}
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, page, mapBoth, 0))
	ok(t, "SETUPMAPPING", m.SetupMapping(g, 0, page, mapRead, page))
	for _, x := range []struct {
		name       string
		uid, flags uint32
		to         uint32
	}{
		{"for reading", 1000, unix.O_RDONLY, 0o6755},
		{"by root", 0, unix.O_RDWR, 0o6755},
		{"by a user", 1000, unix.O_RDWR, 0o755},
	} {
		must(t, unix.Chmod(path, 0o6755))
		open(f, x.uid, x.flags)
		if got := lstat(t, path).Mode & 0o7777; got != x.to {
			t.Errorf("%s: mode %o, want %o", x.name, got, x.to)
		}
	}
	other := filepath.Join(m.dir, "g")
	must(t, unix.Chmod(other, 0o6755))
	open(g, 1000, unix.O_RDWR)
	if got := lstat(t, other).Mode & 0o7777; got != 0o6755 {
		t.Errorf("a file that is mapped for reading: mode %o", got)
	}
}

// TestMappingSession: whatever ends a session takes its mappings along.
func TestMappingSession(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	_, f := m.file("f", []byte("data"))
	for _, end := range []struct {
		name string
		do   func()
	}{
		{"DESTROY", func() { _, e := m.Call(fuse.Destroy, 0, 0); ok(t, "DESTROY", e) }},
		{"reset", m.S.Reset},
		{"INIT", func() { _, e := m.Init(fstest.AllFlags); ok(t, "INIT", e) }},
	} {
		ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapBoth, 0))
		ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapRead, piece))
		end.do()
		m.shows("after "+end.name, 0, zeros[:page])
		m.shows("after "+end.name, piece, zeros[:page])
		if s := m.w.Stats(); s.Mapped != 0 || s.Free != s.Ranges {
			t.Errorf("after %s: %+v", end.name, s)
		}
		if maps := read(t, "/proc/self/maps"); strings.Contains(maps, m.dir) {
			t.Errorf("after %s a file of the share is mapped:\n%s", end.name, maps)
		}
		if end.name != "INIT" {
			want(t, "SETUPMAPPING after "+end.name, m.SetupMapping(f, 0, piece, mapRead, 0), unix.EIO)
			_, e := m.Init(fstest.AllFlags)
			ok(t, "INIT", e)
		}
		want(t, "SETUPMAPPING of the old session's node", m.SetupMapping(f, 0, piece, mapRead, 0), unix.ESTALE)
		f = m.look("f")
	}
}

// TestMappingOutlives: a mapping shows its file after that was renamed, removed and
// forgotten, until something is done about the mapping.
func TestMappingOutlives(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	path, f := m.file("f", []byte("data"))
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapBoth, 0))
	must(t, os.Remove(path))
	m.shows("removed", 0, []byte("data"))
	ok(t, "SETUPMAPPING of a removed file", m.SetupMapping(f, 0, piece, mapBoth, piece))
	ok(t, "a store to a removed file", m.store(0, "DATA"))
	m.shows("stored elsewhere", piece, []byte("DATA"))
	m.Forget(f, 1)
	m.shows("forgotten", 0, []byte("DATA"))
	want(t, "SETUPMAPPING of a forgotten node", m.SetupMapping(f, 0, piece, mapBoth, piece), unix.ESTALE)
	ok(t, "REMOVEMAPPING", m.RemoveMapping(0, daxBytes))
	m.shows("removed", 0, zeros[:page])
}

// TestMappingLost: where stores of the guest could not be kept, FSYNC says so, once.
func TestMappingLost(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	path, f := m.file("f", bytes.Repeat([]byte("x"), 2*page))
	_, g := m.file("g", bytes.Repeat([]byte("x"), page))
	fh, e := m.Open(f, unix.O_RDWR)
	ok(t, "OPEN", e)
	gh, e := m.Open(g, unix.O_RDWR)
	ok(t, "OPEN", e)
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapBoth, 0))
	ok(t, "SETUPMAPPING", m.SetupMapping(g, 0, piece, mapBoth, piece))
	fsync := func(n virtiofs.NodeID, fh uint64) unix.Errno {
		_, e := m.Call(fuse.Fsync, n, 0, fstest.U64(fh, 0))
		return e
	}
	ok(t, "FSYNC", fsync(f, fh))
	must(t, os.Truncate(path, page))
	// The news of the truncation may hide the page once more after it was plugged: the
	// guest then faults again, and gets another plug.
	e = unix.EFAULT
	for range 100 {
		ok(t, "Plug", m.w.Plug(page, true))
		if e = m.store(page, "lost"); e == 0 {
			break
		}
	}
	ok(t, "a store to the page that stands in", e)
	ok(t, "FSYNC of another file", fsync(g, gh))
	want(t, "FSYNC", fsync(f, fh), unix.EIO)
	ok(t, "FSYNC afterwards", fsync(f, fh))
	ok(t, "RELEASE", m.Release(f, fh, false))
}
