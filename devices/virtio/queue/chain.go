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

	mem  *memory.Map
	near *memory.Region // RAM, of the last buffer there: the next is most likely there too

	// The buffers, never empty: one descriptor's, or that of several that lie side by
	// side in RAM, which costs less at every later step. Both have the same length.
	iov    []unix.Iovec
	at     []memory.GPA // where they are in the guest, for add and for those in a window
	n      int          // how many add has appended
	size   uint64       // bytes of all
	window bool         // one of them is in a window

	part []unix.Iovec // what Rest returns of a part: each cursor uses its own

	readable int    // how many buffers In has; -1 while it is read and Out has not begun
	sizeIn   uint64 // bytes in them
}

// NewChain returns a chain with room for max descriptors, indirect ones
// included, of 40 bytes each. A longer chain of the guest is ErrTooLong.
// Nothing is allocated later.
func NewChain(max uint16) *Chain {
	return &Chain{iov: make([]unix.Iovec, max), at: make([]memory.GPA, max), part: make([]unix.Iovec, max)}
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
			// Not where the index is the head's: the chain may have come back to it, and the
			// driver have changed it meanwhile.
			whole := left == len(table)/descSize
			var err error
			if table, err = c.indirectTable(addr, n, flags); err != nil {
				return err
			}
			if whole && c.straight(entries(table)) {
				return nil
			}
			i, nested, left = 0, true, len(table)/descSize+1
			continue
		}
		if err := c.add(addr, n, flags); err != nil {
			return err
		}
		if flags&flagNext == 0 {
			c.end(c.n, c.size)
			return nil
		}
		i = next
	}
	return ErrLoop
}

// straight reads a table as nearly every driver makes it, at half the price: one entry
// after the other, none empty, all in RAM. It gives up on a table that is anything else,
// be it wrong: then c is as begin left it, and the table is to be read as if for the
// first time, as nothing of what was seen counts.
func (c *Chain) straight(table [][descSize]byte) bool {
	k, size, end, part := 0, uint64(0), none, uint32(0)
	for i := range table {
		raw := &table[i]
		at, rest := memory.GPA(binary.LittleEndian.Uint64(raw[:])), binary.LittleEndian.Uint64(raw[8:])
		n, link := uint64(uint32(rest)), uint32(rest>>32)
		if link&flagWrite != part {
			if part != 0 {
				return c.giveUp()
			}
			part, end = flagWrite, none
			c.readable, c.sizeIn = k, size
		}
		r := c.near // what is in memory leaves the registers to the rest
		off := uint64(at - r.GPA)
		if off >= uint64(len(r.Data)) || n-1 >= uint64(len(r.Data))-off {
			if r = c.elsewhere(at, uint32(n)); r == nil {
				return c.giveUp()
			}
			off, end = uint64(at-r.GPA), none
		}
		if at == end {
			c.iov[k-1].Len += n
		} else {
			if k >= len(c.iov) {
				return c.giveUp()
			}
			c.iov[k].Base, c.iov[k].Len = &r.Data[off], n
			k++
		}
		end = at + memory.GPA(n)
		size += n
		if link != uint32(i+1)<<16|part|flagNext {
			if link&(flagNext|flagIndirect) != 0 || size > math.MaxUint32 {
				return c.giveUp()
			}
			c.end(k, size)
			return true
		}
	}
	return c.giveUp()
}

func (c *Chain) giveUp() bool {
	c.begin(c.mem, c.Head)
	return false
}

// elsewhere is the region of RAM of a buffer that is not where the last one was, and
// nil where straight must give up.
func (c *Chain) elsewhere(at memory.GPA, n uint32) *memory.Region {
	r, err := c.locate(at, n)
	if n == 0 || err != nil || c.window {
		return nil
	}
	return r
}

// none is an address at which no buffer is: no region reaches so far.
const none = ^memory.GPA(0)

// indirectTable is the table a descriptor points to (§2.7.5.3). Its write flag
// has no meaning and is ignored, as §2.7.5.3.2 demands.
func (c *Chain) indirectTable(at memory.GPA, n uint32, flags uint16) ([]byte, error) {
	if flags&flagNext != 0 {
		return nil, ErrIndirectNext
	}
	if n == 0 || n%descSize != 0 || n/descSize > MaxSize {
		return nil, ErrIndirectTable
	}
	if c.near.Holds(at, n) {
		return c.near.Bytes(at, n), nil
	}
	return c.mem.Slice(at, n)
}

func (c *Chain) begin(m *memory.Map, head uint16) {
	if c.mem != m { // it hardly ever is another; to store a pointer costs more
		c.mem, c.near = m, &m.Regions()[0]
	}
	c.Head, c.n, c.size, c.window = head, 0, 0, false
	c.readable, c.sizeIn = -1, 0
}

// add appends one buffer. Readable ones come first (§2.7.4.2); the whole chain
// is less than 4 GiB (§2.7.5), so the used length always fits.
func (c *Chain) add(at memory.GPA, n uint32, flags uint16) error {
	switch write := flags&flagWrite != 0; {
	case write && c.readable < 0:
		c.readable, c.sizeIn = c.n, c.size
	case !write && c.readable >= 0:
		return ErrOrder
	}
	if n == 0 {
		return nil
	}
	if c.size += uint64(n); c.size > math.MaxUint32 {
		return ErrTooLong
	}
	k, r := c.n, c.near
	if !r.Holds(at, n) {
		var err error
		if r, err = c.locate(at, n); err != nil {
			return err
		}
	} else if k > max(c.readable, 0) && !c.window && c.at[k-1]+memory.GPA(c.iov[k-1].Len) == at {
		c.iov[k-1].Len += uint64(n) // the last one is in the same region, or that would not be near
		return nil
	}
	if k == len(c.iov) {
		return ErrTooLong
	}
	c.iov[k].Base, c.iov[k].Len = &r.Data[at-r.GPA], uint64(n)
	c.at[k] = at
	c.n = k + 1
	return nil
}

// locate finds the region of a buffer that is not where the last one was.
func (c *Chain) locate(at memory.GPA, n uint32) (*memory.Region, error) {
	r, window, err := c.mem.Locate(at, n)
	switch {
	case err != nil:
	case window:
		c.window = true
	default:
		c.near = r
	}
	return r, err
}

// end fixes the two cursors on the n buffers.
func (c *Chain) end(n int, size uint64) {
	if c.readable < 0 {
		c.readable, c.sizeIn = n, size
	}
	c.size = size
	c.In.over(c, 0, c.readable, int(c.sizeIn))
	c.Out.over(c, c.readable, n, int(size-c.sizeIn))
}
