package virtiofs_test

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

const toEOF = math.MaxInt64

// locker is a guest with one open file, seen through its lock requests.
type locker struct {
	t    testing.TB
	c    *fstest.Conn
	node virtiofs.NodeID
	fh   uint64
}

// lockGuest is another machine's connection to the directory, with locks.
func lockGuest(t testing.TB, dir string, o passthrough.Options) *fstest.Conn {
	t.Helper()
	fs, err := passthrough.New(dir, o)
	must(t, err)
	s := virtiofs.NewServer(fs, virtiofs.Options{Locks: true})
	t.Cleanup(func() { must(t, s.Close()) })
	c := fstest.Dial(t, s)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	return c
}

func lockOpen(t testing.TB, c *fstest.Conn, name string, flags uint32) *locker {
	t.Helper()
	f, e := c.Lookup(root, name)
	ok(t, "LOOKUP", e)
	fh, e := c.Open(f.Node, flags)
	ok(t, "OPEN", e)
	return &locker{t, c, f.Node, fh}
}

// lockDir is a directory with a file of 100 bytes.
func lockDir(t testing.TB) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "file")
	write(t, path, string(pattern(100)))
	return dir, path
}

func lkIn(fh, owner, start, end uint64, typ, flags uint32) []byte {
	b := fstest.U64(fh, owner, start, end)
	return append(b, fstest.U32(typ, 100+uint32(owner), flags, 0)...)
}

// set sends SETLK of a POSIX lock.
func (l *locker) set(owner, start, end uint64, typ uint32) unix.Errno {
	l.t.Helper()
	_, e := l.c.Call(fuse.Setlk, l.node, 0, lkIn(l.fh, owner, start, end, typ, 0))
	return e
}

// flock sends SETLK of a lock of flock(2).
func (l *locker) flock(typ uint32) unix.Errno {
	l.t.Helper()
	_, e := l.c.Call(fuse.Setlk, l.node, 0, lkIn(l.fh, 1<<40, 0, toEOF, typ, fuse.LkFlock))
	return e
}

// wait sends SETLKW as the device does. again: it waits.
func (l *locker) wait(owner, start, end uint64, typ, flags uint32) (e unix.Errno, again bool) {
	l.t.Helper()
	msg := l.c.Message(fuse.Setlkw, l.node, lkIn(l.fh, owner, start, end, typ, flags))
	out := make([]byte, fuse.OutHeaderSize)
	l.c.R.MayBlock = true
	n, again := l.c.S.Serve(l.c.R, fstest.NewCursor(msg, 0), fstest.NewCursor(out, 0))
	if again != (n == 0) {
		l.t.Fatalf("again %v with %d bytes", again, n)
	}
	return unix.Errno(-int32(le.Uint32(out[4:]))), again
}

// get sends GETLK and returns what is in the way: type, first and last byte, pid.
func (l *locker) get(owner, start, end uint64, typ uint32) (held [4]uint64, e unix.Errno) {
	l.t.Helper()
	b, e := l.c.Call(fuse.Getlk, l.node, 24, lkIn(l.fh, owner, start, end, typ, 0))
	if e != 0 {
		return held, e
	}
	return [4]uint64{uint64(le.Uint32(b[16:])), le.Uint64(b), le.Uint64(b[8:]), uint64(le.Uint32(b[20:]))}, 0
}

func (l *locker) flush(owner uint64) unix.Errno {
	l.t.Helper()
	_, e := l.c.Call(fuse.Flush, l.node, 0, fstest.U64(l.fh, 0, owner))
	return e
}

// hostFile is a process of the host.
func hostFile(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func hostLock(fd, cmd int, typ int16, start, n int64) error {
	return unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{Type: typ, Start: start, Len: n})
}

func hostErrno(err error) unix.Errno {
	if err == nil {
		return 0
	}
	return err.(unix.Errno)
}

// holdPosixLock has another process lock bytes of the file until release: in this
// one the lock would go as soon as the server closes the file.
func holdPosixLock(t *testing.T, path string, start, n int64) (release func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %s", holderEnv, start, n, path))
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "locked\n" {
		t.Fatalf("the other process: %q, %v", line, err)
	}
	return func() {
		must(t, in.Close())
		must(t, cmd.Wait())
	}
}

const holderEnv = "TENON_TEST_POSIX_LOCK"

// TestMain is holdPosixLock's other process where the environment says so.
func TestMain(m *testing.M) {
	var start, n int64
	var path string
	if _, err := fmt.Sscanf(os.Getenv(holderEnv), "%d %d %s", &start, &n, &path); err != nil {
		os.Exit(m.Run())
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: n})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("locked")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until release
}
