package queue_test

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

var features = map[string]uint64{"flags": queue.FeatureIndirect, "event idx": all}

// use pops and pushes n chains, which must be there.
func use(t *testing.T, q *queue.Queue, n int) {
	t.Helper()
	c := queue.NewChain(4)
	for range n {
		if ok, err := q.Pop(c); !ok || err != nil {
			t.Fatal(ok, err)
		}
		q.Push(c.Head, 0)
	}
}

func add(t *testing.T, r *queuetest.Ring, n int) {
	t.Helper()
	for range n {
		if _, ok := r.Add(queuetest.Buffer{At: data, Len: 1}); !ok {
			t.Fatal("ring full")
		}
	}
}

func TestMustSignal(t *testing.T) {
	for name, f := range features {
		t.Run(name, func(t *testing.T) {
			r, q := pair(t, 8, f)
			if q.MustSignal() {
				t.Error("signal for nothing")
			}
			add(t, r, 6)
			use(t, q, 1)
			if !q.MustSignal() {
				t.Error("no signal for the first chain")
			}
			if q.MustSignal() {
				t.Error("the same chain signalled twice")
			}
			r.Quiet()
			use(t, q, 1)
			if q.MustSignal() {
				t.Error("signal to a driver that wants none")
			}
			for {
				if _, _, ok := r.Used(); !ok {
					break
				}
			}
			if r.Listen() {
				t.Error("Listen: more, but all was taken")
			}
			use(t, q, 4)
			if !q.MustSignal() {
				t.Error("no signal after Listen")
			}
			if !r.Listen() {
				t.Error("Listen: four used chains not noticed")
			}
		})
	}
}

func TestQuietListen(t *testing.T) {
	for name, f := range features {
		t.Run(name, func(t *testing.T) {
			r, q := pair(t, 8, f)
			add(t, r, 1)
			if !r.Kick() {
				t.Error("no notification for the first chain")
			}
			q.Quiet()
			add(t, r, 1)
			if r.Kick() {
				t.Error("notified a quiet device")
			}
			use(t, q, 1)
			if !q.Listen() {
				t.Error("Listen: the second chain not noticed")
			}
			q.Quiet()
			use(t, q, 1)
			if q.Listen() {
				t.Error("Listen: more in an empty ring")
			}
			add(t, r, 1)
			if !r.Kick() {
				t.Error("no notification after Listen")
			}
		})
	}
}

// The indices are 16 bits and wrap; suppression must survive that.
func TestIndicesWrap(t *testing.T) {
	for name, f := range features {
		t.Run(name, func(t *testing.T) {
			r, q := pair(t, 2, f)
			for i := range 1<<16 + 10 {
				add(t, r, 1)
				if !r.Kick() {
					t.Fatalf("chain %d: not notified", i)
				}
				use(t, q, 1)
				if q.Listen() || !q.MustSignal() {
					t.Fatalf("chain %d: not signalled", i)
				}
				if _, _, ok := r.Used(); !ok || r.Listen() {
					t.Fatalf("chain %d: not used", i)
				}
			}
		})
	}
}

// Driver and device on two goroutines, both asleep whenever the protocol allows
// it: a lost notification hangs the test, a missing barrier is seen by the race
// detector, and each chain's bytes must be its own.
func TestBothSidesAtOnce(t *testing.T) {
	rounds := 20000
	if testing.Short() {
		rounds = 2000
	}
	for name, f := range features {
		t.Run(name, func(t *testing.T) {
			r, q := pair(t, 16, f)
			notify, interrupt := make(chan struct{}, 1), make(chan struct{}, 1)
			done := make(chan error, 1)
			go func() { done <- echo(q, rounds, notify, interrupt) }()
			drive(t, r, rounds, notify, interrupt)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// echo is a device that answers each chain with its own bytes plus one.
func echo(q *queue.Queue, rounds int, notify <-chan struct{}, interrupt chan struct{}) error {
	c := queue.NewChain(16)
	buf := make([]byte, 64)
	for served := 0; served < rounds; {
		q.Quiet()
		ok, err := q.Pop(c)
		if err != nil {
			return err
		}
		if ok {
			p := buf[:c.In.Len()]
			if err := c.In.Copy(p); err != nil {
				return err
			}
			for i := range p {
				p[i]++
			}
			if err := c.Out.Put(p); err != nil {
				return err
			}
			q.Push(c.Head, uint32(len(p)))
			served++
			if served%3 == 0 && q.MustSignal() {
				ring(interrupt)
			}
			continue
		}
		if q.Listen() {
			continue
		}
		if q.MustSignal() {
			ring(interrupt)
		}
		<-notify
	}
	if q.MustSignal() {
		ring(interrupt)
	}
	return nil
}

// drive is the driver, checked against what it has in flight: random lengths,
// random splits, direct and indirect.
func drive(t *testing.T, r *queuetest.Ring, rounds int, notify chan struct{}, interrupt <-chan struct{}) {
	rnd := rand.New(rand.NewPCG(1, 2))
	type request struct {
		at   memory.GPA
		want []byte
	}
	var flight [16]*request
	// Each head has its own memory: bytes in, bytes out, indirect table.
	area := func(head uint16) memory.GPA { return data + memory.GPA(head)*0x1000 }
	for sent, got := 0, 0; got < rounds; {
		for sent < rounds && r.Free() >= 4 && rnd.IntN(8) != 0 {
			at := area(r.NextHead())
			in := make([]byte, 1+rnd.IntN(60))
			want := make([]byte, len(in))
			for i := range in {
				in[i] = byte(rnd.Uint32())
				want[i] = in[i] + 1
			}
			r.Write(at, in)
			b := append(split(rnd, at, len(in), false), split(rnd, at+0x400, len(in), true)...)
			var head uint16
			if rnd.IntN(2) == 0 {
				head, _ = r.Add(b...)
			} else {
				head, _ = r.AddIndirect(at+0x800, b...)
			}
			flight[head] = &request{at + 0x400, want}
			sent++
		}
		if r.Kick() {
			ring(notify)
		}
		r.Quiet()
		for {
			head, n, ok := r.Used()
			if !ok {
				if r.Listen() {
					continue
				}
				break
			}
			f := flight[head]
			flight[head] = nil
			if f == nil || int(n) != len(f.want) || string(r.Read(f.at, n)) != string(f.want) {
				t.Fatalf("chain %d: wrong answer of %d bytes", head, n)
			}
			got++
		}
		if got < rounds && (sent-got == len(flight) || sent == rounds || r.Free() < 4) {
			<-interrupt
		} else {
			runtime.Gosched()
		}
	}
}

// split cuts n bytes at an address into one or two buffers.
func split(rnd *rand.Rand, at memory.GPA, n int, write bool) []queuetest.Buffer {
	cut := rnd.IntN(n)
	b := []queuetest.Buffer{{At: at + memory.GPA(cut), Len: uint32(n - cut), Write: write}}
	if cut > 0 {
		b = append([]queuetest.Buffer{{At: at, Len: uint32(cut), Write: write}}, b...)
	}
	return b
}

// Several goroutines push and ask for themselves whether to signal, while the
// driver sleeps whenever it may: each push must be covered by an interrupt.
func TestSeveralPushers(t *testing.T) {
	const pushers, rounds = 3, 30000
	for name, f := range features {
		t.Run(name, func(t *testing.T) {
			r, q := pair(t, 8, f)
			heads, interrupt := make(chan uint16, 8), make(chan struct{}, 1)
			for range pushers {
				go func() {
					for head := range heads {
						q.Push(head, 0)
						if q.MustSignal() {
							ring(interrupt)
						}
					}
				}()
			}
			defer close(heads)
			for sent, got := 0, 0; got < rounds; {
				for ; sent < rounds && sent-got < pushers; sent++ {
					add(t, r, 1)
					head, ok, err := q.PopHead()
					if !ok || err != nil {
						t.Fatal(ok, err)
					}
					heads <- head
				}
				before := got
				for _, _, ok := r.Used(); ok; _, _, ok = r.Used() {
					got++
				}
				if got > before || r.Listen() {
					continue
				}
				select {
				case <-interrupt:
				case <-time.After(10 * time.Second):
					t.Fatalf("no interrupt for chain %d", got)
				}
				r.Quiet()
			}
		})
	}
}
