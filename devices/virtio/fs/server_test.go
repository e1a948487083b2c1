package fs

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue/queuetest"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

const rootNode = virtiofs.NodeID(1)

// share is a device that serves a temporary directory, and a way to build
// messages for it.
type share struct {
	*rig
	dir string
	c   *fstest.Conn
}

func newShare(tb testing.TB) *share {
	tb.Helper()
	return serveDir(tb, passthrough.Options{}, virtiofs.Options{})
}

// serveDir is a share with options, at windowAt the window among them.
func serveDir(tb testing.TB, o passthrough.Options, so virtiofs.Options) *share {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "share")
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	host, err := passthrough.New(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	s := virtiofs.NewServer(host, so)
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	var windows []memory.Region
	if o.Window != nil {
		windows = append(windows, memory.Region{GPA: windowAt, Data: o.Window.Reservation()})
	}
	return &share{newRig(tb, s, ServiceAuto, 1, windows...), dir, fstest.Dial(tb, s)}
}

// request is a message laid out in guest memory as Linux does it: header,
// arguments and pages are buffers of their own, in an indirect table.
type request struct {
	*share
	at      memory.GPA
	buffers []queuetest.Buffer
	room    uint32
}

// requestAt is where the one request of these tests lies: table, readable bytes,
// writable bytes.
const requestAt = ramBase + 0x200000

// prepare lays the message out, with room for a reply body of the given length
// in pieces of at most one page.
func (s *share) prepare(op fuse.Opcode, node virtiofs.NodeID, room uint32, args ...[]byte) *request {
	q := &request{share: s, at: requestAt, room: fuse.OutHeaderSize + room}
	at := q.at + 0x10000
	parts := [][]byte{s.c.Message(op, node)}
	for _, a := range args {
		if len(a) > 0 {
			parts = append(parts, a)
		}
	}
	total := 0
	for _, p := range parts {
		s.rings[1].Write(at, p)
		q.buffers = append(q.buffers, queuetest.Buffer{At: at, Len: uint32(len(p))})
		at += memory.GPA(len(p)+0xfff) &^ 0xfff
		total += len(p)
	}
	var length [4]byte
	binary.LittleEndian.PutUint32(length[:], uint32(total))
	s.rings[1].Write(q.buffers[0].At, length[:])
	at = q.at + 0x200000
	q.buffers = append(q.buffers, queuetest.Buffer{At: at, Len: fuse.OutHeaderSize, Write: true})
	for at += 0x1000; room > 0; at += 0x1000 {
		n := min(room, 4096)
		q.buffers = append(q.buffers, queuetest.Buffer{At: at, Len: n, Write: true})
		room -= n
	}
	return q
}

// trip sends the request and returns the used length. It must be answered
// before Notify returns. No allocation: this is measured.
func (q *request) trip() (used uint32, ok bool) {
	r := q.rings[1]
	if _, ok := r.AddIndirect(q.at, q.buffers...); !ok || !r.Kick() {
		return 0, false
	}
	q.d.Notify(1)
	_, used, ok = r.Used()
	return used, ok && !r.Listen()
}

// pooled sends a request that may block and waits for its reply.
func (q *request) pooled() (used uint32) {
	q.t.Helper()
	q.rings[1].AddIndirect(q.at, q.buffers...)
	q.kick(1)
	for {
		if _, used, ok := q.rings[1].Used(); ok {
			q.rings[1].Listen()
			return used
		}
		if !q.rings[1].Listen() {
			<-q.bells[1]
		}
	}
}

// reply is the reply of the last trip: error and body.
func (q *request) reply(used uint32) (unix.Errno, []byte) {
	q.t.Helper()
	if used < fuse.OutHeaderSize {
		q.t.Fatalf("reply of %d bytes", used)
	}
	var b []byte
	for _, p := range q.buffers {
		if p.Write {
			b = append(b, q.rings[1].Read(p.At, p.Len)...)
		}
	}
	if got := binary.LittleEndian.Uint32(b); got != used {
		q.t.Fatalf("out.len %d, used length %d", got, used)
	}
	return unix.Errno(-int32(binary.LittleEndian.Uint32(b[4:]))), b[fuse.OutHeaderSize:used]
}

// call is prepare, trip and reply.
func (s *share) call(op fuse.Opcode, node virtiofs.NodeID, room uint32, args ...[]byte) []byte {
	s.t.Helper()
	q := s.prepare(op, node, room, args...)
	used, ok := q.trip()
	if !ok {
		s.t.Fatalf("%v: no reply when Notify returned", op)
	}
	e, body := q.reply(used)
	if e != 0 {
		s.t.Fatalf("%v: %v", op, e)
	}
	return body
}

// mount opens the session and creates a file through the ring.
func (s *share) mount(name string) (node virtiofs.NodeID, fh uint64) {
	s.t.Helper()
	s.call(fuse.Init, 0, fuse.InitOutSize,
		fstest.U32(fuse.Major, fuse.Minor, 128<<10, ^uint32(0), ^uint32(0)), make([]byte, 44))
	b := s.call(fuse.Create, rootNode, fuse.EntryOutSize+fuse.OpenOutSize,
		fstest.U32(unix.O_RDWR, 0o644, 0, 0), fstest.Str(name))
	return fstest.ParseEntry(b).Node, binary.LittleEndian.Uint64(b[fuse.EntryOutSize:])
}

// A file is written and read through the ring, and the host sees it.
func TestConversation(t *testing.T) {
	s := newShare(t)
	node, fh := s.mount("file")
	data := make([]byte, 40000)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	s.call(fuse.Write, node, 8, fstest.WriteArgs(fh, 0, uint32(len(data)), 0, 0), data[:4096], data[4096:])
	if got, err := os.ReadFile(filepath.Join(s.dir, "file")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("on the host: %d bytes, %v", len(got), err)
	}
	if got := s.call(fuse.Read, node, uint32(len(data)), fstest.ReadArgs(fh, 0, uint32(len(data)))); !bytes.Equal(got, data) {
		t.Errorf("read back %d bytes, or others", len(got))
	}
	if got := s.call(fuse.Read, node, 4096, fstest.ReadArgs(fh, uint64(len(data))-10, 4096)); !bytes.Equal(got, data[len(data)-10:]) {
		t.Errorf("at the end: %d bytes", len(got))
	}
	fsync := s.prepare(fuse.Fsync, node, 0, fstest.U64(fh, 0))
	if e, _ := fsync.reply(fsync.pooled()); e != 0 {
		t.Errorf("FSYNC: %v", e)
	}
	missing := s.prepare(fuse.Lookup, rootNode, fuse.EntryOutSize, fstest.Str("missing"))
	used, _ := missing.trip()
	if e, body := missing.reply(used); e != unix.ENOENT && (e != 0 || fstest.ParseEntry(body).Node != 0) {
		t.Errorf("LOOKUP of a missing name: %v", e)
	}
}

// FORGET has nothing writable and comes on hiprio; the reset ends the session.
func TestForgetAndReset(t *testing.T) {
	s := newShare(t)
	node, _ := s.mount("file")
	q := s.prepare(fuse.Forget, node, 0, fstest.U64(1))
	s.rings[0].Add(q.buffers[0], q.buffers[1])
	s.kick(0)
	if _, used, ok := s.rings[0].Used(); !ok || used != 0 {
		t.Errorf("FORGET: %d, %v", used, ok)
	}
	s.d.Reset()
	s.activate()
	q = s.prepare(fuse.Getattr, rootNode, fuse.AttrOutSize, make([]byte, 16))
	used, ok := q.trip()
	if !ok {
		t.Fatal("no reply")
	}
	if e, _ := q.reply(used); e == 0 {
		t.Error("GETATTR without a session succeeded")
	}
}

// hotRequests are what a guest's time is spent on.
func hotRequests(tb testing.TB, name string) (q *request, path string) {
	s := newShare(tb)
	node, fh := s.mount("file")
	block := make([]byte, 4096)
	s.call(fuse.Write, node, 8, fstest.WriteArgs(fh, 0, 4096, 0, 0), block)
	switch name {
	case "GETATTR":
		q = s.prepare(fuse.Getattr, node, fuse.AttrOutSize, make([]byte, 16))
	case "LOOKUP":
		q = s.prepare(fuse.Lookup, rootNode, fuse.EntryOutSize, fstest.Str("file"))
	case "READ4K":
		q = s.prepare(fuse.Read, node, 4096, fstest.ReadArgs(fh, 0, 4096))
	case "WRITE4K":
		q = s.prepare(fuse.Write, node, 8, fstest.WriteArgs(fh, 0, 4096, 0, 0), block)
	}
	return q, filepath.Join(s.dir, "file")
}

var hotNames = []string{"GETATTR", "LOOKUP", "READ4K", "WRITE4K"}

func TestAllocRequests(t *testing.T) {
	for _, name := range hotNames {
		q, _ := hotRequests(t, name)
		var used uint32
		var ok bool
		if n := testing.AllocsPerRun(500, func() { used, ok = q.trip() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if e, _ := q.reply(used); !ok || e != 0 || used != q.room {
			t.Errorf("%s: used %d of %d, %v", name, used, q.room, e)
		}
	}
}
