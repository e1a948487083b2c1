// Package channel is the conversation between the VMM and the guest's init
// over one byte stream, a virtio-console port named PortName: the session to
// run goes in, standard input, window sizes and signals follow it; standard
// output, standard error and the exit record come out. It is 8-bit clean.
//
// The guest speaks first (a port discards what arrives before it is opened).
// Standard input is sent only as far as the guest has granted credit, so a
// signal or a window size never waits behind input that nobody reads. Output
// needs no credit: the port itself holds a guest back.
//
// Neither end trusts the stream: each frame has a length limit of its own and
// whatever breaks the protocol ends the conversation with ErrProtocol.
package channel

import (
	"errors"
	"io"
)

// PortName is the name of the virtio-console port that carries the channel.
const PortName = "tenon"

// Spec is the session the guest's init has to set up.
type Spec struct {
	Root       *Mount   // nil: the kernel has mounted the root itself (root=TAG)
	Overlay    bool     // a throw-away writable layer over the root, where the kernel has overlayfs
	Mounts     []Mount  // in mount order
	Command    []string // argv; empty: a login shell
	Dir        string   // working directory; one that is not in the guest means /
	Env        []string // KEY=VALUE
	Terminal   bool     // run on a pseudo-terminal; standard error is then part of standard output
	Rows, Cols uint16   // window of the terminal, in characters
	Hostname   string   // empty: the kernel's default
}

// Mount is one share and its place in the guest's tree.
type Mount struct {
	Tag, Path string
	ReadOnly  bool
	// DAX is the value of the mount option: always, inode or never; empty: no
	// option, which is inode.
	DAX string
}

// IO is the host's end of the command's standard streams.
type IO struct {
	Stdin          io.Reader // nil: the command reads end of file
	Stdout, Stderr io.Writer // nil: discarded
}

// Kind says how a session ended.
type Kind uint8

// The ways a session ends.
const (
	Exited        Kind = iota + 1 // Status is the exit status, 0-255
	Signaled                      // Status is the signal's number, 1-64
	NotFound                      // no such command; nothing ran
	NotExecutable                 // the command is there and cannot be executed
	SetupFailed                   // the guest could not be set up; Message says why
)

// Result is the exit record.
type Result struct {
	Kind    Kind
	Status  int
	Message string // one line, printable; empty for Exited and Signaled
}

// Stream is an output stream of the command, by its file descriptor.
type Stream uint8

// The output streams.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// Errors of a conversation.
var (
	// ErrNoResult means the guest ended without an exit record.
	ErrNoResult = errors.New("the guest ended without reporting a result")
	// ErrProtocol means the other end broke the protocol; it is wrapped with
	// what was wrong.
	ErrProtocol = errors.New("guest channel: protocol error")
)
