package gfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Code identifies an error on the wire. Codes are only ever appended; no text is compared anywhere.
type Code uint16

// The codes, each a row of the table below.
const (
	CodeNone Code = iota
	CodeNotExist
	CodeExist
	CodePermission
	CodeInvalid
	CodeClosed
	CodeNotEmpty
	CodeIsDirectory
	CodeNotDirectory
	CodeNoSpace
	CodeQuota
	CodeRecordTooLarge
	CodeCorrupt
	CodeOutcomeUnknown
	CodeBusy
	CodeUnavailable
	CodeNotActing
	CodeNotPrimary
	CodeStaleVersion
	CodeNoReplica
	CodeBehind
	CodeChunkFull
	CodeStaleEpoch
	CodeWrongIncarnation
	CodeConflict
	CodeSessionEnded
	CodeWrongCluster
	CodeInternal
	CodeInUse
	CodeTooFewServers
	CodeUnsyncedLost
	codeCount
)

// Action is what a client does about an error.
type Action uint8

// The actions. The zero value gives the error to the caller.
const (
	GiveUp           Action = iota // the caller must decide
	Retry                          // the same request again, after a pause
	RefreshLocations               // ask the master for the chunk again, then retry
	NextReplica                    // the same request to another replica
)

// Sentinels for errors.Is. Those with a twin in io/fs or syscall match the twin as well.
var (
	// ErrNoSpace means that a disk is full. Free space or add chunkservers, then write again.
	ErrNoSpace = errors.New("no space left")
	// ErrQuota means that a directory's quota is used up.
	ErrQuota = errors.New("quota exceeded")
	// ErrRecordTooLarge means that a record exceeds MaxRecordBytes.
	ErrRecordTooLarge = errors.New("record larger than a quarter of a chunk (16 MiB)")
	// ErrCorrupt means that no replica has bytes that match their checksums.
	ErrCorrupt = errors.New("data corrupt on every replica")
	// ErrOutcomeUnknown means that the call ended after it was sent: it may or may not take effect.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrBusy means that too much is in flight; only after the library's own retries.
	ErrBusy = errors.New("too many requests in flight")
	// ErrUnavailable means that who is needed does not answer; only after the library's own retries.
	ErrUnavailable = errors.New("unavailable")

	// ErrNotActing means that this master is not the acting one.
	ErrNotActing = errors.New("not the acting master")
	// ErrNotPrimary means that this chunkserver is not the chunk's primary.
	ErrNotPrimary = errors.New("not the primary of the chunk")
	// ErrStaleVersion means that the request names a version other than the replica's.
	ErrStaleVersion = errors.New("other chunk version")
	// ErrNoReplica means that the chunkserver holds no replica of the chunk that may be served.
	ErrNoReplica = errors.New("no replica of the chunk here")
	// ErrBehind means that the replica does not know of as much committed data as the client does.
	ErrBehind = errors.New("replica behind the client")
	// ErrChunkFull means that an append did not fit: the padding is committed, the next chunk takes it.
	ErrChunkFull = errors.New("chunk full")
	// ErrStaleEpoch means that an order comes from a master that another has replaced.
	ErrStaleEpoch = errors.New("order of a replaced master")
	// ErrWrongIncarnation means that an order is for an earlier process of this chunkserver.
	ErrWrongIncarnation = errors.New("order for another incarnation")
	// ErrConflict means that a record's precondition no longer held when it was applied.
	ErrConflict = errors.New("precondition no longer holds")
	// ErrSessionEnded means that the client session is unknown: it ended or never began.
	ErrSessionEnded = errors.New("client session ended")
	// ErrWrongCluster means that a chunkserver or a folder belongs to another cluster.
	ErrWrongCluster = errors.New("belongs to another cluster")
	// ErrInUse means that another running process has the folder.
	ErrInUse = errors.New("in use")
	// ErrTooFewServers means that fewer chunkservers are up than a chunk wants replicas. It is an ErrUnavailable.
	ErrTooFewServers = errors.New("too few chunkservers")
	// ErrUnsyncedLost means that power was lost at every replica before what had been written there was synced: all or a
	// part of it may be missing. Write it again, or find out what is there.
	ErrUnsyncedLost = errors.New("power was lost before unsynced writes were on disk")
	// ErrInternal is a bug or an error that has no code.
	ErrInternal = errors.New("internal error")
)

type errorRow struct {
	name     string
	sentinel error
	twin     error // what errors.Is also accepts, or nil
	action   Action
}

// errorTable is the one table of errors: a row a code.
var errorTable = [codeCount]errorRow{
	CodeNone:             {"none", nil, nil, GiveUp},
	CodeNotExist:         {"not_exist", fs.ErrNotExist, syscall.ENOENT, GiveUp},
	CodeExist:            {"exist", fs.ErrExist, syscall.EEXIST, GiveUp},
	CodePermission:       {"permission", fs.ErrPermission, syscall.EACCES, GiveUp},
	CodeInvalid:          {"invalid", fs.ErrInvalid, syscall.EINVAL, GiveUp},
	CodeClosed:           {"closed", fs.ErrClosed, nil, GiveUp},
	CodeNotEmpty:         {"not_empty", syscall.ENOTEMPTY, nil, GiveUp},
	CodeIsDirectory:      {"is_directory", syscall.EISDIR, nil, GiveUp},
	CodeNotDirectory:     {"not_directory", syscall.ENOTDIR, nil, GiveUp},
	CodeNoSpace:          {"no_space", ErrNoSpace, syscall.ENOSPC, GiveUp},
	CodeQuota:            {"quota", ErrQuota, syscall.EDQUOT, GiveUp},
	CodeRecordTooLarge:   {"record_too_large", ErrRecordTooLarge, nil, GiveUp},
	CodeCorrupt:          {"corrupt", ErrCorrupt, nil, NextReplica},
	CodeOutcomeUnknown:   {"outcome_unknown", ErrOutcomeUnknown, nil, GiveUp},
	CodeBusy:             {"busy", ErrBusy, nil, Retry},
	CodeUnavailable:      {"unavailable", ErrUnavailable, nil, Retry},
	CodeNotActing:        {"not_acting", ErrNotActing, nil, Retry},
	CodeNotPrimary:       {"not_primary", ErrNotPrimary, nil, RefreshLocations},
	CodeStaleVersion:     {"stale_version", ErrStaleVersion, nil, RefreshLocations},
	CodeNoReplica:        {"no_replica", ErrNoReplica, nil, NextReplica},
	CodeBehind:           {"behind", ErrBehind, nil, NextReplica},
	CodeChunkFull:        {"chunk_full", ErrChunkFull, nil, GiveUp},
	CodeStaleEpoch:       {"stale_epoch", ErrStaleEpoch, nil, GiveUp},
	CodeWrongIncarnation: {"wrong_incarnation", ErrWrongIncarnation, nil, GiveUp},
	CodeConflict:         {"conflict", ErrConflict, nil, GiveUp},
	CodeSessionEnded:     {"session_ended", ErrSessionEnded, nil, GiveUp},
	CodeWrongCluster:     {"wrong_cluster", ErrWrongCluster, nil, GiveUp},
	CodeInternal:         {"internal", ErrInternal, nil, GiveUp},
	CodeInUse:            {"in_use", ErrInUse, nil, GiveUp},
	CodeTooFewServers:    {"too_few_servers", ErrTooFewServers, ErrUnavailable, Retry},
	CodeUnsyncedLost:     {"unsynced_lost", ErrUnsyncedLost, syscall.EIO, GiveUp},
}

func (c Code) row() errorRow {
	if c >= codeCount {
		c = CodeInternal // a later peer's code: treated as the most general one
	}
	return errorTable[c]
}

// String is the code's name in logs and --json output.
func (c Code) String() string { return c.row().name }

// Action is what a client does about an error of this code.
func (c Code) Action() Action { return c.row().action }

// Error is an error that crossed, or can cross, a process boundary: a code that decides and a detail that a
// person reads, saying what was wrong and what would be right.
type Error struct {
	Code   Code
	Detail string
}

// Errorf makes an Error. The detail should say what to do.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Error is the detail, or the sentinel's text where there is none.
func (e *Error) Error() string {
	row := e.Code.row()
	if row.sentinel == nil {
		return e.Detail
	}
	if e.Detail == "" {
		return row.sentinel.Error()
	}
	return row.sentinel.Error() + ": " + e.Detail
}

// Is reports whether target is the sentinel of the code or its twin.
func (e *Error) Is(target error) bool {
	row := e.Code.row()
	return target != nil && (target == row.sentinel || target == row.twin)
}

// CodeOf finds the code of any error: that of the Error it wraps, else of the sentinel that it matches, else
// CodeInternal. A context's end is CodeOutcomeUnknown. Nil is CodeNone.
func CodeOf(err error) Code {
	if err == nil {
		return CodeNone
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return CodeOutcomeUnknown
	}
	// From the last code down: ENOTEMPTY also matches fs.ErrExist, whose code comes first. Twins may be another
	// row's sentinel, so they come after all sentinels.
	for code := codeCount - 1; code > CodeNone; code-- {
		if errors.Is(err, errorTable[code].sentinel) {
			return code
		}
	}
	for code := codeCount - 1; code > CodeNone; code-- {
		if twin := errorTable[code].twin; twin != nil && errors.Is(err, twin) {
			return code
		}
	}
	return CodeInternal
}

// DetailOf is what err says beside the text of its code's sentinel: for an error of the same code that goes on with it,
// so that the sentinel's text does not stand there twice.
func DetailOf(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Detail != "" {
		return e.Detail
	}
	return err.Error()
}

// FromCode remakes the error that a peer sent; nil for CodeNone.
func FromCode(code Code, detail string) error {
	if code == CodeNone {
		return nil
	}
	return &Error{Code: code, Detail: detail}
}
