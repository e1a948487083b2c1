package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hangUp is what Ctrl-A X sends: a terminal that goes away. Interactive shells, which
// ignore SIGTERM, end on it.
const hangUp = unix.SIGHUP

// Times to end in order.
const (
	commandGrace = 5 * time.Second // for the command, after the first signal
	guestGrace   = 2 * time.Second // for the guest, after its command was killed
)

// ending brings the guest to its end when the user asks: the signal goes to the
// command; one that does not end is killed in the guest, so that the guest's init
// still ends in order; a guest that does not end then is stopped. A second request
// stops it at once.
type ending struct {
	machine        runner
	kill           context.CancelFunc
	command, guest time.Duration // what each may take to end; command 0: there is none

	mu    sync.Mutex
	first unix.Signal // 0: nobody asked yet
	timer *time.Timer
}

// ask requests the end by sig. It never blocks.
func (e *ending) ask(sig unix.Signal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.first != 0 || e.command == 0 {
		if e.first == 0 {
			e.first = sig
		}
		e.kill()
		return
	}
	e.first = sig
	e.machine.Signal(int(sig))
	e.timer = time.AfterFunc(e.command, e.force)
}

// force kills the command, and a little later the guest.
func (e *ending) force() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.machine.Signal(int(unix.SIGKILL))
	e.timer = time.AfterFunc(e.guest, e.kill)
}

// asked is the first request's signal, or 0.
func (e *ending) asked() unix.Signal {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.first
}

// stop ends the deadlines.
func (e *ending) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
	}
}

// ending is the end of this session's machine. Under the user's own initrd there is
// no command of ours to wait for.
func (s *session) ending(m runner, kill context.CancelFunc) *ending {
	e := &ending{machine: m, kill: kill, command: commandGrace, guest: guestGrace}
	if s.config.Initrd != "" {
		e.command = 0
	}
	return e
}

// watchSignals gives signals to the guest until the returned function is called.
// SIGUSR1 is for us: figures is called.
func watchSignals(m runner, term *terminal, end *ending, figures func()) (stop func()) {
	ch := make(chan os.Signal, 8)
	for _, sig := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		if !signal.Ignored(sig) { // nohup, and & in scripts: they mean it
			signal.Notify(ch, sig)
		}
	}
	signal.Notify(ch, unix.SIGUSR1)
	if term != nil {
		signal.Notify(ch, unix.SIGWINCH)
	}
	signal.Ignore(unix.SIGPIPE) // the guest's command hears of a closed pipe, and what it does then is the end
	var done sync.WaitGroup
	done.Add(1)
	go func() {
		defer done.Done()
		for sig := range ch {
			switch sig {
			case unix.SIGWINCH:
				m.Resize(term.size())
			case unix.SIGUSR1:
				figures()
			default:
				end.ask(sig.(unix.Signal))
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(ch)
		done.Wait()
	}
}
