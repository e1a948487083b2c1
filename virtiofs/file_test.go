package virtiofs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// pattern is n bytes that repeat nowhere near.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// TestReadWrite moves data of all sizes through buffers in pieces of all sizes.
func TestReadWrite(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	for _, piece := range []int{0, 1000, 4096} {
		for _, size := range []int{0, 1, 4095, 4096, 100_000, 1 << 20} {
			c.Piece = piece
			f, fh, e := c.Create(root, "f", unix.O_RDWR|unix.O_TRUNC, 0o640)
			ok(t, "CREATE", e)
			data := pattern(size)
			n, e := c.Write(f.Node, fh, 5, data, unix.O_RDWR, 0)
			if ok(t, "WRITE", e); int(n) != size {
				t.Fatalf("WRITE %d of %d", n, size)
			}
			on := []byte(read(t, filepath.Join(dir, "f")))
			if size > 0 && !bytes.Equal(on, append(make([]byte, 5), data...)) {
				t.Fatalf("size %d piece %d: the file differs", size, piece)
			}
			got, e := c.Read(f.Node, fh, 5, 1<<20)
			if ok(t, "READ", e); !bytes.Equal(got, data) {
				t.Fatalf("size %d piece %d: READ differs", size, piece)
			}
			if size > 10 {
				got, e = c.Read(f.Node, fh, uint64(size), 100)
				if ok(t, "READ", e); !bytes.Equal(got, data[size-5:]) {
					t.Fatal("READ over the end differs")
				}
			}
			got, e = c.Read(f.Node, fh, uint64(size)+100, 100)
			if ok(t, "READ", e); len(got) != 0 {
				t.Fatal("READ after the end")
			}
			ok(t, "RELEASE", c.Release(f.Node, fh, false))
			_, e = c.Read(f.Node, fh, 0, 1)
			want(t, "READ after RELEASE", e, unix.EBADF)
			c.Forget(f.Node, 1)
		}
	}
}

func TestOpenModes(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	write(t, filepath.Join(dir, "f"), "0123456789")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	d, e := c.Lookup(root, "d")
	ok(t, "LOOKUP", e)
	for _, o := range []struct {
		flags       uint32
		read, write unix.Errno
	}{
		{unix.O_RDONLY, 0, unix.EBADF}, {unix.O_WRONLY, unix.EBADF, 0}, {unix.O_RDWR, 0, 0},
		// Flags that must not reach the host: it would fail, or create, or refuse.
		{unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_DIRECT | unix.O_NOATIME | unix.O_PATH | unix.O_DIRECTORY, 0, 0},
	} {
		fh, e := c.Open(f.Node, o.flags)
		ok(t, "OPEN", e)
		_, e = c.Read(f.Node, fh, 0, 3)
		want(t, "READ", e, o.read)
		_, e = c.Write(f.Node, fh, 0, []byte("abc"), o.flags, 0)
		want(t, "WRITE", e, o.write)
		ok(t, "RELEASE", c.Release(f.Node, fh, false))
	}
	fh, e := c.Open(f.Node, unix.O_RDWR|unix.O_TRUNC)
	if ok(t, "OPEN O_TRUNC", e); read(t, filepath.Join(dir, "f")) != "" || fh == 0 {
		t.Error("O_TRUNC left data")
	}
	_, e = c.Open(f.Node, unix.O_ACCMODE)
	want(t, "OPEN with access mode 3", e, 0) // Linux opens such a file for ioctl only
	_, e = c.Open(d.Node, unix.O_RDONLY)
	want(t, "OPEN of a directory", e, unix.EISDIR)
	_, e = c.Opendir(f.Node)
	want(t, "OPENDIR of a file", e, unix.ENOTDIR)
	_, e = c.Open(12345, unix.O_RDONLY)
	want(t, "OPEN of nothing", e, unix.ESTALE)
}

func TestCreate(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	f, fh, e := c.Create(root, "f", unix.O_RDWR|unix.O_EXCL, 0o4751)
	ok(t, "CREATE", e)
	if f.Attr.Mode != unix.S_IFREG|0o4751 || fh == 0 {
		t.Errorf("mode %o handle %d", f.Attr.Mode, fh)
	}
	_, _, e = c.Create(root, "f", unix.O_RDWR|unix.O_EXCL, 0o644)
	want(t, "CREATE O_EXCL again", e, unix.EEXIST)
	write(t, filepath.Join(dir, "f"), "data")
	g, _, e := c.Create(root, "f", unix.O_RDWR, 0o644)
	if ok(t, "CREATE of what is there", e); g.Node != f.Node || g.Attr.Size != 4 {
		t.Errorf("node %d size %d", g.Node, g.Attr.Size)
	}
	_, _, e = c.Create(root, "f", unix.O_RDWR|unix.O_TRUNC, 0o644)
	if ok(t, "CREATE O_TRUNC", e); read(t, filepath.Join(dir, "f")) != "" {
		t.Error("O_TRUNC left data")
	}
	// A file without write permission is written through the handle it was made with.
	r, fh, e := c.Create(root, "r", unix.O_RDWR, 0o444)
	ok(t, "CREATE", e)
	_, e = c.Write(r.Node, fh, 0, []byte("x"), unix.O_RDWR, 0)
	ok(t, "WRITE", e)
	_, e = c.Setattr(r.Node, fstest.Set{Valid: fuse.FattrSize | fuse.FattrFH, Fh: fh, Size: 10})
	ok(t, "SETATTR by handle", e)
	if st := lstat(t, filepath.Join(dir, "r")); st.Size != 10 || st.Mode != unix.S_IFREG|0o444 {
		t.Errorf("size %d mode %o", st.Size, st.Mode)
	}
	_, e = c.Setattr(r.Node, fstest.Set{Valid: fuse.FattrSize | fuse.FattrFH, Fh: fh + 1000, Size: 10})
	want(t, "SETATTR by no handle", e, unix.EBADF)
}

// TestAppend: the guest's O_APPEND is applied to each write, and not to delayed
// ones, whose offsets count.
func TestAppend(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	f, fh, e := c.Create(root, "f", unix.O_RDWR|unix.O_APPEND, 0o644)
	ok(t, "CREATE", e)
	for _, w := range []struct {
		data  string
		flags uint32
		write uint32
		want  string
	}{
		{"one", unix.O_APPEND, 0, "one"},
		{"two", unix.O_APPEND, 0, "onetwo"},
		{"XX", unix.O_APPEND, fuse.WriteCache, "XXetwo"},
		{"YY", 0, 0, "YYetwo"},
	} {
		_, e := c.Write(f.Node, fh, 0, []byte(w.data), w.flags, w.write)
		ok(t, "WRITE", e)
		if got := read(t, filepath.Join(dir, "f")); got != w.want {
			t.Fatalf("%q, want %q", got, w.want)
		}
	}
}

// TestAppendDirect: the parts of one O_DIRECT write come at the same time and are
// served in any order, so their offsets count; but not where Linux sends them one
// by one, as data bypasses its page cache anyway.
func TestAppendDirect(t *testing.T) {
	for want, p := range map[string]virtiofs.Policy{
		"data12": virtiofs.Auto(), "data21": virtiofs.Never(),
	} {
		dir, c := policyShare(t, passthrough.Options{}, virtiofs.Options{Policy: p})
		f, e := c.Lookup(root, "f")
		ok(t, "LOOKUP", e)
		fh, e := c.Open(f.Node, unix.O_WRONLY|unix.O_APPEND|unix.O_DIRECT)
		ok(t, "OPEN", e)
		for _, part := range []string{"2", "1"} {
			_, e := c.Write(f.Node, fh, 3+uint64(part[0]-'0'), []byte(part), unix.O_WRONLY|unix.O_APPEND|unix.O_DIRECT, 0)
			ok(t, "WRITE", e)
		}
		if got := read(t, filepath.Join(dir, "f")); got != want {
			t.Errorf("cache=%s: %q, want %q", p.Name, got, want)
		}
	}
}

// written is a file system that writes down how it was told to write.
type written struct {
	virtiofs.FS
	flags virtiofs.WriteFlags
}

func (w *written) Write(f virtiofs.File, from []unix.Iovec, off int64, flags virtiofs.WriteFlags) (int, unix.Errno) {
	w.flags = flags
	return w.FS.Write(f, from, off, flags)
}

// TestWriteSync: a write that asks for it is on storage when it is answered, also
// through a handle that was opened without O_SYNC. After a write to its page cache
// Linux asks for that by FSYNC.
func TestWriteSync(t *testing.T) {
	for _, p := range []virtiofs.Policy{virtiofs.Never(), virtiofs.Metadata(), virtiofs.Auto(), virtiofs.Always()} {
		host, err := passthrough.New(t.TempDir(), passthrough.Options{})
		must(t, err)
		fs := &written{FS: host}
		s := virtiofs.NewServer(fs, virtiofs.Options{Policy: p})
		defer func() { must(t, s.Close()) }()
		c := fstest.Dial(t, s)
		_, e := c.Init(fstest.AllFlags)
		ok(t, "INIT", e)
		f, fh, e := c.Create(root, "f", unix.O_RDWR, 0o644)
		ok(t, "CREATE", e)
		for _, flags := range []uint32{0, unix.O_DSYNC, unix.O_SYNC, unix.O_DIRECT, unix.O_DIRECT | unix.O_DSYNC, unix.O_DIRECT | unix.O_SYNC} {
			want := flags & unix.O_SYNC
			if flags&unix.O_DIRECT == 0 && p.OpenFlags&fuse.OpenDirectIO == 0 {
				want = 0
			}
			_, e := c.Write(f.Node, fh, 0, []byte("x"), unix.O_RDWR|flags, 0)
			if ok(t, "WRITE", e); fs.flags.Sync != want {
				t.Errorf("cache=%s, flags %#x: sync %#x, want %#x", p.Name, flags, fs.flags.Sync, want)
			}
		}
	}
}

// TestPool: what may wait is not done on the first try, and is done on the second.
func TestPool(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	f, fh, e := c.Create(root, "f", unix.O_RDWR, 0o644)
	ok(t, "CREATE", e)
	g, gh, e := c.Create(root, "g", unix.O_RDWR, 0o644)
	ok(t, "CREATE", e)
	big := pattern(virtiofs.MaxIO)
	for _, p := range []struct {
		name   string
		msg    []byte
		pooled bool
	}{
		{"WRITE 1M", c.Message(fuse.Write, f.Node, fstest.WriteArgs(fh, 0, uint32(len(big)), 0, 0), big), false},
		{"WRITE O_SYNC", c.Message(fuse.Write, f.Node, fstest.WriteArgs(fh, 0, 1, unix.O_SYNC, 0), []byte{1}), true},
		{"WRITE O_DSYNC", c.Message(fuse.Write, f.Node, fstest.WriteArgs(fh, 0, 1, unix.O_DSYNC, 0), []byte{1}), true},
		{"FSYNC", c.Message(fuse.Fsync, f.Node, fstest.U64(fh), fstest.U32(0, 0)), true},
		{"FSYNC data", c.Message(fuse.Fsync, f.Node, fstest.U64(fh), fstest.U32(1, 0)), true},
		{"FALLOCATE", c.Message(fuse.Fallocate, f.Node, fstest.U64(fh, 0, 1<<20), fstest.U32(unix.FALLOC_FL_KEEP_SIZE, 0)), true},
		{"COPY_FILE_RANGE", c.Message(fuse.CopyFileRange, f.Node, fstest.U64(fh, 1, uint64(g.Node), gh, 0, 1000, 0)), true},
		{"SYNCFS", c.Message(fuse.Syncfs, root, fstest.U64(0)), true},
		{"GETATTR", c.Message(fuse.Getattr, f.Node, make([]byte, 16)), false},
		{"warm READ", c.Message(fuse.Read, f.Node, fstest.ReadArgs(fh, 0, 4096)), false},
	} {
		reply, pooled := c.Raw(p.msg, 8192)
		if pooled != p.pooled {
			t.Errorf("%s: pooled %v", p.name, pooled)
		}
		want(t, p.name, unix.Errno(-int32(le.Uint32(reply[4:]))), 0)
	}
	if got := read(t, filepath.Join(dir, "g")); got != string(big[1:1001]) {
		t.Error("COPY_FILE_RANGE copied something else")
	}
	b, e := c.Call(fuse.CopyFileRange64, f.Node, 8, fstest.U64(fh, 0, uint64(g.Node), gh, 0, 1<<40, 0))
	if ok(t, "COPY_FILE_RANGE_64", e); le.Uint64(b) != uint64(len(big)) {
		t.Errorf("copied %d", le.Uint64(b))
	}
	_, e = c.Call(fuse.CopyFileRange, f.Node, 8, fstest.U64(fh, 0, uint64(f.Node), gh, 0, 1, 0))
	want(t, "COPY_FILE_RANGE to a handle of another node", e, unix.EBADF)
}

// TestColdRead: data that is not in the page cache is read in the pool.
func TestColdRead(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	data := pattern(8 << 20)
	path := filepath.Join(dir, "f")
	must(t, os.WriteFile(path, data, 0o644))
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	must(t, err)
	defer func() { must(t, unix.Close(fd)) }()
	must(t, unix.Fsync(fd))
	must(t, unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED))
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	const size = 1 << 20
	probe := [][]byte{make([]byte, size)}
	_, err = unix.Preadv2(fd, probe, 0, unix.RWF_NOWAIT) // elsewhere: it begins to read
	cold := err == unix.EAGAIN
	must(t, unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED))
	reply, pooled := c.Raw(c.Message(fuse.Read, f.Node, fstest.ReadArgs(fh, 4<<20, size)), fuse.OutHeaderSize+size)
	if !bytes.Equal(reply[fuse.OutHeaderSize:], data[4<<20:4<<20+size]) {
		t.Error("READ differs")
	}
	if !cold {
		t.Skip("SKIPPED: this file system keeps what it was told to drop: the pooled READ is not tested")
	}
	if !pooled {
		t.Error("a READ of cold data was served at once")
	}
}

// TestPartlyCachedRead: a READ of which only the beginning is in the host's page cache
// is answered whole, also where the file's last READ was served from there.
func TestPartlyCachedRead(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	data := pattern(256 << 10)
	fd, err := unix.Open(filepath.Join(dir, "f"), unix.O_RDWR|unix.O_CREAT, 0o644)
	must(t, err)
	defer func() { must(t, unix.Close(fd)) }()
	for at := 0; at < len(data); at += 4096 { // so that the cache has page after page
		_, err := unix.Pwrite(fd, data[at:at+4096], int64(at))
		must(t, err)
	}
	must(t, unix.Fsync(fd))
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	short := false
	for _, first := range []int{4096, 8192, 16384} { // what is still there
		for range 2 {
			_, e := c.Read(f.Node, fh, 0, 4096)
			ok(t, "READ", e)
		}
		must(t, unix.Fadvise(fd, int64(first), 0, unix.FADV_DONTNEED))
		probe := [][]byte{make([]byte, 32<<10)}
		n, err := unix.Preadv2(fd, probe, 0, unix.RWF_NOWAIT)
		short = short || err == nil && n == first
		must(t, unix.Fadvise(fd, int64(first), 0, unix.FADV_DONTNEED))
		got, e := c.Read(f.Node, fh, 0, 32<<10)
		ok(t, "READ", e)
		if !bytes.Equal(got, data[:32<<10]) {
			t.Errorf("with %d bytes in the cache: %d bytes, or others", first, len(got))
		}
	}
	if !short {
		t.Skip("SKIPPED: this file system keeps what it was told to drop, or reads all at once")
	}
}

func TestLseekFallocate(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	f, fh, e := c.Create(root, "f", unix.O_RDWR, 0o644)
	ok(t, "CREATE", e)
	_, e = c.Write(f.Node, fh, 1<<20, []byte("data"), 0, 0)
	ok(t, "WRITE", e)
	seek := func(off uint64, whence uint32) (uint64, unix.Errno) {
		b, e := c.Call(fuse.Lseek, f.Node, 8, fstest.U64(fh, off), fstest.U32(whence, 0))
		if e != 0 {
			return 0, e
		}
		return le.Uint64(b), 0
	}
	pos, e := seek(0, unix.SEEK_DATA)
	if ok(t, "SEEK_DATA", e); pos == 0 || pos > 1<<20 {
		t.Errorf("data at %d", pos)
	}
	pos, e = seek(1<<20, unix.SEEK_HOLE)
	if ok(t, "SEEK_HOLE", e); pos < 1<<20+4 {
		t.Errorf("hole at %d", pos)
	}
	_, e = seek(1<<30, unix.SEEK_DATA)
	want(t, "SEEK_DATA after the end", e, unix.ENXIO)
	falloc := func(off, n uint64, mode uint32) unix.Errno {
		_, e := c.Call(fuse.Fallocate, f.Node, 0, fstest.U64(fh, off, n), fstest.U32(mode, 0))
		return e
	}
	ok(t, "FALLOCATE", falloc(0, 2<<20, 0))
	if st := lstat(t, filepath.Join(dir, "f")); st.Size != 2<<20 {
		t.Errorf("size %d", st.Size)
	}
	ok(t, "FALLOCATE punch", falloc(0, 2<<20, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE))
	got, e := c.Read(f.Node, fh, 1<<20, 4)
	if ok(t, "READ", e); !bytes.Equal(got, make([]byte, 4)) {
		t.Errorf("READ %q in the hole", got)
	}
	want(t, "FALLOCATE of nothing", falloc(0, 0, 0), unix.EINVAL)
}

func TestTmpfile(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	b, e := c.Call(fuse.Tmpfile, root, fuse.EntryOutSize+fuse.OpenOutSize, fstest.U32(unix.O_RDWR, 0o640, 0, 0), fstest.Str("/"))
	if e == unix.EOPNOTSUPP {
		t.Skip("SKIPPED: no O_TMPFILE on this file system")
	}
	ok(t, "TMPFILE", e)
	f, fh := fstest.ParseEntry(b), le.Uint64(b[fuse.EntryOutSize:])
	if f.Attr.Nlink != 0 || f.Attr.Mode != unix.S_IFREG|0o640 {
		t.Errorf("links %d mode %o", f.Attr.Nlink, f.Attr.Mode)
	}
	_, e = c.Write(f.Node, fh, 0, []byte("hello"), 0, 0)
	ok(t, "WRITE", e)
	_, e = c.Link(f.Node, root, "named")
	if ok(t, "LINK", e); read(t, filepath.Join(dir, "named")) != "hello" {
		t.Error("the linked file differs")
	}
}

// TestUnlinked: a file whose last name is gone goes on living.
func TestUnlinked(t *testing.T) {
	_, c := connect(t, passthrough.Options{})
	f, fh, e := c.Create(root, "f", unix.O_RDWR, 0o644)
	ok(t, "CREATE", e)
	ok(t, "UNLINK", c.Unlink(root, "f"))
	_, e = c.Write(f.Node, fh, 0, []byte("hello"), 0, 0)
	ok(t, "WRITE", e)
	a, e := c.Getattr(f.Node)
	if ok(t, "GETATTR", e); a.Size != 5 || a.Nlink != 0 {
		t.Errorf("size %d links %d", a.Size, a.Nlink)
	}
	_, e = c.Setattr(f.Node, fstest.Set{Valid: fuse.FattrSize, Size: 2})
	ok(t, "SETATTR", e)
	got, e := c.Read(f.Node, fh, 0, 100)
	if ok(t, "READ", e); string(got) != "he" {
		t.Errorf("READ %q", got)
	}
}

// TestUnserved: what is not served is ENOSYS by name, so that the guest stops asking.
func TestUnserved(t *testing.T) {
	_, c := connect(t, passthrough.Options{})
	for _, op := range []fuse.Opcode{fuse.Flush, fuse.Getlk, fuse.Setlk, fuse.Setlkw, fuse.Bmap, fuse.Poll, fuse.SetupMapping, fuse.RemoveMapping} {
		_, e := c.Call(op, root, 300, make([]byte, fuse.Row(op).In))
		want(t, op.String(), e, unix.ENOSYS)
	}
	_, e := c.Call(fuse.Ioctl, root, 16, make([]byte, 32))
	want(t, "IOCTL", e, unix.ENOTTY)
}

// busy is a file system whose host says EAGAIN after it has done what was asked,
// as a network's may.
type busy struct {
	virtiofs.FS
	calls int
}

func (b *busy) Mkdir(*virtiofs.Caller, virtiofs.NodeID, virtiofs.Name, uint32, *virtiofs.Entry) unix.Errno {
	b.calls++
	return unix.EAGAIN
}

func (b *busy) Write(virtiofs.File, []unix.Iovec, int64, virtiofs.WriteFlags) (int, unix.Errno) {
	b.calls++
	return 0, unix.EAGAIN
}

func (b *busy) Read(virtiofs.File, []unix.Iovec, int64, virtiofs.ReadFlags) (int, unix.Errno) {
	b.calls++
	return 0, unix.EAGAIN
}

// TestDoneOnce: EAGAIN from the host is an answer, and nothing is done a second
// time because of it; but a READ may be, and goes where it can wait.
func TestDoneOnce(t *testing.T) {
	host, err := passthrough.New(t.TempDir(), passthrough.Options{})
	must(t, err)
	fs := &busy{FS: host}
	s := virtiofs.NewServer(fs, virtiofs.Options{})
	defer func() { must(t, s.Close()) }()
	c := fstest.Dial(t, s)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	f, fh, e := c.Create(root, "f", unix.O_RDWR, 0o644)
	ok(t, "CREATE", e)
	for _, x := range []struct {
		name   string
		msg    []byte
		pooled bool
		calls  int
	}{
		{"MKDIR", c.Message(fuse.Mkdir, root, fstest.U32(0o755, 0), fstest.Str("d")), false, 1},
		{"WRITE", c.Message(fuse.Write, f.Node, fstest.WriteArgs(fh, 0, 1, 0, 0), []byte{1}), false, 1},
		{"READ", c.Message(fuse.Read, f.Node, fstest.ReadArgs(fh, 0, 1)), true, 2},
	} {
		fs.calls = 0
		reply, pooled := c.Raw(x.msg, 200)
		if pooled != x.pooled || fs.calls != x.calls {
			t.Errorf("%s: done %d times, want %d; pooled %v", x.name, fs.calls, x.calls, pooled)
		}
		want(t, x.name, unix.Errno(-int32(le.Uint32(reply[4:]))), unix.EAGAIN)
	}
}

// lacking is a file system on a host's one that cannot create.
type lacking struct{ virtiofs.FS }

func (lacking) Create(*virtiofs.Caller, virtiofs.NodeID, virtiofs.Name, uint32, virtiofs.OpenFlags, *virtiofs.Entry) (virtiofs.Handle, unix.Errno) {
	return 0, unix.ENOSYS
}

// TestHostLacksOperation: what one of the host's file systems does not have, the
// guest must not be told never to ask for again.
func TestHostLacksOperation(t *testing.T) {
	host, err := passthrough.New(t.TempDir(), passthrough.Options{})
	must(t, err)
	s := virtiofs.NewServer(lacking{host}, virtiofs.Options{})
	defer func() { must(t, s.Close()) }()
	c := fstest.Dial(t, s)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	_, _, e = c.Create(root, "f", unix.O_RDWR, 0o644)
	want(t, "CREATE", e, unix.EOPNOTSUPP)
}
