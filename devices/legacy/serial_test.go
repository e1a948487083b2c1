package legacy_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"tenon/devices/bus"
	"tenon/devices/irq"
	"tenon/devices/legacy"
)

// Register offsets, as in Linux's serial_reg.h.
const (
	data = 0
	ier  = 1
	iir  = 2
	fcr  = 2
	efr  = 2
	lcr  = 3
	mcr  = 4
	lsr  = 5
	msr  = 6
	scr  = 7
)

// uart is a serial port on a bus with what it did.
type uart struct {
	*legacy.Serial
	t    *testing.T
	bus  bus.Bus
	line irq.Recorder
	mu   sync.Mutex
	sent []string // batches
}

func newUART(t *testing.T) *uart {
	u := &uart{t: t}
	u.Serial = legacy.NewSerial(&u.line, func(p []byte) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.sent = append(u.sent, string(p))
	})
	if err := u.bus.Map(bus.Range{Base: 0x3f8, Len: 8}, "com1", u.Serial); err != nil {
		t.Fatal(err)
	}
	u.bus.Freeze()
	t.Cleanup(u.Close)
	return u
}

func (u *uart) in(reg uint64) byte {
	var p [1]byte
	u.bus.Read(0x3f8+reg, p[:])
	return p[0]
}

func (u *uart) put(reg uint64, b byte) { u.bus.Write(0x3f8+reg, []byte{b}) }

func (u *uart) expect(what string, got, want byte) {
	u.t.Helper()
	if got != want {
		u.t.Errorf("%s: %#02x, want %#02x", what, got, want)
	}
}

func (u *uart) batches() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.sent...)
}

// TestAutoconfig does what Linux's 8250 driver does to find out what it has,
// with input under way all the time.
func TestAutoconfig(t *testing.T) {
	u := newUART(t)
	u.Input([]byte("typed early"))

	u.put(ier, 0)
	u.expect("IER cleared", u.in(ier), 0)
	u.put(ier, 0xff)
	u.expect("IER holds four bits", u.in(ier), 0x0f)
	u.put(ier, 0)

	u.put(mcr, 0x10|0x0a)
	u.expect("loopback of RTS and OUT2", u.in(msr)&0xf0, 0x90)
	u.put(mcr, 0x10|0x05)
	u.expect("loopback of DTR and OUT1", u.in(msr)&0xf0, 0x60)
	u.put(mcr, 0)
	u.expect("modem status", u.in(msr), 0xb0)

	u.put(lcr, 0xbf) // configuration mode B: no EFR here
	u.put(efr, 0)
	u.put(lcr, 0)
	u.expect("IIR without FIFO", u.in(iir), 0x01)
	u.put(fcr, 0x01)
	u.expect("IIR with FIFO: a 16550A", u.in(iir)>>6, 3)
	u.put(lcr, 0x80)
	if u.in(efr) == 0 {
		t.Error("EFR reads 0 in configuration mode A: Linux takes it for a 16650")
	}
	u.put(lcr, 0xbf)
	if u.in(efr) == 0 {
		t.Error("EFR reads 0 in configuration mode B: Linux takes it for a 16850")
	}
	u.put(lcr, 0)
	u.put(fcr, 0x21) // 64-byte mode of a 16750
	u.expect("IIR bit 5", u.in(iir)&0x20, 0)
	u.put(ier, 0x40) // UUE of an XScale UART
	u.expect("IER bit 6", u.in(ier), 0)

	for _, b := range []byte{0x00, 0x5a, 0xff} {
		u.put(scr, b)
		u.expect("scratch", u.in(scr), b)
	}
	u.put(lcr, 0x83)
	u.put(data, 0x01)
	u.put(ier, 0x02)
	u.expect("DLL", u.in(data), 0x01)
	u.expect("DLM", u.in(ier), 0x02)
	u.put(lcr, 0x03)
	u.expect("LCR", u.in(lcr), 0x03)
	u.expect("IER behind DLM", u.in(ier), 0)
	u.expect("LSR", u.in(lsr), 0x60)

	u.sizeFIFO()

	// The terminal is opened: startup clears the FIFOs and reads everything
	// once, then raises RTS. Nothing of the input is lost.
	for _, b := range []byte{0x01, 0x07, 0x00, 0x01} {
		u.put(fcr, b)
	}
	u.in(lsr)
	u.in(data)
	u.put(mcr, 0x0b)
	if got := u.receive(); got != "typed early" {
		t.Errorf("received %q", got)
	}
	if got := u.batches(); len(got) != 0 {
		t.Errorf("the probe sent %q", got)
	}
}

// sizeFIFO counts the FIFO's entries by loopback, as size_fifo of the driver does.
func (u *uart) sizeFIFO() {
	u.put(fcr, 0x07)
	u.put(mcr, 0x10)
	for i := range 256 {
		u.put(data, byte(i))
	}
	n := 0
	u.expect("overrun", u.in(lsr), 0x63)
	for ; u.in(lsr)&1 != 0 && n < 256; n++ {
		u.expect("looped byte", u.in(data), byte(n))
	}
	if n != 16 {
		u.t.Errorf("the FIFO holds %d bytes, want 16", n)
	}
	u.put(fcr, 0)
	u.put(data, 'a')
	u.put(data, 'b')
	u.expect("overrun without FIFO", u.in(lsr), 0x63)
	u.expect("the byte before it", u.in(data), 'a')
	u.expect("empty", u.in(lsr), 0x60)
	u.put(mcr, 0)
}

// receive reads while LSR says there is something.
func (u *uart) receive() string {
	var got []byte
	for u.in(lsr)&1 != 0 {
		got = append(got, u.in(data))
	}
	return string(got)
}

// TestTransmitInterrupt is the driver's THRE test, then sending by interrupt.
func TestTransmitInterrupt(t *testing.T) {
	u := newUART(t)
	u.put(fcr, 0x01)
	for range 2 { // the second time, enabling must raise it again
		u.put(ier, 0x02)
		if !u.line.High() {
			t.Fatal("no interrupt on enabling THRI")
		}
		u.expect("IIR", u.in(iir), 0xc2)
		if u.line.High() {
			t.Error("reading IIR did not acknowledge")
		}
		u.expect("IIR again", u.in(iir), 0xc1)
		u.put(ier, 0x00)
	}
	u.put(ier, 0x02)
	u.in(iir)
	edges := u.line.Edges()
	for _, b := range []byte("sixteen bytes :)") {
		u.put(data, b)
	}
	if !u.line.High() || u.line.Edges() != edges+1 {
		t.Errorf("a FIFO full: high %v, %d edges; want one", u.line.High(), u.line.Edges()-edges)
	}
	u.expect("IIR", u.in(iir), 0xc2)
	u.put(ier, 0x00)
	if u.line.High() {
		t.Error("the line is high with nothing enabled")
	}
}

func TestReceiveInterrupt(t *testing.T) {
	u := newUART(t)
	u.put(mcr, 0x0b)
	u.put(fcr, 0x81) // trigger level 8
	u.put(ier, 0x05)
	if u.line.High() {
		t.Fatal("interrupt without input")
	}
	u.Input([]byte("1234567"))
	if !u.line.High() {
		t.Fatal("no interrupt on input")
	}
	u.expect("below the trigger level", u.in(iir), 0xcc)
	u.Input([]byte("8"))
	u.expect("at the trigger level", u.in(iir), 0xc4)
	if got := u.receive(); got != "12345678" {
		t.Errorf("received %q", got)
	}
	if u.line.High() {
		t.Error("the line is high after the last byte")
	}
	u.Input([]byte("x"))
	u.put(fcr, 0x83)
	if u.line.High() || u.in(lsr) != 0x60 {
		t.Error("clearing the FIFO left something")
	}

	// An overrun is more urgent than data, and gone once LSR was read.
	u.put(mcr, 0x10)
	for range 17 {
		u.put(data, 'o')
	}
	u.expect("overrun", u.in(iir), 0xc6)
	u.in(lsr)
	u.expect("after reading LSR", u.in(iir), 0xc4)
}

func TestOutput(t *testing.T) {
	u := newUART(t)
	long := strings.Repeat("x", 2500)
	for _, b := range []byte("one\ntwo\n" + long + "rest") {
		u.put(data, b)
	}
	u.Close()
	u.put(data, '!') // nobody listens any more
	u.Close()
	got := u.batches()
	if s := strings.Join(got, ""); s != "one\ntwo\n"+long+"rest" {
		t.Errorf("sent %d bytes: %.40q", len(s), s)
	}
	if got[0] != "one\n" || got[1] != "two\n" {
		t.Errorf("lines are not batches: %q", got[:2])
	}
}

// TestOutputPrompt: a line without its end is given out all the same.
func TestOutputPrompt(t *testing.T) {
	c := make(chan string, 8)
	s := legacy.NewSerial(&irq.Recorder{}, func(p []byte) { c <- string(p) })
	defer s.Close()
	for _, want := range []string{"$", "#"} {
		s.Write(data, []byte(want))
		if got := <-c; got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	}
}

// TestOutputBlocked: while out blocks, registers and input still work, and a
// vCPU is held back once a batch is waiting.
func TestOutputBlocked(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	var got bytes.Buffer
	s := legacy.NewSerial(&irq.Recorder{}, func(p []byte) {
		enter <- struct{}{}
		<-leave
		got.Write(p)
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3000 {
			s.Write(data, []byte{'x'})
		}
	}()
	<-enter
	var p [1]byte
	if s.Read(lsr, p[:]); p[0] != 0x60 {
		t.Errorf("LSR %#x", p[0])
	}
	if n := s.Input([]byte("abc")); n != 3 {
		t.Errorf("took %d bytes", n)
	}
	go func() {
		for range enter {
			leave <- struct{}{}
		}
	}()
	leave <- struct{}{}
	<-done
	s.Close()
	close(enter)
	if got.Len() != 3000 {
		t.Errorf("sent %d bytes, want 3000", got.Len())
	}
}

func TestInputBounded(t *testing.T) {
	u := newUART(t)
	n := u.Input(make([]byte, 10000))
	if n == 0 || n == 10000 {
		t.Fatalf("took %d bytes of 10000", n)
	}
	if more := u.Input([]byte{1}); more != 0 {
		t.Errorf("took %d more", more)
	}
	u.put(fcr, 1)
	u.put(mcr, 2)
	if more := u.Input(make([]byte, 100)); more != 16 {
		t.Errorf("took %d bytes after a FIFO full was received, want 16", more)
	}
}

// TestFeed moves much more than there is room for, then leaves one Feed waiting.
func TestFeed(t *testing.T) {
	u := newUART(t)
	u.put(fcr, 1)
	u.put(mcr, 2)
	want := bytes.Repeat([]byte("0123456789"), 2000)
	fed := make(chan error, 1)
	go func() {
		n, err := u.Feed(want)
		if err == nil && n != len(want) {
			err = io.ErrShortWrite
		}
		fed <- err
	}()
	var got []byte
	for len(got) < len(want) {
		got = append(got, u.receive()...)
	}
	if err := <-fed; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("input arrived changed")
	}

	go func() {
		_, err := u.Feed(want)
		fed <- err
	}()
	for u.Input([]byte{0}) != 0 { // until the wire is full
	}
	u.Close()
	if err := <-fed; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Feed across Close: %v", err)
	}
	if _, err := u.Feed([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Feed after Close: %v", err)
	}
}

// TestWide: a 16-bit port access reaches two registers.
func TestWide(t *testing.T) {
	u := newUART(t)
	u.bus.Write(0x3f8+mcr-1, []byte{0x03, 0x0b})
	var p [2]byte
	u.bus.Read(0x3f8+mcr-1, p[:])
	if p != [2]byte{0x03, 0x0b} {
		t.Errorf("LCR and MCR %x", p)
	}
}

// calls is a line that counts how often it is told something.
type calls int

func (c *calls) Raise() { *c++ }
func (c *calls) Lower() { *c++ }

// TestLineChanges: the line is a system call away, so it is told only changes.
func TestLineChanges(t *testing.T) {
	var c calls
	s := legacy.NewSerial(&c, func([]byte) {})
	defer s.Close()
	s.Write(ier, []byte{2})
	for range 16 {
		s.Write(data, []byte{'x'})
		s.Read(lsr, []byte{0})
	}
	s.Write(ier, []byte{0})
	s.Write(ier, []byte{0})
	if c != 2 {
		t.Errorf("told %d times, want up and down", c)
	}
}

func TestAllocSerial(t *testing.T) {
	s := legacy.NewSerial(&irq.Recorder{}, func([]byte) {})
	defer s.Close()
	p := []byte{'\n'}
	if n := testing.AllocsPerRun(100, func() { s.Write(data, p); s.Read(lsr, p[:1]); p[0] = '\n' }); n != 0 {
		t.Errorf("%v allocations a byte", n)
	}
}
