package vhostuser

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
	"tenon/scripts/benchmark/ring"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// memory is memory with two rings.
func memory(t *testing.T) (*ring.Memory, []queue.Layout) {
	t.Helper()
	m, err := ring.NewMemory(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	hiprio, end := queuetest.Place(m.GPA, 64)
	requests, _ := queuetest.Place(end, 64)
	return m, []queue.Layout{hiprio, requests}
}

// TestBadDaemon: programs that are no virtiofsd are an error that tells what they
// said, and none of them is left behind.
func TestBadDaemon(t *testing.T) {
	shell := func(script string) func(string) []string {
		return func(string) []string { return []string{"-c", script} }
	}
	for _, c := range []struct {
		name     string
		program  string
		args     func(string) []string
		patience time.Duration
		want     []string
	}{
		{"missing", "/nonexistent/virtiofsd", shell(""), patience, []string{"no such file"}},
		{"ends at once", "/bin/sh", shell("echo unknown option >&2; exit 3"), patience,
			[]string{"GET_FEATURES", "exit status 3", "unknown option"}},
		{"ends well", "/bin/sh", shell("exit 0"), patience, []string{"GET_FEATURES", "exit status 0"}},
		{"does not answer", "/bin/sh", shell("echo busy; exec sleep 1000"), 300 * time.Millisecond,
			[]string{"GET_FEATURES: no answer for 300ms", "busy", "was killed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, rings := memory(t)
			d := Daemon{"bad", c.program, c.args, c.patience}
			target, err := d.Start(t.TempDir())(m, rings)
			if err == nil {
				t.Fatal("it was started:", target.Close())
			}
			for _, want := range append(c.want, "bad: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error without %q: %v", want, err)
				}
			}
			if c.patience == patience && strings.Contains(err.Error(), "no answer") {
				t.Errorf("its end was not noticed: %v", err)
			}
			if _, e := unix.Wait4(-1, nil, unix.WNOHANG, nil); e != unix.ECHILD {
				t.Errorf("there is a child still: wait4: %v", e)
			}
		})
	}
}

// TestTail shows that no more than the end of what a daemon says is kept.
func TestTail(t *testing.T) {
	var last tail
	for range 1000 {
		if n, err := last.Write([]byte("one more line\n")); n != 14 || err != nil {
			t.Fatal(n, err)
		}
	}
	if _, err := last.Write([]byte("b\nc\nd\nthe end\n")); err != nil {
		t.Fatal(err)
	}
	if want := "one more line; b; c; d; the end"; last.String() != want {
		t.Errorf("%q, not %q", last.String(), want)
	}
	if len(last.data) > tailSize {
		t.Errorf("%d bytes kept", len(last.data))
	}
}

// daemons are those that are here: tests fetch none.
func daemons(t *testing.T) map[string]Daemon {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]Daemon{
		"c":    C("/usr/lib/qemu/virtiofsd"),
		"rust": Rust(filepath.Join(cache, "tenon/peers/rust/virtiofsd")),
	}
}

// each runs a test with each daemon.
func each(t *testing.T, test func(*testing.T, Daemon)) {
	for peer, d := range daemons(t) {
		t.Run(peer, func(t *testing.T) {
			if _, err := os.Stat(d.program); err != nil {
				t.Skipf("%s is missing: scripts/peers %s", d.Name, peer)
			}
			if os.Geteuid() != 0 {
				t.Skip("needs root: for a daemon's chroot")
			}
			test(t, d)
		})
	}
}

// TestConversation reads a file through each daemon, and hangs up.
func TestConversation(t *testing.T) {
	each(t, func(t *testing.T, d Daemon) {
		dir := t.TempDir()
		content := bytes.Repeat([]byte("Tenon and mortise. "), 300)
		if err := os.WriteFile(filepath.Join(dir, "file"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := ring.Open(d.Start(dir), ring.Options{Size: 64, Memory: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		call := func(spec ring.Spec) *ring.Request {
			spec.Want = ring.Any
			r, err := s.Add(ring.Requests, spec)
			if err == nil {
				_, err = s.Do(ring.Requests, r)
			}
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		r := call(ring.Spec{Op: fuse.Lookup, Node: fuse.RootID, Args: fstest.Str("file"), Reply: fuse.EntryOutSize})
		node := virtiofs.NodeID(order.Uint64(r.Reply))
		r = call(ring.Spec{Op: fuse.Open, Node: node, Args: fstest.U32(unix.O_RDONLY, 0), Reply: 16})
		r = call(ring.Spec{Op: fuse.Read, Node: node, Args: fstest.ReadArgs(order.Uint64(r.Reply), 0, 8192), Data: 8192})
		if got := bytes.Join(r.Data, nil); r.Length() != len(content) || !bytes.Equal(got[:len(content)], content) {
			t.Errorf("read %d bytes of %d, %.40q", r.Length(), len(content), got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestDeath: a daemon that dies while it serves is noticed, by Err and by Close.
func TestDeath(t *testing.T) {
	each(t, func(t *testing.T, d Daemon) {
		m, rings := memory(t)
		target, err := d.Start(t.TempDir())(m, rings)
		if err != nil {
			t.Fatal(err)
		}
		if err := target.Err(); err != nil {
			t.Errorf("while it runs: %v", err)
		}
		p := target.(*Peer)
		if err := p.process.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-p.process.over
		for name, err := range map[string]error{"Err": target.Err(), "Close": target.Close()} {
			if err == nil || !strings.Contains(err.Error(), "virtiofsd has ended: signal: killed") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := unix.Kill(p.process.cmd.Process.Pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("the process is still there: %v", err)
		}
	})
}
