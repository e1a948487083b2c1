package scale

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tenon/devices/virtio/queue/queuetest"
	"tenon/scripts/benchmark/figures"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// guest is a driver with several queues and as many streams of requests, each of which
// is a processor of the guest: a thread that makes a request available, notifies, and
// sleeps until it is told of the reply.
type guest struct {
	*share
	queues  []*guestQueue // by the device's numbers; 0, hiprio, is not used
	streams []*stream
}

// guestQueue is a ring that streams share by a lock, as Linux's virtio_fs_vq.
type guestQueue struct {
	mu    sync.Mutex
	ring  *queuetest.Ring
	owner [ringSize]*stream // by head
}

// stream is one processor's requests, one after the other.
type stream struct {
	*slot
	queue  int
	wake   chan uint32 // the reply is there: its used length
	failed int
}

// newGuest is a guest with streams over queues that ask for the same again and again.
func newGuest(dir, op string, streams, queues int) (g *guest, err error) {
	s, err := newShare(dir, queues)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	defer recovered(&err)
	g = &guest{share: s}
	rings, err := s.activate(g)
	if err != nil {
		return nil, err
	}
	for _, r := range rings {
		g.queues = append(g.queues, &guestQueue{ring: r})
	}
	for i := range streams {
		t := &stream{slot: s.slot(i), queue: 1 + i%queues, wake: make(chan uint32, 1)}
		if err := t.prepare(s, op, fileName(i)); err != nil {
			return nil, err
		}
		g.streams = append(g.streams, t)
	}
	return g, nil
}

func fileName(i int) string { return fmt.Sprintf("file-%d", i) }

// Operations of streams.
const (
	getattr = "GETATTR"
	read4K  = "READ 4K"
)

// prepare makes the stream's request, of a file of its own.
func (t *stream) prepare(s *share, op, file string) error {
	en, e := s.conn.Lookup(fuse.RootID, file)
	if e != 0 {
		return fmt.Errorf("LOOKUP %s: %w", file, e)
	}
	if op == getattr {
		t.ask(s.conn.Message(fuse.Getattr, en.Node, make([]byte, 16)), fuse.AttrOutSize, false)
		return nil
	}
	fh, e := s.conn.Open(en.Node, unix.O_RDONLY)
	if e != 0 {
		return fmt.Errorf("OPEN %s: %w", file, e)
	}
	t.ask(s.conn.Message(fuse.Read, en.Node, fstest.ReadArgs(fh, 0, 4096)), 4096, true)
	return nil
}

// Queue is the queue's interrupt: it wakes the streams whose replies are there.
func (g *guest) Queue(i int) {
	q := g.queues[i]
	q.mu.Lock()
	defer q.mu.Unlock()
	for again := true; again; again = q.ring.Listen() {
		for {
			head, used, ok := q.ring.Used()
			if !ok {
				break
			}
			q.owner[head].wake <- used
		}
	}
}

// ConfigChanged is never so.
func (g *guest) ConfigChanged() {}

// trip sends the stream's request and waits for its reply.
func (g *guest) trip(t *stream) {
	q := g.queues[t.queue]
	q.mu.Lock()
	head, ok := q.ring.AddIndirect(t.table, t.buffers...)
	if ok {
		q.owner[head] = t
	}
	kick := q.ring.Kick()
	q.mu.Unlock()
	if !ok {
		t.failed++
		return
	}
	if kick {
		g.device.Notify(t.queue)
	}
	if !t.right(<-t.wake) {
		t.failed++
	}
}

// round has the streams make so many requests.
func (g *guest) round(requests int) (figures.Round, error) {
	r := together(len(g.streams), requests, func(i int) { g.trip(g.streams[i]) })
	for _, t := range g.streams {
		if t.failed > 0 {
			return figures.Round{}, fmt.Errorf("%d requests failed", t.failed)
		}
	}
	return r, nil
}

// portion is what of the work a thread takes at a time: whose processor has something else
// to do as well takes less of them, and nobody waits for it at the end.
const portion = 16

// together has so many threads do something so many times in all. They begin at once
// and have a processor each, by turns: a round is shorter than what Linux takes to
// spread them.
func together(threads, times int, do func(i int)) figures.Round {
	var ready, done sync.WaitGroup
	var left atomic.Int64
	start := make(chan struct{})
	cpus := processors()
	for i := range threads {
		ready.Add(1)
		done.Add(1)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			defer done.Done()
			if len(cpus) > 0 {
				var one unix.CPUSet
				one.Set(cpus[i%len(cpus)])
				_ = unix.SchedSetaffinity(0, &one) // where it cannot be, Linux chooses
			}
			ready.Done()
			<-start
			for left.Add(-portion) >= 0 {
				for range portion {
					do(i)
				}
			}
		}()
	}
	ready.Wait()
	times -= times % portion
	left.Store(int64(times))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	close(start)
	done.Wait()
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	return figures.Round{
		Value:  float64(took.Nanoseconds()) / float64(times),
		Allocs: float64(after.Mallocs-before.Mallocs) / float64(times),
	}
}

// maxProcessors is how many a unix.CPUSet can name.
const maxProcessors = 1024

// processors are those that this process may use.
func processors() (list []int) {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return nil
	}
	for i := range maxProcessors {
		if set.IsSet(i) {
			list = append(list, i)
		}
	}
	return list
}

// bare is the same system calls by so many threads, without rings and server.
type bare struct {
	op     string
	fds    []int
	stats  []unix.Stat_t
	pages  [][]byte
	failed atomic.Int64
}

func newBare(dir, op string, threads int) (*bare, error) {
	b := &bare{op: op, stats: make([]unix.Stat_t, threads)}
	for i := range threads {
		b.pages = append(b.pages, make([]byte, 4096))
		fd, err := unix.Open(filepath.Join(dir, fileName(i)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			b.close()
			return nil, err
		}
		b.fds = append(b.fds, fd)
	}
	return b, nil
}

func (b *bare) close() {
	for _, fd := range b.fds {
		unix.Close(fd)
	}
}

func (b *bare) round(requests int) (figures.Round, error) {
	r := together(len(b.fds), requests, func(i int) {
		var ok bool
		if b.op == getattr {
			ok = unix.Fstat(b.fds[i], &b.stats[i]) == nil
		} else {
			n, err := unix.Pread(b.fds[i], b.pages[i], 0)
			ok = n == len(b.pages[i]) && err == nil
		}
		if !ok {
			b.failed.Add(1)
		}
	})
	if n := b.failed.Load(); n > 0 {
		return figures.Round{}, fmt.Errorf("%d system calls failed", n)
	}
	return r, nil
}

func queueSide(queues int) string {
	if queues == 1 {
		return "1 queue"
	}
	return fmt.Sprintf("%d queues", queues)
}

func streamRow(op string, streams int) string {
	if streams == 1 {
		return op + ", 1 stream"
	}
	return fmt.Sprintf("%s, %d streams", op, streams)
}

const bareSide = "system calls alone"

// streams measures 1 to 64 streams over 1 to 8 queues.
func streams(o figures.Options, l *litter, r *figures.Report) error {
	counts, queues, requests := []int{1, 4, 16, 64}, []int{1, 2, 4, 8}, 100_000
	if o.Smoke {
		counts, queues, requests = []int{1, 4}, []int{1, 2}, 400
	}
	dir, err := l.dir(o.Dir)
	if err != nil {
		return err
	}
	for i := range counts[len(counts)-1] {
		if err := os.WriteFile(filepath.Join(dir, fileName(i)), make([]byte, 4096), 0o600); err != nil {
			return err
		}
	}
	for _, op := range []string{getattr, read4K} {
		for _, n := range counts {
			if !o.Wanted(streamRow(op, n)) {
				continue
			}
			row, err := streamsOver(o.Rounds, dir, op, n, queues, requests)
			if err != nil {
				return err
			}
			r.Rows = append(r.Rows, row)
			r.Claims = append(r.Claims, streamClaims(row.Name, n, queues)...)
		}
	}
	return nil
}

// streamClaims is that with enough streams a second queue makes use of a second
// processor, that many queues are better than one, and that more queues than the machine
// has processors do no harm.
func streamClaims(row string, streams int, queues []int) []figures.Claim {
	if cpus := len(processors()); cpus < 2 || streams < 2*cpus {
		return nil
	}
	claims := []figures.Claim{{Row: row, Side: queueSide(1), Base: queueSide(2), Limit: 1.15, AtLeast: true}}
	if most := queues[len(queues)-1]; most > 2 {
		claims = append(claims, figures.Claim{Row: row, Side: queueSide(1), Base: queueSide(most), Limit: 1.15, AtLeast: true})
		claims = append(claims, figures.Claim{Row: row, Side: queueSide(most), Base: queueSide(2), Limit: 1.2})
	}
	return claims
}

// streamsOver measures so many streams over each number of queues. As in a machine of
// as many processors, each that comes back from the guest finds a P.
func streamsOver(rounds int, dir, op string, streams int, queues []int, requests int) (figures.Row, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + streams + 1))
	var sides []figures.Side
	for _, q := range queues {
		g, err := newGuest(dir, op, streams, q)
		if err != nil {
			return figures.Row{}, err
		}
		defer g.close()
		sides = append(sides, figures.Side{Name: queueSide(q), Run: func() (figures.Round, error) { return g.round(requests) }})
	}
	b, err := newBare(dir, op, streams)
	if err != nil {
		return figures.Row{}, err
	}
	defer b.close()
	sides = append(sides, figures.Side{Name: bareSide, Run: func() (figures.Round, error) { return b.round(requests) }})
	return figures.Measure(streamRow(op, streams), "ns", rounds, sides...)
}
