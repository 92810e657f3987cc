package oplog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
)

// termKey is where the Raft library keeps its current term in the stable store.
const termKey = "CurrentTerm"

// bootstrapTerm is the term that the Raft library gives a new group.
const bootstrapTerm = 1

// openWAL opens the log's files; damage makes raft-wal's decoders fail or panic. Once it has returned, meta is
// closed by the caller, whatever the result.
func openWAL(folder string, meta *metadb.BoltMetaDB, segmentBytes int, logger hclog.Logger) (w *wal.WAL, err error) {
	defer func() {
		if damage := recover(); damage != nil {
			w, err = nil, gfs.Errorf(gfs.CodeCorrupt, "the log in %s cannot be read: %v", folder, damage)
		}
	}()
	w, err = wal.Open(folder, wal.WithMetaStore(meta), wal.WithSegmentSize(segmentBytes), wal.WithLogger(logger))
	if errors.Is(err, wal.ErrCorrupt) {
		return nil, gfs.Errorf(gfs.CodeCorrupt, "the log in %s cannot be read: %v", folder, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the operation log: %w", err)
	}
	return w, nil
}

// checkHistory looks at log, checkpoint and term together before Raft does. It reports whether the master is new.
// What a crash leaves behind is put right, what only lost files can explain is refused.
func (l *Log) checkHistory(store *checkpointStore) (fresh bool, err error) {
	metas, err := store.List()
	if err != nil {
		return false, fmt.Errorf("list checkpoints: %w", err)
	}
	first, err := l.entries.FirstIndex()
	if err != nil {
		return false, fmt.Errorf("read the operation log: %w", err)
	}
	last, err := l.entries.LastIndex()
	if err != nil {
		return false, fmt.Errorf("read the operation log: %w", err)
	}
	term, err := l.stable.GetUint64([]byte(termKey))
	if err != nil && err.Error() != "not found" {
		return false, fmt.Errorf("read %s: %w", stableFile, err)
	}
	covered := uint64(0)
	if len(metas) > 0 {
		covered = metas[0].Index
	}
	switch {
	case last == 0 && covered == 0 && term > bootstrapTerm:
		return false, gfs.Errorf(gfs.CodeCorrupt, "folder %s has been in term %d but holds neither log nor checkpoint: put them back from a backup", l.cfg.Dir, term)
	case last == 0 && covered == 0:
		// New, or killed between the two writes that make it new: begin again.
		return true, l.stable.SetUint64([]byte(termKey), 0)
	case last != 0 && term == 0:
		return false, gfs.Errorf(gfs.CodeCorrupt, "folder %s holds a log but no term: put %s back from a backup", l.cfg.Dir, stableFile)
	case first > covered+1:
		return false, gfs.Errorf(gfs.CodeCorrupt, "the log in %s begins at entry %d, its newest readable checkpoint ends at %d: put the folder back from a backup",
			l.cfg.Dir, first, covered)
	case last != 0 && last < covered:
		// Killed after a checkpoint was received and before the log that it replaces was dropped. The next entry
		// would leave a gap, which raft-wal refuses.
		return false, l.entries.DeleteRange(first, last)
	}
	return false, nil
}

// removeUnfinished drops checkpoints that a crash cut short.
func removeUnfinished(folder string) error {
	names, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name.Name(), ".tmp") {
			if err := os.RemoveAll(filepath.Join(folder, name.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

var _ raft.MonotonicLogStore = (*entryStore)(nil)
