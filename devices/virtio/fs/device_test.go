package fs

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tenon/devices/memory"
)

func TestNewRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"no tag":          {RequestQueues: 1},
		"tag too long":    {RequestQueues: 1, Tag: strings.Repeat("x", 37)},
		"tag not UTF-8":   {RequestQueues: 1, Tag: "\xff"},
		"tag with NUL":    {RequestQueues: 1, Tag: "a\x00b"},
		"tag newline":     {RequestQueues: 1, Tag: "a\nb"},
		"no queue":        {Tag: "a"},
		"nine queues":     {Tag: "a", RequestQueues: 9},
		"odd queue size":  {Tag: "a", RequestQueues: 1, QueueSize: 100},
		"huge queue size": {Tag: "a", RequestQueues: 1, QueueSize: 2048},
		"unknown service": {Tag: "a", RequestQueues: 1, Service: ServicePoll + 1},
		"small window":    {Tag: "a", RequestQueues: 1, WindowSize: 1 << 20},
		"odd window":      {Tag: "a", RequestQueues: 1, WindowSize: 3 << 20},
	} {
		if _, err := newDevice(o, newFake()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(Options{Tag: "a", RequestQueues: 1}); err == nil {
		t.Error("no server: accepted")
	}
}

func TestInfoAndConfig(t *testing.T) {
	tag := strings.Repeat("t", 36)
	d, err := newDevice(Options{Tag: tag, RequestQueues: 3}, newFake())
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Info().QueueSizes; !slices.Equal(got, []uint16{128, 1024, 1024, 1024}) {
		t.Errorf("queue sizes %v", got)
	}
	config := make([]byte, 48)
	for i := range config {
		config[i] = 0xee // what is not there reads as 0
		d.Config(uint32(i), config[i:i+1])
	}
	if want := tag + "\x03\x00\x00\x00" + strings.Repeat("\x00", 8); string(config) != want {
		t.Errorf("configuration % x", config)
	}
	long := []byte{1, 1, 1, 1, 1, 1}
	d.Config(36, long)
	if string(long) != "\x03\x00\x00\x00\x00\x00" {
		t.Errorf("reading past the end: % x", long)
	}
}

// Short requests are answered before Notify returns, whatever queue they come in.
func TestQuickIsInline(t *testing.T) {
	for _, policy := range []Service{ServiceAuto, ServiceExit} {
		f := newFake()
		g := newRig(t, f, policy, 2)
		for q := range 3 {
			want := fmt.Sprintf("quick %d", q)
			head := g.add(q, want, 100)
			g.kick(q)
			if h, text, ok := g.reply(q); !ok || h != head || text != want {
				t.Errorf("policy %d, queue %d: head %d, %q, %v", policy, q, h, text, ok)
			}
			select {
			case <-g.bells[q]:
			default:
				t.Errorf("policy %d, queue %d: no interrupt", policy, q)
			}
		}
	}
}

// Requests that may block leave Notify, at most maxWorkers of them are served
// at a time, and neither short requests nor hiprio wait behind them.
func TestAutoParks(t *testing.T) {
	f := newFake()
	g := newRig(t, f, ServiceAuto, 1)
	const slow = 3 * maxWorkers
	for i := range slow {
		g.add(1, fmt.Sprintf("slow %d", i), 100)
	}
	g.kick(1)
	for range 5 {
		g.add(1, "quick", 100)
		g.kick(1)
		if _, text, ok := g.reply(1); !ok || text != "quick" {
			t.Fatalf("a short request waits: %q, %v", text, ok)
		}
		g.add(0, "quick hiprio", 0)
		g.kick(0)
		if _, _, ok := g.reply(0); !ok {
			t.Fatal("hiprio waits")
		}
	}
	for range slow {
		f.gate <- struct{}{}
	}
	seen := map[string]bool{}
	for range slow {
		_, text := g.wait(1)
		seen[text] = true
	}
	if len(seen) != slow {
		t.Errorf("%d different replies", len(seen))
	}
	if f.most > maxWorkers {
		t.Errorf("%d requests served at once", f.most)
	}
}

func TestExitServesAllInline(t *testing.T) {
	f := newFake()
	close(f.gate)
	g := newRig(t, f, ServiceExit, 1)
	g.add(1, "slow", 100)
	g.add(1, "quick", 100)
	g.kick(1)
	for _, want := range []string{"slow", "quick"} {
		if _, text, ok := g.reply(1); !ok || text != want {
			t.Errorf("%q, %v; want %q", text, ok, want)
		}
	}
	if got := f.served(); !slices.Equal(got, []string{"slow+", "quick+"}) {
		t.Errorf("served %v", got)
	}
}

func TestWorkerServesAllInThePool(t *testing.T) {
	f := newFake()
	gate := make(chan struct{})
	f.onServe = func() { <-gate }
	g := newRig(t, f, ServiceWorker, 1)
	for range 20 {
		g.add(1, "quick", 100)
	}
	g.kick(1) // returns although nothing can be served
	if _, _, ok := g.reply(1); ok {
		t.Fatal("served by the caller of Notify")
	}
	close(gate)
	for range 20 {
		if _, text := g.wait(1); text != "quick" {
			t.Fatalf("reply %q", text)
		}
	}
	for _, s := range f.served() {
		if s != "quick+" {
			t.Fatalf("served %q", s)
		}
	}
}

// Several vCPUs notify at once; each request is answered exactly once.
func TestConcurrentNotify(t *testing.T) {
	for _, policy := range []Service{ServiceAuto, ServiceExit, ServiceWorker, ServicePoll} {
		f := newFake()
		close(f.gate)
		g := newRig(t, f, policy, 1)
		kicks := make(chan struct{}, 64)
		var vcpus sync.WaitGroup
		for range 3 {
			vcpus.Go(func() {
				for range kicks {
					g.d.Notify(1)
				}
			})
		}
		const total = 3000
		flight := map[uint16]string{}
		for sent, got := 0, 0; got < total; {
			for sent < total && len(flight) < ringSize {
				text := fmt.Sprintf("%s %d", []string{"quick", "slow"}[sent%2], sent)
				flight[g.add(1, text, 100)] = text
				sent++
			}
			if g.rings[1].Kick() {
				kicks <- struct{}{}
			}
			head, text := g.wait(1)
			if flight[head] != text {
				t.Fatalf("head %d: %q, want %q", head, text, flight[head])
			}
			delete(flight, head)
			got++
		}
		close(kicks)
		vcpus.Wait()
		if n := len(f.served()); n != total {
			t.Errorf("policy %d: served %d of %d", policy, n, total)
		}
	}
}

// A driver that refills the ring from another CPU cannot keep the caller of
// Notify, and is still served.
func TestRefillDoesNotHoldTheCaller(t *testing.T) {
	f := newFake()
	g := newRig(t, f, ServiceAuto, 1)
	served, enough := 0, make(chan struct{})
	f.onServe = func() { // runs under the turn: the ring is ours
		if served++; served == 10*ringSize {
			close(enough)
		}
		if served < 10*ringSize {
			g.rings[1].Offer(0)
		}
	}
	g.rings[1].SetDesc(0, area(1, 0), 1, 0, 0)
	g.rings[1].Write(area(1, 0), []byte("q"))
	g.rings[1].Offer(0)
	g.d.Notify(1)
	select {
	case <-enough:
	case <-time.After(patience):
		t.Fatal("the rest was not served")
	}
	g.d.Reset()
}

// The chain of a parked request changes while it waits: the worker reads it
// again and must check it again.
func TestParkedChainChanges(t *testing.T) {
	f := newFake()
	g := newRig(t, f, ServiceAuto, 1)
	began := make(chan struct{}, 2*maxWorkers)
	f.onServe = func() { began <- struct{}{} }
	for range maxWorkers + 1 {
		g.add(1, "slow", 100)
	}
	g.kick(1)
	for range maxWorkers {
		<-began
	}
	for i := range uint16(ringSize) {
		g.rings[1].SetDesc(i, ramBase-16, 16, 0, 0)
	}
	close(f.gate)
	select {
	case err := <-g.broke:
		if !errors.Is(err, memory.ErrAddress) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("not noticed")
	}
}

// Reset waits for the request that a worker serves, drops what has not begun,
// and ends the server's session after both.
func TestResetWaits(t *testing.T) {
	f := newFake()
	g := newRig(t, f, ServiceAuto, 1)
	began := make(chan struct{}, 100)
	f.onServe = func() { began <- struct{}{} }
	for range maxWorkers + 4 {
		g.add(1, "slow", 100)
	}
	g.kick(1)
	for range maxWorkers {
		<-began
	}
	pool := g.d.live.Load().pool
	done := make(chan struct{})
	go func() {
		g.d.Reset()
		close(done)
	}()
	for !pool.isClosed() {
		runtime.Gosched() // until Reset has begun, a worker may take another one
	}
	for range maxWorkers {
		select {
		case f.gate <- struct{}{}:
		case <-done:
			t.Fatal("Reset returned with requests in flight")
		}
	}
	<-done
	if got := f.served(); len(got) != maxWorkers {
		t.Errorf("served %v", got)
	}
	if f.resets != 1 {
		t.Errorf("%d session ends", f.resets)
	}
	g.d.Notify(1) // too late, ignored
	g.activate()
	g.add(1, "quick", 100)
	g.kick(1)
	if _, _, ok := g.reply(1); !ok {
		t.Error("not served after Activate")
	}
}

func (p *pool) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// A queue the driver did not enable is nothing to trip over.
func TestMissingQueue(t *testing.T) {
	g := newRig(t, newFake(), ServiceAuto, 2)
	g.d.Reset()
	g.env.Queues[0], g.env.Queues[2] = nil, nil
	if err := g.d.Activate(g.env); err != nil {
		t.Fatal(err)
	}
	for i := range g.env.Queues {
		g.d.Notify(i)
	}
}
