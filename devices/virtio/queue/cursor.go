package queue

import (
	"errors"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
)

// ErrShort says that a cursor has fewer bytes left than were asked for.
var ErrShort = errors.New("queue: not enough bytes left in the buffers")

// Cursor walks the bytes of one part of a chain, across its buffers. The zero
// Cursor is empty. It is valid until its chain is filled again.
type Cursor struct {
	chain  *Chain
	lo, hi int // its buffers are chain.iov[lo:hi]
	size   int // bytes in them

	i    int // the current buffer
	off  int // bytes of it passed
	left int
}

// Len is the number of bytes left.
func (c *Cursor) Len() int { return c.left }

// Reset goes back to the first byte.
func (c *Cursor) Reset() { c.i, c.off, c.left = c.lo, 0, c.size }

// Copy takes the next len(dst) bytes. It fails with ErrShort, taking none, when
// fewer are left, and with memory.ErrFault when some lie in a page of a window that
// the host cannot provide: then it stands at the buffer with that page.
func (c *Cursor) Copy(dst []byte) error {
	if len(dst) > c.left {
		return ErrShort
	}
	for len(dst) > 0 {
		n := min(len(dst), c.here())
		if err := c.chain.mem.Load(c.at(), dst[:n]); err != nil {
			return err
		}
		c.advance(n)
		dst = dst[n:]
	}
	return nil
}

// Put writes src to the next len(src) bytes; errors as Copy. memory.ErrFault is
// also a page that may not be written.
func (c *Cursor) Put(src []byte) error {
	if len(src) > c.left {
		return ErrShort
	}
	for len(src) > 0 {
		n := min(len(src), c.here())
		if err := c.chain.mem.Store(c.at(), src[:n]); err != nil {
			return err
		}
		c.advance(n)
		src = src[n:]
	}
	return nil
}

// Skip passes over n bytes; ErrShort when fewer are left.
func (c *Cursor) Skip(n int) error {
	if n < 0 || n > c.left {
		return ErrShort
	}
	for n > 0 {
		step := min(n, c.here())
		c.advance(step)
		n -= step
	}
	return nil
}

// Rest is the next max bytes, or all that is left, as iovecs for system calls
// only. It does not advance. The slice is valid until the next Rest of this
// cursor and is never longer than the chain.
func (c *Cursor) Rest(max uint32) []unix.Iovec {
	if c.left == 0 || max == 0 {
		return nil
	}
	want := min(uint64(max), uint64(c.left))
	n := min(uint64(c.here()), want)
	iov, err := c.chain.mem.Iovec(c.at(), uint32(n), c.chain.scratch[c.lo:c.lo:c.hi])
	if err != nil {
		return nil // cannot be: Fetch checked the whole buffer
	}
	want -= n
	for i := c.i + 1; want > 0; i++ {
		v := c.chain.iov[i]
		v.Len = min(v.Len, want)
		want -= v.Len
		iov = append(iov, v)
	}
	return iov
}

// here is the number of bytes left in the current buffer, never 0 while left is
// not: Fetch drops empty buffers.
func (c *Cursor) here() int { return int(c.chain.iov[c.i].Len) - c.off }

// at is the address of the next byte.
func (c *Cursor) at() memory.GPA { return c.chain.at[c.i] + memory.GPA(c.off) }

func (c *Cursor) advance(n int) {
	c.left -= n
	c.off += n
	if c.off == int(c.chain.iov[c.i].Len) {
		c.i, c.off = c.i+1, 0
	}
}
