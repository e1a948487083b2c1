package guestinit

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"tenon/guest/channel"
)

// process is the running command and init's ends of its streams.
type process struct {
	pid      int
	terminal bool
	stdin    *os.File
	outputs  [channel.Stderr + 1]*os.File // a terminal has Stdout only, the same file as stdin
}

// start runs the session's command. A nil process comes with the result to
// report instead.
func start(spec *channel.Spec) (*process, channel.Result) {
	c, err := resolve(spec)
	if err == nil {
		var p *process
		if p, err = spawn(c, spec); err == nil {
			return p, channel.Result{}
		}
	}
	var failed *commandError
	if errors.As(err, &failed) {
		return nil, channel.Result{Kind: failed.kind, Message: failed.message}
	}
	return nil, channel.Result{Kind: channel.SetupFailed, Message: err.Error()}
}

// spawn makes the streams and starts the command as the leader of a session
// and process group of its own, with default signals and nothing open but its
// three streams.
func spawn(c command, spec *channel.Spec) (*process, error) {
	p := &process{terminal: spec.Terminal}
	var theirs []int
	var err error
	if spec.Terminal {
		theirs, err = p.openTerminal(spec.Rows, spec.Cols)
	} else {
		theirs, err = p.openPipes()
	}
	if err != nil {
		return nil, err
	}
	files := []uintptr{uintptr(theirs[0]), uintptr(theirs[0]), uintptr(theirs[0])}
	for i, fd := range theirs {
		files[i] = uintptr(fd)
		defer unix.Close(fd)
	}
	p.pid, err = syscall.ForkExec(c.path, c.argv, &syscall.ProcAttr{
		Dir:   c.dir,
		Env:   c.env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: spec.Terminal},
	})
	if err != nil {
		return nil, execError(c.argv[0], err)
	}
	return p, nil
}

// openPipes makes a pipe for each stream and returns the command's ends.
func (p *process) openPipes() (theirs []int, err error) {
	for i := range p.outputs {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return nil, fmt.Errorf("make a pipe for the command: %w", err)
		}
		if i == 0 {
			theirs, p.stdin = append(theirs, fds[0]), ourEnd(fds[1])
		} else {
			theirs, p.outputs[i] = append(theirs, fds[1]), ourEnd(fds[0])
		}
	}
	return theirs, nil
}

// openTerminal makes a terminal and returns the command's end, which serves
// all three streams.
func (p *process) openTerminal(rows, cols uint16) (theirs []int, err error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a terminal: open /dev/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("make a terminal: unlock: %w", err)
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("make a terminal: number: %w", err)
	}
	name := fmt.Sprintf("/dev/pts/%d", number)
	slave, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a terminal: open %s: %w", name, err)
	}
	p.stdin = ourEnd(master)
	p.outputs[channel.Stdout] = p.stdin
	p.resize(rows, cols)
	return []int{slave}, nil
}

// ourEnd wraps an end of a pipe or terminal so that Close interrupts a
// blocked Read or Write. Only this end becomes non-blocking, not the command's.
func ourEnd(fd int) *os.File {
	unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), "command")
}

// signal signals the command's process group.
func (p *process) signal(sig int) {
	if unix.Kill(-p.pid, syscall.Signal(sig)) != nil {
		unix.Kill(p.pid, syscall.Signal(sig))
	}
}

// resize sets the terminal's window; the kernel tells the foreground process.
func (p *process) resize(rows, cols uint16) {
	if !p.terminal || rows == 0 || cols == 0 {
		return
	}
	if raw, err := p.stdin.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
		})
	}
}

// closeOutput makes the command see that nobody reads: EPIPE and SIGPIPE on a
// pipe, a hang-up on a terminal.
func (p *process) closeOutput(s channel.Stream) {
	if int(s) < len(p.outputs) && p.outputs[s] != nil {
		p.outputs[s].Close()
	}
}

// feed writes standard input to the command until either is at its end.
func (p *process) feed(g *channel.Guest) {
	const endOfFile = "\x04" // VEOF; the terminal itself stays open for output
	err := g.CopyStdin(p.stdin)
	switch {
	case !p.terminal:
		p.stdin.Close()
	case err == nil:
		p.stdin.WriteString(endOfFile)
	}
}

// drain sends the command's output to the host. The channel it returns is
// closed when every writer has gone and everything was sent.
func (p *process) drain(g *channel.Guest) <-chan struct{} {
	var wg sync.WaitGroup
	for s, f := range p.outputs {
		if f != nil {
			// The error is the end of the stream: EIO is how a terminal says it.
			wg.Go(func() { g.CopyOutput(channel.Stream(s), f) })
		}
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	return done
}
