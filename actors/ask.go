package actors

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Reply is the obligation to answer once. It is a handle: copies are the same obligation, and whoever holds one
// may answer, from any goroutine, in the same turn or much later. A second answer is a bug and panics. The zero
// Reply is for commands whose answer interests nobody: it may be answered any number of times.
type Reply[R any] struct{ owed *obligation[R] }

// obligation is what copies of a Reply share.
type obligation[R any] struct {
	state   atomic.Uint32
	deliver func(R, error)
	count   *atomic.Int64 // the system's obligations, or nil
}

// States of an obligation.
const (
	owedOpen     = iota
	owedAnswered // a second answer is a bug
	owedVoid     // the command never ran; an answer is dropped
)

// NewReply makes an obligation that f hears the answer of: an edge to the network, a data plane, a test. f runs on
// the goroutine that answers, which is often an actor's, so it must not wait.
func NewReply[R any](f func(R, error)) Reply[R] {
	return Reply[R]{&obligation[R]{deliver: f}}
}

// Send answers. Of value and err one is meant: where err is not nil, value is ignored by those who wait.
func (r Reply[R]) Send(value R, err error) {
	if r.owed == nil {
		return
	}
	if !r.owed.settle(owedAnswered) {
		if r.owed.state.Load() == owedVoid {
			return
		}
		panic("actors: a reply was answered twice")
	}
	r.owed.deliver(value, err)
}

// Ok answers with a value.
func (r Reply[R]) Ok(value R) { r.Send(value, nil) }

// Fail answers with an error, which must not be nil.
func (r Reply[R]) Fail(err error) {
	if err == nil {
		panic("actors: Fail with a nil error")
	}
	var none R
	r.Send(none, err)
}

// Outstanding reports whether the answer is still owed: for Stopped methods and for tests.
func (r Reply[R]) Outstanding() bool { return r.owed != nil && r.owed.state.Load() == owedOpen }

// settle moves an open obligation to its last state and reports whether it was open.
func (o *obligation[R]) settle(state uint32) bool {
	if !o.state.CompareAndSwap(owedOpen, state) {
		return false
	}
	if o.count != nil {
		o.count.Add(-1)
	}
	return true
}

// question is the command that Ask sends: the caller's command and the place where the answer goes.
type question[S, R any] struct {
	turn   atomic.Uint32
	cmd    Command[S]
	owed   obligation[R]
	answer chan answer[R]
}

type answer[R any] struct {
	value R
	err   error
}

// States of a question's turn. Who moves it on from queued decides whether the command runs.
const (
	turnQueued = iota
	turnBegun
	turnWithdrawn
)

// Do runs the caller's command unless the caller has gone.
func (q *question[S, R]) Do(shell S) {
	if q.turn.CompareAndSwap(turnQueued, turnBegun) {
		q.cmd.Do(shell)
	}
}

// withdraw takes back a command that has not begun and reports whether it did.
func (q *question[S, R]) withdraw() bool {
	if !q.turn.CompareAndSwap(turnQueued, turnWithdrawn) {
		return false
	}
	q.owed.settle(owedVoid)
	return true
}

// Ask sends the command that build makes and waits for the answer to its Reply, which may come from the actor or
// from whoever it handed the Reply to. It must not be called inside an actor: two actors that ask each other would
// wait for ever.
//
// It ends in one of these ways:
//   - the answer came: its value and error;
//   - ctx ended: ErrOutcomeUnknown wrapping ctx.Err(). If the actor had not begun with the command, it never will,
//     so callers that gave up do not load the actor;
//   - the actor stopped before it began with the command: ErrUnavailable, and the command never runs;
//   - the actor stopped after it began, without an answer: ErrOutcomeUnknown.
func Ask[S, R any](ctx context.Context, r Ref[S], build func(Reply[R]) Command[S]) (R, error) {
	var none R
	if r.cell == nil || r.cell.gone.Load() {
		return none, r.cell.unavailable()
	}
	q := &question[S, R]{answer: make(chan answer[R], 1)}
	q.owed.deliver = func(value R, err error) { q.answer <- answer[R]{value, err} }
	q.owed.count = &r.cell.system.owed
	q.owed.count.Add(1)
	q.cmd = build(Reply[R]{&q.owed})
	r.Send(q)

	var failure error
	select {
	case a := <-q.answer:
		return a.value, a.err
	case <-ctx.Done():
		q.withdraw()
		failure = fmt.Errorf("%w: %w",
			gfs.Errorf(gfs.CodeOutcomeUnknown, "actor %s has not answered", r.cell.name), ctx.Err())
	case <-r.cell.stopped:
		failure = r.cell.unavailable()
		if !q.withdraw() {
			failure = gfs.Errorf(gfs.CodeOutcomeUnknown, "actor %s stopped without an answer", r.cell.name)
		}
	}
	select {
	case a := <-q.answer: // it came in the same moment: an answer is better than none
		return a.value, a.err
	default:
		return none, failure
	}
}
