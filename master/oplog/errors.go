package oplog

import (
	"context"
	"errors"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/raft"
)

func errNotActing() error {
	return gfs.Errorf(gfs.CodeNotActing, "this master does not lead its group: ask the acting one")
}

func errClosing() error {
	return gfs.Errorf(gfs.CodeUnavailable, "this master is shutting down: ask the acting one")
}

// proposalError says what became of a batch that was handed to Raft.
func proposalError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errNotActing() // refused before it was written anywhere
	case errors.Is(err, raft.ErrLeadershipLost):
		return gfs.Errorf(gfs.CodeOutcomeUnknown, "this master ceased to lead while the record was on its way")
	}
	var known *gfs.Error
	if errors.As(err, &known) && known.Code == gfs.CodeOutcomeUnknown {
		return err
	}
	return gfs.Errorf(gfs.CodeOutcomeUnknown, "the operation log stopped while the record was on its way: %v", err)
}

// readError says why a read could not be linearized.
func readError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrRaftShutdown):
		return errClosing()
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost),
		errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errNotActing()
	}
	return gfs.Errorf(gfs.CodeUnavailable, "the operation log stopped: %v", err)
}

// ended is the error of a call whose context ended before anything was written.
func ended(ctx context.Context) error {
	return gfs.Errorf(gfs.CodeUnavailable, "gave up waiting for the operation log: %v", context.Cause(ctx))
}
