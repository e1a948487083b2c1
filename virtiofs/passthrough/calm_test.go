package passthrough

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// inNamespace runs the test again in a process with mounts of its own and says whether
// this is that one. What hangs there is killed.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "TENON_TEST_MOUNTS"
	if os.Getenv(mark) != "" {
		return true
	}
	exe, err := os.Executable()
	check(t, err)
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL} // and Go makes them private
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		t.Skipf("SKIPPED: a mount namespace needs CAP_SYS_ADMIN: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	if !hung.Stop() {
		t.Error("it hung and was killed")
	}
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out.String())
	case strings.Contains(out.String(), "--- SKIP"):
		t.Skipf("SKIPPED:\n%s", out.String())
	case !strings.Contains(out.String(), "--- PASS: "+t.Name()):
		t.Errorf("not run:\n%s", out.String())
	}
	return false
}

// sharedTmpfs is a share of a file system of its own with a file f and a directory m.
func sharedTmpfs(t *testing.T) (dir string, f *FS) {
	t.Helper()
	dir = t.TempDir()
	check(t, unix.Mount("none", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	check(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o644))
	check(t, os.Mkdir(filepath.Join(dir, "m"), 0o755))
	return dir, shareDir(t, dir, 100, Options{})
}

// awaitCalm waits until it is found out whether the mount is calm.
func awaitCalm(t *testing.T, m *mount, want bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); m.calm.Load() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("calm: %v", !want)
		}
	}
}

// mountDead mounts what a FUSE server is to serve that has answered the kernel's first
// request, and reads no other. To wait for an answer to what was read nothing ends.
func mountDead(t *testing.T, at string) (server int) {
	t.Helper()
	server, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("SKIPPED: no FUSE here: %v", err)
	}
	check(t, unix.Mount("dead", at, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server)))
	var request [64 << 10]byte
	if n, err := unix.Read(server, request[:]); err != nil || n < 40 || request[4] != byte(fuse.Init) {
		t.Fatal(n, err)
	}
	var reply [16 + 64]byte // fuse_out_header, fuse_init_out
	binary.NativeEndian.PutUint32(reply[0:], uint32(len(reply)))
	copy(reply[8:16], request[8:16])                   // unique
	binary.NativeEndian.PutUint32(reply[16:], 7)       // major
	binary.NativeEndian.PutUint32(reply[20:], 31)      // minor
	binary.NativeEndian.PutUint32(reply[16+20:], 4096) // max_write
	if _, err := unix.Write(server, reply[:]); err != nil {
		t.Fatal(err)
	}
	return server
}

// awaitRequest waits until somebody waits for the server.
func awaitRequest(t *testing.T, server int) {
	t.Helper()
	p := []unix.PollFd{{Fd: int32(server), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 20_000)
		if err == unix.EINTR {
			continue
		}
		if n != 1 || err != nil {
			t.Fatal("nobody has asked it:", n, err)
		}
		return
	}
}

// TestDeadServer: who waits for a server that is mounted below the share does not keep
// the garbage collector waiting.
func TestDeadServer(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir, f := sharedTmpfs(t)
	root := f.inodes.root().key.mount
	awaitCalm(t, root, true)
	server := mountDead(t, filepath.Join(dir, "m"))
	awaitCalm(t, root, false)
	lookup(t, f, fuse.RootID, "f")
	lookup(t, f, fuse.RootID, "f")
	if !f.warm.has(fuse.RootID) {
		t.Error("a name that is known is not taken for one in memory")
	}
	answer := make(chan unix.Errno, 1)
	m := name(t, "m")
	go func() {
		var e virtiofs.Entry
		answer <- f.Lookup(fuse.RootID, m, &e)
	}()
	awaitRequest(t, server)
	runtime.GC()
	check(t, unix.Close(server))
	if e := <-answer; e != unix.ENOTCONN && e != unix.ECONNABORTED {
		t.Error(e)
	}
	check(t, unix.Unmount(filepath.Join(dir, "m"), 0))
	awaitCalm(t, root, true)
}

// TestCalm: what is mounted below, and below that, is taken notice of.
func TestCalm(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir, f := sharedTmpfs(t)
	root := f.inodes.root().key.mount
	awaitCalm(t, root, true)
	below := filepath.Join(dir, "m")
	check(t, unix.Mount("none", below, "tmpfs", 0, ""))
	check(t, os.Mkdir(filepath.Join(below, "n"), 0o755))
	awaitCalm(t, root, true)
	id, _ := lookup(t, f, fuse.RootID, "m")
	n, e := f.pin(id)
	if e != 0 {
		t.Fatal(e)
	}
	m := n.key.mount
	f.unpin(n)
	if m == root {
		t.Fatal("one mount for two")
	}
	awaitCalm(t, m, true)
	mountDead(t, filepath.Join(below, "n"))
	awaitCalm(t, m, false)
	awaitCalm(t, root, true)
	check(t, unix.Unmount(filepath.Join(below, "n"), unix.MNT_DETACH))
	awaitCalm(t, m, true)
	check(t, unix.Unmount(below, unix.MNT_DETACH))
	awaitCalm(t, m, false) // in no list any more
	awaitCalm(t, root, true)
}

// TestCalmKinds: a file system that may ask a server is never calm.
func TestCalmKinds(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	check(t, unix.Mount("none", dir, "ramfs", 0, "")) // stands for it: births are not kept
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	f := shareDir(t, dir, 100, Options{})
	f.mounts.mu.Lock()
	defer f.mounts.mu.Unlock()
	if m := f.inodes.root().key.mount; m.id != -1 || m.calm.Load() {
		t.Errorf("mount %d, calm: %v", m.id, m.calm.Load())
	}
}

// TestWatchEnds: Close ends what New began, wherever it is.
func TestWatchEnds(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		f, err := New(dir, Options{Budget: &Budget{limit: 10}})
		check(t, err)
		root, w := f.inodes.root().key.mount, f.mounts.watching
		time.Sleep(time.Duration(i) * 100 * time.Microsecond)
		check(t, f.Close())
		select {
		case <-w.done:
		default:
			t.Fatal("it goes on")
		}
		if root.calm.Load() {
			t.Fatal("still calm")
		}
	}
}

// TestWatchRests: after a change no mount is calm, before the list is read again too.
func TestWatchRests(t *testing.T) {
	m := &mount{id: 7}
	mounts := mounts{all: map[volume]*mount{{}: m}}
	mounts.settle(map[int]bool{7: true})
	if !m.calm.Load() {
		t.Fatal("not calm from the beginning")
	}
	w := &watch{stop: make(chan struct{})}
	rest := time.NewTimer(time.Hour)
	ended := make(chan bool)
	go func() { ended <- w.judge(&mounts, rest) }()
	awaitCalm(t, m, false)
	close(w.stop)
	if !<-ended {
		t.Error("it does not end")
	}
}

// TestWatchWithoutPoll: of what cannot be watched nothing is believed.
func TestWatchWithoutPoll(t *testing.T) {
	const id = 7
	list := filepath.Join(t.TempDir(), "list")
	check(t, os.WriteFile(list, fmt.Appendf(nil, "%d 1 8:1 / / rw - ext4 /dev/sda1 rw\n", id), 0o644))
	file, err := os.Open(list)
	check(t, err)
	defer file.Close()
	m := &mount{id: id}
	mounts := mounts{all: map[volume]*mount{{}: m}}
	w := &watch{file: file, stop: make(chan struct{}), done: make(chan struct{})}
	w.run(&mounts) // it ends by itself
	if m.calm.Load() || mounts.calm != nil {
		t.Error("calm")
	}
}

// TestWarm: a directory is warm while the names that are asked for are known.
func TestWarm(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"", "d"} {
		check(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
		for _, n := range []string{"f", "g", "h"} {
			check(t, os.WriteFile(filepath.Join(dir, d, n), nil, 0o644))
		}
	}
	f := shareDir(t, dir, 100, Options{})
	sub, _ := lookup(t, f, fuse.RootID, "d")
	for _, in := range []virtiofs.NodeID{fuse.RootID, sub} {
		for _, c := range []struct {
			name string
			warm bool
		}{
			{"f", false}, {"f", true}, {"g", false}, {"none", false}, {"f", true},
			{"none", false}, {"g", true}, {"g", true}, {"h", false}, {"h", true},
		} {
			var e virtiofs.Entry
			if err := f.Lookup(in, name(t, c.name), &e); err != 0 && err != unix.ENOENT {
				t.Fatal(err)
			}
			if got := f.warm.has(in); got != c.warm {
				t.Errorf("directory %d after %s: %v", in, c.name, got)
			}
		}
	}
	other := sub + virtiofs.NodeID(len(f.warm))
	f.warm.note(other, false)
	if !f.warm.has(sub) || f.warm.has(other) {
		t.Error("one directory for another")
	}
	f.warm.note(other, true)
	if f.warm.has(sub) || !f.warm.has(other) {
		t.Error("the one asked for last is not the one that is warm")
	}
}
