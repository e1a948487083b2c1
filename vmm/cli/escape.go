package cli

import (
	"io"
	"sync"
)

// The keys after Ctrl-A, which lets the user reach Tenon past a guest that gets
// every other key.
const (
	ctrlA = 0x01

	escapeHelp = "Ctrl-A X ends the guest (twice: at once), Ctrl-A Ctrl-A sends a Ctrl-A, Ctrl-A C shows this"
)

// escapes reads the terminal for the guest and takes out the escapes.
type escapes struct {
	src  io.Reader
	quit func()
	help func()

	armed bool // the last byte was a Ctrl-A that the guest has not got yet

	once sync.Once
	mu   sync.Mutex
	wake sync.Cond // of mu
	out  []byte    // for the guest, not yet read
	err  error     // src has ended
}

// maxTyped bounds what waits for a guest that takes no input; as on a terminal the rest is lost.
const maxTyped = 64 << 10

// start reads the terminal from now on, whether or not the guest takes input:
// the escapes are for guests that do not.
func (e *escapes) start() { e.once.Do(func() { e.wake.L = &e.mu; go e.pump() }) }

func (e *escapes) pump() {
	in := make([]byte, 1024)
	for {
		n, err := e.src.Read(in)
		var out []byte
		for _, b := range in[:n] {
			out = e.key(out, b)
		}
		e.mu.Lock()
		e.out = append(e.out, out[:min(len(out), maxTyped-len(e.out))]...)
		e.err = err
		e.mu.Unlock()
		e.wake.Broadcast()
		if err != nil {
			return
		}
	}
}

// Read gives the guest's share of what was typed.
func (e *escapes) Read(p []byte) (int, error) {
	e.start()
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.out) == 0 {
		if e.err != nil {
			return 0, e.err
		}
		e.wake.Wait()
	}
	n := copy(p, e.out)
	e.out = e.out[n:]
	return n, nil
}

// key takes one byte. A Ctrl-A is held back until the next byte says what it is; one
// before any other key goes to the guest with it, so that a shell's
// beginning-of-line works.
func (e *escapes) key(out []byte, b byte) []byte {
	if !e.armed {
		if e.armed = b == ctrlA; !e.armed {
			out = append(out, b)
		}
		return out
	}
	e.armed = false
	switch b {
	case 'x', 'X':
		e.quit()
	case 'c', 'C':
		e.help()
	case 'a', 'A', ctrlA:
		out = append(out, ctrlA)
	default:
		out = append(out, ctrlA, b)
	}
	return out
}
