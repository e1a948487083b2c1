package pci

import (
	"encoding/binary"
	"math/bits"

	"tenon/devices/pci"
)

// Types of virtio's vendor capabilities (§4.1.4).
const (
	capCommon = 1
	capNotify = 2
	capISR    = 3
	capDevice = 4
	capPCI    = 5
	capShared = 8
)

// Offsets in struct virtio_pci_cap (§4.1.4), which starts with the two bytes of
// every capability.
const (
	capBAR    = 4
	capOffset = 8
	capLength = 12
	capEnd    = 16
	capData   = 16 // pci_cfg_data of VIRTIO_PCI_CAP_PCI_CFG (§4.1.4.9)
)

// header is the function's configuration space (§4.1.2).
func (t *Transport) header() pci.Header {
	h := pci.Header{
		Vendor: 0x1af4, Device: 0x1040 + t.info.ID, Revision: 1, Class: t.info.Class,
		Subvendor: 0x1af4, Subsystem: 0x40 + t.info.ID,
	}
	h.BARs[registerBAR].Size = registerSize
	h.BARs[msixBAR] = t.msix.BAR()
	add := func(k pci.Capability) { h.Capabilities = append(h.Capabilities, k) }
	add(vendor(capCommon, registerBAR, 0, commonAt, commonSize))
	doorbells := uint32(notifyMultiplier * len(t.rings))
	if t.portBAR != noBAR {
		// A driver takes the first capability that it can use (§4.1.4.1).
		h.BARs[t.portBAR] = pci.BAR{Size: 1 << bits.Len32(doorbells-1), Ports: true}
		add(vendor(capNotify, byte(t.portBAR), 0, 0, doorbells, notifyMultiplier))
	}
	add(vendor(capNotify, registerBAR, 0, notifyAt, doorbells, notifyMultiplier))
	add(vendor(capISR, registerBAR, 0, isrAt, 1))
	if t.info.ConfigLen > 0 {
		// The whole section: Linux stops with a BUG when a newer driver reads
		// past the length.
		add(vendor(capDevice, registerBAR, 0, deviceAt, sectionSize))
	}
	for i, s := range t.info.Shared {
		bar := sharedBAR + 2*i
		h.BARs[bar] = pci.BAR{Size: 1 << bits.Len64(s.Size-1), Wide: true}
		// struct virtio_pci_cap64: the upper halves of offset and length follow.
		add(vendor(capShared, byte(bar), s.ID, 0, uint32(s.Size), 0, uint32(s.Size>>32)))
	}
	add(t.configAccess())
	add(t.msix.Capability())
	return h
}

// vendor builds a struct virtio_pci_cap followed by more words.
func vendor(cfgType, bar, id byte, offset, length uint32, more ...uint32) pci.Capability {
	body := []byte{byte(capEnd + 4*len(more)), cfgType, bar, id, 0, 0}
	for _, word := range append([]uint32{offset, length}, more...) {
		body = binary.LittleEndian.AppendUint32(body, word)
	}
	return pci.Capability{ID: pci.CapVendor, Body: body}
}

// configAccess is the window through which a driver that cannot map the BARs
// reaches them by configuration accesses (§4.1.4.9).
func (t *Transport) configAccess() pci.Capability {
	k := vendor(capPCI, 0, 0, 0, 0, 0)
	k.Mask = make([]byte, len(k.Body))
	k.Mask[capBAR-2] = 0xff
	for i := capOffset - 2; i < len(k.Mask); i++ {
		k.Mask[i] = 0xff
	}
	k.BeforeRead = func(b pci.Body, off, n int) {
		if bar, at, p := t.target(b); off+n > capData && p != nil {
			t.ReadBAR(bar, at, p)
			b.Store(capData, p)
		}
	}
	k.AfterWrite = func(b pci.Body, off, n int) {
		if bar, at, p := t.target(b); off+n > capData && p != nil {
			t.WriteBAR(bar, at, p)
		}
	}
	return k
}

// target returns what the window points at and a copy of its data; p is nil
// when that is not an aligned access of 1, 2 or 4 bytes to registers.
func (t *Transport) target(b pci.Body) (bar int, off uint64, p []byte) {
	var regs [capData + 4]byte
	b.Load(0, regs[:])
	bar = int(regs[capBAR])
	at, n := binary.LittleEndian.Uint32(regs[capOffset:]), binary.LittleEndian.Uint32(regs[capLength:])
	var size uint64
	switch bar {
	case registerBAR:
		size = registerSize
	case msixBAR:
		size = t.msix.BAR().Size
	case t.portBAR:
		size = uint64(notifyMultiplier * len(t.rings))
	}
	if (n != 1 && n != 2 && n != 4) || at%n != 0 || uint64(at)+uint64(n) > size {
		return 0, 0, nil
	}
	return bar, uint64(at), regs[capData : capData+n]
}
