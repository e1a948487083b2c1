package passthrough

import (
	"io"
	"math"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// A LOOKUP's statx(2) need not be told to Go's scheduler where it waits for nothing,
// which saves 20 of 530 ns. Where it does wait, as for the server behind a mount point
// that is dead, no garbage collection could begin, and soon the whole process would wait
// for that server. So it is not told only in mounts that are calm: of file systems that
// are in memory or on the host's own disks, with nothing else mounted there. A read from
// a disk is to be told as well: of directories, those are warm in which the last name
// asked for was one that is known.

// watch follows what is mounted in the namespace of the thread that began it.
type watch struct {
	file *os.File      // its list of mounts
	stop chan struct{} // closed when it is to end
	done chan struct{} // closed when it has ended
}

// watchRest is how many times as long as the list took to read it is then left alone:
// where somebody mounts all the time, that is a hundredth of a processor.
const watchRest = 100

// watch begins to say which mounts are calm. None is where that cannot be found out.
func (t *mounts) watch() {
	file, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return
	}
	t.watching = &watch{file: file, stop: make(chan struct{}), done: make(chan struct{})}
	go t.watching.run(t)
}

// unwatch ends it. No mount is calm any more.
func (t *mounts) unwatch() {
	w := t.watching
	if w == nil {
		return
	}
	close(w.stop)
	_ = w.file.Close()
	<-w.done
	t.watching = nil
}

// run judges the list whenever it may have changed. The runtime's poller is told of that
// by POLLERR, and the thread is not kept: what the poller hears while the function given
// to Read runs makes it run again.
func (w *watch) run(t *mounts) {
	defer close(w.done)
	defer t.settle(nil)
	conn, err := w.file.SyscallConn()
	if err != nil {
		return
	}
	rest := time.NewTimer(0)
	defer rest.Stop()
	_ = conn.Read(func(uintptr) (end bool) { return w.judge(t, rest) })
}

// judge reads the list as soon as the rest is over, and begins the next. No mount is
// calm meanwhile. It says whether it is to end.
func (w *watch) judge(t *mounts, rest *time.Timer) (end bool) {
	t.settle(nil)
	select {
	case <-rest.C:
	case <-w.stop:
		return true
	}
	began := time.Now()
	list, err := io.ReadAll(io.NewSectionReader(w.file, 0, math.MaxInt64))
	if err == nil {
		t.settle(calmMounts(string(list)))
	}
	rest.Reset(watchRest * time.Since(began))
	return false
}

// settle says which mounts are calm, by their IDs.
func (t *mounts) settle(calm map[int]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calm = calm
	for _, m := range t.all {
		m.calm.Store(calm[m.id])
	}
}

// mountID is the number that a descriptor's mount has in /proc/PID/mountinfo, -1 for
// none. It is given to another mount when this one is gone.
func mountID(fd int) int {
	var empty byte
	var st unix.Statx_t
	e := statx(fd, &empty, unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	if e != 0 || st.Mask&unix.STATX_MNT_ID == 0 {
		return -1
	}
	return int(st.Mnt_id)
}

// warm is the directories, by their IDs, in which the name that was asked for last led to
// a node that is known, so that the next will be in memory as well. Two of them may want
// one place.
type warm [64]atomic.Uint64

func (w *warm) at(id virtiofs.NodeID) *atomic.Uint64 { return &w[uint64(id)%uint64(len(w))] }

func (w *warm) has(id virtiofs.NodeID) bool { return w.at(id).Load() == uint64(id) }

// note is called after each name.
func (w *warm) note(id virtiofs.NodeID, known bool) {
	switch {
	case known == w.has(id):
	case known:
		w.at(id).Store(uint64(id))
	default:
		w.at(id).Store(0)
	}
}

// prompt says that statx(2) of a name in the directory need not be told to Go's
// scheduler. The mount is nil where it is none of the share's.
func (f *FS) prompt(m *mount, dir virtiofs.NodeID) bool {
	return m != nil && m.calm.Load() && f.warm.has(dir)
}
