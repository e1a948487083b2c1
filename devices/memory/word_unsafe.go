package memory

import (
	"sync/atomic"
	"unsafe"
)

// Word is a naturally aligned little-endian 16-bit word of guest RAM that both
// sides use at the same time: an index, a flag or an event word of a ring
// (virtio 1.3 §2.7.6, §2.7.8).
//
// Loads and stores are sequentially consistent in the sense of the Go memory
// model, so they order everything around them: a load of avail.idx is the
// acquire, a store of used.idx the release, and a store of one word followed by
// a load of another is the StoreLoad pair that notification suppression needs
// (on amd64 the store is a locked instruction, the full fence). The race
// detector sees them. Go has no 16-bit atomics, so they work on the aligned 32
// bits around the word without ever changing the other half.
type Word struct {
	p     *uint32
	shift uint32 // 0 or 16: where the word is in *p
}

// Word returns the word at an even guest address. The aligned four bytes around
// it must lie in one region, whose Data must be aligned as its GPA is.
func (m *Map) Word(at GPA) (Word, error) {
	b, err := m.Slice(at&^3, 4)
	if err != nil {
		return Word{}, err
	}
	p := unsafe.Pointer(unsafe.SliceData(b))
	if at&1 != 0 || uintptr(p)&3 != 0 {
		return Word{}, ErrAddress
	}
	return Word{(*uint32)(p), uint32(at&2) * 8}, nil
}

// Load16 loads the word.
func (w Word) Load16() uint16 {
	return uint16(atomic.LoadUint32(w.p) >> (w.shift & 16))
}

// Store16 stores the word. Only one caller at a time may store a given word; the
// other half of the 32 bits may be stored by anyone meanwhile.
func (w Word) Store16(v uint16) {
	// Adding the difference needs no retry, unlike a compare-and-swap, which a
	// guest that hammers the other half could make fail. There is no carry out
	// of the low half: the word's own value plus the difference is v exactly.
	atomic.AddUint32(w.p, (uint32(v)-uint32(w.Load16()))<<(w.shift&16))
}
