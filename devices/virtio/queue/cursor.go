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
	lo, hi int // its buffers are chain.buffers[lo:hi]
	size   int // bytes in them

	i    int // the current buffer
	off  int // bytes of it passed
	left int
}

// over puts the cursor before buffers of the chain.
func (c *Cursor) over(chain *Chain, lo, hi, size int) {
	if c.chain != chain { // it hardly ever is another; to store a pointer costs more
		c.chain = chain
	}
	c.lo, c.hi, c.size = lo, hi, size
	c.Reset()
}

// Len is the number of bytes left.
func (c *Cursor) Len() int { return c.left }

// Reset goes back to the first byte.
func (c *Cursor) Reset() { c.i, c.off, c.left = c.lo, 0, c.size }

// InWindow says that a buffer of the chain, of this part or the other, lies in a
// window.
func (c *Cursor) InWindow() bool { return c.chain != nil && c.chain.window }

// Copy takes the next len(dst) bytes. It fails with ErrShort, taking none, when
// fewer are left, and with memory.ErrFault when some lie in a page of a window that
// the host cannot provide: then it stands at the buffer with that page.
func (c *Cursor) Copy(dst []byte) error {
	if len(dst) > c.left {
		return ErrShort
	}
	for len(dst) > 0 {
		b := &c.chain.buffers[c.i]
		n := min(len(dst), int(b.n)-c.off)
		if c.chain.window {
			if err := c.chain.mem.Load(b.at+memory.GPA(c.off), dst[:n]); err != nil {
				return err
			}
		} else {
			copy(dst, c.chain.bytes(b)[c.off:])
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
		b := &c.chain.buffers[c.i]
		n := min(len(src), int(b.n)-c.off)
		if c.chain.window {
			if err := c.chain.mem.Store(b.at+memory.GPA(c.off), src[:n]); err != nil {
				return err
			}
		} else {
			copy(c.chain.bytes(b)[c.off:], src)
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
		step := min(n, int(c.chain.buffers[c.i].n)-c.off)
		c.advance(step)
		n -= step
	}
	return nil
}

// Rest is the next max bytes, or all that is left, as iovecs for system calls
// only. It does not advance. The slice is valid until the next Rest of this
// cursor and is never longer than the chain.
func (c *Cursor) Rest(max uint32) []unix.Iovec {
	want := min(int(max), c.left)
	if want == 0 {
		return nil
	}
	iov, off := c.chain.scratch[c.lo:c.hi], c.off
	for n := range iov {
		b := c.chain.bytes(&c.chain.buffers[c.i+n])[off:]
		iov[n].Base = &b[0]
		iov[n].SetLen(min(len(b), want))
		if want -= len(b); want <= 0 {
			return iov[:n+1]
		}
		off = 0
	}
	return iov // cannot be: the buffers hold what is left
}

// advance passes over n bytes of the current buffer.
func (c *Cursor) advance(n int) {
	c.left -= n
	c.off += n
	if c.off == int(c.chain.buffers[c.i].n) {
		c.i, c.off = c.i+1, 0
	}
}

// bytes is the buffer's bytes, which are for system calls only where it may be in a
// window.
func (c *Chain) bytes(b *buffer) []byte { return c.mem.Bytes(b.place, b.at, b.n) }
