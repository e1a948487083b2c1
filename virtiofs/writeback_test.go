package virtiofs_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

func writeback(t *testing.T) (string, *fstest.Conn) {
	t.Helper()
	return policyShare(t, passthrough.Options{Writeback: true}, virtiofs.Options{Writeback: true})
}

// TestWritebackOpen: a page is read before a part of it is changed, through the
// only handle there may be, one opened for writing.
func TestWritebackOpen(t *testing.T) {
	dir, c := writeback(t)
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_WRONLY)
	ok(t, "OPEN", e)
	b, e := c.Read(f.Node, fh, 0, 4096)
	if ok(t, "READ through O_WRONLY", e); string(b) != "data" {
		t.Errorf("%q", b)
	}
	n, fh, e := c.Create(root, "new", unix.O_WRONLY, 0o200)
	ok(t, "CREATE", e)
	_, e = c.Read(n.Node, fh, 0, 4096)
	ok(t, "READ through CREATE's O_WRONLY", e)
	fh, e = c.Open(f.Node, unix.O_WRONLY|unix.O_TRUNC)
	if ok(t, "OPEN O_TRUNC", e); fh == 0 || read(t, filepath.Join(dir, "f")) != "" {
		t.Error("O_TRUNC left data")
	}
	fh, e = c.Open(f.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	want(t, "WRITE through O_RDONLY", second(c.Write(f.Node, fh, 0, []byte("x"), 0, 0)), unix.EBADF)
}

// TestWritebackUnreadable: what may be written but not read on the host is opened
// for writing alone, and what may not be written is not opened.
func TestWritebackUnreadable(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("SKIPPED: not root: this process cannot be another user for the host")
	}
	const user = 1000
	dir, c := writeback(t)
	nodes := map[uint32]virtiofs.NodeID{}
	for _, mode := range []uint32{0o200, 0o400} {
		path := filepath.Join(dir, fmt.Sprintf("%o", mode))
		write(t, path, "data")
		must(t, unix.Chown(path, user, user))
		must(t, unix.Chmod(path, mode))
		f, e := c.Lookup(root, filepath.Base(path))
		ok(t, "LOOKUP", e)
		nodes[mode] = f.Node
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	must(t, unix.Setfsuid(user))
	defer func() { must(t, unix.Setfsuid(0)) }()
	fh, e := c.Open(nodes[0o200], unix.O_WRONLY)
	if ok(t, "OPEN of what cannot be read", e); fh != 0 {
		_, e = c.Write(nodes[0o200], fh, 0, []byte("DATA"), 0, 0)
		ok(t, "WRITE", e)
	}
	_, e = c.Open(nodes[0o400], unix.O_WRONLY)
	want(t, "OPEN of what cannot be written", e, unix.EACCES)
}

// TestWritebackAppend: every write lands where the guest says, which knows where
// the file ends, through a handle that was opened to append: also one that is not
// delayed (O_DIRECT), while pages before it still are.
func TestWritebackAppend(t *testing.T) {
	dir, c := writeback(t)
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_WRONLY|unix.O_APPEND)
	ok(t, "OPEN", e)
	for _, w := range []struct {
		data        string
		off         uint64
		writeFlags  uint32
		want, about string
	}{
		{"dataX", 0, fuse.WriteCache, "dataX", "the whole page again"},
		{"Y", 7, 0, "dataX\x00\x00Y", "not delayed"},
		{"dataXYZ", 0, fuse.WriteCache, "dataXYZY", "the page before it, later"},
		{"Z", 2, fuse.WriteCache, "daZaXYZY", "in the middle"},
	} {
		_, e := c.Write(f.Node, fh, w.off, []byte(w.data), unix.O_WRONLY|unix.O_APPEND, w.writeFlags)
		ok(t, "WRITE", e)
		if got := read(t, filepath.Join(dir, "f")); got != w.want {
			t.Errorf("%s: %q, want %q", w.about, got, w.want)
		}
	}
}

// TestWritebackTimes: the guest's modification time is set; its change time
// cannot be, and does not stand in the way.
func TestWritebackTimes(t *testing.T) {
	dir, c := writeback(t)
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, unix.O_WRONLY)
	ok(t, "OPEN", e)
	const ctime uint32 = 1 << 10 // FATTR_CTIME
	a, e := c.Setattr(f.Node, fstest.Set{
		Valid: fuse.FattrMtime | fuse.FattrFH | ctime, Fh: fh, Mtime: 1_000_000_000, MtimeNsec: 123_456_789,
	})
	if ok(t, "SETATTR mtime and ctime", e); a.Mtime != 1_000_000_000 || a.MtimeNsec != 123_456_789 {
		t.Errorf("mtime %d.%09d", a.Mtime, a.MtimeNsec)
	}
	if st := lstat(t, filepath.Join(dir, "f")); st.Mtim.Nano() != 1_000_000_000_123_456_789 || time.Since(time.Unix(st.Ctim.Unix())) > time.Hour {
		t.Errorf("mtime %d, ctime %d", st.Mtim.Nano(), st.Ctim.Nano())
	}
	_, e = c.Setattr(f.Node, fstest.Set{Valid: ctime})
	ok(t, "SETATTR ctime alone", e)
}

// TestWritebackKeepsCache: what the guest itself has written stays cached over a
// close and an open, as nobody else may write; what the host wrote after the
// close does not.
func TestWritebackKeepsCache(t *testing.T) {
	dir, c := writeback(t)
	n, fh, e := c.Create(root, "new", unix.O_WRONLY, 0o644)
	ok(t, "CREATE", e)
	_, e = c.Write(n.Node, fh, 0, []byte("x"), 0, fuse.WriteCache)
	ok(t, "WRITE", e)
	ok(t, "RELEASE", c.Release(n.Node, fh, false))
	// CREATE asks for no comparison; the first OPEN does.
	fh, _ = openKept(t, c, n.Node, unix.O_WRONLY)
	_, e = c.Write(n.Node, fh, 0, []byte("y"), 0, fuse.WriteCache)
	ok(t, "WRITE", e)
	ok(t, "RELEASE", c.Release(n.Node, fh, false))
	fh, kept := openKept(t, c, n.Node, unix.O_RDONLY)
	if !kept {
		t.Error("the guest's own data is dropped")
	}
	ok(t, "RELEASE", c.Release(n.Node, fh, false))
	write(t, filepath.Join(dir, "new"), "from the host")
	if _, kept = openKept(t, c, n.Node, unix.O_RDONLY); kept {
		t.Error("kept what the host has changed")
	}
}

// TestAppendOnly: a file that can only be appended to (chattr +a) is written with
// O_APPEND; a writeback cache, which writes whole pages, is refused it.
func TestAppendOnly(t *testing.T) {
	for _, wb := range []bool{false, true} {
		dir, c := policyShare(t, passthrough.Options{Writeback: wb}, virtiofs.Options{Writeback: wb})
		path := filepath.Join(dir, "f")
		appendOnly(t, path)
		f, e := c.Lookup(root, "f")
		ok(t, "LOOKUP", e)
		fh, e := c.Open(f.Node, unix.O_WRONLY|unix.O_APPEND)
		if wb {
			want(t, "OPEN under writeback", e, unix.EPERM)
			_, e = c.Open(f.Node, unix.O_RDWR|unix.O_APPEND)
			want(t, "OPEN O_RDWR under writeback", e, unix.EPERM)
			continue
		}
		ok(t, "OPEN", e)
		_, e = c.Write(f.Node, fh, 0, []byte("+"), unix.O_APPEND, 0)
		if ok(t, "WRITE", e); read(t, path) != "data+" {
			t.Errorf("%q", read(t, path))
		}
		_, e = c.Open(f.Node, unix.O_WRONLY)
		want(t, "OPEN without O_APPEND", e, unix.EPERM)
	}
}

// appendOnly is chattr +a, until the test ends.
func appendOnly(t *testing.T, path string) {
	t.Helper()
	const appendFlag = 0x20 // FS_APPEND_FL
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(fd)) })
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags|appendFlag)
	}
	if err != nil {
		t.Skipf("SKIPPED: no chattr +a on this file system, or not for this user: %v", err)
	}
	t.Cleanup(func() { must(t, unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags)) })
}
