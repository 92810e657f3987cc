package oplog

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/raft"
)

const (
	// maxQueuedBytes bounds the records that wait to be sent, beside gfs.MaxInFlightRequests of them.
	maxQueuedBytes = 32 << 20
	// maxFlights bounds the log entries that were sent and are not applied yet: 32 MiB in flight at most.
	maxFlights = 64
)

// The life of a proposal: queued, then sent or withdrawn.
const (
	proposalQueued uint32 = iota
	proposalSent
	proposalWithdrawn
)

// proposal is a record on its way into the log, or (record nil) a barrier: a place in the order without a record.
type proposal struct {
	record  []byte
	barrier bool
	phase   atomic.Uint32
	done    func(outcome any, err error)
}

// flight is a log entry that was handed to Raft.
type flight struct {
	future   raft.ApplyFuture
	batch    []*proposal
	finished chan struct{} // closed once all of batch is answered
}

// proposalQueue holds what waits for the batcher, bounded in number and bytes.
type proposalQueue struct {
	wake chan struct{} // capacity 1

	mu      sync.Mutex
	waiting []*proposal
	bytes   int
	closed  bool
}

func (q *proposalQueue) add(p *proposal) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return errClosing()
	case len(q.waiting) >= gfs.MaxInFlightRequests || q.bytes+len(p.record) > maxQueuedBytes:
		return gfs.Errorf(gfs.CodeBusy, "%d records (%d bytes) wait for the operation log: try again in a moment", len(q.waiting), q.bytes)
	}
	q.waiting = append(q.waiting, p)
	q.bytes += len(p.record)
	signal(q.wake)
	return nil
}

// take removes what fits into one log entry, in order, without what was withdrawn. Nil means that nothing waits.
func (q *proposalQueue) take() []*proposal {
	q.mu.Lock()
	defer q.mu.Unlock()
	var batch []*proposal
	size, taken := batchHeaderBytes, 0
	for _, p := range q.waiting {
		if size+recordBytes(len(p.record)) > MaxBatchBytes || len(batch) == MaxBatchRecords {
			break
		}
		taken++
		q.bytes -= len(p.record)
		if p.phase.CompareAndSwap(proposalQueued, proposalSent) {
			size += recordBytes(len(p.record))
			batch = append(batch, p)
		}
	}
	clear(q.waiting[:taken])
	if q.waiting = q.waiting[taken:]; len(q.waiting) == 0 {
		q.waiting = nil
	}
	return batch
}

func (q *proposalQueue) size() (records, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), q.bytes
}

// ifOpen runs f unless the queue is closed, and closes it not before f has returned.
func (q *proposalQueue) ifOpen(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		f()
	}
	return !q.closed
}

func (q *proposalQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// Propose puts a record into the log and returns the machine's outcome for it: by then the record is durable on a
// majority and applied here, and so is every record proposed before it by the same caller. The record belongs to
// the log from the call on, also if it fails. Propose blocks until then or until ctx ends.
//
// Errors: gfs.CodeNotActing, gfs.CodeBusy, gfs.CodeUnavailable (closing, or ctx ended before the record was sent):
// the record takes no effect. gfs.CodeOutcomeUnknown: it may take effect, now or later. gfs.CodeInvalid: it is
// longer than MaxRecordBytes.
func (l *Log) Propose(ctx context.Context, record []byte) (outcome any, err error) {
	return l.wait(ctx, &proposal{record: record})
}

// ProposeAsync is Propose for callers that must not wait, such as actors: it never blocks, and done is called once
// with the result. The calls of one caller, and of callers that order themselves, enter the log in their order.
// done is called in log order, by a goroutine of the log that it must not hold up; a refusal (the errors that
// say that the record takes no effect) may call it before ProposeAsync returns.
func (l *Log) ProposeAsync(record []byte, done func(outcome any, err error)) {
	l.enqueue(&proposal{record: record, done: done})
}

// Barrier returns once everything that was committed or proposed before the call is applied here. It costs a log
// entry; Linearize does not. Errors are those of Propose.
func (l *Log) Barrier(ctx context.Context) error {
	_, err := l.wait(ctx, &proposal{barrier: true})
	return err
}

func (l *Log) wait(ctx context.Context, p *proposal) (any, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	type result struct {
		outcome any
		err     error
	}
	answer := make(chan result, 1)
	p.done = func(outcome any, err error) { answer <- result{outcome, err} }
	l.enqueue(p)
	select {
	case r := <-answer:
		return r.outcome, r.err
	case <-ctx.Done():
	}
	if p.phase.CompareAndSwap(proposalQueued, proposalWithdrawn) {
		return nil, ended(ctx)
	}
	select {
	case r := <-answer: // both at once: the answer counts
		return r.outcome, r.err
	default:
	}
	return nil, gfs.Errorf(gfs.CodeOutcomeUnknown, "gave up waiting for a record that was on its way: %v", context.Cause(ctx))
}

func (l *Log) enqueue(p *proposal) {
	var err error
	switch {
	case len(p.record) > MaxRecordBytes:
		err = gfs.Errorf(gfs.CodeInvalid, "log record of %d bytes: at most %d", len(p.record), MaxRecordBytes)
	case !l.Acting():
		err = errNotActing()
	default:
		err = l.proposals.add(p)
	}
	if err != nil {
		p.done(nil, err)
	}
}

// sendBatches is the batcher: it sends what waits as one log entry, and the next one as soon as that is written
// here. What comes in meanwhile shares the next entry and its sync; a lone record waits for nobody.
func (l *Log) sendBatches() {
	defer close(l.flights)
	for {
		select {
		case <-l.proposals.wake:
		case <-l.stop:
			for batch := l.proposals.take(); batch != nil; batch = l.proposals.take() {
				answer(batch, nil, errClosing())
			}
			return
		}
		for batch := l.proposals.take(); batch != nil; batch = l.proposals.take() {
			switch {
			case isClosed(l.stop):
				answer(batch, nil, errClosing())
			case !l.Acting():
				answer(batch, nil, errNotActing())
			default:
				l.send(batch)
			}
		}
	}
}

// send hands one batch to Raft and returns once it was written here or has failed.
func (l *Log) send(batch []*proposal) {
	records := make([][]byte, 0, len(batch))
	for _, p := range batch {
		if !p.barrier {
			records = append(records, p.record)
		}
	}
	data := encodeBatch(records)
	l.counters.entries.Add(1)
	l.counters.records.Add(uint64(len(records)))
	select {
	case <-l.entries.written: // of an earlier entry
	default:
	}
	f := flight{future: l.raft.ApplyLog(raft.Log{Data: data}, 0), batch: batch, finished: make(chan struct{})}
	l.flights <- f
	select {
	case <-l.entries.written:
	case <-f.finished:
	}
	// Let callers that have just been answered come back before the next entry is filled: with 64 of them an entry
	// holds 54 records instead of 32. It costs a lone caller nothing that can be measured.
	runtime.Gosched()
}

// finishFlights answers proposals in log order. It ends when the batcher has ended and all is answered: Raft
// answers every entry, if only by stepping down.
func (l *Log) finishFlights() {
	for f := range l.flights {
		err := f.future.Error()
		var outcomes []any
		if err == nil {
			switch result := f.future.Response().(type) {
			case applyResult:
				outcomes, err = result.outcomes, result.err
			default:
				err = fmt.Errorf("entry of %d records was answered with %T", len(f.batch), result)
			}
		}
		answer(f.batch, outcomes, proposalError(err))
		close(f.finished)
	}
}

// answer calls back for each proposal of a batch; outcomes has one entry a record if err is nil.
func answer(batch []*proposal, outcomes []any, err error) {
	next := 0
	for _, p := range batch {
		if err != nil || p.barrier {
			p.done(nil, err)
			continue
		}
		p.done(outcomes[next], nil)
		next++
	}
}
