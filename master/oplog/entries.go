package oplog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync/atomic"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// entryStore is the store of Raft's log entries: raft-wal with three additions. Each entry carries a CRC32C of
// index, term, type and data in its Extensions, from the leader's memory to every reader (raft-wal checks only
// the last write of its last segment); it counts bytes, which decide when a checkpoint is due; and it tells the
// batcher when the leader has written an entry. A failed write is fatal: after it nobody knows what is on disk.
type entryStore struct {
	wal     *wal.WAL
	failed  func(error)   // called once a write failed
	written chan struct{} // capacity 1: an entry was written
	due     chan struct{} // capacity 1: bytes reached limit
	limit   int64         // bytes of log between checkpoints
	bytes   atomic.Int64  // bytes of log since the last checkpoint
	reading atomic.Bool   // the log is read for the first time: count what follows the checkpoint
}

const entryCRCBytes = 4

// entryOverheadBytes is what an entry takes in the log beside its data, about.
const entryOverheadBytes = 64

// entryCRC covers what Raft decides on, not only what the machine applies.
func entryCRC(entry *raft.Log) uint32 {
	var head [17]byte
	binary.LittleEndian.PutUint64(head[0:], entry.Index)
	binary.LittleEndian.PutUint64(head[8:], entry.Term)
	head[16] = byte(entry.Type)
	return crc32.Update(crc32.Checksum(head[:], castagnoli()), castagnoli(), entry.Data)
}

func checkEntry(entry *raft.Log) error {
	if len(entry.Extensions) != entryCRCBytes {
		return gfs.Errorf(gfs.CodeCorrupt, "log entry %d carries no checksum", entry.Index)
	}
	if want, got := binary.LittleEndian.Uint32(entry.Extensions), entryCRC(entry); want != got {
		return gfs.Errorf(gfs.CodeCorrupt, "log entry %d has CRC32C %08x, it was written with %08x", entry.Index, got, want)
	}
	return nil
}

// FirstIndex is the index of the oldest entry kept, 0 if there is none.
func (s *entryStore) FirstIndex() (uint64, error) { return s.wal.FirstIndex() }

// LastIndex is the index of the newest entry, 0 if there is none.
func (s *entryStore) LastIndex() (uint64, error) { return s.wal.LastIndex() }

// IsMonotonic tells Raft that indexes have no gaps.
func (s *entryStore) IsMonotonic() bool { return s.wal.IsMonotonic() }

// DeleteRange drops entries that a checkpoint covers, or a tail that the leader of the group does not have.
func (s *entryStore) DeleteRange(first, last uint64) error { return s.wal.DeleteRange(first, last) }

// GetLog reads and checks one entry.
func (s *entryStore) GetLog(index uint64, entry *raft.Log) (err error) {
	defer func() {
		// raft-wal's decoder slices by lengths that it read: damage there is a panic.
		if damage := recover(); damage != nil {
			err = gfs.Errorf(gfs.CodeCorrupt, "log entry %d cannot be decoded: %v", index, damage)
		}
	}()
	if err := s.wal.GetLog(index, entry); err != nil {
		if errors.Is(err, wal.ErrNotFound) {
			return raft.ErrLogNotFound
		}
		return fmt.Errorf("read log entry %d: %w", index, err)
	}
	if entry.Index != index {
		return gfs.Errorf(gfs.CodeCorrupt, "log entry %d is found in the place of %d", entry.Index, index)
	}
	if err := checkEntry(entry); err != nil {
		return err
	}
	if s.reading.Load() {
		s.count(entry)
	}
	return nil
}

// StoreLog writes one entry.
func (s *entryStore) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

// StoreLogs writes entries and syncs once. Those that come from a peer are checked before they are written: an
// entry damaged on the way is refused and sent again.
func (s *entryStore) StoreLogs(entries []*raft.Log) error {
	sealed := make([]*raft.Log, len(entries))
	for i, entry := range entries {
		if len(entry.Extensions) > 0 {
			if err := checkEntry(entry); err != nil {
				return err
			}
			sealed[i] = entry
			continue
		}
		// A copy: Raft's own entry is already shared with other goroutines.
		own := *entry
		own.Extensions = binary.LittleEndian.AppendUint32(nil, entryCRC(entry))
		sealed[i] = &own
	}
	if err := s.wal.StoreLogs(sealed); err != nil {
		err = fmt.Errorf("write the operation log: %w", err)
		s.failed(err)
		return err
	}
	for _, entry := range sealed {
		s.count(entry)
	}
	signal(s.written)
	return nil
}

func (s *entryStore) count(entry *raft.Log) {
	if s.bytes.Add(int64(len(entry.Data)+entryOverheadBytes)) >= s.limit {
		signal(s.due)
	}
}

// signal sets a flag that is a channel of capacity 1; it never blocks.
func signal(flag chan<- struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}
