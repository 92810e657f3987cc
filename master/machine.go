package master

import (
	"iter"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/oplog"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"google.golang.org/protobuf/proto"
)

// machine lets the operation log apply its records in the namespace actor's turns. Its methods run on the log's own
// goroutine, the only one that waits for an actor.
type machine struct{ namespace actors.Ref[*namespaceShell] }

// Apply applies a batch in one turn.
func (m machine) Apply(index uint64, records [][]byte) []any {
	batch := make([]*pb.Record, len(records))
	for i, data := range records {
		record := new(pb.Record)
		if err := proto.Unmarshal(data, record); err != nil {
			record = nil // refused below; what the log holds was checked, so this is another release's record
		}
		batch[i] = record
	}
	answers := make(chan []any, 1)
	m.namespace.Send(applyBatch{index: index, records: batch, answers: answers})
	select {
	case outcomes := <-answers:
		return outcomes
	case <-m.namespace.Done():
		// The actor ends after the log, unless it panicked, and then the process ends.
		outcomes := make([]any, len(records))
		for i := range outcomes {
			outcomes[i] = namespace.Outcome{Err: gfs.Errorf(gfs.CodeInternal, "the namespace actor has stopped")}
		}
		return outcomes
	}
}

// View fixes the state for a checkpoint.
func (m machine) View() oplog.View {
	answers := make(chan *namespace.View, 1)
	m.namespace.Send(takeView{answers: answers})
	select {
	case view := <-answers:
		return checkpoint{view}
	case <-m.namespace.Done():
		return checkpoint{}
	}
}

// Restore loads a checkpoint and gives it to the actor.
func (m machine) Restore(pages iter.Seq2[oplog.Page, error]) error {
	state, err := namespace.Load(func(yield func(namespace.Page, error) bool) {
		for p, err := range pages {
			if !yield(namespace.Page{Key: p.Key, Value: p.Value}, err) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	done := make(chan struct{})
	m.namespace.Send(replaceState{state: state, done: done})
	select {
	case <-done:
		return nil
	case <-m.namespace.Done():
		return gfs.Errorf(gfs.CodeInternal, "the namespace actor has stopped")
	}
}

// checkpoint is a view as the log writes it. One without a view yields an error.
type checkpoint struct{ view *namespace.View }

// Pages yields the pages of the view.
func (c checkpoint) Pages() iter.Seq2[oplog.Page, error] {
	return func(yield func(oplog.Page, error) bool) {
		if c.view == nil {
			yield(oplog.Page{}, gfs.Errorf(gfs.CodeUnavailable, "the namespace actor has stopped"))
			return
		}
		for p, err := range c.view.Pages() {
			if !yield(oplog.Page{Key: p.Key, Value: p.Value}, err) {
				return
			}
		}
	}
}

// Release forgets the view.
func (c checkpoint) Release() {
	if c.view != nil {
		c.view.Release()
	}
}
