package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How long a guest may take.
const (
	bootLimit = 100 * time.Second
	workLimit = 10 * time.Minute
)

// measure does the rounds: every kind of guest of every side by turns, each round
// beginning with another side. A boot of each before warms up.
func (l *lab) measure() error {
	if err := l.unpackKernel(); err != nil {
		return err
	}
	for round := -1; round < max(l.Rounds, l.FioRounds); round++ {
		for i := range l.sides {
			s := l.sides[(i+max(round, 0))%len(l.sides)]
			l.turn(s, round)
		}
	}
	return nil
}

// unpackKernel boots Tenon once: it unpacks the kernel, and keeps that for the others.
func (l *lab) unpackKernel() error {
	if _, err := l.boot(l.sides[0], machine{Initrd: l.image(tinyImage)}); err != nil {
		return err
	}
	list, err := filepath.Glob(filepath.Join(l.tmp, "cache/tenon/vmlinux/*"))
	if err != nil || len(list) != 1 {
		return fmt.Errorf("%d kernels in Tenon's cache, want 1", len(list))
	}
	return os.Link(list[0], l.sides[0].kernel.vmlinux)
}

// image is the path of an initramfs.
func (l *lab) image(name string) string { return filepath.Join(l.tmp, name) }

// turn measures one side once; round -1 only warms up what all rounds need.
// What fails is left out of the report, which says so.
func (l *lab) turn(s side, round int) {
	var parts []func(side, int) error
	switch {
	case round < 0 && !l.Smoke:
		parts = append(parts, l.warm)
	case round >= 0 && round < l.Rounds:
		parts = append(parts, l.boots, l.weigh, l.work)
	}
	if round >= 0 && round < l.FioRounds {
		parts = append(parts, l.fio)
	}
	for _, part := range parts {
		if err := l.twice(s, func() error { return part(s, round) }); err != nil {
			l.note(failed+"%s, round %d: %v", s.name, round, err)
		}
	}
}

// warm starts a guest for nothing.
func (l *lab) warm(s side, _ int) error {
	_, err := l.boot(s, machine{Initrd: l.image(tinyImage), BzImage: true})
	return err
}

// twice does it again where that can be the emulation's doing: that of nested
// virtualisation kills a guest now and then, with any machine.
func (l *lab) twice(s side, do func() error) error {
	err := do()
	if err != nil && os.Getenv("LAB_EMULATED") != "" {
		l.note("a guest of %s died in the emulated machine and was started again", s.name)
		logf("%v", err)
		err = do()
	}
	return err
}

// wanted says whether a row is to be measured.
func (l *lab) wanted(row string) bool { return l.only.MatchString(row) }

// emit tells of a value.
func (l *lab) emit(row, side, unit string, round int, value float64) {
	if l.wanted(row) {
		l.out.Encode(sample{Row: row, Side: side, Unit: unit, Round: round, Value: value})
	}
}

// guestDir makes a directory for the sockets and logs of a guest.
func (l *lab) guestDir() (string, error) { return os.MkdirTemp(l.tmp, "guest") }

// boots times the start of guests that do nothing.
func (l *lab) boots(s side, round int) error {
	for _, kind := range []struct {
		row string
		m   machine
	}{
		{bootRow, machine{Initrd: l.image(tinyImage), BzImage: true}},
		{bootRootRow, machine{Root: true}},
		{bootQ35Row, machine{Initrd: l.image(tinyImage), Board: "q35"}},
	} {
		if !l.wanted(kind.row) || l.Smoke && !kind.m.Root {
			continue // the guests that work start from an initrd as well
		}
		ms, err := l.boot(s, kind.m)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.row, err)
		}
		l.emit(kind.row, s.name, "ms", round, ms)
	}
	return nil
}

// boot returns the milliseconds from a user's command to the guest's init.
func (l *lab) boot(s side, m machine) (float64, error) {
	var err error
	if m.Dir, err = l.guestDir(); err != nil {
		return 0, err
	}
	m.Memory = l.todo.Memory
	m.Shares = []share{{Tag: "root", Dir: l.shared, Cache: "auto"}}
	if m.Root {
		m.Append = "init=/" + tinyFile
	}
	r, err := s.start(m)
	if err != nil {
		return 0, err
	}
	defer r.stop()
	at, err := r.console.wait(saidInit, bootLimit)
	logf("%s: init after %.1f s", s.name, at.Sub(r.started).Seconds())
	return at.Sub(r.started).Seconds() * 1000, err
}

// weigh looks at the processes of a guest that is at rest after some work.
func (l *lab) weigh(s side, round int) error {
	if !l.wanted(rssRow) && !l.wanted(pssRow) || l.Smoke {
		return nil
	}
	m := machine{Memory: l.todo.Memory, Initrd: l.image(fullImage), BzImage: true, Shares: []share{{Tag: "auto", Dir: l.shared, Cache: "auto"}}}
	_, err := l.perform(s, m, map[string][]step{m.Shares[0].Tag: l.todo.settled()}, l.scales(s, round))
	return err
}

// scales returns what waits until a guest is at rest and weighs its processes.
func (l *lab) scales(s side, round int) func(*running) error {
	return func(r *running) error {
		if _, err := r.console.wait(saidIdle, workLimit); err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
		sum, err := r.resident()
		l.emit(rssRow, s.name, "KiB", round, float64(sum.rss))
		l.emit(pssRow, s.name, "KiB", round, float64(sum.pss))
		return err
	}
}

// shares are what the working guests of a side mount.
func (l *lab) shares(s side) []share {
	var list []share
	for _, cache := range caches {
		list = append(list, share{Tag: cache, Dir: l.shared, Cache: cache})
	}
	if l.Smoke {
		list = list[1:2]
	}
	if s.tenon != "" {
		list = append(list, share{Tag: "dax", Dir: l.shared, Cache: "auto", DAX: true})
	}
	return list
}

// work has a guest do all that is wanted but fio.
func (l *lab) work(s side, round int) error {
	m := machine{Memory: l.todo.Memory, Initrd: l.image(fullImage), BzImage: true, Shares: l.shares(s)}
	steps := make(map[string][]step)
	for _, sh := range m.Shares {
		for _, t := range l.todo.work() {
			if l.wanted(withCache(t.Row, sh.Cache)) && (t.Caches == nil || slices.Contains(t.Caches, sh.Cache)) {
				steps[sh.Tag] = append(steps[sh.Tag], t)
			}
		}
		names := l.todo.metadata()
		if l.wanted(withCache(totalRow, sh.Cache)) || slices.ContainsFunc(names, func(t step) bool { return l.wanted(withCache(t.Row, sh.Cache)) }) {
			steps[sh.Tag] = append(steps[sh.Tag], names...)
		}
	}
	look := func(*running) error { return nil }
	if l.Smoke { // one guest is to do
		last := m.Shares[len(m.Shares)-1].Tag
		steps[last] = append(steps[last], rest)
		look = l.scales(s, round)
	}
	return l.performed(s, m, steps, round, look)
}

// fio has a guest do the matrix.
func (l *lab) fio(s side, round int) error {
	if _, err := os.Stat(l.image(fioImage)); err != nil {
		return nil // the report says so already
	}
	m := machine{Memory: 2 * l.todo.Memory, Initrd: l.image(fioImage), BzImage: true, Shares: l.shares(s)}
	steps := make(map[string][]step)
	for _, sh := range m.Shares {
		t := step{Row: "fio", Do: fio, File: fioFile, Block: int(l.todo.File)}
		for _, j := range l.todo.jobs(sh.Cache) {
			if l.wanted(withCache(j.Row, sh.Cache)) {
				t.Jobs = append(t.Jobs, j)
			}
		}
		if len(t.Jobs) > 0 {
			steps[sh.Tag] = append(steps[sh.Tag], t)
		}
	}
	return l.performed(s, m, steps, round, func(*running) error { return nil })
}

// performed has a guest do the steps and tells what came of them.
func (l *lab) performed(s side, m machine, steps map[string][]step, round int, look func(*running) error) error {
	if len(steps) == 0 {
		return nil
	}
	list, err := l.perform(s, m, steps, look)
	if err != nil {
		return err
	}
	for _, sh := range m.Shares {
		name := s.name
		if sh.DAX {
			name = tenonDAX
		}
		total := 0.0
		for _, o := range list {
			if o.Tag != sh.Tag {
				continue
			}
			row := withCache(o.Row, sh.Cache)
			if o.Row == rest.Row {
				continue
			}
			if o.Err != "" {
				l.note(failed+"%s, %s: %s", row, name, o.Err)
				total = math.NaN()
				continue
			}
			l.emit(row, name, o.Unit, round, o.Value)
			total += partOfTotal(o, steps[sh.Tag])
		}
		if total > 0 {
			l.emit(withCache(totalRow, sh.Cache), name, "ms", round, total)
		}
	}
	return nil
}

// partOfTotal is what an outcome adds to the total of its share, in milliseconds.
func partOfTotal(o outcome, steps []step) float64 {
	i := slices.IndexFunc(steps, func(t step) bool { return t.Row == o.Row })
	if i < 0 || !steps[i].Total {
		return 0
	}
	if o.Unit == "ms" {
		return o.Value
	}
	return o.Value * float64(steps[i].Count) / 1e6
}

// perform has a guest do the steps, looks at it meanwhile, and checks what it left.
func (l *lab) perform(s side, m machine, steps map[string][]step, look func(*running) error) ([]outcome, error) {
	b, err := json.Marshal(plan{m.Shares, steps})
	if err != nil {
		return nil, err
	}
	result := filepath.Join(l.shared, resultFile)
	os.Remove(result)
	if err := os.WriteFile(filepath.Join(l.shared, planFile), b, 0o644); err != nil {
		return nil, err
	}
	if m.Dir, err = l.guestDir(); err != nil {
		return nil, err
	}
	m.Append = "-- guest-init " + m.Shares[0].Tag
	spent, err := l.drive(s, m, look)
	for _, sh := range m.Shares {
		os.RemoveAll(filepath.Join(l.shared, scratchPrefix+sh.Tag))
	}
	if err != nil {
		return nil, err
	}
	if b, err = os.ReadFile(result); err != nil {
		return nil, err
	}
	var list []outcome
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, err
	}
	return list, errors.Join(checkClock(list, spent), check(filepath.Join(l.shared, writeFile)))
}

// drive runs a guest from its start to its last word and returns how long it worked.
func (l *lab) drive(s side, m machine, look func(*running) error) (time.Duration, error) {
	r, err := s.start(m)
	if err != nil {
		return 0, err
	}
	defer r.stop()
	from, err := r.console.wait(saidWork, bootLimit)
	if err != nil {
		return 0, err
	}
	before := exits()
	if err := look(r); err != nil {
		return 0, err
	}
	to, err := r.console.wait(saidDone, workLimit)
	logf("%s: worked %.1f s with %d exits, %.1f s in all", s.name, to.Sub(from).Seconds(), exits()-before, to.Sub(r.started).Seconds())
	return to.Sub(from), err
}

// exits is how often guests of this machine have left to its KVM; 0 where the kernel
// does not tell. With -only one row it says how much that one leaves.
func exits() int {
	b, err := os.ReadFile("/sys/kernel/debug/kvm/exits")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// checkClock wants a guest's clock to go as the host's, since it is what times its work.
func checkClock(list []outcome, spent time.Duration) error {
	i := slices.IndexFunc(list, func(o outcome) bool { return o.Row == clockRow })
	if i < 0 {
		return errors.New("the guest says nothing of its clock")
	}
	guest := time.Duration(list[i].Value)
	if d := (guest - spent).Abs(); d > spent/20+time.Second/2 {
		return fmt.Errorf("by the guest's clock it worked %v, by the host's %v", guest, spent)
	}
	return nil
}
