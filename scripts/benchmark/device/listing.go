package device

import (
	"fmt"

	"tenon/scripts/benchmark/ring"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

const (
	// listings is how many listings of the same directory go on at once.
	listings = 8
	// listPage is the room Linux 6.12 gives a READDIRPLUS.
	listPage = 4096
)

// listing is one READDIRPLUS, which is sent until the directory ends.
type listing struct {
	*ring.Request
	names int // entries so far but for "." and ".."
}

// reset makes the next page the first.
func (l *listing) reset(fh uint64) {
	le.PutUint64(l.Args, fh)
	le.PutUint64(l.Args[8:], 0)
	l.names = 0
}

// turn goes through a page and asks for the next. Inodes that the guest has to forget
// are appended to nodes.
func (l *listing) turn(nodes []virtiofs.NodeID) ([]virtiofs.NodeID, error) {
	page := l.Data[0][:l.Length()]
	for len(page) > 0 {
		if len(page) < fuse.DirentplusSize {
			return nodes, fmt.Errorf("READDIRPLUS: %d bytes at the end of a page", len(page))
		}
		dirent := page[fuse.EntryOutSize:]
		n := int(le.Uint32(dirent[16:]))
		length := fuse.EntryOutSize + fuse.DirentLen(n)
		if length > len(page) {
			return nodes, fmt.Errorf("READDIRPLUS: a name of %d bytes in %d", n, len(page))
		}
		name := dirent[fuse.DirentSize:][:n]
		if string(name) != "." && string(name) != ".." {
			l.names++
			node := entryNode(page)
			if node == 0 {
				return nodes, fmt.Errorf("READDIRPLUS: %q comes without attributes", name)
			}
			nodes = append(nodes, node)
		}
		copy(l.Args[8:16], dirent[8:16])
		page = page[length:]
	}
	return nodes, nil
}

// lister lists a directory several times at once.
type lister struct {
	d     *driven
	list  []*listing
	going []*ring.Request   // those that have not come to the end
	nodes []virtiofs.NodeID // of all entries
}

func newLister(d *driven, n int) (*lister, error) {
	l := &lister{d: d, nodes: make([]virtiofs.NodeID, 0, n*(listed+2)), going: make([]*ring.Request, 0, n)}
	for range n {
		r, err := d.share.Add(ring.Requests, ring.Spec{
			Op: fuse.Readdirplus, Node: d.listDir, Args: fstest.ReadArgs(0, 0, listPage), Data: listPage, Want: ring.Any,
		})
		if err != nil {
			return nil, err
		}
		l.list = append(l.list, &listing{Request: r})
	}
	return l, nil
}

// start makes all listings begin again.
func (l *lister) start() {
	l.nodes, l.going = l.nodes[:0], l.going[:0]
	for i, x := range l.list {
		x.reset(l.d.listFHs[i])
		l.going = append(l.going, x.Request)
	}
}

// turn goes through the pages that have come, and finds out who goes on.
func (l *lister) turn() (err error) {
	l.going = l.going[:0]
	for _, x := range l.list {
		if x.Length() == 0 {
			continue
		}
		if l.nodes, err = x.turn(l.nodes); err != nil {
			return err
		}
		l.going = append(l.going, x.Request)
	}
	return nil
}

// batch does all listings once.
func (l *lister) batch(w *watch) error {
	for l.start(); len(l.going) > 0; {
		if err := w.do(l.d.share, l.going); err != nil {
			return err
		}
		if err := l.turn(); err != nil {
			return err
		}
	}
	for _, x := range l.list {
		if x.names != listed {
			return fmt.Errorf("READDIRPLUS: %d entries, not %d", x.names, listed)
		}
	}
	return nil
}

// readdirplus lists a directory, x.n times at once. With x.fresh the guest forgets the
// inodes each time, otherwise it knows them.
func (d *driven) readdirplus(x row) (work, error) {
	l, err := newLister(d, x.n)
	if err != nil {
		return work{}, err
	}
	if !x.fresh {
		return work{n: x.n, batch: l.batch}, nil
	}
	return work{n: x.n, batch: func(w *watch) error {
		if err := l.batch(w); err != nil {
			return err
		}
		return d.share.Forget(l.nodes)
	}}, nil
}
