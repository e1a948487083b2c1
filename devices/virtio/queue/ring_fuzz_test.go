package queue_test

import (
	"testing"

	"tenon/devices/memory"
	"tenon/devices/memory/memorytest"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

// FuzzRing drives both sides by a script: a driver that adds good chains and then
// overwrites descriptors, tables, indices and wishes at any moment, and a device
// that pops, keeps, fetches again, pushes and signals. The device is given what
// lies in memory and inside the limits or an error, and never more chains at a time
// than the ring has entries.
func FuzzRing(f *testing.F) {
	w := memorytest.NewWindow(f, outside)
	for features := range uint8(4) {
		f.Add(features, []byte{0, 3, 8, 1, 2, 8, 10, 8, 9, 11})
		f.Add(features, []byte{1, 5, 8, 8, 2, 0, 4, 7, 8, 3, 1, 1, 8, 9, 4, 255, 8, 5, 9, 8})
		f.Add(features, []byte{0, 1, 0, 1, 0, 1, 8, 8, 9, 9, 6, 7, 12, 0, 13, 10, 11, 8})
	}
	f.Fuzz(func(t *testing.T, bits uint8, script []byte) {
		var features uint64
		if bits&1 != 0 {
			features |= queue.FeatureIndirect
		}
		if bits&2 != 0 {
			features |= queue.FeatureEventIdx
		}
		r, q, m := pairBeside(t, w.Region, 8, features)
		d := &duel{t: t, r: r, q: q, m: m, w: w, c: queue.NewChain(room), script: script[:min(len(script), 400)]}
		for len(d.script) > 0 && d.step() == nil {
		}
	})
}

// duel is a driver and a device on one ring.
type duel struct {
	t      *testing.T
	r      *queuetest.Ring
	q      *queue.Queue
	c      *queue.Chain
	m      *memory.Map
	w      *memorytest.Window
	held   []uint16 // heads of the chains that are popped and not pushed
	script []byte
}

func (d *duel) next() uint16 {
	if len(d.script) == 0 {
		return 0
	}
	v := d.script[0]
	d.script = d.script[1:]
	return uint16(v)
}

// address is mostly in RAM, and sometimes at its border with the window.
func (d *duel) address() memory.GPA {
	switch v := memory.GPA(d.next()); {
	case v < 200:
		return data + v<<4
	case v < 230:
		return outside - (v - 215)
	default:
		return -v
	}
}

// step is one move of either side; an error is the end of the queue.
func (d *duel) step() error {
	r := d.r
	switch d.next() % 14 {
	case 0:
		var b []queuetest.Buffer
		n := d.next() % 5
		for i := range n {
			b = append(b, queuetest.Buffer{At: data + 0x1000 + memory.GPA(i)<<8, Len: uint32(d.next()), Write: i > n/2})
		}
		r.Add(b...)
	case 1:
		b := make([]queuetest.Buffer, d.next()%(room+2))
		for i := range b {
			b[i] = queuetest.Buffer{At: data + 0x2000, Len: uint32(i), Write: i > 2}
		}
		r.AddIndirect(data, b...)
	case 2:
		r.SetDesc(d.next()%8, d.address(), uint32(d.next())<<(d.next()%32), d.next(), d.next())
	case 3: // an entry of an indirect table
		p := make([]byte, 16)
		queuetest.PutDesc(p, d.address(), uint32(d.next())<<(d.next()%32), d.next(), d.next())
		r.Write(data+memory.GPA(d.next()%room)<<4, p)
	case 4:
		r.SetAvailIdx(d.next() * 257)
	case 5:
		r.Offer(d.next())
	case 6:
		r.Quiet()
	case 7:
		r.Listen()
	case 8, 9:
		return d.pop()
	case 10:
		d.push()
	case 11:
		d.q.MustSignal()
		d.q.Listen()
	case 12:
		d.q.Quiet()
	case 13:
		return d.again()
	}
	return nil
}

func (d *duel) pop() error {
	head, ok, err := d.q.PopHead()
	if !ok || err != nil {
		return err
	}
	d.held = append(d.held, head)
	if len(d.held) > int(d.q.Size()) {
		d.t.Fatalf("%d chains at a time from a ring of %d", len(d.held), d.q.Size())
	}
	return d.fetch(head)
}

// again fetches a chain that waits, whatever became of its descriptors.
func (d *duel) again() error {
	if len(d.held) == 0 {
		return nil
	}
	return d.fetch(d.held[int(d.next())%len(d.held)])
}

func (d *duel) fetch(head uint16) error {
	if err := d.q.Fetch(d.c, head); err != nil {
		return err
	}
	if d.c.Head != head {
		d.t.Fatalf("head %d of chain %d", d.c.Head, head)
	}
	checkChain(d.t, d.c, d.m, d.w)
	return nil
}

func (d *duel) push() {
	if len(d.held) > 0 {
		d.q.Push(d.held[0], uint32(d.next()))
		d.held = d.held[1:]
	}
}
