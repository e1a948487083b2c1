package legacy

import (
	"sync"
	"time"
)

const (
	outputSize = 1024                 // bytes in one batch
	outputWait = 4 * time.Millisecond // how long a line without its end may wait
)

// output gathers single bytes into batches: a line, a full buffer, or what came
// within outputWait.
type output struct {
	out   func(p []byte)
	calls sync.Mutex // held while out runs, which keeps batches in order
	spare []byte     // under calls

	mu     sync.Mutex
	buf    []byte
	timer  *time.Timer
	armed  bool
	closed bool
}

func (o *output) init(out func(p []byte)) {
	o.out = out
	o.buf = make([]byte, 0, outputSize)
	o.spare = make([]byte, 0, outputSize)
	o.timer = time.AfterFunc(time.Hour, o.flush)
	o.timer.Stop()
}

// put adds one byte. It waits for out when the buffer is full.
func (o *output) put(b byte) {
	o.mu.Lock()
	for len(o.buf) == cap(o.buf) {
		o.mu.Unlock()
		o.flush()
		o.mu.Lock()
	}
	if o.closed {
		o.mu.Unlock()
		return
	}
	o.buf = append(o.buf, b)
	now := b == '\n' || len(o.buf) == cap(o.buf)
	if !now && !o.armed {
		o.armed = true
		o.timer.Reset(outputWait)
	}
	o.mu.Unlock()
	if now {
		o.flush()
	}
}

// flush gives everything gathered so far to out.
func (o *output) flush() {
	o.calls.Lock()
	defer o.calls.Unlock()
	o.mu.Lock()
	batch := o.buf
	o.buf, o.armed = o.spare[:0], false
	o.mu.Unlock()
	if len(batch) > 0 {
		o.out(batch)
	}
	o.spare = batch
}

// close flushes; out is not called afterwards.
func (o *output) close() {
	o.mu.Lock()
	o.closed = true
	o.timer.Stop()
	o.mu.Unlock()
	o.flush()
}
