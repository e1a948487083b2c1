package channel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"syscall"
)

// Host is the VMM's end of the channel.
type Host struct {
	port  io.ReadWriter
	io    IO
	hello chan struct{} // closed when begun is set

	mu   sync.Mutex
	wake sync.Cond // of mu: a field below has changed
	// What the writer has to send, in this order. Everything here is bounded.
	spec    []byte // encoded; sent once the guest has said hello
	begun   bool   // the guest has said hello
	signals uint64 // bit n-1: signal n; equal ones merge, as pending signals do
	size    [2]uint16
	resized bool
	closed  [Stderr + 1]bool // output streams to report as closed
	stdin   []byte           // the chunk read last, until the writer has copied it
	eof     bool             // standard input is at its end
	bye     bool
	stopped bool
	credit  int // bytes of standard input the guest still has room for

	broken [Stderr + 1]bool // output streams that took an error; Run's own
	outErr error            // the first such error that is not a closed pipe; Run's own
}

// NewHost makes the host's end of the channel for one session. A Read of port
// blocks until the guest has written and gives io.EOF once the machine is
// gone; a Write blocks until the guest has taken the bytes and fails once the
// machine is gone.
func NewHost(port io.ReadWriter, spec Spec, streams IO) *Host {
	h := &Host{port: port, io: streams, hello: make(chan struct{}), spec: spec.encode(), eof: streams.Stdin == nil}
	h.wake.L = &h.mu
	return h
}

// Run carries the session until its exit record and returns that, after all
// output has been written to the streams. The error is ErrNoResult when the
// port ended first, wraps ErrProtocol when the guest sent garbage, and names
// the stream when output could not be written; in that last case the Result
// is valid. A closed pipe is no error: the guest's end of the stream is closed
// too, and the command sees what a shell pipeline would show it.
//
// Run waits for nobody but the guest and the output streams. A read of
// IO.Stdin and a write to the port may be left behind; the first ends with the
// next input, which is lost, the second when the machine closes the port.
func (h *Host) Run() (Result, error) {
	if n := len(h.spec); n > maxSpec {
		return Result{}, fmt.Errorf("command, environment and mounts take %d bytes; the limit is %d", n, maxSpec)
	}
	defer h.update(func() { h.stopped = true })
	go h.write()
	if h.io.Stdin != nil {
		go h.readStdin()
	}
	r := bufio.NewReaderSize(h.port, maxPayload)
	buf := make([]byte, maxPayload)
	for {
		t, p, err := readFrame(r, buf, true)
		switch {
		case errors.Is(err, ErrProtocol):
			return Result{}, err
		case err != nil:
			return Result{}, ErrNoResult
		case t == frameExit:
			return h.exit(p)
		}
		if err := h.handle(t, p); err != nil {
			return Result{}, err
		}
	}
}

// Hello is closed when the guest's init has opened the channel: the kernel and
// all that came before are behind it.
func (h *Host) Hello() <-chan struct{} { return h.hello }

// Signal delivers a signal to the command's process group. It never blocks;
// equal signals that wait for the guest become one. Numbers outside 1-64 are
// ignored.
func (h *Host) Signal(sig int) {
	if sig >= 1 && sig <= maxSignal {
		h.update(func() { h.signals |= 1 << (sig - 1) })
	}
}

// Resize sets the window of the command's terminal. It never blocks; the last
// size wins.
func (h *Host) Resize(rows, cols uint16) {
	h.update(func() { h.size, h.resized = [2]uint16{rows, cols}, true })
}

// update changes the shared state and wakes whoever waits for it.
func (h *Host) update(change func()) {
	h.mu.Lock()
	change()
	h.mu.Unlock()
	h.wake.Broadcast()
}

// handle serves every frame but the exit record.
func (h *Host) handle(t frameType, p []byte) error {
	if (t == frameHello) == h.begun {
		return fmt.Errorf("%w: frame type %d out of order", ErrProtocol, t)
	}
	switch t {
	case frameHello:
		if p[0] != version {
			return fmt.Errorf("%w: the guest speaks version %d, the host version %d", ErrProtocol, p[0], version)
		}
		h.update(func() { h.begun = true })
		close(h.hello)
	case frameCredit:
		n := binary.LittleEndian.Uint32(p)
		var excess bool
		h.update(func() {
			excess = uint64(h.credit)+uint64(n) > window
			if !excess {
				h.credit += int(n)
			}
		})
		if excess {
			return fmt.Errorf("%w: %d bytes of credit granted", ErrProtocol, n)
		}
	case frameStdout:
		h.output(Stdout, h.io.Stdout, p)
	case frameStderr:
		h.output(Stderr, h.io.Stderr, p)
	}
	return nil
}

// output writes to a stream of the host's. The first error closes the guest's
// end; what is still on its way is discarded.
func (h *Host) output(s Stream, w io.Writer, p []byte) {
	if w == nil || h.broken[s] {
		return
	}
	_, err := w.Write(p)
	if err == nil {
		return
	}
	h.broken[s] = true
	h.update(func() { h.closed[s] = true })
	if h.outErr == nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, io.ErrClosedPipe) {
		h.outErr = fmt.Errorf("write %s: %w", streamNames[s], err)
	}
}

var streamNames = [...]string{Stdout: "standard output", Stderr: "standard error"}

func (h *Host) exit(p []byte) (Result, error) {
	r, err := parseResult(p)
	if err != nil {
		return Result{}, err
	}
	h.update(func() { h.bye = true })
	return r, h.outErr
}

// write is the only writer of the port. It ends with the session or the port.
func (h *Host) write() {
	buf := make([]byte, 0, headerSize+maxPayload)
	for {
		frame, last := h.next(buf)
		if len(frame) != 0 {
			if _, err := h.port.Write(frame); err != nil {
				return
			}
		}
		if last {
			return
		}
	}
}

// next waits for something to send and returns it as one frame in buf's memory.
func (h *Host) next(buf []byte) (frame []byte, last bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.bye:
			return appendFrame(buf, frameBye), true
		case h.stopped:
			return nil, true
		case h.begun:
			if f := h.pending(buf); f != nil {
				return f, false
			}
		}
		h.wake.Wait()
	}
}

// pending takes the most urgent thing to send, nil if there is none.
func (h *Host) pending(buf []byte) []byte {
	switch {
	case h.spec != nil:
		// The empty piece that ends the Spec is sent by the next call.
		piece := h.spec[:min(len(h.spec), maxPayload)]
		if h.spec = h.spec[len(piece):]; len(piece) == 0 {
			h.spec = nil
		}
		return appendFrame(buf, frameSpec, piece)
	case h.signals != 0:
		n := bits.TrailingZeros64(h.signals)
		h.signals &^= 1 << n
		return appendFrame(buf, frameSignal, []byte{byte(n + 1)})
	case h.resized:
		h.resized = false
		p := binary.LittleEndian.AppendUint16(nil, h.size[0])
		return appendFrame(buf, frameResize, binary.LittleEndian.AppendUint16(p, h.size[1]))
	case h.closed[Stdout] || h.closed[Stderr]:
		s := Stdout
		if !h.closed[s] {
			s = Stderr
		}
		h.closed[s] = false
		return appendFrame(buf, frameCloseOutput, []byte{byte(s)})
	case len(h.stdin) != 0:
		f := appendFrame(buf, frameStdin, h.stdin)
		h.stdin = nil
		h.wake.Broadcast()
		return f
	case h.eof:
		h.eof = false
		return appendFrame(buf, frameStdinEOF)
	}
	return nil
}

// readStdin reads standard input only as far as the guest has room, so input
// is not taken from others who share it. A read error ends the input.
func (h *Host) readStdin() {
	buf := make([]byte, maxData)
	for {
		n := h.room()
		if n == 0 {
			return
		}
		n, err := h.io.Stdin.Read(buf[:min(n, len(buf))])
		h.update(func() {
			h.stdin, h.eof = buf[:n], err != nil
			h.credit -= n
		})
		if err != nil {
			return
		}
	}
}

// room waits until the guest has room for input and the last chunk is on its
// way. It returns 0 when the session is over.
func (h *Host) room() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.stopped && (h.credit == 0 || len(h.stdin) != 0) {
		h.wake.Wait()
	}
	if h.stopped {
		return 0
	}
	return h.credit
}
