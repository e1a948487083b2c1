package virtiofs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// throttled is a file system whose writes take their time.
type throttled struct {
	virtiofs.FS
	takes time.Duration
	calls int
}

func (f *throttled) Write(file virtiofs.File, from []unix.Iovec, off int64, w virtiofs.WriteFlags) (int, unix.Errno) {
	f.calls++
	time.Sleep(f.takes)
	return f.FS.Write(file, from, off, w)
}

// slowShare is a share of such a file system, and a file that is open there.
func slowShare(t *testing.T) (fs *throttled, path string, l *locker) {
	t.Helper()
	dir := t.TempDir()
	host, err := passthrough.New(dir, passthrough.Options{})
	must(t, err)
	fs = &throttled{FS: host}
	s := virtiofs.NewServer(fs, virtiofs.Options{})
	t.Cleanup(func() { must(t, s.Close()) })
	c := fstest.Dial(t, s)
	_, e := c.Init(fstest.AllFlags)
	ok(t, "INIT", e)
	f, fh, e := c.Create(root, "f", unix.O_RDWR, 0o644)
	ok(t, "CREATE", e)
	return fs, filepath.Join(dir, "f"), &locker{t, c, f.Node, fh}
}

// append writes at the file's end and says where that was served.
func (l *locker) append(data []byte) (pooled bool) {
	l.t.Helper()
	msg := l.c.Message(fuse.Write, l.node, fstest.WriteArgs(l.fh, 0, uint32(len(data)), unix.O_APPEND, 0), data)
	reply, pooled := l.c.Raw(msg, 24)
	if len(reply) != 24 || le.Uint32(reply[4:]) != 0 || le.Uint32(reply[16:]) != uint32(len(data)) {
		l.t.Errorf("WRITE of %d bytes: %x", len(data), reply)
	}
	return pooled
}

// TestSlowWrites: after a long write that was slow, writes go for a while where they may
// block, and are done there, once.
func TestSlowWrites(t *testing.T) {
	const (
		long = 64 << 10
		ms   = time.Millisecond
	)
	for _, steps := range [][]struct {
		name   string
		after  time.Duration
		size   int
		takes  time.Duration
		pooled bool
	}{
		{
			{"not quite slow", 0, long, 5 * ms, false},
			{"after a quick one", 0, long, 0, false},
		},
		{
			{"short", 0, long - 1, 200 * ms, false},
			{"after a short one", 0, long, 0, false},
		},
		{
			{"slow", 0, long, 5*ms + 1, false},
			{"short after it", 0, 1, 0, true},
			{"long after it", 0, 1 << 20, 0, true},
			{"still", 100*ms - 1, 1, 0, true},
			{"no more", 1, 1, 0, false},
			{"nor long", 0, long, 0, false},
		},
		{
			{"slow", 0, long, 10 * ms, false},
			{"slow in the pool", 50 * ms, long, 10 * ms, true},
			{"because of the first", 30 * ms, 1, 0, true},
			{"because of the second", 50 * ms, 1, 0, true},
			{"no more", 20 * ms, long, 10 * ms, false},
			{"again", 0, 1, 0, true},
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			fs, path, l := slowShare(t)
			var want []byte
			for i, x := range steps {
				time.Sleep(x.after)
				fs.takes, fs.calls = x.takes, 0
				data := bytes.Repeat([]byte{byte('a' + i)}, x.size)
				if pooled := l.append(data); pooled != x.pooled || fs.calls != 1 {
					t.Errorf("%s: pooled %v, done %d times", x.name, pooled, fs.calls)
				}
				want = append(want, data...)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, others than the %d that were written: %v", len(got), len(want), err)
			}
		})
	}
}

// TestWritersWait: writers that are slow because there are many of them do not count.
func TestWritersWait(t *testing.T) {
	for _, x := range []struct {
		takes  time.Duration
		pooled bool
	}{
		{10 * time.Millisecond, false},
		{10*time.Millisecond + 1, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			fs, _, l := slowShare(t)
			data := make([]byte, 64<<10)
			other := *l
			other.c = fstest.Dial(t, l.c.S)
			var wg sync.WaitGroup
			fs.takes = 5 * time.Millisecond
			wg.Go(func() { l.append(data) })
			synctest.Wait() // it has begun
			fs.takes = x.takes
			wg.Go(func() { other.append(data) })
			wg.Wait()
			fs.takes = 0
			if pooled := l.append(data); pooled != x.pooled {
				t.Errorf("%v: pooled %v", x.takes, pooled)
			}
		})
	}
}
