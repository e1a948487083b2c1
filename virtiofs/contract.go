package virtiofs

import "golang.org/x/sys/unix"

// Cursor walks one part (readable or writable) of a request's buffers. The
// virtqueue's cursor fits; tests use a heap one.
type Cursor interface {
	// Len is the number of bytes left.
	Len() int
	// Copy takes the next len(dst) bytes out; an error when fewer are left or
	// the guest's address is bad. The bytes are copied once: look at dst only.
	Copy(dst []byte) error
	// Put writes src to the next len(src) bytes; errors as Copy.
	Put(src []byte) error
	// Skip passes over n bytes; an error when fewer are left.
	Skip(n int) error
	// Rest is the max bytes that come after the next skip bytes (0 or more), or all
	// that is left there, as iovecs for system calls only. It does not advance. The
	// slice is not to be changed and is valid until the next call on this cursor.
	Rest(skip int, max uint32) []unix.Iovec
	// Direct is the n bytes at off of the whole part, to be written to and never read,
	// where they are there, in one piece, and in RAM; nil otherwise.
	Direct(off, n int) []byte
	// Reset goes back to the first byte.
	Reset()
	// InWindow says that some of the request's bytes, of this part or the other, lie
	// in a DAX window, where an access may have to wait for a file.
	InWindow() bool
}
