package fstest

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

var le = binary.LittleEndian

// TB is what a Conn needs of a *testing.T, B or F: a server that breaks the
// protocol ends the test.
type TB interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// Conn is one guest talking to a server. It is for one goroutine.
type Conn struct {
	tb TB
	S  *virtiofs.Server
	R  *virtiofs.Request

	UID, GID uint32 // of the process that asks
	Piece    int    // length of the pieces that requests and replies are cut into; 0: whole
	Ext      []byte // creation extensions, for the requests that may have them

	unique uint64
	send   func(msg []byte, room int) []byte
}

// Dial returns a connection without a session.
func Dial(tb TB, s *virtiofs.Server) *Conn {
	return &Conn{tb: tb, S: s, R: virtiofs.NewRequest(), unique: 2}
}

// DialFunc returns a connection without a session, to whatever is behind send:
// that takes a request, offers room for a reply and returns the reply, empty for
// requests that have none. S and R of the connection are nil.
func DialFunc(tb TB, send func(msg []byte, room int) []byte) *Conn {
	return &Conn{tb: tb, unique: 2, send: send}
}

// Message is the bytes of a request whose header's length is right.
func (c *Conn) Message(op fuse.Opcode, node virtiofs.NodeID, args ...[]byte) []byte {
	c.unique += 2
	var body []byte
	for _, a := range args {
		body = append(body, a...)
	}
	ext := 0
	if fuse.Row(op).Ext {
		body = append(body, c.Ext...)
		ext = len(c.Ext) / 8
	}
	b := U32(fuse.InHeaderSize+uint32(len(body)), uint32(op))
	b = append(b, U64(c.unique, uint64(node))...)
	b = append(b, U32(c.UID, c.GID, 4711, uint32(ext))...)
	return append(b, body...)
}

// Raw serves the bytes with room for a reply of the given length, at once or,
// when the server says so, as the pool would.
func (c *Conn) Raw(msg []byte, room int) (reply []byte, pooled bool) {
	if c.send != nil {
		return c.send(msg, room), false
	}
	out := make([]byte, room)
	in, to := NewCursor(msg, c.Piece), NewCursor(out, c.Piece)
	c.R.MayBlock = false
	n, again := c.S.Serve(c.R, in, to)
	if again {
		if n != 0 {
			c.tb.Fatalf("%d bytes written and again", n)
		}
		c.R.MayBlock, c.R.NoWait = true, true
		in.Reset()
		to.Reset()
		n, again = c.S.Serve(c.R, in, to)
		c.R.NoWait = false
		if again {
			c.tb.Fatal("again from a request that may block")
		}
		pooled = true
	}
	if int64(n) > int64(room) {
		c.tb.Fatalf("used length %d with room for %d", n, room)
	}
	return out[:n], pooled
}

// Call serves one request with room for a reply body of the given length,
// checks the reply's header and returns the body.
func (c *Conn) Call(op fuse.Opcode, node virtiofs.NodeID, room int, args ...[]byte) ([]byte, unix.Errno) {
	c.tb.Helper()
	reply, _ := c.Raw(c.Message(op, node, args...), fuse.OutHeaderSize+room)
	if fuse.Row(op).NoReply {
		if len(reply) != 0 {
			c.tb.Fatalf("%v: %d bytes of reply, want none", op, len(reply))
		}
		return nil, 0
	}
	if len(reply) < fuse.OutHeaderSize {
		c.tb.Fatalf("%v: reply of %d bytes", op, len(reply))
	}
	e := unix.Errno(-int32(le.Uint32(reply[4:])))
	switch {
	case int(le.Uint32(reply)) != len(reply):
		c.tb.Fatalf("%v: out.len %d, used length %d", op, le.Uint32(reply), len(reply))
	case le.Uint64(reply[8:]) != c.unique:
		c.tb.Fatalf("%v: unique %d, want %d", op, le.Uint64(reply[8:]), c.unique)
	case e != 0 && (len(reply) != fuse.OutHeaderSize || e > 511):
		c.tb.Fatalf("%v: error %d with a reply of %d bytes", op, e, len(reply))
	}
	return reply[fuse.OutHeaderSize:], e
}

// U32 and U64 are the values' little-endian bytes, Str the string's with a NUL.
func U32(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = le.AppendUint32(b, x)
	}
	return b
}

// U64 is described at U32.
func U64(v ...uint64) []byte {
	var b []byte
	for _, x := range v {
		b = le.AppendUint64(b, x)
	}
	return b
}

// Str is described at U32.
func Str(s string) []byte { return append([]byte(s), 0) }
