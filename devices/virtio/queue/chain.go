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
	buffers []buffer
	near    memory.Place // RAM, of the last buffer there: the next is most likely there too
	size    uint64       // bytes of all buffers
	window  bool         // one of the buffers is in a window
	scratch []unix.Iovec // what Rest returns: each cursor uses its own part

	readable int    // how many buffers In has; -1 while it is read and Out has not begun
	sizeIn   uint64 // bytes in them
}

// buffer is one piece of guest memory, never empty: one descriptor's, or that of
// several that lie side by side in RAM, which costs less at every later step. There is
// no pointer in it, which the garbage collector would want to hear of.
type buffer struct {
	at    memory.GPA
	n     uint32 // bytes
	place memory.Place
}

// NewChain returns a chain with room for max descriptors, indirect ones
// included, of 32 bytes each. A longer chain of the guest is ErrTooLong.
// Nothing is allocated later.
func NewChain(max uint16) *Chain {
	return &Chain{buffers: make([]buffer, 0, max), scratch: make([]unix.Iovec, max)}
}

// Bytes is the length of all buffers of the chain.
func (c *Chain) Bytes() uint64 { return c.size }

// Fetch reads the chain that begins at head into c. It may be called again for
// a chain that was popped and not yet pushed, from any goroutine: only the head
// need be kept while a request waits. Errors as Pop.
func (q *Queue) Fetch(c *Chain, head uint16) error {
	c.begin(q.mem, head)
	table, i, nested := q.desc, head, false
	for left := len(table) / descSize; left > 0; left-- {
		at := descSize * int(i)
		if at >= len(table) {
			return ErrIndex
		}
		// Each byte is copied out of guest memory once, and the copy looked at.
		raw := table[at : at+descSize]
		addr, rest := memory.GPA(binary.LittleEndian.Uint64(raw)), binary.LittleEndian.Uint64(raw[8:])
		n, flags, next := uint32(rest), uint16(rest>>32), uint16(rest>>48)
		if flags&flagIndirect != 0 {
			if nested || !q.indirect {
				return ErrIndirect
			}
			var err error
			if table, err = c.indirectTable(addr, n, flags); err != nil {
				return err
			}
			i, nested, left = 0, true, len(table)/descSize+1
			continue
		}
		if err := c.add(addr, n, flags); err != nil {
			return err
		}
		if flags&flagNext == 0 {
			c.end()
			return nil
		}
		i = next
	}
	return ErrLoop
}

// indirectTable is the table a descriptor points to (§2.7.5.3). Its write flag
// has no meaning and is ignored, as §2.7.5.3.2 demands.
func (c *Chain) indirectTable(at memory.GPA, n uint32, flags uint16) ([]byte, error) {
	if flags&flagNext != 0 {
		return nil, ErrIndirectNext
	}
	if n == 0 || n%descSize != 0 || n/descSize > MaxSize {
		return nil, ErrIndirectTable
	}
	if c.mem.Holds(c.near, at, n) {
		return c.mem.Bytes(c.near, at, n), nil
	}
	return c.mem.Slice(at, n)
}

func (c *Chain) begin(m *memory.Map, head uint16) {
	if c.mem != m { // it hardly ever is another; to store a pointer costs more
		c.mem, c.near = m, 0
	}
	c.Head, c.size, c.window = head, 0, false
	c.readable, c.sizeIn = -1, 0
	c.buffers = c.buffers[:0]
}

// add appends one buffer. Readable ones come first (§2.7.4.2); the whole chain
// is less than 4 GiB (§2.7.5), so the used length always fits.
func (c *Chain) add(at memory.GPA, n uint32, flags uint16) error {
	switch write := flags&flagWrite != 0; {
	case write && c.readable < 0:
		c.readable, c.sizeIn = len(c.buffers), c.size
	case !write && c.readable >= 0:
		return ErrOrder
	}
	if n == 0 {
		return nil
	}
	if c.size += uint64(n); c.size > math.MaxUint32 {
		return ErrTooLong
	}
	place := c.near
	if !c.mem.Holds(place, at, n) {
		var err error
		if place, err = c.locate(at, n); err != nil {
			return err
		}
	}
	k := len(c.buffers)
	if k > max(c.readable, 0) && !c.window {
		if last := &c.buffers[k-1]; last.at+memory.GPA(last.n) == at && last.place == place {
			last.n += n
			return nil
		}
	}
	if k == cap(c.buffers) {
		return ErrTooLong
	}
	c.buffers = c.buffers[:k+1]
	c.buffers[k] = buffer{at, n, place}
	return nil
}

// locate finds the place of a buffer that is not where the last one was.
func (c *Chain) locate(at memory.GPA, n uint32) (memory.Place, error) {
	place, err := c.mem.Locate(at, n)
	switch {
	case err != nil:
	case c.mem.Window(place):
		c.window = true
	default:
		c.near = place
	}
	return place, err
}

// end fixes the two cursors on their buffers.
func (c *Chain) end() {
	k := len(c.buffers)
	if c.readable < 0 {
		c.readable, c.sizeIn = k, c.size
	}
	c.In.over(c, 0, c.readable, int(c.sizeIn))
	c.Out.over(c, c.readable, k, int(c.size-c.sizeIn))
}
