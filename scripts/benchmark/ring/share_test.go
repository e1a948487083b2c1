package ring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// fake is a device that answers INIT well, and the rest as a test wants.
type fake struct {
	features uint64
	queues   []*queue.Queue
	err      error
	// answer serves one chain: the reply's header and body have been written if it
	// says nothing else.
	answer func(q *queue.Queue, c *queue.Chain, in []byte)
	closed bool
	kicks  int
	last   []byte // request
	shape  []int  // lengths of the last chain's pieces, those for the reply negative
}

func (f *fake) start(m *Memory, rings []queue.Layout) (Target, error) {
	for _, l := range rings {
		q, err := queue.New(m.Map, l, f.features)
		if err != nil {
			return nil, err
		}
		f.queues = append(f.queues, q)
	}
	return f, nil
}

func (f *fake) Features() uint64 { return f.features }
func (f *fake) Err() error       { return f.err }
func (f *fake) Close() error     { f.closed = true; return nil }

func (f *fake) Kick(i int) error {
	f.kicks++
	q := f.queues[i]
	c := queue.NewChain(queue.MaxSize)
	for {
		ok, err := q.Pop(c)
		if err != nil || !ok {
			q.Listen()
			return err
		}
		f.serve(q, c)
	}
}

func (f *fake) serve(q *queue.Queue, c *queue.Chain) {
	in := make([]byte, c.In.Len())
	f.shape = nil
	f.shape = append(f.shape, lengths(c.In.Rest(0, 1<<30))...)
	for _, v := range lengths(c.Out.Rest(0, 1<<30)) {
		f.shape = append(f.shape, -v)
	}
	if err := c.In.Copy(in); err != nil {
		panic(err)
	}
	f.last = in
	if fuse.Opcode(le.Uint32(in[4:])) == fuse.Init {
		body := make([]byte, fuse.InitOutSize)
		(&fuse.InitOut{Major: fuse.Major, Minor: 41, MaxWrite: virtiofs.MaxIO}).Encode(body)
		q.Push(c.Head, reply(c, in, 0, body))
		q.MustSignal()
		return
	}
	f.answer(q, c, in)
}

func lengths(list []unix.Iovec) []int {
	var n []int
	for _, v := range list {
		n = append(n, int(v.Len))
	}
	return n
}

// reply writes a reply and says how long it is.
func reply(c *queue.Chain, in []byte, e unix.Errno, body []byte) uint32 {
	n := fuse.OutHeaderSize + len(body)
	out := make([]byte, n)
	(&fuse.OutHeader{Len: uint32(n), Error: -int32(e), Unique: le.Uint64(in[8:])}).Encode(out)
	copy(out[fuse.OutHeaderSize:], body)
	if c.Out.Put(out) != nil {
		panic("no room")
	}
	return uint32(n)
}

// good answers GETATTR and FORGET.
func good(q *queue.Queue, c *queue.Chain, in []byte) {
	if c.Out.Len() == 0 {
		q.Push(c.Head, 0)
		return
	}
	q.Push(c.Head, reply(c, in, 0, make([]byte, fuse.AttrOutSize)))
}

// dial opens a share on a fake.
func dial(t *testing.T, f *fake) *Share {
	t.Helper()
	if f.features == 0 {
		f.features = features
	}
	s, err := Open(f.start, Options{Size: 8, Memory: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil || !f.closed {
			t.Errorf("Close: %v, the target's was called: %t", err, f.closed)
		}
	})
	return s
}

// getattrs are n GETATTR.
func getattrs(t *testing.T, s *Share, n int) (list []*Request) {
	t.Helper()
	for range n {
		list = append(list, must(s.Add(Requests, Spec{Op: fuse.Getattr, Node: 7, Args: make([]byte, 16), Reply: fuse.AttrOutSize, Want: fuse.AttrOutSize}))(t))
	}
	return list
}

func must[V any](v V, err error) func(*testing.T) V {
	return func(t *testing.T) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestWrongAnswers: whatever is not right about an answer is an error and not a figure,
// of requests at once and of one at a time.
func TestWrongAnswers(t *testing.T) {
	head := func(c *queue.Chain, in []byte, change func(h *fuse.OutHeader)) uint32 {
		h := fuse.OutHeader{Len: fuse.OutHeaderSize + fuse.AttrOutSize, Unique: le.Uint64(in[8:])}
		change(&h)
		b := make([]byte, fuse.OutHeaderSize+fuse.AttrOutSize)
		h.Encode(b)
		if c.Out.Put(b) != nil {
			panic("no room")
		}
		return uint32(len(b))
	}
	for _, x := range []struct {
		name   string
		answer func(q *queue.Queue, c *queue.Chain, in []byte)
		want   string // in the error; "": none
	}{
		{"as it should be", good, ""},
		{"errno", func(q *queue.Queue, c *queue.Chain, in []byte) { q.Push(c.Head, reply(c, in, unix.ESTALE, nil)) }, "stale"},
		{"short body", func(q *queue.Queue, c *queue.Chain, in []byte) { q.Push(c.Head, reply(c, in, 0, make([]byte, 80))) }, "reply of 80 bytes, not 104"},
		{"used length", func(q *queue.Queue, c *queue.Chain, in []byte) {
			q.Push(c.Head, reply(c, in, 0, make([]byte, fuse.AttrOutSize))+8)
		}, "used length 128"},
		{"nothing written", func(q *queue.Queue, c *queue.Chain, in []byte) { q.Push(c.Head, 0) }, "used length 0"},
		{"not written but used", func(q *queue.Queue, c *queue.Chain, in []byte) { q.Push(c.Head, 120) }, "reply's length 0"},
		{"length in the header", func(q *queue.Queue, c *queue.Chain, in []byte) {
			q.Push(c.Head, head(c, in, func(h *fuse.OutHeader) { h.Len = 16 }))
		}, "reply's length 16"},
		{"another's reply", func(q *queue.Queue, c *queue.Chain, in []byte) {
			q.Push(c.Head, head(c, in, func(h *fuse.OutHeader) { h.Unique += 2 }))
		}, "reply to"},
		{"one twice, one never", func(q *queue.Queue, c *queue.Chain, in []byte) {
			q.Push(0, reply(c, in, 0, make([]byte, fuse.AttrOutSize)))
		}, "not in its hands"},
		{"no such descriptor", func(q *queue.Queue, c *queue.Chain, in []byte) { q.Push(77, 120) }, "not in its hands"},
	} {
		for _, serial := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, serial %t", x.name, serial), func(t *testing.T) {
				s := dial(t, &fake{answer: x.answer})
				list := getattrs(t, s, 3)
				var err error
				if serial {
					_, err = s.Serial(Requests, list, nil)
				} else {
					_, err = s.Do(Requests, list...)
				}
				if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
					t.Errorf("%v, want %q", err, x.want)
				}
			})
		}
	}
}

// TestForgotten: a FORGET has no answer, and one all the same is an error.
func TestForgotten(t *testing.T) {
	f := &fake{answer: good}
	s := dial(t, f)
	nodes := make([]virtiofs.NodeID, forgetBatch+3)
	for i := range nodes {
		nodes[i] = virtiofs.NodeID(100 + i)
	}
	if err := s.Forget(nodes); err != nil {
		t.Fatal(err)
	}
	if node, n := le.Uint64(f.last[16:]), le.Uint64(f.last[40:]); node != 100+forgetBatch+2 || n != 1 {
		t.Errorf("the last one forgets %d lookups of %d", n, node)
	}
	f.answer = func(q *queue.Queue, c *queue.Chain, in []byte) { q.Push(c.Head, 16) }
	if err := s.Forget(nodes[:1]); err == nil {
		t.Error("an answer to FORGET is no error")
	}
}

// TestSilence: a device that does not answer, and one that is gone, are errors soon.
func TestSilence(t *testing.T) {
	f := &fake{answer: func(*queue.Queue, *queue.Chain, []byte) {}}
	s := dial(t, f)
	s.drivers[Requests].patience = 10 * time.Millisecond
	if _, err := s.Do(Requests, getattrs(t, s, 2)...); !errors.Is(err, errHung) {
		t.Errorf("of a device that hangs: %v", err)
	}
	f = &fake{}
	s = dial(t, f)
	gone := errors.New("gone")
	f.answer = func(*queue.Queue, *queue.Chain, []byte) { f.err = gone }
	if _, err := s.Do(Requests, getattrs(t, s, 2)...); !errors.Is(err, gone) {
		t.Errorf("of a device that is gone: %v", err)
	}
}

// TestRefused: devices that cannot be measured.
func TestRefused(t *testing.T) {
	f := &fake{features: queue.FeatureEventIdx}
	if _, err := Open(f.start, Options{Memory: 4 << 20}); err == nil || !strings.Contains(err.Error(), "which Linux uses") || !f.closed {
		t.Errorf("no indirect descriptors: %v, closed %t", err, f.closed)
	}
}

// TestWantsKick: with EVENT_IDX a device is kicked when what it waits for is among what
// was made available, and not when it is busy with what came before.
func TestWantsKick(t *testing.T) {
	s := dial(t, &fake{answer: good})
	d := s.drivers[Requests]
	for _, x := range []struct {
		last, next, event uint16
		want              bool
	}{
		{10, 11, 10, true}, {10, 15, 10, true}, {10, 15, 14, true}, {10, 15, 15, false}, {10, 15, 9, false},
		{0xfffe, 3, 0xfffe, true}, {0xfffe, 3, 2, true}, {0xfffe, 3, 3, false}, {0xfffe, 3, 0xfffd, false},
	} {
		d.next = x.next
		d.availEvent.Store16(x.event)
		if got := d.wantsKick(x.last); got != x.want {
			t.Errorf("%+v: %t", x, got)
		}
	}
}

// TestKicks: a device is kicked when it wants that, once for requests offered at once,
// and wants no interrupts, with EVENT_IDX and without, however often the indices wrap.
func TestKicks(t *testing.T) {
	for _, features := range []uint64{queue.FeatureIndirect, features} {
		f := &fake{features: features}
		signals := 0
		f.answer = func(q *queue.Queue, c *queue.Chain, in []byte) {
			good(q, c, in)
			if q.MustSignal() {
				signals++
			}
		}
		s := dial(t, f)
		list := getattrs(t, s, 5)
		signals, f.kicks = 0, 0
		const rounds = 1<<16/5 + 10
		for range rounds {
			if _, err := s.Do(Requests, list...); err != nil {
				t.Fatal(err)
			}
		}
		if f.kicks != rounds || signals != 0 {
			t.Errorf("features %#x: %d kicks of %d, %d interrupts", features, f.kicks, rounds, signals)
		}
	}
}

// TestChains: requests are chains as Linux makes them.
func TestChains(t *testing.T) {
	f := &fake{}
	f.answer = func(q *queue.Queue, c *queue.Chain, in []byte) {
		if c.Out.Len() == 0 {
			q.Push(c.Head, 0)
			return
		}
		q.Push(c.Head, reply(c, in, 0, nil))
	}
	s := dial(t, f)
	args := fstest.ReadArgs(3, 8192, 16384)
	for _, x := range []struct {
		name  string
		spec  Spec
		shape []int
	}{
		{"GETATTR", Spec{Op: fuse.Getattr, Args: make([]byte, 16), Reply: 104}, []int{40, 16, -16, -104}},
		{"no arguments", Spec{Op: fuse.Statfs, Reply: 80}, []int{40, -16, -80}},
		{"no reply but the header", Spec{Op: fuse.Unlink, Args: fstest.Str("abc")}, []int{40, 4, -16}},
		{"READ aligned", Spec{Op: fuse.Read, Args: args, Data: 16384}, []int{40, 40, -16, -16384}},
		{"READ scattered", Spec{Op: fuse.Read, Args: args, Data: 16384, Shape: Scattered}, []int{40, 40, -16, -4096, -4096, -4096, -4096}},
		{"READ of a page in two", Spec{Op: fuse.Read, Args: args, Data: 4096, Shape: Scattered}, []int{40, 40, -16, -2048, -2048}},
		{"WRITE", Spec{Op: fuse.Write, Args: args, Data: 4096, Reply: 8}, []int{40, 40, 4096, -16, -8}},
	} {
		t.Run(x.name, func(t *testing.T) {
			s.Rewind()
			x.spec.Node, x.spec.Want = 5, Any
			r := must(s.Add(Requests, x.spec))(t)
			if _, err := s.Do(Requests, r); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(f.shape, x.shape) {
				t.Errorf("pieces %v, want %v", f.shape, x.shape)
			}
			if n, node := le.Uint32(f.last), le.Uint64(f.last[16:]); int(n) != len(f.last) || node != 5 {
				t.Errorf("header: length %d of %d, node %d", n, len(f.last), node)
			}
			if string(f.last[40:40+len(x.spec.Args)]) != string(x.spec.Args) {
				t.Errorf("arguments %x", f.last[40:])
			}
			desc := s.drivers[Requests].desc[16*int(r.head):]
			if flags := le.Uint16(desc[12:]); flags != 4 {
				t.Errorf("flags %d of a chain that Linux puts in a table", flags)
			}
		})
	}
	if err := s.Forget([]virtiofs.NodeID{9}); err != nil || !slices.Equal(f.shape, []int{48}) {
		t.Errorf("FORGET: %v, pieces %v", err, f.shape)
	}
	if flags := le.Uint16(s.drivers[Hiprio].desc[12:]); flags != 0 {
		t.Errorf("FORGET: flags %d of a chain of one, which Linux puts in no table", flags)
	}
}

// TestScattered: no page of scattered data lies behind the one before it, none is there
// twice, and none lies outside.
func TestScattered(t *testing.T) {
	for _, n := range []int{page, 4 * page, 32 * page, 256 * page} {
		seen := make(map[memory.GPA]bool)
		total, last := 0, memory.GPA(0)
		for _, b := range pieces(page, n, Scattered) {
			if b.At == last || seen[b.At/page] || b.At < page || b.At+memory.GPA(b.Len) > memory.GPA(max(n, 3*page)+page) {
				t.Errorf("%d: a piece at %#x, the one before it ends at %#x", n, b.At, last)
			}
			seen[b.At/page], last = true, b.At+memory.GPA(b.Len)
			total += int(b.Len)
		}
		if total != n {
			t.Errorf("%d: %d bytes", n, total)
		}
	}
}

// TestFull: what has no room is an error when it is made, and Rewind makes room.
func TestFull(t *testing.T) {
	s := dial(t, &fake{answer: good})
	getattrs(t, s, 8)
	if _, err := s.Add(Requests, Spec{Op: fuse.Getattr}); err == nil {
		t.Error("a ninth request in a ring of eight")
	}
	s.Rewind()
	if _, err := s.Do(Requests, getattrs(t, s, 8)...); err != nil {
		t.Error(err)
	}
	s.Rewind()
	if _, err := s.Add(Requests, Spec{Op: fuse.Read, Data: 4 << 20}); err == nil {
		t.Error("4 MiB of data in 4 MiB with rings")
	}
}

// TestLocal: Tenon's device in this process serves a directory.
func TestLocal(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 4321), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Local(dir, LocalOptions{Window: 4 << 20}), Options{Queues: 2, DAX: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if s.Flags&fuse.MapAlignment == 0 {
		t.Errorf("flags %#x: no DAX", s.Flags)
	}
	for q := Requests; q <= Requests+1; q++ {
		r := must(s.Add(q, Spec{Op: fuse.Lookup, Node: fuse.RootID, Args: fstest.Str("file"), Reply: fuse.EntryOutSize, Want: fuse.EntryOutSize}))(t)
		samples := make([]time.Duration, 1)
		if _, err := s.Serial(q, []*Request{r}, samples); err != nil {
			t.Fatal(err)
		}
		if e := fstest.ParseEntry(r.Reply); e.Attr.Size != 4321 || samples[0] == 0 {
			t.Errorf("queue %d: size %d, took %v", q, e.Attr.Size, samples[0])
		}
	}
	// An index that no driver sets: the device asks for a reset, which ends the wait.
	d := s.drivers[Requests]
	r := d.requests[0]
	d.enter([]*Request{r})
	if _, err := d.offer(9999); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("of a broken ring: %v", err)
	}
}

// TestLocalFails: what cannot be served is an error of Open.
func TestLocalFails(t *testing.T) {
	for _, start := range []Start{
		Local(filepath.Join(t.TempDir(), "nothing"), LocalOptions{}),
		Local(t.TempDir(), LocalOptions{Window: 12345}),
	} {
		if _, err := Open(start, Options{Memory: 4 << 20}); err == nil {
			t.Error("no error")
		}
	}
}
