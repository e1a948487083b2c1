package ring

import (
	"errors"
	"fmt"
	"time"

	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// The queues of a virtio-fs device (virtio 1.3 §5.11.2), and how long hiprio's is.
const (
	Hiprio   = 0
	Requests = 1 // the first of them

	hiprioSize = 128
)

// What Linux 6.12 offers in INIT.
const (
	linuxMinor = 41
	linuxFlags = 0x1ff_7bff_fffb
	daxFlags   = fuse.MapAlignment | fuse.HasInodeDAX // with a window
	readahead  = 128 << 10
)

// Options are the driver's.
type Options struct {
	Queues int  // of requests; 0 is one
	Size   int  // entries of a request queue, a power of two up to queue.MaxSize; 0 is 512
	Memory int  // bytes for rings and requests, a multiple of 4096; 0 is 64 MiB
	DAX    bool // the guest has found a window
}

// Share is a shared directory as the driver has it: rings in memory, a target that
// serves them, and a FUSE session. One goroutine uses it, or one for each queue with
// nothing but Do and Serial.
type Share struct {
	Memory *Memory
	Flags  uint64 // what INIT agreed on

	target  Target
	drivers []*driver
	forgets []*Request
}

// Open makes memory and rings, starts what serves them, and sends INIT as Linux 6.12
// does.
func Open(start Start, o Options) (*Share, error) {
	if o.Queues == 0 {
		o.Queues = 1
	}
	if o.Size == 0 {
		o.Size = 512
	}
	if o.Memory == 0 {
		o.Memory = 64 << 20
	}
	m, err := NewMemory(o.Memory)
	if err != nil {
		return nil, err
	}
	s := &Share{Memory: m}
	if err := s.open(start, o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Share) open(start Start, o Options) (err error) {
	var layouts []queue.Layout
	at := s.Memory.next
	for i := range 1 + o.Queues {
		size := uint16(o.Size)
		if i == Hiprio {
			size = hiprioSize
		}
		l, end := queuetest.Place(at, size)
		layouts, at = append(layouts, l), end
	}
	if _, err = s.Memory.take(int(at-s.Memory.next), 1); err != nil {
		return err
	}
	if s.target, err = start(s.Memory, layouts); err != nil {
		return err
	}
	if s.target.Features()&queue.FeatureIndirect == 0 {
		return errors.New("the device takes no indirect descriptors, which Linux uses")
	}
	for i, l := range layouts {
		d, err := newDriver(s.Memory.Map, l, i, s.target)
		if err != nil {
			return err
		}
		s.drivers = append(s.drivers, d)
	}
	if err := s.forgetters(); err != nil {
		return err
	}
	s.Memory.keep()
	return s.init(o.DAX)
}

// init opens the FUSE session.
func (s *Share) init(dax bool) error {
	flags := uint64(linuxFlags)
	if dax {
		flags |= daxFlags
	}
	args := fstest.U32(fuse.Major, linuxMinor, readahead, uint32(flags), uint32(flags>>32))
	r, err := s.Add(Requests, Spec{Op: fuse.Init, Args: append(args, make([]byte, 44)...), Reply: fuse.InitOutSize, Want: fuse.InitOutSize})
	if err != nil {
		return err
	}
	if _, err := s.Do(Requests, r); err != nil {
		return err
	}
	s.Flags = uint64(le.Uint32(r.Reply[12:])) | uint64(le.Uint32(r.Reply[32:]))<<32
	if major, maxWrite := le.Uint32(r.Reply), le.Uint32(r.Reply[20:]); major != fuse.Major || maxWrite < virtiofs.MaxIO {
		return fmt.Errorf("INIT: major %d, max_write %d: cannot be measured with requests of 1 MiB", major, maxWrite)
	}
	s.Rewind()
	return nil
}

// Close ends serving and unmaps the memory.
func (s *Share) Close() error {
	var err error
	if s.target != nil {
		err = s.target.Close()
	}
	s.Memory.Close()
	return err
}

// Rewind takes all requests back that the device has not got, and their memory. The
// session goes on.
func (s *Share) Rewind() {
	s.Memory.Rewind()
	for i, d := range s.drivers {
		if i != Hiprio {
			d.requests = d.requests[:0]
		}
	}
}

// Add puts a request into shared memory, for a queue that has room for it.
func (s *Share) Add(queue int, spec Spec) (*Request, error) {
	d := s.drivers[queue]
	if len(d.requests) == d.size() {
		return nil, fmt.Errorf("queue %d: a request more than its %d entries", queue, d.size())
	}
	r, list, err := s.Memory.build(spec)
	if err != nil {
		return nil, err
	}
	r.head = uint16(len(d.requests))
	desc := d.desc[16*int(r.head):]
	if len(list) == 1 {
		queuetest.PutDesc(desc, list[0].At, list[0].Len, 0, 0)
	} else {
		at, err := s.Memory.take(16*len(list), 16)
		if err != nil {
			return nil, err
		}
		table := s.Memory.bytes(at, 16*len(list))
		for i, b := range list {
			flags, next := uint16(0), uint16(0)
			if b.Write {
				flags = queuetest.FlagWrite
			}
			if i+1 < len(list) {
				flags, next = flags|queuetest.FlagNext, uint16(i+1)
			}
			queuetest.PutDesc(table[16*i:], b.At, b.Len, flags, next)
		}
		queuetest.PutDesc(desc, at, uint32(len(table)), queuetest.FlagIndirect, 0)
	}
	d.requests = append(d.requests, r)
	return r, nil
}

// Do makes the requests available all at once, waits until all are answered, and says
// how long that took, from making them available to the last used entry. An answer
// that is not as it should be is an error.
func (s *Share) Do(queue int, list ...*Request) (time.Duration, error) {
	d := s.drivers[queue]
	d.enter(list)
	took, err := d.offer(len(list))
	if err == nil {
		err = d.check(list)
	}
	return took, err
}

// Serial is Do with one request at a time, each made available when the one before it
// was answered. With samples, which is as long as list, it says how long each took.
func (s *Share) Serial(queue int, list []*Request, samples []time.Duration) (took time.Duration, err error) {
	d := s.drivers[queue]
	d.enter(list)
	start := time.Now()
	for i := range list {
		if samples == nil {
			err = d.serve(1)
		} else {
			samples[i], err = d.offer(1)
		}
		if err != nil {
			return 0, err
		}
	}
	took = time.Since(start)
	return took, d.check(list)
}

// forgetBatch is how many inodes are forgotten at once.
const forgetBatch = hiprioSize / 2

func (s *Share) forgetters() error {
	for range forgetBatch {
		r, err := s.Add(Hiprio, Spec{Op: fuse.Forget, Args: fstest.U64(1)})
		if err != nil {
			return err
		}
		s.forgets = append(s.forgets, r)
	}
	return nil
}

// Forget takes back one lookup of each inode, by the queue for that.
func (s *Share) Forget(nodes []virtiofs.NodeID) error {
	for len(nodes) > 0 {
		n := min(len(nodes), forgetBatch)
		for i, node := range nodes[:n] {
			s.forgets[i].SetNode(node)
		}
		if _, err := s.Do(Hiprio, s.forgets[:n]...); err != nil {
			return err
		}
		nodes = nodes[n:]
	}
	return nil
}
