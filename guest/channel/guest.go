package channel

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Guest is the init's end of the channel.
type Guest struct {
	port io.ReadWriter
	r    *bufio.Reader
	buf  []byte // payload of the frame read last

	sending sync.Mutex // frames are written whole

	mu    sync.Mutex
	wake  sync.Cond // of mu: stdin or ended has changed
	stdin bytes.Buffer
	ended bool
}

// Events is what a session must react to. The functions are called from
// Serve, one at a time, and must not block.
type Events struct {
	Signal      func(sig int)
	Resize      func(rows, cols uint16)
	CloseOutput func(s Stream) // nobody reads the stream any more
}

// NewGuest makes the init's end of the channel.
func NewGuest(port io.ReadWriter) *Guest {
	g := &Guest{port: port, r: bufio.NewReaderSize(port, maxPayload), buf: make([]byte, maxPayload)}
	g.wake.L = &g.mu
	return g
}

// Spec greets the host and returns the session it asks for. It is the first
// call.
func (g *Guest) Spec() (Spec, error) {
	if err := g.send(frameHello, []byte{version}); err != nil {
		return Spec{}, err
	}
	var spec []byte
	for {
		t, p, err := readFrame(g.r, g.buf, false)
		switch {
		case err != nil:
			return Spec{}, err
		case t != frameSpec || len(spec)+len(p) > maxSpec:
			return Spec{}, fmt.Errorf("%w: no session", ErrProtocol)
		case len(p) == 0:
			return decodeSpec(spec)
		}
		spec = append(spec, p...)
	}
}

// Serve reads what the host sends: input for Stdin, and events. It returns
// nil when the host has the exit record, io.EOF when the host went away.
func (g *Guest) Serve(e Events) error {
	defer g.endStdin()
	for {
		t, p, err := readFrame(g.r, g.buf, false)
		if err != nil {
			return err
		}
		switch t {
		case frameStdin:
			if err := g.receive(p); err != nil {
				return err
			}
		case frameStdinEOF:
			g.endStdin()
		case frameSignal:
			e.Signal(int(p[0]))
		case frameResize:
			e.Resize(binary.LittleEndian.Uint16(p), binary.LittleEndian.Uint16(p[2:]))
		case frameCloseOutput:
			e.CloseOutput(Stream(p[0]))
		case frameBye:
			return nil
		default:
			return fmt.Errorf("%w: frame type %d out of order", ErrProtocol, t)
		}
	}
}

// CopyStdin writes the host's standard input to w until its end, an error of
// w or the end of the channel. It is called once; input is asked for only
// from then on, and no more is asked for once it has returned.
func (g *Guest) CopyStdin(w io.Writer) error {
	buf := make([]byte, maxData)
	for owed := window; ; {
		// Grants are batched; the host keeps room for the rest of the window.
		if owed >= window/4 {
			if err := g.send(frameCredit, binary.LittleEndian.AppendUint32(nil, uint32(owed))); err != nil {
				return err
			}
			owed = 0
		}
		n := g.take(buf)
		if n == 0 {
			return nil
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		owed += n
	}
}

// CopyOutput sends what it reads from r to the host as the stream s until r
// ends. Several may run at once.
func (g *Guest) CopyOutput(s Stream, r io.Reader) error {
	t := frameStdout
	if s == Stderr {
		t = frameStderr
	}
	buf := make([]byte, headerSize+maxData)
	for {
		n, err := r.Read(buf[headerSize:])
		if n > 0 {
			binary.LittleEndian.PutUint32(buf, header(t, n))
			if err := g.write(buf[:headerSize+n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Exit sends the exit record. It comes after all output; Serve returns nil
// when the host has it.
func (g *Guest) Exit(r Result) error {
	return g.send(frameExit, appendResult(nil, r))
}

func (g *Guest) send(t frameType, payload []byte) error {
	return g.write(appendFrame(nil, t, payload))
}

func (g *Guest) write(frame []byte) error {
	g.sending.Lock()
	defer g.sending.Unlock()
	_, err := g.port.Write(frame)
	return err
}

func (g *Guest) receive(p []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stdin.Len()+len(p) > window {
		return fmt.Errorf("%w: more standard input than there is room for", ErrProtocol)
	}
	g.stdin.Write(p)
	g.wake.Broadcast()
	return nil
}

func (g *Guest) endStdin() {
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	g.wake.Broadcast()
}

// take waits for input; 0 is its end.
func (g *Guest) take(p []byte) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.stdin.Len() == 0 && !g.ended {
		g.wake.Wait()
	}
	n, _ := g.stdin.Read(p)
	return n
}
