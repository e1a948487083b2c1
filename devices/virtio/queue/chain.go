package queue

import (
	"encoding/binary"
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
)

// What can be wrong with a descriptor chain (virtio 1.3 §2.7.4, §2.7.5). An
// address outside guest memory is memory.ErrAddress, and so is that of an indirect
// table outside RAM. Buffers may lie in a window.
var (
	ErrIndex         = errors.New("queue: descriptor index outside its table")
	ErrLoop          = errors.New("queue: descriptor chain longer than its table")
	ErrTooLong       = errors.New("queue: descriptor chain too long")
	ErrOrder         = errors.New("queue: readable descriptor after a writable one")
	ErrIndirect      = errors.New("queue: indirect descriptor not negotiated or inside an indirect table")
	ErrIndirectNext  = errors.New("queue: indirect descriptor with a next one")
	ErrIndirectTable = errors.New("queue: bad length of an indirect table")
)

// Descriptor flags (virtio 1.3 §2.7.5).
const (
	flagNext     = 1
	flagWrite    = 2
	flagIndirect = 4
)

// Chain is one descriptor chain, copied out of the ring: In is what the driver
// wrote for the device, Out what the device may write. It is filled by Pop or
// Fetch, may be filled again any number of times, and belongs to one goroutine
// at a time.
type Chain struct {
	Head    uint16
	In, Out Cursor

	mem     *memory.Map
	writing bool         // while it is read: the writable part has begun
	at      []memory.GPA // where each buffer begins
	iov     []unix.Iovec // the same buffers for system calls
	scratch []unix.Iovec // what Rest returns: each cursor uses its own part
}

// NewChain returns a chain with room for max descriptors, indirect ones
// included, of about 40 bytes each. A longer chain of the guest is ErrTooLong.
// Nothing is allocated later.
func NewChain(max uint16) *Chain {
	return &Chain{
		at:      make([]memory.GPA, 0, max),
		iov:     make([]unix.Iovec, 0, max),
		scratch: make([]unix.Iovec, max),
	}
}

// descriptor is one entry of a table (virtq_desc).
type descriptor struct {
	addr  memory.GPA
	len   uint32
	flags uint16
	next  uint16
}

// descriptorAt copies the entry out of guest memory, then looks at the copy.
func descriptorAt(table []byte, i uint16) (descriptor, error) {
	at := descSize * int(i)
	if at >= len(table) {
		return descriptor{}, ErrIndex
	}
	raw := [descSize]byte(table[at : at+descSize])
	return descriptor{
		addr:  memory.GPA(binary.LittleEndian.Uint64(raw[0:])),
		len:   binary.LittleEndian.Uint32(raw[8:]),
		flags: binary.LittleEndian.Uint16(raw[12:]),
		next:  binary.LittleEndian.Uint16(raw[14:]),
	}, nil
}

// Fetch reads the chain that begins at head into c. It may be called again for
// a chain that was popped and not yet pushed, from any goroutine: only the head
// need be kept while a request waits. Errors as Pop.
func (q *Queue) Fetch(c *Chain, head uint16) error {
	c.begin(q.mem, head)
	table, i, nested := q.desc, head, false
	for left := len(table) / descSize; left > 0; left-- {
		d, err := descriptorAt(table, i)
		if err != nil {
			return err
		}
		if d.flags&flagIndirect != 0 {
			if nested || !q.indirect {
				return ErrIndirect
			}
			if table, err = q.indirectTable(d); err != nil {
				return err
			}
			i, nested, left = 0, true, len(table)/descSize+1
			continue
		}
		if err := c.add(d); err != nil {
			return err
		}
		if d.flags&flagNext == 0 {
			c.end()
			return nil
		}
		i = d.next
	}
	return ErrLoop
}

// indirectTable is the table a descriptor points to (§2.7.5.3). Its write flag
// has no meaning and is ignored, as §2.7.5.3.2 demands.
func (q *Queue) indirectTable(d descriptor) ([]byte, error) {
	if d.flags&flagNext != 0 {
		return nil, ErrIndirectNext
	}
	if d.len == 0 || d.len%descSize != 0 || d.len/descSize > MaxSize {
		return nil, ErrIndirectTable
	}
	return q.mem.Slice(d.addr, d.len)
}

func (c *Chain) begin(m *memory.Map, head uint16) {
	c.Head, c.mem, c.writing = head, m, false
	c.at, c.iov = c.at[:0], c.iov[:0]
	c.In = Cursor{chain: c}
	c.Out = Cursor{chain: c}
}

// add appends one buffer. Readable ones come first (§2.7.4.2); the whole chain
// is less than 4 GiB (§2.7.5), so the used length always fits.
func (c *Chain) add(d descriptor) error {
	part := &c.In
	if d.flags&flagWrite != 0 {
		part = &c.Out
		c.writing = true
	} else if c.writing {
		return ErrOrder
	}
	if d.len == 0 {
		return nil
	}
	if len(c.at) == cap(c.at) || c.In.size+c.Out.size+int(d.len) > math.MaxUint32 {
		return ErrTooLong
	}
	iov, err := c.mem.Iovec(d.addr, d.len, c.iov)
	if err != nil {
		return err
	}
	c.iov = iov
	c.at = append(c.at, d.addr)
	part.size += int(d.len)
	part.hi++
	return nil
}

// end fixes the two cursors on their buffers.
func (c *Chain) end() {
	c.Out.lo, c.Out.hi = c.In.hi, c.In.hi+c.Out.hi
	c.In.Reset()
	c.Out.Reset()
}
