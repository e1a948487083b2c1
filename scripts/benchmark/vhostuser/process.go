package vhostuser

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

const tailSize = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if extra := len(t.data) - tailSize; extra > 0 {
		t.data = t.data[extra:]
	}
	return len(p), nil
}

// String is the last lines, in one.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(t.data), []byte("\n"))
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	return string(bytes.Join(lines, []byte("; ")))
}

// process is the daemon's. Its one owner is the Peer.
type process struct {
	cmd  *exec.Cmd
	last tail
	over chan struct{}         // closed when it has ended
	err  atomic.Pointer[error] // then: how
}

// launch starts a program that has the file as descriptor 3.
func launch(program string, args []string, file *os.File) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), over: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.last, &p.last
	p.cmd.ExtraFiles = []*os.File{file}
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.over)
		err := p.quoted(fmt.Errorf("%s has ended: %w", filepath.Base(program), ending(p.cmd.Wait())))
		p.err.Store(&err)
	}()
	return p, nil
}

// ending is how a process ended.
func ending(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// quoted adds the last lines the process wrote to an error.
func (p *process) quoted(err error) error {
	if said := p.last.String(); said != "" {
		return fmt.Errorf("%w (it said: %s)", err, said)
	}
	return err
}

// blame is an error of the conversation with what the process has to say: when it
// ends just now, that it did.
func (p *process) blame(err error) error {
	select {
	case <-p.over:
		return fmt.Errorf("%w: %w", err, *p.err.Load())
	case <-time.After(500 * time.Millisecond):
		return p.quoted(err)
	}
}

// stop waits until the process has ended, and ends it if it does not by itself.
func (p *process) stop(patience time.Duration) error {
	select {
	case <-p.over:
		return nil
	case <-time.After(patience):
	}
	_ = p.cmd.Process.Kill()
	<-p.over
	return p.quoted(fmt.Errorf("%s did not end within %v and was killed", filepath.Base(p.cmd.Path), patience))
}
