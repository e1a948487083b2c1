package boot

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// sparseFile returns data with runs of zeros, and the file writeSparse makes of it.
func sparseFile(t *testing.T) (data []byte, f *os.File) {
	t.Helper()
	data = make([]byte, 5<<20+123)
	random := rand.NewChaCha8([32]byte{})
	for _, run := range [][2]int{
		{1, 5}, {3*pageSize - 1, 3*pageSize + 1}, {10 * pageSize, 3<<20 + 7}, {len(data) - 200, len(data) - 100},
	} {
		random.Read(data[run[0]:run[1]])
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := writeSparse(f, data); err != nil {
		t.Fatal(err)
	}
	return data, f
}

func TestWriteSparse(t *testing.T) {
	for _, n := range []int{0, 1, pageSize, pageSize + 1, 3 * pageSize} {
		f, err := os.Create(filepath.Join(t.TempDir(), "zeros"))
		if err != nil {
			t.Fatal(err)
		}
		if err := writeSparse(f, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat(); err != nil || info.Size() != int64(n) {
			t.Errorf("%d zeros: a file of %d bytes, %v", n, info.Size(), err)
		}
		f.Close()
	}
	data, f := sparseFile(t)
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d came back changed: %v", len(got), len(data), err)
	}
}

// TestLoadSparse loads a segment that is aligned to nothing and leaves alone what
// is a hole in the file: there the RAM keeps a mark.
func TestLoadSparse(t *testing.T) {
	data, f := sparseFile(t)
	if _, err := f.Seek(0, unix.SEEK_HOLE); errors.Is(err, unix.EINVAL) {
		t.Skip("SKIPPED: the file system of the temporary directory has no holes")
	}
	const skip, from, mark = 333, kernelAt + 0x12_3457, 0xee
	n := uint64(len(data) - skip)
	i := &Image{path: f.Name(), file: f, program: program{segments: []segment{{at: from, off: skip, filesz: n, memsz: n + 99}}}}
	mem := newRAM(t, smallRAM())
	ram := at(t, mem, from, int(n)+99)
	for j := range ram {
		ram[j] = mark
	}
	if _, err := Load(mem, i, Params{RAM: smallRAM()}); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for j, b := range ram[:n] {
		switch want := data[skip+j]; {
		case want == 0 && b == mark:
			kept++
		case want != b:
			t.Fatalf("byte %d of the file became %#x, want %#x", skip+j, b, want)
		}
	}
	if kept < 1<<20 {
		t.Errorf("only %d bytes were left out", kept)
	}
	if !bytes.Equal(ram[n:], bytes.Repeat([]byte{mark}, 99)) {
		t.Error("bytes after the segment's end were written")
	}
}

func TestLoadTruncated(t *testing.T) {
	for _, left := range []int64{0, 0x2000, 0x1000 + kernelLen} {
		i := open(t, writeFile(t, bzImage(payloadOf(t, "zstd", stock().vmlinux()))), t.TempDir())
		if err := os.Truncate(i.file.Name(), left); err != nil {
			t.Fatal(err)
		}
		if _, _, err := loadInto(t, i, Params{RAM: smallRAM()}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut to %#x bytes after it was opened: %v", left, err)
		}
	}
	_, f := sparseFile(t)
	if err := readParts(f, []part{{0, make([]byte, 9)}, {5 << 20, make([]byte, 124)}}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a part that ends behind the file: %v", err)
	}
}

// noInitrd is an initrd that is gone when it is needed.
type noInitrd struct{}

func (noInitrd) Size() int         { return 5000 }
func (noInitrd) Fill([]byte) error { return os.ErrNotExist }

func TestLoadWithoutInitrd(t *testing.T) {
	i := open(t, writeFile(t, stock().vmlinux()), "")
	if _, _, err := loadInto(t, i, Params{RAM: smallRAM(), Initrd: noInitrd{}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error of the initrd lost: %v", err)
	}
}
