package fs

import (
	"sync/atomic"

	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
	"tenon/virtiofs"
)

// signalEvery is how many replies of one drain are announced together: with
// more, the first caller of a long batch would wait for the last. Nor does one wait
// for the others once requests and replies have signalBytes.
const (
	signalEvery = 16
	signalBytes = 64 << 10
)

// session is the device between Activate and Reset.
//
// Locks, outer first: a queue's turn, the pool's mutex or that of waiting or the
// ring's push lock. A poller's mutex is held with no other.
type session struct {
	env     virtio.Env
	server  server
	queues  []*requestQueue
	pool    *pool
	waiting *waiting
	dead    atomic.Bool // broken or reset: take no more requests

	spinners spinners // queues with ServicePoll
}

// requestQueue is one queue; what is not a ring belongs to the turn's holder, or the
// poller's goroutine.
type requestQueue struct {
	s       *session
	index   int
	ring    *queue.Queue
	policy  Service
	turn    queue.Turn
	poller  *poller // takes the turn's place with ServicePoll; nil otherwise
	chain   *queue.Chain
	request *virtiofs.Request
	kept    atomic.Int32 // requests in waiting

	done  [signalEvery]queue.Used // served, and not yet returned to the driver
	n     int                     // of them
	bytes uint64                  // of these requests and their replies
}

func newSession(srv server, policy Service, env virtio.Env) *session {
	s := &session{env: env, server: srv, queues: make([]*requestQueue, len(env.Queues)), spinners: newSpinners()}
	parked := 0
	for i, ring := range env.Queues {
		if ring == nil {
			continue
		}
		q := &requestQueue{
			s: s, index: i, ring: ring, policy: policy,
			chain: queue.NewChain(queue.MaxSize), request: virtiofs.NewRequest(),
		}
		if i == hiprio {
			q.policy = ServiceExit // never behind other requests (§5.11.6.1)
		}
		if q.policy == ServicePoll {
			q.poller = newPoller(q)
		}
		s.queues[i] = q
		parked += int(ring.Size())
	}
	s.pool, s.waiting = newPool(parked), newWaiting(s)
	return s
}

// Consume serves up to limit requests.
func (q *requestQueue) Consume(limit int) (more bool) {
	q.ring.Quiet()
	for range limit {
		if q.s.dead.Load() {
			q.flush()
			return false
		}
		head, ok, err := q.ring.PopHead()
		if !ok && err == nil && q.poller != nil {
			head, ok, err = q.look()
		}
		if err == nil && ok {
			err = q.serve(head)
		}
		if err != nil {
			q.flush()
			q.s.fail(err)
			return false
		}
		if !ok {
			q.flush()
			if !q.ring.Listen() {
				return false
			}
			q.ring.Quiet()
		}
	}
	q.flush()
	return true
}

// serve answers one request, or leaves it to the pool.
func (q *requestQueue) serve(head uint16) error {
	switch q.policy {
	case ServiceWorker:
		q.s.pool.put(parked{q, head})
		return nil
	case ServiceExit:
		return q.finish(q.chain, q.request, head)
	}
	// As try, but the return through one more function after the system call, whose own
	// calls have pushed ours out of the processor's return stack, costs 5 ns.
	c := q.chain
	if err := q.ring.Fetch(c, head); err != nil {
		return err
	}
	written, again := q.s.server.Serve(q.request, &c.In, &c.Out)
	if again {
		q.s.pool.put(parked{q, head})
		return nil
	}
	q.s.waiting.served()
	q.done[q.n] = queue.Used{Head: head, Written: written}
	q.n++
	q.bytes += c.Bytes()
	if q.n == len(q.done) || q.bytes >= signalBytes {
		q.flush()
	}
	return nil
}

// flush returns to the driver what was served.
func (q *requestQueue) flush() {
	if q.n == 0 {
		return
	}
	q.ring.PushAll(q.done[:q.n])
	q.n, q.bytes = 0, 0
	q.signal()
}

// finish serves a request that may block and returns its chain to the driver, or
// leaves it to those that wait for a lock.
func (q *requestQueue) finish(c *queue.Chain, r *virtiofs.Request, head uint16) error {
	// A quarter of the ring stays free for other requests: among them is the one
	// that frees the lock.
	r.MayBlock, r.NoWait = true, int(q.kept.Load()) >= int(q.ring.Size())*3/4
	seen := q.s.server.Unlocked()
	written, again, err := q.try(c, r, head)
	switch {
	case err != nil:
		return err
	case again:
		q.s.waiting.put(parked{q, head}, seen)
	default:
		q.s.waiting.served()
		q.push(head, written)
	}
	return nil
}

// try reads the chain and serves its request; with again nothing was done, and the
// request is to be served once more.
func (q *requestQueue) try(c *queue.Chain, r *virtiofs.Request, head uint16) (written uint32, again bool, err error) {
	if err := q.ring.Fetch(c, head); err != nil {
		return 0, false, err
	}
	written, again = q.s.server.Serve(r, &c.In, &c.Out)
	return written, again, nil
}

// push returns one chain to the driver and tells it.
func (q *requestQueue) push(head uint16, written uint32) {
	q.ring.Push(head, written)
	q.signal()
}

func (q *requestQueue) signal() {
	if q.ring.MustSignal() {
		q.s.env.Irq.Queue(q.index)
	}
}

// fail stops the session until Reset and says why, once.
func (s *session) fail(err error) {
	if !s.dead.Swap(true) {
		s.env.Broken(err)
	}
}

// close ends the session and waits for every request in flight.
func (s *session) close() {
	s.dead.Store(true)
	s.pool.close()
	s.waiting.close()
	for _, q := range s.queues {
		switch {
		case q == nil:
		case q.poller != nil:
			q.poller.close()
		default:
			q.turn.Close()
		}
	}
}
