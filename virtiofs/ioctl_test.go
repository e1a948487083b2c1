package virtiofs_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// Flags of chattr(1): FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NODUMP_FL, FS_NOATIME_FL.
const (
	attrImmutable = 0x10
	attrAppend    = 0x20
	attrNodump    = 0x40
	attrNoatime   = 0x80
)

// ioctlMessage is IOCTL with sizes that need not be those of its argument.
func ioctlMessage(c *fstest.Conn, node virtiofs.NodeID, fh uint64, flags, cmd, inSize, outSize uint32, in []byte) []byte {
	return c.Message(fuse.Ioctl, node, fstest.U64(fh), fstest.U32(flags, cmd), fstest.U64(0xdeadbeef), fstest.U32(inSize, outSize), in)
}

// ioctl sends IOCTL as a guest does and returns what follows fuse_ioctl_out.
func ioctl(t *testing.T, c *fstest.Conn, node virtiofs.NodeID, fh uint64, flags, cmd uint32, in []byte, outSize uint32) ([]byte, unix.Errno) {
	t.Helper()
	b, e := c.Call(fuse.Ioctl, node, 16+4096, fstest.U64(fh), fstest.U32(flags, cmd), fstest.U64(0xdeadbeef),
		fstest.U32(uint32(len(in)), outSize), in)
	if e != 0 {
		return nil, e
	}
	if len(b) < 16 || !bytes.Equal(b[:16], make([]byte, 16)) {
		t.Fatalf("fuse_ioctl_out % x", b[:min(len(b), 16)])
	}
	return b[16:], 0
}

// hostFlags is what lsattr(1) reads.
func hostFlags(t *testing.T, path string) uint32 {
	t.Helper()
	fd := hostFile(t, path, unix.O_RDONLY)
	v, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err == unix.ENOTTY || err == unix.EOPNOTSUPP {
		t.Skipf("the file system of %s has no inode flags: %v", path, err)
	}
	must(t, err)
	return v
}

// Flags and struct fsxattr of files and directories are the host's, and are set
// there.
func TestIoctlFlags(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	write(t, filepath.Join(dir, "file"), "x")
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	file, e := c.Lookup(root, "file")
	ok(t, "LOOKUP", e)
	sub, e := c.Lookup(root, "dir")
	ok(t, "LOOKUP", e)
	fh, e := c.Open(file.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	dh, e := c.Opendir(sub.Node)
	ok(t, "OPENDIR", e)
	for _, x := range []struct {
		name  string
		node  virtiofs.NodeID
		fh    uint64
		flags uint32
	}{{"file", file.Node, fh, 0}, {"dir", sub.Node, dh, fuse.IoctlDir}} {
		path := filepath.Join(dir, x.name)
		before := hostFlags(t, path)
		for _, cmd := range [][2]uint32{
			{unix.FS_IOC_GETFLAGS, unix.FS_IOC_SETFLAGS},
			{virtiofs.FSIoc32Getflags, virtiofs.FSIoc32Setflags},
		} {
			b, e := ioctl(t, c, x.node, x.fh, x.flags, cmd[0], nil, 4)
			ok(t, "FS_IOC_GETFLAGS", e)
			if len(b) != 4 || le.Uint32(b) != before {
				t.Errorf("%s: flags % x, want %#x", x.name, b, before)
			}
			b, e = ioctl(t, c, x.node, x.fh, x.flags, cmd[1], fstest.U32(before|attrNodump|attrNoatime), 0)
			ok(t, "FS_IOC_SETFLAGS", e)
			if got := hostFlags(t, path); len(b) != 0 || got != before|attrNodump|attrNoatime {
				t.Errorf("%s: on the host %#x with %d bytes of answer, want %#x", x.name, got, len(b), before|attrNodump|attrNoatime)
			}
			_, e = ioctl(t, c, x.node, x.fh, x.flags, cmd[1], fstest.U32(before), 0)
			ok(t, "FS_IOC_SETFLAGS back", e)
		}
		b, e := ioctl(t, c, x.node, x.fh, x.flags, virtiofs.FSIocGetxattr, nil, virtiofs.FsxattrSize)
		ok(t, "FS_IOC_FSGETXATTR", e)
		if len(b) != virtiofs.FsxattrSize || le.Uint32(b)&attrNodump<<1 != 0 {
			t.Fatalf("%s: fsxattr % x", x.name, b)
		}
		le.PutUint32(b, le.Uint32(b)|attrNodump<<1) // FS_XFLAG_NODUMP
		_, e = ioctl(t, c, x.node, x.fh, x.flags, virtiofs.FSIocSetxattr, b, 0)
		ok(t, "FS_IOC_FSSETXATTR", e)
		if got := hostFlags(t, path); got != before|attrNodump {
			t.Errorf("%s: on the host %#x, want %#x", x.name, got, before|attrNodump)
		}
	}
}

// Append-only and immutable are a guest's to set if they are this process's.
func TestIoctlImmutable(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	for name, flag := range map[string]uint32{"append": attrAppend, "immutable": attrImmutable} {
		path := filepath.Join(dir, name)
		write(t, path, "x")
		host := hostFile(t, path, unix.O_RDONLY)
		before := hostFlags(t, path)
		allowed := hostErrno(unix.IoctlSetPointerInt(host, unix.FS_IOC_SETFLAGS, int(before|flag)))
		_ = unix.IoctlSetPointerInt(host, unix.FS_IOC_SETFLAGS, int(before))
		f, e := c.Lookup(root, name)
		ok(t, "LOOKUP", e)
		fh, e := c.Open(f.Node, unix.O_RDONLY)
		ok(t, "OPEN", e)
		_, e = ioctl(t, c, f.Node, fh, 0, unix.FS_IOC_SETFLAGS, fstest.U32(before|flag), 0)
		want(t, name, e, allowed)
		if got := hostFlags(t, path)&flag != 0; got != (allowed == 0) {
			t.Errorf("%s: set %v, the host said %v", name, got, allowed)
		}
		_, e = ioctl(t, c, f.Node, fh, 0, unix.FS_IOC_SETFLAGS, fstest.U32(before), 0)
		want(t, name+" back", e, 0)
	}
}

// A guest leaves the host's project quotas alone, as a user namespace must, and
// has no CAP_SYS_RESOURCE. On tmpfs, where the host would say something else.
func TestIoctlPrivileged(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "tenon-ioctl-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	write(t, filepath.Join(dir, "file"), "x")
	before := hostFlags(t, filepath.Join(dir, "file"))
	l := lockOpen(t, lockGuest(t, dir, passthrough.Options{}), "file", unix.O_RDONLY)
	for name, x := range map[string]struct {
		flag uint32
		want unix.Errno
	}{"FS_PROJINHERIT_FL": {0x20000000, unix.EINVAL}, "FS_JOURNAL_DATA_FL": {0x4000, unix.EPERM}} {
		_, e := ioctl(t, l.c, l.node, l.fh, 0, unix.FS_IOC_SETFLAGS, fstest.U32(before|x.flag), 0)
		want(t, name, e, x.want)
	}
	_, e := ioctl(t, l.c, l.node, l.fh, 0, unix.FS_IOC_SETFLAGS, fstest.U32(before|attrNodump), 0)
	want(t, "FS_NODUMP_FL", e, 0)
	b, e := ioctl(t, l.c, l.node, l.fh, 0, virtiofs.FSIocGetxattr, nil, virtiofs.FsxattrSize)
	ok(t, "FS_IOC_FSGETXATTR", e)
	for name, change := range map[string]func(x []byte){
		"fsx_projid":           func(x []byte) { le.PutUint32(x[12:], 77) },
		"FS_XFLAG_PROJINHERIT": func(x []byte) { le.PutUint32(x, le.Uint32(x)|0x200) },
	} {
		x := bytes.Clone(b)
		change(x)
		_, e = ioctl(t, l.c, l.node, l.fh, 0, virtiofs.FSIocSetxattr, x, 0)
		want(t, name, e, unix.EINVAL)
	}
}

// What is not known is ENOTTY, whatever its sizes: never ENOSYS or EINVAL, and
// the host is not asked. POLL and BMAP are ENOSYS, and not asked again.
func TestIoctlUnknown(t *testing.T) {
	for name, o := range map[string]passthrough.Options{"read-write": {}, "read-only": {ReadOnly: true}} {
		dir, c := connect(t, o)
		write(t, filepath.Join(dir, "file"), "x")
		l := lockOpen(t, c, "file", unix.O_RDONLY)
		for _, cmd := range []uint32{
			0, math.MaxUint32, unix.FICLONE, unix.FICLONERANGE, unix.FIDEDUPERANGE, 0xc0045877 /* FIFREEZE */, 0xc0045878, /* FITHAW */
			unix.BLKGETSIZE64, unix.TIOCSTI, unix.TCGETS, 0x541b /* FIONREAD */, unix.FS_IOC_SET_ENCRYPTION_POLICY,
			0x40087602 /* FS_IOC_SETVERSION */, 0xc020660b /* FS_IOC_FIEMAP */, 0x4004940a, /* BTRFS_IOC */
		} {
			for _, size := range [][2]uint32{{0, 0}, {4, 4}, {0, 4096}, {math.MaxUint32, math.MaxUint32}} {
				reply, _ := c.Raw(ioctlMessage(c, l.node, l.fh, 0, cmd, size[0], size[1], make([]byte, 4)), 8192)
				want(t, name, unix.Errno(-int32(le.Uint32(reply[4:]))), unix.ENOTTY)
			}
		}
		_, e := c.Call(fuse.Poll, l.node, 8, fstest.U64(l.fh, 0), fstest.U32(0, 0))
		want(t, "POLL", e, unix.ENOSYS)
		_, e = c.Call(fuse.Bmap, l.node, 8, fstest.U64(0), fstest.U32(4096, 0))
		want(t, "BMAP", e, unix.ENOSYS)
	}
}

// Sizes that are not those of the command, or not those of the message.
func TestIoctlSizes(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	write(t, filepath.Join(dir, "file"), "x")
	l := lockOpen(t, c, "file", unix.O_RDONLY)
	for _, x := range []struct {
		name         string
		cmd, in, out uint32
		bytes, room  int
	}{
		{"GETFLAGS with an argument", unix.FS_IOC_GETFLAGS, 4, 4, 4, 64},
		{"GETFLAGS without room", unix.FS_IOC_GETFLAGS, 0, 0, 0, 64},
		{"GETFLAGS with a long's room", unix.FS_IOC_GETFLAGS, 0, 8, 0, 64},
		{"GETFLAGS with 4 GiB of room", unix.FS_IOC_GETFLAGS, 0, math.MaxUint32, 0, 64},
		{"GETFLAGS with less room than said", unix.FS_IOC_GETFLAGS, 0, 4, 0, 3},
		{"SETFLAGS without its argument", unix.FS_IOC_SETFLAGS, 0, 0, 0, 0},
		{"SETFLAGS with an argument that is not there", unix.FS_IOC_SETFLAGS, 4, 0, 3, 0},
		{"SETFLAGS of 4 GiB", unix.FS_IOC_SETFLAGS, math.MaxUint32, 0, 4, 0},
		{"SETFLAGS with an answer", unix.FS_IOC_SETFLAGS, 4, 4, 4, 64},
		{"FSGETXATTR of 27", virtiofs.FSIocGetxattr, 0, 27, 0, 64},
		{"FSSETXATTR of 27", virtiofs.FSIocSetxattr, 27, 0, 28, 0},
		{"FSSETXATTR of 29", virtiofs.FSIocSetxattr, 29, 0, 29, 0},
		{"ENABLE_VERITY of 127", unix.FS_IOC_ENABLE_VERITY, 127, 0, 127, 0},
		{"ENABLE_VERITY of 1 MiB", unix.FS_IOC_ENABLE_VERITY, 1 << 20, 0, 1 << 20, 0},
		{"MEASURE_VERITY of 3", unix.FS_IOC_MEASURE_VERITY, 3, 64, 64, 64},
		{"MEASURE_VERITY without room", unix.FS_IOC_MEASURE_VERITY, 4, 3, 64, 64},
	} {
		reply, _ := c.Raw(ioctlMessage(c, l.node, l.fh, 0, x.cmd, x.in, x.out, make([]byte, x.bytes)), 32+x.room)
		want(t, x.name, unix.Errno(-int32(le.Uint32(reply[4:]))), unix.EINVAL)
	}
}

// Changes are refused on a read-only share, on a graft and without a handle; what only
// reads is not.
func TestIoctlRefusesChanges(t *testing.T) {
	graft := filepath.Join(t.TempDir(), "init")
	write(t, graft, "graft")
	for _, x := range []struct {
		name string
		o    passthrough.Options
		want unix.Errno
	}{
		{"read-only", passthrough.Options{ReadOnly: true}, unix.EROFS},
		{"graft", passthrough.Options{Grafts: []passthrough.Graft{{Name: "file", File: graft}}}, unix.EROFS},
	} {
		dir, c := connect(t, x.o)
		write(t, filepath.Join(dir, "file"), "x")
		l := lockOpen(t, c, "file", unix.O_RDONLY)
		for _, f := range []*locker{l, {t, c, l.node, 0}} {
			for name, try := range map[string]func() unix.Errno{
				"SETFLAGS": func() unix.Errno {
					_, e := ioctl(t, c, f.node, f.fh, 0, unix.FS_IOC_SETFLAGS, fstest.U32(attrNodump), 0)
					return e
				},
				"FSSETXATTR": func() unix.Errno {
					_, e := ioctl(t, c, f.node, f.fh, 0, virtiofs.FSIocSetxattr, make([]byte, virtiofs.FsxattrSize), 0)
					return e
				},
				"ENABLE_VERITY": func() unix.Errno {
					_, e := ioctl(t, c, f.node, f.fh, 0, unix.FS_IOC_ENABLE_VERITY, make([]byte, virtiofs.VerityEnableSize), 0)
					return e
				},
			} {
				want(t, x.name+": "+name, try(), x.want)
			}
		}
		_, e := ioctl(t, c, l.node, l.fh, 0, unix.FS_IOC_GETFLAGS, nil, 4)
		want(t, x.name+": GETFLAGS", e, 0)
	}
}

func TestIoctlHandles(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	write(t, filepath.Join(dir, "file"), "x")
	write(t, filepath.Join(dir, "other"), "x")
	l, other := lockOpen(t, c, "file", unix.O_RDONLY), lockOpen(t, c, "other", unix.O_RDONLY)
	dh, e := c.Opendir(root)
	ok(t, "OPENDIR", e)
	for _, x := range []struct {
		name  string
		node  virtiofs.NodeID
		fh    uint64
		flags uint32
	}{
		{"handle of another node", l.node, other.fh, 0},
		{"no such handle", l.node, 1 << 40, 0},
		{"handle 0", l.node, 0, 0},
		{"a file as a directory", l.node, l.fh, fuse.IoctlDir},
		{"a directory as a file", root, dh, 0},
	} {
		_, e := ioctl(t, c, x.node, x.fh, x.flags, unix.FS_IOC_GETFLAGS, nil, 4)
		want(t, x.name+": GETFLAGS", e, unix.EBADF)
		_, e = ioctl(t, c, x.node, x.fh, x.flags, unix.FS_IOC_SETFLAGS, fstest.U32(0), 0)
		want(t, x.name+": SETFLAGS", e, unix.EBADF)
	}
}

// Enabling verity is a change that the guest's kernel lets any reader ask for, so
// the server looks at the caller. It reads the whole file and leaves the thread.
func TestIoctlVerityCaller(t *testing.T) {
	dir, c := connect(t, passthrough.Options{})
	path := filepath.Join(dir, "file")
	write(t, path, "x")
	l := lockOpen(t, c, "file", unix.O_RDONLY)
	arg := make([]byte, virtiofs.VerityEnableSize)
	copy(arg, fstest.U32(1, 1, 4096)) // version, SHA-256, block size
	host := hostFile(t, path, unix.O_RDONLY)
	asHost := hostIoctl(host, unix.FS_IOC_ENABLE_VERITY, arg)
	if asHost == 0 {
		asHost = unix.EEXIST // it has it now
	}
	msg := ioctlMessage(c, l.node, l.fh, 0, unix.FS_IOC_ENABLE_VERITY, uint32(len(arg)), 0, arg)
	reply, pooled := c.Raw(msg, 32)
	want(t, "by root", unix.Errno(-int32(le.Uint32(reply[4:]))), asHost)
	if !pooled {
		t.Error("served on the thread that asked")
	}
	c.UID, c.GID = 1000, 1000
	_, e := ioctl(t, c, l.node, l.fh, 0, unix.FS_IOC_ENABLE_VERITY, arg, 0)
	want(t, "by one who may not write", e, unix.EACCES)
	_, e = ioctl(t, c, l.node, l.fh, 0, unix.FS_IOC_MEASURE_VERITY, make([]byte, 68), 68)
	var digest [68]byte
	le.PutUint16(digest[2:], 64)
	measured := hostIoctl(host, unix.FS_IOC_MEASURE_VERITY, digest[:])
	want(t, "measuring", e, measured)
}

// sealed is a file system whose files have verity.
type sealed struct{ virtiofs.FS }

func (s sealed) Ioctl(f virtiofs.File, dir bool, cmd uint32, in, out []byte) (int, unix.Errno) {
	if cmd != unix.FS_IOC_MEASURE_VERITY {
		return s.FS.Ioctl(f, dir, cmd, in, out)
	}
	return copy(out, append([]byte{1, 0, 32, 0}, bytes.Repeat([]byte{0xab}, 32)...)), 0
}

// yes is a file system that lets everything be done.
type yes struct{ virtiofs.FS }

func (yes) Ioctl(virtiofs.File, bool, uint32, []byte, []byte) (int, unix.Errno) { return 0, 0 }

// On a read-only share changes do not even reach the file system, and it would
// refuse them too.
func TestIoctlReadOnlyTwice(t *testing.T) {
	dir, _ := lockDir(t)
	fs, err := passthrough.New(dir, passthrough.Options{ReadOnly: true})
	must(t, err)
	s := virtiofs.NewServer(yes{fs}, virtiofs.Options{})
	t.Cleanup(func() { must(t, s.Close()) })
	c := fstest.Dial(t, s)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	l := lockOpen(t, c, "file", unix.O_RDONLY)
	for cmd, size := range map[uint32]int{
		unix.FS_IOC_SETFLAGS: 4, virtiofs.FSIoc32Setflags: 4,
		virtiofs.FSIocSetxattr: virtiofs.FsxattrSize, unix.FS_IOC_ENABLE_VERITY: virtiofs.VerityEnableSize,
	} {
		_, e := ioctl(t, c, l.node, l.fh, 0, cmd, make([]byte, size), 0)
		want(t, "through the server", e, unix.EROFS)
		_, e = fs.Ioctl(virtiofs.File{Node: l.node, Handle: virtiofs.Handle(l.fh)}, false, cmd, make([]byte, size), nil)
		want(t, "to the file system", e, unix.EROFS)
	}
}

// The answer of MEASURE_VERITY is as long as the digest, not as its room.
func TestIoctlMeasureVerity(t *testing.T) {
	dir, _ := lockDir(t)
	fs, err := passthrough.New(dir, passthrough.Options{})
	must(t, err)
	s := virtiofs.NewServer(sealed{fs}, virtiofs.Options{})
	t.Cleanup(func() { must(t, s.Close()) })
	c := fstest.Dial(t, s)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	l := lockOpen(t, c, "file", unix.O_RDONLY)
	for _, room := range []uint32{36, 68, 4 + math.MaxUint16} {
		in := make([]byte, room)
		le.PutUint16(in[2:], uint16(room-4))
		b, e := ioctl(t, c, l.node, l.fh, 0, unix.FS_IOC_MEASURE_VERITY, in, room)
		ok(t, "FS_IOC_MEASURE_VERITY", e)
		if len(b) != 36 || b[35] != 0xab {
			t.Errorf("room for %d: answer of %d bytes", room, len(b))
		}
	}
}
