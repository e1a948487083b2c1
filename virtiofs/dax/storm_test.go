package dax

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestStorm: all at once from many threads, while files change size. In the end the
// model is what the kernel shows.
func TestStorm(t *testing.T) {
	const ranges, files, threads, rounds = 4, 5, 6, 400
	w, h := newRig(t, ranges*RangeSize)
	for range files {
		h.add(t, RangeSize)
	}
	var wg sync.WaitGroup
	for thread := range uint64(threads) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(thread, 1))
			for range rounds {
				n := 1 + r.Uint64N(600)
				at := r.Uint64N(ranges*512 - n + 1)
				page := at + r.Uint64N(n)
				switch r.IntN(12) {
				case 0, 1, 2, 3:
					file := 1 + r.Uint64N(files)
					w.Map(h.fd(file), Mapping{file, r.Uint64N(512) * PageSize, at * PageSize, n * PageSize, r.IntN(2) == 0})
				case 4:
					w.Unmap(at*PageSize, n*PageSize)
				case 5, 6:
					w.Examine(page*PageSize, r.IntN(2) == 0)
				case 7, 8:
					w.Plug(page*PageSize, r.IntN(2) == 0)
				case 9:
					h.files[r.IntN(files)].Truncate(r.Int64N(RangeSize))
				case 10:
					w.Rearm(1 + r.Uint64N(files))
					w.Lost(1 + r.Uint64N(files))
				case 11:
					switch r.IntN(10) {
					case 0:
						w.Sweep()
					case 1:
						w.Reset()
					default:
						w.Stats()
					}
				}
			}
		})
	}
	wg.Wait()
	w.verify(t)
	for f := uint64(1); f <= files; f++ {
		h.grow(t, f, 0, RangeSize)
	}
	eventually(t, "plugs go and files are shown", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for at := uint64(0); at < w.Size(); at += PageSize {
			p, x := w.look(at), w.find(at)
			if p.plug != plugNone || p.zeroed || x != nil && p.hidden && x.off+at-x.at < RangeSize {
				return false
			}
		}
		return true
	})
	w.verify(t)
	for at := uint64(0); at < w.Size(); at += PageSize {
		w.mu.Lock()
		must := want{}
		if x := w.find(at); x != nil {
			off := x.off + at - x.at
			must = want{x.file.number, off / PageSize, off >= RangeSize}
		}
		w.mu.Unlock()
		expect(t, w, at, must)
	}
}

// TestCloseWaits: files are nobody's business any more when Close is back.
func TestCloseWaits(t *testing.T) {
	for _, c := range []struct {
		what string
		busy func(t *testing.T, w *Window, h *host, f uint64)
	}{
		{"inotify", func(t *testing.T, _ *Window, h *host, f uint64) { h.grow(t, f, PageSize, PageSize) }},
		{"a plug", func(t *testing.T, w *Window, _ *host, _ uint64) { plugIt(t, w, PageSize, true) }},
	} {
		w, err := New(RangeSize)
		if err != nil {
			t.Fatal(err)
		}
		h := &host{dir: t.TempDir()}
		defer h.close()
		w.Attach(h)
		f := h.add(t, 8*PageSize)
		setup(t, w, h, Mapping{File: f, Len: RangeSize})
		entered, leave, closed := make(chan bool), make(chan bool), make(chan error)
		h.before(func() { close(entered); <-leave })
		c.busy(t, w, h, f)
		<-entered
		go func() { closed <- w.Close() }()
		select {
		case <-closed:
			t.Fatalf("%s: Close does not wait", c.what)
		case <-time.After(30 * time.Millisecond):
		}
		close(leave)
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
}
