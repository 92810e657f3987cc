package clientlib

import (
	"slices"
	"sync"
)

// room bounds the bytes that a File keeps unacknowledged. Those who wait are served in their order.
type room struct {
	mu      sync.Mutex
	size    int
	used    int
	waiters []*roomWaiter
}

type roomWaiter struct {
	bytes int
	ready chan struct{} // closed when the bytes are the waiter's
}

// acquire waits until bytes fit, or everything is free for more than ever fits. It gives back what it took, for
// release.
func (r *room) acquire(p *patience, bytes int) (taken int, err error) {
	r.mu.Lock()
	taken = min(bytes, r.size)
	if len(r.waiters) == 0 && r.used+taken <= r.size {
		r.used += taken
		r.mu.Unlock()
		return taken, nil
	}
	w := &roomWaiter{bytes: taken, ready: make(chan struct{})}
	r.waiters = append(r.waiters, w)
	r.mu.Unlock()
	err = p.await(w.ready)
	if err == nil {
		return taken, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-w.ready: // both at once: it is ours to give back
		r.used -= taken
	default:
		r.waiters = slices.DeleteFunc(r.waiters, func(other *roomWaiter) bool { return other == w })
	}
	r.serve()
	return 0, err
}

// release gives bytes back that acquire took.
func (r *room) release(bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= bytes
	r.serve()
}

// serve lets in as many waiters as fit, in order; the lock is held.
func (r *room) serve() {
	for len(r.waiters) > 0 && r.used+r.waiters[0].bytes <= r.size {
		w := r.waiters[0]
		r.waiters = r.waiters[1:]
		r.used += w.bytes
		close(w.ready)
	}
}
