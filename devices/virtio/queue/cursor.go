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
	switch {
	case len(dst) > c.left:
		return ErrShort
	case len(dst) == 0:
		return nil
	case c.chain.window:
		return c.across(dst, false)
	}
	c.left -= len(dst)
	for {
		b := bytes(&c.chain.iov[c.i])[c.off:]
		n := copy(dst, b)
		if c.off += n; n == len(b) {
			c.i, c.off = c.i+1, 0
		}
		if n == len(dst) {
			return nil
		}
		dst = dst[n:]
	}
}

// Put writes src to the next len(src) bytes; errors as Copy. memory.ErrFault is
// also a page that may not be written.
func (c *Cursor) Put(src []byte) error {
	switch {
	case len(src) > c.left:
		return ErrShort
	case len(src) == 0:
		return nil
	case c.chain.window:
		return c.across(src, true)
	}
	c.left -= len(src)
	for {
		b := bytes(&c.chain.iov[c.i])[c.off:]
		n := copy(b, src)
		if c.off += n; n == len(b) {
			c.i, c.off = c.i+1, 0
		}
		if n == len(src) {
			return nil
		}
		src = src[n:]
	}
}

// across is Copy and Put where some of the bytes may lie in a window. Not by a variable
// that holds the function: p would escape, and with it the buffers of all callers.
func (c *Cursor) across(p []byte, store bool) (err error) {
	for len(p) > 0 {
		n, at := min(len(p), c.current()), c.chain.at[c.i]+memory.GPA(c.off)
		if store {
			err = c.chain.mem.Store(at, p[:n])
		} else {
			err = c.chain.mem.Load(at, p[:n])
		}
		if err != nil {
			return err
		}
		c.advance(n)
		p = p[n:]
	}
	return nil
}

// Skip passes over n bytes; ErrShort when fewer are left.
func (c *Cursor) Skip(n int) error {
	if n < 0 || n > c.left {
		return ErrShort
	}
	for n > 0 {
		step := min(n, c.current())
		c.advance(step)
		n -= step
	}
	return nil
}

// Rest is the max bytes that come after the next skip bytes (0 or more), or all that is
// left there, as iovecs for system calls only. It does not advance. The slice is not to
// be changed, is valid until the next Rest of this cursor and is never longer than the
// chain.
func (c *Cursor) Rest(skip int, max uint32) []unix.Iovec {
	left := c.left - skip
	want := uint64(min(int(max), left))
	if left <= 0 || want == 0 {
		return nil
	}
	i, off := c.i, c.off+skip
	for ; off >= int(c.chain.iov[i].Len); i++ {
		off -= int(c.chain.iov[i].Len)
	}
	all := c.chain.iov[i:c.hi]
	if off == 0 && int(want) == left {
		return all // as a READ or WRITE of whole pages has it
	}
	part := c.chain.part[i:c.hi]
	n := copy(part, all)
	if off != 0 {
		part[0].Base = &bytes(&all[0])[off]
		part[0].Len -= uint64(off)
	}
	for i := range n {
		if want <= part[i].Len {
			part[i].Len = want
			return part[:i+1]
		}
		want -= part[i].Len
	}
	return part // cannot be: the buffers hold what is left
}

// Direct is the n bytes (1 or more) at off (0 or more) of the whole part, where they lie
// in one buffer and none of the chain's is in a window; nil otherwise. They are for stores
// only: the guest may change them at any time.
func (c *Cursor) Direct(off, n int) []byte {
	if c.InWindow() {
		return nil
	}
	for i := c.lo; i < c.hi; i++ {
		v := &c.chain.iov[i]
		if off < int(v.Len) {
			if n > int(v.Len)-off {
				return nil
			}
			return bytes(v)[off : off+n : off+n]
		}
		off -= int(v.Len)
	}
	return nil
}

// current is how many bytes of the current buffer are left.
func (c *Cursor) current() int { return int(c.chain.iov[c.i].Len) - c.off }

// advance passes over n bytes of the current buffer.
func (c *Cursor) advance(n int) {
	c.left -= n
	c.off += n
	if c.off == int(c.chain.iov[c.i].Len) {
		c.i, c.off = c.i+1, 0
	}
}
