package passthrough

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/fuse"
)

const windowSize = 2 * dax.RangeSize

// windowOptions is o with a window.
func windowOptions(t *testing.T, o Options) Options {
	t.Helper()
	w, err := dax.New(windowSize)
	check(t, err)
	o.Window = w
	return o
}

// mapFirst maps the first page of a file at the window's first.
func mapFirst(f *FS, id virtiofs.NodeID, write bool) unix.Errno {
	return f.Map(id, virtiofs.Mapping{Len: dax.PageSize, Write: write})
}

// TestMappedOnce: a file that is mapped range by range is opened once, and once
// more when the first mapping for writing comes; then that serves both.
func TestMappedOnce(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		f := shareWith(t, 1, 100, windowOptions(t, o))
		id := known(t, f, 1)[0]
		for i, x := range []struct {
			write bool
			mode  int
		}{{false, unix.O_RDONLY}, {false, unix.O_RDONLY}, {true, unix.O_RDWR}, {true, unix.O_RDWR}, {false, unix.O_RDWR}} {
			if e := mapFirst(f, id, x.write); e != 0 {
				t.Fatal(e)
			}
			h := f.mapped.pin(id)
			if h == nil {
				t.Fatalf("%d: no file is kept open", i)
			}
			if mode := accessMode(h.fd); mode != x.mode || h.writable != x.write && x.mode == unix.O_RDONLY {
				t.Errorf("%d: open as %d, want %d", i, mode, x.mode)
			}
			f.handles.unpin(h)
			if n := f.budget.files.Load(); n != 1 {
				t.Errorf("%d: %d files are open", i, n)
			}
		}
		f.Forget(id, 1)
		if n := f.budget.files.Load(); n != 0 {
			t.Errorf("%d files are open after FORGET", n)
		}
	})
}

// TestMappedIsBounded: however many files are mapped, few stay open.
func TestMappedIsBounded(t *testing.T) {
	const files = 2 * shards * implicitWays
	f := shareWith(t, files, 3*files, windowOptions(t, Options{}))
	for i, id := range known(t, f, files) {
		if e := mapFirst(f, id, i%2 == 0); e != 0 {
			t.Fatal(e)
		}
	}
	if n := f.budget.files.Load(); n > shards*implicitWays || n < shards {
		t.Errorf("%d files are open, want %d at most", n, shards*implicitWays)
	}
}

// TestMappedMakesRoom: files that are open for mappings make room for everything
// else, also in another share, and mapping does without when there is none.
func TestMappedMakesRoom(t *testing.T) {
	const limit = 32
	f := shareWith(t, 2*limit, limit, windowOptions(t, Options{}))
	other, err := New(t.TempDir(), Options{Budget: f.budget})
	check(t, err)
	defer func() { check(t, other.Close()) }()
	ids := known(t, f, 2*limit)
	fill := func() {
		for _, id := range ids {
			if e := mapFirst(f, id, true); e != 0 {
				t.Fatalf("Map with %d of %d descriptors in use: %v", f.budget.Used(), limit, e)
			}
			if used := f.budget.Used(); used > limit {
				t.Fatalf("%d descriptors, the budget is %d", used, limit)
			}
		}
		if f.budget.cached.Load() < limit/2 {
			t.Fatalf("%d files are open for mappings", f.budget.cached.Load())
		}
	}
	fill()
	var e virtiofs.Entry
	for i := range limit / 2 {
		if _, err := f.Create(&virtiofs.Caller{}, fuse.RootID, name(t, fmt.Sprint("new", i)), 0o600, virtiofs.OpenFlags{Flags: unix.O_RDWR}, &e); err != 0 {
			t.Fatalf("CREATE %d: %v", i, err)
		}
	}
	f.Reset()
	ids = known(t, f, 2*limit)
	fill()
	for i := range limit / 2 {
		if _, err := other.Create(&virtiofs.Caller{}, fuse.RootID, name(t, fmt.Sprint("new", i)), 0o600, virtiofs.OpenFlags{Flags: unix.O_RDWR}, &e); err != 0 {
			t.Fatalf("CREATE %d in another share: %v", i, err)
		}
	}
	for err := unix.Errno(0); err != unix.ENFILE; {
		if _, _, err = f.Open(ids[0], virtiofs.OpenFlags{}); err != 0 && err != unix.ENFILE {
			t.Fatal(err)
		}
	}
	if n := f.budget.cached.Load(); n != 0 {
		t.Errorf("OPEN is refused, and %d files are open for mappings", n)
	}
	before := descriptors(t)
	for _, id := range ids {
		if e := mapFirst(f, id, true); e != 0 {
			t.Fatalf("Map with the budget used up: %v", e)
		}
	}
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors, %d before", now, before)
	}
}

// TestMappedMakesRoomForNodes: descriptors that nodes need take the place of files
// that are open for mappings, and those are not in the way of a new file.
func TestMappedMakesRoomForNodes(t *testing.T) {
	const limit = 8
	f := shareWith(t, limit, limit, windowOptions(t, Options{}))
	b := f.budget
	for _, id := range known(t, f, limit)[1:] {
		if e := mapFirst(f, id, false); e != 0 {
			t.Fatal(e)
		}
	}
	f.doze()
	if b.cached.Load() != limit-1 || b.Used() != limit-1 {
		t.Fatalf("%d files are open for mappings, %d descriptors in all", b.cached.Load(), b.Used())
	}
	for range 2 {
		if !b.takeNode() {
			t.Fatal("no descriptor for a node")
		}
		defer b.giveNode()
		if b.lacks(1) {
			t.Error("there is no room for a file")
		}
	}
	if b.Used() != limit || b.cached.Load() != limit-2 {
		t.Errorf("%d descriptors, %d files are open for mappings", b.Used(), b.cached.Load())
	}
}

// TestMapRefuses: what may not be opened for writing is not mapped for writing
// either, whoever asks, and only regular files are mapped at all.
func TestMapRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, s := range []string{"plain", "graft"} {
		check(t, os.WriteFile(filepath.Join(dir, s), []byte("data"), 0o644))
	}
	runProgram(t, filepath.Join(dir, "runs"))
	check(t, os.Link(filepath.Join(dir, "runs"), filepath.Join(dir, "alias")))
	check(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	check(t, os.Symlink("plain", filepath.Join(dir, "l")))
	check(t, unix.Mkfifo(filepath.Join(dir, "p"), 0o644))
	for _, x := range []struct {
		name        string
		ro          bool
		read, write unix.Errno
		refused     uint64
	}{
		{"plain", false, 0, 0, 0}, {"plain", true, 0, unix.EROFS, 1},
		{"runs", false, 0, unix.ETXTBSY, 1}, {"alias", false, 0, unix.ETXTBSY, 1},
		{"shown", false, 0, unix.EROFS, 1},
		{"d", false, unix.EISDIR, unix.EISDIR, 0}, {"l", false, unix.ELOOP, unix.ELOOP, 0}, {"p", false, unix.ENXIO, unix.ENXIO, 0},
	} {
		f := shareDir(t, dir, 100, windowOptions(t, Options{
			ReadOnly: x.ro, Grafts: []Graft{{Name: "shown", File: filepath.Join(dir, "graft")}},
		}))
		id, _ := lookup(t, f, fuse.RootID, x.name)
		for range 2 { // not open yet, and open
			if e := mapFirst(f, id, false); e != x.read {
				t.Errorf("%s: mapped for reading: %v, want %v", x.name, e, x.read)
			}
			if e := mapFirst(f, id, true); e != x.write {
				t.Errorf("%s: mapped for writing: %v, want %v", x.name, e, x.write)
			}
			if fd, e := f.Reopen(uint64(id), true); e != x.write {
				t.Errorf("%s: opened again for writing: %v, want %v", x.name, e, x.write)
			} else if e == 0 {
				closeFD(fd)
			}
		}
		if s := f.window.Stats(); s.Refused != 2*x.refused {
			t.Errorf("%s: %d refused, want %d", x.name, s.Refused, 2*x.refused)
		}
	}
}

// runProgram has a program run from a new file until the test is over.
func runProgram(t *testing.T, path string) {
	t.Helper()
	cat, err := exec.LookPath("cat")
	check(t, err)
	program, err := os.ReadFile(cat)
	check(t, err)
	check(t, os.WriteFile(path, program, 0o755))
	cmd := exec.Cmd{Path: path, Args: []string{"cat"}}
	in, err := cmd.StdinPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		check(t, in.Close())
		check(t, cmd.Wait())
	})
}

// TestMapSealed: a file of the host's kernel, on which a mount begins, is not mapped.
func TestMapSealed(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o644))
	if err := unix.Mount("/proc/version", filepath.Join(dir, "f"), "", unix.MS_BIND, ""); err != nil {
		t.Skipf("SKIPPED: no mounting here (%v): files of /proc are not tested", err)
	}
	defer func() { check(t, unix.Unmount(filepath.Join(dir, "f"), unix.MNT_DETACH)) }()
	f := shareDir(t, dir, 100, windowOptions(t, Options{}))
	id, _ := lookup(t, f, fuse.RootID, "f")
	for _, write := range []bool{false, true} {
		if e := mapFirst(f, id, write); e != unix.EACCES {
			t.Errorf("writing %v: %v", write, e)
		}
	}
}

// TestReopen: the window gets a file again as long as it can be had: from those that
// were mapped last, by its node, or from the guest's own.
func TestReopen(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		f := shareWith(t, 1, 100, windowOptions(t, o))
		id := known(t, f, 1)[0]
		ino := func(write bool) (uint64, unix.Errno) {
			fd, e := f.Reopen(uint64(id), write)
			if e != 0 {
				return 0, e
			}
			defer closeFD(fd)
			var st unix.Stat_t
			check(t, unix.Fstat(fd, &st))
			if mode := accessMode(fd); write && mode != unix.O_RDWR || mode == unix.O_WRONLY {
				t.Errorf("open as %d, for writing is %v", mode, write)
			}
			return st.Ino, 0
		}
		_, want := lookup(t, f, fuse.RootID, "f0")
		again := func(what string) {
			t.Helper()
			for _, write := range []bool{false, true} {
				if got, e := ino(write); e != 0 || got != want {
					t.Errorf("%s, for writing is %v: inode %d, %v", what, write, got, e)
				}
			}
		}
		again("by its node")
		if e := mapFirst(f, id, false); e != 0 {
			t.Fatal(e)
		}
		again("mapped for reading")
		if e := mapFirst(f, id, true); e != 0 {
			t.Fatal(e)
		}
		f.doze()
		again("mapped for writing")
		if e := f.Unlink(fuse.RootID, name(t, "f0")); e != 0 {
			t.Fatal(e)
		}
		again("removed")
		f.doze()
		again("removed, and its node closed")
		f.Forget(id, 2)
		if _, e := ino(false); e != unix.ESTALE {
			t.Errorf("forgotten: %v", e)
		}
		if _, e := f.Reopen(1<<40, false); e != unix.ESTALE {
			t.Errorf("a node that never was: %v", e)
		}
		if _, e := f.Reopen(fuse.RootID, false); e != unix.EISDIR {
			t.Errorf("the root: %v", e)
		}
	})
}

// TestReopenConcurrent: files are had again while others are mapped, closed to make
// room and forgotten, and every descriptor is closed once.
func TestReopenConcurrent(t *testing.T) {
	const files = 40
	f := shareWith(t, files, 24, windowOptions(t, Options{}))
	ids := known(t, f, files)
	quiet := func() int {
		f.mapped.reset()
		f.doze()
		return descriptors(t)
	}
	if e := mapFirst(f, ids[0], false); e != 0 { // from now on the window has its own
		t.Fatal(e)
	}
	before := quiet()
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 300 {
				id := ids[(i*7+w*3)%files]
				switch i % 4 {
				case 0:
					f.Forget(id, 0) // closes the file; the node stays
				case 1:
					if fd, e := f.Reopen(uint64(id), w%2 == 0); e == 0 {
						closeFD(fd)
					} else {
						t.Errorf("Reopen: %v", e)
					}
				default:
					if e := mapFirst(f, id, i%2 == 0); e != 0 {
						t.Errorf("Map: %v", e)
					}
				}
			}
		})
	}
	wg.Wait()
	if now := quiet(); now != before {
		t.Errorf("%d descriptors, %d before", now, before)
	}
}

// TestMaps: files of a file system without shared mappings are not offered for the
// window; the first file tells for its whole file system.
func TestMaps(t *testing.T) {
	var fs unix.Statfs_t
	if dir := t.TempDir(); unix.Statfs(dir, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		t.Skipf("SKIPPED: %s is on an overlayfs, of which no file is offered (set TMPDIR)", dir)
	}
	f := shareWith(t, 2, 100, windowOptions(t, Options{}))
	id, _ := lookup(t, f, fuse.RootID, "f0")
	offered := func() bool {
		t.Helper()
		var e virtiofs.Entry
		if err := f.Lookup(fuse.RootID, name(t, "f1"), &e); err != 0 {
			t.Fatal(err)
		}
		a, err := getattr(f, id)
		if err != 0 || a.Flags != e.Attr.Flags {
			t.Errorf("flags %#x in GETATTR, %#x in LOOKUP", a.Flags, e.Attr.Flags)
		}
		return e.Attr.Flags&fuse.AttrDAX != 0
	}
	m := f.inodes.root().key.mount
	if !offered() || m.maps.Load() != mapsYes {
		t.Errorf("not offered: %d", m.maps.Load())
	}
	var e virtiofs.Entry
	if err := f.Mkdir(&virtiofs.Caller{}, fuse.RootID, name(t, "d"), 0o755, &e); err != 0 || e.Attr.Flags != 0 {
		t.Errorf("a directory: flags %#x, %v", e.Attr.Flags, err)
	}
	m.maps.Store(mapsNo)
	if offered() {
		t.Error("offered")
	}
	m.maps.Store(mapsYes)
	h, _, errno := f.Open(id, virtiofs.OpenFlags{})
	if errno != 0 {
		t.Fatal(errno)
	}
	f.Forget(id, 1)
	var a fuse.Attr
	if err := f.Getattr(virtiofs.File{Node: id, Handle: h}, &a); err != 0 || a.Flags&fuse.AttrDAX == 0 {
		t.Errorf("by its handle: flags %#x, %v", a.Flags, err)
	}
	without, err := os.Open("/sys/kernel/uevent_seqnum")
	if err != nil {
		t.Skipf("SKIPPED: no file that cannot be mapped: %v", err)
	}
	defer without.Close()
	if mapsShared(int(without.Fd())) {
		t.Error("a file of sysfs can be mapped")
	}
}

// TestMapsOverlay: a file of an overlayfs is not offered for the window. What is mapped
// of one in a lower layer stays what it was when the file is written to.
func TestMapsOverlay(t *testing.T) {
	dir := t.TempDir()
	for _, s := range []string{"lower", "upper", "work", "merged"} {
		check(t, os.Mkdir(filepath.Join(dir, s), 0o755))
	}
	check(t, os.WriteFile(filepath.Join(dir, "lower", "f"), make([]byte, 2*dax.PageSize), 0o644))
	merged := filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Skipf("SKIPPED: no overlayfs here: %v", err)
	}
	defer func() { check(t, unix.Unmount(merged, unix.MNT_DETACH)) }()
	f := shareDir(t, merged, 100, windowOptions(t, Options{}))
	var e virtiofs.Entry
	if err := f.Lookup(fuse.RootID, name(t, "f"), &e); err != 0 || e.Attr.Flags&fuse.AttrDAX != 0 {
		t.Errorf("flags %#x, %v", e.Attr.Flags, err)
	}
}

// TestMapsHugePages: nor is one of hugetlbfs, which the window refuses.
func TestMapsHugePages(t *testing.T) {
	fd, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB)
	if err != nil {
		t.Skipf("SKIPPED: no huge pages in this kernel: %v", err)
	}
	defer closeFD(fd)
	if mapsShared(fd) {
		t.Error("a file of hugetlbfs can be mapped")
	}
}
