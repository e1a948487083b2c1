// Package legacy holds the PC devices that a stock kernel still expects at
// fixed ports: a serial port, the keyboard controller's reset line, and the
// ACPI power registers.
package legacy

import (
	"io"
	"sync"

	"tenon/devices/irq"
)

// Registers of the 16550A (National Semiconductor PC16550D, table II), by port
// offset. DLL and DLM answer while the divisor latch bit is set.
const (
	regRBR = 0 // receive buffer (read), THR (write), DLL
	regIER = 1 // interrupt enable, DLM
	regIIR = 2 // interrupt identification (read), FCR (write)
	regLCR = 3
	regMCR = 4
	regLSR = 5
	regMSR = 6
	regSCR = 7

	serialPorts = 8
)

// Bits of those registers.
const (
	ierReceived = 1 << 0
	ierTransmit = 1 << 1
	ierLine     = 1 << 2
	ierMask     = 0x0f

	iirNone     = 0x01
	iirTransmit = 0x02
	iirReceived = 0x04
	iirLine     = 0x06
	iirTimeout  = 0x0c
	iirFIFO     = 0xc0

	fcrEnable       = 1 << 0
	fcrClearReceive = 1 << 1
	fcrTriggerShift = 6

	lcrDivisor = 1 << 7

	mcrRTS  = 1 << 1
	mcrLoop = 1 << 4
	mcrMask = 0x1f

	lsrData    = 1 << 0
	lsrOverrun = 1 << 1
	lsrEmpty   = 1<<5 | 1<<6 // THRE and TEMT: sending takes no time

	msrIdle = 1<<7 | 1<<5 | 1<<4 // DCD, DSR and CTS: the other side is there
)

const (
	fifoSize = 16
	wireSize = 4096 // bytes of input that wait outside the UART
)

// triggers are the receive FIFO levels that FCR chooses between.
var triggers = [4]int{1, 4, 8, 14}

// loopback says which modem control bit shows as which modem status bit in
// loopback mode.
var loopback = []struct{ mcr, msr byte }{
	{1 << 0, 1 << 5}, // DTR: DSR
	{1 << 1, 1 << 4}, // RTS: CTS
	{1 << 2, 1 << 6}, // OUT1: RI
	{1 << 3, 1 << 7}, // OUT2: DCD
}

// Serial is a 16550A UART at 8 ports. It sends without delay, and receives
// while the guest raises RTS: input that comes earlier, while Linux probes and
// clears the FIFO, waits on the wire instead of being lost. It is safe for
// concurrent use.
type Serial struct {
	line irq.Line
	sent output

	mu       sync.Mutex
	room     sync.Cond // the wire has room again, or Close
	closed   bool
	divisor  [2]byte
	ier, fcr byte
	lcr, mcr byte
	scr      byte
	overrun  bool // LSR bit, cleared by reading LSR
	empty    bool // the transmitter's interrupt, cleared by reading it from IIR
	raised   bool // level of the interrupt line
	fifo     ring // received
	wire     ring // not received yet
}

// NewSerial returns a serial port that interrupts by line and gives what the
// guest sends to out: in batches, in order, one call at a time, on a vCPU
// thread or, when the end of a line does not come, a few milliseconds later
// from a timer. While out blocks, the guest's next batch waits. out must not
// keep p.
func NewSerial(line irq.Line, out func(p []byte)) *Serial {
	s := &Serial{line: line, fifo: newRing(fifoSize), wire: newRing(wireSize)}
	s.room.L = &s.mu
	s.sent.init(out)
	return s
}

// Input queues bytes for the guest and returns how many it took, which is less
// than len(p) when 4096 bytes are waiting. It never blocks.
func (s *Serial) Input(p []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.input(p)
}

// Feed queues bytes for the guest and waits for room until all are taken. It
// returns how many were, and io.ErrClosedPipe after Close.
func (s *Serial) Feed(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed {
		n += s.input(p[n:])
		if n == len(p) {
			return n, nil
		}
		s.room.Wait()
	}
	return n, io.ErrClosedPipe
}

// Close gives the rest of the output to out and ends waiting Feeds. out is not
// called afterwards.
func (s *Serial) Close() {
	s.mu.Lock()
	s.closed = true
	s.room.Broadcast()
	s.mu.Unlock()
	s.sent.close()
}

// Read answers the ports, a byte each.
func (s *Serial) Read(off uint64, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p {
		p[i] = s.load((off + uint64(i)) % serialPorts)
	}
	s.interrupt()
}

// Write sets the ports, a byte each.
func (s *Serial) Write(off uint64, p []byte) {
	for i, b := range p {
		if s.store((off+uint64(i))%serialPorts, b) {
			s.sent.put(b)
		}
	}
}

func (s *Serial) load(reg uint64) byte {
	if s.lcr&lcrDivisor != 0 && reg <= regIER {
		return s.divisor[reg]
	}
	switch reg {
	case regRBR:
		b := s.fifo.pop()
		s.receive()
		return b
	case regIER:
		return s.ier
	case regIIR:
		return s.identify()
	case regLCR:
		return s.lcr
	case regMCR:
		return s.mcr
	case regLSR:
		return s.lineStatus()
	case regMSR:
		return s.modemStatus()
	}
	return s.scr
}

// store sets a register. It returns true when b is to be sent, which may block
// and therefore happens without the lock.
func (s *Serial) store(reg uint64, b byte) (send bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lcr&lcrDivisor != 0 && reg <= regIER {
		s.divisor[reg] = b
		return false
	}
	switch reg {
	case regRBR:
		send = s.transmit(b)
	case regIER:
		// Enabling the interrupt while the transmitter is empty raises it again:
		// Linux tests for that, and starts to send by it.
		s.empty = s.empty || b&^s.ier&ierTransmit != 0
		s.ier = b & ierMask
	case regIIR:
		if b&fcrClearReceive != 0 || (b^s.fcr)&fcrEnable != 0 {
			s.fifo.clear()
		}
		s.fcr = b
	case regLCR:
		s.lcr = b
	case regMCR:
		s.mcr = b & mcrMask
	case regSCR:
		s.scr = b
	}
	s.receive()
	s.interrupt()
	return send
}

// transmit takes a byte out of THR, which is empty again at once.
func (s *Serial) transmit(b byte) (send bool) {
	s.empty = true
	if s.mcr&mcrLoop == 0 {
		return true
	}
	if s.fifo.used >= s.capacity() {
		s.overrun = true
	} else {
		s.fifo.put([]byte{b})
	}
	return false
}

func (s *Serial) input(p []byte) int {
	n := s.wire.put(p)
	s.receive()
	s.interrupt()
	return n
}

// receive moves bytes from the wire to the receiver while the guest lets the
// other side send. In loopback mode the wire is cut.
func (s *Serial) receive() {
	if s.mcr&(mcrRTS|mcrLoop) != mcrRTS || s.wire.used == 0 {
		return
	}
	for s.wire.used > 0 && s.fifo.used < s.capacity() {
		s.fifo.put([]byte{s.wire.pop()})
	}
	s.room.Broadcast()
}

// capacity is what the receiver holds: one byte while the FIFO is off.
func (s *Serial) capacity() int {
	if s.fcr&fcrEnable == 0 {
		return 1
	}
	return fifoSize
}

// pending returns the IIR code of the most urgent enabled interrupt.
func (s *Serial) pending() byte {
	switch {
	case s.ier&ierLine != 0 && s.overrun:
		return iirLine
	case s.ier&ierReceived != 0 && s.fifo.used > 0:
		// Below the trigger level the UART waits four characters' time for
		// more. Here nothing is under way, so that time is over at once.
		if s.fcr&fcrEnable != 0 && s.fifo.used < triggers[s.fcr>>fcrTriggerShift] {
			return iirTimeout
		}
		return iirReceived
	case s.ier&ierTransmit != 0 && s.empty:
		return iirTransmit
	}
	return iirNone
}

// identify answers a read of IIR, which acknowledges the transmitter's interrupt.
func (s *Serial) identify() byte {
	id := s.pending()
	if id == iirTransmit {
		s.empty = false
	}
	if s.fcr&fcrEnable != 0 {
		id |= iirFIFO
	}
	return id
}

func (s *Serial) lineStatus() byte {
	status := byte(lsrEmpty)
	if s.fifo.used > 0 {
		status |= lsrData
	}
	if s.overrun {
		status |= lsrOverrun
		s.overrun = false
	}
	return status
}

func (s *Serial) modemStatus() (status byte) {
	if s.mcr&mcrLoop == 0 {
		return msrIdle
	}
	for _, l := range loopback {
		if s.mcr&l.mcr != 0 {
			status |= l.msr
		}
	}
	return status
}

// interrupt sets the line's level. The line changes only when the level does:
// each change may be a system call.
func (s *Serial) interrupt() {
	up := s.pending() != iirNone
	if up == s.raised {
		return
	}
	s.raised = up
	if up {
		s.line.Raise()
	} else {
		s.line.Lower()
	}
}
