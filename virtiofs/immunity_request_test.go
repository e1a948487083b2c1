package virtiofs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// badMapping is the arguments of a SETUPMAPPING that is refused.
type badMapping struct {
	name               string
	node               virtiofs.NodeID
	off, n, flags, pos uint64
	err                unix.Errno
}

// badMappings is those that break a rule of their own, whatever the file.
func badMappings(f virtiofs.NodeID) []badMapping {
	const top = ^uint64(0)
	return []badMapping{
		{"no length", f, 0, 0, mapRead, 0, unix.EINVAL},
		{"length of all ones", f, 0, top, mapRead, 0, unix.EINVAL},
		{"length not of pages", f, 0, page + 1, mapRead, 0, unix.EINVAL},
		{"less than a page", f, 0, 1, mapRead, 0, unix.EINVAL},
		{"offset not at a page", f, 512, page, mapRead, 0, unix.EINVAL},
		{"offset of all ones", f, top, page, mapRead, 0, unix.EINVAL},
		{"offset that overflows", f, top - page + 1, page, mapRead, 0, unix.EINVAL},
		{"offset below zero", f, 1 << 63, page, mapRead, 0, unix.EINVAL},
		{"end below zero", f, 1<<63 - page, page, mapRead, 0, unix.EINVAL},
		{"place not at a page", f, 0, page, mapRead, 1, unix.EINVAL},
		{"place behind the window", f, 0, page, mapRead, daxBytes, unix.EINVAL},
		{"place over the window's end", f, 0, 2 * page, mapRead, daxBytes - page, unix.EINVAL},
		{"more than the window", f, 0, daxBytes + page, mapRead, 0, unix.EINVAL},
		{"place that overflows", f, 0, 2 * page, mapRead, top - page + 1, unix.EINVAL},
		{"place below zero", f, 0, page, mapRead, 1 << 63, unix.EINVAL},
		{"no flags", f, 0, page, 0, 0, unix.EINVAL},
		{"unknown flags", f, 0, page, mapRead | 4, 0, unix.EINVAL},
		{"all flags", f, 0, page, top, 0, unix.EINVAL},
	}
}

// TestImmunity10Mapping: requests to map a file into the guest that break a rule map
// nothing, whatever their arguments, and leave what is mapped alone.
func TestImmunity10Mapping(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	path, f := m.file("f", bytes.Repeat([]byte("x"), 2*page))
	_, g := m.file("g", bytes.Repeat([]byte("y"), 2*page))
	fh, e := m.Open(f, unix.O_RDWR)
	ok(t, "OPEN", e)
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, page, mapRead, 0))
	for _, x := range append(badMappings(f), []badMapping{
		{"a directory", root, 0, page, mapRead, 0, unix.EISDIR},
		{"a directory, for writing", root, 0, page, mapBoth, 0, unix.EISDIR},
		{"no node", 0, 0, page, mapRead, 0, unix.ESTALE},
		{"a node that never was", 1 << 40, 0, page, mapRead, 0, unix.ESTALE},
		{"node of all ones", ^virtiofs.NodeID(0), 0, page, mapBoth, 0, unix.ESTALE},
	}...) {
		for _, named := range []uint64{^uint64(0), 0, fh} {
			_, e := m.Call(fuse.SetupMapping, x.node, 0, fstest.MapArgs(named, x.off, x.n, x.flags, x.pos))
			want(t, "SETUPMAPPING, "+x.name, e, x.err)
		}
	}
	m.shows("what was mapped before", 0, bytes.Repeat([]byte("x"), page))
	m.shows("the page behind it", page, zeros[:page])
	m.shows("the window's end", daxBytes-page, zeros[:page])
	if s := m.w.Stats(); s.Setups != 1 || s.Refused != 3*uint64(len(badMappings(f))) {
		t.Errorf("%+v", s)
	}
	// The handle is not looked at, as Linux has none to name.
	for _, named := range []uint64{^uint64(0), 0, fh, fh + 64} {
		_, e := m.Call(fuse.SetupMapping, g, 0, fstest.MapArgs(named, 0, page, mapRead, page))
		ok(t, "SETUPMAPPING", e)
		m.shows("whatever the handle", page, []byte("yyy"))
	}
	// The borders are inside.
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, page, mapRead, daxBytes-page))
	m.shows("the last page", daxBytes-page, []byte("xxx"))
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 1<<63-2*page, page, mapRead, 0))
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, daxBytes, mapBoth, 0))
	m.shows("the first page", 0, []byte("xxx"))
	if st := lstat(t, path); st.Size != 2*page {
		t.Errorf("the file has %d bytes", st.Size)
	}
}

// TestImmunity11HostChanges: the host truncates, punches and deletes a file while a guest
// reads and writes it, by requests and through the window. Each request is answered
// with data that was in the file or zeros; nothing ends this process.
func TestImmunity11HostChanges(t *testing.T) {
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	const size = 1 << 20
	full := bytes.Repeat([]byte{'g'}, size)
	path, f := m.file("f", full)
	fh, e := m.Open(f, unix.O_RDWR)
	ok(t, "OPEN", e)
	host, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer host.Close()
	stop := make(chan struct{})
	var changer sync.WaitGroup
	changer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = host.Truncate(0)
				_, _ = host.WriteAt(full, 0)
				_ = unix.Fallocate(int(host.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, size/2)
				_ = os.Remove(path)
			}
		}
	})
	for i := range 300 {
		b, e := m.Read(f, fh, 0, size)
		ok(t, "READ", e)
		if bytes.Trim(b, "g\x00") != nil {
			t.Fatalf("READ: bytes that were never there: %q", bytes.Trim(b, "g\x00"))
		}
		n, e := m.Write(f, fh, uint64(i)<<12%size, full[:64<<10], 0, 0)
		if ok(t, "WRITE", e); n != 64<<10 {
			t.Fatalf("WRITE: %d bytes", n)
		}
		_, e = m.Call(fuse.CopyFileRange, f, 8, fstest.U64(fh, 0, uint64(f), fh, size, 4096, 0))
		ok(t, "COPY_FILE_RANGE", e)
		m.touch(f, uint64(i))
	}
	close(stop)
	changer.Wait()
	must(t, host.Truncate(0))
	b, e := m.Read(f, fh, 0, size)
	if ok(t, "READ of the deleted file", e); len(b) != 0 {
		t.Errorf("READ of the truncated file: %d bytes", len(b))
	}
}

// touch maps the file, loads and stores, and has what went wrong looked at as a
// fault of the guest would be. A page that is not in the file any more is EFAULT.
func (m *mapper) touch(f virtiofs.NodeID, i uint64) {
	m.t.Helper()
	at := i % 2 * piece
	ok(m.t, "SETUPMAPPING", m.SetupMapping(f, 0, piece, mapBoth, at))
	for p := range uint64(8) {
		here := at + (i*8+p)*page%(1<<20)
		b, e := m.load(here, page)
		if e != 0 && e != unix.EFAULT || bytes.Trim(b, "g\x00") != nil {
			m.t.Fatalf("a load: %v, %.20q", errName(e), b)
		}
		if e := m.store(here, "g"); e != 0 {
			want(m.t, "a store", e, unix.EFAULT)
			m.w.Examine(here, true)
		}
	}
	if i%3 == 0 {
		ok(m.t, "REMOVEMAPPING", m.RemoveMapping(at, piece))
	}
}

// TestImmunity12Malformed sends requests that no guest should: each is answered or
// dropped, and none does anything.
func TestImmunity12Malformed(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	write(t, filepath.Join(dir, "f"), "data")
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_RDWR)
	ok(t, "OPEN", e)

	patch := func(msg []byte, off int, v uint32) []byte { le.PutUint32(msg[off:], v); return msg }
	write41 := fstest.WriteArgs(fh, 0, 41, 0, 0)
	huge := fstest.WriteArgs(fh, 0, 1<<31, 0, 0)
	for _, m := range []struct {
		name string
		msg  []byte
		room int
		err  unix.Errno
	}{
		{"length over the chain", patch(c.Message(fuse.Getattr, root, make([]byte, 16)), 0, 57), 200, unix.EINVAL},
		{"length of all ones", patch(c.Message(fuse.Getattr, root, make([]byte, 16)), 0, ^uint32(0)), 200, unix.EINVAL},
		{"length under the header", patch(c.Message(fuse.Getattr, root, make([]byte, 16)), 0, 39), 200, unix.EINVAL},
		{"length 0", patch(c.Message(fuse.Getattr, root, make([]byte, 16)), 0, 0), 200, unix.EINVAL},
		{"arguments missing", c.Message(fuse.Getattr, root, make([]byte, 15)), 200, unix.EINVAL},
		{"name missing", c.Message(fuse.Lookup, root), 200, unix.EINVAL},
		{"second name missing", c.Message(fuse.Rename, root, fstest.U64(1), fstest.Str("f")), 200, unix.EINVAL},
		{"name of a megabyte", c.Message(fuse.Lookup, root, make([]byte, 1<<20)), 200, unix.E2BIG},
		{"name of the creation extensions only", c.Message(fuse.Mkdir, root, make([]byte, 8)), 200, unix.EINVAL},
		{"getxattr of 2^32-1", c.Message(fuse.Getxattr, f.Node, fstest.U32(^uint32(0), 0), fstest.Str("user.none")), 200, unix.ENODATA},
		{"xattr name of 64 KiB", c.Message(fuse.Getxattr, f.Node, fstest.U32(10, 0), bytes.Repeat([]byte{'n'}, 64<<10)), 200, unix.ENAMETOOLONG},
		{"ioctl with an answer of 4 GiB", c.Message(fuse.Ioctl, f.Node, fstest.U64(fh), fstest.U32(0, 0x80086601), fstest.U64(0), fstest.U32(0, ^uint32(0))), 200, unix.EINVAL},
		{"readdir of 2^32-1 on no directory", c.Message(fuse.Readdir, f.Node, fstest.ReadArgs(fh, 0, ^uint32(0))), 200, unix.EBADF},
		{"INIT of 8 bytes", c.Message(fuse.Init, 0, fstest.U32(7, 45)), 200, unix.EINVAL},
		{"opcode 0", c.Message(0, root), 200, unix.ENOSYS},
		{"opcode 54", c.Message(54, root), 200, unix.ENOSYS},
		{"opcode of all ones", c.Message(^fuse.Opcode(0), root), 200, unix.ENOSYS},
		{"CUSE_INIT", c.Message(4096, root), 200, unix.ENOSYS},
		{"big-endian INIT", c.Message(26<<24, root, make([]byte, 64)), 200, unix.ENOSYS},
		{"room for half an entry", c.Message(fuse.Lookup, root, fstest.Str("f")), 100, unix.EINVAL},
		{"room for half a size", c.Message(fuse.Listxattr, root, fstest.U32(0, 0)), 20, unix.EINVAL},
		{"write without its data", c.Message(fuse.Write, f.Node, write41, make([]byte, 40)), 200, unix.EINVAL},
		{"write of 2 GiB", c.Message(fuse.Write, f.Node, huge, make([]byte, 40)), 200, unix.EINVAL},
		{"write at -1", c.Message(fuse.Write, f.Node, fstest.WriteArgs(fh, 1<<63, 1, 0, 0), []byte{1}), 200, unix.EINVAL},
		{"read of 2 GiB", c.Message(fuse.Read, f.Node, fstest.ReadArgs(fh, 0, 1<<31)), 200, unix.EINVAL},
		{"read of more than the room", c.Message(fuse.Read, f.Node, fstest.ReadArgs(fh, 0, 185)), 200, unix.EINVAL},
		{"read at -1", c.Message(fuse.Read, f.Node, fstest.ReadArgs(fh, ^uint64(0), 1)), 200, unix.EINVAL},
		{"setxattr without its value", c.Message(fuse.Setxattr, f.Node, fstest.U32(^uint32(0), 0, 0, 0), fstest.Str("user.a"), []byte("v")), 200, unix.EINVAL},
		{"setxattr of the short form", c.Message(fuse.Setxattr, f.Node, fstest.U32(1, 0)), 200, unix.EINVAL},
		{"truncate to -1", c.Message(fuse.Setattr, f.Node, fstest.U32(fuse.FattrSize, 0), fstest.U64(0, 1<<63), make([]byte, 64)), 200, unix.EINVAL},
		{"fallocate of -1", c.Message(fuse.Fallocate, f.Node, fstest.U64(fh, 0, ^uint64(0)), fstest.U32(0, 0)), 200, unix.EINVAL},
		{"lseek from the end", c.Message(fuse.Lseek, f.Node, fstest.U64(fh, 0), fstest.U32(unix.SEEK_END, 0)), 200, unix.EINVAL},
		{"readdir on a file", c.Message(fuse.Readdir, f.Node, fstest.ReadArgs(fh, 0, 100)), 200, unix.EBADF},
		{"release of nothing", c.Message(fuse.Release, f.Node, fstest.U64(^uint64(0), 0, 0)), 200, unix.EBADF},
		{"handle of another node", c.Message(fuse.Read, root, fstest.ReadArgs(fh, 0, 1)), 200, unix.EBADF},
		{"handle 0", c.Message(fuse.Read, f.Node, fstest.ReadArgs(0, 0, 1)), 200, unix.EBADF},
		{"node 0", c.Message(fuse.Getattr, 0, make([]byte, 16)), 200, unix.ESTALE},
		{"node of all ones", c.Message(fuse.Getattr, ^virtiofs.NodeID(0), make([]byte, 16)), 200, unix.ESTALE},
	} {
		for _, piece := range []int{0, 1, 7, 40} {
			c.Piece = piece
			reply, _ := c.Raw(m.msg, m.room)
			if len(reply) != fuse.OutHeaderSize {
				t.Errorf("%s: reply of %d bytes", m.name, len(reply))
				continue
			}
			want(t, m.name, unix.Errno(-int32(le.Uint32(reply[4:]))), m.err)
		}
	}
	c.Piece = 0
	for _, m := range []struct {
		name string
		msg  []byte
		room int
	}{
		{"nothing", nil, 200},
		{"39 bytes", c.Message(fuse.Getattr, root)[:39], 200},
		{"no room for an error", c.Message(fuse.Getattr, root, make([]byte, 16)), 15},
		{"no room at all", c.Message(fuse.Lookup, root, fstest.Str("f")), 0},
		{"forget with room for a reply", c.Message(fuse.Forget, 12345, fstest.U64(1)), 200},
		{"forget without its count", c.Message(fuse.Forget, f.Node), 200},
		{"interrupt", c.Message(fuse.Interrupt, 0, fstest.U64(2)), 200},
		{"batch of 2^32-1", c.Message(fuse.BatchForget, 0, fstest.U32(^uint32(0), 0), fstest.U64(12345, 1)), 0},
		{"batch longer than any request", c.Message(fuse.BatchForget, 0, fstest.U32(^uint32(0), 0),
			bytes.Repeat(fstest.U64(uint64(f.Node), 1), virtiofs.MaxIO/fuse.ForgetOneSize+256)), 0},
	} {
		if reply, _ := c.Raw(m.msg, m.room); len(reply) != 0 {
			t.Errorf("%s: reply of %d bytes", m.name, len(reply))
		}
	}
	if got := read(t, filepath.Join(dir, "f")); got != "data" {
		t.Errorf("the file is %q now", got)
	}
	if _, e := c.Getattr(f.Node); e != 0 {
		t.Errorf("the node is gone: %v", e)
	}
}

// TestImmunity12Session: before INIT, after DESTROY and after a reset nothing is
// served; a new INIT knows no node and no handle of the old session.
func TestImmunity12Session(t *testing.T) {
	dir, c := serve(t, passthrough.Options{})
	write(t, filepath.Join(dir, "f"), "x")
	_, e := c.Getattr(root)
	want(t, "before INIT", e, unix.EIO)
	for _, end := range []struct {
		name string
		do   func()
	}{
		{"DESTROY", func() { _, e := c.Call(fuse.Destroy, 0, 0); ok(t, "DESTROY", e) }},
		{"reset", c.S.Reset},
		{"INIT", func() {}},
	} {
		_, e := c.Init(fstest.AllFlags)
		ok(t, "INIT", e)
		f, e := c.Lookup(root, "f")
		ok(t, "LOOKUP", e)
		fh, e := c.Open(f.Node, unix.O_RDONLY)
		ok(t, "OPEN", e)
		end.do()
		if end.name != "INIT" {
			_, e = c.Getattr(root)
			want(t, "after "+end.name, e, unix.EIO)
		}
		_, e = c.Init(fstest.AllFlags)
		ok(t, "INIT", e)
		_, e = c.Getattr(f.Node)
		want(t, end.name+": node of the session before", e, unix.ESTALE)
		_, e = c.Read(f.Node, fh, 0, 1)
		want(t, end.name+": handle of the session before", e, unix.EBADF)
		again, e := c.Lookup(root, "f")
		ok(t, "LOOKUP", e)
		if again.Node == f.Node {
			t.Errorf("%s: node id %d came back", end.name, f.Node)
		}
	}
}

// TestImmunity14Forget counts lookups from outside: a node is known exactly until as many
// were forgotten as were counted.
func TestImmunity14Forget(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	write(t, filepath.Join(dir, "f"), "")
	known := func(n virtiofs.NodeID) bool { _, e := c.Getattr(n); return e == 0 }
	look := func() virtiofs.NodeID {
		e, err := c.Lookup(root, "f")
		ok(t, "LOOKUP", err)
		return e.Node
	}
	listPlus := func(size uint32) (n int) {
		fh, e := c.Opendir(root)
		ok(t, "OPENDIR", e)
		list, e := c.Readdir(root, fh, 0, size, true)
		ok(t, "READDIRPLUS", e)
		for _, x := range list {
			if x.Name == "f" {
				n++
			}
		}
		ok(t, "RELEASEDIR", c.Release(root, fh, true))
		return n
	}

	n := look()
	look()
	if listPlus(4096) != 1 {
		t.Fatal("not listed")
	}
	c.Forget(n, 2)
	if !known(n) {
		t.Fatal("3 lookups, 2 forgotten: the node is gone")
	}
	c.Forget(n, 1)
	if known(n) {
		t.Fatal("3 lookups, 3 forgotten: the node is still there")
	}
	// READDIR counts nothing, nor does an entry that does not fit.
	n = look()
	for _, size := range []uint32{400, 430, 460} {
		if got := listPlus(size); got == 1 {
			c.Forget(n, 1)
		}
	}
	c.Forget(n, 1)
	if known(n) {
		t.Fatal("an entry that did not fit was counted")
	}
	// More than there are, all of them, and ones that never were.
	n = look()
	c.Forget(n, ^uint64(0))
	c.Forget(n, 1)
	if known(n) {
		t.Fatal("2^64-1 forgotten: the node is still there")
	}
	if m := look(); m == n || !known(m) {
		t.Fatalf("node %d after %d", m, n)
	}
	c.Forget(root, ^uint64(0))
	if !known(root) {
		t.Fatal("the root was forgotten")
	}
	// CREATE, LINK and the like count one each.
	f, _, e := c.Create(root, "g", unix.O_RDWR, 0o600)
	ok(t, "CREATE", e)
	_, e = c.Link(f.Node, root, "h")
	ok(t, "LINK", e)
	_, _, e = c.Create(root, "g", unix.O_RDWR, 0o600)
	ok(t, "CREATE", e)
	_, _, e = c.Create(root, "g", unix.O_RDWR|unix.O_EXCL, 0o600)
	want(t, "CREATE O_EXCL", e, unix.EEXIST)
	_, e = c.Call(fuse.BatchForget, 0, 0, fstest.U32(3, 0), fstest.U64(uint64(f.Node), 2, 99999, 1, uint64(root), 5))
	ok(t, "BATCH_FORGET", e)
	if !known(f.Node) {
		t.Fatal("3 lookups, 2 forgotten: the node is gone")
	}
	c.Forget(f.Node, 1)
	if known(f.Node) {
		t.Fatal("3 lookups, 3 forgotten: the node is still there")
	}
}

// TestImmunity14Race: FORGET that races with LOOKUP never loses a node that a
// lookup was answered with, and nothing is left when all is forgotten.
func TestImmunity14Race(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	write(t, filepath.Join(dir, "f"), "")
	before := openFiles(t)
	var guests sync.WaitGroup
	for range 4 {
		guest := fstest.Dial(t, c.S)
		guests.Go(func() {
			for range 3000 {
				f, e := guest.Lookup(root, "f")
				if e != 0 {
					t.Errorf("LOOKUP: %v", e)
					return
				}
				if _, e := guest.Getattr(f.Node); e != 0 {
					t.Errorf("GETATTR of what LOOKUP has just answered: %v", e)
					return
				}
				guest.Forget(f.Node, 1)
			}
		})
	}
	guests.Wait()
	if now := openFiles(t); now != before {
		t.Errorf("%d descriptors, %d before", now, before)
	}
}

// openFiles is the number of descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}
