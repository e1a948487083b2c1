package linuxtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal with a program's output kept.
type terminal struct {
	master, slave *os.File
	mu            sync.Mutex
	output        bytes.Buffer
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	x := &terminal{master: master, slave: slave}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			x.mu.Lock()
			x.output.Write(b[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { slave.Close(); master.Close() })
	return x
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.output.String()
}

func (x *terminal) modes(t *testing.T) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(x.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

// TestTerminal runs tenon on a terminal and ends it in every way there is: the
// command has a terminal of the same size, and ours is as it was before.
func TestTerminal(t *testing.T) {
	tenon := needKVM(t)
	for _, x := range []struct {
		name, script string
		act          func(*terminal, *os.Process) error // once the guest has said ready, nil if it need not
		status       int
	}{
		{"exit", `stty size; tty; exit 5`, nil, 5},
		{"SIGTERM", `echo ready; sleep 1000`, func(_ *terminal, p *os.Process) error {
			return p.Signal(syscall.SIGTERM)
		}, 128 + 15},
		{"Ctrl-A X", `echo ready; sleep 1000`, pressQuit, 128 + 1},
		{"Ctrl-A X while the kernel boots", ``, pressQuit, 128 + 1},
		{"Ctrl-C", `trap 'exit 4' INT; echo ready; while :; do sleep 0.1; done`, func(x *terminal, _ *os.Process) error {
			_, err := x.master.WriteString("\x03")
			return err
		}, 4},
		{"panic", `echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 1000`, nil, 255},
	} {
		t.Run(x.name, func(t *testing.T) {
			term := openTerminal(t)
			before := term.modes(t)
			cmd := exec.Command(tenon, "run", "--", "sh", "-c", x.script)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = term.slave, term.slave, term.slave
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			kill := time.AfterFunc(bootTime, func() { cmd.Process.Kill() })
			defer kill.Stop()
			if x.act != nil {
				if x.script != "" {
					term.await(t, func() bool { return strings.Contains(term.text(), "ready") })
				}
				term.await(t, func() bool { return term.modes(t) != before })
				if err := x.act(term, cmd.Process); err != nil {
					t.Fatal(err)
				}
			}
			cmd.Wait()
			if status := cmd.ProcessState.ExitCode(); status != x.status {
				t.Errorf("exit status %d, want %d\n%s", status, x.status, term.text())
			}
			if term.modes(t) != before {
				t.Error("the terminal's modes are not as before")
			}
			if x.name == "exit" {
				contains(t, "the command", term.text(), "33 77", "/dev/pts/")
			}
		})
	}
}

func pressQuit(x *terminal, _ *os.Process) error {
	_, err := x.master.WriteString("\x01x")
	return err
}

func (x *terminal) await(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(bootTime); !done(); {
		if time.Now().After(end) {
			t.Fatalf("the guest never got ready, or the terminal never raw:\n%s", x.text())
		}
		time.Sleep(20 * time.Millisecond)
	}
}
