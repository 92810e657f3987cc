package sim

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/cairnfs/cairn/chunkserver"
)

// coroutine is a job that can wait: it has a stack of its own, and runs only while resume does.
type coroutine struct {
	life   *life
	next   func() (struct{}, bool)
	stop   func()
	yield  func(struct{}) bool
	ctx    context.Context // whose end wakes it
	parked bool
	waking bool
}

// abandoned is what a job's stack is unwound with at the end of its process.
type abandoned struct{}

// begin runs f on a stack of its own when d has passed.
func (l *life) begin(d time.Duration, f func()) {
	if l.dead {
		return
	}
	c := &coroutine{life: l}
	c.next, c.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if r := recover(); r != nil && r != (abandoned{}) {
				panic(r)
			}
		}()
		c.yield = yield
		f()
	})
	l.jobs = append(l.jobs, c)
	l.world.after(d, l, c.resume)
}

// resume runs the job until it waits or returns.
func (c *coroutine) resume() {
	w := c.life.world
	before := w.running
	w.running, c.parked, c.waking = c, false, false
	_, waits := c.next()
	w.running = before
	if !waits && !c.life.dead {
		c.life.jobs = slices.DeleteFunc(c.life.jobs, func(other *coroutine) bool { return other == c })
	}
}

// park waits for wake, or for the end of ctx. It is called by the job.
func (c *coroutine) park(ctx context.Context) {
	c.ctx, c.parked = ctx, true
	if !c.yield(struct{}{}) {
		panic(abandoned{})
	}
	c.ctx = nil
}

// wake lets a parked job go on when d has passed.
func (c *coroutine) wake(d time.Duration) {
	if c.parked && !c.waking {
		c.waking = true
		c.life.world.after(d, c.life, c.resume)
	}
}

// pause waits for d, or for the end of ctx, whose error it returns.
func (l *life) pause(ctx context.Context, d time.Duration) error {
	c, over := l.world.running, false
	stop := l.After(d, func() {
		over = true
		c.wake(0)
	})
	defer stop()
	for !over && ctx.Err() == nil {
		c.park(ctx)
	}
	return ctx.Err()
}

// signal is a sync.Cond for coroutines.
type signal struct {
	life    *life
	l       sync.Locker
	waiting []*coroutine
}

func (l *life) newSignal(locker sync.Locker) chunkserver.Signal { return &signal{life: l, l: locker} }

func (s *signal) Wait() {
	c := s.life.world.running
	s.waiting = append(s.waiting, c)
	s.l.Unlock()
	c.park(context.Background())
	s.l.Lock()
}

func (s *signal) Signal() {
	if len(s.waiting) > 0 {
		c := s.waiting[0]
		s.waiting = s.waiting[1:]
		c.wake(s.life.disk())
	}
}
