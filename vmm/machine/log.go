package machine

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// tailSize bounds what is kept of the kernel log, in bytes.
const tailSize = 64 << 10

// kernelLog takes the kernel's console: it keeps the tail, for the day the
// guest dies, and copies everything to a writer when there is one.
type kernelLog struct {
	mu   sync.Mutex // of tail
	tail []byte

	out  sync.Mutex // of sink; held while it blocks, so whoever wants the tail does not take it
	sink io.Writer  // nil: none; dropped at its first error
}

func newKernelLog(sink io.Writer) *kernelLog { return &kernelLog{sink: sink} }

// add is called on vCPU threads with bytes as the guest wrote them.
func (l *kernelLog) add(p []byte) {
	l.keep(p)
	l.out.Lock()
	defer l.out.Unlock()
	if l.sink == nil {
		return
	}
	if _, err := l.sink.Write(p); err != nil {
		l.sink = nil // a full disk must not end the guest
	}
}

func (l *kernelLog) keep(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if len(l.tail) > 2*tailSize {
		l.tail = append(l.tail[:0], l.tail[len(l.tail)-tailSize:]...)
	}
}

// Write is add for those that copy a stream; it never fails.
func (l *kernelLog) Write(p []byte) (int, error) {
	l.add(p)
	return len(p), nil
}

// panicked is in the line in which a kernel says why it panics
// (kernel/panic.c). The call trace that follows may be longer than anyone wants
// to see.
const panicked = "Kernel panic - not syncing"

// lines returns up to n last lines without line ends; the first of them is that of
// a panic that is further back.
func (l *kernelLog) lines(n int) []string {
	l.mu.Lock()
	text := string(bytes.TrimSpace(l.tail))
	l.mu.Unlock()
	if text == "" {
		return nil
	}
	all := strings.Split(strings.ReplaceAll(text, "\r", ""), "\n")
	last := all[max(0, len(all)-n):]
	for i := len(all) - len(last) - 1; i >= 0; i-- {
		if strings.Contains(all[i], panicked) {
			return append([]string{all[i]}, last[1:]...)
		}
	}
	return last
}
