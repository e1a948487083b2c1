package virtiofs_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/idmap"
	"tenon/virtiofs/passthrough"
	"tenon/virtiofs/xattrmap"
)

// The fuzzers serve hostile bytes from a directory that lies beside a canary,
// with all that a share can be told to do. Device nodes are left out, and tame
// takes out what would fill or stall the machine that fuzzes.

// A variant's bits choose a share's options.
const (
	variantReadOnly = 1 << iota // promised to be immutable, too
	variantXattrs
	variantIDs
	variantACL // and security labels
	variantLocks
	variantWriteback
	variantDescriptors // no file handles
	variantOneDevice
)

// fuzzed is a share with its surroundings, for one execution.
type fuzzed struct {
	t       *testing.T
	outside string
	c       *fstest.Conn
	budget  *passthrough.Budget
	window  *dax.Window
	closed  bool
}

func newFuzzed(t *testing.T, variant uint8) *fuzzed {
	t.Helper()
	f := &fuzzed{t: t, outside: t.TempDir()}
	dir := filepath.Join(f.outside, "share")
	for _, d := range []string{dir, filepath.Join(dir, "d"), filepath.Join(f.outside, "canary")} {
		must(t, os.Mkdir(d, 0o755))
	}
	write(t, filepath.Join(f.outside, "canary", "file"), "untouched")
	write(t, filepath.Join(dir, "a"), "data")
	write(t, filepath.Join(dir, "d", "b"), "below")
	must(t, os.Symlink("../canary/file", filepath.Join(dir, "l")))
	must(t, unix.Mkfifo(filepath.Join(dir, "p"), 0o644))
	o, so := options(t, variant)
	var err error
	f.budget, err = passthrough.NewBudget()
	must(t, err)
	o.Budget = f.budget
	o.Window, err = dax.New(daxBytes)
	must(t, err)
	fs, err := passthrough.New(dir, o)
	must(t, err)
	f.window = o.Window
	f.c = fstest.Dial(t, virtiofs.NewServer(fs, so))
	t.Cleanup(f.close)
	return f
}

func options(t *testing.T, variant uint8) (o passthrough.Options, so virtiofs.Options) {
	t.Helper()
	var err error
	has := func(bit uint8) bool { return variant&bit != 0 }
	if has(variantXattrs) {
		o.Xattrs, err = xattrmap.Parse(":map:trusted.:user.virtiofs.:")
		must(t, err)
	}
	if has(variantIDs) && !has(variantACL) { // which do not go together
		o.IDs = &idmap.Maps{}
		o.IDs.UID, err = idmap.Parse("map:0:1000:100", "forbid-guest:5000:10")
		must(t, err)
		o.IDs.GID, err = idmap.Parse("squash-guest:0:7:100")
		must(t, err)
	}
	if has(variantDescriptors) {
		o.Handles = passthrough.HandlesNever
	}
	o.ReadOnly, o.Immutable = has(variantReadOnly), has(variantReadOnly)
	o.ACL, so.ACL, so.Labels = has(variantACL), has(variantACL), has(variantACL)
	so.Locks = has(variantLocks)
	o.Writeback, so.Writeback = has(variantWriteback), has(variantWriteback)
	o.OneDevice = has(variantOneDevice)
	so.DAX, so.DAXMinSize = virtiofs.DAXInode, 5 // more than one file's size and less than another's
	return o, so
}

// send serves a message and holds the reply against the protocol. The error is
// that of the reply, or ENODATA where there is none.
func (f *fuzzed) send(msg []byte, room int) (body []byte, e unix.Errno) {
	f.t.Helper()
	reply, _ := f.c.Raw(tame(msg), room)
	if len(reply) == 0 {
		return nil, unix.ENODATA
	}
	if len(reply) < fuse.OutHeaderSize || int(le.Uint32(reply)) != len(reply) {
		f.t.Fatalf("used length %d, reply %x", len(reply), reply)
	}
	e = unix.Errno(-int32(le.Uint32(reply[4:])))
	if e > 511 || e != 0 && len(reply) != fuse.OutHeaderSize {
		f.t.Fatalf("error %d with a reply of %d bytes", e, len(reply))
	}
	if unique := le.Uint64(msg[8:]); le.Uint64(reply[8:]) != unique {
		f.t.Fatalf("unique %d, want %d", le.Uint64(reply[8:]), unique)
	}
	return reply[fuse.OutHeaderSize:], e
}

// close ends the session, after which nothing may be left of it, nor anything
// have changed outside the share.
func (f *fuzzed) close() {
	if f.closed {
		return
	}
	f.closed = true
	f.c.S.Reset()
	if n := f.budget.Used(); n != 0 {
		f.t.Errorf("%d descriptors are left", n)
	}
	if s := f.window.Stats(); s.Mapped != 0 {
		f.t.Errorf("%d ranges of the window are left", s.Mapped)
	}
	must(f.t, f.c.S.Close())
	if got := read(f.t, filepath.Join(f.outside, "canary", "file")); got != "untouched" {
		f.t.Errorf("the canary says %q", got)
	}
	for dir, want := range map[string]string{f.outside: "canary share ", filepath.Join(f.outside, "canary"): "file "} {
		list, err := os.ReadDir(dir)
		must(f.t, err)
		names := ""
		for _, x := range list {
			names += x.Name() + " "
		}
		if names != want {
			f.t.Errorf("%s holds %q", dir, names)
		}
	}
	if st := lstat(f.t, filepath.Join(f.outside, "canary", "file")); st.Mode != unix.S_IFREG|0o644 || st.Nlink != 1 || st.Uid != uint32(unix.Getuid()) {
		f.t.Errorf("the canary is %o of %d with %d links", st.Mode, st.Uid, st.Nlink)
	}
}

// tame takes out of a request what would fill or stall the machine that fuzzes,
// or leave files behind that cannot be removed: real allocation of space, copies of
// sparse terabytes, syncing all file systems, waiting for a lock that is one's
// own, files made immutable.
func tame(msg []byte) []byte {
	if len(msg) < fuse.InHeaderSize {
		return msg
	}
	switch op := fuse.Opcode(le.Uint32(msg[4:])); {
	case op == fuse.Fallocate && len(msg) >= 72:
		le.PutUint64(msg[56:], le.Uint64(msg[56:])&0xffff)
	case (op == fuse.CopyFileRange || op == fuse.CopyFileRange64) && len(msg) >= 96:
		le.PutUint64(msg[80:], le.Uint64(msg[80:])&0xffff)
	case op == fuse.Syncfs || op == fuse.Fsync || op == fuse.Fsyncdir:
		le.PutUint32(msg[4:], uint32(fuse.Statfs))
	case op == fuse.Setlkw:
		le.PutUint32(msg[4:], uint32(fuse.Setlk))
	case op == fuse.Ioctl && len(msg) >= 76:
		// FS_XFLAG_IMMUTABLE, FS_XFLAG_APPEND; FS_IMMUTABLE_FL, FS_APPEND_FL
		le.PutUint32(msg[72:], le.Uint32(msg[72:])&^(8|16|32))
	}
	return msg
}

// FuzzRequest serves one request, of any bytes at all, in a session whose guest
// knows some nodes and has some of them open: node and handle 64 and the next
// ones are likely good. Whatever the bytes are, Serve returns, stays inside the
// room, answers with the length it wrote, leaves nothing behind and changes
// nothing outside the share.
func FuzzRequest(f *testing.F) {
	for i, msg := range seeds() {
		f.Add(uint8(i), uint16(i*100), uint8(i), msg)
	}
	old := unix.Umask(0)
	f.Cleanup(func() { unix.Umask(old) })
	f.Fuzz(func(t *testing.T, variant uint8, room uint16, piece uint8, msg []byte) {
		x := newFuzzed(t, variant)
		_, e := x.c.Init(fstest.AllFlags)
		ok(t, "INIT", e)
		for _, name := range []string{"a", "d", "l", "p"} {
			n, e := x.c.Lookup(root, name)
			ok(t, "LOOKUP", e)
			_, _ = x.c.Open(n.Node, unix.O_RDWR)
			_, _ = x.c.Opendir(n.Node)
		}
		_, _ = x.c.Opendir(root)
		x.c.Piece = int(piece)
		if len(msg) < fuse.InHeaderSize {
			if reply, _ := x.c.Raw(msg, int(room)); len(reply) != 0 {
				t.Fatalf("a reply of %d bytes to no request", len(reply))
			}
			return
		}
		x.send(msg, int(room))
		x.send(msg, int(room)) // and again: the first may have changed much
	})
}

// seeds is one request for each operation and each kind of node.
func seeds() [][]byte {
	c := fstest.Dial(nil, nil)
	name, two := fstest.Str("a"), append(fstest.Str("a"), fstest.Str("h")...)
	var all [][]byte
	for op := fuse.Opcode(1); op < fuse.Opcodes; op++ {
		row := fuse.Row(op)
		args := make([]byte, row.In)
		if len(args) >= 20 {
			args[0], args[16] = 64, 100 // the first handle; a size
		}
		switch {
		case op == fuse.SetupMapping:
			args = fstest.MapArgs(^uint64(0), 0, piece, mapBoth, 0)
		case op == fuse.RemoveMapping:
			args = append(fstest.U32(1), fstest.U64(0, piece)...)
		case row.Names[1] != fuse.NoName:
			args = append(args, two...)
		case row.Names[0] != fuse.NoName:
			args = append(args, name...)
		}
		if row.Ext {
			c.Ext = append(fstest.U32(16, fuse.ExtGroups), fstest.U32(1, 0)...)
		}
		all = append(all, c.Message(op, root, args), c.Message(op, 64, args, make([]byte, 100)))
		c.Ext = nil
	}
	return all
}
