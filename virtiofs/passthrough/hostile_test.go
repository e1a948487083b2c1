package passthrough

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/fuse"
)

// hostile is one thread of a guest that asks for anything in any order, with
// nodes and handles that others have forgotten and released.
type hostile struct {
	f     *FS
	t     *testing.T
	r     *rand.Rand
	known *shelf
}

// shelf is what the threads of a guest tell each other.
type shelf struct {
	mu    sync.Mutex
	nodes [64]virtiofs.NodeID
	files [64]virtiofs.File
}

func (h *hostile) node() virtiofs.NodeID {
	if h.r.IntN(3) == 0 {
		return fuse.RootID
	}
	h.known.mu.Lock()
	defer h.known.mu.Unlock()
	return h.known.nodes[h.r.IntN(64)]
}

func (h *hostile) file() virtiofs.File {
	h.known.mu.Lock()
	defer h.known.mu.Unlock()
	return h.known.files[h.r.IntN(64)]
}

func (h *hostile) learn(id virtiofs.NodeID, e unix.Errno) {
	if e != 0 {
		return
	}
	h.known.mu.Lock()
	i := h.r.IntN(64)
	old := h.known.nodes[i]
	h.known.nodes[i] = id
	h.known.mu.Unlock()
	if h.r.IntN(2) == 0 {
		h.f.Forget(old, h.r.Uint64N(3))
	}
}

func (h *hostile) opened(id virtiofs.NodeID, fh virtiofs.Handle, e unix.Errno) {
	if e != 0 {
		return
	}
	h.known.mu.Lock()
	i := h.r.IntN(64)
	old := h.known.files[i]
	h.known.files[i] = virtiofs.File{Node: id, Handle: fh}
	h.known.mu.Unlock()
	if h.f.Release(old) != 0 {
		_ = h.f.Releasedir(old)
	}
}

func (h *hostile) name() virtiofs.Name { return name(h.t, fmt.Sprint("n", h.r.IntN(12))) }

func (h *hostile) step() {
	f, id := h.f, h.node()
	c := &virtiofs.Caller{UID: uint32(h.r.IntN(2)) * 1000, GID: uint32(h.r.IntN(2)) * 1000}
	o := virtiofs.OpenFlags{Flags: uint32(h.r.IntN(3)), Compare: h.r.IntN(2) == 0}
	var e virtiofs.Entry
	var a fuse.Attr
	switch h.r.IntN(24) {
	case 0, 1, 2:
		err := f.Lookup(id, h.name(), &e)
		h.learn(e.Node, err)
	case 3, 4:
		_ = f.Getattr(virtiofs.File{Node: id, Handle: h.file().Handle}, &a)
	case 5:
		fh, err := f.Create(c, id, h.name(), 0o644, o, &e)
		h.opened(e.Node, fh, err)
		h.learn(e.Node, err)
	case 6:
		fh, err := f.Tmpfile(c, id, 0o644, virtiofs.OpenFlags{Flags: unix.O_RDWR}, &e)
		h.opened(e.Node, fh, err)
		h.learn(e.Node, err)
	case 7:
		fh, _, err := f.Open(id, o)
		h.opened(id, fh, err)
	case 8:
		fh, err := f.Opendir(id)
		h.opened(id, fh, err)
	case 9:
		err := f.Mkdir(c, id, h.name(), 0o755, &e)
		h.learn(e.Node, err)
	case 10:
		err := f.Mknod(c, id, h.name(), unix.S_IFIFO|0o644, 0, &e)
		h.learn(e.Node, err)
	case 11:
		err := f.Symlink(c, id, h.name(), name(h.t, "etc").CString, &e)
		h.learn(e.Node, err)
	case 12:
		err := f.Link(h.node(), id, h.name(), &e)
		h.learn(e.Node, err)
	case 13:
		_ = f.Unlink(id, h.name())
	case 14:
		_ = f.Rmdir(id, h.name())
	case 15, 16:
		_ = f.Rename(id, h.name(), h.node(), h.name(), uint32(h.r.IntN(3)))
	case 17:
		f.Forget(id, h.r.Uint64N(4))
	case 18:
		file := h.file()
		_ = f.Setlk(file, &virtiofs.Lock{Owner: h.r.Uint64N(3), Start: h.r.Uint64N(9), End: 9, Type: uint32(h.r.IntN(3))})
		if h.r.IntN(4) == 0 {
			_ = f.Flush(file, h.r.Uint64N(3))
		}
	case 19:
		err := f.Parent(id, &e)
		h.learn(e.Node, err)
	case 20:
		err := f.Self(id, &e)
		h.learn(e.Node, err)
	case 21:
		h.probe(h.file())
		h.inProc(id)
	case 22:
		at := h.r.Uint64N(windowSize/dax.PageSize-4) * dax.PageSize
		_ = f.Map(id, virtiofs.Mapping{At: at, Len: (1 + h.r.Uint64N(4)) * dax.PageSize, Write: h.r.IntN(2) == 0, KillSuidgid: h.r.IntN(2) == 0})
		_ = f.Unmap(at, dax.PageSize)
	case 23:
		if fd, err := f.Reopen(uint64(id), h.r.IntN(2) == 0); err == 0 {
			closeFD(fd)
		}
	}
}

// probe asks a file who it is: a descriptor that has become another's answers
// with something that is neither a file nor a directory of the share.
func (h *hostile) probe(file virtiofs.File) {
	x, e := h.f.handles.pinAny(file)
	if e != 0 {
		return
	}
	defer h.f.handles.unpin(x)
	var st unix.Stat_t
	if e := fstat(x.fd, &st); e != 0 || x.dir != (st.Mode&unix.S_IFMT == unix.S_IFDIR) {
		h.t.Errorf("a handle's descriptor has mode %o, %v", st.Mode, e)
	}
}

// outside is a directory beside the share.
func outside(dir string) string { return dir + "-outside" }

// meddle is the host that changes the tree at the same time.
func meddle(dir string, r *rand.Rand) {
	path := func() string {
		p := filepath.Join(dir, fmt.Sprint("n", r.IntN(12)))
		for r.IntN(2) == 0 {
			p = filepath.Join(p, fmt.Sprint("n", r.IntN(12)))
		}
		return p
	}
	switch r.IntN(6) {
	case 0:
		_ = os.Rename(path(), path())
	case 1:
		_ = os.Remove(path())
	case 2:
		_ = os.Mkdir(path(), 0o755)
	case 3:
		// Not to wait for a reader of a guest's FIFO.
		if fd, err := unix.Open(path(), unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644); err == nil {
			closeFD(fd)
		}
	case 4:
		// Out of the share: this function itself goes there too, so not to the host's own.
		_ = os.Symlink(outside(dir), path())
	case 5:
		_ = unix.Renameat2(unix.AT_FDCWD, path(), unix.AT_FDCWD, path(), unix.RENAME_EXCHANGE)
	}
}

// remount is the host that mounts and unmounts in the share, /proc among others.
func remount(dir string, r *rand.Rand) {
	at := filepath.Join(dir, fmt.Sprint("n", r.IntN(3)))
	_ = unix.Unmount(at, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH*r.IntN(2))
	// Not by name: by now it may be a link to somewhere else.
	if fd, err := unix.Open(at, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Mount("none", fmt.Sprint("/proc/self/fd/", fd), []string{"tmpfs", "ramfs", "proc"}[r.IntN(3)], 0, "")
		closeFD(fd)
	}
	time.Sleep(200 * time.Microsecond)
}

// unmountBelow takes away what remount has left, wherever that was moved to.
func unmountBelow(t *testing.T, dir string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	for line := range strings.Lines(string(b)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, dir+"/") { // mount point (proc(5))
			_ = unix.Unmount(at, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
	}
}

// inProc says whether the node is on the host's /proc.
func (h *hostile) inProc(id virtiofs.NodeID) {
	var s unix.Statfs_t
	if h.f.Statfs(id, &s) == 0 && s.Type == 0x9fa0 {
		h.t.Error("the guest is in the host's /proc")
	}
}

// TestHostileStorm: whatever the threads of a guest ask for, while the host changes
// the tree and sessions begin anew, everything is given back at the end.
func TestHostileStorm(t *testing.T) {
	long := 500 * time.Millisecond
	if s := os.Getenv("TENON_TEST_STORM"); s != "" {
		var err error
		long, err = time.ParseDuration(s)
		check(t, err)
	}
	eachMode(t, func(t *testing.T, o Options) {
		dir := t.TempDir()
		check(t, os.Mkdir(outside(dir), 0o755))
		before := descriptors(t)
		f := shareDir(t, dir, 96, windowOptions(t, o))
		check(t, os.WriteFile(filepath.Join(dir, "n0"), nil, 0o644))
		id, _ := lookup(t, f, fuse.RootID, "n0")
		if e := mapFirst(f, id, false); e != 0 { // from now on the window has its descriptors
			t.Fatal(e)
		}
		f.Reset()
		held := descriptors(t) - before
		known := &shelf{}
		until := time.Now().Add(long)
		var all sync.WaitGroup
		run := func(seed uint64, step func(r *rand.Rand)) {
			all.Add(1)
			go func() {
				defer all.Done()
				r := rand.New(rand.NewPCG(seed, 1))
				for time.Now().Before(until) {
					step(r)
				}
			}()
		}
		for i := range uint64(8) {
			h := &hostile{f: f, t: t, known: known, r: rand.New(rand.NewPCG(i, 2))}
			run(i, func(*rand.Rand) { h.step() })
		}
		run(100, func(r *rand.Rand) { meddle(dir, r); time.Sleep(20 * time.Microsecond) })
		if unix.Geteuid() == 0 {
			defer unmountBelow(t, filepath.Dir(dir))
			run(102, func(r *rand.Rand) { remount(dir, r) })
		}
		run(101, func(r *rand.Rand) {
			time.Sleep(long / 20)
			f.Reset()
		})
		all.Wait()
		f.Reset()
		if s := f.Stats(); s != (Stats{}) || f.budget.Used() != 0 || f.locks.owners.Load() != 0 || f.locks.spans.Load() != 0 {
			t.Errorf("%+v, %d in use, %d owners of %d locks", s, f.budget.Used(), f.locks.owners.Load(), f.locks.spans.Load())
		}
		if now := descriptors(t) - before; now != held {
			t.Errorf("%d descriptors more", now-held)
		}
	})
}

// TestReleasedWhileLabelled: a guest that guesses the handle of a file before it is
// told, and releases it, does not have its labels put on whatever gets the
// descriptor's number.
func TestReleasedWhileLabelled(t *testing.T) {
	f := shareWith(t, 0, 1000, Options{})
	labels := make([]virtiofs.Label, 20)
	for i := range labels {
		labels[i] = virtiofs.Label{Name: name(t, fmt.Sprint("user.", i)).CString, Value: []byte("x")}
	}
	stop := make(chan struct{})
	var guesser sync.WaitGroup
	var round sync.Mutex
	next := "f0"
	guesser.Add(1)
	go func() {
		defer guesser.Done()
		for {
			select {
			case <-stop:
				return
			default:
			}
			round.Lock()
			s := next
			round.Unlock()
			var e virtiofs.Entry
			if f.Lookup(fuse.RootID, name(t, s), &e) == 0 {
				_ = f.Release(virtiofs.File{Node: e.Node, Handle: virtiofs.Handle(f.handles.last.Load())})
			}
		}
	}()
	for i := range 2000 {
		round.Lock()
		next = fmt.Sprint("f", i)
		s := next
		round.Unlock()
		var e virtiofs.Entry
		h, err := f.Create(&virtiofs.Caller{Labels: labels}, fuse.RootID, name(t, s), 0o644, virtiofs.OpenFlags{Flags: unix.O_RDWR}, &e)
		if err == unix.EOPNOTSUPP {
			t.Skip("SKIPPED: the file system has no extended attributes")
		}
		if err != 0 {
			t.Errorf("CREATE %d: %v", i, err)
			break
		}
		_ = f.Release(virtiofs.File{Node: e.Node, Handle: h})
	}
	close(stop)
	guesser.Wait()
}
