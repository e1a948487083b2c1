package memory_test

import (
	"bytes"
	"errors"
	"testing"

	"tenon/devices/memory"
	"tenon/devices/memory/memorytest"
)

// Where the window of these tests is: right behind RAM, with another one behind it.
const (
	windowAt = memory.GPA(0x4000)
	secondAt = windowAt + memorytest.Size
)

func windowed(t *testing.T) (*memory.Map, *memorytest.Window) {
	t.Helper()
	m, w := two(t), memorytest.NewWindow(t, windowAt)
	for _, r := range []memory.Region{w.Region, {GPA: secondAt, Data: make([]byte, 0x1000)}} {
		if err := m.AddWindow(r); err != nil {
			t.Fatal(err)
		}
	}
	return m, w
}

func TestAddWindowRefuses(t *testing.T) {
	m, _ := windowed(t)
	page := make([]byte, 0x1000)
	for name, r := range map[string]memory.Region{
		"empty":               {GPA: 0x10000},
		"wraps":               {GPA: ^memory.GPA(0) - 0xffe, Data: page},
		"in RAM":              {GPA: 0x1800, Data: page},
		"before RAM":          {GPA: 0x0fff, Data: page},
		"around RAM":          {GPA: 0x0f00, Data: make([]byte, 0x2000)},
		"end of a window":     {GPA: secondAt - 1, Data: page},
		"begin of a window":   {GPA: windowAt - 0x1000 + 1, Data: page},
		"the second window":   {GPA: secondAt, Data: page},
		"end of the last one": {GPA: secondAt + 0xfff, Data: page},
	} {
		if err := m.AddWindow(r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := m.AddWindow(memory.Region{GPA: 0x2000, Data: page}); err != nil {
		t.Errorf("between two regions of RAM: %v", err)
	}
}

// What Go would load from is RAM: nothing hands out a slice or a word of a window.
func TestWindowIsNotRAM(t *testing.T) {
	m, _ := windowed(t)
	for _, at := range []memory.GPA{windowAt, windowAt + 0x800, windowAt + memorytest.Gone, secondAt} {
		if b, err := m.Slice(at, 4); b != nil || !errors.Is(err, memory.ErrAddress) {
			t.Errorf("Slice(%#x): %d bytes, %v", at, len(b), err)
		}
		if _, err := m.Word(at); !errors.Is(err, memory.ErrAddress) {
			t.Errorf("Word(%#x): %v", at, err)
		}
	}
	if n := len(m.Regions()); n != 2 {
		t.Errorf("%d regions of RAM", n)
	}
}

// TestWindowAccess: each kind of page, and ranges over several, by every way there is.
func TestWindowAccess(t *testing.T) {
	for _, c := range []struct {
		name        string
		at          memory.GPA
		n           uint32
		load, store error
	}{
		{"a whole page", windowAt, 4096, nil, nil},
		{"a byte", windowAt + 4095, 1, nil, nil},
		{"across two pages", windowAt + 4000, 1000, nil, memory.ErrFault},
		{"a page for reading", windowAt + memorytest.Kept, 4096, nil, memory.ErrFault},
		{"a page that is not shown", windowAt + memorytest.Barred + 100, 8, memory.ErrFault, memory.ErrFault},
		{"a page beyond the end", windowAt + memorytest.Gone, 8, memory.ErrFault, memory.ErrFault},
		{"into such a page", windowAt + memorytest.Barred - 8, 16, memory.ErrFault, memory.ErrFault},
		{"all of it", windowAt, memorytest.Size, memory.ErrFault, memory.ErrFault},
		{"the last byte", secondAt - 1, 1, memory.ErrFault, memory.ErrFault},
		{"from RAM", windowAt - 8, 16, memory.ErrAddress, memory.ErrAddress},
		{"from one window into another", secondAt - 8, 16, memory.ErrAddress, memory.ErrAddress},
		{"out of a window", secondAt + 0x1000 - 8, 16, memory.ErrAddress, memory.ErrAddress},
		{"behind it", secondAt + 0x1000, 1, memory.ErrAddress, memory.ErrAddress},
		{"wraps", ^memory.GPA(7), 16, memory.ErrAddress, memory.ErrAddress},
		{"RAM", 0x3000, 16, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, w := windowed(t)
			inside := c.at >= windowAt && c.at < secondAt
			off := int(c.at - windowAt)
			got := bytes.Repeat([]byte{0xee}, int(c.n))
			if err := m.Load(c.at, got); err != c.load {
				t.Errorf("Load: %v, want %v", err, c.load)
			} else if err == nil && inside && !bytes.Equal(got, w.Read(off, int(c.n))) {
				t.Errorf("Load: % x", got)
			}
			before := w.Read(memorytest.Kept, 8192)
			want := bytes.Repeat([]byte{0xcc}, int(c.n))
			if err := m.Store(c.at, want); err != c.store {
				t.Errorf("Store: %v, want %v", err, c.store)
			} else if err == nil && inside && !bytes.Equal(w.Read(off, int(c.n)), want) {
				t.Error("Store: the file has other bytes")
			} else if err == nil && (m.Load(c.at, got) != nil || !bytes.Equal(got, want)) {
				t.Error("Store: other bytes are loaded")
			}
			if !bytes.Equal(w.Read(memorytest.Kept, 8192), before) {
				t.Error("what may not be written has changed")
			}
			_, _, err := m.Locate(c.at, c.n)
			if good := c.load != memory.ErrAddress; good != (err == nil) {
				t.Errorf("Locate: %v", err)
			}
		})
	}
}

// No bytes are there even where a page is not.
func TestWindowNothing(t *testing.T) {
	m, _ := windowed(t)
	if err := errors.Join(m.Load(windowAt+memorytest.Gone, nil), m.Store(windowAt+memorytest.Barred, nil)); err != nil {
		t.Error(err)
	}
}

// A system call that the host does not let this process do is one more page that
// cannot be had.
func TestWindowRefusedCall(t *testing.T) {
	m, _ := windowed(t)
	m.Forbid()
	b := make([]byte, 8)
	if load, store := m.Load(windowAt, b), m.Store(windowAt, b); load != memory.ErrFault || store != memory.ErrFault {
		t.Errorf("%v, %v", load, store)
	}
}

func TestAllocWindow(t *testing.T) {
	m, _ := windowed(t)
	var b [64]byte
	if n := testing.AllocsPerRun(100, func() {
		if m.Load(windowAt, b[:]) != nil || m.Store(windowAt, b[:]) != nil || m.Load(windowAt+memorytest.Gone, b[:]) == nil {
			t.Error("not served")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
