package actors

import (
	"context"
	"fmt"
	"sync"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Workers is a bounded pool of goroutines for the slow work that actors must not do: disk, network, long
// computation. A job that is done sends a command that says what it was for. A job that panics ends the process,
// as any goroutine's panic does. Workers is safe for concurrent use.
type Workers struct {
	slots chan struct{} // held by each job from admission to its end
	jobs  chan func()   // as deep as there are slots, so a send with a slot never blocks
	quit  chan struct{} // closed by Stop
	wg    sync.WaitGroup

	staged *stagedJobs // in the place of all else on a stage

	mu      sync.Mutex // orders sends to jobs before its close
	stopped bool
}

// NewWorkers starts n goroutines, at least 1, that share a queue of the given length, which may be 0: so n+queue
// jobs are admitted at once.
func NewWorkers(n, queue int) *Workers {
	if n < 1 || queue < 0 {
		panic("actors: workers need at least one goroutine and no negative queue")
	}
	w := &Workers{
		slots: make(chan struct{}, n+queue),
		jobs:  make(chan func(), n+queue),
		quit:  make(chan struct{}),
	}
	for range n {
		w.wg.Go(func() {
			for job := range w.jobs {
				w.run(job)
			}
		})
	}
	return w
}

// NewWorkersOn is NewWorkers on a stage, where it bounds the jobs that run at once. A nil stage is goroutines.
func NewWorkersOn(stage Stage, n, queue int) *Workers {
	if stage == nil {
		return NewWorkers(n, queue)
	}
	return &Workers{staged: &stagedJobs{stage: stage, workers: n, queue: queue}}
}

// run frees the slot also if the job ends its goroutine, as t.FailNow does.
func (w *Workers) run(job func()) {
	defer func() { <-w.slots }()
	job()
}

// Go admits a job without waiting and reports whether it did: not when the pool is full or stopped. It may be
// called inside an actor.
func (w *Workers) Go(job func()) bool {
	if w.staged != nil {
		return w.staged.submit(job)
	}
	select {
	case w.slots <- struct{}{}:
		return w.enqueue(job)
	default:
		return false
	}
}

// Submit admits a job, waiting for room until ctx ends (its error, wrapped) or the pool stops (ErrUnavailable); in
// both cases the job never runs. It must not be called inside an actor, nor inside a job of the same pool.
func (w *Workers) Submit(ctx context.Context, job func()) error {
	select {
	case w.slots <- struct{}{}:
		if w.enqueue(job) {
			return nil
		}
	case <-ctx.Done():
		return fmt.Errorf("no worker was free: %w", ctx.Err())
	case <-w.quit:
	}
	return gfs.Errorf(gfs.CodeUnavailable, "the workers have stopped")
}

// enqueue hands on a job that holds a slot.
func (w *Workers) enqueue(job func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		<-w.slots
		return false
	}
	w.jobs <- job
	return true
}

// InUse is the number of jobs queued or running.
func (w *Workers) InUse() int { return len(w.slots) }

// Stop refuses further jobs, lets those admitted end, and waits for them. It is idempotent. It must not be called
// inside a job.
func (w *Workers) Stop() {
	w.mu.Lock()
	if !w.stopped {
		w.stopped = true
		close(w.quit)
		close(w.jobs)
	}
	w.mu.Unlock()
	w.wg.Wait()
}
