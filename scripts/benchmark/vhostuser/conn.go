package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// conn is the front end's side of a conversation: one request at a time, each within
// a time.
type conn struct {
	*net.UnixConn
	limit time.Duration // for each request with its answer
}

// tell sends a request that has no answer.
func (c conn) tell(r request, payload []byte) error {
	return c.talk(r, 0, payload, nil)
}

// set sends a request and waits until the back end says that it has done it. The
// REPLY_ACK feature of the protocol must have been negotiated.
func (c conn) set(r request, payload []byte, fds ...int) error {
	answer := make([]byte, 8)
	if err := c.talk(r, flagAck, payload, answer, fds...); err != nil {
		return err
	}
	if v := order.Uint64(answer); v != 0 {
		return fmt.Errorf("%s: the back end refuses (%d)", r, v)
	}
	return nil
}

// get sends a request that is a question, and returns the answer: one number.
func (c conn) get(r request) (uint64, error) {
	answer := make([]byte, 8)
	err := c.talk(r, 0, nil, answer)
	return order.Uint64(answer), err
}

// talk sends a request and, if there is to be an answer, fills it.
func (c conn) talk(r request, flags uint32, payload, answer []byte, fds ...int) error {
	if err := c.SetDeadline(time.Now().Add(c.limit)); err != nil {
		return fmt.Errorf("%s: %w", r, err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(message(r, flags, payload), rights, nil); err != nil {
		return fmt.Errorf("%s: %w", r, err)
	}
	if answer == nil {
		return nil
	}
	err := c.receive(r, answer)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: no answer for %v: %w", r, c.limit, err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%s: hung up: %w", r, err)
	case err != nil:
		return fmt.Errorf("%s: %w", r, err)
	}
	return nil
}

// receive fills payload with that of the answer to a request.
func (c conn) receive(r request, payload []byte) error {
	b := make([]byte, headerSize+len(payload))
	if _, err := io.ReadFull(c, b[:headerSize]); err != nil {
		return err
	}
	which, flags, size := request(order.Uint32(b)), order.Uint32(b[4:]), order.Uint32(b[8:])
	if which != r || flags&(versionMask|flagReply) != version|flagReply || int(size) != len(payload) {
		return fmt.Errorf("an answer of %d bytes to request %d with flags %#x, not one of %d bytes to %d",
			size, uint32(which), flags, len(payload), uint32(r))
	}
	_, err := io.ReadFull(c, payload)
	return err
}
