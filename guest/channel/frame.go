package channel

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// A frame is a 32-bit little-endian header (type in the low 8 bits, payload
// length in the high 24) and the payload.
const (
	headerSize = 4
	maxPayload = 64 << 10
	// maxData keeps a frame of output within one write of a virtio-console
	// port, which takes at most 32 KiB.
	maxData = 32<<10 - headerSize

	version    = 2
	window     = 256 << 10 // bytes of standard input in flight
	maxSpec    = 4 << 20
	maxMessage = 4 << 10
	maxSignal  = 64
)

type frameType uint8

const (
	frameHello       frameType = iota + 1 // uint8: protocol version
	frameStdout                           // bytes
	frameStderr                           // bytes
	frameCredit                           // uint32: room for this much more standard input
	frameExit                             // uint8 kind, uint32 status, message
	frameSpec                             // bytes: a piece of the Spec; an empty one ends it
	frameStdin                            // bytes
	frameStdinEOF                         //
	frameSignal                           // uint8: signal number
	frameResize                           // uint16 rows, uint16 columns
	frameCloseOutput                      // uint8: the stream nobody reads any more
	frameBye                              // the exit record has arrived
	frameEnd
)

// frames has the limits of each frame's payload and who may send it.
var frames = [frameEnd]struct {
	min, max  int
	fromGuest bool
}{
	frameHello:       {1, 1, true},
	frameStdout:      {1, maxPayload, true},
	frameStderr:      {1, maxPayload, true},
	frameCredit:      {4, 4, true},
	frameExit:        {5, 5 + maxMessage, true},
	frameSpec:        {0, maxPayload, false},
	frameStdin:       {1, maxPayload, false},
	frameStdinEOF:    {0, 0, false},
	frameSignal:      {1, 1, false},
	frameResize:      {4, 4, false},
	frameCloseOutput: {1, 1, false},
	frameBye:         {0, 0, false},
}

// appendFrame appends a frame whose payload is the concatenation of parts.
func appendFrame(b []byte, t frameType, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b = binary.LittleEndian.AppendUint32(b, header(t, n))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func header(t frameType, n int) uint32 { return uint32(t) | uint32(n)<<8 }

// readFrame reads one frame into buf, which holds maxPayload bytes. The error
// is io.EOF only between frames.
func readFrame(r io.Reader, buf []byte, fromGuest bool) (frameType, []byte, error) {
	if _, err := io.ReadFull(r, buf[:headerSize]); err != nil {
		return 0, nil, err
	}
	h := binary.LittleEndian.Uint32(buf)
	t, n := frameType(h), int(h>>8)
	if t == 0 || t >= frameEnd || frames[t].fromGuest != fromGuest {
		return 0, nil, fmt.Errorf("%w: unexpected frame type %d", ErrProtocol, t)
	}
	if n < frames[t].min || n > frames[t].max {
		return 0, nil, fmt.Errorf("%w: frame type %d with %d bytes", ErrProtocol, t, n)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return t, buf[:n], nil
}

func appendResult(b []byte, r Result) []byte {
	b = append(b, byte(r.Kind))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Status))
	return append(b, r.Message[:min(len(r.Message), maxMessage)]...)
}

// parseResult checks an exit record. The message is made safe to print: it
// comes from the guest and ends on somebody's terminal.
func parseResult(p []byte) (Result, error) {
	r := Result{
		Kind:    Kind(p[0]),
		Status:  int(binary.LittleEndian.Uint32(p[1:])),
		Message: printable(string(p[5:])),
	}
	ok := r.Status == 0
	switch r.Kind {
	case Exited:
		ok = r.Status <= 255
	case Signaled:
		ok = r.Status >= 1 && r.Status <= maxSignal
	case NotFound, NotExecutable, SetupFailed:
	default:
		ok = false
	}
	if !ok {
		return Result{}, fmt.Errorf("%w: exit record of kind %d with status %d", ErrProtocol, r.Kind, r.Status)
	}
	return r, nil
}

func printable(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t':
			return ' '
		case !unicode.IsPrint(c):
			return unicode.ReplacementChar
		}
		return c
	}, s)
}
