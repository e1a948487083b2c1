package queue_test

import (
	"testing"

	"tenon/devices/virtio/queue"
	"tenon/devices/virtio/queue/queuetest"
)

// TestPushAll: the driver gets chains back in the order of the batch, round the ring's
// end too, and one answer of MustSignal is for all of them.
func TestPushAll(t *testing.T) {
	r, q := pair(t, 8, all)
	c := queue.NewChain(8)
	for round := range 100 {
		var batch []queue.Used
		for i := range 1 + round%8 {
			r.Add(queuetest.Buffer{At: data, Len: 4, Write: true})
			if ok, err := q.Pop(c); !ok || err != nil {
				t.Fatal(ok, err)
			}
			batch = append(batch, queue.Used{Head: c.Head, Written: uint32(round<<8 + i)})
		}
		r.Listen()
		q.PushAll(nil)
		if _, _, ok := r.Used(); ok || q.MustSignal() {
			t.Fatal("a batch of none was announced")
		}
		q.PushAll(batch)
		if !q.MustSignal() || q.MustSignal() {
			t.Fatalf("round %d: want one signal", round)
		}
		for i, want := range batch {
			if head, written, ok := r.Used(); !ok || head != want.Head || written != want.Written {
				t.Fatalf("round %d, chain %d: head %d, %#x, %v; want %+v", round, i, head, written, ok, want)
			}
		}
	}
}
