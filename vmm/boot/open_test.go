package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func content(t *testing.T, i *Image) []byte {
	t.Helper()
	info, err := i.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := i.file.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenBzImage(t *testing.T) {
	want := stock().vmlinux()
	for format := range compressors {
		for _, cached := range []bool{true, false} {
			dir := ""
			if cached {
				dir = filepath.Join(t.TempDir(), "not", "there", "yet")
			}
			i := open(t, writeFile(t, bzImage(payloadOf(t, format, want))), dir)
			if !bytes.Equal(content(t, i), want) {
				t.Errorf("%s, cached %v: unpacked kernel differs", format, cached)
			}
			if i.Release != "9.8.7-wrapped" || i.Opaque || i.program.pvh != pvhAt {
				t.Errorf("%s: release %q, opaque %v, PVH entry %#x", format, i.Release, i.Opaque, i.program.pvh)
			}
		}
	}
}

func TestOpenELF(t *testing.T) {
	i := open(t, writeFile(t, stock().vmlinux()), "")
	if i.Release != "9.8.7-synthetic" {
		t.Errorf("release %q", i.Release)
	}
	if i.program.pvh != pvhAt || i.program.entry != entryAt || i.program.end != dataAt+bssLen {
		t.Errorf("PVH entry %#x, entry %#x, end %#x", i.program.pvh, i.program.entry, i.program.end)
	}
	if least := i.MinMemory(); least <= dataAt+bssLen || least%(1<<20) != 0 {
		t.Errorf("needs %d bytes", least)
	}
}

func TestContains(t *testing.T) {
	i := open(t, writeFile(t, stock().vmlinux()), "")
	for _, c := range []struct {
		s    string
		want bool
	}{{"synthetic", true}, {text, true}, {"virtiofs", false}, {"", false}, {"\xdd\xdd", true}} {
		if got := i.Contains(c.s); got != c.want {
			t.Errorf("Contains(%q) = %v", c.s, got)
		}
	}
}

// A payload that only the guest can unpack is booted as it is.
func TestOpenOpaque(t *testing.T) {
	payload := append([]byte("\x89LZO\x00\r\n"), make([]byte, 5000)...)
	binary.LittleEndian.PutUint32(payload[len(payload)-4:], 100_000)
	b := bzImage(payload)
	i := open(t, writeFile(t, b), t.TempDir())
	if !i.Opaque || i.Contains("LZO") || i.Release != "9.8.7-wrapped" {
		t.Errorf("opaque %v, contains %v, release %q", i.Opaque, i.Contains("LZO"), i.Release)
	}
	if i.program.entry != kernelAt+entry64 || i.program.end != kernelAt+0x40000 {
		t.Errorf("entry %#x, end %#x", i.program.entry, i.program.end)
	}
}

// Stock xz kernels use the BCJ filter, which the library lacks.
func TestOpenXZWithFilter(t *testing.T) {
	tool, err := exec.LookPath("xz")
	if err != nil {
		t.Skip("SKIPPED: no xz program to make the payload with")
	}
	cmd := exec.Command(tool, "--check=crc32", "--x86", "--lzma2=dict=1MiB", "-c")
	cmd.Stdin = bytes.NewReader(stock().vmlinux())
	payload, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	payload = binary.LittleEndian.AppendUint32(payload, uint32(len(stock().vmlinux())))
	if i := open(t, writeFile(t, bzImage(payload)), t.TempDir()); !i.Opaque {
		t.Error("an xz payload with filters was taken for one the host reads")
	}
}

func TestOpenRefuses(t *testing.T) {
	good := bzImage(payloadOf(t, "zstd", stock().vmlinux()))
	patch := func(off int, b ...byte) []byte {
		out := bytes.Clone(good)
		copy(out[off:], b)
		return out
	}
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "neither"},
		{"text", []byte("#!/bin/sh\necho hello\n"), "neither"},
		{"short ELF", []byte("\x7fELF\x02\x01\x01"), "truncated"},
		{"cut ELF", stock().vmlinux()[:0x4000], "truncated"},
		{"other machine", elfSpec{machine: elf.EM_AARCH64}.vmlinux(), "not for x86-64"},
		{"user program", elfSpec{machine: elf.EM_X86_64, noNote: true, vaddr: 0x400000, paddr: 0x400000, entry: 0x400100}.vmlinux(), "without kernel addresses"},
		{"entry outside", elfSpec{machine: elf.EM_X86_64, noNote: true, vaddr: 1 << 63, paddr: kernelAt, entry: 0x10}.vmlinux(), "entry"},
		{"low segment", elfSpec{machine: elf.EM_X86_64, vaddr: 1 << 63, paddr: 0x7000, entry: 0x7000}.vmlinux(), "below 1 MiB"},
		{"wrapping segment", elfSpec{machine: elf.EM_X86_64, vaddr: 1 << 63, paddr: 1<<64 - 0x1000, entry: entryAt}.vmlinux(), "no sense"},
		{"old protocol", patch(0x206, 0x04, 0x02), "bad setup header"},
		{"32-bit", patch(0x236, 0, 0), "not a 64-bit"},
		{"cut bzImage", good[:len(good)-1], "truncated"},
		{"payload past end", patch(0x24c, 0xff, 0xff, 0xff, 0xff), "truncated"},
		{"huge", patch(len(good)-4, 0xff, 0xff, 0xff, 0xff), "claims to unpack"},
		{"size too small", patch(len(good)-4, 0x10, 0, 0, 0), "damaged"},
		{"size too large", patch(len(good)-4, 0, 0, 0, 1), "damaged"},
		{"flipped bits", patch(len(good)-40, 0x55, 0xaa, 0x55), "damaged"},
		{"payload is no kernel", bzImage(payloadOf(t, "gzip", []byte("nothing"))), "truncated"},
	} {
		dir := t.TempDir()
		path := writeFile(t, c.file)
		i, err := Open(path, dir)
		if err == nil {
			i.Close()
			t.Errorf("%s: opened", c.name)
			continue
		}
		if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q and the path", c.name, err, c.want)
		}
		if c.name != "low segment" && !errors.Is(err, ErrNotKernel) {
			t.Errorf("%s: %v is not ErrNotKernel", c.name, err)
		}
	}
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, t.TempDir()} {
		if _, err := Open(path, ""); !errors.Is(err, ErrNotKernel) {
			t.Errorf("%s: %v", path, err)
		}
	}
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := Open(missing, "")
	if !errors.Is(err, os.ErrNotExist) || strings.Count(err.Error(), missing) != 1 {
		t.Errorf("missing file: %v", err)
	}
}

// entries returns the paths in the cache.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestCacheIsUsed(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, bzImage(payloadOf(t, "lz4", stock().vmlinux())))
	open(t, path, dir)
	cached := entries(t, dir)
	if len(cached) != 1 {
		t.Fatalf("cache holds %v", cached)
	}
	before := inode(t, cached[0])
	if open(t, path, dir); inode(t, cached[0]) != before {
		t.Error("the second start unpacked again")
	}
}

func TestCacheIsRebuilt(t *testing.T) {
	want := stock().vmlinux()
	for name, spoil := range map[string]func(path string) error{
		"truncated": func(p string) error { return os.Truncate(p, 0x3000) },
		"emptied":   func(p string) error { return os.Truncate(p, 0) },
		"truncated, time kept": func(p string) error {
			info, err := os.Stat(p)
			return errors.Join(err, os.Truncate(p, 0x3000), os.Chtimes(p, info.ModTime(), info.ModTime()))
		},
		"overwritten": func(p string) error {
			b := bytes.Clone(want)
			copy(b[0x2000:], "garbage in the middle")
			return os.WriteFile(p, b, 0o600)
		},
		"replaced by a directory": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
	} {
		dir := t.TempDir()
		path := writeFile(t, bzImage(payloadOf(t, "zstd", want)))
		old := time.Now().Add(-time.Hour) // what is written from now on has another time
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		open(t, path, dir)
		if err := spoil(entries(t, dir)[0]); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content(t, open(t, path, dir)), want) {
			t.Errorf("%s: the spoilt entry was used", name)
		}
	}
}

// A kernel that changes under the same path replaces its entry.
func TestCacheFollowsTheKernel(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, bzImage(payloadOf(t, "gzip", stock().vmlinux())))
	open(t, path, dir)
	other := stock()
	other.entry += 8
	if err := os.WriteFile(path, bzImage(payloadOf(t, "gzip", other.vmlinux())), 0o600); err != nil {
		t.Fatal(err)
	}
	if i := open(t, path, dir); i.program.entry != entryAt+8 {
		t.Error("the old kernel was used")
	}
	if left := entries(t, dir); len(left) != 1 {
		t.Errorf("cache holds %v", left)
	}
}

func TestCacheUnwritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := stock().vmlinux()
	i := open(t, writeFile(t, bzImage(payloadOf(t, "zstd", want))), filepath.Join(file, "below"))
	if !bytes.Equal(content(t, i), want) {
		t.Error("no usable copy in memory")
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(stock().vmlinux())
	for format := range compressors {
		f.Add(bzImage(payloadOf(f, format, stock().vmlinux())))
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "kernel")
	mem := newRAM(f, smallRAM()) // once: nobody looks at what is loaded
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := Open(path, "")
		if err != nil {
			return
		}
		defer i.Close()
		i.Contains("virtiofs")
		Load(mem, i, Params{RAM: smallRAM()}) // errors are fine, panics are not
	})
}
