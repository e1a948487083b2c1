package scale

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"tenon/scripts/benchmark/figures"
	"tenon/scripts/benchmark/ring"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// filesEach is how many files a directory of the forest has.
const filesEach = 1000

// forest is directories of files, on a file system in memory where there is one: what
// counts is the server's table, and the host's part is to be small.
type forest struct {
	dir string
	fds []int // O_PATH, one a directory
}

func dirName(i int) string  { return fmt.Sprintf("directory-%04d", i) }
func leafName(i int) string { return fmt.Sprintf("file-%06d.c", i) }

// newForest makes so many files.
func newForest(o figures.Options, l *litter, files int) (*forest, error) {
	const shm = "/dev/shm"
	parent := o.Dir
	var st unix.Statfs_t
	if unix.Statfs(shm, &st) == nil && st.Type == unix.TMPFS_MAGIC && st.Ffree > uint64(files)*11/10 && st.Bavail > uint64(files) {
		parent = shm
	}
	dir, err := l.dir(parent)
	if err != nil {
		return nil, err
	}
	f := &forest{dir: dir}
	for d := range files / filesEach {
		if err := f.plant(dirName(d)); err != nil {
			f.close()
			return nil, err
		}
	}
	return f, nil
}

// plant makes one directory.
func (f *forest) plant(name string) error {
	dir := filepath.Join(f.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f.fds = append(f.fds, fd)
	for i := range filesEach {
		if err := unix.Mknodat(fd, leafName(i), unix.S_IFREG|0o644, 0); err != nil {
			return fmt.Errorf("%s/%s: %w", name, leafName(i), err)
		}
	}
	return nil
}

func (f *forest) close() {
	for _, fd := range f.fds {
		unix.Close(fd)
	}
}

// leaf is one file of the forest by number.
type leaf int

func (l leaf) dir() int     { return int(l) / filesEach }
func (l leaf) name() string { return leafName(int(l) % filesEach) }

// putName is name without an allocation, over that of another leaf: a collection of
// garbage is not to be in the figures of a table.
func (l leaf) putName(b []byte) {
	n := int(l) % filesEach
	for i := len("file-000000") - 1; i >= len("file-"); i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

// known is a share whose guest knows the first files of the forest.
type known struct {
	*ring.Share
	files int
	dirs  []virtiofs.NodeID
	some  [filesEach]virtiofs.NodeID // of the first directory's files
	// lookups and getattrs are as many requests as are made available at once.
	lookups, getattrs []*ring.Request
	rand              *rand.Rand
}

// atOnce is how many requests the device finds in the ring.
const atOnce = 64

// newKnown has the guest look up so many files, in no order: files that are neighbours
// on the host are not so in the server's table.
func newKnown(f *forest, files int) (k *known, err error) {
	s, err := ring.Open(ring.Local(f.dir, ring.LocalOptions{}), ring.Options{Memory: 1 << 20})
	if err != nil {
		return nil, err
	}
	k = &known{Share: s, files: files, rand: rand.New(rand.NewPCG(1, 2))}
	if err := k.meet(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return k, nil
}

// meet looks up the directories, and then the files.
func (k *known) meet() error {
	for d := range k.files / filesEach {
		k.Rewind()
		r, err := k.Add(ring.Requests, lookup(fuse.RootID, dirName(d)))
		if err == nil {
			_, err = k.Do(ring.Requests, r)
		}
		if err != nil {
			return err
		}
		k.dirs = append(k.dirs, fstest.ParseEntry(r.Reply).Node)
	}
	k.Rewind()
	for range atOnce {
		l, err := k.Add(ring.Requests, lookup(0, leaf(0).name()))
		if err != nil {
			return err
		}
		g, err := k.Add(ring.Requests, ring.Spec{Op: fuse.Getattr, Args: make([]byte, 16), Reply: fuse.AttrOutSize, Want: fuse.AttrOutSize})
		if err != nil {
			return err
		}
		k.lookups, k.getattrs = append(k.lookups, l), append(k.getattrs, g)
	}
	all := make([]leaf, 0, k.files)
	for _, i := range k.rand.Perm(k.files) {
		all = append(all, leaf(i))
	}
	_, err := k.lookUp(all)
	return err
}

// lookup is a request for a name that is there.
func lookup(dir virtiofs.NodeID, name string) ring.Spec {
	return ring.Spec{Op: fuse.Lookup, Node: dir, Args: fstest.Str(name), Reply: fuse.EntryOutSize, Want: fuse.EntryOutSize}
}

// lookUp has the device answer one LOOKUP for each of the leaves.
func (k *known) lookUp(leaves []leaf) (figures.Round, error) {
	return median(leaves, func(part []leaf) (time.Duration, error) {
		for i, l := range part {
			k.lookups[i].SetNode(k.dirs[l.dir()])
			l.putName(k.lookups[i].Args)
		}
		took, err := k.Do(ring.Requests, k.lookups[:len(part)]...)
		for i, l := range part {
			node := fstest.ParseEntry(k.lookups[i].Reply).Node
			if err == nil && node == 0 {
				err = fmt.Errorf("%s is missing", l.name())
			}
			if l.dir() == 0 {
				k.some[l] = node
			}
		}
		return took, err
	})
}

// attributes has it answer a GETATTR for each; they are in the first directory.
func (k *known) attributes(leaves []leaf) (figures.Round, error) {
	return median(leaves, func(part []leaf) (time.Duration, error) {
		for i, l := range part {
			k.getattrs[i].SetNode(k.some[l])
		}
		return k.Do(ring.Requests, k.getattrs[:len(part)]...)
	})
}

// median does something with all leaves, atOnce of them at a time. The time for one is
// that in the median part: what else the machine does falls on some of them.
func median(leaves []leaf, do func(part []leaf) (time.Duration, error)) (figures.Round, error) {
	var each []float64
	for part := range slices.Chunk(leaves, atOnce) {
		took, err := do(part)
		if err != nil {
			return figures.Round{}, err
		}
		each = append(each, float64(took.Nanoseconds())/float64(len(part)))
	}
	return figures.Round{Value: figures.SpreadOf(each).Median, Allocs: -1}, nil
}

// statx does what the server does for the leaves, and nothing else.
func (f *forest) statx(leaves []leaf) (figures.Round, error) {
	const mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID
	var names [atOnce]string // made where no clock runs
	var st unix.Statx_t
	return median(leaves, func(part []leaf) (time.Duration, error) {
		for i, l := range part {
			names[i] = l.name()
		}
		begin := time.Now()
		for i, l := range part {
			if err := unix.Statx(f.fds[l.dir()], names[i], unix.AT_SYMLINK_NOFOLLOW, mask, &st); err != nil {
				return 0, err
			}
		}
		return time.Since(begin), nil
	})
}

// Rows of inodes.
const (
	rowSame    = "LOOKUP of the same 500 known names"
	rowAny     = "LOOKUP of any known name"
	rowBare    = "statx of any of these names, without a server"
	rowGetattr = "GETATTR of the same 500 known files"
)

func inodesSide(n int) string { return fmt.Sprintf("%d inodes", n) }

// inodes measures LOOKUP and GETATTR by how many inodes the guest knows. The same names
// in the same directory cost the host the same whatever else there is. Any name of many
// costs everybody more, as what is known of it is in no cache of the processor: the
// host's part of that is measured beside it.
func inodes(o figures.Options, l *litter, r *figures.Report) error {
	sizes := []int{1000, 10_000, 100_000, 1_000_000}
	if o.Smoke {
		sizes = []int{1000, 2000}
	}
	if !slices.ContainsFunc([]string{rowSame, rowAny, rowBare, rowGetattr}, o.Wanted) {
		return nil
	}
	f, err := newForest(o, l, sizes[len(sizes)-1])
	if err != nil {
		return err
	}
	defer f.close()
	var shares []*known
	defer func() {
		for _, k := range shares {
			k.Close()
		}
	}()
	for _, n := range sizes {
		k, err := newKnown(f, n)
		if err != nil {
			return err
		}
		shares = append(shares, k)
	}
	first, last := inodesSide(sizes[0]), inodesSide(sizes[len(sizes)-1])
	for _, name := range []string{rowSame, rowGetattr} {
		r.Claims = append(r.Claims, figures.Claim{Row: name, Side: last, Base: first, Limit: 1.3})
	}
	return measureInodes(o, f, shares, r)
}

func measureInodes(o figures.Options, f *forest, shares []*known, r *figures.Report) error {
	trips := 20_000
	if o.Smoke {
		trips = 500
	}
	for _, x := range []struct {
		name string
		run  func(k *known) (figures.Round, error)
	}{
		{rowSame, func(k *known) (figures.Round, error) { return k.lookUp(fixed(trips)) }},
		{rowAny, func(k *known) (figures.Round, error) { return k.lookUp(k.random(trips)) }},
		{rowBare, func(k *known) (figures.Round, error) { return f.statx(k.random(trips)) }},
		{rowGetattr, func(k *known) (figures.Round, error) { return k.attributes(fixed(trips)) }},
	} {
		if !o.Wanted(x.name) {
			continue
		}
		var sides []figures.Side
		for _, k := range shares {
			sides = append(sides, figures.Side{Name: inodesSide(k.files), Run: func() (figures.Round, error) { return x.run(k) }})
		}
		row, err := figures.Measure(x.name, "ns", o.Rounds, sides...)
		if err != nil {
			return err
		}
		r.Rows = append(r.Rows, row)
	}
	return nil
}

// fixed is the same 500 files of the first directory again and again.
func fixed(n int) []leaf {
	list := make([]leaf, n)
	for i := range list {
		list[i] = leaf(i % 500 * 7919 % filesEach)
	}
	return list
}

// random is any of the known files.
func (k *known) random(n int) []leaf {
	list := make([]leaf, n)
	for i := range list {
		list[i] = leaf(k.rand.IntN(k.files))
	}
	return list
}
