package cli

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// terminal is the terminal Tenon was started on, to be put into raw mode and back.
type terminal struct {
	fd int

	mu    sync.Mutex
	saved *unix.Termios // the modes to restore; nil while they are in force
}

// newTerminal returns f as a terminal, or nil when it is none.
func newTerminal(f *os.File) *terminal {
	fd := int(f.Fd())
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return nil
	}
	return &terminal{fd: fd}
}

// raw hands every key to the guest as it is: no echo, no lines, no signals, no
// translation of output, which the guest's own terminal has done (cfmakeraw(3)).
func (t *terminal) raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		return nil
	}
	modes, err := unix.IoctlGetTermios(t.fd, unix.TCGETS)
	if err != nil {
		return err
	}
	saved := *modes
	modes.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	modes.Oflag &^= unix.OPOST
	modes.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	modes.Cflag = modes.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	modes.Cc[unix.VMIN], modes.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(t.fd, unix.TCSETS, modes); err != nil {
		return err
	}
	t.saved = &saved
	return nil
}

// restore undoes raw. It may be called at any time and more than once.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved == nil {
		return
	}
	// A terminal that has gone away takes its modes with it.
	_ = unix.IoctlSetTermios(t.fd, unix.TCSETS, t.saved)
	t.saved = nil
}

// size is the window in characters; 0, 0 where the terminal does not know.
func (t *terminal) size() (rows, cols uint16) {
	w, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return w.Row, w.Col
}
