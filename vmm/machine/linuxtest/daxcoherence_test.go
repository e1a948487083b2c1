package linuxtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// sharing is how the tests of shared memory share: a mount that falls back silently
// would fail.
const sharing = ",dax=always,dax-window=64M"

// patience bounds how long a party waits for the others.
const patience = time.Minute

// TestDAXCoherence is two guests and a process of the host that map one file: it is
// one memory, in which nothing is lost or comes out of order.
func TestDAXCoherence(t *testing.T) {
	withGuests(t, func(c *crew) {
		dir := scratch(t)
		flags := []string{"-c", "1", "-m", "512M", "-v", dir + ":/s" + sharing}
		places := []place{{c.start(flags...), "guest A", "/s"}, {c.start(flags...), "guest B", "/s"}, {c.neighbour(), "the host", dir}}
		c.step("one counter", func(t *testing.T) { incrementTogether(t, dir, places, 1) })
		if t.Failed() {
			return // the others would only wait for one another
		}
		c.step("counters in many pages", func(t *testing.T) { incrementTogether(t, dir, places, 1500) })
		for i, from := range places {
			to := places[(i+1)%len(places)]
			c.step(from.name+" tells "+to.name, func(t *testing.T) { passMessages(t, dir, from, to) })
		}
	})
}

// sparse makes a file of so many pages.
func sparse(t *testing.T, path string, pages int) {
	t.Helper()
	err := os.WriteFile(path, nil, 0o644)
	if err == nil {
		err = os.Truncate(path, int64(pages)*pageSize)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// incrementTogether has everybody increment the counters, one a page: all of them
// find every increment.
func incrementTogether(t *testing.T, dir string, places []place, pages int) {
	times := knob(t, "TENON_TEST_INCREMENTS", 1_000_000)
	name := fmt.Sprintf("counters-%d", pages)
	sparse(t, filepath.Join(dir, name), 1+pages)
	from := time.Now()
	var answers []<-chan answer
	for _, p := range places {
		answers = append(answers, begin(p, "mapping", "count", filepath.Join(p.dir, name), fmt.Sprint(pages), fmt.Sprint(times), fmt.Sprint(len(places))))
	}
	for i, p := range places {
		out, err := waitFor(p.party, answers[i])
		if err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		t.Logf("%s: %d increments, %s of the exchanges came too late", p.name, times, out)
	}
	t.Logf("%v in all", time.Since(from).Round(10*time.Millisecond))
	for _, p := range places {
		counted := must(t, p, "mapping", "counters", filepath.Join(p.dir, name))
		wrong, total := 0, 0
		for i, field := range strings.Fields(counted) {
			n, err := strconv.Atoi(field)
			if want := (times + pages - 1 - i) / pages * len(places); err != nil || n != want {
				wrong++
			}
			total += n
		}
		if want := times * len(places); wrong != 0 || total != want {
			t.Errorf("%s: %d of %d counters are wrong, and all together %d, want %d", p.name, wrong, pages, total, want)
		}
	}
}

// opIncrement increments the words at the beginnings of pages, by compare-and-swap,
// once all parties are there. The first page is where they meet.
func opIncrement(args []string) (string, error) {
	n, err := numbers(args[1:])
	if err != nil {
		return "", err
	}
	pages, times, parties := n[0], n[1], n[2]
	m, err := mapWhole(args[0])
	if err != nil {
		return "", err
	}
	if err := meet(m.page(0), parties); err != nil {
		return "", err
	}
	late := 0
	for i := range times {
		word := m.page(1 + i%pages)
		for v := word.Load(); !word.CompareAndSwap(v, v+1); v = word.Load() {
			late++
		}
	}
	return strconv.Itoa(late), m.close()
}

// opCounters is the words at the beginnings of pages but the first.
func opCounters(args []string) (string, error) {
	m, err := mapWhole(args[0])
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i := 1; i < len(m.words)/pageWord; i++ {
		fmt.Fprintln(&b, m.page(i).Load())
	}
	return b.String(), m.close()
}

// meet waits until so many parties did.
func meet(word *atomic.Uint64, parties int) error {
	word.Add(1)
	return until(func() bool { return word.Load() >= uint64(parties) })
}

var errAlone = errors.New("the others did not come")

// until waits for what others do to memory. It looks often, to see them at it, and
// then lets them have the processor.
func until(done func() bool) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Microsecond) {
		for range 1000 {
			if done() {
				return nil
			}
		}
	}
	return errAlone
}

// The pages of a file that carries messages.
const (
	flagPage  = 0 // the number of the message, written last
	seenPage  = 1 // the last one that was received
	dataPage  = 2 // and following: the message
	dataPages = 8
	ahead     = 64 // messages that the receiver may miss at a time
)

// passMessages sends from one party to the other: who sees the flag sees the data.
func passMessages(t *testing.T, dir string, from, to place) {
	times := max(knob(t, "TENON_TEST_INCREMENTS", 1_000_000)/100, 1)
	name := "messages of " + from.name
	sparse(t, filepath.Join(dir, name), dataPage+dataPages)
	received := begin(to, "mapping", "receive", filepath.Join(to.dir, name), fmt.Sprint(times))
	sent := begin(from, "mapping", "send", filepath.Join(from.dir, name), fmt.Sprint(times))
	if _, err := waitFor(from.party, sent); err != nil {
		t.Errorf("%s: %v", from.name, err)
	}
	out, err := waitFor(to.party, received)
	if err != nil {
		t.Errorf("%s: %v", to.name, err)
	}
	t.Logf("%d messages: %s saw %s of them", times, to.name, out)
}

func opSend(args []string) (string, error) {
	times, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return "", err
	}
	m, err := mapWhole(args[0])
	if err != nil {
		return "", err
	}
	for n := uint64(1); n <= times; n++ {
		for i := range dataPages {
			m.page(dataPage + i).Store(n)
		}
		m.page(flagPage).Store(n)
		if n%ahead == 0 {
			if err := until(func() bool { return m.page(seenPage).Load()+ahead > n }); err != nil {
				return "", err
			}
		}
	}
	return "", m.close()
}

// opReceive looks at the flag and then at the data, which may be of a later message
// but not of an earlier one.
func opReceive(args []string) (string, error) {
	times, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return "", err
	}
	m, err := mapWhole(args[0])
	if err != nil {
		return "", err
	}
	seen := 0
	for last := uint64(0); last < times; seen++ {
		flag := uint64(0)
		if err := until(func() bool { flag = m.page(flagPage).Load(); return flag > last }); err != nil {
			return "", err
		}
		for i := range dataPages {
			if v := m.page(dataPage + i).Load(); v < flag {
				return "", fmt.Errorf("the flag says %d, page %d of the message still %d", flag, i, v)
			}
		}
		last = flag
		m.page(seenPage).Store(last)
	}
	return strconv.Itoa(seen), m.close()
}
