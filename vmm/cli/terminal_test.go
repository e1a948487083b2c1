package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/vmm/machine"
)

// openPTY returns both ends of a new pseudo-terminal.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func modes(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

// onTerminal is a bench whose program runs on a pseudo-terminal of 40 by 100.
func onTerminal(t *testing.T, f *fake) (b *bench, master, slave *os.File) {
	t.Helper()
	master, slave = openPTY(t)
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 100}); err != nil {
		t.Fatal(err)
	}
	b = newBench(t, f)
	b.stdin, b.stdout = slave, slave
	return b, master, slave
}

// TestTerminalIsRestored runs to every kind of end and compares the terminal's modes.
func TestTerminalIsRestored(t *testing.T) {
	for name, end := range map[string]func(context.Context, *fake) (machine.Outcome, error){
		"exit":  func(context.Context, *fake) (machine.Outcome, error) { return machine.Outcome{Status: 3}, nil },
		"death": func(context.Context, *fake) (machine.Outcome, error) { return machine.Outcome{Kind: machine.Died}, nil },
		"error": func(context.Context, *fake) (machine.Outcome, error) { return machine.Outcome{}, errors.New("no") },
		"panic": func(context.Context, *fake) (machine.Outcome, error) { panic("a bug") },
		"signal": func(_ context.Context, f *fake) (machine.Outcome, error) {
			err := unix.Kill(os.Getpid(), unix.SIGTERM)
			return machine.Outcome{Kind: machine.Signaled, Status: <-f.signals}, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var during unix.Termios
			var slave *os.File
			f := &fake{}
			f.life = func(ctx context.Context, f *fake) (machine.Outcome, error) {
				during = modes(t, slave)
				return end(ctx, f)
			}
			var b *bench
			b, _, slave = onTerminal(t, f)
			before := modes(t, slave)
			func() {
				defer func() { _ = recover() }()
				b.tenon("run")
			}()
			if during.Lflag&(unix.ECHO|unix.ICANON|unix.ISIG) != 0 || during.Oflag&unix.OPOST != 0 || during.Iflag&unix.ICRNL != 0 {
				t.Errorf("modes during the run: %+v", during)
			}
			if after := modes(t, slave); after != before {
				t.Errorf("modes after the run: %+v, before it: %+v", after, before)
			}
			if !f.opts.Terminal || f.opts.Rows != 40 || f.opts.Cols != 100 {
				t.Errorf("options %+v", f.opts)
			}
		})
	}
}

// TestKeys types on the terminal: escapes are Tenon's, the rest is the guest's.
func TestKeys(t *testing.T) {
	f := &fake{}
	var master *os.File
	f.life = func(_ context.Context, f *fake) (machine.Outcome, error) {
		if _, err := io.WriteString(master, "a\r\x03\x01c\x01aul\x01x"); err != nil {
			return machine.Outcome{Kind: machine.Exited}, err
		}
		got := make([]byte, 6)
		if _, err := io.ReadFull(f.opts.Stdin, got); err != nil {
			return machine.Outcome{Kind: machine.Exited}, err
		}
		if string(got) != "a\r\x03\x01ul" {
			t.Errorf("the guest got %q", got)
		}
		go io.Copy(io.Discard, f.opts.Stdin)
		return machine.Outcome{Kind: machine.Signaled, Status: <-f.signals}, nil
	}
	var b *bench
	b, master, _ = onTerminal(t, f)
	if status := b.tenon("run"); status != 128+int(hangUp) {
		t.Errorf("status %d, stderr %q", status, &b.err)
	}
	if want := "\r\ntenon: " + escapeHelp + "\r\n"; b.err.String() != want {
		t.Errorf("stderr %q, want %q", &b.err, want)
	}
}

func TestResize(t *testing.T) {
	f := &fake{}
	var master *os.File
	f.life = func(_ context.Context, f *fake) (machine.Outcome, error) {
		err := errors.Join(
			unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 132}),
			unix.Kill(os.Getpid(), unix.SIGWINCH), // the kernel's, were it our controlling terminal
		)
		if size := <-f.sizes; size != [2]uint16{50, 132} {
			t.Errorf("size %v", size)
		}
		return machine.Outcome{Kind: machine.Exited}, err
	}
	var b *bench
	b, master, _ = onTerminal(t, f)
	if status := b.tenon("run"); status != 0 {
		t.Errorf("status %d, stderr %q", status, &b.err)
	}
}

// TestRedirectedOutput: with standard output in a pipe the command gets no terminal,
// which would mix its streams and translate its lines.
func TestRedirectedOutput(t *testing.T) {
	var slave *os.File
	f := &fake{}
	f.life = func(_ context.Context, f *fake) (machine.Outcome, error) {
		if f.opts.Terminal || modes(t, slave).Lflag&unix.ICANON == 0 {
			t.Error("the terminal is raw")
		}
		line, err := bufio.NewReader(f.opts.Stdin).ReadString('\n')
		if line != "typed\n" {
			t.Errorf("the guest got %q", line)
		}
		return machine.Outcome{Kind: machine.Exited}, err
	}
	b, master, s := onTerminal(t, f)
	slave, b.stdout = s, &b.out
	if _, err := io.WriteString(master, "typed\r"); err != nil {
		t.Fatal(err)
	}
	if status := b.tenon("run"); status != 0 {
		t.Errorf("status %d, stderr %q", status, &b.err)
	}
}
