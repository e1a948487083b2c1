package virtiofs

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

// Counter is an Observer that counts requests and errors by opcode. The zero
// Counter is ready; one may serve several Servers.
type Counter struct {
	ops [fuse.Opcodes]struct{ requests, errors atomic.Uint64 }
}

var _ Observer = (*Counter)(nil)

// Count is how often an operation was asked for, and how often the answer was
// an error (ENOENT and ENOSYS are errors too).
type Count struct{ Requests, Errors uint64 }

// Served implements Observer. Opcodes that the protocol does not have count as
// number 0.
func (c *Counter) Served(op fuse.Opcode, _ NodeID, e unix.Errno, _ uint32) {
	if op >= fuse.Opcodes {
		op = 0
	}
	c.ops[op].requests.Add(1)
	if e != 0 {
		c.ops[op].errors.Add(1)
	}
}

// Of is the count of one opcode.
func (c *Counter) Of(op fuse.Opcode) Count {
	if op >= fuse.Opcodes {
		op = 0
	}
	return Count{c.ops[op].requests.Load(), c.ops[op].errors.Load()}
}

// Snapshot is the counts by the opcodes' names in fuse.h, without those that
// never came; what the protocol does not have is UNKNOWN.
func (c *Counter) Snapshot() map[string]Count {
	m := map[string]Count{}
	for op := range fuse.Opcode(fuse.Opcodes) {
		if n := c.Of(op); n.Requests != 0 {
			m[op.String()] = n
		}
	}
	return m
}
