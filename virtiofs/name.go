package virtiofs

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Limits of strings in bytes, without the NUL that ends them (Linux NAME_MAX,
// XATTR_NAME_MAX, PATH_MAX-1).
const (
	maxName   = 255
	maxTarget = 4095
)

// CString is a string of 1 byte or more that holds no NUL but the one that ends
// it. Its bytes live in a request's scratch memory.
type CString struct{ z []byte }

// Bytes is the string without its NUL.
func (c CString) Bytes() []byte { return c.z[:len(c.z)-1] }

// Pointer is the first byte of the NUL-terminated string, for system calls.
func (c CString) Pointer() *byte { return &c.z[0] }

// Name is one path component that has passed the check: 1 to 255 bytes, no
// '/', not "." or "..". Only ParseName makes one, so whoever holds a Name can
// not be led out of the directory it is used in.
type Name struct{ CString }

// ParseName checks the component at the start of b and returns it with the
// number of bytes it took, NUL included. A missing NUL and any name that is not
// one component is EINVAL, one over 255 bytes ENAMETOOLONG.
func ParseName(b []byte) (Name, int, unix.Errno) {
	s, n, e := parseString(b, maxName)
	if e != 0 {
		return Name{}, 0, e
	}
	c := s.Bytes()
	if bytes.IndexByte(c, '/') >= 0 || string(c) == "." || string(c) == ".." {
		return Name{}, 0, unix.EINVAL
	}
	return Name{s}, n, 0
}

// parseString cuts the NUL-terminated string of 1 to limit bytes off b.
func parseString(b []byte, limit int) (CString, int, unix.Errno) {
	i := bytes.IndexByte(b, 0)
	switch {
	case i > limit || i < 0 && len(b) > limit:
		return CString{}, 0, unix.ENAMETOOLONG
	case i <= 0:
		return CString{}, 0, unix.EINVAL
	}
	return CString{b[:i+1]}, i + 1, 0
}
