package main

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// step sends one request, chosen by chance, that a guest's kernel could send.
func (t *talk) step() {
	t.uid, t.gid = some(t, []uint32{0, 0, 1000}), some(t, []uint32{0, 100})
	steps := []struct {
		weight int
		do     func()
	}{
		{8, t.lookup}, {4, t.getattr}, {5, t.setattr}, {3, t.readlink}, {2, t.symlink}, {2, t.mknod}, {4, t.mkdir},
		{4, t.remove}, {3, t.rename}, {3, t.link}, {5, t.open}, {6, t.create}, {6, t.read}, {8, t.write}, {1, t.statfs},
		{3, t.release}, {1, t.sync}, {3, t.setxattr}, {3, t.getxattr}, {2, t.listxattr}, {1, t.removexattr}, {2, t.opendir},
		{4, t.readdir}, {1, t.access}, {2, t.fallocate}, {3, t.lseek}, {3, t.copyRange}, {1, t.forget}, {1, t.statx}, {1, t.ioctl},
	}
	sum := 0
	for _, s := range steps {
		sum += s.weight
	}
	pick := t.rng.IntN(sum)
	for _, s := range steps {
		if pick -= s.weight; pick < 0 {
			s.do()
			return
		}
	}
}

func u32(v ...uint32) []byte { return fstest.U32(v...) }
func u64(v ...uint64) []byte { return fstest.U64(v...) }
func str(s string) []byte    { return fstest.Str(s) }

// make sends a request that answers with an entry.
func (t *talk) make(op fuse.Opcode, at place, args ...[]byte) {
	if body, err := t.call(op, at.dir, fuse.EntryOutSize, both(args...)); err == nil {
		t.entry(op, at, entries(body))
	}
}

func (t *talk) place() place { return place{t.dir(), t.name()} }

func (t *talk) lookup() {
	at := t.place()
	t.make(fuse.Lookup, at, str(at.name))
}

func (t *talk) symlink() {
	at := t.place()
	// The loopback file system follows links: theirs must lead nowhere at all.
	t.make(fuse.Symlink, at, str(at.name), str(some(t, []string{"nowhere/a", "nowhere/at all/", "nowhere/../nowhere/x"})))
}

func (t *talk) mknod() {
	at := t.place()
	kind := some(t, []uint32{unix.S_IFREG, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK})
	t.make(fuse.Mknod, at, u32(kind|t.newMode(), 0, 0, 0), str(at.name))
}

func (t *talk) mkdir() {
	at := t.place()
	t.make(fuse.Mkdir, at, u32(t.newMode()|0o700, 0), str(at.name))
}

func (t *talk) link() {
	at, n := t.place(), t.node()
	if n.kind == unix.S_IFDIR {
		return // a guest's kernel refuses it itself
	}
	if body, err := t.call(fuse.Link, at.dir, fuse.EntryOutSize, func(s int) []byte {
		return append(u64(n.id[s]), str(at.name)...)
	}); err == nil {
		t.entry(fuse.Link, at, entries(body))
	}
}

func (t *talk) remove() {
	at := t.place()
	op := fuse.Unlink
	if n := t.tree[at]; n != nil && n.kind == unix.S_IFDIR != (t.rng.IntN(8) == 0) {
		op = fuse.Rmdir
	}
	if _, err := t.call(op, at.dir, 0, both(str(at.name))); err == nil {
		t.bind(at, nil)
	}
}

func (t *talk) rename() {
	from, to := t.place(), t.place()
	for _, at := range []place{from, to} {
		if t.tree[at] == nil {
			t.make(fuse.Lookup, at, str(at.name))
		}
	}
	if a := t.tree[from]; t.over || from != to && a != nil && a == t.tree[to] {
		return // two names of one file: nothing happens, and go-fuse forgets one
	}
	op, flags := fuse.Rename, uint32(0)
	if t.rng.IntN(2) == 0 {
		op, flags = fuse.Rename2, some(t, []uint32{0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, 1 << 20})
	}
	_, err := t.call(op, from.dir, 0, func(s int) []byte {
		args := u64(to.dir.id[s])
		if op == fuse.Rename2 {
			args = append(args, u32(flags, 0)...)
		}
		return append(append(args, str(from.name)...), str(to.name)...)
	})
	if err != nil || from == to {
		return
	}
	a, b := t.tree[from], t.tree[to]
	t.bind(from, nil)
	t.bind(to, a)
	if flags == unix.RENAME_EXCHANGE {
		t.bind(from, b)
	}
}

// attr sends a request that answers with attributes.
func (t *talk) attr(op fuse.Opcode, n *node, args func(s int) []byte) {
	if body, err := t.call(op, n, fuse.AttrOutSize, args); err == nil {
		t.compareAttr(op, n, fstest.ParseAttr(body[ours][16:]), fstest.ParseAttr(body[theirs][16:]))
	}
}

func (t *talk) getattr() {
	if f := t.file(false); f != nil && t.rng.IntN(2) == 0 {
		t.attr(fuse.Getattr, f.node, func(s int) []byte { return append(u32(fuse.GetattrFH, 0), u64(f.fh[s])...) })
		return
	}
	t.attr(fuse.Getattr, t.node(), both(u32(0, 0), u64(0)))
}

func (t *talk) statx() {
	n := t.node()
	if n.kind == unix.S_IFLNK {
		return // the loopback file system follows it
	}
	body, err := t.call(fuse.Statx, n, fuse.StatxOutSize, both(u32(0, 0), u64(0), u32(0, unix.STATX_BASIC_STATS)))
	if err != nil {
		return
	}
	for _, field := range []struct {
		name     string
		off, len int
	}{{"nlink", 48, 4}, {"uid", 52, 4}, {"gid", 56, 4}, {"mode", 60, 2}, {"size", 72, 8}} {
		if !bytes.Equal(body[ours][field.off:field.off+field.len], body[theirs][field.off:field.off+field.len]) {
			t.report("STATX: %s differs", field.name)
		}
	}
}

func (t *talk) setattr() {
	n, f := t.node(), t.file(false)
	valid := some(t, []uint32{fuse.FattrMode, fuse.FattrSize, fuse.FattrMtime | fuse.FattrAtime, fuse.FattrUID | fuse.FattrGID, fuse.FattrMtime,
		fuse.FattrSize | fuse.FattrFH}) // mode and owner at once: the loopback file system does the mode first, and loses it
	if valid&fuse.FattrFH != 0 {
		if f == nil {
			return
		}
		n = f.node
	}
	if valid&fuse.FattrSize != 0 && n.kind != unix.S_IFREG || valid&fuse.FattrMode != 0 && n.kind == unix.S_IFLNK {
		return // a guest's kernel refuses these itself
	}
	size, mode, times := t.size(), t.mode()|0o400, u32(uint32(t.rng.IntN(1e9)), uint32(t.rng.IntN(1e9)))
	uid, gid := some(t, []uint32{0, 5}), some(t, []uint32{0, 6})
	if n.kind == unix.S_IFDIR {
		mode = mode&^unix.S_ISGID | 0o700 // the loopback file system gives what is made to the caller, whatever the directory says
	}
	t.attr(fuse.Setattr, n, func(s int) []byte {
		fh := uint64(0)
		if valid&fuse.FattrFH != 0 {
			fh = f.fh[s]
		}
		b := append(u32(valid, 0), u64(fh, size, 0, 1000, 2000, 0)...)
		return append(append(b, times...), u32(0, mode, 0, uid, gid, 0)...)
	})
}

func (t *talk) readlink() {
	n := t.node()
	if n.kind != unix.S_IFLNK {
		return
	}
	if body, err := t.call(fuse.Readlink, n, 4096, both()); err == nil {
		t.compareBytes(fuse.Readlink, body)
	}
}

func (t *talk) statfs() {
	body, err := t.call(fuse.Statfs, t.root, 80, both())
	if err != nil {
		return
	}
	for name, off := range map[string]int{"blocks": 0, "files": 24, "frsize": 48} { // what is free changes all the time
		if !bytes.Equal(body[ours][off:off+4], body[theirs][off:off+4]) {
			t.report("STATFS: %s differs: %x here, %x there", name, body[ours], body[theirs])
		}
	}
}

var attributes = []string{"user.a", "user.bb", "user.none"}

func (t *talk) setxattr() {
	value := make([]byte, some(t, []int{0, 1, 30, 300}))
	flags := some(t, []uint32{0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE})
	_, _ = t.call(fuse.Setxattr, t.node(), 0, both(u32(uint32(len(value)), flags), str(some(t, attributes[:2])), value))
}

func (t *talk) getxattr() {
	room := some(t, []int{0, 2, 400})
	if body, err := t.call(fuse.Getxattr, t.node(), max(room, 8), both(u32(uint32(room), 0), str(some(t, attributes)))); err == nil {
		t.compareBytes(fuse.Getxattr, body)
	}
}

func (t *talk) listxattr() {
	body, err := t.call(fuse.Listxattr, t.node(), 400, both(u32(400, 0)))
	if err != nil {
		return
	}
	var list [2][]byte
	for s := range body {
		names := bytes.SplitAfter(body[s], []byte{0})
		slices.SortFunc(names, bytes.Compare)
		list[s] = bytes.Join(names, nil)
	}
	t.compareBytes(fuse.Listxattr, list)
}

func (t *talk) removexattr() {
	_, _ = t.call(fuse.Removexattr, t.node(), 0, both(str(some(t, attributes))))
}

func (t *talk) access() {
	_, _ = t.call(fuse.Access, t.node(), 0, both(u32(some(t, []uint32{0, 4, 2}), 0)))
}

// forget gives a node back that nothing is open of, with all its names.
func (t *talk) forget() {
	n := t.node()
	if n == t.root || n.open > 0 {
		return
	}
	for at := range t.tree {
		if at.dir == n {
			return // a guest's kernel keeps the parents of what it knows
		}
	}
	for s := range t.sides {
		t.unique += 2
		t.sides[s].serve(t.message(s, fuse.Forget, n, u64(n.lookups)), 0)
	}
	t.compared++
	t.succeeded++
	for at, x := range t.tree {
		if x == n {
			delete(t.tree, at)
		}
	}
	t.nodes = slices.DeleteFunc(t.nodes, func(x *node) bool { return x == n })
}
