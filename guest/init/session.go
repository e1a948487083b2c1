package guestinit

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tenon/guest/channel"
)

// How long processes that outlive the command have to end by themselves, and
// how long killed ones may take.
const (
	termGrace = 300 * time.Millisecond
	killGrace = 2 * time.Second
)

// session is one command's life.
type session struct {
	guest   *channel.Guest
	drivers *modules
	share   func(m channel.Mount, target string) error // mounts a share
	stop    <-chan os.Signal                           // somebody in the guest asks init to end
	mounted []string                                   // volumes, in mount order
}

// errLost means the host closed the channel in the middle of a session.
var errLost = errors.New("the host closed the channel")

// run gets the session from the host, carries it out and reports. An error
// means that there was nobody to report to.
func (s *session) run() error {
	spec, err := s.guest.Spec()
	if err != nil {
		return err
	}
	if err := s.prepare(&spec); err != nil {
		return s.report(channel.Result{Kind: channel.SetupFailed, Message: err.Error()})
	}
	p, result := start(&spec)
	if p == nil {
		return s.report(result)
	}
	return s.carry(p)
}

// report sends the exit record of a session without a command and waits until
// the host has it.
func (s *session) report(r channel.Result) error {
	s.unmountShares()
	if err := s.guest.Exit(r); err != nil {
		return err
	}
	return s.guest.Serve(channel.Events{
		Signal:      func(int) {},
		Resize:      func(uint16, uint16) {},
		CloseOutput: func(channel.Stream) {},
	})
}

// carry moves the streams of a running command until it has ended.
func (s *session) carry(p *process) error {
	served := make(chan error, 1)
	go func() {
		served <- s.guest.Serve(channel.Events{Signal: p.signal, Resize: p.resize, CloseOutput: p.closeOutput})
	}()
	go p.feed(s.guest)
	drained := p.drain(s.guest)

	ended := make(chan syscall.WaitStatus, 1)
	go func() { ended <- reap(p.pid) }()

	var status syscall.WaitStatus
	stopped := false
	for running := true; running; {
		select {
		case status = <-ended:
			running = false
		case <-s.stop: // a poweroff command: no exit record, the machine just ends
			stopped = true
			killAll(unix.SIGTERM)
			time.AfterFunc(termGrace, func() { killAll(unix.SIGKILL) })
		case <-served:
			unix.Sync()
			return errLost
		}
	}
	if !sweep() { // a process that cannot be killed may hold a stream for ever
		p.closeOutput(channel.Stdout)
		p.closeOutput(channel.Stderr)
	}
	select {
	case <-drained:
	case <-served:
		unix.Sync()
		return errLost
	}
	s.unmountShares()
	if stopped {
		return nil
	}
	if err := s.guest.Exit(result(status)); err != nil {
		return err
	}
	return <-served
}

func result(status syscall.WaitStatus) channel.Result {
	if status.Signaled() {
		return channel.Result{Kind: channel.Signaled, Status: int(status.Signal())}
	}
	return channel.Result{Kind: channel.Exited, Status: status.ExitStatus()}
}

// reap is PID 1's duty: it waits for every child until the command ends.
// Nothing else in this program waits for processes.
func reap(pid int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		if err == nil && got == pid {
			return status
		}
	}
}

// sweep ends what the command left behind, and reports whether nothing is left.
func sweep() bool {
	if reaped(syscall.WNOHANG) {
		return true
	}
	killAll(unix.SIGTERM)
	gone := make(chan struct{})
	go func() {
		reaped(0)
		close(gone)
	}()
	if within(gone, termGrace) {
		return true
	}
	killAll(unix.SIGKILL)
	return within(gone, killGrace)
}

func within(done <-chan struct{}, limit time.Duration) bool {
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// reaped reaps and reports whether no child is left. With WNOHANG it does not
// wait for any.
func reaped(options int) bool {
	for {
		pid, err := syscall.Wait4(-1, nil, options, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD
			return true
		case pid == 0:
			return false
		}
	}
}

// killAll signals every process but init itself. From any other process that
// would be the whole host.
func killAll(sig syscall.Signal) {
	if os.Getpid() == 1 {
		unix.Kill(-1, sig)
	}
}
