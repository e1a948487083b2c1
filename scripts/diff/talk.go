package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

var le = binary.LittleEndian

// node is an inode that the guest knows, with its id on either side.
type node struct {
	id, ino [2]uint64
	lookups uint64
	kind    uint32 // S_IFMT part of the mode
	names   int    // how many the guest knows of
	open    int
}

// file is an open file or directory.
type file struct {
	node  *node
	fh    [2]uint64
	dir   bool
	flags uint32
}

// place is a name in a directory.
type place struct {
	dir  *node
	name string
}

// talk is one conversation with both servers: what a guest's kernel knows.
type talk struct {
	result
	rng    *rand.Rand
	sides  [2]side
	roots  [2]string
	root   *node
	nodes  []*node
	files  []*file
	tree   map[place]*node
	unique uint64
	uid    uint32
	gid    uint32
}

func newTalk(dir string, seed uint64) (*talk, error) {
	t := &talk{rng: rand.New(rand.NewPCG(seed, 0)), tree: map[place]*node{}}
	var err error
	if t.sides, t.roots, err = newSides(dir); err != nil {
		return nil, err
	}
	t.root = &node{id: [2]uint64{1, 1}, lookups: 1, kind: unix.S_IFDIR, names: 1}
	t.nodes = []*node{t.root}
	const flags = fuse.AsyncRead | fuse.AtomicOTrunc | fuse.BigWrites | fuse.DoReaddirplus | fuse.MaxPages
	for s := range t.sides {
		t.unique += 2
		reply := t.sides[s].serve(t.message(s, fuse.Init, nil, fstest.U32(fuse.Major, 38, 128<<10, uint32(flags), 0), make([]byte, 44)), 80)
		if len(reply) < 16 || le.Uint32(reply[4:]) != 0 {
			return nil, fmt.Errorf("INIT is not accepted by side %d: %x", s, reply)
		}
	}
	return t, nil
}

// converse is one conversation, and a look at what it has made.
func (t *talk) converse(requests int) {
	t.conversations = 1
	for t.compared < requests && !t.over {
		t.step()
	}
	if !t.over {
		t.compareTrees()
	}
}

// message is the bytes of a request for one side.
func (t *talk) message(s int, op fuse.Opcode, n *node, args ...[]byte) []byte {
	var body []byte
	for _, a := range args {
		body = append(body, a...)
	}
	id := uint64(0)
	if n != nil {
		id = n.id[s]
	}
	b := fstest.U32(fuse.InHeaderSize+uint32(len(body)), uint32(op))
	b = append(b, fstest.U64(t.unique, id)...)
	b = append(b, fstest.U32(t.uid, t.gid, 4711, 0)...)
	return append(b, body...)
}

var errDiffer = errors.New("the sides differ")

// exchange sends a request to both sides. args makes the arguments for one side.
func (t *talk) exchange(op fuse.Opcode, n *node, room int, args func(s int) []byte) (e [2]unix.Errno, body [2][]byte) {
	t.unique += 2
	for s := range t.sides {
		reply := t.sides[s].serve(t.message(s, op, n, args(s)), fuse.OutHeaderSize+room)
		if len(reply) < fuse.OutHeaderSize || int(le.Uint32(reply)) != len(reply) || le.Uint64(reply[8:]) != t.unique {
			t.report("%v: side %d: bad reply %x", op, s, reply)
			return [2]unix.Errno{unix.EPROTO, unix.EPROTO}, body
		}
		e[s] = unix.Errno(-int32(le.Uint32(reply[4:])))
		body[s] = reply[fuse.OutHeaderSize:]
	}
	return e, body
}

// call is exchange that compares the errors. The bodies of the replies are
// returned when both sides succeeded, else an error.
func (t *talk) call(op fuse.Opcode, n *node, room int, args func(s int) []byte) (body [2][]byte, err error) {
	e, body := t.exchange(op, n, room, args)
	t.compared++
	switch {
	case e[ours] != e[theirs]:
		t.report("%v on a %s: %s here, %s there", op, kindName(n.kind), errName(e[ours]), errName(e[theirs]))
		return body, errDiffer
	case e[ours] != 0:
		return body, e[ours]
	}
	t.succeeded++
	return body, nil
}

// both is arguments that are the same for both sides.
func both(b ...[]byte) func(int) []byte {
	var all []byte
	for _, x := range b {
		all = append(all, x...)
	}
	return func(int) []byte { return all }
}

// entries are those that two replies begin with.
func entries(body [2][]byte) [2]fstest.Entry {
	return [2]fstest.Entry{fstest.ParseEntry(body[ours]), fstest.ParseEntry(body[theirs])}
}

// entry learns the node of a reply and compares the attributes.
func (t *talk) entry(op fuse.Opcode, at place, a [2]fstest.Entry) *node {
	var n *node
	for _, x := range t.nodes {
		same := [2]bool{x.id[ours] == uint64(a[ours].Node), x.id[theirs] == uint64(a[theirs].Node)}
		if same[ours] != same[theirs] {
			t.report("%v of %q: node %d is %d to the other side, and was another", op, at.name, a[ours].Node, a[theirs].Node)
			t.over = true
			return nil
		}
		if same[ours] {
			n = x
		}
	}
	if n == nil {
		n = &node{id: [2]uint64{uint64(a[ours].Node), uint64(a[theirs].Node)}, kind: a[ours].Attr.Mode & unix.S_IFMT}
		t.nodes = append(t.nodes, n)
	}
	t.compareAttr(op, n, a[ours].Attr, a[theirs].Attr)
	n.lookups++
	t.bind(at, n)
	return n
}

// bind notes that the place holds the node now; nil: nothing.
func (t *talk) bind(at place, n *node) {
	if at.name == "" {
		return
	}
	if old := t.tree[at]; old != nil {
		old.names--
	}
	delete(t.tree, at)
	if n != nil {
		t.tree[at] = n
		n.names++
	}
}

// some is one of the list; the zero value when it is empty.
func some[T any](t *talk, list []T) (x T) {
	if len(list) == 0 {
		return x
	}
	return list[t.rng.IntN(len(list))]
}

// node is one that has a name: the other side knows nodes by their names.
func (t *talk) node() *node {
	for range 8 {
		if n := some(t, t.nodes); n.names > 0 {
			return n
		}
	}
	return t.root
}

// dir is mostly a directory.
func (t *talk) dir() *node {
	for range 8 {
		if n := t.node(); n.kind == unix.S_IFDIR {
			return n
		}
	}
	return t.root
}

func (t *talk) file(dir bool) *file {
	for range 8 {
		if f := some(t, t.files); f != nil && f.dir == dir {
			return f
		}
	}
	return nil
}

func (t *talk) name() string { return some(t, []string{"a", "b", "c", "dd", "ee", "über", "x y"}) }

func (t *talk) size() uint64 { return some(t, []uint64{0, 1, 10, 4095, 4096, 5000, 70000}) }

// mode is for SETATTR.
func (t *talk) mode() uint32 {
	return some(t, []uint32{0o644, 0o600, 0o755, 0o4755, 0o1777, 0o2770, 0})
}

// newMode is for what is created. The loopback file system loses set-id and
// sticky bits there: it opens first and changes the owner then.
func (t *talk) newMode() uint32 { return some(t, []uint32{0o644, 0o600, 0o755, 0o777, 0o400}) }
