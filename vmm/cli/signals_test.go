package cli

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/vmm/machine"
)

// heed has signals not ignored during the test, as they are under nohup or where the
// tests run in a script's background: who starts Tenon so means it, but not the test.
func heed(t *testing.T, list ...os.Signal) {
	ch := make(chan os.Signal, len(list))
	signal.Notify(ch, list...)
	t.Cleanup(func() { signal.Stop(ch) })
}

func TestSignalsReachTheCommand(t *testing.T) {
	heed(t, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT} {
		for _, end := range []machine.Outcome{
			{Kind: machine.Signaled, Status: int(sig)},
			{Kind: machine.Exited, Status: 9}, // it caught the signal and tidied up
			{Kind: machine.Died, Message: "the guest reset itself"},
		} {
			b := newBench(t, &fake{life: func(_ context.Context, f *fake) (machine.Outcome, error) {
				err := unix.Kill(os.Getpid(), sig)
				if got := <-f.signals; got != int(sig) {
					t.Errorf("signal %d reaches the command as %d", sig, got)
				}
				return end, err
			}})
			if status := b.tenon("run"); status != 128+int(sig) || b.err.String() != "" {
				t.Errorf("%v, %+v: status %d, stderr %q", sig, end, status, &b.err)
			}
		}
	}
}

// TestFiguresOnSignal: SIGUSR1 is answered while the machine runs, and does not end it.
func TestFiguresOnSignal(t *testing.T) {
	b := newBench(t, &fake{life: func(_ context.Context, f *fake) (machine.Outcome, error) {
		err := unix.Kill(os.Getpid(), unix.SIGUSR1)
		<-f.figures
		return machine.Outcome{Kind: machine.Exited, Status: 3}, err
	}})
	if status := b.tenon("run"); status != 3 || !strings.Contains(b.err.String(), `"setups":7`) || !strings.HasSuffix(b.err.String(), "}\n") {
		t.Errorf("status %d, stderr %q", status, &b.err)
	}
}

// TestSecondSignalEndsTheGuest is a command that ignores the first.
func TestSecondSignalEndsTheGuest(t *testing.T) {
	heed(t, unix.SIGTERM, unix.SIGINT)
	b := newBench(t, &fake{life: func(ctx context.Context, f *fake) (machine.Outcome, error) {
		if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
			return machine.Outcome{Kind: machine.Exited}, err
		}
		<-f.signals
		if err := unix.Kill(os.Getpid(), unix.SIGINT); err != nil {
			return machine.Outcome{Kind: machine.Exited}, err
		}
		<-ctx.Done()
		return machine.Outcome{Kind: machine.Terminated}, nil
	}})
	if status := b.tenon("run"); status != 143 {
		t.Errorf("status %d, want that of the first signal, 143", status)
	}
}

// TestSignalWithOwnInitrd: nobody in that guest hears of signals.
func TestSignalWithOwnInitrd(t *testing.T) {
	initrd := filepath.Join(t.TempDir(), "initrd")
	write(t, initrd, "")
	b := newBench(t, &fake{life: func(ctx context.Context, f *fake) (machine.Outcome, error) {
		err := unix.Kill(os.Getpid(), unix.SIGTERM)
		<-ctx.Done()
		return machine.Outcome{Kind: machine.Terminated}, err
	}})
	if status := b.tenon("run", "-i", initrd); status != 143 {
		t.Errorf("status %d, stderr %q", status, &b.err)
	}
}

// TestEnding follows a guest that ends on nothing: the signal, then a kill of the
// command, then of the guest.
func TestEnding(t *testing.T) {
	ctx, kill := context.WithCancel(context.Background())
	f := &fake{signals: make(chan int, 2)}
	e := &ending{machine: f, kill: kill, command: time.Microsecond, guest: time.Microsecond}
	e.ask(unix.SIGTERM)
	if first, second := <-f.signals, <-f.signals; first != int(unix.SIGTERM) || second != int(unix.SIGKILL) {
		t.Errorf("signals %d and %d", first, second)
	}
	<-ctx.Done()
	if e.asked() != unix.SIGTERM {
		t.Errorf("asked by %v", e.asked())
	}
}

// TestEndingStops: a guest that has ended is not killed later.
func TestEndingStops(t *testing.T) {
	f := &fake{signals: make(chan int, 2)}
	e := &ending{machine: f, command: time.Hour}
	e.ask(unix.SIGTERM)
	e.stop()
	if e.timer.Stop() {
		t.Error("the deadline is still running")
	}
}
