package bus_test

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"tenon/devices/bus"
)

// tape records accesses and reads as the low byte of the offset.
type tape struct{ log []string }

func (d *tape) Read(off uint64, p []byte) {
	for i := range p {
		p[i] = byte(off) + byte(i)
	}
}

func (d *tape) Write(off uint64, p []byte) {
	d.log = append(d.log, fmt.Sprintf("%#x=%x", off, p))
}

func TestMap(t *testing.T) {
	var b bus.Bus
	for _, tc := range []struct {
		name string
		r    bus.Range
		ok   bool
	}{
		{"first", bus.Range{Base: 0x100, Len: 0x10}, true},
		{"empty", bus.Range{Base: 0x200, Len: 0}, false},
		{"wraps", bus.Range{Base: math.MaxUint64, Len: 2}, false},
		{"last byte", bus.Range{Base: math.MaxUint64, Len: 1}, true},
		{"same", bus.Range{Base: 0x100, Len: 0x10}, false},
		{"around", bus.Range{Base: 0x80, Len: 0x100}, false},
		{"inside", bus.Range{Base: 0x104, Len: 1}, false},
		{"over the start", bus.Range{Base: 0xff, Len: 2}, false},
		{"over the end", bus.Range{Base: 0x10f, Len: 2}, false},
		{"before", bus.Range{Base: 0xf0, Len: 0x10}, true},
		{"after", bus.Range{Base: 0x110, Len: 0x10}, true},
	} {
		if err := b.Map(tc.r, tc.name, &tape{}); (err == nil) != tc.ok {
			t.Errorf("%s: error %v, want success %v", tc.name, err, tc.ok)
		}
	}
	b.Freeze()
	if err := b.Map(bus.Range{Base: 0x1000, Len: 1}, "late", &tape{}); err == nil {
		t.Error("a frozen bus was changed")
	}
}

func TestAccess(t *testing.T) {
	devices := [3]tape{}
	var b bus.Bus
	for i, r := range []bus.Range{{Base: 0x300, Len: 8}, {Base: 0x100, Len: 8}, {Base: 0x108, Len: 4}} {
		if err := b.Map(r, "device", &devices[i]); err != nil {
			t.Fatal(err)
		}
	}
	b.Freeze()
	for _, tc := range []struct {
		addr   uint64
		n      int
		device int // -1: nothing answers
		off    uint64
	}{
		{0x0ff, 1, -1, 0},
		{0x100, 8, 1, 0},
		{0x107, 1, 1, 7},
		{0x107, 2, -1, 0}, // across two devices
		{0x108, 4, 2, 0},
		{0x10a, 2, 2, 2},
		{0x10a, 4, -1, 0}, // past the end
		{0x10c, 1, -1, 0},
		{0x300, 4, 0, 0},
		{0x308, 1, -1, 0},
		{math.MaxUint64, 1, -1, 0},
	} {
		p := bytes.Repeat([]byte{0xaa}, tc.n)
		want := bytes.Repeat([]byte{0xff}, tc.n)
		if tc.device >= 0 {
			devices[tc.device].Read(tc.off, want)
		}
		if ok := b.Read(tc.addr, p); ok != (tc.device >= 0) || !bytes.Equal(p, want) {
			t.Errorf("read %#x: %v %x, want %v %x", tc.addr, ok, p, tc.device >= 0, want)
		}

		for i := range devices {
			devices[i].log = nil
		}
		if ok := b.Write(tc.addr, p); ok != (tc.device >= 0) {
			t.Errorf("write %#x: %v, want %v", tc.addr, ok, tc.device >= 0)
		}
		for i := range devices {
			switch {
			case i != tc.device && len(devices[i].log) != 0:
				t.Errorf("write %#x: reached device %d: %v", tc.addr, i, devices[i].log)
			case i == tc.device && (len(devices[i].log) != 1 || devices[i].log[0] != fmt.Sprintf("%#x=%x", tc.off, p)):
				t.Errorf("write %#x: device saw %v", tc.addr, devices[i].log)
			}
		}
	}
}

func TestAllocAccess(t *testing.T) {
	var b bus.Bus
	if err := b.Map(bus.Range{Base: 0x100, Len: 8}, "device", silent{}); err != nil {
		t.Fatal(err)
	}
	b.Freeze()
	p := make([]byte, 4)
	if n := testing.AllocsPerRun(100, func() { b.Write(0x100, p); b.Read(0x104, p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

type silent struct{}

func (silent) Read(uint64, []byte)  {}
func (silent) Write(uint64, []byte) {}
