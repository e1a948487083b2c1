// Package irq holds the two ways a device interrupts the guest. The machine
// implements them with KVM; tests with the recorder of this package.
package irq

import "sync"

// Line is one interrupt line (GSI) of the I/O APIC. An edge is Raise, Lower.
type Line interface {
	Raise()
	Lower()
}

// MSISender delivers one message-signalled interrupt: a 32-bit data word
// written to a 64-bit address (PCI 3.0 §6.8). Errors are the machine's to
// count; a device cannot do anything about them.
type MSISender interface {
	SendMSI(addr uint64, data uint32)
}

// Message is one recorded MSI.
type Message struct {
	Addr uint64
	Data uint32
}

// Recorder is an MSISender and a Line for tests: it remembers what happened.
type Recorder struct {
	mu       sync.Mutex
	messages []Message
	edges    int
	high     bool
}

// SendMSI records the message.
func (r *Recorder) SendMSI(addr uint64, data uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, Message{addr, data})
}

// Raise sets the line high and records the edge, if it is one.
func (r *Recorder) Raise() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.high {
		r.edges++
	}
	r.high = true
}

// Lower sets the line low.
func (r *Recorder) Lower() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.high = false
}

// Messages returns the messages so far and forgets them.
func (r *Recorder) Messages() []Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.messages
	r.messages = nil
	return m
}

// Edges returns the number of rising edges so far.
func (r *Recorder) Edges() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.edges
}

// High returns the level of the line.
func (r *Recorder) High() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.high
}
