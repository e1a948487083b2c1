// Package vhostuser is the front end of a virtio-fs daemon: it starts a virtiofsd,
// gives it memory and rings as a VMM would (QEMU's docs/interop/vhost-user.rst), and
// rings its doorbells. The driver's side of the rings is another's: package ring.
package vhostuser

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"tenon/devices/virtio/queue"
	"tenon/scripts/benchmark/ring"
)

// features are what the front end can do, and Linux does: not the device's own.
const features = queue.FeatureIndirect | queue.FeatureEventIdx

// Peer is a running daemon that serves rings: a ring.Target.
type Peer struct {
	process  *process
	conn     conn
	kick     []int // eventfds, one for each ring
	call     []int
	features uint64
}

var _ ring.Target = (*Peer)(nil)

// Start returns what starts the daemon on a directory.
func (d Daemon) Start(dir string) ring.Start {
	return func(m *ring.Memory, rings []queue.Layout) (ring.Target, error) {
		p, err := d.launch(dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.Name, err)
		}
		if err := p.configure(m, rings); err != nil {
			err = p.process.blame(err)
			return nil, fmt.Errorf("%s: %w", d.Name, errors.Join(err, p.discard()))
		}
		return p, nil
	}
}

// launch starts the daemon with a socket to listen on as descriptor 3, and connects to
// it.
func (d Daemon) launch(dir string) (*Peer, error) {
	// No name: the kernel chooses one that is not a file.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix"})
	if err != nil {
		return nil, err
	}
	// When only the process has the socket, its end is the end of the connection.
	defer l.Close()
	file, err := l.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	c, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		return nil, err
	}
	process, err := launch(d.program, d.args(dir), file)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return &Peer{process: process, conn: conn{c, d.patience}}, nil
}

// configure does what a VMM does until the rings are served.
func (p *Peer) configure(m *ring.Memory, rings []queue.Layout) error {
	if err := p.negotiate(len(rings)); err != nil {
		return err
	}
	// The daemon knows our addresses for nothing but the rings: guest addresses will do.
	region := memoryRegion(uint64(m.GPA), uint64(len(m.Data)), uint64(m.GPA), 0)
	if err := p.conn.set(setMemTable, region, int(m.File.Fd())); err != nil {
		return err
	}
	for i, l := range rings {
		if err := p.addRing(uint32(i), l); err != nil {
			return fmt.Errorf("ring %d: %w", i, err)
		}
	}
	return nil
}

// negotiate settles the features, of the protocol first: they make the daemon
// confirm all that follows.
func (p *Peer) negotiate(rings int) error {
	offered, err := p.conn.get(getFeatures)
	if err != nil {
		return err
	}
	if offered&featureProtocol == 0 || offered&featureVersion1 == 0 {
		return fmt.Errorf("features %#x: PROTOCOL_FEATURES and VERSION_1 are needed", offered)
	}
	protocol, err := p.conn.get(getProtocolFeatures)
	if err != nil {
		return err
	}
	const needed = protocolMQ | protocolReplyAck
	if protocol&needed != needed {
		return fmt.Errorf("features of the protocol %#x: MQ and REPLY_ACK are needed", protocol)
	}
	if err := p.conn.tell(setProtocolFeatures, number(needed)); err != nil {
		return err
	}
	most, err := p.conn.get(getQueueNum)
	if err != nil {
		return err
	}
	if uint64(rings) > most {
		return fmt.Errorf("%d rings: it serves %d", rings, most)
	}
	if err := p.conn.set(setOwner, nil); err != nil {
		return err
	}
	p.features = offered & features
	return p.conn.set(setFeatures, number(p.features|featureProtocol|featureVersion1))
}

// addRing hands over one ring and enables it.
func (p *Peer) addRing(i uint32, l queue.Layout) error {
	kick, err := eventfd(&p.kick)
	if err != nil {
		return err
	}
	call, err := eventfd(&p.call)
	if err != nil {
		return err
	}
	address := vringAddress(i, uint64(l.Desc), uint64(l.Used), uint64(l.Avail))
	steps := []struct {
		request request
		payload []byte
		fds     []int
	}{
		{setVringNum, vringState(i, uint32(l.Size)), nil},
		{setVringBase, vringState(i, 0), nil},
		{setVringAddr, address, nil},
		{setVringCall, number(uint64(i)), []int{call}},
		{setVringKick, number(uint64(i)), []int{kick}},
		{setVringEnable, vringState(i, 1), nil},
	}
	for _, s := range steps {
		if err := p.conn.set(s.request, s.payload, s.fds...); err != nil {
			return err
		}
	}
	return nil
}

// eventfd appends a new one to a list.
func eventfd(list *[]int) (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, fmt.Errorf("eventfd: %w", err)
	}
	*list = append(*list, fd)
	return fd, nil
}

// Features are those of the rings that were negotiated: of queue.FeatureIndirect and
// queue.FeatureEventIdx.
func (p *Peer) Features() uint64 { return p.features }

// Kick rings the doorbell of a queue.
func (p *Peer) Kick(queue int) error {
	one := [8]byte{1}
	if _, err := unix.Write(p.kick[queue], one[:]); err != nil {
		return fmt.Errorf("kick of queue %d: %w", queue, err)
	}
	return nil
}

// Err is how the daemon ended, nil while it runs.
func (p *Peer) Err() error {
	if err := p.process.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Close stops the rings, hangs up, which ends the daemon, and waits for its end.
func (p *Peer) Close() error {
	var err error
	for i := range p.kick {
		if err = p.stopRing(uint32(i)); err != nil {
			err = p.process.blame(err)
			break
		}
	}
	return errors.Join(err, p.discard())
}

// stopRing returns when the daemon does not look at a ring any more.
func (p *Peer) stopRing(i uint32) error {
	return p.conn.talk(getVringBase, 0, vringState(i, 0), make([]byte, 8))
}

// discard ends the daemon and gives everything back.
func (p *Peer) discard() error {
	_ = p.conn.Close()
	err := p.process.stop(p.conn.limit)
	for _, fd := range slices.Concat(p.kick, p.call) {
		_ = unix.Close(fd)
	}
	return err
}
