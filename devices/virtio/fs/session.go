package fs

import (
	"sync/atomic"

	"tenon/devices/virtio"
	"tenon/devices/virtio/queue"
	"tenon/virtiofs"
)

// signalEvery is how many replies of one drain are announced together: with
// more, the first caller of a long batch would wait for the last.
const signalEvery = 16

// session is the device between Activate and Reset.
//
// Locks, outer first: a queue's turn, the pool's mutex or that of waiting or the
// ring's push lock.
type session struct {
	env     virtio.Env
	server  server
	queues  []*requestQueue
	pool    *pool
	waiting *waiting
	dead    atomic.Bool // broken or reset: take no more requests
}

// requestQueue is one queue; what is not a ring belongs to the turn's holder.
type requestQueue struct {
	s       *session
	index   int
	ring    *queue.Queue
	policy  Service
	turn    queue.Turn
	chain   *queue.Chain
	request *virtiofs.Request
	kept    atomic.Int32 // requests in waiting
}

func newSession(srv server, policy Service, env virtio.Env) *session {
	s := &session{env: env, server: srv, queues: make([]*requestQueue, len(env.Queues))}
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
		s.queues[i] = q
		parked += int(ring.Size())
	}
	s.pool, s.waiting = newPool(parked), newWaiting(s)
	return s
}

// Consume serves up to limit requests.
func (q *requestQueue) Consume(limit int) (more bool) {
	q.ring.Quiet()
	for n := 1; n <= limit; n++ {
		if q.s.dead.Load() {
			return false
		}
		head, ok, err := q.ring.PopHead()
		if err == nil && ok {
			err = q.serve(head)
		}
		if err != nil {
			q.s.fail(err)
			return false
		}
		if !ok {
			if !q.ring.Listen() {
				q.signal()
				return false
			}
			q.ring.Quiet()
		}
		if n%signalEvery == 0 {
			q.signal()
		}
	}
	q.signal()
	return true
}

// serve answers one request, or leaves it to the pool.
func (q *requestQueue) serve(head uint16) error {
	if q.policy == ServiceWorker {
		q.s.pool.put(parked{q, head})
		return nil
	}
	return q.answer(q.chain, q.request, head, q.policy == ServiceExit)
}

// answer serves the request of a chain. What may block is left to the pool, and
// what waits for a lock to those that wait.
func (q *requestQueue) answer(c *queue.Chain, r *virtiofs.Request, head uint16, mayBlock bool) error {
	// A quarter of the ring stays free for other requests: among them is the one
	// that frees the lock.
	r.NoWait = mayBlock && int(q.kept.Load()) >= int(q.ring.Size())*3/4
	seen := q.s.server.Unlocked()
	again, err := q.try(c, r, head, mayBlock)
	switch {
	case !again:
		q.s.waiting.served()
	case mayBlock:
		q.s.waiting.put(parked{q, head}, seen)
	default:
		q.s.pool.put(parked{q, head})
	}
	return err
}

// try reads the chain, serves the request and returns the chain to the driver,
// unless nothing was done and the request is to be served again.
func (q *requestQueue) try(c *queue.Chain, r *virtiofs.Request, head uint16, mayBlock bool) (again bool, err error) {
	if err := q.ring.Fetch(c, head); err != nil {
		return false, err
	}
	r.MayBlock = mayBlock
	written, again := q.s.server.Serve(r, &c.In, &c.Out)
	if !again {
		q.ring.Push(head, written)
	}
	return again, nil
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
		if q != nil {
			q.turn.Close()
		}
	}
}
