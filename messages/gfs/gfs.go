package gfs

import (
	"fmt"
	"strconv"
)

// ChunkSize is the size in bytes of every chunk of a file but the last, which may be shorter.
// Source: GFS 2.5
const ChunkSize = 64 << 20

// BlockSize is the unit in bytes that a checksum covers. A chunk has BlocksPerChunk of them.
// Source: GFS 5.2
const BlockSize = 64 << 10

// BlocksPerChunk is the number of checksummed blocks of a full chunk.
const BlocksPerChunk = ChunkSize / BlockSize

// ChunkHandle names a chunk for ever. The master gives handles out once, in rising order, from 1. Zero means none.
// Source: GFS 2.3
type ChunkHandle uint64

// String writes the handle as 16 hex digits, its form in logs and file names.
func (h ChunkHandle) String() string { return fmt.Sprintf("%016x", uint64(h)) }

// ParseChunkHandle reads the 16 hex digits that String wrote.
func ParseChunkHandle(text string) (ChunkHandle, error) {
	if len(text) != 16 {
		return 0, fmt.Errorf("chunk handle %q: want 16 hex digits", text)
	}
	n, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("chunk handle %q: want 16 hex digits", text)
	}
	return ChunkHandle(n), nil
}

// FileID names a file or directory for ever, across renames. Zero means none; RootID is the root directory.
type FileID uint64

// RootID is the root directory.
const RootID FileID = 1

// Epoch counts the times a master began to act. The state machine raises it when it applies the record with
// which a master begins; every order of a master carries it and chunkservers refuse older ones. From 1.
type Epoch uint32

// Version is the chunk version number: the epoch of the master that made the attempt in the upper 32 bits, a
// counter of that master's attempts in the lower 32. A number is used for one attempt and never again, so it
// names exactly one configuration. Zero means none.
// Source: GFS 4.5, made unique
type Version uint64

// NewVersion is the version of attempt number attempt (from 1) under epoch.
func NewVersion(epoch Epoch, attempt uint32) Version { return Version(epoch)<<32 | Version(attempt) }

// Epoch is the epoch of the master that made the version.
func (v Version) Epoch() Epoch { return Epoch(v >> 32) }

// String writes a version as epoch.attempt.
func (v Version) String() string { return fmt.Sprintf("%d.%d", uint32(v>>32), uint32(v)) }

// Serial is the serial number that a primary gives a mutation. Numbers run from 1 in each version of a chunk.
// Source: GFS 3.1
type Serial uint64

// ServerID names a chunkserver for ever: 16 hex digits made at its first start, kept in its data directory.
type ServerID string

// Incarnation is a random number that a chunkserver process draws at its start: it tells a restarted process
// from the one before. Zero means none.
type Incarnation uint64

// WriterID names a writer of record appends; with a sequence number it identifies an append across retries.
// Zero means that the append may be repeated by a retry.
type WriterID uint64

// ReplicaState says what a replica may be counted for.
type ReplicaState uint8

// The states of a replica. A member holds every acknowledged mutation. A learner is being filled and counts for
// nothing. A suspect may have lost unsynced writes (a reboot, a failed disk write) and serves nobody until it
// was reconciled. A corrupt replica failed its checksums and waits to be replaced.
const (
	ReplicaMember ReplicaState = iota + 1
	ReplicaLearner
	ReplicaSuspect
	ReplicaCorrupt
)

// String is the state's name in logs and --json output.
func (s ReplicaState) String() string {
	switch s {
	case ReplicaMember:
		return "member"
	case ReplicaLearner:
		return "learner"
	case ReplicaSuspect:
		return "suspect"
	case ReplicaCorrupt:
		return "corrupt"
	}
	return "state(" + strconv.Itoa(int(s)) + ")"
}
