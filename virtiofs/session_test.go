package virtiofs_test

import (
	"encoding/binary"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

var le = binary.LittleEndian

func TestInit(t *testing.T) {
	_, c := serve(t, passthrough.Options{})
	out, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	for _, f := range []struct {
		name      string
		off, size int
		want      uint64
	}{
		{"major", 0, 4, 7}, {"minor", 4, 4, 45}, {"max_readahead", 8, 4, 128 << 10},
		{"max_background", 16, 2, 1024}, {"congestion_threshold", 18, 2, 768}, {"max_write", 20, 4, 1 << 20},
		{"time_gran", 24, 4, 1}, {"max_pages", 28, 2, 256},
	} {
		var b [8]byte
		copy(b[:], out[f.off:f.off+f.size])
		if got := le.Uint64(b[:]); got != f.want {
			t.Errorf("%s = %d, want %d", f.name, got, f.want)
		}
	}
	// The bits that linux-and-spec marks yes for cache=auto, and no others.
	var set []int
	flags := uint64(le.Uint32(out[12:])) | uint64(le.Uint32(out[32:]))<<32
	for bit := range 64 {
		if flags>>bit&1 != 0 {
			set = append(set, bit)
		}
	}
	wantBits := []int{0, 3, 5, 11, 12, 13, 14, 15, 18, 22, 23, 27, 28, 29, 30, 34}
	if len(set) != len(wantBits) {
		t.Fatalf("flags %v, want %v", set, wantBits)
	}
	for i := range set {
		if set[i] != wantBits[i] {
			t.Fatalf("flags %v, want %v", set, wantBits)
		}
	}
}

// TestInitTakesOnlyWhatIsOffered: a flag the guest does not know must not come back.
func TestInitTakesOnlyWhatIsOffered(t *testing.T) {
	_, c := serve(t, passthrough.Options{})
	out, e := c.Init(fuse.AsyncRead | fuse.CreateSuppGroup) // bit 34 without INIT_EXT is not there
	ok(t, "INIT", e)
	if got := le.Uint32(out[12:]); got != uint32(fuse.AsyncRead) {
		t.Errorf("flags %#x", got)
	}
	if got := le.Uint32(out[32:]); got != 0 {
		t.Errorf("flags2 %#x", got)
	}
}

func TestInitVersions(t *testing.T) {
	for _, v := range []struct {
		major, minor uint32
		short        bool // the 16-byte form of before 7.36
		err          unix.Errno
		wantMinor    uint32
	}{
		{7, 38, false, 0, 38}, {7, 45, false, 0, 45}, {7, 99, false, 0, 45}, {8, 0, false, 0, 45},
		{7, 31, true, 0, 31}, {7, 26, true, unix.EPROTO, 0}, {6, 99, true, unix.EPROTO, 0},
	} {
		_, c := serve(t, passthrough.Options{})
		args := fstest.U32(v.major, v.minor, 0, 0)
		if !v.short {
			args = append(args, make([]byte, 48)...)
		}
		out, e := c.Call(fuse.Init, 0, fuse.InitOutSize, args)
		want(t, "INIT", e, v.err)
		if e == 0 && (le.Uint32(out) != 7 || le.Uint32(out[4:]) != v.wantMinor) {
			t.Errorf("%d.%d: answer %d.%d", v.major, v.minor, le.Uint32(out), le.Uint32(out[4:]))
		}
	}
}

// TestSessionEnds: before INIT, after DESTROY and after a reset nothing is
// served; a new INIT knows no node and no handle of the old session.
func TestSessionEnds(t *testing.T) {
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

func TestNegativeEntry(t *testing.T) {
	p := virtiofs.Auto()
	p.Negative = 5e9
	_, c := serveWith(t, passthrough.Options{}, virtiofs.Options{Policy: p})
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	got, e := c.Lookup(root, "missing")
	ok(t, "LOOKUP", e)
	if got.Node != 0 || got.EntryValid != 5 {
		t.Errorf("node %d valid for %d s", got.Node, got.EntryValid)
	}
	_, c = connect(t, passthrough.Options{})
	_, e = c.Lookup(root, "missing")
	want(t, "LOOKUP without negative caching", e, unix.ENOENT)
}

// TestMalformed sends requests that no guest should: each is answered or
// dropped, and none does anything.
func TestMalformed(t *testing.T) {
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

// TestExtensions: what ends a creation request is parsed by its own lengths.
func TestExtensions(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	group := append(fstest.U32(16, fuse.ExtGroups), fstest.U32(1, 7)...)
	for i, x := range []struct {
		name string
		ext  []byte
		err  unix.Errno
	}{
		{"one group", group, 0},
		{"empty security context", fstest.U32(8, 0), 0},
		{"security context, then a group", append(fstest.U32(8, 0), group...), 0},
		{"unknown type", append(fstest.U32(16, 99), 1, 2, 3, 4, 5, 6, 7, 8), 0},
		{"size 0", fstest.U32(0, 0), unix.EINVAL},
		{"size not of 8", append(fstest.U32(12, 0), make([]byte, 8)...), unix.EINVAL},
		{"size over the end", fstest.U32(16, 0), unix.EINVAL},
		{"size of all ones", fstest.U32(^uint32(7), 0), unix.EINVAL},
		{"groups without a count", fstest.U32(8, fuse.ExtGroups), unix.EINVAL},
		{"more groups than bytes", append(fstest.U32(16, fuse.ExtGroups), fstest.U32(2, 7)...), unix.EINVAL},
		{"groups of all ones", append(fstest.U32(16, fuse.ExtGroups), fstest.U32(^uint32(0), 7)...), unix.EINVAL},
	} {
		name := string(rune('a' + i))
		c.Ext = x.ext
		_, e := c.Mkdir(root, name, 0o755)
		want(t, x.name, e, x.err)
		if made := unix.Access(filepath.Join(dir, name), unix.F_OK) == nil; made != (x.err == 0) {
			t.Errorf("%s: made is %v", x.name, made)
		}
	}
	// total_extlen over the message.
	c.Ext = nil
	msg := c.Message(fuse.Mkdir, root, fstest.U32(0o755, 0), fstest.Str("z"))
	le.PutUint16(msg[36:], 0xffff)
	reply, _ := c.Raw(msg, 200)
	want(t, "total_extlen over the end", unix.Errno(-int32(le.Uint32(reply[4:]))), unix.EINVAL)
}
