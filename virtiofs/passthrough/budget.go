package passthrough

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// vmmReserve is how many descriptors no guest may use up: those of the
	// machine itself and those that requests hold for a moment.
	vmmReserve = 512
	// maxFiles bounds what RLIMIT_NOFILE is raised to.
	maxFiles = 1 << 20
)

// spare is how many descriptors beyond the budget may be taken when there is
// nothing to close because calls use it all right now: as soon as they do not,
// as many are closed. vmmReserve covers them.
const spare = 64

// Budget is the number of file descriptors that guests may hold open, for the
// inodes they know and the files they have opened. One Budget is shared by all
// shares of a process. The descriptors of inodes that can be opened again make
// way when it is used up; a guest that has used it up by what cannot gets ENFILE.
type Budget struct {
	limit int64
	used  atomic.Int64
	files atomic.Int64 // of used: files and directories the guests have opened
	kept  atomic.Int64 // of used: those of nodes that cannot be opened again, and of mounts
	idle  atomic.Int64 // of used: len(clock)
	// cached, of files, is those in caches.
	cached atomic.Int64

	mu    sync.Mutex
	clock []tick // see lru.go
	hand  int

	// caches hold files that the guests have not opened themselves, which are closed
	// when anything else needs the room.
	caches []*implicit
}

// NewBudget raises RLIMIT_NOFILE as far as the process may (root: to
// fs.nr_open, others: to the hard limit; 2^20 at most) and sets the rest of it,
// beyond a reserve for the machine itself, aside for guests.
func NewBudget() (*Budget, error) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return nil, fmt.Errorf("passthrough: reading RLIMIT_NOFILE: %w", err)
	}
	want := unix.Rlimit{Cur: min(max(lim.Cur, lim.Max), maxFiles), Max: lim.Max}
	if top := nrOpen(); unix.Geteuid() == 0 && top > lim.Max {
		raised := unix.Rlimit{Cur: min(top, maxFiles), Max: min(top, maxFiles)}
		if raised.Max > lim.Max && unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			lim, want = raised, raised
		}
	}
	if want.Cur > lim.Cur && unix.Setrlimit(unix.RLIMIT_NOFILE, &want) == nil {
		lim.Cur = want.Cur
	}
	// Under a tiny limit the guest gets half.
	guest := max(int64(lim.Cur)-vmmReserve, int64(lim.Cur)/2)
	return &Budget{limit: guest}, nil
}

// nrOpen is the host's ceiling for RLIMIT_NOFILE, 0 when it cannot be read.
func nrOpen() uint64 {
	b, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Used is the number of descriptors that guests hold.
func (b *Budget) Used() int64 { return b.used.Load() }

// share is what neither open files nor kept nodes can take away from the other
// and from the nodes in use.
func (b *Budget) share() int64 { return max(b.limit/8, 1) }

// charge takes one descriptor, and closes an idle one where there is none left.
// When all are in use it goes beyond the limit for a while.
func (b *Budget) charge() bool {
	for {
		n := b.used.Load()
		if n >= b.limit && (b.evict() || b.shed()) {
			continue
		}
		if n >= b.limit+spare {
			return false
		}
		if b.used.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// reserve is charge for one of a kind of which there may only be so many.
func (b *Budget) reserve(kind *atomic.Int64) bool {
	if kind.Add(1) > b.limit-b.share() || !b.charge() {
		kind.Add(-1)
		return false
	}
	return true
}

// take charges for a file that the guest opens; give and close give that back.
func (b *Budget) take() bool {
	for !b.reserve(&b.files) {
		if !b.shed() {
			return false
		}
	}
	return true
}

func (b *Budget) give() {
	b.files.Add(-1)
	b.used.Add(-1)
}

// close closes a file that the budget was charged for.
func (b *Budget) close(fd int) {
	closeFD(fd)
	b.give()
}

// unpin ends a use of an open file, which is closed after the last one.
func (b *Budget) unpin(h *handle) {
	if h.refs.Add(-1) == 0 {
		b.close(h.fd)
	}
}

// shed closes one of the cached files, of whichever share; false when there is
// none.
func (b *Budget) shed() bool {
	if b.cached.Load() == 0 {
		return false
	}
	b.mu.Lock()
	list := b.caches
	b.mu.Unlock()
	for _, c := range list {
		if c.shed(0) {
			return true
		}
	}
	return false
}

// lacks says that fewer than n descriptors can be had.
func (b *Budget) lacks(n int64) bool {
	cached := b.cached.Load()
	return b.used.Load()-b.idle.Load()-cached+n > b.limit || b.files.Load()-cached+n-1 > b.limit-b.share()
}

// takeNode charges for the descriptor of a node; giveNode and closeNode give it
// back.
func (b *Budget) takeNode() bool { return b.charge() }

func (b *Budget) giveNode() { b.used.Add(-1) }

func (b *Budget) closeNode(fd int) {
	closeFD(fd)
	b.giveNode()
}

// keep counts a descriptor, charged for already, as one that is never closed to
// make way; false when there are too many.
func (b *Budget) keep() bool {
	if b.kept.Add(1) > b.limit-b.share() {
		b.kept.Add(-1)
		return false
	}
	return true
}

func (b *Budget) unkeep() { b.kept.Add(-1) }

// takeKept charges for a descriptor that is kept; giveKept gives it back.
func (b *Budget) takeKept() bool { return b.reserve(&b.kept) }

func (b *Budget) giveKept() {
	b.unkeep()
	b.giveNode()
}
