package sim

import (
	"container/heap"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// world is everything that is simulated: the time, what will happen, and the nodes that it happens to.
type world struct {
	random *rand.Rand
	now    time.Duration // since the beginning
	events eventQueue
	order  uint64 // of the last event queued
	steps  int    // events that have happened

	running *coroutine // nil while an event runs outside of any
	trace   func(at time.Duration, text string)
	hash    uint64 // of everything that was noted
	failure error
}

func newWorld(seed uint64) *world {
	return &world{random: rand.New(rand.NewPCG(seed, 0x5eed))}
}

// clock is the time as the simulated see it.
func (w *world) clock() time.Time { return time.Unix(1_800_000_000, 0).Add(w.now) }

// note adds a line to the history: to the trace if there is one, and to what tells one history from another.
func (w *world) note(format string, args ...any) {
	h := fnv.New64a()
	text := fmt.Sprintf(format, args...)
	fmt.Fprintf(h, "%d %d %s", w.hash, w.now, text)
	w.hash = h.Sum64()
	if w.trace != nil {
		w.trace(w.now, text)
	}
}

// fail ends the run. The first failure counts.
func (w *world) fail(checker, format string, args ...any) {
	if w.failure == nil {
		w.failure = &Failure{Checker: checker, At: w.now, Detail: fmt.Sprintf(format, args...)}
		w.note("FAILURE %v", w.failure)
	}
}

// Failure is what a checker found.
type Failure struct {
	Checker string
	At      time.Duration
	Detail  string
}

// Error names the checker, the simulated time, and what is wrong.
func (f *Failure) Error() string { return fmt.Sprintf("%s: at %v: %s", f.Checker, f.At, f.Detail) }

// event is something that happens to a process, or to the world if life is nil.
type event struct {
	at    time.Duration
	order uint64
	life  *life
	held  bool // for the process is stopped
	f     func()
}

type eventQueue []*event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(*event)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return e
}

// after makes f happen to a process when d has passed.
func (w *world) after(d time.Duration, l *life, f func()) *event {
	w.order++
	e := &event{at: w.now + max(d, 0), order: w.order, life: l, f: f}
	heap.Push(&w.events, e)
	return e
}

// run lets everything happen up to a time, or until a failure.
func (w *world) run(until time.Duration) {
	for w.failure == nil && len(w.events) > 0 && w.events[0].at <= until {
		e := heap.Pop(&w.events).(*event)
		w.now = e.at
		l := e.life
		switch {
		case e.f == nil || l != nil && l.dead:
			continue
		case l != nil && l.stoppedUntil > w.now:
			e.at, e.held = l.stoppedUntil, true // its order stays
			heap.Push(&w.events, e)
			continue
		}
		w.steps++
		w.guard(e.f)
		if l != nil {
			l.settle()
		}
	}
	w.now = max(w.now, until)
}

// goOn lets a process go on now that is stopped: what it was held from does not come behind what is new.
func (w *world) goOn(l *life) {
	if l.stoppedUntil <= w.now {
		return
	}
	for _, e := range w.events {
		if e.life == l && e.held {
			e.at = w.now
		}
	}
	heap.Init(&w.events)
	l.stoppedUntil = w.now
}

// guard turns a panic into a failure.
func (w *world) guard(f func()) {
	defer func() {
		if r := recover(); r != nil {
			w.running = nil
			w.fail(checkPanic, "%v\n%s", r, debug.Stack())
		}
	}()
	f()
}

// chance is true with a probability of one in n.
func (w *world) chance(n int) bool { return w.random.IntN(n) == 0 }

// between draws a time, evenly.
func (w *world) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.random.Int64N(int64(high-low)+1))
}

// life is one process from its start to its end.
type life struct {
	world        *world
	name         string
	dead         bool
	stoppedUntil time.Duration // it does nothing until then, as after SIGSTOP
	slow         bool          // its disk is
	jobs         []*coroutine  // that have not returned
	endings      []func()      // of what it has open at others
}

// end is the end of the process, at once.
func (l *life) end() {
	l.dead = true
	for _, c := range l.jobs {
		c.stop()
	}
	l.jobs = nil
	for _, f := range l.endings {
		f()
	}
	l.endings = nil
}

// settle wakes the jobs whose context has ended.
func (l *life) settle() {
	if l.dead {
		return
	}
	for _, c := range l.jobs {
		if c.parked && !c.waking && c.ctx != nil && c.ctx.Err() != nil {
			c.wake(0)
		}
	}
}

// Turn is part of actors.Stage.
func (l *life) Turn(f func()) { l.world.after(l.scheduling(), l, f) }

// scheduling is how long something that is ready waits for a processor.
func (l *life) scheduling() time.Duration {
	w := l.world
	switch {
	case w.chance(200):
		return w.between(0, 20*time.Millisecond)
	case w.chance(10):
		return w.between(0, time.Millisecond)
	}
	return w.between(0, 30*time.Microsecond)
}

// disk is how long a job at the disk waits for it.
func (l *life) disk() time.Duration {
	w := l.world
	switch {
	case l.slow:
		return w.between(time.Millisecond, 150*time.Millisecond)
	case w.chance(20):
		return w.between(0, 30*time.Millisecond)
	}
	return w.between(20*time.Microsecond, 2*time.Millisecond)
}

// After is part of actors.Stage.
func (l *life) After(d time.Duration, f func()) (stop func() bool) {
	e := l.world.after(d, l, nil)
	e.f = func() {
		e.f = nil
		f()
	}
	return func() bool {
		inTime := e.f != nil
		e.f = nil
		return inTime
	}
}

// Job is part of actors.Stage.
func (l *life) Job(f func()) { l.begin(l.disk(), f) }

// withTimeout is context.WithTimeout by the simulated clock.
func (l *life) withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	bounded, cancel := context.WithCancel(ctx)
	stop := l.After(d, cancel)
	return bounded, func() {
		stop()
		cancel()
	}
}
