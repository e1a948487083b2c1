package passthrough

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// Owners of locks are charged to the budget: one too many is ENOLCK, and one that
// unlocks makes room.
func TestLockBudget(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b := &Budget{limit: 100}
	f, err := New(dir, Options{Budget: b})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name, _, _ := virtiofs.ParseName([]byte("file\x00"))
	var entry virtiofs.Entry
	if e := f.Lookup(1, name, &entry); e != 0 {
		t.Fatal(e)
	}
	h, _, e := f.Open(entry.Node, virtiofs.OpenFlags{Flags: unix.O_RDWR})
	if e != 0 {
		t.Fatal(e)
	}
	file := virtiofs.File{Node: entry.Node, Handle: h}
	set := func(owner uint64, typ uint32) unix.Errno {
		return f.Setlk(file, &virtiofs.Lock{Owner: owner, End: 9, Type: typ})
	}
	b.limit = b.Used() + 3
	for owner, want := range []unix.Errno{0, 0, 0, unix.ENOLCK, unix.ENOLCK} {
		if e := set(uint64(owner), unix.F_RDLCK); e != want {
			t.Errorf("owner %d: %v, want %v", owner, e, want)
		}
	}
	if e := set(1, unix.F_UNLCK); e != 0 {
		t.Error(e)
	}
	if e := set(3, unix.F_RDLCK); e != 0 {
		t.Errorf("after an unlock: %v", e)
	}
	if b.Used() != b.limit {
		t.Errorf("%d of %d descriptors are charged", b.Used(), b.limit)
	}
}

// kinds is what the spans say about each of the first bytes: "." free, "r", "w".
func (s spans) kinds(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = '.'
		switch {
		case s.has(uint64(i), false):
			b[i] = 'r'
		case s.has(uint64(i), true):
			b[i] = 'w'
		}
	}
	return string(b)
}

// Spans are held against bytes that are coloured one by one, and are always
// sorted, apart and as few as they can be.
func TestSpansAgainstBytes(t *testing.T) {
	const size = 24
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var s spans
		model := []byte(s.kinds(size))
		for range 40 {
			a, b := r.Uint64N(size), r.Uint64N(size)
			n := span{min(a, b), max(a, b), r.IntN(2) == 0}
			unlock := r.IntN(3) == 0
			splits, before := s.splits(n.start, n.end), len(s)
			s = s.set(n, unlock)
			for i := n.start; i <= n.end; i++ {
				switch {
				case unlock:
					model[i] = '.'
				case n.write:
					model[i] = 'w'
				default:
					model[i] = 'r'
				}
			}
			if got := s.kinds(size); got != string(model) {
				t.Fatalf("after %+v (unlock %v): %s, want %s", n, unlock, got, model)
			}
			if unlock && splits != (len(s) > before) {
				t.Fatalf("after unlocking %+v: %d spans, %d before, splits said %v", n, len(s), before, splits)
			}
			checkSpans(t, s)
		}
	}
}

func checkSpans(t *testing.T, s spans) {
	t.Helper()
	for i, p := range s {
		if p.start > p.end {
			t.Fatalf("%v: %+v is empty", s, p)
		}
		if i > 0 && (s[i-1].end >= p.start || s[i-1].end+1 == p.start && s[i-1].write == p.write) {
			t.Fatalf("%v: %+v and %+v", s, s[i-1], p)
		}
	}
}

// The ends of the range of a file: byte 0 and the last one there can be.
func TestSpansEnds(t *testing.T) {
	const last = math.MaxInt64
	var s spans
	s = s.set(span{0, last, true}, false)
	s = s.set(span{last, last, false}, false)
	s = s.set(span{0, 0, false}, true)
	if got, want := fmt.Sprint(s), fmt.Sprint(spans{{1, last - 1, true}, {last, last, false}}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	s = s.set(span{0, last, false}, true)
	if len(s) != 0 {
		t.Errorf("%v after unlocking all", s)
	}
}
