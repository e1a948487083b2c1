package image

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// unpack reads a newc archive, checking what the kernel relies on.
func unpack(t *testing.T, b []byte) (names []string, bodies map[string]string, modes map[string]uint64) {
	t.Helper()
	bodies, modes = map[string]string{}, map[string]uint64{}
	inodes := map[uint64]bool{}
	for at := 0; ; {
		h := b[at : at+110]
		field := func(i int) uint64 {
			v, err := strconv.ParseUint(string(h[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatalf("entry at %d: field %d: %v", at, i, err)
			}
			return v
		}
		if string(h[:6]) != "070701" {
			t.Fatalf("entry at %d: magic %q", at, h[:6])
		}
		nameLen, size := int(field(11)), int(field(6))
		name := string(b[at+110 : at+110+nameLen])
		if !strings.HasSuffix(name, "\x00") {
			t.Fatalf("name %q has no NUL", name)
		}
		name = name[:nameLen-1]
		body := (at + 110 + nameLen + 3) &^ 3
		if name == trailer {
			if rest := len(b) - body; rest != 0 {
				t.Fatalf("%d bytes after the trailer", rest)
			}
			return names, bodies, modes
		}
		if inodes[field(0)] {
			t.Errorf("%s: inode %d again", name, field(0))
		}
		inodes[field(0)] = true
		names = append(names, name)
		bodies[name], modes[name] = string(b[body:body+size]), field(1)
		if name == "dev/console" && (field(9) != 5 || field(10) != 1) {
			t.Errorf("console is device %d:%d", field(9), field(10))
		}
		at = (body + size + 3) &^ 3
	}
}

// ko makes an ELF file with a .modinfo section, as small as debug/elf takes.
func ko(depends string) []byte {
	info := "license=GPL\x00depends=" + depends + "\x00name=x\x00"
	names := "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	headerLen := 64
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Shoff: uint64(headerLen + len(info) + len(names)), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: uint64(headerLen), Size: uint64(len(info))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(headerLen + len(info)), Size: uint64(len(names))},
	}
	binary.Write(&b, binary.LittleEndian, header)
	b.WriteString(info + names)
	binary.Write(&b, binary.LittleEndian, sections)
	return b.Bytes()
}

// kernel makes a lib/modules/RELEASE. Files whose name ends in .xz, .zst or
// .gz are compressed; modules.order leaves that ending out.
func kernel(t *testing.T, builtin []string, modules map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	var order []string
	for path, depends := range modules {
		var b bytes.Buffer
		switch filepath.Ext(path) {
		case ".xz":
			w, err := xz.NewWriter(&b)
			if err != nil {
				t.Fatal(err)
			}
			w.Write(ko(depends))
			w.Close()
		case ".zst":
			w, err := zstd.NewWriter(&b)
			if err != nil {
				t.Fatal(err)
			}
			w.Write(ko(depends))
			w.Close()
		case ".gz":
			w := gzip.NewWriter(&b)
			w.Write(ko(depends))
			w.Close()
		default:
			b.Write(ko(depends))
		}
		write(t, filepath.Join(dir, path), b.Bytes())
		order = append(order, path[:strings.Index(path, ".ko")+3])
	}
	slices.Sort(order)
	write(t, filepath.Join(dir, "modules.order"), []byte(strings.Join(order, "\n")+"\n"))
	write(t, filepath.Join(dir, "modules.builtin"), []byte(strings.Join(builtin, "\n")+"\n"))
	return dir
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func initFile(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tenon")
	write(t, path, bytes.Repeat([]byte{0xa5}, n))
	return path
}

var allBuiltIn = []string{
	"kernel/drivers/virtio/virtio_pci.ko", "kernel/drivers/char/virtio_console.ko", "kernel/fs/fuse/virtiofs.ko",
}

func TestBuild(t *testing.T) {
	modular := kernel(t, nil, map[string]string{
		"kernel/drivers/virtio/virtio.ko":               "",
		"kernel/drivers/virtio/virtio_ring.ko":          "",
		"kernel/drivers/virtio/virtio_pci.ko":           "virtio_ring,virtio",
		"kernel/drivers/char/virtio_console.ko.gz":      "virtio,virtio_ring",
		"kernel/fs/fuse/fuse.ko.zst":                    "",
		"kernel/fs/fuse/virtiofs.ko.zst":                "fuse,virtio,virtio_ring",
		"kernel/fs/overlayfs/overlay.ko.xz":             "",
		"kernel/drivers/char/hw_random/virtio-rng.ko":   "virtio-ring",
		"kernel/drivers/net/virtio_net.ko.xz":           "failover",
		"kernel/drivers/virtio/virtio_balloon.ko.other": "",
	})
	halfModular := kernel(t, append(allBuiltIn, "kernel/lib/helper-x.ko"), map[string]string{
		"kernel/fs/overlayfs/overlay.ko.xz": "helper_x",
	})
	for _, c := range []struct {
		name  string
		opts  Options
		list  string
		files []string
	}{
		{
			name: "everything a module",
			opts: Options{Modules: modulesOf(t, modular)},
			list: "virtio_pci virtio_ring.ko virtio.ko virtio_pci.ko\n" +
				"virtio_console virtio.ko virtio_ring.ko virtio_console.ko\n" +
				"virtiofs fuse.ko virtio.ko virtio_ring.ko virtiofs.ko\n" +
				"overlay overlay.ko\n" +
				"virtio_rng virtio_ring.ko virtio_rng.ko\n",
			files: []string{"virtio_ring", "virtio", "virtio_pci", "virtio_console", "fuse", "virtiofs", "overlay", "virtio_rng"},
		},
		{
			name:  "one a module, its dependency built in",
			opts:  Options{Modules: modulesOf(t, halfModular)},
			list:  "overlay overlay.ko\n",
			files: []string{"overlay"},
		},
		{
			name: "no modules",
			opts: Options{BuiltIn: func(d string) bool { return d != "overlay" }},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opts.Init = initFile(t, 4097)
			b, err := Build(c.opts)
			if err != nil {
				t.Fatal(err)
			}
			names, bodies, modes := unpack(t, b)
			want := []string{"dev", "proc", "sys", "dev/console"}
			if c.files != nil {
				want = append(want, "modules", "modules/list")
				for _, f := range c.files {
					want = append(want, "modules/"+f+".ko")
				}
			}
			// Modules may come in any order, the list has theirs; all else may not.
			if want = append(want, "init"); !slices.Equal(names[:4], want[:4]) || names[len(names)-1] != "init" ||
				!slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(want))) {
				t.Errorf("entries %v, want %v", names, want)
			}
			if bodies["modules/list"] != c.list {
				t.Errorf("list:\n%swant:\n%s", bodies["modules/list"], c.list)
			}
			for _, f := range c.files {
				if _, err := depends([]byte(bodies["modules/"+f+".ko"])); err != nil {
					t.Errorf("%s: %v", f, err)
				}
			}
			if bodies["init"] != strings.Repeat("\xa5", 4097) || modes["init"] != 0o100755 || modes["dev"] != 0o040755 || modes["dev/console"] != 0o020600 {
				t.Errorf("init has %d bytes; modes %v", len(bodies["init"]), modes)
			}
		})
	}
}

func modulesOf(t *testing.T, dir string) *Modules {
	t.Helper()
	m, err := OpenModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMissingDriver(t *testing.T) {
	dir := kernel(t, allBuiltIn[:2], nil)
	_, err := Build(Options{Init: initFile(t, 1), Release: "6.12.1", Modules: modulesOf(t, dir)})
	var missing *MissingError
	if !errors.As(err, &missing) || err.Error() != "kernel 6.12.1 has no virtio-fs (CONFIG_VIRTIO_FS)" {
		t.Errorf("error %v", err)
	}
	if _, err = Build(Options{Init: initFile(t, 1), Release: "5.4"}); !errors.As(err, &missing) || missing.Driver.Name != "virtio_pci" {
		t.Errorf("no modules, nothing built in: error %v", err)
	}
}

func TestBrokenTrees(t *testing.T) {
	for _, c := range []struct {
		name    string
		modules map[string]string
		want    string
	}{
		{"missing dependency", map[string]string{"a/overlay.ko": "absent"}, "module absent is missing"},
		{"cycle", map[string]string{"a/overlay.ko": "b", "a/b.ko": "overlay"}, "needs itself"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := kernel(t, allBuiltIn, c.modules)
			if _, err := Build(Options{Init: initFile(t, 1), Modules: modulesOf(t, dir)}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("file gone", func(t *testing.T) {
		dir := kernel(t, allBuiltIn, map[string]string{"a/overlay.ko": ""})
		os.Remove(filepath.Join(dir, "a/overlay.ko"))
		if _, err := Build(Options{Init: initFile(t, 1), Modules: modulesOf(t, dir)}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no ELF", func(t *testing.T) {
		dir := kernel(t, allBuiltIn, map[string]string{"a/overlay.ko": ""})
		write(t, filepath.Join(dir, "a/overlay.ko"), []byte("text"))
		if _, err := Build(Options{Init: initFile(t, 1), Modules: modulesOf(t, dir)}); err == nil {
			t.Error("no error")
		}
	})
}

func TestFind(t *testing.T) {
	dir := kernel(t, allBuiltIn, map[string]string{"kernel/drivers/char/hw_random/virtio-rng.ko.xz": ""})
	// A tree that depmod has seen and modules.order was trimmed from.
	withDep := kernel(t, allBuiltIn, nil)
	os.Remove(filepath.Join(withDep, "modules.order"))
	write(t, filepath.Join(withDep, "modules.dep"), []byte("kernel/fs/overlayfs/overlay.ko.zst: kernel/lib/x.ko.zst\nkernel/lib/x.ko.zst:\n"))
	for _, c := range []struct {
		dir, driver string
		status      Status
		path        string
	}{
		{dir, "virtiofs", BuiltIn, ""},
		{dir, "virtio_rng", Module, "kernel/drivers/char/hw_random/virtio-rng.ko"},
		{dir, "overlay", Missing, ""},
		{withDep, "overlay", Module, "kernel/fs/overlayfs/overlay.ko.zst"},
	} {
		status, path := modulesOf(t, c.dir).Find(c.driver)
		if status != c.status || path != c.path {
			t.Errorf("%s: %v %q, want %v %q", c.driver, status, path, c.status, c.path)
		}
	}
	if _, err := OpenModules(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory without lists: %v", err)
	}
}

func TestCache(t *testing.T) {
	dir := kernel(t, allBuiltIn, map[string]string{"a/overlay.ko.xz": ""})
	cache := filepath.Join(t.TempDir(), "new", "cache")
	o := Options{Init: initFile(t, 10), Modules: modulesOf(t, dir), Cache: cache}
	first, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := filepath.Glob(cache + "/*")
	if len(kept) != 1 {
		t.Fatalf("cache holds %v", kept)
	}
	// The second image comes from the cache: a mark put there shows up in it.
	mark := ko("")
	mark = append(mark, "mark"...)
	write(t, kept[0], mark)
	second, err := Build(o)
	if err != nil || bytes.Equal(first, second) || !bytes.Contains(second, []byte("mark")) {
		t.Errorf("cache was not used: %v", err)
	}
	// A new file of the same name does not get the old content.
	old := filepath.Join(dir, "a/overlay.ko.xz")
	b, _ := os.ReadFile(old)
	write(t, old, append(b, make([]byte, 4)...)) // xz stream padding
	if third, err := Build(o); err != nil || !bytes.Equal(third, first) {
		t.Errorf("stale cache was used: %v", err)
	}
}

func TestFillChecks(t *testing.T) {
	o := Options{Init: initFile(t, 1000), BuiltIn: func(string) bool { return true }}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Fill(make([]byte, m.Size()-1)); err == nil {
		t.Error("no error for a short buffer")
	}
	// Memory that was used before must not show between the entries.
	dirty := bytes.Repeat([]byte{0xff}, m.Size()+8)
	if err := m.Fill(dirty); err != nil {
		t.Fatal(err)
	}
	clean, err := Build(o)
	if err != nil || !bytes.Equal(dirty[:m.Size()], clean) {
		t.Errorf("image depends on the buffer: %v", err)
	}
	if !bytes.Equal(dirty[m.Size():], bytes.Repeat([]byte{0xff}, 8)) {
		t.Error("written past the size")
	}
	os.Truncate(o.Init, 999)
	if err := m.Fill(dirty); err == nil {
		t.Error("no error for an init that has shrunk")
	}
}

// TestCpio reads an image back with the system's cpio.
func TestCpio(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("no cpio on this machine: the archive is only checked by this package's own reader")
	}
	dir := kernel(t, allBuiltIn, map[string]string{"a/overlay.ko": ""})
	b, err := Build(Options{Init: initFile(t, 123), Modules: modulesOf(t, dir)})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "-it", "--quiet")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.CombinedOutput()
	names, _, _ := unpack(t, b)
	if got := strings.Fields(string(out)); err != nil || !reflect.DeepEqual(got, names) {
		t.Errorf("cpio lists %v, %v; want %v", got, err, names)
	}
}

// TestInstalledKernels builds for every kernel of the user's cache.
func TestInstalledKernels(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	dirs, _ := filepath.Glob(cache + "/tenon/kernels/[0-9]*/lib/modules/*")
	if len(dirs) == 0 {
		t.Skip("no kernel in the cache")
	}
	for _, dir := range dirs {
		m, err := New(Options{Init: initFile(t, 1), Release: filepath.Base(dir), Modules: modulesOf(t, dir)})
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		t.Logf("%s:\n%s", filepath.Base(dir), m.list)
		for _, d := range Drivers() {
			if status, _ := modulesOf(t, dir).Find(d.Name); status == Missing && d.Required {
				t.Errorf("%s: %s is missing", dir, d.Name)
			}
		}
	}
}

func BenchmarkFill(b *testing.B) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	m, err := New(Options{Init: exe, BuiltIn: func(string) bool { return true }})
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, m.Size())
	b.SetBytes(int64(m.Size()))
	for b.Loop() {
		if err := m.Fill(dst); err != nil {
			b.Fatal(err)
		}
	}
}
