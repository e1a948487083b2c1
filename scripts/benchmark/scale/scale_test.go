package scale

import (
	"testing"

	"tenon/virtiofs/fstest"
)

// smaps is part of a machine's: its binary, heap, guest RAM and a piece of a window.
const smaps = `00400000-00a3c000 r-xp 00000000 fe:00 1234                               /usr/bin/tenon
Size:               6384 kB
KernelPageSize:        4 kB
Rss:                4096 kB
Pss:                2048 kB
THPeligible:           0
VmFlags: rd ex mr mw me
c000000000-c000400000 rw-p 00000000 00:00 0                              [anon: Go: heap]
Rss:                1024 kB
Pss:                1024 kB
VmFlags: rd wr mr mw me ac nh
7f0000000000-7f0040000000 rw-p 00000000 00:00 0
Rss:               16384 kB
Pss:               16384 kB
VmFlags: rd wr mr mw me dc nr dd ac hg
7f1000000000-7f1000200000 r--s 00000000 fe:00 99                         /srv/a dir/shared
Rss:                2048 kB
Pss:                 512 kB
VmFlags: rd mr mw me ms sd
`

// TestMappings: what is the guest's, a file's and the machine's own.
func TestMappings(t *testing.T) {
	got := add(smaps, "/srv/a dir/shared")
	if want := (resident{rss: 5, pss: 3, guest: 16, file: 0.5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestNames: the name that is put over another's is the leaf's.
func TestNames(t *testing.T) {
	b := fstest.Str(leaf(0).name())
	for _, l := range []leaf{0, 7, 999, 1000, 123_456} {
		l.putName(b)
		if string(b) != l.name()+"\x00" {
			t.Errorf("%d: %q, want %q", l, b, l.name())
		}
	}
}

// TestKernelFits: a kernel that had no room for its requests would overwrite itself.
func TestKernelFits(t *testing.T) {
	if _, err := fleetKernel(256<<30, 64<<20, 1); err != nil {
		t.Error(err)
	}
	if _, err := fleetKernel(256<<30, 256<<20, 1); err == nil {
		t.Error("128 mappings were taken for a ring of 128 descriptors")
	}
}
