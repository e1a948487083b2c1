package memory_test

import (
	"errors"
	"sync"
	"testing"

	"tenon/devices/memory"
	"tenon/devices/memory/memorytest"
)

func two(t *testing.T) *memory.Map {
	t.Helper()
	m, err := memory.New(
		memory.Region{GPA: 0x3000, Data: make([]byte, 0x1000)},
		memory.Region{GPA: 0x1000, Data: make([]byte, 0x1000)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNewRefuses(t *testing.T) {
	page := make([]byte, 0x1000)
	for name, regions := range map[string][]memory.Region{
		"empty":   {{GPA: 0x1000}},
		"wraps":   {{GPA: ^memory.GPA(0) - 0xffe, Data: page}},
		"overlap": {{GPA: 0x1000, Data: page}, {GPA: 0x1fff, Data: page}},
	} {
		if _, err := memory.New(regions...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSlice(t *testing.T) {
	m := two(t)
	for _, c := range []struct {
		at memory.GPA
		n  uint32
		ok bool
	}{
		{0x1000, 0x1000, true},
		{0x1fff, 1, true},
		{0x3000, 1, true},
		{0xfff, 2, false},           // begins before
		{0x1fff, 2, false},          // ends in the hole
		{0x2000, 1, false},          // the hole
		{0x1000, 0x3000, false},     // spans both regions
		{0x4000, 1, false},          // behind
		{^memory.GPA(0), 2, false},  // wraps
		{0x3000, 1<<32 - 1, false},  // longest
		{1<<63 + 0x1000, 16, false}, // far
	} {
		b, err := m.Slice(c.at, c.n)
		if (err == nil) != c.ok || c.ok && (len(b) != int(c.n) || cap(b) != len(b)) {
			t.Errorf("Slice(%#x, %#x): len %d, cap %d, %v", c.at, c.n, len(b), cap(b), err)
		}
	}
}

func TestWordRefuses(t *testing.T) {
	m := two(t)
	for _, at := range []memory.GPA{0x1001, 0x1003, 0xffe, 0x2000, ^memory.GPA(1)} {
		if _, err := m.Word(at); !errors.Is(err, memory.ErrAddress) {
			t.Errorf("Word(%#x): %v", at, err)
		}
	}
}

// Each half takes every value without touching the other, also when both are
// stored at the same time.
func TestWordHalves(t *testing.T) {
	m := two(t)
	b, _ := m.Slice(0x1010, 12)
	for i := range b {
		b[i] = 0xaa
	}
	low, err := m.Word(0x1014)
	if err != nil {
		t.Fatal(err)
	}
	high, err := m.Word(0x1016)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, w := range []memory.Word{low, high} {
		wg.Go(func() {
			for i := range 1 << 17 {
				v := uint16(i * 40503) // every value, neighbours far apart
				w.Store16(v)
				if got := w.Load16(); got != v {
					t.Errorf("stored %#x, loaded %#x", v, got)
					return
				}
			}
		})
	}
	wg.Wait()
	low.Store16(0x1234)
	high.Store16(0xfedc)
	want := "\xaa\xaa\xaa\xaa\x34\x12\xdc\xfe\xaa\xaa\xaa\xaa"
	if string(b) != want {
		t.Errorf("memory is % x", b)
	}
}

// TestLocate: ranges of RAM and of windows are found, what is outside of either or
// between two is not, and a region says what is in it.
func TestLocate(t *testing.T) {
	m, w := windowed(t)
	for _, c := range []struct {
		at     memory.GPA
		n      uint32
		ok     bool
		window bool
	}{
		{0x1000, 0x1000, true, false},
		{0x1fff, 1, true, false},
		{0x3000, 0x1000, true, false},
		{windowAt, 1, true, true},
		{windowAt + memorytest.Gone, 4096, true, true},
		{secondAt, 0x1000, true, true},
		{0x0fff, 2, false, false},
		{0x1fff, 2, false, false},
		{0x2000, 1, false, false},
		{windowAt - 1, 2, false, false},
		{secondAt - 1, 2, false, false},
		{secondAt + 0x1000, 1, false, false},
		{^memory.GPA(0), 2, false, false},
		{0x3000, 1<<32 - 1, false, false},
	} {
		r, window, err := m.Locate(c.at, c.n)
		if (err == nil) != c.ok {
			t.Errorf("Locate(%#x, %#x): %v", c.at, c.n, err)
			continue
		}
		held := 0
		for _, at := range []memory.GPA{0x1000, 0x3000, windowAt, secondAt} {
			r, _, err := m.Locate(at, 1)
			if err != nil {
				t.Fatal(err)
			}
			if r.Holds(c.at, c.n) {
				held++
			}
		}
		if want := map[bool]int{true: 1}[c.ok]; held != want {
			t.Errorf("%#x, %#x is in %d regions", c.at, c.n, held)
		}
		if !c.ok {
			continue
		}
		if b := r.Bytes(c.at, c.n); window != c.window || len(b) != int(c.n) || !r.Holds(c.at, c.n) {
			t.Errorf("%#x: window %v, %d bytes", c.at, window, len(b))
		} else if s, err := m.Slice(c.at, c.n); !c.window && (err != nil || &s[0] != &b[0]) {
			t.Errorf("%#x: other bytes than Slice's, %v", c.at, err)
		}
	}
	if r, _, err := m.Locate(windowAt, 1); err != nil || &r.Bytes(windowAt, 1)[0] != &w.Data[0] {
		t.Errorf("not the window's bytes: %v", err)
	}
}
