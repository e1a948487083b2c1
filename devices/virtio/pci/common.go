package pci

import (
	"encoding/binary"
	"math/bits"

	"tenon/devices/memory"
	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
)

const commonSize = 64

// register is one field of the common configuration (§4.1.4.3). 64-bit fields
// are two registers, as drivers access them (§4.1.3.1).
type register struct {
	off   uint64
	width int
	load  func(t *Transport) uint32
	store func(t *Transport, v uint32) // nil: read-only
}

// commonRegisters is the structure of §4.1.4.3. What is missing reads as 0 and
// ignores writes: queue_notif_config_data (56), queue_reset (58) and the admin
// queue's two fields (60, 62), whose features are not offered.
var commonRegisters = [...]register{
	{0, 4, func(t *Transport) uint32 { return t.deviceSelect }, func(t *Transport, v uint32) { t.deviceSelect = v }},
	{4, 4, func(t *Transport) uint32 { return half(t.offered(), t.deviceSelect) }, nil},
	{8, 4, func(t *Transport) uint32 { return t.driverSelect }, func(t *Transport, v uint32) { t.driverSelect = v }},
	{12, 4, func(t *Transport) uint32 { return half(t.features, t.driverSelect) }, (*Transport).writeFeatures},
	{16, 2, func(t *Transport) uint32 { return t.configVector.Load() }, func(t *Transport, v uint32) { t.configVector.Store(t.vector(v)) }},
	{18, 2, func(t *Transport) uint32 { return uint32(len(t.rings)) }, nil},
	{20, 1, func(t *Transport) uint32 { return t.status.Load() }, (*Transport).writeStatus},
	{21, 1, func(t *Transport) uint32 { return t.generation.Load() & 0xff }, nil},
	{22, 2, func(t *Transport) uint32 { return uint32(t.selected) }, func(t *Transport, v uint32) { t.selected = uint16(v) }},
	{24, 2, ofRing(func(r *ring) uint32 { return uint32(r.size) }), toRing((*ring).resize)},
	{26, 2, ofRing(func(r *ring) uint32 { return r.vector.Load() }), (*Transport).writeVector},
	{28, 2, ofRing((*ring).enable), toRing(func(r *ring, v uint32) { r.enabled = v == 1 })},
	{30, 2, ofRing(func(r *ring) uint32 { return uint32(r.index) }), nil},
	{32, 4, ofRing(func(r *ring) uint32 { return uint32(r.desc) }), toRing(func(r *ring, v uint32) { setLow(&r.desc, v) })},
	{36, 4, ofRing(func(r *ring) uint32 { return uint32(r.desc >> 32) }), toRing(func(r *ring, v uint32) { setHigh(&r.desc, v) })},
	{40, 4, ofRing(func(r *ring) uint32 { return uint32(r.avail) }), toRing(func(r *ring, v uint32) { setLow(&r.avail, v) })},
	{44, 4, ofRing(func(r *ring) uint32 { return uint32(r.avail >> 32) }), toRing(func(r *ring, v uint32) { setHigh(&r.avail, v) })},
	{48, 4, ofRing(func(r *ring) uint32 { return uint32(r.used) }), toRing(func(r *ring, v uint32) { setLow(&r.used, v) })},
	{52, 4, ofRing(func(r *ring) uint32 { return uint32(r.used >> 32) }), toRing(func(r *ring, v uint32) { setHigh(&r.used, v) })},
}

// half is the 32-bit window on feature bits that a select register chooses;
// there are no bits from 64 on.
func half(features uint64, sel uint32) uint32 {
	if sel > 1 {
		return 0
	}
	return uint32(features >> (32 * sel))
}

func setLow(dst *uint64, v uint32)  { *dst = *dst&^0xffffffff | uint64(v) }
func setHigh(dst *uint64, v uint32) { *dst = *dst&0xffffffff | uint64(v)<<32 }

// ofRing reads a field of the selected queue; 0 where there is none, which
// queue_size must say (§4.1.4.3.1).
func ofRing(load func(*ring) uint32) func(*Transport) uint32 {
	return func(t *Transport) uint32 {
		if int(t.selected) >= len(t.rings) {
			return 0
		}
		return load(&t.rings[t.selected])
	}
}

// toRing writes a field of the selected queue, while the driver may still
// change it: before it enables the queue, and before DRIVER_OK.
func toRing(store func(*ring, uint32)) func(*Transport, uint32) {
	return func(t *Transport, v uint32) {
		if int(t.selected) < len(t.rings) && !t.has(virtio.StatusDriverOK) && !t.rings[t.selected].enabled {
			store(&t.rings[t.selected], v)
		}
	}
}

func (r *ring) enable() uint32 {
	if r.enabled {
		return 1
	}
	return 0
}

// resize takes a smaller ring. Other values are left out, and the driver reads
// back the old one.
func (r *ring) resize(v uint32) {
	if bits.OnesCount32(v) == 1 && v <= uint32(r.max) {
		r.size = uint16(v)
	}
}

// readCommon reads one register by its own width (§4.1.3.1). An 8-byte access
// is two of 4.
func (t *Transport) readCommon(off uint64, p []byte) {
	if len(p) == 8 {
		t.readCommon(off, p[:4])
		t.readCommon(off+4, p[4:])
		return
	}
	r := commonRegister(off, len(p))
	if r == nil {
		return
	}
	t.mu.Lock()
	v := r.load(t)
	t.mu.Unlock()
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	copy(p, b[:])
}

func (t *Transport) writeCommon(off uint64, p []byte) {
	if len(p) == 8 {
		t.writeCommon(off, p[:4])
		t.writeCommon(off+4, p[4:])
		return
	}
	r := commonRegister(off, len(p))
	if r == nil || r.store == nil {
		return
	}
	var b [4]byte
	copy(b[:], p)
	t.mu.Lock()
	defer t.mu.Unlock()
	r.store(t, binary.LittleEndian.Uint32(b[:]))
}

func commonRegister(off uint64, width int) *register {
	for i := range commonRegisters {
		if r := &commonRegisters[i]; r.off == off && r.width == width {
			return r
		}
	}
	return nil
}

func (t *Transport) offered() uint64          { return virtio.Offered(t.info.Features) }
func (t *Transport) has(s virtio.Status) bool { return virtio.Status(t.status.Load())&s != 0 }
func (t *Transport) vector(v uint32) uint32 {
	if v >= uint32(t.msix.Len()) {
		return noVector // so the driver learns that there is no such vector (§4.1.5.1.2)
	}
	return v
}

// writeVector may come at any time: it changes nothing but where interrupts go.
func (t *Transport) writeVector(v uint32) {
	if int(t.selected) < len(t.rings) {
		t.rings[t.selected].vector.Store(t.vector(v))
	}
}

// writeFeatures takes one half of the driver's features until FEATURES_OK,
// which ends negotiation (§2.2.2).
func (t *Transport) writeFeatures(v uint32) {
	switch {
	case t.has(virtio.StatusFeaturesOK):
	case t.driverSelect == 0:
		setLow(&t.features, v)
	case t.driverSelect == 1:
		setHigh(&t.features, v)
	}
}

// writeStatus takes one step of the initialisation sequence (§3.1.1). Bits are
// only added, because DEVICE_NEEDS_RESET may come in between.
func (t *Transport) writeStatus(v uint32) {
	if v == 0 {
		t.reset()
		return
	}
	old := virtio.Status(t.status.Load())
	added := old.Next(virtio.Status(v)) &^ old
	if added&virtio.StatusFeaturesOK != 0 && !virtio.Acceptable(t.offered(), t.features) {
		added &^= virtio.StatusFeaturesOK
	}
	t.status.Or(uint32(added))
	if added&virtio.StatusDriverOK != 0 {
		t.activate()
	}
}

// activate builds the enabled queues and starts the device (§3.1.1 step 8).
func (t *Transport) activate() {
	s := newSession(t)
	t.session.Store(s)
	queues := make([]*queue.Queue, len(t.rings))
	for i := range t.rings {
		r := &t.rings[i]
		if !r.enabled {
			continue
		}
		q, err := queue.New(t.mem, queue.Layout{
			Size: r.size, Desc: memory.GPA(r.desc), Avail: memory.GPA(r.avail), Used: memory.GPA(r.used),
		}, t.features)
		if err != nil {
			s.fail(err)
			return
		}
		queues[i] = q
	}
	t.started = true
	err := t.dev.Activate(virtio.Env{
		Mem: t.mem, Queues: queues, Features: t.features, Irq: s, Broken: s.fail,
	})
	if err != nil {
		s.fail(err)
		return
	}
	s.run(queues)
}
