package boot

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// Where the synthetic kernel is loaded and entered.
const (
	kernelAt  = 0x100_0000
	kernelLen = 0x5000
	dataAt    = kernelAt + 0x6000
	bssLen    = 0x1800
	pvhAt     = kernelAt + 0x30
	entryAt   = kernelAt + 0x50
	text      = "Linux version 9.8.7-synthetic (someone@somewhere) #1"
)

// elfSpec is what tests vary in a synthetic vmlinux.
type elfSpec struct {
	noNote  bool
	machine elf.Machine
	vaddr   uint64
	paddr   uint64
	entry   uint64
}

// vmlinux builds a small kernel: text at kernelAt, data with a BSS at dataAt,
// and a note segment. Page n of the text is filled with byte n+1.
func (s elfSpec) vmlinux() []byte {
	le := binary.LittleEndian
	body := make([]byte, kernelLen)
	for i := range body {
		body[i] = byte(i/pageSize) + 1
	}
	copy(body[0x2ff0:], text) // across the seam of two pages
	data := bytes.Repeat([]byte{0xdd}, 0x800)

	note := le.AppendUint32(nil, 4) // a foreign note first
	note = le.AppendUint32(note, 3)
	note = le.AppendUint32(note, xenPhys32Entry)
	note = append(note, "GNU\x00abc\x00"...)
	if !s.noNote {
		note = le.AppendUint32(note, 4)
		note = le.AppendUint32(note, 8)
		note = le.AppendUint32(note, xenPhys32Entry)
		note = le.AppendUint64(append(note, "Xen\x00"...), pvhAt)
	}

	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(s.machine), Version: 1,
		Entry: s.entry, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	progs := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Off: 0x1000, Vaddr: s.vaddr, Paddr: s.paddr, Filesz: kernelLen, Memsz: kernelLen},
		{Type: uint32(elf.PT_LOAD), Off: 0x1000 + kernelLen, Vaddr: s.vaddr, Paddr: dataAt, Filesz: uint64(len(data)), Memsz: bssLen},
		{Type: uint32(elf.PT_NOTE), Off: 0x200, Filesz: uint64(len(note))},
	}
	var out bytes.Buffer
	binary.Write(&out, le, h)
	binary.Write(&out, le, progs)
	b := append(out.Bytes(), make([]byte, 0x1000-out.Len())...)
	copy(b[0x200:], note)
	return append(append(b, body...), data...)
}

// stock is the synthetic kernel as a distribution would have it.
func stock() elfSpec {
	return elfSpec{machine: elf.EM_X86_64, vaddr: 0xffffffff81000000, paddr: kernelAt, entry: entryAt}
}

// compressors make payloads with the size at their end.
var compressors = map[string]func(t testing.TB, w io.Writer, b []byte){
	"gzip": func(t testing.TB, w io.Writer, b []byte) { pour(t, gzip.NewWriter(w), b) },
	"zstd": func(t testing.TB, w io.Writer, b []byte) {
		z, err := zstd.NewWriter(w)
		if err != nil {
			t.Fatal(err)
		}
		pour(t, z, b)
	},
	"lz4": func(t testing.TB, w io.Writer, b []byte) {
		z := lz4.NewWriter(w)
		if err := z.Apply(lz4.LegacyOption(true)); err != nil {
			t.Fatal(err)
		}
		pour(t, z, b)
	},
	"xz": func(t testing.TB, w io.Writer, b []byte) {
		z, err := xz.NewWriter(w)
		if err != nil {
			t.Fatal(err)
		}
		pour(t, z, b)
	},
}

func pour(t testing.TB, w io.WriteCloser, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func payloadOf(t testing.TB, format string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	compressors[format](t, &out, b)
	if format == "gzip" { // its own last four bytes are the size
		return out.Bytes()
	}
	return binary.LittleEndian.AppendUint32(out.Bytes(), uint32(len(b)))
}

// bzImage wraps a payload: two setup sectors, a little code, the payload.
func bzImage(payload []byte) []byte {
	const setup, code = 3 * sector, 0x250
	le := binary.LittleEndian
	b := make([]byte, setup+code, setup+code+len(payload))
	b[0x1f1] = 2 // setup_sects
	le.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x20f)
	le.PutUint16(b[0x20e:], 0x100) // kernel_version
	copy(b[0x300:], "9.8.7-wrapped (builder@host) #1\x00")
	le.PutUint32(b[0x22c:], 0x7fffffff) // initrd_addr_max
	le.PutUint16(b[0x236:], xlfKernel64)
	le.PutUint32(b[0x238:], 255) // cmdline_size
	le.PutUint32(b[0x248:], code)
	le.PutUint32(b[0x24c:], uint32(len(payload)))
	le.PutUint64(b[0x258:], kernelAt)
	le.PutUint32(b[0x260:], 0x40000) // init_size
	return append(b, payload...)
}

func writeFile(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path, cacheDir string) *Image {
	t.Helper()
	i, err := Open(path, cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}
