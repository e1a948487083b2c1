package virtiofs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// policyShare shares a directory with files in it under a policy and opens a session
// that is offered every flag.
func policyShare(t *testing.T, o passthrough.Options, so virtiofs.Options) (string, *fstest.Conn) {
	t.Helper()
	dir, c := serveWith(t, o, so)
	write(t, filepath.Join(dir, "f"), "data")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	write(t, filepath.Join(dir, "d", "in"), "inner")
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	return dir, c
}

// aged sets nothing but waits until the file is old enough for its stamp to be
// trusted, which no call can bring about: the change time is the kernel's.
func aged(t *testing.T, path string) {
	t.Helper()
	st := lstat(t, path)
	time.Sleep(time.Until(time.Unix(st.Ctim.Unix()).Add(2100 * time.Millisecond)))
}

// timeouts is what the replies to LOOKUP, GETATTR and STATX say, in ns.
type timeouts struct{ entry, attr, negative time.Duration }

func measure(t *testing.T, c *fstest.Conn) (got timeouts) {
	t.Helper()
	at := func(b []byte, sec, nsec int) time.Duration {
		return time.Duration(le.Uint64(b[sec:]))*time.Second + time.Duration(le.Uint32(b[nsec:]))
	}
	b, e := c.Call(fuse.Lookup, root, fuse.EntryOutSize, fstest.Str("f"))
	ok(t, "LOOKUP", e)
	got.entry, got.attr = at(b, 16, 32), at(b, 24, 36)
	node := fstest.ParseEntry(b).Node
	b, e = c.Call(fuse.Getattr, node, fuse.AttrOutSize, make([]byte, 16))
	ok(t, "GETATTR", e)
	if d := at(b, 0, 8); d != got.attr {
		t.Errorf("GETATTR is valid for %v, LOOKUP's attributes for %v", d, got.attr)
	}
	b, e = c.Call(fuse.Statx, node, fuse.StatxOutSize, make([]byte, 20), fstest.U32(unix.STATX_BASIC_STATS))
	ok(t, "STATX", e)
	if d := at(b, 0, 8); d != got.attr {
		t.Errorf("STATX is valid for %v, LOOKUP's attributes for %v", d, got.attr)
	}
	b, e = c.Call(fuse.Lookup, root, fuse.EntryOutSize, fstest.Str("missing"))
	if e == unix.ENOENT {
		return got
	}
	if ok(t, "LOOKUP missing", e); le.Uint64(b) != 0 {
		t.Errorf("LOOKUP missing: node %d", le.Uint64(b))
	}
	got.negative = at(b, 16, 32)
	return got
}

// openFlags is what the replies to OPEN, CREATE and OPENDIR say.
type openFlags struct{ open, create, dir uint32 }

func measureFlags(t *testing.T, c *fstest.Conn) (got openFlags) {
	t.Helper()
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	b, e := c.Call(fuse.Open, f.Node, fuse.OpenOutSize, fstest.U32(unix.O_RDONLY, 0))
	ok(t, "OPEN", e)
	got.open = le.Uint32(b[8:])
	b, e = c.Call(fuse.Create, root, fuse.EntryOutSize+fuse.OpenOutSize, fstest.U32(unix.O_RDWR, 0o644, 0, 0), fstest.Str("new"))
	ok(t, "CREATE", e)
	got.create = le.Uint32(b[fuse.EntryOutSize+8:])
	b, e = c.Call(fuse.Opendir, root, fuse.OpenOutSize, fstest.U32(0, 0))
	ok(t, "OPENDIR", e)
	got.dir = le.Uint32(b[8:])
	return got
}

// TestPolicyReplies: what each policy lets the guest cache. The numbers are those
// of fuse.h: DIRECT_IO 1, KEEP_CACHE 2, CACHE_DIR 8, PARALLEL_DIRECT_WRITES 64.
func TestPolicyReplies(t *testing.T) {
	const day = 24 * time.Hour
	for _, x := range []struct {
		name  string
		valid timeouts
		flags openFlags
	}{
		{"never", timeouts{}, openFlags{1 | 64, 1 | 64, 0}},
		{"none", timeouts{}, openFlags{1 | 64, 1 | 64, 0}},
		{"metadata", timeouts{day, day, day}, openFlags{1 | 64, 1 | 64, 2 | 8}},
		{"auto", timeouts{time.Second, time.Second, 0}, openFlags{0, 0, 0}},
		{"always", timeouts{day, day, day}, openFlags{2, 2, 2 | 8}},
	} {
		t.Run(x.name, func(t *testing.T) {
			p, err := virtiofs.ParsePolicy(x.name)
			must(t, err)
			_, c := policyShare(t, passthrough.Options{}, virtiofs.Options{Policy: p})
			if got := measure(t, c); got != x.valid {
				t.Errorf("timeouts %v, want %v", got, x.valid)
			}
			if got := measureFlags(t, c); got != x.flags {
				t.Errorf("open flags %v, want %v", got, x.flags)
			}
		})
	}
}

// TestPolicyTimeouts: the three durations are the caller's to change.
func TestPolicyTimeouts(t *testing.T) {
	p := virtiofs.Auto()
	p.EntryValid, p.AttrValid, p.Negative = 1500*time.Millisecond, 90*time.Second, 250*time.Millisecond
	_, c := policyShare(t, passthrough.Options{}, virtiofs.Options{Policy: p})
	if got, want := measure(t, c), (timeouts{p.EntryValid, p.AttrValid, p.Negative}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestParsePolicy(t *testing.T) {
	for name, want := range map[string]string{
		"never": "never", "none": "never", "metadata": "metadata", "auto": "auto", "always": "always", "immutable": "immutable",
	} {
		if p, err := virtiofs.ParsePolicy(name); err != nil || p.Name != want {
			t.Errorf("%s: %q, %v", name, p.Name, err)
		}
	}
	for _, name := range []string{"", "Auto", "always ", "full"} {
		_, err := virtiofs.ParsePolicy(name)
		if err == nil {
			t.Errorf("%q was taken", name)
			continue
		}
		for _, allowed := range []string{fmt.Sprintf("%q", name), "never", "none", "metadata", "auto", "always", "immutable"} {
			if !strings.Contains(err.Error(), allowed) {
				t.Errorf("%q: %v does not name %s", name, err, allowed)
			}
		}
	}
}

// TestOptionsCheck: contradictions are told by the names of both options.
func TestOptionsCheck(t *testing.T) {
	for _, x := range []struct {
		name  string
		o     virtiofs.Options
		ro    bool
		wants [][2]string // pairs that the error must name
	}{
		{"the zero options", virtiofs.Options{}, false, nil},
		{"read-only", virtiofs.Options{}, true, nil},
		{"immutable, ro", virtiofs.Options{Policy: virtiofs.Immutable(), Locks: true}, true, nil},
		{"auto, writeback", virtiofs.Options{Policy: virtiofs.Auto(), Writeback: true}, false, nil},
		{"always, writeback", virtiofs.Options{Policy: virtiofs.Always(), Writeback: true}, false, nil},
		{"immutable, rw", virtiofs.Options{Policy: virtiofs.Immutable()}, false, [][2]string{{"cache=immutable", "rw"}}},
		{"ro, writeback", virtiofs.Options{Writeback: true}, true, [][2]string{{"writeback", "ro"}}},
		{"never, writeback", virtiofs.Options{Policy: virtiofs.Never(), Writeback: true}, false, [][2]string{{"cache=never", "writeback"}}},
		{"metadata, writeback", virtiofs.Options{Policy: virtiofs.Metadata(), Writeback: true}, false, [][2]string{{"cache=metadata", "writeback"}}},
		{"writeback, dax=inode", virtiofs.Options{Writeback: true, DAX: virtiofs.DAXInode}, false, nil},
		{"writeback, dax=always", virtiofs.Options{Writeback: true, DAX: virtiofs.DAXAlways}, false, [][2]string{{"writeback", "dax=always"}}},
		{"all at once", virtiofs.Options{Policy: virtiofs.Never(), Writeback: true}, true, [][2]string{{"cache=never", "writeback"}, {"writeback", "ro"}}},
	} {
		err := x.o.Check(x.ro)
		if (err != nil) != (x.wants != nil) {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		for _, pair := range x.wants {
			if !slices.ContainsFunc(strings.Split(err.Error(), "\n"), func(line string) bool {
				return strings.Contains(line, pair[0]) && strings.Contains(line, pair[1])
			}) {
				t.Errorf("%s: %v does not name %q", x.name, err, pair)
			}
		}
	}
}

// initBits is the numbers of the bits that INIT's answer has set.
func initBits(out []byte) (set []int) {
	flags := uint64(le.Uint32(out[12:])) | uint64(le.Uint32(out[32:]))<<32
	for bit := range 64 {
		if flags>>bit&1 != 0 {
			set = append(set, bit)
		}
	}
	return set
}

// everyPolicy is the bits that every session takes of what is offered:
// ASYNC_READ 0, ATOMIC_O_TRUNC 3, EXPORT_SUPPORT 4, BIG_WRITES 5, HAS_IOCTL_DIR
// 11, ASYNC_DIO 15, PARALLEL_DIROPS 18, MAX_PAGES 22, CACHE_SYMLINKS 23,
// SUBMOUNTS 27, HANDLE_KILLPRIV_V2 28, SETXATTR_EXT 29, INIT_EXT 30,
// CREATE_SUPP_GROUP 34.
var everyPolicy = []int{0, 3, 4, 5, 11, 15, 18, 22, 23, 27, 28, 29, 30, 34}

// TestInitFlags: what a session takes, by policy and option, when it is offered
// everything: no flag more and none less.
func TestInitFlags(t *testing.T) {
	without := func(flags uint64) uint64 { return fstest.AllFlags &^ flags }
	for _, x := range []struct {
		name  string
		o     virtiofs.Options
		ro    bool
		dax   bool // there is a window
		minor uint32
		offer uint64
		more  []int // than everyPolicy
		less  []int
	}{
		{name: "the default", more: []int{12, 13, 14}},
		{name: "never", o: virtiofs.Options{Policy: virtiofs.Never()}, more: []int{12, 36}},
		{name: "metadata", o: virtiofs.Options{Policy: virtiofs.Metadata()}, more: []int{12, 13, 14, 36}},
		{name: "auto", o: virtiofs.Options{Policy: virtiofs.Auto()}, more: []int{12, 13, 14}},
		{name: "always", o: virtiofs.Options{Policy: virtiofs.Always()}, more: []int{13, 14, 25}},
		{name: "immutable", o: virtiofs.Options{Policy: virtiofs.Immutable()}, ro: true, more: []int{13, 14, 17, 24, 25}, less: []int{3}},
		{name: "immutable, but not read-only", o: virtiofs.Options{Policy: virtiofs.Immutable()}, more: []int{13, 14, 25}},
		{name: "immutable for a guest that must open", o: virtiofs.Options{Policy: virtiofs.Immutable()}, ro: true,
			offer: without(fuse.NoOpenSupport), more: []int{13, 14, 24, 25}},
		{name: "immutable with locks", o: virtiofs.Options{Policy: virtiofs.Immutable(), Locks: true}, ro: true, more: []int{1, 10, 13, 14, 24, 25}},
		{name: "locks", o: virtiofs.Options{Locks: true}, more: []int{1, 10, 12, 13, 14}},
		{name: "writeback", o: virtiofs.Options{Writeback: true}, more: []int{12, 13, 14, 16}},
		{name: "ACLs", o: virtiofs.Options{ACL: true}, more: []int{6, 12, 13, 14, 20}},
		{name: "ACLs without the guest's umask", o: virtiofs.Options{ACL: true}, offer: without(fuse.DontMask), more: []int{12, 13, 14}},
		{name: "ACLs with the old SETXATTR", o: virtiofs.Options{ACL: true}, offer: without(fuse.SetxattrExt), more: []int{12, 13, 14}, less: []int{29}},
		{name: "labels", o: virtiofs.Options{Labels: true}, more: []int{12, 13, 14, 32}},
		{name: "labels, minor 37", o: virtiofs.Options{Labels: true}, minor: 37, more: []int{12, 13, 14}},
		{name: "a window", o: virtiofs.Options{DAX: virtiofs.DAXInode}, dax: true, more: []int{12, 13, 14, 26, 33}},
		{name: "a window, always", o: virtiofs.Options{DAX: virtiofs.DAXAlways}, dax: true, more: []int{12, 13, 14, 26, 33}},
		{name: "a window for a guest that decides by itself", o: virtiofs.Options{DAX: virtiofs.DAXInode}, dax: true,
			offer: without(fuse.HasInodeDAX), more: []int{12, 13, 14, 26}},
		{name: "a window that the guest did not find", o: virtiofs.Options{DAX: virtiofs.DAXInode}, dax: true,
			offer: without(fuse.MapAlignment), more: []int{12, 13, 14}},
		{name: "a window that is not used", dax: true, more: []int{12, 13, 14}},
		{name: "no window", o: virtiofs.Options{DAX: virtiofs.DAXAlways}, more: []int{12, 13, 14}},
		{name: "a window, immutable", o: virtiofs.Options{Policy: virtiofs.Immutable(), DAX: virtiofs.DAXInode}, ro: true, dax: true,
			more: []int{13, 14, 17, 24, 25, 26, 33}, less: []int{3}},
		{name: "a guest without flags2", offer: fstest.AllFlags &^ fuse.InitExt, more: []int{12, 13, 14}, less: []int{30, 34}},
	} {
		t.Run(x.name, func(t *testing.T) {
			o := passthrough.Options{ReadOnly: x.ro, Immutable: x.o.Policy.NoOpen}
			if x.dax {
				var err error
				o.Window, err = dax.New(daxBytes)
				must(t, err)
			}
			_, c := serveWith(t, o, x.o)
			if x.offer == 0 {
				x.offer = fstest.AllFlags
			}
			if x.minor == 0 {
				x.minor = fuse.Minor
			}
			out, e := c.Call(fuse.Init, 0, fuse.InitOutSize,
				fstest.U32(fuse.Major, x.minor, 0, uint32(x.offer), uint32(x.offer>>32)), make([]byte, 44))
			ok(t, "INIT", e)
			want := slices.DeleteFunc(append(slices.Clone(everyPolicy), x.more...), func(b int) bool { return slices.Contains(x.less, b) })
			slices.Sort(want)
			if got := initBits(out); !slices.Equal(got, want) {
				t.Errorf("%v\nwant %v", got, want)
			}
		})
	}
}

// openKept reports whether a new open of the file, by a process of the guest, is
// told to keep the guest's cache.
func openKept(t *testing.T, c *fstest.Conn, node virtiofs.NodeID, flags uint32) (fh uint64, kept bool) {
	t.Helper()
	b, e := c.Call(fuse.Open, node, fuse.OpenOutSize, fstest.U32(flags|largeFile, 0))
	ok(t, "OPEN", e)
	return le.Uint64(b), le.Uint32(b[8:])&fuse.OpenKeepCache != 0
}

// TestKeepCache: under auto a file is cached on from its last close exactly when
// the guest can have nothing but its present contents.
func TestKeepCache(t *testing.T) {
	type file struct {
		path string
		node virtiofs.NodeID
		fh   uint64
	}
	dir, c := policyShare(t, passthrough.Options{}, virtiofs.Options{})
	cases := []struct {
		name    string
		flags   uint32
		before  func(f file) // the first open
		between func(f file) // the first open and its release
		after   func(f file) // that release
		want    bool
	}{
		{name: "nothing happened", want: true},
		{name: "it was read", want: true, between: func(f file) {
			_, e := c.Read(f.node, f.fh, 0, 100)
			ok(t, "READ", e)
		}},
		{name: "it was open twice", want: true, between: func(f file) {
			fh, _ := openKept(t, c, f.node, unix.O_RDONLY)
			ok(t, "RELEASE", c.Release(f.node, fh, false))
		}},
		{name: "the host wrote after the release", after: func(f file) { write(t, f.path, "DATA") }},
		{name: "the host wrote and put the modification time back", after: func(f file) {
			st := lstat(t, f.path)
			write(t, f.path, "DATA")
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, f.path, []unix.Timespec{st.Atim, st.Mtim}, 0))
		}},
		{name: "the host wrote while it was open", between: func(f file) { write(t, f.path, "DATA") }},
		{name: "the guest wrote", flags: unix.O_RDWR, between: func(f file) {
			_, e := c.Write(f.node, f.fh, 0, []byte("DATA"), 0, 0)
			ok(t, "WRITE", e)
		}},
		{name: "the host wrote just before the open", before: func(f file) { write(t, f.path, "DATA") }},
	}
	files := make([]file, len(cases))
	for i := range cases {
		files[i].path = filepath.Join(dir, fmt.Sprint(i))
		write(t, files[i].path, "data")
	}
	aged(t, files[len(files)-1].path)
	for i, x := range cases {
		f := &files[i]
		entry, e := c.Lookup(root, fmt.Sprint(i))
		ok(t, "LOOKUP", e)
		if f.node = entry.Node; x.before != nil {
			x.before(*f)
		}
		var kept bool
		if f.fh, kept = openKept(t, c, f.node, x.flags); kept {
			t.Errorf("%s: the first open keeps a cache that was never filled", x.name)
		}
		if x.between != nil {
			x.between(*f)
		}
		ok(t, "RELEASE", c.Release(f.node, f.fh, false))
		if x.after != nil {
			x.after(*f)
		}
		if _, kept = openKept(t, c, f.node, unix.O_RDONLY); kept != x.want {
			t.Errorf("%s: kept %v, want %v", x.name, kept, x.want)
		}
	}
	// Nothing of it is left in the next session.
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	entry, e := c.Lookup(root, "0")
	ok(t, "LOOKUP", e)
	if _, kept := openKept(t, c, entry.Node, unix.O_RDONLY); kept {
		t.Error("kept over INIT")
	}
}

// largeFile is O_LARGEFILE of a guest on x86-64.
const largeFile = 0x8000

// TestKeepCacheOfProcesses: Linux's own open, for the file's flags, drops nothing
// that it has cached, so the next one of a process has to.
func TestKeepCacheOfProcesses(t *testing.T) {
	dir, c := policyShare(t, passthrough.Options{}, virtiofs.Options{})
	path := filepath.Join(dir, "f")
	aged(t, path)
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	fh, _ := openKept(t, c, f.Node, unix.O_RDONLY)
	ok(t, "RELEASE", c.Release(f.Node, fh, false))
	write(t, path, "DATA")
	aged(t, path)
	fh, e = c.Open(f.Node, unix.O_RDONLY)
	ok(t, "OPEN for flags", e)
	ok(t, "RELEASE", c.Release(f.Node, fh, false))
	if _, kept := openKept(t, c, f.Node, unix.O_RDONLY); kept {
		t.Error("kept what was cached before the host wrote")
	}
}

// TestObserver: every answer is told once, with what it was, requests that go to
// the pool and those without an answer included.
func TestObserver(t *testing.T) {
	var n virtiofs.Counter
	_, c := policyShare(t, passthrough.Options{}, virtiofs.Options{Observer: &n})
	f, e := c.Lookup(root, "f")
	ok(t, "LOOKUP", e)
	_, e = c.Lookup(root, "missing")
	want(t, "LOOKUP", e, unix.ENOENT)
	fh, e := c.Open(f.Node, unix.O_RDONLY)
	ok(t, "OPEN", e)
	_, e = c.Call(fuse.Fsync, f.Node, 0, fstest.U64(fh, 0)) // by way of the pool
	ok(t, "FSYNC", e)
	c.Forget(f.Node, 1)
	_, e = c.Call(9999, root, 0)
	want(t, "opcode 9999", e, unix.ENOSYS)
	wants := map[string]virtiofs.Count{
		"INIT": {1, 0}, "LOOKUP": {2, 1}, "OPEN": {1, 0}, "FSYNC": {1, 0}, "FORGET": {1, 0}, "UNKNOWN": {1, 1},
	}
	got := n.Snapshot()
	if len(got) != len(wants) {
		t.Errorf("%v, want %v", got, wants)
	}
	for op, w := range wants {
		if got[op] != w {
			t.Errorf("%s: %v, want %v", op, got[op], w)
		}
	}
	if got := n.Of(fuse.Lookup); got != wants["LOOKUP"] {
		t.Errorf("LOOKUP %v", got)
	}
}
