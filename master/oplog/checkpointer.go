package oplog

import (
	"context"
	"errors"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/raft"
	"github.com/sirupsen/logrus"
)

// checkpointRequest asks for a checkpoint now.
type checkpointRequest struct {
	done chan error // capacity 1
}

// Checkpoint writes a checkpoint now and drops the log that it makes superfluous, on this master alone. It returns
// when the checkpoint is durable. If ctx ends first, it goes on in the background. Errors: gfs.CodeUnavailable.
func (l *Log) Checkpoint(ctx context.Context) error {
	request := checkpointRequest{done: make(chan error, 1)}
	select {
	case l.checkpoints <- request:
	case <-l.stop:
		return errClosing()
	case <-ctx.Done():
		return ended(ctx)
	}
	select {
	case err := <-request.done:
		return err
	case <-ctx.Done():
		return ended(ctx)
	}
}

// takeCheckpoints writes one checkpoint at a time, when it is due or asked for.
func (l *Log) takeCheckpoints() {
	for {
		select {
		case <-l.entries.due:
			if l.entries.bytes.Load() < l.entries.limit {
				continue // one was written since
			}
			if err := l.checkpoint(); err != nil && !isClosed(l.stop) {
				// The next try comes after half as much log: a full disk is not helped by trying at each entry.
				l.entries.bytes.Store(l.entries.limit / 2)
			}
		case request := <-l.checkpoints:
			request.done <- l.checkpoint()
		case <-l.stop:
			return
		}
	}
}

func (l *Log) checkpoint() error {
	err := l.raft.Snapshot().Error()
	log := l.log.WithFields(logrus.Fields{"op": "checkpoint", "applied": l.applier.applied.Load()})
	switch {
	case errors.Is(err, raft.ErrNothingNewToSnapshot):
		return nil // nothing was applied since the start
	case err == nil:
		l.counters.checkpoints.Add(1)
		log.Info("checkpoint written")
		return nil
	case isClosed(l.stop):
		return errClosing()
	}
	log.WithField("err", err).Warn("checkpoint failed")
	return gfs.Errorf(gfs.CodeUnavailable, "no checkpoint was written: %v; the log keeps everything until the next one", err)
}
