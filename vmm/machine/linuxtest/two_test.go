package linuxtest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// place is a party and where it has the directory that all share.
type place struct {
	party
	name, dir string
}

// TestTwoGuests is two guests and the host on the same directories: file locks that
// the host keeps exclude everyone, databases survive, and after a storm of changes
// all see the same.
func TestTwoGuests(t *testing.T) {
	withGuests(t, func(c *crew) {
		own, locked, stormy := scratch(t), scratch(t), scratch(t)
		flags := []string{"-c", "1", "-m", "512M", "-v", own + ":/own", "-v", locked + ":/locked,cache=never,locks=host", "-v", stormy + ":/stormy"}
		a := c.start(flags...)
		b := c.start(flags...)
		at := func(guests, here string) []place {
			return []place{{a, "guest A", guests}, {b, "guest B", guests}, {host{}, "the host", here}}
		}
		c.step("locks=guest excludes nobody else", func(t *testing.T) {
			for kind := range lockKinds {
				f := lockFiles(t, at("/own", own), kind)
				for i, p := range at("/own", own) {
					must(t, p, kind, lockKinds[kind](f[i], "take")...)
				}
			}
		})
		for kind := range lockKinds {
			c.step("locks=host "+kind, func(t *testing.T) { exclude(t, kind, at("/locked", locked)) })
		}
		c.step("killed waiter", func(t *testing.T) { killedWaiter(t, a, b) })
		for mode, locking := range map[string]string{"WAL": "EXCLUSIVE", "DELETE": "NORMAL"} {
			c.step("sqlite "+mode+", two guests", func(t *testing.T) { database(t, mode, locking, at("/locked", locked)[:2]) })
			c.step("sqlite "+mode+", guest and host", func(t *testing.T) { database(t, mode, locking, at("/locked", locked)[1:]) })
		}
		c.step("storm", func(t *testing.T) { storm(t, at("/stormy", stormy)) })
	})
}

// lockKinds is the arguments of the operations that lock a file.
var lockKinds = map[string]func(file, how string) []string{
	"flock": func(file, how string) []string {
		flag := map[string]int{"take": unix.LOCK_EX | unix.LOCK_NB, "wait": unix.LOCK_EX, "share": unix.LOCK_SH | unix.LOCK_NB, "drop": unix.LOCK_UN}
		return []string{file, fmt.Sprint(flag[how])}
	},
	"fcntl": func(file, how string) []string {
		kind := map[string]int{"take": unix.F_WRLCK, "wait": unix.F_WRLCK, "share": unix.F_RDLCK, "drop": unix.F_UNLCK}
		return []string{file, fmt.Sprint(kind[how]), how}
	},
}

// lockFiles opens one file at every place.
func lockFiles(t *testing.T, places []place, kind string) []string {
	t.Helper()
	var opened []string
	for _, p := range places {
		f := must(t, p, "open", filepath.Join(p.dir, kind), fmt.Sprint(unix.O_RDWR|unix.O_CREAT))
		t.Cleanup(func() {
			if _, here := p.party.(host); here {
				_, _ = p.do("close", f)
			}
		})
		opened = append(opened, f)
	}
	return opened
}

// exclude takes a lock at each place in turn: the others cannot, one that waits gets it
// when it is free, and shared locks are shared.
func exclude(t *testing.T, kind string, places []place) {
	f := lockFiles(t, places, kind)
	ask := func(i int, how string) error {
		_, err := places[i].do(kind, lockKinds[kind](f[i], how)...)
		return err
	}
	want := func(i int, how string, wanted error) {
		t.Helper()
		if err := ask(i, how); err != wanted {
			t.Errorf("%s, %s: %v, want %v", places[i].name, how, err, wanted)
		}
	}
	for i := range places {
		want(i, "take", nil)
		for j := range places {
			if j != i {
				want(j, "take", unix.EAGAIN)
				want(j, "share", unix.EAGAIN)
			}
		}
		want(i, "drop", nil)
	}
	for i := range places {
		want(i, "share", nil)
	}
	want(0, "take", unix.EAGAIN)
	for i := range places {
		want(i, "drop", nil)
	}
	for i, holder := range places[:2] { // a guest, then the host hands the lock to guest A or B
		from, to := 2*i, 1-i
		waiter := places[to].party.(*guest)
		want(from, "take", nil)
		got := waiter.begin(kind, lockKinds[kind](f[to], "wait")...)
		for range 20 { // the waiting lock keeps neither a queue nor a processor
			must(t, waiter, "stat", places[to].dir)
		}
		select {
		case a := <-got:
			t.Errorf("%s got the lock that %s holds: %+v", places[to].name, holder.name, a)
			continue
		default:
		}
		want(from, "drop", nil)
		if _, err := waiter.await(got); err != nil {
			t.Errorf("%s waited: %v", places[to].name, err)
		}
		want(from, "take", unix.EAGAIN)
		want(to, "drop", nil)
	}
}

// killedWaiter kills a process that waits for another guest's lock: when that is
// released nobody holds it, and the guest is as before.
func killedWaiter(t *testing.T, a, b *guest) {
	f := must(t, a, "open", "/locked/killed", fmt.Sprint(unix.O_RDWR|unix.O_CREAT))
	must(t, a, "flock", lockKinds["flock"](f, "take")...)
	waited := b.begin("sh", "flock /locked/killed true & p=$!; sleep 1; kill -9 $p; echo killed > /locked/kill; wait $p")
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := b.do("stat", "/locked/kill"); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal("the waiter was not killed within a minute")
		}
	}
	must(t, a, "flock", lockKinds["flock"](f, "drop")...)
	if out, err := b.await(waited); err == nil {
		t.Errorf("the waiter ended well, it was to be killed: %s", out)
	}
	must(t, a, "flock", lockKinds["flock"](f, "take")...)
	must(t, a, "flock", lockKinds["flock"](f, "drop")...)
	must(t, b, "sh", "flock -n /locked/killed true")
}

// database inserts rows into one sqlite database from all places at once, each in a
// process and transaction of its own. Nothing may get lost. A write-ahead log's index
// is memory that its users map, which guests cannot share without DAX: there
// connections are exclusive, which keeps it on the heap (sqlite.org/wal.html, 9). Two
// that become exclusive at once keep each other from it, so the timeouts are short and
// differ.
func database(t *testing.T, mode, locking string, places []place) {
	needPrograms(t, "sqlite3")
	rows := knob(t, "TENON_TEST_ROWS", 10)
	sqlite := func(p place, timeout int, statements string) string {
		return fmt.Sprintf(`cd %s && sqlite3 db '.timeout %d' "PRAGMA locking_mode=%s; %s"`, p.dir, timeout, locking, statements)
	}
	const linger = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < 30000) SELECT max(i) FROM c;" // some 50 ms
	last := places[len(places)-1]
	must(t, last, "sh", fmt.Sprintf("cd %s && rm -f ready-* db*", last.dir))
	must(t, last, "sh", sqlite(last, 0, "PRAGMA journal_mode="+mode+"; CREATE TABLE t(who, n);"))
	answers := make([]<-chan answer, len(places))
	for i, p := range places {
		insert := sqlite(p, 50+70*i, fmt.Sprintf("BEGIN IMMEDIATE; INSERT INTO t VALUES('%s', $n); %s COMMIT;", p.name, linger))
		answers[i] = begin(p, "sh", fmt.Sprintf(`cd %s; touch ready-%d; until [ -e ready-%d ]; do sleep 0.02; done
tries=0; for n in $(seq %d); do until said=$(%s 2>&1); do tries=$((tries+1)); [ $tries -lt 1000 ] || { echo "$said"; exit 1; }; done; done; echo $tries`,
			p.dir, i, (i+1)%len(places), rows, insert))
	}
	for i, p := range places {
		out, err := waitFor(p.party, answers[i])
		if err != nil {
			t.Errorf("%s: %v\n%s", p.name, err, out)
		}
		t.Logf("%s: %d transactions, %s more were tried while the database was locked", p.name, rows, strings.TrimSpace(out))
	}
	for _, p := range places {
		out := must(t, p, "sh", sqlite(p, 10000, "PRAGMA integrity_check; SELECT count(*), count(DISTINCT who || n) FROM t;"))
		if want := fmt.Sprintf("ok\n%[1]d|%[1]d\n", rows*len(places)); !strings.HasSuffix(out, want) {
			t.Errorf("%s finds %q, want %q", p.name, out, want)
		}
	}
}

// begin has any party do something while others do.
func begin(p place, op string, args ...string) <-chan answer {
	if g, ok := p.party.(*guest); ok {
		return g.begin(op, args...)
	}
	c := make(chan answer, 1)
	go func() {
		out, err := p.do(op, args...)
		a := answer{Out: out}
		if err != nil {
			a.Err = err.Error()
		}
		c <- a
	}()
	return c
}

// waitFor waits for what begin was asked of a guest, or a goroutine of the host.
func waitFor(p party, c <-chan answer) (string, error) {
	if g, ok := p.(*guest); ok {
		return g.await(c)
	}
	a := <-c
	if a.Err != "" {
		return a.Out, fmt.Errorf("%s", a.Err)
	}
	return a.Out, nil
}

// storm lets both guests create, rename and remove in one directory, and compares what
// all see once the guests' timeouts have passed.
func storm(t *testing.T, places []place) {
	seconds := knob(t, "TENON_TEST_STORM_SECONDS", 10)
	var answers []<-chan answer
	for i, p := range places[:2] {
		answers = append(answers, p.party.(*guest).begin("storm", p.dir, fmt.Sprint(i), fmt.Sprint(seconds)))
	}
	for i, p := range places[:2] {
		out, err := waitFor(p.party, answers[i])
		if err != nil {
			t.Errorf("%s: %v: %s", p.name, err, out)
			continue
		}
		t.Logf("%s: %s", p.name, out)
	}
	time.Sleep(1500 * time.Millisecond) // names and attributes are believed for a second
	want := must(t, places[2], "tree", places[2].dir)
	t.Logf("%d files and directories are left", strings.Count(want, "\n"))
	for _, p := range places[:2] {
		same(t, p.name, must(t, p, "tree", p.dir), "the host", want)
	}
}
