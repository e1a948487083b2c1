package fs

import (
	"encoding/binary"
	"slices"
	"testing"

	"tenon/devices/bus"
	"tenon/devices/irq"
	hostpci "tenon/devices/pci"
	"tenon/devices/virtio"
	"tenon/devices/virtio/pci"
	"tenon/devices/virtio/queue/queuetest"
)

// function is the device as a function on a PCI bus.
type function struct {
	host *hostpci.Host
	tr   *pci.Transport
	pio  bus.Bus
	slot int
}

func newFunction(t *testing.T, window uint64) *function {
	t.Helper()
	d, err := newDevice(Options{Tag: "test", RequestQueues: 2, WindowSize: window}, newFake())
	if err != nil {
		t.Fatal(err)
	}
	f := &function{}
	if f.tr, err = pci.New(d, queuetest.Memory(t, ramBase, ramSize), &irq.Recorder{}); err != nil {
		t.Fatal(err)
	}
	f.host = hostpci.NewHost(hostpci.Windows{
		MMIO32: bus.Range{Base: 0xc0000000, Len: 0x20000000},
		MMIO64: bus.Range{Base: 0x4000001000, Len: 0x4000000000}, // not where a BAR could lie by chance
	})
	if f.slot, err = f.host.Add(f.tr); err != nil {
		t.Fatal(err)
	}
	if err := f.pio.Map(bus.Range{Base: 0xcf8, Len: 8}, "config", f.host.ConfigIO()); err != nil {
		t.Fatal(err)
	}
	f.pio.Freeze()
	return f
}

// config reads n bytes of the configuration space.
func (f *function) config(reg, n int) uint32 {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], 1<<31|uint32(f.slot)<<11|uint32(reg&^3))
	f.pio.Write(0xcf8, p[:])
	clear(p[:])
	f.pio.Read(0xcfc+uint64(reg&3), p[:n])
	return binary.LittleEndian.Uint32(p[:])
}

// capabilities are the offsets of virtio's capabilities of a type; 0: of all types.
func (f *function) capabilities(cfgType uint32) (at []int) {
	for c := int(f.config(0x34, 1)); c != 0; c = int(f.config(c+1, 1)) {
		if typ := f.config(c+3, 1); f.config(c, 1) == 9 && (typ == cfgType || cfgType == 0) {
			at = append(at, c)
		}
	}
	return at
}

// TestWindowBAR: all that Linux demands of the window (virtio_pci_find_shm_cap,
// virtio_fs_setup_dax): a capability of exactly 24 bytes with id 0, and a 64-bit
// prefetchable BAR that nothing else lies in, at a multiple of 2 MiB.
func TestWindowBAR(t *testing.T) {
	for _, size := range []uint64{MinWindow, 1 << 30, 8 << 30} {
		f := newFunction(t, size)
		at := f.capabilities(8)
		if len(at) != 1 {
			t.Fatalf("%d shared memory capabilities", len(at))
		}
		bar := f.config(at[0]+4, 1)
		if length, id := f.config(at[0]+2, 1), f.config(at[0]+5, 1); length != 24 || id != 0 {
			t.Errorf("cap_len %d, id %d", length, id)
		}
		offset := uint64(f.config(at[0]+8, 4)) | uint64(f.config(at[0]+16, 4))<<32
		length := uint64(f.config(at[0]+12, 4)) | uint64(f.config(at[0]+20, 4))<<32
		lo, hi := f.config(0x10+4*int(bar), 4), f.config(0x14+4*int(bar), 4)
		base := uint64(lo&^0xf) | uint64(hi)<<32
		r, ok := f.host.BAR(f.slot, int(bar))
		if !ok || r.Base != base || lo&0xf != 0xc {
			t.Errorf("BAR %d: registers %#x %#x, which lies at %#x", bar, lo, hi, r)
		}
		if offset != 0 || length != size || r.Len != size || base%size != 0 {
			t.Errorf("%#x bytes at offset %#x of a BAR of %#x bytes at %#x", length, offset, r.Len, base)
		}
		for _, c := range f.capabilities(0) {
			if typ := f.config(c+3, 1); typ != 8 && typ != 5 && f.config(c+4, 1) == bar {
				t.Errorf("the capability of type %d lies in the window's BAR", typ)
			}
		}
		if b, ok := f.tr.SharedBAR(0); !ok || uint32(b) != bar {
			t.Errorf("SharedBAR(0) = %d, %v", b, ok)
		}
		// Where no memory is behind it.
		p := []byte{1, 2, 3, 4}
		f.tr.WriteBAR(int(bar), 0, p)
		if f.tr.ReadBAR(int(bar), 0, p); !slices.Equal(p, make([]byte, 4)) {
			t.Errorf("the BAR reads % x", p)
		}
	}
}

func TestNoWindow(t *testing.T) {
	f := newFunction(t, 0)
	if at := f.capabilities(8); len(at) != 0 {
		t.Errorf("%d shared memory capabilities", len(at))
	}
	for bar := 2; bar < 6; bar++ {
		if v := f.config(0x10+4*bar, 4); v != 0 {
			t.Errorf("BAR %d is %#x", bar, v)
		}
	}
	d, err := newDevice(Options{Tag: "test", RequestQueues: 1, WindowSize: MinWindow}, newFake())
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Info().Shared; !slices.Equal(got, []virtio.SharedMemory{{ID: 0, Size: MinWindow}}) {
		t.Errorf("shared memory %v", got)
	}
}
