package dax

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkSetup is what it takes to map a range of 2 MiB and to touch its pages, as
// a guest's first accesses have the kernel do it: mapped bare, with advice, and as
// Map does it. The medians count: us/map until the call is back, us/touch after it.
//
//	go test -run '^$' -bench Setup -benchtime 300x ./virtiofs/dax
func BenchmarkSetup(b *testing.B) {
	for _, dir := range []string{"/dev/shm", os.TempDir()} {
		for _, cold := range []bool{false, true} {
			if cold && dir == "/dev/shm" {
				continue // its files are nowhere else
			}
			for _, touch := range []uint64{1, 32, 512} {
				for _, how := range []string{"bare", "populate", "willneed", "Map"} {
					if cold && how == "populate" {
						continue // waits for storage
					}
					s := setupBench{dir, how, cold, touch}
					b.Run(fmt.Sprintf("%s/cold=%v/pages=%d/%s", filepath.Base(dir), cold, touch, how), s.run)
				}
			}
		}
	}
}

type setupBench struct {
	dir, how string
	cold     bool
	touch    uint64 // pages, spread over the range
}

func (s setupBench) run(b *testing.B) {
	w, h := newRig(b, 2*RangeSize)
	dir, err := os.MkdirTemp(s.dir, "dax")
	if err != nil {
		b.Skip("SKIPPED: ", err)
	}
	defer os.RemoveAll(dir)
	h.dir = dir
	f := h.add(b, 64*RangeSize)
	if err := h.files[f-1].Sync(); err != nil {
		b.Fatal(err)
	}
	var mapped, touched []time.Duration
	for i := 0; b.Loop(); i++ {
		off := uint64(i%64) * RangeSize
		if s.cold {
			b.StopTimer()
			w.Reset()
			unix.Fadvise(h.fd(f), 0, 0, unix.FADV_DONTNEED)
			b.StartTimer()
		}
		start := time.Now()
		s.set(b, w, h.fd(f), Mapping{File: f, Offset: off, Len: RangeSize})
		mid := time.Now()
		if n := w.touchSome(0, RangeSize/s.touch, s.touch); n != int(s.touch) {
			b.Fatalf("%d pages can be read", n)
		}
		mapped = append(mapped, mid.Sub(start))
		touched = append(touched, time.Since(mid))
	}
	slices.Sort(mapped)
	slices.Sort(touched)
	b.ReportMetric(float64(mapped[len(mapped)/2].Nanoseconds())/1e3, "us/map")
	b.ReportMetric(float64(touched[len(touched)/2].Nanoseconds())/1e3, "us/touch")
}

// set maps in one of the ways.
func (s setupBench) set(b *testing.B, w *Window, fd int, m Mapping) {
	if s.how == "Map" {
		if e := w.Map(fd, m); e != 0 {
			b.Fatal(e)
		}
		return
	}
	if e := w.space.place(m.At, m.Len, contents(fd, m.Offset, m.Write)); e != 0 {
		b.Fatal(e)
	}
	switch s.how {
	case "populate":
		w.space.advise(m.At, m.Len, unix.MADV_POPULATE_READ)
	case "willneed":
		w.space.advise(m.At, m.Len, unix.MADV_WILLNEED)
	}
}

// BenchmarkMap is one mapping in the place of another, and one of a file of which
// nothing is shown, with its removal, against the bare system calls.
func BenchmarkMap(b *testing.B) {
	w, h := newRig(b, 4*RangeSize)
	if dir, err := os.MkdirTemp("/dev/shm", "dax"); err == nil {
		defer os.RemoveAll(dir)
		h.dir = dir
	}
	f, g := h.add(b, 2*RangeSize), h.add(b, RangeSize)
	for _, c := range []struct {
		what string
		run  func(i uint64) unix.Errno
	}{
		{"bare", func(i uint64) unix.Errno {
			return w.space.place(0, RangeSize, contents(h.fd(f), i%2*RangeSize, true))
		}},
		{"again", func(i uint64) unix.Errno {
			return w.Map(h.fd(f), Mapping{File: f, Offset: i % 2 * RangeSize, Len: RangeSize, Write: true})
		}},
		{"new-bare", func(uint64) unix.Errno {
			w.space.place(2*RangeSize, RangeSize, contents(h.fd(g), 0, false))
			return w.space.place(2*RangeSize, RangeSize, zeros())
		}},
		{"new", func(uint64) unix.Errno {
			w.Map(h.fd(g), Mapping{File: g, At: 2 * RangeSize, Len: RangeSize})
			return w.Unmap(2*RangeSize, RangeSize)
		}},
	} {
		b.Run(c.what, func(b *testing.B) {
			b.ReportAllocs()
			for i := uint64(0); b.Loop(); i++ {
				if e := c.run(i); e != 0 {
					b.Fatal(e)
				}
			}
			w.Reset()
		})
	}
}
