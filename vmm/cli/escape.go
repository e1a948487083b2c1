package cli

import "io"

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
	in    [1024]byte
	out   []byte // for the guest, not yet read
}

// Read gives the guest's share of what was typed.
func (e *escapes) Read(p []byte) (int, error) {
	for len(e.out) == 0 {
		n, err := e.src.Read(e.in[:])
		e.out = e.out[:0]
		for _, b := range e.in[:n] {
			e.key(b)
		}
		if err != nil && len(e.out) == 0 {
			return 0, err
		}
	}
	n := copy(p, e.out)
	e.out = e.out[n:]
	return n, nil
}

// key takes one byte. A Ctrl-A is held back until the next byte says what it is; one
// before any other key goes to the guest with it, so that a shell's
// beginning-of-line works.
func (e *escapes) key(b byte) {
	if !e.armed {
		if e.armed = b == ctrlA; !e.armed {
			e.out = append(e.out, b)
		}
		return
	}
	e.armed = false
	switch b {
	case 'x', 'X':
		e.quit()
	case 'c', 'C':
		e.help()
	case 'a', 'A', ctrlA:
		e.out = append(e.out, ctrlA)
	default:
		e.out = append(e.out, ctrlA, b)
	}
}
