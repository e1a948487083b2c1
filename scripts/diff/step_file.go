package main

import (
	"bytes"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// keep notes an open file or directory.
func (t *talk) keep(n *node, dir bool, flags uint32, body [2][]byte, off int) {
	n.open++
	t.files = append(t.files, &file{n, [2]uint64{le.Uint64(body[ours][off:]), le.Uint64(body[theirs][off:])}, dir, flags})
}

func (t *talk) flags() uint32 {
	return some(t, []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR, unix.O_RDWR | unix.O_TRUNC})
}

func (t *talk) open() {
	n, flags := t.node(), t.flags()
	if n.kind != unix.S_IFREG {
		return // a guest's kernel opens the others itself, or not at all
	}
	if body, err := t.call(fuse.Open, n, fuse.OpenOutSize, both(u32(flags, 0))); err == nil {
		t.keep(n, false, flags, body, 0)
	}
}

func (t *talk) create() {
	at, flags := t.place(), t.flags()|some(t, []uint32{0, unix.O_EXCL})
	if t.tree[at] == nil {
		t.make(fuse.Lookup, at, str(at.name))
	}
	if t.tree[at] != nil || t.over {
		return // a guest's kernel would OPEN
	}
	body, err := t.call(fuse.Create, at.dir, fuse.EntryOutSize+fuse.OpenOutSize, both(u32(flags|unix.O_CREAT, t.newMode(), 0, 0), str(at.name)))
	if err != nil {
		return
	}
	if n := t.entry(fuse.Create, at, entries(body)); n != nil {
		t.keep(n, false, flags, body, fuse.EntryOutSize)
	}
}

func (t *talk) opendir() {
	n := t.dir()
	if body, err := t.call(fuse.Opendir, n, fuse.OpenOutSize, both(u32(0, 0))); err == nil {
		t.keep(n, true, 0, body, 0)
	}
}

func (t *talk) release() {
	f := some(t, t.files)
	if f == nil {
		return
	}
	op := fuse.Release
	if f.dir {
		op = fuse.Releasedir
	}
	_, _ = t.call(op, f.node, 0, func(s int) []byte { return u64(f.fh[s], 0, 0) })
	f.node.open--
	t.files = slices.DeleteFunc(t.files, func(x *file) bool { return x == f })
}

// on sends a request about an open file; args begin after the handle.
func (t *talk) on(op fuse.Opcode, f *file, room int, args ...[]byte) (body [2][]byte, err error) {
	rest := bytes.Join(args, nil)
	return t.call(op, f.node, room, func(s int) []byte { return append(u64(f.fh[s]), rest...) })
}

func (t *talk) read() {
	f := t.file(false)
	if f == nil || f.flags&unix.O_ACCMODE == unix.O_WRONLY {
		return
	}
	if body, err := t.on(fuse.Read, f, 8192, u64(t.size()), u32(8192, 0), u64(0), u32(f.flags, 0)); err == nil {
		t.compareBytes(fuse.Read, body)
	}
}

func (t *talk) write() {
	f := t.file(false)
	if f == nil || f.flags&unix.O_ACCMODE == unix.O_RDONLY {
		return
	}
	data := make([]byte, some(t, []int{1, 100, 4096, 5000}))
	for i := range data {
		data[i] = byte(t.rng.Uint32())
	}
	if body, err := t.on(fuse.Write, f, 8, u64(t.size()), u32(uint32(len(data)), 0), u64(0), u32(f.flags, 0), data); err == nil {
		t.compareBytes(fuse.Write, body)
	}
}

func (t *talk) sync() {
	if f := some(t, t.files); f != nil {
		op := fuse.Fsync
		if f.dir {
			op = fuse.Fsyncdir
		}
		_, _ = t.on(op, f, 0, u32(1, 0))
	}
}

// byRoot keeps set-id bits on both sides: the loopback file system keeps them for
// anyone.
func (t *talk) byRoot() { t.uid, t.gid = 0, 0 }

func (t *talk) fallocate() {
	t.byRoot()
	f := t.file(false)
	if f == nil || f.flags&unix.O_ACCMODE == unix.O_RDONLY {
		return
	}
	mode := some(t, []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE})
	_, _ = t.on(fuse.Fallocate, f, 0, u64(t.size(), t.size()), u32(mode, 0))
}

func (t *talk) lseek() {
	f := t.file(false)
	if f == nil {
		return
	}
	whence := some(t, []uint32{unix.SEEK_DATA, unix.SEEK_HOLE})
	if body, err := t.on(fuse.Lseek, f, 8, u64(t.size()), u32(whence, 0)); err == nil {
		t.compareBytes(fuse.Lseek, body)
	}
}

func (t *talk) copyRange() {
	t.byRoot()
	from, to := t.file(false), t.file(false)
	if from == nil || to == nil || from.node == to.node || from.flags&unix.O_ACCMODE == unix.O_WRONLY || to.flags&unix.O_ACCMODE == unix.O_RDONLY {
		return
	}
	a, b, n := t.size(), t.size(), t.size()
	body, err := t.call(fuse.CopyFileRange, from.node, 8, func(s int) []byte {
		return u64(from.fh[s], a, to.node.id[s], to.fh[s], b, n, 0)
	})
	if err == nil {
		t.compareBytes(fuse.CopyFileRange, [2][]byte{body[ours][:4], body[theirs][:4]})
	}
}

func (t *talk) ioctl() {
	if f := t.file(false); f != nil {
		_, _ = t.on(fuse.Ioctl, f, 16, u32(0, unix.TCGETS), u64(0), u32(0, 0))
	}
}

// readdir lists a whole directory; the order is the host's own affair. With
// attributes, every entry counts a lookup.
func (t *talk) readdir() {
	f := t.file(true)
	if f == nil {
		return
	}
	op := some(t, []fuse.Opcode{fuse.Readdir, fuse.Readdirplus})
	var lists [2][]string
	var found [2]map[string]fstest.Entry
	var cookie [2]uint64
	found[ours], found[theirs] = map[string]fstest.Entry{}, map[string]fstest.Entry{}
	for more := true; more; {
		body, err := t.call(op, f.node, 4096, func(s int) []byte { return fstest.ReadArgs(f.fh[s], cookie[s], 4096) })
		if err != nil {
			return
		}
		more = false
		for s := range body {
			more = more || len(body[s]) > 0
			cookie[s] = parse(body[s], op == fuse.Readdirplus, cookie[s], func(e fstest.Entry, name string, typ uint32) {
				lists[s] = append(lists[s], fmt.Sprintf("%s:%d", name, typ))
				found[s][name] = e
			})
		}
	}
	for s := range lists {
		slices.Sort(lists[s])
	}
	if !slices.Equal(lists[ours], lists[theirs]) {
		t.report("%v: %v here, %v there", op, lists[ours], lists[theirs])
		return
	}
	for name, a := range found[ours] {
		b := found[theirs][name]
		if a.Node != 0 && b.Node != 0 {
			t.entry(op, place{f.node, name}, [2]fstest.Entry{a, b})
		} else if (a.Node == 0) != (b.Node == 0) {
			t.report("%v: %s has node %d here, %d there", op, name, a.Node, b.Node)
		}
	}
}

// parse goes through the entries of one reply and returns the next cookie.
func parse(b []byte, plus bool, cookie uint64, each func(e fstest.Entry, name string, typ uint32)) uint64 {
	for len(b) > 0 {
		var e fstest.Entry
		if plus {
			e = fstest.ParseEntry(b)
			b = b[fuse.EntryOutSize:]
		}
		n := int(le.Uint32(b[16:]))
		cookie = le.Uint64(b[8:])
		each(e, string(b[fuse.DirentSize:fuse.DirentSize+n]), le.Uint32(b[20:]))
		b = b[fuse.DirentLen(n):]
	}
	return cookie
}
