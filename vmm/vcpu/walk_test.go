package vcpu

import (
	"encoding/binary"
	"errors"
	"testing"
)

// sparse is memory of a few words; elsewhere there is none.
type sparse map[uint64]uint64

func (sparse) Covers(uint64) bool           { return false }
func (sparse) Ready() (uint64, uint64)      { return 0, 0 }
func (sparse) Fault(*Fault) (Answer, error) { return Again, nil }

func (m sparse) Load(gpa uint64, p []byte) error {
	v, ok := m[gpa]
	if !ok || len(p) != 8 {
		return errors.New("no memory")
	}
	binary.LittleEndian.PutUint64(p, v)
	return nil
}

func TestWalk(t *testing.T) {
	const noExecute = 1 << 63
	m := sparse{
		0x1000 + 8*1:   0x2000 | 7, // level 4, 512 GiB on
		0x1000 + 8*511: 0x2000 | 7,
		0x1000 + 8*3:   0x9000 | 7,        // its table is nowhere
		0x1000 + 8*4:   0x2000 | 0x80 | 7, // no large pages there
		0x2000 + 8*0:   0x3000 | 7,
		0x2000 + 8*2:   7<<30 | 0x1000 | 0x80 | 1 | noExecute, // 1 GiB, with its PAT bit
		0x2000 + 8*511: 0x3000 | 1,
		0x3000 + 8*0:   0x4000 | 7,
		0x3000 + 8*1:   5<<21 | 0x1000 | 0x80 | 3, // 2 MiB
		0x3000 + 8*511: 0x4000 | 7,
		0x4000 + 8*0:   0x123456000 | 0x80 | 5, // 4 KiB: bit 7 is its PAT bit
		0x4000 + 8*1:   0x123456000,            // not present
		0x4000 + 8*511: 0x5000 | noExecute | 7,
		0x7000 + 8*0:   0x1000 | 7, // level 5
		0x7000 + 8*511: 0x1000 | 7,
	}
	const base = 512 << 30
	for _, c := range []struct {
		linear uint64
		levels int
		want   uint64
		ok     bool
	}{
		{base + 0xabc, 4, 0x123456abc, true},
		{base + 0x1000, 4, 0, false},
		{base + 2<<20 + 0x1fffff, 4, 5<<21 + 0x1fffff, true},
		{base + 2<<30 + 0x3ffffffe, 4, 7<<30 + 0x3ffffffe, true},
		{base + 2<<20 + 5, 4, 5<<21 + 5, true},
		{base + 2<<30 + 5, 4, 7<<30 + 5, true},
		{4*base + 0xabc, 4, 0x123456abc, true},
		{1<<64 - 1, 4, 0x5fff, true},
		{2 * base, 4, 0, false}, // no memory for the entry
		{3 * base, 4, 0, false}, // none for the table
		{base + 0xabc, 5, 0x123456abc, true},
		{1<<64 - 1, 5, 0x5fff, true},
	} {
		cr3 := uint64(0x1000)
		if c.levels == 5 {
			cr3 = 0x7000
		}
		const flags = 1<<63 | 0xfff // PCID and the like, of no account
		if got, ok := walk(m, cr3|flags, c.linear, c.levels); got != c.want || ok != c.ok {
			t.Errorf("%#x through %d levels: %#x %v, want %#x %v", c.linear, c.levels, got, ok, c.want, c.ok)
		}
	}
}
