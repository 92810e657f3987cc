package oplog

import (
	"context"
	"sync"

	"github.com/cairnfs/cairn/messages/gfs"
)

// readQueue holds the reads that wait for the next check of leadership.
type readQueue struct {
	wake chan struct{} // capacity 1

	mu      sync.Mutex
	waiting []func(error)
	closed  bool
}

func (q *readQueue) add(done func(error)) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return errClosing()
	case len(q.waiting) >= gfs.MaxInFlightRequests:
		return gfs.Errorf(gfs.CodeBusy, "%d reads wait for a check of leadership: try again in a moment", len(q.waiting))
	}
	q.waiting = append(q.waiting, done)
	signal(q.wake)
	return nil
}

func (q *readQueue) take() []func(error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.waiting
	q.waiting = nil
	return batch
}

func (q *readQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// Linearize returns once a read of the machine is linearizable: this master was acting after the call began, and
// everything that was acknowledged before then, by whichever master, is applied here. It writes nothing, and one
// check serves all calls that wait. Errors: gfs.CodeNotActing, gfs.CodeBusy, gfs.CodeUnavailable.
// Source: Raft thesis (Ongaro 2014), 6.4
func (l *Log) Linearize(ctx context.Context) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	answer := make(chan error, 1)
	l.LinearizeAsync(func(err error) { answer <- err })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ended(ctx)
	}
}

// LinearizeAsync is Linearize for callers that must not wait. done is called once, by a goroutine of the log that
// it must not hold up; a refusal may call it before LinearizeAsync returns.
func (l *Log) LinearizeAsync(done func(error)) {
	err := errNotActing()
	if l.Acting() {
		err = l.reads.add(done)
	}
	if err != nil {
		done(err)
	}
}

// answerReads checks leadership once for all reads that wait.
func (l *Log) answerReads() {
	for {
		select {
		case <-l.reads.wake:
		case <-l.stop:
			for _, done := range l.reads.take() {
				done(errClosing())
			}
			return
		}
		batch := l.reads.take()
		if len(batch) == 0 {
			continue
		}
		err := l.verify()
		for _, done := range batch {
			done(err)
		}
	}
}

// verify returns once the machine has all that was committed before the call.
func (l *Log) verify() error {
	// The term is looked at on both sides of the check: leadership lost and won again in between would be another
	// term, in which the commit index does not count until an entry of it is committed. In l.term one was.
	term := l.term.Load()
	if term == 0 || l.raft.CurrentTerm() != term {
		return errNotActing()
	}
	index := l.raft.CommitIndex()
	if !l.alone { // else there is nobody who could have taken over
		if err := l.raft.VerifyLeader().Error(); err != nil {
			return readError(err)
		}
	}
	if l.raft.CurrentTerm() != term {
		return errNotActing()
	}
	// Every entry since the barrier of this term is one that the applier sees, so that it gets to index.
	for l.applier.applied.Load() < index {
		if err := l.applier.failure(); err != nil {
			return readError(err)
		}
		select {
		case <-l.applier.advanced:
		case <-l.stop:
			return errClosing()
		}
	}
	return nil
}
