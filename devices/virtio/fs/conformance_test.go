package fs

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
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

// Where the requests of a queue lie in guest memory: indirect table, readable
// bytes, writable bytes.
const (
	laneAt    = ramBase + 0x100000
	laneSize  = 0x100000
	laneIn    = 0x4000
	laneOut   = 0x80000
	lanePiece = 4096 // of a payload, as the pages of a guest
)

// initFlags2 is the place of fuse_init_out.flags2, in words.
const initFlags2 = 8

// lane sends requests through one queue of a rig, one at a time, and FORGET
// through the queue for it, as Linux does.
type lane struct {
	g      *rig
	queue  int
	hiprio *sync.Mutex // a ring belongs to one goroutine at a time
}

func (l *lane) send(msg []byte, room int) []byte {
	op := fuse.Opcode(binary.LittleEndian.Uint32(msg[4:]))
	if op == fuse.Forget || op == fuse.BatchForget {
		l.hiprio.Lock()
		defer l.hiprio.Unlock()
		return l.trip(hiprio, msg, 0)
	}
	return l.trip(l.queue, msg, room)
}

// trip lays a request out as Linux does, header and pages in buffers of their
// own, and waits for the reply.
func (l *lane) trip(queue int, msg []byte, room int) []byte {
	r, at := l.g.rings[queue], laneAt+memory.GPA(queue)*laneSize
	buffers := []queuetest.Buffer{{At: at + laneIn, Len: fuse.InHeaderSize}}
	r.Write(at+laneIn, msg)
	for off := fuse.InHeaderSize; off < len(msg); off += lanePiece {
		n := min(lanePiece, len(msg)-off)
		buffers = append(buffers, queuetest.Buffer{At: at + laneIn + memory.GPA(off), Len: uint32(n)})
	}
	for off := 0; off < room; off += lanePiece {
		n := min(lanePiece, room-off)
		buffers = append(buffers, queuetest.Buffer{At: at + laneOut + memory.GPA(off), Len: uint32(n), Write: true})
	}
	r.AddIndirect(at, buffers...)
	l.g.kick(queue)
	for {
		if _, n, ok := r.Used(); ok {
			return r.Read(at+laneOut, n)
		}
		if !r.Listen() {
			<-l.g.bells[queue]
		}
	}
}

// conformance runs the cases on a share of an empty directory, as many at a time
// as there are queues.
type conformance struct {
	policy  virtiofs.Policy
	options passthrough.Options
	server  virtiofs.Options
	service Service
	queues  int
	window  uint64 // bytes; 0: none
}

func (c conformance) run(t *testing.T, dir string, cases []fstest.Case, k fstest.Knobs) []fstest.Trace {
	t.Helper()
	var windows []memory.Region
	if c.window != 0 {
		w, err := dax.New(c.window)
		if err != nil {
			t.Fatal(err)
		}
		c.options.Window = w
		windows = append(windows, memory.Region{GPA: windowAt, Data: w.Reservation()})
	}
	host, err := passthrough.New(dir, c.options)
	if err != nil {
		t.Fatal(err)
	}
	c.server.Policy = c.policy
	s := virtiofs.NewServer(host, c.server)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	g := newRig(t, s, c.service, c.queues, windows...)
	defer g.d.Reset()
	traces := make([]fstest.Trace, len(cases))
	work := make(chan int, len(cases))
	for i := range cases {
		work <- i
	}
	close(work)
	var hiprio sync.Mutex
	var done sync.WaitGroup
	var clients []*fstest.Client
	for q := 1; q <= c.queues; q++ {
		conn := fstest.DialFunc(t, (&lane{g, q, &hiprio}).send)
		if q == 1 {
			out, e := conn.Init(fstest.AllFlags)
			if e != 0 {
				t.Fatalf("INIT: %v", e)
			}
			if has := fuse.Word32(out, initFlags2)&uint32(fuse.HasInodeDAX>>32) != 0; has != (c.window != 0) {
				t.Fatalf("INIT: FUSE_HAS_INODE_DAX %v with a window of %d bytes", has, c.window)
			}
		}
		client := fstest.Attach(conn)
		clients = append(clients, client)
		done.Go(func() {
			for i := range work {
				traces[i] = fstest.RunCase(client, cases[i], k)
			}
		})
	}
	done.Wait()
	for q, client := range clients {
		if err := client.Close(); err != nil {
			t.Errorf("queue %d: %v", q+1, err)
		}
	}
	return traces
}

// emptyDir is a new directory below dir that everyone may enter.
func emptyDir(t *testing.T, dir string) string {
	t.Helper()
	dir, err := os.MkdirTemp(dir, "conformance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// control is the traces of the cases on a local directory.
func control(t *testing.T, dir string, k fstest.Knobs) []fstest.Trace {
	t.Helper()
	h, err := fstest.NewHost(emptyDir(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	return fstest.Run(h, fstest.Cases(), k)
}

// TestConformance runs the suite through rings: a share must answer as the
// directory does that it shares. The umask is 0 as in the machine.
func TestConformance(t *testing.T) {
	if unix.Getuid() != 0 {
		t.Log("NOT ROOT: the cases that need root are skipped")
	}
	old := unix.Umask(0)
	t.Cleanup(func() { unix.Umask(old) })
	for _, dir := range []struct {
		name, path string
		list       []conformance
	}{{"tmp", t.TempDir(), conformances()}, {"shm", "/dev/shm", conformances()[:few]}} {
		t.Run(dir.name, func(t *testing.T) {
			var st unix.Statfs_t
			if err := unix.Statfs(dir.path, &st); err != nil {
				t.Skip("SKIPPED: ", dir.path, ": ", err)
			}
			k := fstest.Knobs{Entries: 150, Data: 300 << 10}
			want := control(t, dir.path, k)
			for _, c := range dir.list {
				t.Run(c.name(), func(t *testing.T) {
					t.Parallel()
					got := c.run(t, emptyDir(t, dir.path), fstest.Cases(), k)
					for _, p := range fstest.Compare(want, got, fstest.Differences(), c.labels(&st)...) {
						t.Error(p)
					}
				})
			}
		})
	}
}

// labels say what is run, on a directory of the file system.
func (c conformance) labels(fs *unix.Statfs_t) []string {
	list := []string{"raw", c.policy.Name}
	if fs.Type == unix.TMPFS_MAGIC {
		list = append(list, "tmpfs")
	}
	if c.options.Devices {
		list = append(list, "devices")
	}
	return list
}

func (c conformance) name() string {
	service := []string{ServiceAuto: "auto", ServiceExit: "exit", ServiceWorker: "worker", ServicePoll: "poll"}[c.service]
	name := fmt.Sprintf("cache=%s,service=%s,queues=%d", c.policy.Name, service, c.queues)
	if c.server.Writeback {
		name += ",writeback"
	}
	if c.window != 0 {
		name += ",window"
	}
	return name
}

// conformances has each policy, each service with one queue and with four, each way
// to keep inodes, and a window, once; the first few differ in what the host's file
// system has a part in.
func conformances() []conformance {
	return []conformance{
		{policy: virtiofs.Auto(), service: ServiceAuto, queues: 4},
		{policy: virtiofs.Auto(), service: ServiceAuto, queues: 1, options: passthrough.Options{Handles: passthrough.HandlesNever}},
		{policy: virtiofs.Auto(), service: ServiceAuto, queues: 2, server: virtiofs.Options{DAX: virtiofs.DAXInode}, window: 4 << 20},
		{policy: virtiofs.Never(), service: ServiceExit, queues: 1, options: passthrough.Options{Devices: true}},
		{policy: virtiofs.Metadata(), service: ServiceExit, queues: 4},
		{policy: virtiofs.Always(), service: ServiceWorker, queues: 4},
		{policy: virtiofs.Auto(), service: ServicePoll, queues: 1},
		{policy: virtiofs.Never(), service: ServicePoll, queues: 4},
		{policy: virtiofs.Always(), service: ServiceWorker, queues: 1,
			options: passthrough.Options{Writeback: true}, server: virtiofs.Options{Writeback: true}},
	}
}

const few = 3

// TestConformanceManyEntries is the cases about directories with 5,000 entries.
func TestConformanceManyEntries(t *testing.T) {
	old := unix.Umask(0)
	t.Cleanup(func() { unix.Umask(old) })
	k := fstest.Knobs{Entries: 5000}
	cases := slices.DeleteFunc(fstest.Cases(), func(c fstest.Case) bool { return !strings.HasPrefix(c.Name, "readdir") })
	h, err := fstest.NewHost(emptyDir(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	c := conformance{policy: virtiofs.Auto(), queues: 2}
	got := c.run(t, emptyDir(t, t.TempDir()), cases, k)
	for _, p := range fstest.Compare(fstest.Run(h, cases, k), got, fstest.Differences(), "raw") {
		t.Error(p)
	}
}

// TestConformanceReadOnly compares a read-only share with a read-only mount.
func TestConformanceReadOnly(t *testing.T) {
	dir := emptyDir(t, t.TempDir())
	if err := fstest.PrepareReadOnly(dir); err != nil {
		t.Fatal(err)
	}
	mount := emptyDir(t, t.TempDir())
	if err := unix.Mount(dir, mount, "", unix.MS_BIND, ""); err != nil {
		t.Skip("SKIPPED: the control needs a mount: ", err)
	}
	defer func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if err := unix.Mount("", mount, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	h, err := fstest.NewHost(mount)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	want := fstest.Run(h, fstest.ReadOnlyCases(), fstest.Knobs{})
	for _, c := range []conformance{
		{policy: virtiofs.Auto(), options: passthrough.Options{ReadOnly: true}, queues: 1},
		{policy: virtiofs.Immutable(), options: passthrough.Options{ReadOnly: true, Immutable: true}, queues: 1},
	} {
		t.Run(c.policy.Name, func(t *testing.T) {
			got := c.run(t, dir, fstest.ReadOnlyCases(), fstest.Knobs{})
			for _, p := range fstest.Compare(want, got, fstest.Differences(), "raw", c.policy.Name) {
				t.Error(p)
			}
		})
	}
}
