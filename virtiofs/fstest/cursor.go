package fstest

import (
	"errors"

	"golang.org/x/sys/unix"
)

var errShort = errors.New("fstest: fewer bytes left than asked for")

// Cursor is a virtiofs.Cursor over heap memory in pieces, as a descriptor chain
// is in pieces.
type Cursor struct {
	pieces [][]byte
	at     int // piece
	off    int // in the piece
	left   int
	size   int
	iov    []unix.Iovec
}

// NewCursor cuts b into pieces of the given length; 0 leaves it whole.
func NewCursor(b []byte, piece int) *Cursor {
	c := &Cursor{}
	c.Set(b, piece)
	return c
}

// Set makes c a cursor over b, as NewCursor, and allocates only when it needs
// more pieces than ever before.
func (c *Cursor) Set(b []byte, piece int) {
	c.pieces, c.size = c.pieces[:0], len(b)
	if piece <= 0 {
		piece = max(len(b), 1)
	}
	for len(b) > 0 {
		n := min(piece, len(b))
		c.pieces = append(c.pieces, b[:n])
		b = b[n:]
	}
	if cap(c.iov) < len(c.pieces) {
		c.iov = make([]unix.Iovec, 0, len(c.pieces))
	}
	c.Reset()
}

// Reset implements virtiofs.Cursor.
func (c *Cursor) Reset() { c.at, c.off, c.left = 0, 0, c.size }

// Len implements virtiofs.Cursor.
func (c *Cursor) Len() int { return c.left }

// step moves over at most n bytes within one piece and returns them.
func (c *Cursor) step(n int) []byte {
	b := c.pieces[c.at][c.off:]
	b = b[:min(n, len(b))]
	c.off += len(b)
	c.left -= len(b)
	if c.off == len(c.pieces[c.at]) {
		c.at, c.off = c.at+1, 0
	}
	return b
}

// InWindow implements virtiofs.Cursor: all is on the heap.
func (c *Cursor) InWindow() bool { return false }

// Copy implements virtiofs.Cursor.
func (c *Cursor) Copy(dst []byte) error {
	if len(dst) > c.left {
		return errShort
	}
	for len(dst) > 0 {
		dst = dst[copy(dst, c.step(len(dst))):]
	}
	return nil
}

// Put implements virtiofs.Cursor.
func (c *Cursor) Put(src []byte) error {
	if len(src) > c.left {
		return errShort
	}
	for len(src) > 0 {
		src = src[copy(c.step(len(src)), src):]
	}
	return nil
}

// Skip implements virtiofs.Cursor.
func (c *Cursor) Skip(n int) error {
	if n < 0 || n > c.left {
		return errShort
	}
	for n > 0 {
		n -= len(c.step(n))
	}
	return nil
}

// Rest implements virtiofs.Cursor.
func (c *Cursor) Rest(skip int, limit uint32) []unix.Iovec {
	v, left := c.iov[:0], min(int(limit), c.left-skip)
	at, off := c.at, c.off+skip
	for ; left > 0; at, off = at+1, max(off-len(c.pieces[at]), 0) {
		if off >= len(c.pieces[at]) {
			continue
		}
		b := c.pieces[at][off:]
		b = b[:min(left, len(b))]
		left -= len(b)
		iov := unix.Iovec{Base: &b[0]}
		iov.SetLen(len(b))
		v = append(v, iov)
	}
	return v
}

// Direct implements virtiofs.Cursor.
func (c *Cursor) Direct(off, n int) []byte {
	for _, piece := range c.pieces {
		switch {
		case off >= len(piece):
			off -= len(piece)
		case n > len(piece)-off:
			return nil
		default:
			return piece[off : off+n : off+n]
		}
	}
	return nil
}
