package ring

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue/queuetest"
	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

var le = binary.LittleEndian

// Any is the length of a reply that may have any.
const Any = -1

// Spec is a request to be built. What Linux 6.12 sends are these descriptors, in an
// indirect table: header; arguments; data of WRITE; reply header; fixed reply; data of
// READ (virtio_fs_enqueue_req).
type Spec struct {
	Op    fuse.Opcode
	Node  virtiofs.NodeID
	Args  []byte // everything after the header, but for the data
	Reply int    // bytes of the fixed reply
	Data  int    // bytes of data, as Memory.Payload has it
	Shape Shape
	// Want is the length of a reply that is as it should be, after its header and with
	// its data: Any, or that.
	Want int
}

// Request is a request in shared memory. Its arguments may be written while the
// device has not got it.
type Request struct {
	Op    fuse.Opcode
	Args  []byte   // in shared memory, as long as Spec.Args
	Reply []byte   // fixed reply, in shared memory
	Data  [][]byte // pieces of data, in shared memory
	Want  int      // as Spec.Want

	head    uint16 // its descriptor
	in, out []byte // headers
	flying  bool   // the device has it
	written uint32 // used length
	unique  uint64
	noReply bool
}

// SetNode changes the inode that the request is about.
func (r *Request) SetNode(n virtiofs.NodeID) { le.PutUint64(r.in[16:], uint64(n)) }

// Length is that of the last reply, without its header.
func (r *Request) Length() int { return max(int(r.written)-fuse.OutHeaderSize, 0) }

// arm makes the request one that was never answered.
func (r *Request) arm() {
	r.unique += 2 // as Linux counts: odd numbers are of INTERRUPT
	le.PutUint64(r.in[8:], r.unique)
	clear(r.out)
	r.flying, r.written = true, 0
}

// check holds the reply against what it should be.
func (r *Request) check() error {
	if r.flying {
		return fmt.Errorf("%v: was not used", r.Op)
	}
	if r.noReply {
		if r.written != 0 {
			return fmt.Errorf("%v: used length %d, of a request without a reply", r.Op, r.written)
		}
		return nil
	}
	e, unique := unix.Errno(-int32(le.Uint32(r.out[4:]))), le.Uint64(r.out[8:])
	switch {
	case r.written < fuse.OutHeaderSize || le.Uint32(r.out) != r.written:
		return fmt.Errorf("%v: used length %d, reply's length %d", r.Op, r.written, le.Uint32(r.out))
	case unique != r.unique:
		return fmt.Errorf("%v: reply to %d, not to %d", r.Op, unique, r.unique)
	case e != 0:
		return fmt.Errorf("%v of node %d: %w", r.Op, le.Uint64(r.in[16:]), e)
	case r.Want != Any && r.Length() != r.Want:
		return fmt.Errorf("%v: reply of %d bytes, not %d", r.Op, r.Length(), r.Want)
	}
	return nil
}

// builder collects the descriptors of one request.
type builder struct {
	m    *Memory
	list []queuetest.Buffer
	err  error // the first
}

// part is a descriptor of n bytes; nothing if n is 0.
func (b *builder) part(n int, write bool) []byte {
	if n == 0 || b.err != nil {
		return nil
	}
	var at memory.GPA
	if at, b.err = b.m.take(n, 64); b.err != nil {
		return nil
	}
	b.list = append(b.list, queuetest.Buffer{At: at, Len: uint32(n), Write: write})
	return b.m.bytes(at, n)
}

// data is n bytes of payload; nothing if n is 0.
func (b *builder) data(n int, shape Shape, write bool) [][]byte {
	if n == 0 || b.err != nil {
		return nil
	}
	var pieces []queuetest.Buffer
	if pieces, b.err = b.m.payload(n, shape); b.err != nil {
		return nil
	}
	var data [][]byte
	for _, p := range pieces {
		p.Write = write
		b.list = append(b.list, p)
		data = append(data, b.m.bytes(p.At, int(p.Len)))
	}
	return data
}

// build puts a request into shared memory and says what its descriptors are.
func (m *Memory) build(spec Spec) (*Request, []queuetest.Buffer, error) {
	row, b := fuse.Row(spec.Op), builder{m: m}
	r := &Request{Op: spec.Op, Want: spec.Want, noReply: row.NoReply}
	length := fuse.InHeaderSize + len(spec.Args)
	if row.NoReply {
		r.in = b.part(length, false) // virtio_fs_send_forget has but one buffer
		r.Args = r.in[min(fuse.InHeaderSize, len(r.in)):]
	} else {
		r.in, r.Args = b.part(fuse.InHeaderSize, false), b.part(len(spec.Args), false)
		if row.Payload {
			r.Data = b.data(spec.Data, spec.Shape, false)
			length += spec.Data
		}
		r.out, r.Reply = b.part(fuse.OutHeaderSize, true), b.part(spec.Reply, true)
		if !row.Payload {
			r.Data = b.data(spec.Data, spec.Shape, true)
		}
	}
	if b.err != nil {
		return nil, nil, b.err
	}
	copy(r.Args, spec.Args)
	clear(r.in[:fuse.InHeaderSize])
	le.PutUint32(r.in, uint32(length))
	le.PutUint32(r.in[4:], uint32(spec.Op))
	le.PutUint32(r.in[32:], 4711) // a process; its user and group are root
	r.SetNode(spec.Node)
	return r, b.list, nil
}
