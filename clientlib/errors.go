package clientlib

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Sentinels for errors.Is, beside those of io/fs (ErrNotExist, ErrExist, ErrPermission, ErrInvalid, ErrClosed) and
// syscall (ENOTEMPTY, EISDIR, ENOTDIR).
var (
	// ErrNoSpace means that the chunkservers' disks are full.
	ErrNoSpace = gfs.ErrNoSpace
	// ErrQuota means that a directory's quota is used up.
	ErrQuota = gfs.ErrQuota
	// ErrRecordTooLarge means that a record exceeds gfs.MaxRecordBytes (16 MiB).
	ErrRecordTooLarge = gfs.ErrRecordTooLarge
	// ErrCorrupt means that no replica has bytes that match their checksums.
	ErrCorrupt = gfs.ErrCorrupt
	// ErrOutcomeUnknown means that the call ended after it was sent: it may or may not take effect.
	ErrOutcomeUnknown = gfs.ErrOutcomeUnknown
	// ErrBusy means that too much is in flight; only after the library's own retries.
	ErrBusy = gfs.ErrBusy
	// ErrUnavailable means that who is needed does not answer; only after the library's own retries.
	ErrUnavailable = gfs.ErrUnavailable
	// ErrUnsyncedLost means that power was lost at every replica before what had been written there was synced: all or a
	// part of it may be missing. Write it again, or find out what is there.
	ErrUnsyncedLost = gfs.ErrUnsyncedLost
)

// errClientClosed is what calls get after Client.Close.
func errClientClosed() error {
	return gfs.Errorf(gfs.CodeClosed, "the client was closed")
}

// pathError wraps err once for the caller; nil and io.EOF stay as they are.
func pathError(op, name string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if wrapped, ok := errors.AsType[*fs.PathError](err); ok {
		return wrapped
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// linkError is pathError for calls with two names.
func linkError(op, from, to string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: op, Old: from, New: to, Err: err}
}

// outcomeUnknown says that what was sent may still take effect, and why nobody waits any longer. The result
// matches ErrOutcomeUnknown and cause.
func outcomeUnknown(cause error) error {
	if errors.Is(cause, gfs.ErrOutcomeUnknown) {
		return cause
	}
	return fmt.Errorf("%w: %w", gfs.ErrOutcomeUnknown, cause)
}

// fault is a failed connection or a silent peer: nothing that the peer said. It is retried elsewhere.
type fault struct {
	address string
	cause   error
}

// Error names the chunkserver and what happened.
func (f *fault) Error() string { return "chunkserver at " + f.address + ": " + f.cause.Error() }

// Is makes a fault ErrUnavailable for callers, should it get that far.
func (f *fault) Is(target error) bool { return target == gfs.ErrUnavailable }

// Unwrap gives the cause.
func (f *fault) Unwrap() error { return f.cause }

// isFault reports whether err says that a chunkserver could not be talked to.
func isFault(err error) bool {
	_, ok := errors.AsType[*fault](err)
	return ok
}

// actionFor is what to do about err: the table of errors decides, and faults are taken to another replica.
func actionFor(err error) gfs.Action {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return gfs.GiveUp
	case isFault(err):
		return gfs.NextReplica
	}
	return gfs.CodeOf(err).Action()
}
