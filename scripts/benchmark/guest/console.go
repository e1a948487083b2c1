package guest

import (
	"bytes"
	"fmt"
	"sync"
	"time"
)

// console collects what a guest says and notes when it said a thing.
type console struct {
	mu    sync.Mutex
	text  bytes.Buffer
	more  chan struct{} // a token when there is more
	ended bool
}

func newConsole() *console { return &console{more: make(chan struct{}, 1)} }

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.text.Write(p)
	c.mu.Unlock()
	c.wake()
	return len(p), nil
}

func (c *console) wake() {
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// end is called when nothing more comes.
func (c *console) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.wake()
}

// wait waits until the guest says something and returns when that was seen.
func (c *console) wait(what string, limit time.Duration) (time.Time, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		c.mu.Lock()
		said, ended := bytes.Contains(c.text.Bytes(), []byte(what)), c.ended
		c.mu.Unlock()
		switch {
		case said:
			return time.Now(), nil
		case ended:
			return time.Time{}, fmt.Errorf("the machine ended before it said %s:\n%s", what, c.last())
		}
		select {
		case <-c.more:
		case <-timer.C:
			return time.Time{}, fmt.Errorf("no %s within %v:\n%s", what, limit, c.last())
		}
	}
}

// last is the end of what was said.
func (c *console) last() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.text.Bytes()
	return bytes.Clone(b[max(0, len(b)-2000):])
}
