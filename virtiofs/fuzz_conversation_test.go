package virtiofs_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// script is the bytes that a conversation is made from. It ends in zeros.
type script struct{ b []byte }

func (s *script) next() uint32 {
	if len(s.b) == 0 {
		return 0
	}
	v := s.b[0]
	s.b = s.b[1:]
	return uint32(v)
}

// number is mostly small, now and then at a border.
func (s *script) number() uint64 {
	switch v := s.next(); {
	case v < 200:
		return uint64(v)
	case v < 232:
		return uint64(v-200) << 12
	default:
		return [...]uint64{1 << 31, 1<<31 - 1, 1<<32 - 1, 1 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 1, 1<<63 - 4096}[v%8]
	}
}

// names is what a guest of these conversations calls files.
var names = []string{"a", "b", "c", "d", "l", "p", "e", "..", ".", "", "d/b", "\xff\x01", strings.Repeat("n", 255), strings.Repeat("n", 256)}

func (s *script) name() []byte { return fstest.Str(names[s.next()%uint32(len(names))]) }

// open is a file or directory that the guest has open.
type open struct {
	node virtiofs.NodeID
	fh   uint64
}

// guest keeps the books that a guest's kernel keeps: what each node was counted
// and what is open. It is the model that the server is held against.
type guest struct {
	*fuzzed
	script
	nodes  []virtiofs.NodeID // in the order in which they came, for the script to refer to
	count  map[virtiofs.NodeID]uint64
	files  []open
	dirs   []open
	inside bool // a session is open
}

func (g *guest) node() virtiofs.NodeID {
	v := g.next()
	if v >= 250 || len(g.nodes) == 0 {
		return virtiofs.NodeID(v * v * v)
	}
	return g.nodes[int(v)%len(g.nodes)]
}

func (g *guest) open(list []open) open {
	v := g.next()
	if v >= 250 || len(list) == 0 {
		return open{g.node(), uint64(v)}
	}
	return list[int(v)%len(list)]
}

// FuzzConversation makes a sequence of mostly well-formed requests of any
// bytes, which refer to nodes and handles of earlier replies, with sessions that
// end and begin in between. The server's count of lookups must be the
// guest's: a node is unknown as soon as the guest has forgotten it, and known, where
// descriptors keep it, until then; and when all is forgotten nothing is left.
func FuzzConversation(f *testing.F) {
	for op := range fuse.Opcodes {
		for variant := range uint8(4) {
			f.Add(uint8(op)<<2|variant, []byte{1, 0, 1, 3, 35, 0, 2, 66, 27, 0, byte(op), 1, 2, 3, 4, 5, byte(op), 0, 0, 0, 0, 0, 44, 0, 0, 2, 1, 1})
		}
	}
	old := unix.Umask(0)
	f.Cleanup(func() { unix.Umask(old) })
	f.Fuzz(func(t *testing.T, variant uint8, text []byte) {
		g := &guest{fuzzed: newFuzzed(t, variant), script: script{text[:min(len(text), 600)]}}
		g.begin()
		for len(g.b) > 0 {
			g.step()
		}
		g.end(variant&variantDescriptors != 0, variant&variantReadOnly != 0)
	})
}

// begin opens a session: what the guest knew is gone.
func (g *guest) begin() {
	_, e := g.c.Init(fstest.AllFlags)
	ok(g.t, "INIT", e)
	g.lost()
	g.nodes, g.inside = []virtiofs.NodeID{root}, true
}

func (g *guest) lost() {
	g.nodes, g.files, g.dirs, g.inside = nil, nil, nil, false
	g.count = map[virtiofs.NodeID]uint64{}
}

// step is one request and what the guest learns by it.
func (g *guest) step() {
	op := fuse.Opcode(g.next() % (fuse.Opcodes + 2))
	switch op {
	case fuse.Init:
		g.begin()
		return
	case fuse.Opcodes: // a device reset
		g.c.S.Reset()
		g.lost()
		return
	case fuse.Destroy:
		_, e := g.c.Call(op, 0, 0)
		if !g.inside {
			want(g.t, "DESTROY without a session", e, unix.EIO)
			return
		}
		ok(g.t, "DESTROY", e)
		g.lost()
		return
	case fuse.Forget:
		g.forget(g.node(), g.number())
		return
	}
	g.c.UID, g.c.GID = g.next()%3*1000, g.next()%3*1000
	node, args := g.arguments(op)
	room := max(int(fuse.Row(op).Out), 16)
	switch op {
	case fuse.Read, fuse.Readdir, fuse.Readdirplus, fuse.Getxattr, fuse.Listxattr, fuse.Readlink, fuse.Ioctl:
		room = int(g.next()) << 5
	}
	body, e := g.send(g.c.Message(op, node, args...), fuse.OutHeaderSize+room)
	if !g.inside && e != unix.EIO && e != unix.ENODATA && e != unix.ENOSYS && e != unix.EINVAL {
		g.t.Fatalf("%v without a session: %v", op, errName(e))
	}
	if e == 0 {
		g.learn(op, node, body)
	}
}

func (g *guest) forget(n virtiofs.NodeID, by uint64) {
	g.c.Forget(n, by)
	if n == root || g.count[n] == 0 {
		return
	}
	g.count[n] -= min(by, g.count[n])
	if g.count[n] == 0 {
		_, e := g.c.Getattr(n)
		want(g.t, "GETATTR of a forgotten node", e, unix.ESTALE)
	}
}

// arguments makes a request of the operation.
func (g *guest) arguments(op fuse.Opcode) (virtiofs.NodeID, [][]byte) {
	u32, u64 := fstest.U32, fstest.U64
	is := func(b ...[]byte) [][]byte { return b }
	switch op {
	case fuse.Lookup, fuse.Unlink, fuse.Rmdir:
		return g.node(), is(g.name())
	case fuse.Symlink:
		return g.node(), is(g.name(), g.name())
	case fuse.Mknod:
		kind := [...]uint32{unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, 0, unix.S_IFDIR}[g.next()%6]
		return g.node(), is(u32(kind|g.next()<<4, 0, g.next(), 0), g.name())
	case fuse.Mkdir:
		return g.node(), is(u32(g.next()<<4, g.next()), g.name())
	case fuse.Rename:
		return g.node(), is(u64(uint64(g.node())), g.name(), g.name())
	case fuse.Rename2:
		return g.node(), is(u64(uint64(g.node())), u32(g.next(), 0), g.name(), g.name())
	case fuse.Link:
		return g.node(), is(u64(uint64(g.node())), g.name())
	case fuse.Create, fuse.Tmpfile:
		return g.node(), is(u32(g.openFlags(), g.next()<<4, g.next(), g.next()), g.name())
	case fuse.Open, fuse.Opendir:
		return g.node(), is(u32(g.openFlags(), g.next()))
	case fuse.Setattr:
		o := g.open(g.files)
		return o.node, is(u32(g.next()|g.next()<<8, 0), u64(o.fh, g.number(), g.number(), g.number(), g.number(), g.number()),
			u32(g.next(), g.next(), g.next(), g.next()<<4, 0, g.next(), g.next(), 0))
	case fuse.BatchForget:
		n := g.node()
		g.forget(n, 0)
		return 0, is(u32(g.next(), 0), u64(uint64(n), 0))
	case fuse.Setxattr, fuse.Getxattr, fuse.Removexattr:
		name := fstest.Str([...]string{"user.a", "trusted.a", "user.virtiofs.trusted.a", "security.capability", "system.posix_acl_access", "system.posix_acl_default", "nothing"}[g.next()%7])
		switch op {
		case fuse.Setxattr:
			value := make([]byte, g.next())
			return g.node(), is(u32(uint32(len(value)), g.next()%4, g.next(), 0), name, value)
		case fuse.Getxattr:
			return g.node(), is(u32(uint32(g.number()), 0), name)
		}
		return g.node(), is(name)
	}
	return g.fileArguments(op)
}

// fileArguments are those of operations on what is open.
func (g *guest) fileArguments(op fuse.Opcode) (virtiofs.NodeID, [][]byte) {
	u32, u64 := fstest.U32, fstest.U64
	is := func(b ...[]byte) [][]byte { return b }
	switch op {
	case fuse.Read:
		o := g.open(g.files)
		return o.node, is(fstest.ReadArgs(o.fh, g.number(), uint32(g.number())))
	case fuse.Readdir, fuse.Readdirplus:
		o := g.open(g.dirs)
		return o.node, is(fstest.ReadArgs(o.fh, g.number(), uint32(g.number())))
	case fuse.Write:
		o := g.open(g.files)
		data := make([]byte, g.next()<<4)
		return o.node, is(fstest.WriteArgs(o.fh, g.number(), uint32(len(data)), g.openFlags(), g.next()), data)
	case fuse.Release, fuse.Flush:
		o := g.open(g.files)
		if op == fuse.Release {
			g.files = without(g.files, o)
		}
		return o.node, is(u64(o.fh), u32(0, g.next()), u64(g.number()))
	case fuse.Releasedir:
		o := g.open(g.dirs)
		g.dirs = without(g.dirs, o)
		return o.node, is(u64(o.fh, 0, 0))
	case fuse.Fallocate:
		o := g.open(g.files)
		return o.node, is(u64(o.fh, g.number(), g.number()), u32(g.next(), 0))
	case fuse.Lseek:
		o := g.open(g.files)
		return o.node, is(u64(o.fh, g.number()), u32(g.next()%6, 0))
	case fuse.CopyFileRange, fuse.CopyFileRange64:
		o, to := g.open(g.files), g.open(g.files)
		return o.node, is(u64(o.fh, g.number(), uint64(to.node), to.fh, g.number(), g.number(), 0))
	case fuse.Getlk, fuse.Setlk, fuse.Setlkw:
		o := g.open(g.files)
		return o.node, is(u64(o.fh, uint64(g.next()), g.number(), g.number()), u32(g.next()%4, g.next(), g.next()%2, 0))
	case fuse.Ioctl:
		o, flags := g.open(g.files), uint32(0)
		if g.next()%2 == 0 {
			o, flags = g.open(g.dirs), fuse.IoctlDir
		}
		cmd := [...]uint32{unix.FS_IOC_GETFLAGS, unix.FS_IOC_SETFLAGS, 0x801c581f, 0x401c5820, 0x40806685, 0x5401}[g.next()%6]
		in := make([]byte, 28)
		in[0], in[1] = byte(g.next()), byte(g.next())
		return o.node, is(u64(o.fh), u32(flags, cmd), u64(0), u32(28, uint32(g.number())), in)
	}
	if op == fuse.SetupMapping || op == fuse.RemoveMapping {
		return g.mapArguments(op)
	}
	args := make([]byte, fuse.Row(op).In)
	if len(args) > 0 {
		args[0] = byte(g.next())
	}
	return g.node(), is(args)
}

// mapArguments are those of mappings: of whole pages for the most part.
func (g *guest) mapArguments(op fuse.Opcode) (virtiofs.NodeID, [][]byte) {
	pages := func() uint64 {
		if v := uint64(g.next()); v < 240 {
			return v % 48 * (piece / 32) // half the window more than there is
		}
		return g.number()
	}
	if op == fuse.SetupMapping {
		return g.node(), [][]byte{fstest.MapArgs(g.number(), pages(), pages(), uint64(g.next()%5), pages())}
	}
	var ones []uint64
	for range g.next() % 4 {
		ones = append(ones, pages(), pages())
	}
	count := uint32(len(ones) / 2)
	if v := g.next(); v >= 240 {
		count = v
	}
	return g.node(), [][]byte{fstest.U32(count), fstest.U64(ones...)}
}

func (g *guest) openFlags() uint32 {
	v := g.next()
	flags := v & unix.O_ACCMODE
	for i, f := range []uint32{unix.O_TRUNC, unix.O_EXCL, unix.O_APPEND, unix.O_DIRECT, unix.O_SYNC, unix.O_NONBLOCK} {
		if v>>(i+2)&1 != 0 {
			flags |= f
		}
	}
	return flags
}

func without(list []open, o open) []open {
	for i, x := range list {
		if x == o {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

// learn takes nodes and handles from a reply, as a guest's kernel does.
func (g *guest) learn(op fuse.Opcode, node virtiofs.NodeID, body []byte) {
	switch op {
	case fuse.Lookup, fuse.Symlink, fuse.Mknod, fuse.Mkdir, fuse.Link:
		g.counted(fstest.ParseEntry(body).Node)
	case fuse.Create, fuse.Tmpfile:
		n := fstest.ParseEntry(body).Node
		g.counted(n)
		g.files = append(g.files, open{n, le.Uint64(body[fuse.EntryOutSize:])})
	case fuse.Open:
		g.files = append(g.files, open{node, le.Uint64(body)})
	case fuse.Opendir:
		g.dirs = append(g.dirs, open{node, le.Uint64(body)})
	case fuse.Readdirplus:
		for len(body) > 0 {
			if n := fstest.ParseEntry(body).Node; n != 0 {
				g.counted(n)
			}
			body = body[fuse.EntryOutSize:]
			body = body[fuse.DirentLen(int(le.Uint32(body[16:]))):]
		}
	}
}

func (g *guest) counted(n virtiofs.NodeID) {
	if n == 0 {
		g.t.Fatal("an entry without a node")
	}
	if n == root {
		return
	}
	if g.count[n] == 0 {
		g.nodes = append(g.nodes, n)
	}
	g.count[n]++
}

// end forgets all but one lookup of each node, then the last, and closes. kept
// says that descriptors keep what is known, implicit that some may be open that the
// guest has not opened.
func (g *guest) end(kept, implicit bool) {
	for n, count := range g.count {
		if count == 0 {
			continue
		}
		if _, e := g.c.Getattr(n); kept && e != 0 {
			g.t.Errorf("GETATTR of node %d, looked up %d times: %v", n, count, e)
		}
		g.forget(n, count-1)
		g.forget(n, 1)
	}
	for _, o := range g.files {
		if o.fh != 0 {
			ok(g.t, "RELEASE", g.c.Release(o.node, o.fh, false))
		}
	}
	for _, o := range g.dirs {
		if o.fh != 0 {
			ok(g.t, "RELEASEDIR", g.c.Release(o.node, o.fh, true))
		}
	}
	if n := g.budget.Used(); n != 0 && !implicit {
		g.t.Errorf("all is forgotten and released, and %d descriptors are left", n)
	}
	g.close()
}
