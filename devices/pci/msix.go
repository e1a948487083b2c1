package pci

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"tenon/devices/irq"
)

// MSI-X registers (§6.8.2).
const (
	msixControl      = 2       // offset of message control in the capability
	msixFunctionMask = 1 << 14 // of message control
	msixEnable       = 1 << 15
	msixMaxVectors   = 2048
	msixEntrySize    = 16

	entryAddress     = 0 // offsets in a table entry
	entryAddressHigh = 4
	entryData        = 8
	entryControl     = 12
	entryMasked      = 1 // of vector control
)

// MSIX is the MSI-X capability of a function with its table and pending bit
// array, which fill a BAR of their own: the table at 0, the array after it.
type MSIX struct {
	send    irq.MSISender
	bar     int
	control atomic.Uint32 // enable and function mask bits of message control
	order   sync.Mutex    // orders changes of control
	vectors []Vector
}

// Vector is one interrupt of a function.
type Vector struct {
	m       *MSIX
	mu      sync.Mutex
	address uint64
	data    uint32
	masked  bool
	pending bool
}

// NewMSIX returns n vectors (1 to 2048), masked and disabled as after reset,
// whose table is in the given BAR.
func NewMSIX(n, bar int, send irq.MSISender) (*MSIX, error) {
	if n < 1 || n > msixMaxVectors {
		return nil, fmt.Errorf("pci: %d MSI-X vectors; 1 to %d are possible", n, msixMaxVectors)
	}
	m := &MSIX{send: send, bar: bar, vectors: make([]Vector, n)}
	for i := range m.vectors {
		m.vectors[i].m = m
		m.vectors[i].masked = true
	}
	return m, nil
}

// Len returns the number of vectors.
func (m *MSIX) Len() int { return len(m.vectors) }

// Vector returns vector i, which must be less than Len.
func (m *MSIX) Vector(i int) *Vector { return &m.vectors[i] }

// Enabled says whether the guest turned MSI-X on.
func (m *MSIX) Enabled() bool { return m.control.Load()&msixEnable != 0 }

// BAR returns the register that holds table and pending bits.
func (m *MSIX) BAR() BAR {
	size := m.pba() + 8*uint64((len(m.vectors)+63)/64)
	return BAR{Size: max(minBAR, uint64(1)<<bits.Len64(size-1))}
}

// pba is the offset of the pending bit array.
func (m *MSIX) pba() uint64 { return msixEntrySize * uint64(len(m.vectors)) }

// Capability returns the entry for the function's capability list.
func (m *MSIX) Capability() Capability {
	body := binary.LittleEndian.AppendUint16(nil, uint16(len(m.vectors)-1))
	body = binary.LittleEndian.AppendUint32(body, uint32(m.bar))
	body = binary.LittleEndian.AppendUint32(body, uint32(m.pba())|uint32(m.bar))
	mask := binary.LittleEndian.AppendUint16(nil, msixEnable|msixFunctionMask)
	return Capability{ID: CapMSIX, Body: body, Mask: mask, AfterWrite: m.controlWritten}
}

// controlWritten takes over message control and delivers what it unmasked.
func (m *MSIX) controlWritten(b Body, _, _ int) {
	m.order.Lock()
	defer m.order.Unlock()
	var control [2]byte
	b.Load(msixControl, control[:])
	m.control.Store(uint32(binary.LittleEndian.Uint16(control[:])))
	for i := range m.vectors {
		v := &m.vectors[i]
		v.mu.Lock()
		v.deliver()
		v.mu.Unlock()
	}
}

// Signal sends the vector's message, or remembers it while it is masked. While
// MSI-X is disabled it does nothing. It allocates nothing and may be called
// from any thread.
func (v *Vector) Signal() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.m.Enabled() {
		v.pending = true
		v.deliver()
	}
}

// deliver sends a pending message unless something masks it. It runs under the
// vector's lock, sending included: once the guest has masked a vector or moved
// it to another CPU, the old message must not follow.
func (v *Vector) deliver() {
	if !v.pending || v.masked || v.m.control.Load()&(msixEnable|msixFunctionMask) != msixEnable {
		return
	}
	v.pending = false
	v.m.send.SendMSI(v.address, v.data)
}

// Read copies bytes of the table and the pending bits into p; 0 after them.
func (m *MSIX) Read(off uint64, p []byte) {
	for i := range p {
		at := off + uint64(i)
		p[i] = byte(m.dword(at&^3) >> (8 * (at & 3)))
	}
}

func (m *MSIX) dword(off uint64) uint32 {
	if off >= m.pba() {
		return m.pendingBits(int(off-m.pba()) * 8)
	}
	v := &m.vectors[off/msixEntrySize]
	v.mu.Lock()
	defer v.mu.Unlock()
	switch off % msixEntrySize {
	case entryAddress:
		return uint32(v.address)
	case entryAddressHigh:
		return uint32(v.address >> 32)
	case entryData:
		return v.data
	}
	if v.masked {
		return entryMasked
	}
	return 0
}

// pendingBits gathers the pending bits of 32 vectors.
func (m *MSIX) pendingBits(first int) (word uint32) {
	for i := first; i < min(first+32, len(m.vectors)); i++ {
		v := &m.vectors[i]
		v.mu.Lock()
		if v.pending {
			word |= 1 << (i - first)
		}
		v.mu.Unlock()
	}
	return word
}

// Write changes the table by aligned 4 or 8 byte accesses, the only ones
// allowed (§6.8.2); others, and writes to the pending bits, do nothing.
func (m *MSIX) Write(off uint64, p []byte) {
	if len(p)%4 != 0 {
		return
	}
	for ; len(p) > 0 && off < m.pba(); off, p = off+4, p[4:] {
		m.vectors[off/msixEntrySize].set(off%msixEntrySize, binary.LittleEndian.Uint32(p))
	}
}

// set changes the field at an offset in the entry, if one starts there.
func (v *Vector) set(field uint64, x uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch field {
	case entryAddress:
		v.address = v.address&^0xffffffff | uint64(x&^3)
	case entryAddressHigh:
		v.address = v.address&0xffffffff | uint64(x)<<32
	case entryData:
		v.data = x
	case entryControl:
		v.masked = x&entryMasked != 0
		v.deliver()
	}
}
