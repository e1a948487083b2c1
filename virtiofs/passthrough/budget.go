package passthrough

import (
	"fmt"
	"os"
	"strconv"
	"strings"
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

// Budget is the number of file descriptors that guests may hold open, for the
// inodes they know and the files they have opened. One Budget is shared by all
// shares of a process. A guest that has used it up gets ENFILE.
type Budget struct {
	limit int64
	used  atomic.Int64
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

func (b *Budget) take() bool {
	if b.used.Add(1) > b.limit {
		b.used.Add(-1)
		return false
	}
	return true
}

// lacks says that fewer than n descriptors are left.
func (b *Budget) lacks(n int64) bool { return b.used.Load()+n > b.limit }

func (b *Budget) give() { b.used.Add(-1) }

// close closes a descriptor that the budget was charged for.
func (b *Budget) close(fd int) {
	closeFD(fd)
	b.give()
}
