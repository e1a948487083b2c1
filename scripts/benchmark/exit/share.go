package exit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/virtio"
	"tenon/devices/virtio/fs"
	virtiopci "tenon/devices/virtio/pci"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

const (
	ringSize  = 64
	chainSize = 1 << chainShift
	blockSize = 4096 // of a READ
	fileName  = "file"
	fileSize  = ringSize * blockSize

	// In the room for one chain: indirect table, header, arguments, reply, data.
	headerOff = 0x100
	argsOff   = 0x200
	replyOff  = 0x300
	dataOff   = 0x1000
)

// Queues of a share, each with one kind of request in it.
const (
	hiprio = iota
	reads
	getattrs
	queues
)

// failure is what the parts that were made for tests end with.
type failure struct{ error }

// strict stands for a test.
type strict struct{ testing.TB }

func (strict) Helper() {}

func (strict) Fatal(args ...any) { panic(failure{errors.New(fmt.Sprint(args...))}) }

func (strict) Fatalf(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

// share is a virtio-fs device of the guest's whose rings hold requests that are made
// available again and again.
type share struct {
	g      *guest
	server *virtiofs.Server
	device *virtiopci.Transport
	conn   *fstest.Conn
	bell   uint64 // address of queue 0's notification
	rings  [queues]queue.Layout
	chains [queues]memory.GPA
	node   virtiofs.NodeID
	handle uint64
}

// addShare gives the guest a device that serves the directory, ready for use.
func (g *guest) addShare(dir string, service fs.Service) (s *share, err error) {
	defer func() {
		if f, ok := recover().(failure); ok {
			err = f.error
		}
	}()
	host, err := passthrough.New(dir, passthrough.Options{})
	if err != nil {
		return nil, err
	}
	s = &share{g: g, server: virtiofs.NewServer(host, virtiofs.Options{})}
	d, err := fs.New(fs.Options{
		Tag: "bench", Server: s.server, RequestQueues: queues - 1, QueueSize: ringSize, Service: service,
	})
	if err != nil {
		return nil, errors.Join(err, s.server.Close())
	}
	if s.device, err = virtiopci.New(d, g.mem, g); err != nil {
		return nil, errors.Join(err, s.server.Close())
	}
	slot, err := g.pci.Add(s.device)
	if err != nil {
		return nil, errors.Join(err, s.server.Close())
	}
	bar, _ := g.pci.BAR(slot, 0)
	s.device.Config().Write(4, []byte{6, 0}) // memory decoding, bus master
	s.bell = bar.Base + notifications(s.device)
	s.open()
	s.activate()
	return s, nil
}

// SendMSI implements irq.MSISender. The driver gives its queues no vectors.
func (g *guest) SendMSI(addr uint64, data uint32) { _ = g.vm.SignalMSI(addr, data) }

// notifications is the offset of the notification section in BAR 0 (virtio 1.3
// §4.1.4.4), from its capability.
func notifications(t *virtiopci.Transport) uint64 {
	const notify, vendor = 2, 9
	var p [1]byte
	t.Config().Read(0x34, p[:])
	for at := int(p[0]); at != 0; {
		var c [16]byte
		t.Config().Read(at, c[:])
		if c[0] == vendor && c[3] == notify && c[4] == 0 {
			return uint64(binary.LittleEndian.Uint32(c[8:]))
		}
		at = int(c[1])
	}
	panic(failure{errors.New("no notification capability")})
}

// open opens a session and the file.
func (s *share) open() {
	s.conn = fstest.Dial(strict{}, s.server)
	if _, e := s.conn.Init(fstest.AllFlags); e != 0 {
		panic(failure{fmt.Errorf("INIT: %w", e)})
	}
	entry, e := s.conn.Lookup(1, fileName)
	if e != 0 {
		panic(failure{fmt.Errorf("LOOKUP: %w", e)})
	}
	s.node = entry.Node
	if s.handle, e = s.conn.Open(s.node, unix.O_RDONLY); e != 0 {
		panic(failure{fmt.Errorf("OPEN: %w", e)})
	}
}

// Registers of the common configuration (virtio 1.3 §4.1.4.3).
const (
	driverFeatureSelect = 8
	driverFeature       = 12
	deviceStatus        = 20
	queueSelect         = 22
	queueSize           = 24
	queueEnable         = 28
	queueDesc           = 32
	queueDriver         = 40
	queueDevice         = 48
)

func (s *share) set(reg uint64, width int, v uint64) {
	var p [8]byte
	binary.LittleEndian.PutUint64(p[:], v)
	s.device.WriteBAR(0, reg, p[:width])
}

// activate is what a driver does (virtio 1.3 §3.1.1).
func (s *share) activate() {
	const features = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx | virtio.FeatureVersion1
	status := virtio.StatusAcknowledge | virtio.StatusDriver
	s.set(deviceStatus, 1, uint64(virtio.StatusAcknowledge))
	s.set(deviceStatus, 1, uint64(status))
	for half := range uint64(2) {
		s.set(driverFeatureSelect, 4, half)
		s.set(driverFeature, 4, features>>(32*half)&0xffffffff)
	}
	status |= virtio.StatusFeaturesOK
	s.set(deviceStatus, 1, uint64(status))
	for q := range queues {
		s.place(q, features)
	}
	s.set(deviceStatus, 1, uint64(status|virtio.StatusDriverOK))
}

// place makes a ring full of requests.
func (s *share) place(q int, features uint64) {
	l, end := queuetest.Place(s.g.next, ringSize)
	s.rings[q] = l
	s.set(queueSelect, 2, uint64(q))
	s.set(queueSize, 2, ringSize)
	s.set(queueDesc, 8, uint64(l.Desc))
	s.set(queueDriver, 8, uint64(l.Avail))
	s.set(queueDevice, 8, uint64(l.Used))
	s.set(queueEnable, 2, 1)
	r := queuetest.New(strict{}, s.g.mem, l, features)
	s.chains[q] = (end + chainSize - 1) &^ (chainSize - 1)
	s.g.next = s.chains[q] + ringSize*chainSize
	if q == hiprio {
		return
	}
	for range ringSize {
		s.request(r, q)
	}
	r.SetAvailIdx(0)
}

// request puts one request into a ring, laid out as Linux does: header, arguments,
// reply and pages are buffers of their own.
func (s *share) request(r *queuetest.Ring, q int) {
	head := r.NextHead()
	at := s.chains[q] + memory.GPA(head)*chainSize
	var msg []byte
	reply := []queuetest.Buffer{{At: at + replyOff, Len: fuse.OutHeaderSize, Write: true}}
	if q == reads {
		msg = s.conn.Message(fuse.Read, s.node, fstest.ReadArgs(s.handle, uint64(head)*blockSize, blockSize))
		reply = append(reply, queuetest.Buffer{At: at + dataOff, Len: blockSize, Write: true})
	} else {
		msg = s.conn.Message(fuse.Getattr, s.node, fstest.U32(0, 0), fstest.U64(0))
		reply = append(reply, queuetest.Buffer{At: at + replyOff + fuse.OutHeaderSize, Len: fuse.AttrOutSize, Write: true})
	}
	r.Write(at+headerOff, msg[:fuse.InHeaderSize])
	r.Write(at+argsOff, msg[fuse.InHeaderSize:])
	r.AddIndirect(at, append([]queuetest.Buffer{
		{At: at + headerOff, Len: fuse.InHeaderSize},
		{At: at + argsOff, Len: uint32(len(msg) - fuse.InHeaderSize)},
	}, reply...)...)
}

// step is so many doorbells with so many requests each.
func (s *share) step(q, doorbells, batch int) step {
	l := s.rings[q]
	length := uint64(fuse.OutHeaderSize + blockSize)
	if q == getattrs {
		length = fuse.OutHeaderSize + fuse.AttrOutSize
	}
	return step{
		availIdx: uint64(l.Avail) + 2, availEvent: uint64(l.Used) + 4 + 8*ringSize, usedIdx: uint64(l.Used) + 2,
		doorbell: s.bell + 4*uint64(q), batch: uint64(batch), doorbells: uint64(doorbells),
		used: uint64(l.Used) + 4, replies: uint64(s.chains[q]) + replyOff, length: length, mask: ringSize - 1,
	}
}

// check looks at the data of the last replies, of those chains that were used.
func (s *share) check() error {
	for head := range ringSize {
		at := s.chains[reads] + memory.GPA(head)*chainSize
		b, err := s.g.mem.Slice(at, chainSize)
		if err != nil {
			return err
		}
		if binary.LittleEndian.Uint32(b[replyOff:]) == 0 {
			continue
		}
		if b = b[dataOff:]; b[0] != byte(head)+1 || b[blockSize-1] != byte(head)+1 {
			return fmt.Errorf("READ of block %d gave %d to %d", head, b[0], b[blockSize-1])
		}
	}
	return s.device.Err()
}

// close ends the device.
func (s *share) close() error {
	s.device.Reset()
	return s.server.Close()
}

// newFile makes the file that shares serve; its blocks name themselves.
func newFile(dir string) (path string, err error) {
	b := make([]byte, fileSize)
	for i := range b {
		b[i] = byte(i/blockSize) + 1
	}
	path = filepath.Join(dir, fileName)
	return path, os.WriteFile(path, b, 0o600)
}
