package fs

import (
	"sync"

	"tenon/devices/virtio/queue"
	"tenon/virtiofs"
)

// maxWorkers is how many requests of one device may block at the same time.
const maxWorkers = 8

// parked is a request that waits for a worker. Its head is all there is to
// keep: the descriptors stay in guest memory until the chain is used, and the
// worker reads and checks them itself.
type parked struct {
	q    *requestQueue
	head uint16
}

// pool serves what may block. Goroutines start when there is work for them and
// stay until close.
type pool struct {
	mu            sync.Mutex
	work          sync.Cond
	waiting       []parked // a ring; a chain in flight is parked at most once, so it has room for all
	first, n      int
	idle, workers int
	closed        bool
	ended         sync.WaitGroup
}

// newPool returns a pool with room for max parked requests.
func newPool(max int) *pool {
	p := &pool{waiting: make([]parked, max)}
	p.work.L = &p.mu
	return p
}

// put hands over one request. It never blocks for longer than the lock. After
// close the request is dropped.
func (p *pool) put(r parked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.waiting[(p.first+p.n)%len(p.waiting)] = r
	p.n++
	if p.n > p.idle && p.workers < maxWorkers {
		p.workers++
		p.ended.Add(1)
		go p.run()
		return
	}
	p.work.Signal()
}

// take waits for a request; ok is false when the pool is closed.
func (p *pool) take() (r parked, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.n == 0 && !p.closed {
		p.idle++
		p.work.Wait()
		p.idle--
	}
	if p.closed {
		return parked{}, false
	}
	r = p.waiting[p.first]
	p.first = (p.first + 1) % len(p.waiting)
	p.n--
	return r, true
}

// run is one worker.
func (p *pool) run() {
	defer p.ended.Done()
	chain, request := queue.NewChain(queue.MaxSize), virtiofs.NewRequest()
	for {
		r, ok := p.take()
		if !ok {
			return
		}
		if r.q.s.dead.Load() {
			continue
		}
		if err := r.q.finish(chain, request, r.head); err != nil {
			r.q.s.fail(err)
		}
	}
}

// close drops what is parked and waits until the workers have ended.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.work.Broadcast()
	p.mu.Unlock()
	p.ended.Wait()
}
