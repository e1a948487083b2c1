package legacy_test

import (
	"testing"

	"tenon/devices/bus"
	"tenon/devices/legacy"
)

func TestI8042(t *testing.T) {
	resets := 0
	k := &legacy.I8042{OnReset: func() { resets++ }}
	for off := range uint64(5) {
		p := []byte{0xff}
		if k.Read(off, p); p[0] != 0 {
			t.Errorf("port %#x reads %#x", 0x60+off, p[0])
		}
	}
	for _, tc := range []struct {
		off  uint64
		b    byte
		want int
	}{
		{0, 0xfe, 0}, // data port
		{1, 0xfe, 0},
		{4, 0xff, 0}, // pulses nothing
		{4, 0xaa, 0}, // self test
		{4, 0xfe, 1},
	} {
		resets = 0
		if k.Write(tc.off, []byte{tc.b}); resets != tc.want {
			t.Errorf("%#x to port %#x: %d resets, want %d", tc.b, 0x60+tc.off, resets, tc.want)
		}
	}
}

func TestPower(t *testing.T) {
	got := ""
	var b bus.Bus
	err := b.Map(bus.Range{Base: 0x600, Len: 8}, "power", &legacy.Power{
		OnReset: func() { got += "reset" },
		OnOff:   func() { got += "off" },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Freeze()
	for _, tc := range []struct {
		port uint64
		b    byte
		want string
	}{
		{0x600, 0x34, "off"},
		{0x600, 0x34 | 0x03, "off"}, // reserved bits
		{0x600, 0x14, ""},           // no SLP_EN
		{0x600, 0x20, ""},           // S0
		{0x600, 0x24, ""},           // S1
		{0x600, 0x3c, ""},           // type 7
		{0x601, 0x80, ""},           // Linux clears the wake status first
		{0x602, 0x01, "reset"},
		{0x602, 0x00, ""},
		{0x602, 0x34, ""},
		{0x603, 0x01, ""},
	} {
		got = ""
		if b.Write(tc.port, []byte{tc.b}); got != tc.want {
			t.Errorf("%#x to port %#x: %q, want %q", tc.b, tc.port, got, tc.want)
		}
		p := []byte{0xff}
		if b.Read(tc.port, p); p[0] != 0 {
			t.Errorf("port %#x reads %#x", tc.port, p[0])
		}
	}
}

// TestPowerNobody: without a callback the registers do nothing.
func TestPowerNobody(t *testing.T) {
	(&legacy.Power{}).Write(0, []byte{0x34})
	(&legacy.Power{}).Write(2, []byte{1})
	(&legacy.I8042{}).Write(4, []byte{0xfe})
}
