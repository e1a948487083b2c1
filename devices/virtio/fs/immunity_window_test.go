package fs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue/queuetest"
	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// The immunity tests about buffers in the DAX window: the guest's own program maps a
// file and reads into the mapping, and the host may take the file away at any time.

// The window of these tests has a range for each way in which a page can be there.
const (
	shownAt   = windowAt                   // a file of two pages, for reading and writing
	beyondAt  = windowAt + 2*dax.PageSize  // behind its end
	keptAt    = windowAt + dax.RangeSize   // a file of two pages, for reading
	cutAt     = windowAt + 2*dax.RangeSize // a file that the host has emptied meanwhile
	nothingAt = windowAt + 3*dax.RangeSize // no file
	windowEnd = windowAt + 4*dax.RangeSize
)

// mapped is a share whose guest has mapped files.
type mapped struct {
	*share
	node virtiofs.NodeID // of the file that is read and written: two pages of it
	fh   uint64
}

func newMapped(tb testing.TB) *mapped {
	tb.Helper()
	w, err := dax.New(uint64(windowEnd - windowAt))
	if err != nil {
		tb.Fatal(err)
	}
	m := &mapped{share: serveDir(tb, passthrough.Options{Window: w}, virtiofs.Options{DAX: virtiofs.DAXInode})}
	m.start()
	return m
}

// start opens the session, maps the files and empties one of them.
func (m *mapped) start() {
	m.t.Helper()
	m.node, m.fh = m.mount("file")
	m.fill()
	for name, at := range map[string]memory.GPA{"shown": shownAt, "kept": keptAt, "cut": cutAt} {
		flags := fuse.MapRead
		if name != "kept" {
			flags |= fuse.MapWrite
		}
		if e := m.setup(m.lookup(name), flags, at); e != 0 {
			m.t.Fatalf("SETUPMAPPING of %s: %v", name, e)
		}
	}
	if err := os.Truncate(m.path("cut"), 0); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mapped) path(name string) string { return filepath.Join(m.dir, name) }

// contents of a file are its first letter, in small at first.
func contents(name string) []byte { return bytes.Repeat([]byte{name[0]}, 2*dax.PageSize) }

// fill gives every file its contents without a change of size, but for the one that
// is to be emptied.
func (m *mapped) fill() {
	m.t.Helper()
	for _, name := range []string{"file", "shown", "kept", "cut"} {
		if info, err := os.Stat(m.path(name)); name == "cut" && err == nil && info.Size() == 0 {
			continue
		}
		f, err := os.OpenFile(m.path(name), os.O_WRONLY|os.O_CREATE, 0o644)
		if err == nil {
			_, err = f.WriteAt(contents(name), 0)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *mapped) lookup(name string) virtiofs.NodeID {
	m.t.Helper()
	return fstest.ParseEntry(m.call(fuse.Lookup, rootNode, fuse.EntryOutSize, fstest.Str(name))).Node
}

func (m *mapped) setup(node virtiofs.NodeID, flags uint64, at memory.GPA) unix.Errno {
	m.t.Helper()
	q := m.prepare(fuse.SetupMapping, node, 0, fstest.MapArgs(^uint64(0), 0, dax.RangeSize, flags, uint64(at-windowAt)))
	e, _ := q.reply(q.pooled())
	return e
}

// file is what the host finds in a file.
func (m *mapped) file(name string) []byte {
	m.t.Helper()
	b, err := os.ReadFile(m.path(name))
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

// alive says that the device serves on, and that nothing has changed that must not.
func (m *mapped) alive() {
	m.t.Helper()
	if len(m.broke) != 0 {
		m.t.Fatalf("broken: %v", <-m.broke)
	}
	m.call(fuse.Getattr, m.node, fuse.AttrOutSize, make([]byte, 16))
	if !bytes.Equal(m.file("kept"), contents("kept")) {
		m.t.Error("a file that is mapped for reading has changed")
	}
}

// header is the reply's error, whose header must be in RAM; the rest may be anywhere.
func (q *request) header(used uint32) unix.Errno {
	q.t.Helper()
	h := q.rings[1].Read(q.buffers[q.writable()].At, fuse.OutHeaderSize)
	if n := binary.LittleEndian.Uint32(h); n != used {
		q.t.Errorf("out.len %d, used length %d", n, used)
	}
	return unix.Errno(-int32(binary.LittleEndian.Uint32(h[4:])))
}

// TestImmunity17Data: READ into and WRITE from a mapping.
func TestImmunity17Data(t *testing.T) {
	m := newMapped(t)
	page := func(c byte) []byte { return bytes.Repeat([]byte{c}, dax.PageSize) }
	for _, c := range []struct {
		name        string
		at          memory.GPA
		read, write unix.Errno
		written     []byte
	}{
		{"shown", shownAt, 0, 0, page('s')},
		{"shown, two pages of it", shownAt + 100, 0, 0, page('s')},
		{"for reading", keptAt, unix.EFAULT, 0, page('k')},
		{"behind the end", beyondAt, unix.EFAULT, unix.EFAULT, nil},
		{"far behind the end", keptAt - dax.PageSize, unix.EFAULT, unix.EFAULT, nil},
		{"half behind the end", beyondAt - 1000, unix.EFAULT, 0, page('s')[:1000]},
		{"cut", cutAt, unix.EFAULT, unix.EFAULT, nil},
		{"nothing", nothingAt, unix.EFAULT, 0, page(0)},
		{"from one file into another", cutAt - 1000, unix.EFAULT, unix.EFAULT, nil},
		{"the last page", windowEnd - dax.PageSize, unix.EFAULT, 0, page(0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.fill()
			q := m.prepare(fuse.Read, m.node, dax.PageSize, fstest.ReadArgs(m.fh, 0, dax.PageSize))
			q.buffers[3].At = c.at
			if e := q.header(q.pooled()); e != c.read {
				t.Errorf("READ: %v, want %v", e, c.read)
			} else if e == 0 {
				got := m.file("shown")[c.at-shownAt:]
				if !bytes.Equal(got[:dax.PageSize], page('f')) {
					t.Error("READ: other bytes are in the mapped file")
				}
			}
			m.alive()
			m.fill()
			q = m.prepare(fuse.Write, m.node, 8, fstest.WriteArgs(m.fh, 0, dax.PageSize, 0, 0), make([]byte, dax.PageSize))
			q.buffers[2].At = c.at
			e, body := q.reply(q.pooled())
			if e != c.write {
				t.Errorf("WRITE: %v, want %v", e, c.write)
			}
			if e == 0 && binary.LittleEndian.Uint32(body) != uint32(len(c.written)) {
				t.Errorf("WRITE: %d bytes, want %d", binary.LittleEndian.Uint32(body), len(c.written))
			}
			want := contents("file")
			copy(want, c.written)
			if !bytes.Equal(m.file("file"), want) {
				t.Error("WRITE: other bytes are in the file")
			}
			m.alive()
		})
	}
}

// TestImmunity17Grown: a file that has grown has its new pages in the window for the
// next request, as for the guest's processors, however soon that comes.
func TestImmunity17Grown(t *testing.T) {
	m := newMapped(t)
	size := int64(2 * dax.PageSize)
	for range 10 {
		at := shownAt + memory.GPA(size)
		size += 4 * dax.PageSize
		if err := os.Truncate(m.path("shown"), size); err != nil {
			t.Fatal(err)
		}
		q := m.prepare(fuse.Read, m.node, dax.PageSize, fstest.ReadArgs(m.fh, 0, dax.PageSize))
		q.buffers[3].At = at + 100 // two pages
		if e := q.header(q.pooled()); e != 0 {
			t.Errorf("READ into the file of %d bytes: %v", size, e)
		}
		if got := m.file("shown")[at+100-shownAt:]; !bytes.Equal(got[:dax.PageSize], contents("file")[:dax.PageSize]) {
			t.Errorf("READ into the file of %d bytes: it has others", size)
		}
		size += 4 * dax.PageSize
		if err := os.Truncate(m.path("shown"), size); err != nil {
			t.Fatal(err)
		}
		q = m.prepare(fuse.Write, m.node, 8, fstest.WriteArgs(m.fh, dax.PageSize, dax.PageSize, 0, 0), make([]byte, dax.PageSize))
		q.buffers[2].At = shownAt + memory.GPA(size) - dax.PageSize
		if e := q.header(q.pooled()); e != 0 {
			t.Errorf("WRITE from the file of %d bytes: %v", size, e)
		}
	}
	m.alive()
}

// TestImmunity17Self: data goes from a file into its own page, which the kernel does
// while it holds locks of that file.
func TestImmunity17Self(t *testing.T) {
	m := newMapped(t)
	node := m.lookup("shown")
	fh := binary.LittleEndian.Uint64(m.call(fuse.Open, node, fuse.OpenOutSize, fstest.U32(unix.O_RDWR, 0)))
	for _, off := range []uint64{0, dax.PageSize} {
		q := m.prepare(fuse.Read, node, dax.PageSize, fstest.ReadArgs(fh, off, dax.PageSize))
		q.buffers[3].At = shownAt
		if e := q.header(q.pooled()); e != 0 {
			t.Errorf("READ at %d: %v", off, e)
		}
		q = m.prepare(fuse.Write, node, 8, fstest.WriteArgs(fh, off, dax.PageSize, 0, 0), make([]byte, dax.PageSize))
		q.buffers[2].At = shownAt
		if e := q.header(q.pooled()); e != 0 {
			t.Errorf("WRITE at %d: %v", off, e)
		}
	}
	if !bytes.Equal(m.file("shown"), contents("shown")) {
		t.Error("the file has other bytes")
	}
	m.alive()
}

// move puts one of the request's buffers elsewhere, with its bytes where they can be.
func (m *mapped) move(q *request, i int, at memory.GPA) {
	m.t.Helper()
	b := &q.buffers[i]
	if !b.Write && at == shownAt {
		f, err := os.OpenFile(m.path("shown"), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(m.rings[1].Read(b.At, b.Len), 0)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			m.t.Fatal(err)
		}
	}
	b.At = at
}

// TestImmunity17Request: headers, arguments and names in a mapping. Those that cannot
// be read are answered with an error; without a header nobody knows which request it
// was.
func TestImmunity17Request(t *testing.T) {
	m := newMapped(t)
	for name, build := range map[string]func() *request{
		"GETATTR": func() *request { return m.prepare(fuse.Getattr, m.node, fuse.AttrOutSize, make([]byte, 16)) },
		"LOOKUP":  func() *request { return m.prepare(fuse.Lookup, rootNode, fuse.EntryOutSize, fstest.Str("file")) },
		"RENAME2": func() *request {
			return m.prepare(fuse.Rename2, rootNode, 0, fstest.U64(1), fstest.U32(0, 0), fstest.Str("kept"), fstest.Str("kept"))
		},
		"REMOVEMAPPING": func() *request {
			return m.prepare(fuse.RemoveMapping, 0, 0, fstest.U32(1), fstest.U64(3*dax.RangeSize, dax.RangeSize))
		},
	} {
		for i := range build().writable() {
			for _, at := range []memory.GPA{shownAt, beyondAt, cutAt, cutAt - 1} {
				q := build()
				reply := q.buffers[q.writable()].At
				unique, want := binary.LittleEndian.Uint64(m.rings[1].Read(q.buffers[0].At+8, 8)), unix.Errno(0)
				m.move(q, i, at)
				if at != shownAt {
					want = unix.EIO
					if i == 0 {
						unique = 0
					}
				}
				if e := q.header(q.pooled()); e != want {
					t.Errorf("%s, buffer %d at %#x: %v, want %v", name, i, at-windowAt, e, want)
				}
				if u := binary.LittleEndian.Uint64(m.rings[1].Read(reply+8, 8)); u != unique {
					t.Errorf("%s, buffer %d at %#x: unique %d, want %d", name, i, at-windowAt, u, unique)
				}
				m.alive()
			}
		}
	}
}

// TestImmunity17Reply: replies into a mapping. What cannot be written was not.
func TestImmunity17Reply(t *testing.T) {
	m := newMapped(t)
	for name, at := range map[string]memory.GPA{
		"shown": shownAt, "for reading": keptAt, "behind the end": beyondAt, "cut": cutAt, "nothing": nothingAt, "half": beyondAt - 8,
	} {
		for i := range 2 { // header, arguments
			q := m.prepare(fuse.Getattr, m.node, fuse.AttrOutSize, make([]byte, 16))
			q.buffers[2+i].At = at
			used := q.pooled()
			if at != shownAt {
				if used != 0 {
					t.Errorf("%s, buffer %d: %d bytes used", name, i, used)
				}
				m.alive()
				continue
			}
			if used != q.room {
				t.Errorf("%s, buffer %d: %d bytes used of %d", name, i, used, q.room)
			}
			got := m.file("shown")
			if i == 0 && binary.LittleEndian.Uint32(got) != used || i == 1 && bytes.Equal(got[:fuse.AttrOutSize], contents("shown")[:fuse.AttrOutSize]) {
				t.Errorf("%s, buffer %d: the mapped file has % x", name, i, got[:40])
			}
			m.alive()
			m.fill()
		}
	}
}

// TestImmunity17Forget: what has no reply comes back, wherever its header is.
func TestImmunity17Forget(t *testing.T) {
	m := newMapped(t)
	for _, at := range []memory.GPA{beyondAt, cutAt, nothingAt} {
		m.rings[hiprio].Add(queuetest.Buffer{At: at, Len: fuse.InHeaderSize + 8})
		m.kick(hiprio)
		if _, used, ok := m.rings[hiprio].Used(); !ok || used != 0 {
			t.Errorf("at %#x: used %d, %v", at-windowAt, used, ok)
		}
		m.rings[hiprio].Listen()
		m.alive()
	}
}

// TestImmunity17Borders: a buffer belongs to RAM or to the window, and a table to RAM,
// or the device is to be reset.
func TestImmunity17Borders(t *testing.T) {
	m := newMapped(t)
	for name, add := range map[string]func(q *request){
		"from RAM into the window": func(q *request) {
			q.buffers[3].At = windowAt - 100
			q.rings[1].AddIndirect(q.at, q.buffers...)
		},
		"out of the window": func(q *request) {
			q.buffers[3].At = windowEnd - 100
			q.rings[1].AddIndirect(q.at, q.buffers...)
		},
		"behind the window": func(q *request) {
			q.buffers[3].At = windowEnd
			q.rings[1].AddIndirect(q.at, q.buffers...)
		},
		"table in the window": func(q *request) {
			q.rings[1].SetDesc(0, shownAt, 16, queuetest.FlagIndirect, 0)
			q.rings[1].Offer(0)
		},
		"end of the table in the window": func(q *request) {
			q.rings[1].SetDesc(0, windowAt-16, 32, queuetest.FlagIndirect, 0)
			q.rings[1].Offer(0)
		},
	} {
		q := m.prepare(fuse.Read, m.node, dax.PageSize, fstest.ReadArgs(m.fh, 0, dax.PageSize))
		add(q)
		m.d.Notify(1)
		if _, _, ok := m.rings[1].Used(); ok || len(m.broke) != 1 {
			t.Errorf("%s: used %v, broken %d times", name, ok, len(m.broke))
		}
		for len(m.broke) > 0 {
			if err := <-m.broke; !errors.Is(err, memory.ErrAddress) {
				t.Errorf("%s: %v", name, err)
			}
		}
		m.d.Reset()
		m.activate()
		m.start()
		m.alive()
	}
}

// TestImmunity17Storm: the host empties the mapped file and fills it again, over and
// over, while it is read into and written from. Every request is answered, with data
// or with the one error there is for it.
func TestImmunity17Storm(t *testing.T) {
	m := newMapped(t)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := errors.Join(os.Truncate(m.path("shown"), 0), os.Truncate(m.path("shown"), 8192)); err != nil {
				done <- err
				return
			}
		}
	}()
	for i := range 1000 {
		at := shownAt + memory.GPA(i%3)*1000
		read := m.prepare(fuse.Read, m.node, dax.PageSize, fstest.ReadArgs(m.fh, 0, dax.PageSize))
		read.buffers[3].At = at
		if e := read.header(read.pooled()); e != 0 && e != unix.EFAULT {
			t.Fatalf("round %d: READ: %v", i, e)
		}
		write := m.prepare(fuse.Write, m.node, 8, fstest.WriteArgs(m.fh, dax.PageSize, dax.PageSize, 0, 0), make([]byte, dax.PageSize))
		write.buffers[2].At = at
		if e := write.header(write.pooled()); e != 0 && e != unix.EFAULT {
			t.Fatalf("round %d: WRITE: %v", i, e)
		}
		args := m.prepare(fuse.Getattr, m.node, fuse.AttrOutSize, make([]byte, 16))
		args.buffers[1].At = at
		if e := args.header(args.pooled()); e != 0 && e != unix.EIO && e != unix.EBADF {
			t.Fatalf("round %d: GETATTR: %v", i, e)
		}
		if len(m.broke) != 0 {
			t.Fatal(<-m.broke)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	m.alive()
}

// TestAllocWindow: requests that change the window, and those with buffers in it, are
// on the request path.
func TestAllocWindow(t *testing.T) {
	m := newMapped(t)
	setup := m.prepare(fuse.SetupMapping, m.lookup("kept"), 0, fstest.MapArgs(^uint64(0), 0, dax.RangeSize, fuse.MapRead, 3*dax.RangeSize))
	check := func(name string, q *request) {
		t.Helper()
		var used uint32
		var ok bool
		if n := testing.AllocsPerRun(200, func() { used, ok = q.trip() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if e := q.header(used); !ok || e != 0 {
			t.Errorf("%s: %v, %v", name, e, ok)
		}
	}
	check("SETUPMAPPING", setup)
	check("REMOVEMAPPING", m.prepare(fuse.RemoveMapping, 0, 0, fstest.U32(1), fstest.U64(3*dax.RangeSize, dax.RangeSize)))
	read := m.prepare(fuse.Read, m.node, dax.PageSize, fstest.ReadArgs(m.fh, 0, dax.PageSize))
	read.buffers[3].At = shownAt
	check("READ", read)
	args := m.prepare(fuse.Getattr, m.node, fuse.AttrOutSize, make([]byte, 16))
	args.buffers[1].At = nothingAt
	check("GETATTR", args)
}

// BenchmarkWindow is a READ into a mapping, beside the same into RAM, and what it
// takes to get arguments out of a mapping.
func BenchmarkWindow(b *testing.B) {
	m := newMapped(b)
	for _, c := range []struct {
		name string
		at   memory.GPA // 0: RAM
		make func() (q *request, buffer int)
	}{
		{"READ4K/RAM", 0, m.benchRead}, {"READ4K/window", shownAt, m.benchRead},
		{"GETATTR/RAM", 0, m.benchGetattr}, {"GETATTR/window", nothingAt, m.benchGetattr},
	} {
		q, buffer := c.make()
		if c.at != 0 {
			q.buffers[buffer].At = c.at
		}
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if _, ok := q.trip(); !ok {
					b.Fatal("no reply")
				}
			}
		})
	}
}

func (m *mapped) benchRead() (q *request, buffer int) {
	return m.prepare(fuse.Read, m.node, dax.PageSize, fstest.ReadArgs(m.fh, 0, dax.PageSize)), 3
}

func (m *mapped) benchGetattr() (q *request, buffer int) {
	return m.prepare(fuse.Getattr, m.node, fuse.AttrOutSize, make([]byte, 16)), 1
}
