package machine

import (
	"sync/atomic"

	"tenon/virtiofs/dax"
)

// coming is what guests are about to read: a piece of a file that follows the one that
// was mapped before it. Who reads here and there would wait for pages it does not want.
type coming struct {
	piece atomic.Uint64     // its first page, 0 for none, and in pageBits how many, less one
	next  [16]atomic.Uint64 // where readers of some files are, see place
}

const pageBits = 9 // a piece has at most the pages of a range

// place is a number for a place in a file. That it is not the only one with its number
// costs a fault or saves one.
func place(file, offset uint64) uint64 { return file*0x9e3779b97f4a7c15 + offset }

// note says that a piece of a file has been mapped into a window, which begins at gpa,
// and that the host has its pages at hand.
func (c *coming) note(gpa uint64, m dax.Mapping) {
	reader := &c.next[m.File%uint64(len(c.next))]
	if reader.Swap(place(m.File, m.Offset+m.Len)) != place(m.File, m.Offset) || m.Len > dax.RangeSize {
		return
	}
	c.piece.Store((gpa+m.At)/dax.PageSize<<pageBits | (m.Len/dax.PageSize - 1))
}

// take returns the piece that was noted last, once.
func (c *coming) take() (gpa, n uint64) {
	if c.piece.Load() == 0 {
		return 0, 0
	}
	v := c.piece.Swap(0)
	if v == 0 {
		return 0, 0
	}
	return v >> pageBits * dax.PageSize, (v&(1<<pageBits-1) + 1) * dax.PageSize
}
