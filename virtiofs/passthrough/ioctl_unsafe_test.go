package passthrough

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// A guest's pointers are replaced by ones to what it sent, or to nothing; sizes
// that are not those of what it sent are refused.
func TestPointVerity(t *testing.T) {
	for _, x := range []struct {
		salt, sig uint32
		rest      int
		want      unix.Errno
	}{
		{0, 0, 0, 0}, {8, 0, 8, 0}, {0, 5, 5, 0}, {8, 5, 13, 0},
		{8, 0, 0, unix.EINVAL}, {0, 5, 4, unix.EINVAL}, {0, 0, 1, unix.EINVAL},
		{1 << 31, 1 << 31, 0, unix.EINVAL}, // their sum in 32 bits is 0
	} {
		in := make([]byte, virtiofs.VerityEnableSize+x.rest)
		binary.LittleEndian.PutUint32(in[12:], x.salt)
		binary.LittleEndian.PutUint32(in[24:], x.sig)
		binary.LittleEndian.PutUint64(in[16:], 0x1234)
		binary.LittleEndian.PutUint64(in[32:], 0x5678)
		if e := pointVerity(in); e != x.want {
			t.Errorf("%+v: %v", x, e)
			continue
		}
		if x.want != 0 {
			continue
		}
		base := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(in)))) + virtiofs.VerityEnableSize
		for _, p := range []struct {
			at   int
			size uint32
			to   uint64
		}{{16, x.salt, base}, {32, x.sig, base + uint64(x.salt)}} {
			want := p.to
			if p.size == 0 {
				want = 0
			}
			if got := binary.LittleEndian.Uint64(in[p.at:]); got != want {
				t.Errorf("%+v: pointer at %d is %#x, want %#x", x, p.at, got, want)
			}
		}
	}
}
