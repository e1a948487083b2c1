package channel

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// socketPair is a stream with a bounded buffer, like the port.
func socketPair(t *testing.T) (host, guest io.ReadWriteCloser) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	h, g := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "guest")
	t.Cleanup(func() { h.Close(); g.Close() })
	return h, g
}

// run carries a session whose guest half is the given function.
func run(t *testing.T, spec Spec, streams IO, guest func(g *Guest, spec Spec)) (*Host, func() (Result, error)) {
	t.Helper()
	hostPort, guestPort := socketPair(t)
	h := NewHost(hostPort, spec, streams)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer guestPort.Close()
		g := NewGuest(guestPort)
		got, err := g.Spec()
		if err != nil {
			t.Errorf("guest: %v", err)
			return
		}
		guest(g, got)
	})
	return h, func() (Result, error) {
		r, err := h.Run()
		wg.Wait()
		return r, err
	}
}

// serve runs Serve beside the guest half and returns its result.
func serve(g *Guest, e Events) <-chan error {
	if e.Signal == nil {
		e.Signal = func(int) {}
	}
	if e.Resize == nil {
		e.Resize = func(uint16, uint16) {}
	}
	if e.CloseOutput == nil {
		e.CloseOutput = func(Stream) {}
	}
	done := make(chan error, 1)
	go func() { done <- g.Serve(e) }()
	return done
}

// slow gives a reader or writer small steps.
type slow struct {
	io.Writer
	n int
}

func (s *slow) Write(p []byte) (int, error) {
	if s.n++; s.n%16 == 0 {
		time.Sleep(time.Millisecond)
	}
	return s.Writer.Write(p)
}

func TestEcho(t *testing.T) {
	input := make([]byte, 10<<20)
	rand.Read(input)
	var stdout, stderr bytes.Buffer
	_, wait := run(t, Spec{}, IO{Stdin: bytes.NewReader(input), Stdout: &slow{Writer: &stdout}, Stderr: &stderr}, func(g *Guest, _ Spec) {
		served := serve(g, Events{})
		r, w := io.Pipe()
		go func() {
			if err := g.CopyStdin(w); err != nil {
				t.Errorf("stdin: %v", err)
			}
			w.Close()
		}()
		if err := g.CopyOutput(Stderr, strings.NewReader("to standard error")); err != nil {
			t.Errorf("stderr: %v", err)
		}
		if err := g.CopyOutput(Stdout, r); err != nil {
			t.Errorf("stdout: %v", err)
		}
		g.Exit(Result{Kind: Exited, Status: 42})
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	got, err := wait()
	if err != nil || got != (Result{Kind: Exited, Status: 42}) {
		t.Fatalf("result %+v, %v", got, err)
	}
	if !bytes.Equal(stdout.Bytes(), input) {
		t.Errorf("%d bytes of output differ from %d bytes of input", stdout.Len(), len(input))
	}
	if stderr.String() != "to standard error" {
		t.Errorf("standard error %q", stderr.String())
	}
}

// Control frames must pass while the command does not read its input, and the
// host must not read more input than the guest has room for.
func TestControlOvertakesInput(t *testing.T) {
	input := &counter{}
	type size struct{ rows, cols uint16 }
	signals, sizes := make(chan int, 1), make(chan size, 1)
	filled := make(chan struct{})
	h, wait := run(t, Spec{}, IO{Stdin: input}, func(g *Guest, _ Spec) {
		served := serve(g, Events{
			Signal: func(sig int) { signals <- sig },
			Resize: func(r, c uint16) { sizes <- size{r, c} },
		})
		r, w := io.Pipe() // nobody reads
		defer r.Close()
		go g.CopyStdin(w)
		for held := 0; held < window-maxData; { // the guest's room is full but for the chunk in the pipe
			g.mu.Lock()
			held = g.stdin.Len()
			g.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		close(filled)
		if s := <-signals; s != 15 {
			t.Errorf("signal %d", s)
		}
		if s := <-sizes; s != (size{50, 132}) {
			t.Errorf("size %v", s)
		}
		g.Exit(Result{Kind: Signaled, Status: 15})
		<-served
	})
	go func() {
		<-filled
		h.Signal(15)
		h.Resize(50, 132)
	}()
	if r, err := wait(); err != nil || r != (Result{Kind: Signaled, Status: 15}) {
		t.Errorf("result %+v, %v", r, err)
	}
	if n := input.count(); n > window {
		t.Errorf("host read %d bytes of input, the guest had room for %d", n, window)
	}
}

// counter is endless input.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += len(p)
	return len(p), nil
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func TestRunLeavesStuckInputBehind(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	_, wait := run(t, Spec{}, IO{Stdin: r}, func(g *Guest, _ Spec) {
		served := serve(g, Events{})
		go g.CopyStdin(io.Discard)
		g.Exit(Result{Kind: Exited, Status: 1})
		<-served
	})
	if r, err := wait(); err != nil || r.Status != 1 {
		t.Errorf("result %+v, %v", r, err)
	}
}

func TestNoInput(t *testing.T) {
	_, wait := run(t, Spec{}, IO{}, func(g *Guest, _ Spec) {
		served := serve(g, Events{})
		var got bytes.Buffer
		if err := g.CopyStdin(&got); err != nil || got.Len() != 0 {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		g.Exit(Result{Kind: Exited})
		<-served
	})
	if _, err := wait(); err != nil {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestBrokenOutput(t *testing.T) {
	for _, c := range []struct {
		name    string
		err     error
		wantErr string
	}{
		{"closed pipe", &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}, ""},
		{"full disk", &os.PathError{Op: "write", Path: "out", Err: syscall.ENOSPC}, "write standard output"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stderr bytes.Buffer
			_, wait := run(t, Spec{}, IO{Stdout: failing{c.err}, Stderr: &stderr}, func(g *Guest, _ Spec) {
				closed := make(chan Stream, 1)
				served := serve(g, Events{CloseOutput: func(s Stream) { closed <- s }})
				g.CopyOutput(Stdout, strings.NewReader("one"))
				if s := <-closed; s != Stdout {
					t.Errorf("stream %d closed", s)
				}
				g.CopyOutput(Stdout, strings.NewReader("two"))
				g.CopyOutput(Stderr, strings.NewReader("still there"))
				g.Exit(Result{Kind: Exited, Status: 9})
				<-served
			})
			r, err := wait()
			if r != (Result{Kind: Exited, Status: 9}) || stderr.String() != "still there" {
				t.Errorf("result %+v, standard error %q", r, stderr.String())
			}
			if (err == nil) != (c.wantErr == "") || err != nil && !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("error %v, want %q", err, c.wantErr)
			}
		})
	}
}

func TestSpec(t *testing.T) {
	for name, want := range map[string]Spec{
		"empty": {},
		"full": {
			Root: &Mount{Tag: "rootfs", Path: "/", ReadOnly: true, DAX: "never"}, Overlay: true,
			Mounts:  []Mount{{Tag: "a", Path: "/a", DAX: "always"}, {Tag: "b", Path: "/b b", ReadOnly: true}},
			Command: []string{"printf", "not UTF-8: \xff\xfe", ""}, Dir: "/tmp/\x80",
			Env: []string{"A=1", "B="}, Terminal: true, Rows: 65535, Cols: 1, Hostname: "guest",
		},
		"several frames": {Command: []string{strings.Repeat("x", 3*maxPayload)}},
		"whole frames":   {Command: []string{strings.Repeat("x", maxPayload-11)}},
	} {
		t.Run(name, func(t *testing.T) {
			_, wait := run(t, want, IO{}, func(g *Guest, got Spec) {
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
				g.Exit(Result{Kind: SetupFailed, Message: "enough"})
				<-serve(g, Events{})
			})
			if r, err := wait(); err != nil || r.Message != "enough" {
				t.Errorf("result %+v, %v", r, err)
			}
		})
	}
}

func TestSpecTooBig(t *testing.T) {
	h := NewHost(nil, Spec{Env: []string{strings.Repeat("x", maxSpec)}}, IO{})
	if _, err := h.Run(); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("error %v", err)
	}
}

// replay is a port on which the guest has said all it will ever say.
type replay struct{ io.Reader }

func (replay) Write(p []byte) (int, error) { return len(p), nil }

func TestHostRefusesGarbage(t *testing.T) {
	hello := appendFrame(nil, frameHello, []byte{version})
	exit := func(kind Kind, status int) []byte {
		return appendFrame(hello, frameExit, appendResult(nil, Result{Kind: kind, Status: status}))
	}
	for name, c := range map[string]struct {
		guest []byte
		want  error
	}{
		"nothing":               {nil, ErrNoResult},
		"end after hello":       {hello, ErrNoResult},
		"end in a header":       {append(hello[:len(hello):len(hello)], 2, 5), ErrNoResult},
		"end in a payload":      {append(hello[:len(hello):len(hello)], 2, 5, 0, 0, 'x'), ErrNoResult},
		"type 0":                {[]byte{0, 0, 0, 0}, ErrProtocol},
		"unknown type":          {[]byte{255, 0, 0, 0}, ErrProtocol},
		"a frame of the host's": {appendFrame(hello, frameBye), ErrProtocol},
		"other version":         {appendFrame(nil, frameHello, []byte{version + 1}), ErrProtocol},
		"output before hello":   {appendFrame(nil, frameStdout, []byte("x")), ErrProtocol},
		"hello twice":           {append(hello[:len(hello):len(hello)], hello...), ErrProtocol},
		"long frame":            {append(hello[:len(hello):len(hello)], byte(frameStdout), 255, 255, 255), ErrProtocol},
		"empty output":          {appendFrame(hello, frameStdout), ErrProtocol},
		"short credit":          {appendFrame(hello, frameCredit, []byte{1, 2, 3}), ErrProtocol},
		"much credit":           {appendFrame(hello, frameCredit, []byte{0, 0, 0, 1}), ErrProtocol},
		"credit piling up":      {appendFrame(appendFrame(hello, frameCredit, []byte{0, 0, 4, 0}), frameCredit, []byte{1, 0, 0, 0}), ErrProtocol},
		"exit of no kind":       {exit(0, 0), ErrProtocol},
		"exit of unknown kind":  {exit(SetupFailed+1, 0), ErrProtocol},
		"exit status 256":       {exit(Exited, 256), ErrProtocol},
		"exit status -1":        {exit(Exited, -1), ErrProtocol},
		"signal 0":              {exit(Signaled, 0), ErrProtocol},
		"signal 65":             {exit(Signaled, 65), ErrProtocol},
		"long message":          {append(hello[:len(hello):len(hello)], byte(frameExit), 0, 255, 0), ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			h := NewHost(replay{bytes.NewReader(c.guest)}, Spec{}, IO{})
			if r, err := h.Run(); !errors.Is(err, c.want) || r != (Result{}) {
				t.Errorf("result %+v, error %v, want %v", r, err, c.want)
			}
			began := false
			select {
			case <-h.Hello():
				began = true
			default:
			}
			if want := bytes.HasPrefix(c.guest, hello); began != want {
				t.Errorf("the guest's hello was seen: %v, want %v", began, want)
			}
		})
	}
}

func TestMessageIsPrintable(t *testing.T) {
	p := appendResult(nil, Result{Kind: SetupFailed, Message: "mount\n\x1b[2Jfailed \xff"})
	r, err := parseResult(p)
	if err != nil || r.Message != "mount \ufffd[2Jfailed \ufffd" {
		t.Errorf("message %q, %v", r.Message, err)
	}
}

func TestGuestRefusesGarbage(t *testing.T) {
	spec := appendFrame(appendFrame(nil, frameSpec, (&Spec{}).encode()), frameSpec)
	var flood []byte
	for range window/maxData + 1 {
		flood = appendFrame(flood, frameStdin, make([]byte, maxData))
	}
	for name, host := range map[string][]byte{
		"no session":        appendFrame(nil, frameStdin, []byte("x")),
		"malformed session": appendFrame(appendFrame(nil, frameSpec, []byte{9}), frameSpec),
		"rest in session":   appendFrame(appendFrame(nil, frameSpec, append((&Spec{}).encode(), 0)), frameSpec),
		"second session":    append(spec[:len(spec):len(spec)], spec...),
		"frame of a guest":  appendFrame(spec[:len(spec):len(spec)], frameStdout, []byte("x")),
		"input over window": append(spec[:len(spec):len(spec)], flood...),
	} {
		t.Run(name, func(t *testing.T) {
			g := NewGuest(replay{bytes.NewReader(host)})
			_, err := g.Spec()
			if err == nil {
				err = <-serve(g, Events{})
			}
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// The guest learns that the host went away, and its input ends.
func TestHostGone(t *testing.T) {
	host, guest := net.Pipe()
	go func() {
		buf := make([]byte, maxPayload)
		readFrame(host, buf, true)
		host.Write(appendFrame(appendFrame(nil, frameSpec, (&Spec{}).encode()), frameSpec))
		host.Close()
	}()
	g := NewGuest(guest)
	if _, err := g.Spec(); err != nil {
		t.Fatal(err)
	}
	if err := <-serve(g, Events{}); err != io.EOF {
		t.Errorf("serve: %v", err)
	}
	if n := g.take(make([]byte, 1)); n != 0 {
		t.Errorf("%d bytes of input", n)
	}
}

func FuzzHost(f *testing.F) {
	hello := appendFrame(nil, frameHello, []byte{version})
	f.Add(hello)
	f.Add(appendFrame(appendFrame(hello, frameStdout, []byte("out")), frameExit, appendResult(nil, Result{Kind: NotFound, Message: "x"})))
	f.Add(appendFrame(hello, frameCredit, []byte{0, 16, 0, 0}))
	f.Fuzz(func(t *testing.T, guest []byte) {
		var out bytes.Buffer
		h := NewHost(replay{bytes.NewReader(guest)}, Spec{}, IO{Stdin: strings.NewReader("input"), Stdout: &out, Stderr: &out})
		r, err := h.Run()
		switch {
		case err == nil && r.Kind == 0:
			t.Error("no error and no result")
		case err != nil && !errors.Is(err, ErrNoResult) && !errors.Is(err, ErrProtocol):
			t.Errorf("unnamed error %v", err)
		case out.Len() > len(guest):
			t.Errorf("%d bytes of output from %d bytes", out.Len(), len(guest))
		}
	})
}

func FuzzSpec(f *testing.F) {
	s := Spec{Root: &Mount{Tag: "r"}, Mounts: []Mount{{Tag: "v", DAX: "inode"}}, Command: []string{"a", "b"}, Rows: 300}
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := decodeSpec(p)
		if err != nil {
			return
		}
		again, err := decodeSpec(s.encode())
		if err != nil || !bytes.Equal(again.encode(), s.encode()) {
			t.Errorf("%+v became %+v, %v", s, again, err)
		}
	})
}
