package scale

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/virtio"
	"tenon/devices/virtio/fs"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

const (
	ringSize = 128
	features = queue.FeatureIndirect | queue.FeatureEventIdx
	ringsAt  = memory.GPA(0x10000)
	slotsAt  = memory.GPA(0x100000)
	slotSize = 0x4000 // bytes, see slot
	maxSlots = 64
)

// broken ends a harness whose ring or conversation is not as it must be: queuetest and
// fstest take a test to tell. It panics with itself, and recovered returns it.
type broken struct {
	testing.TB // nil: nothing else of it is called
	err        error
}

func (b *broken) Helper() {}

func (b *broken) Fatal(a ...any)                 { b.err = fmt.Errorf("%s", fmt.Sprint(a...)); panic(b) }
func (b *broken) Fatalf(format string, a ...any) { b.err = fmt.Errorf(format, a...); panic(b) }
func (b *broken) Errorf(format string, a ...any) { b.Fatalf(format, a...) }

// recovered is deferred by whoever has called what may break.
func recovered(err *error) {
	if r := recover(); r != nil {
		b, ok := r.(*broken)
		if !ok {
			panic(r)
		}
		*err = b.err
	}
}

// share is a directory behind a virtio-fs device, and the memory of its driver.
type share struct {
	device *fs.Device
	server *virtiofs.Server
	conn   *fstest.Conn
	ram    []byte
	mem    *memory.Map
	tb     broken
}

// newShare shares the directory by a device with so many request queues.
func newShare(dir string, queues int) (*share, error) {
	files, err := passthrough.New(dir, passthrough.Options{})
	if err != nil {
		return nil, err
	}
	s := &share{server: virtiofs.NewServer(files, virtiofs.Options{Policy: virtiofs.Auto()})}
	if err := s.attach(queues); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// attach makes the device and its guest's memory, and begins a FUSE session.
func (s *share) attach(queues int) (err error) {
	defer recovered(&err)
	s.device, err = fs.New(fs.Options{Tag: "scale", Server: s.server, RequestQueues: queues, QueueSize: ringSize})
	if err != nil {
		return err
	}
	s.ram, err = unix.Mmap(-1, 0, int(slotsAt)+maxSlots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	if s.mem, err = memory.New(memory.Region{Data: s.ram}); err != nil {
		return err
	}
	s.conn = fstest.Dial(&s.tb, s.server)
	if _, e := s.conn.Init(fstest.AllFlags); e != 0 {
		return fmt.Errorf("INIT: %w", e)
	}
	return nil
}

// activate starts the device with new rings, of which irq tells. A device that gives up
// would leave its streams waiting: that ends the program.
func (s *share) activate(irq virtio.Interrupter) (rings []*queuetest.Ring, err error) {
	defer recovered(&err)
	env := virtio.Env{Mem: s.mem, Features: features, Irq: irq, Broken: func(err error) { panic(err) }}
	at := ringsAt
	for range s.device.Info().QueueSizes {
		l, end := queuetest.Place(at, ringSize)
		r := queuetest.New(&s.tb, s.mem, l, features)
		rings = append(rings, r)
		env.Queues = append(env.Queues, r.Device(features))
		at = end
	}
	return rings, s.device.Activate(env)
}

func (s *share) close() error {
	if s.device != nil {
		s.device.Reset()
	}
	err := s.server.Close()
	if s.ram != nil {
		unix.Munmap(s.ram)
	}
	return err
}

// slot is guest memory for one request at a time, laid out as Linux does it: header,
// arguments, reply header and the reply's body or page are buffers of their own, named
// by an indirect table.
type slot struct {
	ram     []byte
	table   memory.GPA
	buffers []queuetest.Buffer
	reply   []byte // its header
	want    uint32 // used length of a reply that is right
}

// Where things are in a slot, behind the table.
const (
	inOff    = 0x400
	argsOff  = 0x800
	replyOff = 0x1000
	bodyOff  = 0x1100
	pageOff  = 0x2000
)

// slot returns the number i of the guest's slots.
func (s *share) slot(i int) *slot {
	at := slotsAt + memory.GPA(i*slotSize)
	ram := s.ram[at : at+slotSize]
	return &slot{ram: ram, table: at, reply: ram[replyOff : replyOff+fuse.OutHeaderSize]}
}

// ask makes the slot one for the message, whose reply has a body of so many bytes: of a
// page, with page.
func (t *slot) ask(message []byte, body uint32, page bool) {
	copy(t.ram[inOff:], message[:fuse.InHeaderSize])
	n := copy(t.ram[argsOff:], message[fuse.InHeaderSize:])
	to := t.table + bodyOff
	if page {
		to = t.table + pageOff
	}
	t.buffers = append(t.buffers[:0],
		queuetest.Buffer{At: t.table + inOff, Len: fuse.InHeaderSize},
		queuetest.Buffer{At: t.table + argsOff, Len: uint32(n)},
		queuetest.Buffer{At: t.table + replyOff, Len: fuse.OutHeaderSize, Write: true},
		queuetest.Buffer{At: to, Len: body, Write: true})
	t.want = fuse.OutHeaderSize + body
}

// right says that the reply is a success of the length it must have.
func (t *slot) right(used uint32) bool {
	return used == t.want && binary.LittleEndian.Uint32(t.reply) == used && binary.LittleEndian.Uint32(t.reply[4:]) == 0
}
