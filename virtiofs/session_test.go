package virtiofs_test

import (
	"bytes"
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

// TestInitShort: what lies behind a short INIT, by its own length, is none of it.
func TestInitShort(t *testing.T) {
	_, c := serve(t, passthrough.Options{})
	msg := c.Message(fuse.Init, 0, fstest.U32(7, 38, 0, uint32(fuse.AsyncRead|fuse.InitExt)))
	reply, _ := c.Raw(append(msg, bytes.Repeat([]byte{0xff}, 48)...), 200)
	if e := unix.Errno(-int32(le.Uint32(reply[4:]))); e != 0 || le.Uint32(reply[fuse.OutHeaderSize+32:]) != 0 {
		t.Errorf("%v, flags2 %#x", e, le.Uint32(reply[fuse.OutHeaderSize+32:]))
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
