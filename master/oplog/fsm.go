package oplog

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/raft"
)

// applier is what the Raft library calls its FSM: it takes entries apart, checks them, and feeds the machine.
// Once anything was wrong it applies nothing more, because a master that skipped an entry would answer lies.
type applier struct {
	machine Machine
	crash   func(error)
	scratch string          // where a checkpoint is built
	stop    <-chan struct{} // closed when the log closes
	bytes   *atomic.Int64   // entryStore.bytes

	applied  atomic.Uint64 // the last entry that the machine has applied
	advanced chan struct{} // capacity 1: applied moved, or failed was set
	started  atomic.Bool   // Open is through with loading: a failure to load is now fatal

	failMu sync.Mutex
	failed error
}

// applyResult is what the batcher gets back from Raft for a batch.
type applyResult struct {
	outcomes []any
	err      error
}

// fail stops the process by way of the crash callback, and everything here if that returns.
func (a *applier) fail(err error) {
	a.failMu.Lock()
	first := a.failed == nil
	if first {
		a.failed = err
	}
	a.failMu.Unlock()
	signal(a.advanced)
	if first {
		a.crash(err)
	}
}

// failure is why nothing more is applied, or nil.
func (a *applier) failure() error {
	a.failMu.Lock()
	defer a.failMu.Unlock()
	return a.failed
}

// ApplyBatch is called with committed entries in log order, from one goroutine. Entries of the configuration come
// along and only move the applied index.
func (a *applier) ApplyBatch(entries []*raft.Log) []any {
	results := make([]any, len(entries))
	for i, entry := range entries {
		results[i] = a.applyEntry(entry)
	}
	return results
}

// Apply is ApplyBatch for one entry.
func (a *applier) Apply(entry *raft.Log) any { return a.applyEntry(entry) }

func (a *applier) applyEntry(entry *raft.Log) applyResult {
	if err := a.failure(); err != nil {
		return applyResult{err: err}
	}
	var outcomes []any
	if entry.Type == raft.LogCommand {
		records, err := decodeBatch(entry.Data)
		if err != nil {
			err = fmt.Errorf("log entry %d: %w", entry.Index, err)
			a.fail(err)
			return applyResult{err: err}
		}
		if len(records) > 0 {
			outcomes = a.machine.Apply(entry.Index, records)
		}
		if len(outcomes) != len(records) {
			err := gfs.Errorf(gfs.CodeInternal, "log entry %d: %d outcomes for %d records", entry.Index, len(outcomes), len(records))
			a.fail(err)
			return applyResult{err: err}
		}
	}
	a.applied.Store(entry.Index)
	signal(a.advanced)
	return applyResult{outcomes: outcomes}
}

// Snapshot takes the machine's view; Raft writes it in another goroutine.
func (a *applier) Snapshot() (raft.FSMSnapshot, error) {
	if err := a.failure(); err != nil {
		return nil, err
	}
	return &checkpointing{applier: a, view: a.machine.View(), covered: a.bytes.Load()}, nil
}

// Restore loads a checkpoint: Raft calls it at start, and on a standby that was sent one.
func (a *applier) Restore(content io.ReadCloser) error {
	file, ok := unwrapCheckpoint(content)
	if !ok {
		return gfs.Errorf(gfs.CodeInternal, "a checkpoint that did not come from the checkpoint store")
	}
	err := readCheckpoint(file.path, a.machine.Restore)
	if err != nil {
		err = fmt.Errorf("load checkpoint %s: %w", file.path, err)
		if a.started.Load() {
			a.fail(err) // a standby: half a state, or one that must not be left behind
		} else {
			a.failMu.Lock()
			a.failed = err // Open reports it
			a.failMu.Unlock()
		}
		return err
	}
	a.bytes.Store(0)
	a.applied.Store(file.index)
	signal(a.advanced)
	return nil
}

// checkpointing is a checkpoint on its way to disk.
type checkpointing struct {
	applier *applier
	view    View
	covered int64 // bytes of log that it makes superfluous
}

// Persist writes the checkpoint. It touches nothing but the view.
func (c *checkpointing) Persist(sink raft.SnapshotSink) error {
	err := streamCheckpoint(sink, c.applier.scratch, c.view, c.applier.stop)
	if err == nil {
		err = sink.Close()
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	c.applier.bytes.Add(-c.covered)
	return nil
}

// Release gives the view back.
func (c *checkpointing) Release() { c.view.Release() }
