package legacy

// ring is a bounded first-in first-out queue of bytes.
type ring struct {
	data        []byte
	first, used int
}

func newRing(size int) ring { return ring{data: make([]byte, size)} }

// put adds what fits and returns how much that was.
func (r *ring) put(p []byte) int {
	n := min(len(p), len(r.data)-r.used)
	for _, b := range p[:n] {
		r.data[(r.first+r.used)%len(r.data)] = b
		r.used++
	}
	return n
}

// pop removes the oldest byte; 0 when there is none.
func (r *ring) pop() (b byte) {
	if r.used > 0 {
		b = r.data[r.first]
		r.first = (r.first + 1) % len(r.data)
		r.used--
	}
	return b
}

func (r *ring) clear() { r.first, r.used = 0, 0 }
