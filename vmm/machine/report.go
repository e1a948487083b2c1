package machine

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/dax"
	"tenon/vmm/config"
)

// Report is what a run cost. Times are milliseconds since the process was
// executed, sizes are KiB.
type Report struct {
	Machine config.Machine `json:"machine"`
	Release string         `json:"kernel_release"`
	Stages  []Stage        `json:"stages"`
	Figures
	// RSS is the process's resident memory at the end of the run, GuestRSS the
	// part that is guest RAM, DAXRSS the part that is the host's page cache in
	// DAX windows, Overhead the rest: what Tenon itself costs. Of that Shared is
	// page cache, the program itself, which all of them on a host have in common.
	RSS      int `json:"rss_kib"`
	GuestRSS int `json:"guest_rss_kib"`
	DAXRSS   int `json:"dax_rss_kib"`
	Overhead int `json:"overhead_kib"`
	Shared   int `json:"overhead_shared_kib"`
}

// Figures is what the shares have done so far, by tag.
type Figures struct {
	// Requests is how many requests of each opcode a share has answered; nothing
	// without config.Machine.Report.
	Requests map[string]map[string]uint64 `json:"requests"`
	// DAX is what its window shows and has done.
	DAX map[string]dax.Stats `json:"dax"`
}

// Stage is one step of a run and when it was done.
type Stage struct {
	Name string  `json:"name"`
	Done float64 `json:"done_ms"`
}

// stages collects them. It belongs to the goroutine of New and Run.
type stages struct {
	exec time.Time
	list []Stage
}

// begin finds when this process was executed. The kernel keeps it in clock
// ticks of 10 ms, rounded down: times are at most that much too long.
func (s *stages) begin() {
	s.exec = time.Now()
	var up unix.Timespec
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return
	}
	const startTime, ticksPerSecond = 22 - 3, 100 // proc_pid_stat(5), counted after the command's name
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) <= startTime {
		return
	}
	ticks, err := strconv.ParseInt(f[startTime], 10, 64)
	if err != nil {
		return
	}
	started := time.Duration(ticks) * (time.Second / ticksPerSecond)
	s.exec = s.exec.Add(started - time.Duration(up.Nano()))
}

func (s *stages) done(name string) {
	ms := float64(time.Since(s.exec).Microseconds()) / 1000
	s.list = append(s.list, Stage{name, ms})
}

// Report returns the figures of a run that is over.
func (m *Machine) Report() Report {
	r := Report{Machine: m.config, Stages: m.stages.list, Figures: m.Figures(), RSS: m.rss.all, GuestRSS: m.rss.guest, DAXRSS: m.rss.dax}
	r.Overhead = r.RSS - r.GuestRSS - r.DAXRSS
	r.Shared = r.Overhead - m.rss.anonymous
	if m.image != nil {
		r.Release = m.image.Release
	}
	return r
}

// Figures returns the figures of the shares at any time between New and Close,
// from any thread.
func (m *Machine) Figures() Figures {
	f := Figures{Requests: make(map[string]map[string]uint64), DAX: make(map[string]dax.Stats)}
	for _, s := range m.shares {
		if s.window != nil {
			f.DAX[s.tag] = s.window.Stats()
		}
		if s.requests == nil {
			continue
		}
		counts := make(map[string]uint64)
		for op, n := range s.requests.Snapshot() {
			counts[op] = n.Requests
		}
		f.Requests[s.tag] = counts
	}
	return f
}

// rss is resident memory in KiB; anonymous is that of neither guest nor dax.
type rss struct{ all, guest, dax, anonymous int }

// partOf is the part of r that a mapping belongs to; nil for the rest.
func (m *Machine) partOf(r *rss, at uintptr) *int {
	for _, x := range m.ram.regions {
		if holds(x.Data, at) {
			return &r.guest
		}
	}
	for _, s := range m.shares {
		if s.window != nil && holds(s.window.Reservation(), at) {
			return &r.dax
		}
	}
	return nil
}

// measureRSS adds up the mappings of the process; those inside guest RAM are
// the guest's.
func (m *Machine) measureRSS() (rss, error) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return rss{}, err
	}
	defer f.Close()
	return readSmaps(f, m.partOf)
}

// readSmaps adds up mappings as proc_pid_smaps(5) lists them: a line with the
// addresses, then lines of a name and a value.
func readSmaps(list io.Reader, partOf func(r *rss, at uintptr) *int) (r rss, err error) {
	var part *int
	for sc := bufio.NewScanner(list); sc.Scan(); {
		name, value, _ := strings.Cut(sc.Text(), ":")
		if from, _, ok := strings.Cut(name, "-"); ok {
			if at, err := strconv.ParseUint(from, 16, 64); err == nil {
				part = partOf(&r, uintptr(at))
			}
			continue
		}
		if name != "Rss" && (name != "Anonymous" || part != nil) {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(value, "kB")))
		switch {
		case err != nil:
			return r, fmt.Errorf("smaps: %w", err)
		case name == "Anonymous":
			r.anonymous += n
			continue
		}
		r.all += n
		if part != nil {
			*part += n
		}
	}
	return r, nil
}
