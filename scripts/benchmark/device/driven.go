package device

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"tenon/scripts/benchmark/ring"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

var le = binary.LittleEndian

// openFlags are those of a file that Linux opens for reading and writing.
const openFlags = unix.O_RDWR | 0x8000 // O_LARGEFILE, which x/sys has as 0 here

// driven is a side that a driver drives through rings.
type driven struct {
	dir           string
	share         *ring.Share
	knownDir      virtiofs.NodeID
	manyDir       virtiofs.NodeID
	listDir       virtiofs.NodeID
	madeDir       virtiofs.NodeID
	knownNodes    []virtiofs.NodeID
	data, written virtiofs.NodeID
	dataFH        uint64
	writtenFH     uint64
	listFHs       []uint64
}

// newDriven starts a session and looks up what most rows are about. dax says that there
// is a window.
func newDriven(dir string, start ring.Start, dax bool) (*driven, error) {
	share, err := ring.Open(start, ring.Options{DAX: dax})
	if err != nil {
		return nil, err
	}
	d := &driven{dir: dir, share: share}
	if err := d.find(); err != nil {
		return nil, errors.Join(err, share.Close())
	}
	share.Rewind()
	return d, nil
}

// find looks up files and directories and opens what is read, written and listed.
func (d *driven) find() (err error) {
	for _, x := range []struct {
		name string
		to   *virtiofs.NodeID
	}{{"known", &d.knownDir}, {"many", &d.manyDir}, {"list", &d.listDir}, {"made", &d.madeDir}, {"data", &d.data}, {"written", &d.written}} {
		if *x.to, err = d.lookup(fuse.RootID, x.name); err != nil {
			return err
		}
	}
	for i := range known {
		n, err := d.lookup(d.knownDir, knownName(i))
		if err != nil {
			return err
		}
		d.knownNodes = append(d.knownNodes, n)
	}
	if d.dataFH, err = d.open(fuse.Open, d.data, openFlags); err != nil {
		return err
	}
	if d.writtenFH, err = d.open(fuse.Open, d.written, openFlags); err != nil {
		return err
	}
	for range listings {
		fh, err := d.open(fuse.Opendir, d.listDir, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		d.listFHs = append(d.listFHs, fh)
	}
	return nil
}

// call has one request answered; the reply is good until the next Rewind.
func (d *driven) call(spec ring.Spec) ([]byte, error) {
	r, err := d.share.Add(ring.Requests, spec)
	if err != nil {
		return nil, err
	}
	_, err = d.share.Do(ring.Requests, r)
	return r.Reply, err
}

func (d *driven) lookup(dir virtiofs.NodeID, name string) (virtiofs.NodeID, error) {
	reply, err := d.call(lookupSpec(dir, name))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return entryNode(reply), nil
}

func (d *driven) open(op fuse.Opcode, node virtiofs.NodeID, flags uint32) (fh uint64, err error) {
	reply, err := d.call(openSpec(op, node, flags))
	if err != nil {
		return 0, err
	}
	return le.Uint64(reply), nil
}

// build makes n requests.
func (d *driven) build(n int, spec func(i int) ring.Spec) ([]*ring.Request, error) {
	list := make([]*ring.Request, n)
	for i := range list {
		r, err := d.share.Add(ring.Requests, spec(i))
		if err != nil {
			return nil, err
		}
		list[i] = r
	}
	return list, nil
}

// entryNode, entrySize and attrSize are of fuse_entry_out and fuse_attr_out.
func entryNode(reply []byte) virtiofs.NodeID { return virtiofs.NodeID(le.Uint64(reply)) }
func entrySize(reply []byte) uint64          { return le.Uint64(reply[40+8:]) }
func attrSize(reply []byte) uint64           { return le.Uint64(reply[16+8:]) }

// getattr asks for the attributes of known inodes, as stat(2) does when they are
// older than they may be.
func (d *driven) getattr(row) (work, error) {
	list, err := d.build(known, func(i int) ring.Spec {
		return ring.Spec{Op: fuse.Getattr, Node: d.knownNodes[i], Args: make([]byte, 16), Reply: fuse.AttrOutSize, Want: fuse.AttrOutSize}
	})
	return work{
		n:     known,
		batch: func(w *watch) error { return w.do(d.share, list) },
		verify: func() error {
			return sizes(known, func(i int) uint64 { return attrSize(list[i].Reply) })
		},
	}, err
}

// sizes holds the sizes of n files against those they were made with.
func sizes(n int, size func(i int) uint64) error {
	for i := range n {
		if got := size(i); got != uint64(i) {
			return fmt.Errorf("file %d has %d bytes", i, got)
		}
	}
	return nil
}

// lookupSpec is LOOKUP of a name.
func lookupSpec(dir virtiofs.NodeID, name string) ring.Spec {
	return ring.Spec{Op: fuse.Lookup, Node: dir, Args: fstest.Str(name), Reply: fuse.EntryOutSize, Want: fuse.EntryOutSize}
}

// lookupKnown looks up names of inodes that the guest knows already.
func (d *driven) lookupKnown(row) (work, error) {
	list, err := d.build(known, func(i int) ring.Spec { return lookupSpec(d.knownDir, knownName(i)) })
	return work{
		n:     known,
		batch: func(w *watch) error { return w.do(d.share, list) },
		verify: func() error {
			for i, r := range list {
				if n := entryNode(r.Reply); n != d.knownNodes[i] {
					return fmt.Errorf("%s is inode %d, not %d", knownName(i), n, d.knownNodes[i])
				}
			}
			return sizes(known, func(i int) uint64 { return entrySize(list[i].Reply) })
		},
	}, err
}

// lookupNew looks up names of inodes that the guest does not know. It forgets them
// off the clock: Linux does when it wants the memory, whoever looks up then.
func (d *driven) lookupNew(row) (work, error) {
	list, err := d.build(known, func(i int) ring.Spec { return lookupSpec(d.manyDir, manyName(i)) })
	nodes, names := make([]virtiofs.NodeID, known), make([][]byte, unknown)
	for i := range names {
		names[i] = fstest.Str(manyName(i))
	}
	at := 0
	batch := func(w *watch) error {
		at = (at + known) % unknown
		for i, r := range list {
			copy(r.Args, names[at+i])
		}
		if err := w.do(d.share, list); err != nil {
			return err
		}
		for i, r := range list {
			nodes[i] = entryNode(r.Reply)
		}
		return d.share.Forget(nodes)
	}
	return work{n: known, batch: batch, verify: func() error {
		return sizes(known, func(i int) uint64 { return entrySize(list[i].Reply) - uint64(at) })
	}}, err
}

// openSpec is OPEN or OPENDIR.
func openSpec(op fuse.Opcode, node virtiofs.NodeID, flags uint32) ring.Spec {
	return ring.Spec{Op: op, Node: node, Args: fstest.U32(flags, 0), Reply: fuse.OpenOutSize, Want: fuse.OpenOutSize}
}

// releaseSpec is RELEASE of a handle that is written into it later.
func releaseSpec(node virtiofs.NodeID) ring.Spec {
	return ring.Spec{Op: fuse.Release, Node: node, Args: append(fstest.U64(0), fstest.U32(openFlags, 0, 0, 0)...)}
}

// openRelease opens known files, and then closes them.
func (d *driven) openRelease(row) (work, error) {
	opens, err := d.build(known, func(i int) ring.Spec {
		return openSpec(fuse.Open, d.knownNodes[i], openFlags)
	})
	if err != nil {
		return work{}, err
	}
	releases, err := d.build(known, func(i int) ring.Spec { return releaseSpec(d.knownNodes[i]) })
	return work{n: known, batch: func(w *watch) error {
		if err := w.do(d.share, opens); err != nil {
			return err
		}
		for i, r := range releases {
			copy(r.Args, opens[i].Reply[:8])
		}
		return w.do(d.share, releases)
	}}, err
}

// read reads pieces of a file, each into pages of its own.
func (d *driven) read(x row) (work, error) {
	list, err := d.build(x.n, func(i int) ring.Spec {
		args := fstest.ReadArgs(d.dataFH, uint64(i*x.size), uint32(x.size))
		le.PutUint32(args[32:], openFlags)
		return ring.Spec{Op: fuse.Read, Node: d.data, Args: args, Data: x.size, Shape: x.shape, Want: x.size}
	})
	return work{
		n:     x.n,
		batch: func(w *watch) error { return w.do(d.share, list) },
		verify: func() error {
			return checkData(payloads(list), x.size, dataStamp)
		},
	}, err
}

// payloads is the data of requests.
func payloads(list []*ring.Request) [][][]byte {
	var data [][][]byte
	for _, r := range list {
		data = append(data, r.Data)
	}
	return data
}

// write overwrites pieces of a file.
func (d *driven) write(x row) (work, error) {
	list, err := d.build(x.n, func(i int) ring.Spec {
		args := fstest.WriteArgs(d.writtenFH, uint64(i*x.size), uint32(x.size), openFlags, 0)
		return ring.Spec{Op: fuse.Write, Node: d.written, Args: args, Reply: 8, Data: x.size, Shape: x.shape, Want: 8}
	})
	if err != nil {
		return work{}, err
	}
	stampData(payloads(list), x.size, x.kind())
	if err := blank(d.dir, x); err != nil {
		return work{}, err
	}
	return work{
		n:     x.n,
		batch: func(w *watch) error { return w.do(d.share, list) },
		verify: func() error {
			for _, r := range list {
				if n := le.Uint32(r.Reply); int(n) != x.size {
					return fmt.Errorf("WRITE: %d bytes written, not %d", n, x.size)
				}
			}
			return checkWritten(d.dir, x)
		},
	}, err
}

// createUnlink creates files, closes and removes them.
func (d *driven) createUnlink(row) (work, error) {
	creates, err := d.build(known, func(i int) ring.Spec {
		flags := uint32(openFlags | unix.O_CREAT | unix.O_EXCL)
		args := append(fstest.U32(flags, unix.S_IFREG|0o644, 0o022, 0), fstest.Str(madeName(i))...)
		const reply = fuse.EntryOutSize + fuse.OpenOutSize
		return ring.Spec{Op: fuse.Create, Node: d.madeDir, Args: args, Reply: reply, Want: reply}
	})
	if err != nil {
		return work{}, err
	}
	releases, err := d.build(known, func(int) ring.Spec { return releaseSpec(0) })
	if err != nil {
		return work{}, err
	}
	unlinks, err := d.build(known, func(i int) ring.Spec {
		return ring.Spec{Op: fuse.Unlink, Node: d.madeDir, Args: fstest.Str(madeName(i))}
	})
	nodes := make([]virtiofs.NodeID, known)
	return work{n: known, batch: func(w *watch) error {
		if err := w.do(d.share, creates); err != nil {
			return err
		}
		for i, r := range creates {
			nodes[i] = entryNode(r.Reply)
			releases[i].SetNode(nodes[i])
			copy(releases[i].Args, r.Reply[fuse.EntryOutSize:][:8])
		}
		if err := w.do(d.share, releases); err != nil {
			return err
		}
		if err := w.do(d.share, unlinks); err != nil {
			return err
		}
		return d.share.Forget(nodes)
	}}, err
}

// mapRange is how much Linux maps at once (FUSE_DAX_SHIFT), and mapped how many such
// ranges a batch maps.
const (
	mapRange   = 2 << 20
	mapped     = 64
	windowSize = mapped * mapRange
)

// setupRemove maps pieces of a file into the window and takes them away again.
func (d *driven) setupRemove(row) (work, error) {
	setups, err := d.build(mapped, func(i int) ring.Spec {
		args := fstest.MapArgs(^uint64(0), mapOffset(i), mapRange, fuse.MapRead, uint64(i*mapRange))
		return ring.Spec{Op: fuse.SetupMapping, Node: d.data, Args: args}
	})
	if err != nil {
		return work{}, err
	}
	removes, err := d.build(mapped, func(i int) ring.Spec {
		return ring.Spec{Op: fuse.RemoveMapping, Node: d.data, Args: append(fstest.U32(1), fstest.U64(uint64(i*mapRange), mapRange)...)}
	})
	return work{n: mapped, batch: func(w *watch) error {
		if err := w.do(d.share, setups); err != nil {
			return err
		}
		return w.do(d.share, removes)
	}}, err
}

func mapOffset(i int) uint64 { return uint64(i*mapRange) % dataSize }
