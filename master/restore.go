package master

import (
	"fmt"
	"io"
	"time"

	"github.com/cairnfs/cairn/master/backup"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/oplog"
	"github.com/cairnfs/cairn/messages/gfs"
)

// RestoreConfig says which master to make out of a backup: all fields as in Config of the master that will run there.
type RestoreConfig struct {
	ID      string // empty: the master's that made the backup
	Cluster string
	Dir     string // must not exist or be empty
	Peers   []oplog.Peer
	Now     time.Time // the time on this machine's clock, by which the next epoch is chosen when the master starts
}

// Restored says what was restored.
type Restored struct {
	backup.Header
	Counts namespace.Counts
}

// Restore makes the folder of a master out of a backup, which is read to its end and checked before anything is written.
// No master may run in the folder. Each master of a group is to be restored from the same backup.
//
// Errors: gfs.CodeWrongCluster, gfs.CodeInvalid (no backup, a newer format, a clock before the backup's), ErrDamaged of
// package backup, and those of oplog.Restore.
func Restore(cfg RestoreConfig, from io.Reader) (Restored, error) {
	header, pages, err := backup.Read(from)
	if err != nil {
		return Restored{}, err
	}
	if header.Cluster != cfg.Cluster {
		return Restored{}, gfs.Errorf(gfs.CodeWrongCluster, "the backup is of cluster %q, not %q: name that cluster, or take another backup", header.Cluster, cfg.Cluster)
	}
	if cfg.Now.Before(header.Made) {
		return Restored{}, gfs.Errorf(gfs.CodeInvalid, "this machine's clock says %s, and the backup was made at %s: set the clock, since the next epoch is chosen by it",
			cfg.Now.UTC().Format(time.RFC3339), header.Made.UTC().Format(time.RFC3339))
	}
	if cfg.ID == "" {
		cfg.ID = header.Master
	}
	state, err := namespace.Load(func(yield func(namespace.Page, error) bool) {
		for p, err := range pages {
			if !yield(namespace.Page(p), err) {
				return
			}
		}
	})
	if err != nil {
		return Restored{}, fmt.Errorf("read the backup: %w", err)
	}
	state.MarkRestored()
	view := state.View()
	err = oplog.Restore(oplog.Config{Cluster: cfg.Cluster, ID: cfg.ID, Dir: cfg.Dir, Peers: cfg.Peers}, header.Index, checkpoint{view})
	return Restored{Header: header, Counts: view.Counts()}, err
}
