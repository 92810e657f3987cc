package dataplane

import (
	"sync"
	"time"
)

// window bounds what is held at once, in number and in bytes. What alone exceeds the bytes passes when nothing else
// is held. It is safe for concurrent use.
type window struct {
	mu        sync.Mutex
	moved     sync.Cond
	waiting   int
	count     int
	bytes     int
	mostCount int
	mostBytes int
	closed    bool
}

// full reports whether there is no room for n bytes; the lock is held.
func (w *window) full(n int) bool {
	return !w.closed && w.count > 0 && (w.count+1 > w.mostCount || w.bytes+n > w.mostBytes)
}

func newWindow(mostCount, mostBytes int) *window {
	w := &window{mostCount: mostCount, mostBytes: mostBytes}
	w.moved.L = &w.mu
	return w
}

// take waits for room for one more of n bytes, and reports whether it had to. A closed window has room for
// everything: the end of a connection or a server must not wait.
func (w *window) take(n int) (waited bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.full(n) {
		w.waiting++
		w.moved.Wait()
		w.waiting--
		waited = true
	}
	w.count++
	w.bytes += n
	return waited
}

// takeWithin is take for those who wait for patience at most, and not at all if it is negative. It reports whether there
// was room.
func (w *window) takeWithin(n int, patience time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full(n) {
		if patience < 0 {
			return false
		}
		expired := false
		timer := time.AfterFunc(patience, func() {
			w.mu.Lock()
			expired = true
			w.mu.Unlock()
			w.moved.Broadcast()
		})
		defer timer.Stop()
		w.waiting++
		for w.full(n) && !expired {
			w.moved.Wait()
		}
		w.waiting--
		if w.full(n) {
			return false
		}
	}
	w.count++
	w.bytes += n
	return true
}

// put gives back what was taken.
func (w *window) put(n int) {
	w.mu.Lock()
	w.count--
	w.bytes -= n
	waiting := w.waiting
	w.mu.Unlock()
	if waiting > 0 {
		w.moved.Broadcast()
	}
}

// inUse is the number held.
func (w *window) inUse() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// bytesInUse is the number of bytes held.
func (w *window) bytesInUse() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}

func (w *window) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.moved.Broadcast()
}
