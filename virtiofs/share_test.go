package virtiofs_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/passthrough"
)

const root = virtiofs.NodeID(1)

// serve shares a new temporary directory and returns a connection without a
// session. The process's umask is 0 as in the machine.
func serve(tb testing.TB, o passthrough.Options) (dir string, c *fstest.Conn) {
	return serveWith(tb, o, virtiofs.Options{})
}

func serveWith(tb testing.TB, o passthrough.Options, so virtiofs.Options) (string, *fstest.Conn) {
	tb.Helper()
	old := unix.Umask(0)
	tb.Cleanup(func() { unix.Umask(old) })
	dir := filepath.Join(tb.TempDir(), "share")
	must(tb, os.Mkdir(dir, 0o755))
	fs, err := passthrough.New(dir, o)
	must(tb, err)
	s := virtiofs.NewServer(fs, so)
	tb.Cleanup(func() { must(tb, s.Close()) })
	return dir, fstest.Dial(tb, s)
}

// connect is serve with a session that has every flag.
func connect(tb testing.TB, o passthrough.Options) (string, *fstest.Conn) {
	tb.Helper()
	dir, c := serve(tb, o)
	_, e := c.Init(fstest.AllFlags)
	ok(tb, "INIT", e)
	return dir, c
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func ok(tb testing.TB, what string, e unix.Errno) {
	tb.Helper()
	if e != 0 {
		tb.Fatalf("%s: %v", what, e)
	}
}

func want(tb testing.TB, what string, got, want unix.Errno) {
	tb.Helper()
	if got != want {
		tb.Errorf("%s: %v, want %v", what, errName(got), errName(want))
	}
}

func errName(e unix.Errno) string {
	if e == 0 {
		return "success"
	}
	return unix.ErrnoName(e)
}

func write(tb testing.TB, path, data string) {
	tb.Helper()
	must(tb, os.WriteFile(path, []byte(data), 0o644))
}

func read(tb testing.TB, path string) string {
	tb.Helper()
	b, err := os.ReadFile(path)
	must(tb, err)
	return string(b)
}

func lstat(tb testing.TB, path string) *unix.Stat_t {
	tb.Helper()
	var st unix.Stat_t
	must(tb, unix.Lstat(path, &st))
	return &st
}
