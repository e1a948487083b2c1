package pci_test

import (
	"testing"

	"tenon/devices/bus"
	"tenon/devices/virtio"
)

// FuzzPCI runs random accesses to ports, ECAM and both windows: nothing may
// panic or hang, and the device must come back after a reset.
func FuzzPCI(f *testing.F) {
	f.Add([]byte{0, 0, 4, 0, 0, 8, 0, 0x80})
	f.Add([]byte{0x82, 0x04, 0x90, 0x00, 2, 0x81, 0x14, 0x00, 0x00, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		dev := newFake(2)
		dev.info.Shared = []virtio.SharedMemory{{Size: 1 << 21}}
		d := newDriver(t, dev)
		var ecam bus.Bus
		if err := ecam.Map(bus.Range{Len: 1 << 20}, "ecam", d.host.ECAM()); err != nil {
			t.Fatal(err)
		}
		d.probe()
		bars := [6]uint32{}
		for i := range bars {
			bars[i] = d.read(0x10+4*i, 4)
		}
		msix, _ := d.host.BAR(d.slot, 1)
		for len(ops) >= 4 {
			// Byte 0: write, width, space. Bytes 1 and 2: address. Then data.
			op := ops[0]
			at := uint64(ops[1]) | uint64(ops[2])<<8
			ops = ops[3:]
			p := make([]byte, 1<<(op&3))
			n := copy(p, ops)
			access := d.mmio.Read
			if op&0x80 != 0 {
				access = d.mmio.Write
				ops = ops[n:]
			}
			switch op >> 2 & 7 {
			case 0:
				if access = d.pio.Read; op&0x80 != 0 {
					access = d.pio.Write
				}
				if at&0x8000 == 0 {
					access(0xcf8+at%8, p)
				} else {
					access(ports+at%0x400, p)
				}
			case 1:
				if access = ecam.Read; op&0x80 != 0 {
					access = ecam.Write
				}
				access(uint64(d.slot)<<15+at%0x100, p)
			case 2:
				access(msix.Base+at, p)
			case 3:
				access(mmio64+at<<20, p)
			default:
				access(d.common+at%0x4000, p)
			}
		}
		for i, v := range bars {
			d.write(0x10+4*i, 4, v)
		}
		d.write(4, 2, 7)
		d.start()
		d.vectors()
		d.echoed(0, d.echo(0, "alive"), "alive")
	})
}
