package machine

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"tenon/guest/channel"
	"tenon/vmm/config"
)

// TestInitOfShortRun: init is a stage also of a run that has ended before anybody looked.
func TestInitOfShortRun(t *testing.T) {
	for range 20 {
		type port struct {
			io.Reader
			io.Writer
		}
		var hello bytes.Buffer
		channel.NewGuest(port{strings.NewReader(""), &hello}).Spec()
		m := newMachine(config.Default(), Options{})
		m.host = channel.NewHost(port{&hello, io.Discard}, channel.Spec{}, channel.IO{})
		m.host.Run()
		m.finish(cause{kind: causePowerOff})
		m.awaitEnd(t.Context())
		if list := m.stages.list; len(list) != 1 || list[0].Name != "init" {
			t.Fatalf("stages: %+v", list)
		}
	}
}

// TestReadSmaps reads a list as Linux writes it: the program, a heap, guest RAM and a window.
func TestReadSmaps(t *testing.T) {
	const list = `00400000-006c6000 r-xp 00000000 08:01 131 /usr/bin/tenon
Size:               2840 kB
Rss:                2700 kB
Anonymous:             0 kB
AnonHugePages:         0 kB
VmFlags: rd ex mr mw me
00a08000-00a2f000 rw-p 00608000 08:01 131 /usr/bin/tenon
Rss:                 120 kB
Anonymous:            40 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Rss:                2048 kB
Anonymous:          2048 kB
7f0000000000-7f0040000000 rw-p 00000000 00:00 0
Rss:              100000 kB
Anonymous:        100000 kB
7f1000000000-7f1040000000 rw-s 00000000 08:01 77 /srv/a-file: with a name
Rss:                 500 kB
Anonymous:             7 kB
`
	got, err := readSmaps(strings.NewReader(list), func(r *rss, at uintptr) *int {
		switch at {
		case 0x7f0000000000:
			return &r.guest
		case 0x7f1000000000:
			return &r.dax
		}
		return nil
	})
	if want := (rss{all: 105368, guest: 100000, dax: 500, anonymous: 2088}); got != want || err != nil {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if _, err := readSmaps(strings.NewReader("Rss: many kB\n"), nil); err == nil {
		t.Error("a size that is no number was taken")
	}
}
