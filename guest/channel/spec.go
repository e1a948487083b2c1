package channel

import (
	"encoding/binary"
	"fmt"
)

// codec walks a Spec in one fixed order and writes or reads each field, so
// the two directions cannot differ. Strings are bytes with a length: file
// names and arguments need not be UTF-8.
type codec struct {
	buf     []byte
	reading bool
	failed  bool
}

func (s *Spec) encode() []byte {
	c := codec{}
	c.spec(s)
	return c.buf
}

func decodeSpec(p []byte) (Spec, error) {
	var s Spec
	c := codec{buf: p, reading: true}
	c.spec(&s)
	if c.failed || len(c.buf) != 0 {
		return Spec{}, fmt.Errorf("%w: malformed session", ErrProtocol)
	}
	return s, nil
}

func (c *codec) spec(s *Spec) {
	hasRoot := s.Root != nil
	c.flag(&hasRoot)
	if hasRoot {
		if s.Root == nil {
			s.Root = new(Mount)
		}
		c.mount(s.Root)
	}
	c.flag(&s.Overlay)
	list(c, &s.Mounts, c.mount)
	list(c, &s.Command, c.text)
	c.text(&s.Dir)
	list(c, &s.Env, c.text)
	c.flag(&s.Terminal)
	c.short(&s.Rows)
	c.short(&s.Cols)
	c.text(&s.Hostname)
}

func (c *codec) mount(m *Mount) {
	c.text(&m.Tag)
	c.text(&m.Path)
	c.flag(&m.ReadOnly)
	c.text(&m.DAX)
}

// number carries an integer up to limit.
func (c *codec) number(v uint64, limit uint64) uint64 {
	if !c.reading {
		c.buf = binary.AppendUvarint(c.buf, v)
		return v
	}
	v, n := binary.Uvarint(c.buf)
	if n <= 0 || v > limit {
		c.failed, c.buf = true, nil
		return 0
	}
	c.buf = c.buf[n:]
	return v
}

func (c *codec) text(p *string) {
	n := c.number(uint64(len(*p)), uint64(len(c.buf)))
	if !c.reading {
		c.buf = append(c.buf, *p...)
		return
	}
	if n > uint64(len(c.buf)) {
		c.failed, c.buf = true, nil
		return
	}
	*p, c.buf = string(c.buf[:n]), c.buf[n:]
}

func (c *codec) flag(p *bool) {
	var v uint64
	if *p {
		v = 1
	}
	*p = c.number(v, 1) == 1
}

func (c *codec) short(p *uint16) { *p = uint16(c.number(uint64(*p), 1<<16-1)) }

// list carries a slice. Each element takes at least one byte, which bounds
// what a length alone can make the reader allocate.
func list[T any](c *codec, p *[]T, element func(*T)) {
	n := c.number(uint64(len(*p)), uint64(len(c.buf)))
	if c.reading && n > 0 {
		*p = make([]T, n)
	}
	for i := range *p {
		element(&(*p)[i])
	}
}
