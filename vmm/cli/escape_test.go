package cli

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestEscapes(t *testing.T) {
	for _, c := range []struct {
		typed, guest string
		events       string // q for quit, h for help
	}{
		{"", "", ""},
		{"ls\r\x03\x04\x00\xff", "ls\r\x03\x04\x00\xff", ""},
		{"\x01x", "", "q"},
		{"\x01X\x01x", "", "qq"},
		{"\x01c\x01C", "", "hh"},
		{"\x01\x01", "\x01", ""},
		{"\x01a\x01A", "\x01\x01", ""},
		{"\x01\x01x", "\x01x", ""},
		{"\x01\x01\x01x", "\x01", "q"},
		{"\x01k", "\x01k", ""},
		{"a\x01hb", "a\x01hb", ""},
		{"x\x01xx", "xx", "q"},
		{"end\x01", "end", ""},
	} {
		for _, chunked := range []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r },
			iotest.OneByteReader, // an escape may arrive in two reads
			iotest.DataErrReader, // and the end with the last byte
		} {
			var events string
			e := &escapes{
				src:  chunked(strings.NewReader(c.typed)),
				quit: func() { events += "q" },
				help: func() { events += "h" },
			}
			got, err := io.ReadAll(iotest.OneByteReader(e))
			if err != nil || string(got) != c.guest || events != c.events {
				t.Errorf("%q: the guest gets %q and Tenon %q, %v; want %q and %q", c.typed, got, events, err, c.guest, c.events)
			}
		}
	}
}
