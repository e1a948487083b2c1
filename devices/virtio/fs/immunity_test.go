package fs

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// The immunity tests that are about descriptor chains and used lengths; the
// others, with the same numbering, are in virtiofs.

// TestImmunity12NoRoom: requests that have no room for a reply, or are no requests, come back with
// nothing written.
func TestImmunity12NoRoom(t *testing.T) {
	s := newShare(t)
	s.mount("file")
	q := s.prepare(fuse.Getattr, rootNode, fuse.AttrOutSize, make([]byte, 16))
	short := q.buffers[2]
	short.Len = fuse.OutHeaderSize - 1
	for name, b := range map[string][]queuetest.Buffer{
		"nothing writable":     q.buffers[:2],
		"15 bytes":             {q.buffers[0], q.buffers[1], short},
		"nothing readable":     q.buffers[2:],
		"half a header":        {{At: q.buffers[0].At, Len: 20}, q.buffers[2], q.buffers[3]},
		"one empty descriptor": {{At: q.at}},
	} {
		s.rings[1].AddIndirect(q.at, b...)
		s.kick(1)
		if _, used, ok := s.rings[1].Used(); !ok || used != 0 {
			t.Errorf("%s: used %d, %v", name, used, ok)
		}
		s.rings[1].Listen()
	}
	if len(s.broke) != 0 {
		t.Error(<-s.broke)
	}
}

// TestImmunity12Ring: a ring or an address that cannot be stops the device, once, and
// a reset makes it as new.
func TestImmunity12Ring(t *testing.T) {
	f := newFake()
	g := newRig(t, f, ServiceAuto, 2)
	g.rings[1].SetDesc(5, ramBase-1, 10, 0, 0)
	g.rings[1].Offer(5)
	g.d.Notify(1)
	g.rings[2].SetAvailIdx(ringSize + 1)
	g.d.Notify(2)
	if n := len(g.broke); n != 1 {
		t.Fatalf("broken %d times, want once", n)
	}
	g.add(0, "quick", 100)
	g.d.Notify(0)
	g.d.Notify(7)
	g.d.Notify(-1)
	if n := len(f.served()); n != 0 {
		t.Errorf("%d requests served after that", n)
	}
	g.d.Reset()
	g.activate()
	g.add(1, "quick", 100)
	g.kick(1)
	if _, text, ok := g.reply(1); !ok || text != "quick" {
		t.Errorf("after reset: %q, %v", text, ok)
	}
	<-g.broke
	g.rings[2].SetAvailIdx(ringSize + 1)
	g.d.Notify(2)
	if n := len(g.broke); n != 1 {
		t.Errorf("more chains than the ring has entries: broken %d times", n)
	}
}

// TestImmunity12Chains: what is wrong with a chain stops the queue and nothing
// else; what is only odd is served like any other.
func TestImmunity12Chains(t *testing.T) {
	const table = requestAt + 0x8000
	next, writable, indirect := uint16(queuetest.FlagNext), uint16(queuetest.FlagWrite), uint16(queuetest.FlagIndirect)
	s := newShare(t)
	for name, c := range map[string]struct {
		serve bool
		make  func(r *queuetest.Ring, in, args, out queuetest.Buffer)
	}{
		"empty descriptors between": {true, func(r *queuetest.Ring, in, args, out queuetest.Buffer) {
			r.AddIndirect(table, queuetest.Buffer{}, in, queuetest.Buffer{}, args, queuetest.Buffer{Write: true}, out, queuetest.Buffer{Write: true})
		}},
		"a byte a descriptor": {true, func(r *queuetest.Ring, in, args, out queuetest.Buffer) {
			var b []queuetest.Buffer
			for _, whole := range []queuetest.Buffer{in, args, out} {
				for i := range whole.Len {
					b = append(b, queuetest.Buffer{At: whole.At + memory.GPA(i), Len: 1, Write: whole.Write})
				}
			}
			r.AddIndirect(table, b...)
		}},
		"writable before readable": {false, func(r *queuetest.Ring, in, args, out queuetest.Buffer) {
			r.AddIndirect(table, out, in, args)
		}},
		"writable between": {false, func(r *queuetest.Ring, in, args, out queuetest.Buffer) {
			r.AddIndirect(table, in, out, args)
		}},
		"2^15 descriptors": {false, func(r *queuetest.Ring, in, args, out queuetest.Buffer) {
			r.SetDesc(0, table, 16<<15, indirect, 0)
			r.Offer(0)
		}},
		"as many as fit and one": {false, func(r *queuetest.Ring, in, args, out queuetest.Buffer) {
			b := make([]queuetest.Buffer, queue.MaxSize+1)
			for i := range b {
				b[i] = queuetest.Buffer{At: in.At, Len: 1}
			}
			r.AddIndirect(table, b...)
		}},
		"loop": {false, func(r *queuetest.Ring, in, args, out queuetest.Buffer) {
			r.SetDesc(0, in.At, in.Len, next, 1)
			r.SetDesc(1, args.At, args.Len, next, 0)
			r.Offer(0)
		}},
		"table in itself": {false, func(r *queuetest.Ring, in, args, out queuetest.Buffer) {
			p := make([]byte, 16)
			queuetest.PutDesc(p, table, 16, indirect, 0)
			r.Write(table, p)
			r.SetDesc(0, table, 16, indirect, 0)
			r.Offer(0)
		}},
		"loop in a table": {false, func(r *queuetest.Ring, in, args, out queuetest.Buffer) {
			p := make([]byte, 32)
			queuetest.PutDesc(p, in.At, 0, next, 1)
			queuetest.PutDesc(p[16:], out.At, 0, next|writable, 1)
			r.Write(table, p)
			r.SetDesc(0, table, 32, indirect, 0)
			r.Offer(0)
		}},
		"4 GiB of one page": {false, func(r *queuetest.Ring, in, args, out queuetest.Buffer) {
			r.AddIndirect(table, in, queuetest.Buffer{At: ramBase, Len: 1<<32 - 1, Write: true})
		}},
	} {
		s.mount("file")
		q := s.prepare(fuse.Getattr, rootNode, fuse.AttrOutSize, make([]byte, 16))
		out := queuetest.Buffer{At: q.buffers[2].At, Len: fuse.OutHeaderSize + fuse.AttrOutSize, Write: true}
		c.make(s.rings[1], q.buffers[0], q.buffers[1], out)
		s.d.Notify(1)
		_, used, ok := s.rings[1].Used()
		if c.serve {
			if !ok || used != out.Len || len(s.broke) != 0 {
				t.Errorf("%s: used %d, %v, broken %d times", name, used, ok, len(s.broke))
			}
		} else {
			if ok || len(s.broke) != 1 {
				t.Errorf("%s: used %d, %v, broken %d times", name, used, ok, len(s.broke))
			}
			for len(s.broke) > 0 {
				<-s.broke
			}
		}
		s.d.Reset()
		s.activate()
	}
}

// goodRequest is arguments with which the operation succeeds on the file and the
// directory that are open, where it is served at all.
func goodRequest(op fuse.Opcode, node virtiofs.NodeID, fh, dir uint64) (n virtiofs.NodeID, args [][]byte) {
	u32, u64, str := fstest.U32, fstest.U64, fstest.Str
	one := func(b ...[]byte) [][]byte { return b }
	switch op {
	case fuse.Lookup:
		return rootNode, one(str("kept"))
	case fuse.Unlink:
		return rootNode, one(str("name"))
	case fuse.Forget:
		return 12345, one(u64(1))
	case fuse.Getattr, fuse.Access, fuse.Statfs, fuse.Syncfs, fuse.Statx, fuse.Listxattr, fuse.Bmap, fuse.Open, fuse.Poll:
		return node, one(make([]byte, fuse.Row(op).In))
	case fuse.Setattr:
		return node, one(make([]byte, 88))
	case fuse.Readlink:
		return 0, nil
	case fuse.Symlink:
		return rootNode, one(str("link"), str("target"))
	case fuse.Mknod:
		return rootNode, one(u32(unix.S_IFREG|0o644, 0, 0, 0), str("name"))
	case fuse.Mkdir:
		return rootNode, one(u32(0o755, 0), str("dir"))
	case fuse.Rmdir:
		return rootNode, one(str("dir"))
	case fuse.Rename:
		return rootNode, one(u64(1), str("name"), str("renamed"))
	case fuse.Rename2:
		return rootNode, one(u64(1), u32(0, 0), str("renamed"), str("name"))
	case fuse.Link:
		return rootNode, one(u64(uint64(node)), str("hard"))
	case fuse.Create:
		return rootNode, one(u32(unix.O_RDWR, 0o644, 0, 0), str("created"))
	case fuse.Tmpfile:
		return rootNode, one(u32(unix.O_RDWR, 0o644, 0, 0), str("/"))
	case fuse.Read:
		return node, one(fstest.ReadArgs(fh, 0, 100))
	case fuse.Readdir, fuse.Readdirplus:
		return rootNode, one(fstest.ReadArgs(dir, 0, 1000))
	case fuse.Write:
		return node, one(fstest.WriteArgs(fh, 0, 5, 0, 0), []byte("bytes"))
	case fuse.Flush:
		return node, one(u64(fh, 0, 0))
	case fuse.Fsync:
		return node, one(u64(fh, 0))
	case fuse.Fsyncdir:
		return rootNode, one(u64(dir, 0))
	case fuse.Setxattr:
		return node, one(u32(1, 0, 0, 0), str("user.a"), []byte("v"))
	case fuse.Getxattr:
		return node, one(u32(0, 0), str("user.a"))
	case fuse.Removexattr:
		return node, one(str("user.a"))
	case fuse.Opendir:
		return rootNode, one(u32(0, 0))
	case fuse.Interrupt:
		return 0, one(u64(2))
	case fuse.Ioctl:
		return node, one(u64(fh), u32(0, unix.FS_IOC_GETFLAGS), u64(0), u32(0, 4))
	case fuse.BatchForget:
		return 0, one(u32(1, 0), u64(12345, 1))
	case fuse.Fallocate:
		return node, one(u64(fh, 0, 100), u32(0, 0))
	case fuse.Lseek:
		return node, one(u64(fh, 0), u32(unix.SEEK_DATA, 0))
	case fuse.SetupMapping:
		return node, one(fstest.MapArgs(fh, 0, 4096, fuse.MapRead, 0))
	case fuse.RemoveMapping:
		return node, one(u32(1), u64(0, 4096))
	case fuse.CopyFileRange, fuse.CopyFileRange64:
		return node, one(u64(fh, 0, uint64(node), fh, 4096, 5, 0))
	}
	return node, one(make([]byte, fuse.Row(op).In)) // not served
}

// notGood is the operations that goodRequest's arguments do not succeed with: not
// served, or later in the test, or of no use to a file.
var notGood = map[fuse.Opcode]bool{
	fuse.Readlink: true, fuse.Release: true, fuse.Releasedir: true, fuse.Destroy: true, fuse.Init: true,
	fuse.Getlk: true, fuse.Setlk: true, fuse.Setlkw: true, fuse.Flush: true, fuse.Bmap: true, fuse.Poll: true,
	fuse.NotifyReply: true, fuse.Ioctl: true,
}

// TestImmunity13Used: the used length of every chain is the length that the
// reply's header says, for every operation, with good and with bad arguments, and
// with every amount of room. A guest that finds them different takes the file
// system for broken.
func TestImmunity13Used(t *testing.T) {
	t.Run("no window", func(t *testing.T) {
		s := newShare(t)
		node, fh := s.mount("kept")
		s.askAll(node, fh, fuse.SetupMapping, fuse.RemoveMapping)
	})
	t.Run("window", func(t *testing.T) {
		m := newMapped(t)
		m.askAll(m.node, m.fh)
	})
}

// askAll asks everything in many ways about an open file; what is not served fails.
func (s *share) askAll(node virtiofs.NodeID, fh uint64, unserved ...fuse.Opcode) {
	s.t.Helper()
	dir := binary.LittleEndian.Uint64(s.call(fuse.Opendir, rootNode, fuse.OpenOutSize, fstest.U32(0, 0)))
	for op := fuse.Opcode(0); op < fuse.Opcodes+2; op++ {
		if op == fuse.Destroy || op == fuse.Init {
			continue // last
		}
		n, args := goodRequest(op, node, fh, dir)
		if op == fuse.Rename { // what MKNOD has made is unlinked by now
			s.ask(fuse.Mknod, rootNode, fuse.EntryOutSize, fstest.U32(unix.S_IFREG|0o644, 0, 0, 0), fstest.Str("name"))
		}
		row := fuse.Row(op)
		room := uint32(max(int(row.Out), 1000))
		e := s.ask(op, n, room, args...)
		if row.Known() && !row.NoReply && !notGood[op] && !slices.Contains(unserved, op) && e != 0 {
			s.t.Errorf("%v: %v with good arguments", op, e)
		}
		zeros := make([]byte, row.In)
		s.ask(op, n, 0)
		s.ask(op, n, room)
		s.ask(op, n, room, zeros)
		s.ask(op, rootNode, room, zeros, make([]byte, 300))
		s.ask(op, ^virtiofs.NodeID(0), room, args...)
		for _, little := range []uint32{0, 1, 7, uint32(row.Out) / 2, uint32(row.Out)} {
			s.ask(op, n, little, args...)
		}
	}
	for _, op := range []fuse.Opcode{fuse.Release, fuse.Releasedir, fuse.Init, fuse.Destroy, fuse.Getattr, fuse.Destroy} {
		s.ask(op, node, 200, make([]byte, max(16, fuse.Row(op).In)))
	}
	if len(s.broke) != 0 {
		s.t.Error(<-s.broke)
	}
}

// ask sends one request, holds the used length against the reply and returns the
// reply's error.
func (s *share) ask(op fuse.Opcode, node virtiofs.NodeID, room uint32, args ...[]byte) unix.Errno {
	s.t.Helper()
	q := s.prepare(op, node, room, args...)
	unique := s.rings[1].Read(q.buffers[0].At+8, 8)
	for _, b := range q.buffers {
		if b.Write { // no old reply can pass for this one
			s.rings[1].Write(b.At, bytes.Repeat([]byte{0xee}, int(b.Len)))
		}
	}
	used := q.pooled()
	if fuse.Row(op).NoReply {
		if used != 0 {
			s.t.Errorf("%v: %d bytes used, and no reply belongs to it", op, used)
		}
		return 0
	}
	e, body := q.reply(used)
	if used > q.room || e > 511 || e != 0 && len(body) != 0 {
		s.t.Errorf("%v: %v with %d bytes used of %d", op, e, used, q.room)
	}
	if out := int(fuse.Row(op).Out); e == 0 && len(body) < out {
		s.t.Errorf("%v: reply of %d bytes, less than its %d", op, len(body), out)
	}
	if got := s.rings[1].Read(q.buffers[q.writable()].At+8, 8); !bytes.Equal(got, unique) {
		s.t.Errorf("%v: unique %x, want %x", op, got, unique)
	}
	return e
}

// writable is the index of the first buffer for the reply.
func (q *request) writable() int {
	for i, b := range q.buffers {
		if b.Write {
			return i
		}
	}
	return -1
}

// TestImmunity17OutsideRAM: buffers that lie outside guest memory end the queue, not
// this process, and nothing is read or written by them.
func TestImmunity17OutsideRAM(t *testing.T) {
	s := newShare(t)
	for name, at := range map[string]memory.GPA{
		"null": 0, "below RAM": ramBase - 4096, "over the end of RAM": ramBase + ramSize - 100,
		"after RAM": ramBase + ramSize, "a hole below 4 GiB": 0xe0000000, "a 64-bit BAR": 1 << 40,
		"the last page": ^memory.GPA(0) - 4095, "not canonical": 1 << 63,
	} {
		for _, op := range []fuse.Opcode{fuse.Read, fuse.Write, fuse.Getattr} {
			node, fh := s.mount("file")
			if err := os.WriteFile(filepath.Join(s.dir, "file"), bytes.Repeat([]byte{'h'}, 4096), 0o644); err != nil {
				t.Fatal(err)
			}
			var q *request
			switch op {
			case fuse.Read: // the data's buffer
				q = s.prepare(op, node, 4096, fstest.ReadArgs(fh, 0, 4096))
				q.buffers[3].At = at
			case fuse.Write: // the data's buffer
				q = s.prepare(op, node, 8, fstest.WriteArgs(fh, 0, 4096, 0, 0), make([]byte, 4096))
				q.buffers[2].At = at
			default: // the request itself
				q = s.prepare(op, node, fuse.AttrOutSize, make([]byte, 16))
				q.buffers[0].At = at
				q.buffers[0].Len = 4096
			}
			s.rings[1].AddIndirect(q.at, q.buffers...)
			s.d.Notify(1)
			if _, _, ok := s.rings[1].Used(); ok || len(s.broke) != 1 {
				t.Errorf("%v with a buffer at %s: used %v, broken %d times", op, name, ok, len(s.broke))
			}
			for len(s.broke) > 0 {
				<-s.broke
			}
			got, err := os.ReadFile(filepath.Join(s.dir, "file"))
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{'h'}, 4096)) {
				t.Errorf("%v with a buffer at %s: the file has changed, %v", op, name, err)
			}
			s.d.Reset()
			s.activate()
		}
	}
}
