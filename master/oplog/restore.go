package oplog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/boltdb/bolt"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb"
	"golang.org/x/sys/unix"
)

// Restore makes a master's folder out of the state in view, as if it had been checkpointed at index: a later Open, with
// the same Cluster, ID and Peers, begins with it. Each master of a group needs the same; one that starts empty is sent
// the checkpoint by the others, but of one alone that was restored the others would know nothing, and outvote it.
//
// Of cfg only Dir, Cluster, ID and Peers count. Dir must not exist or be empty: gfs.CodeInUse if a master runs there,
// gfs.CodeExist if it holds anything. The identity is written last, so a folder that was cut short is refused by Open.
func Restore(cfg Config, index uint64, view View) (err error) {
	defer view.Release()
	if err := errors.Join(checkID("cluster", cfg.Cluster), checkID("master", cfg.ID), cfg.checkPeers()); err != nil {
		return err
	}
	lock, err := claimEmpty(cfg.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	folder := filepath.Join(cfg.Dir, raftFolder)
	if err := os.Mkdir(folder, 0o755); err != nil {
		return fmt.Errorf("master folder: %w", err)
	}
	if err := restoreTerm(filepath.Join(folder, stableFile)); err != nil {
		return err
	}
	store, err := newCheckpointStore(folder, hclog.NewNullLogger())
	if err != nil {
		return fmt.Errorf("make the folder of checkpoints: %w", err)
	}
	// The transport only has to write addresses the way that they are.
	_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.ID))
	sink, err := store.Create(raft.SnapshotVersionMax, max(index, 1), bootstrapTerm, raft.Configuration{Servers: cfg.servers()}, 1, transport)
	if err != nil {
		return fmt.Errorf("make a checkpoint: %w", err)
	}
	if err := streamCheckpoint(sink, filepath.Join(folder, scratchFile), view, nil); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := errors.Join(sink.Close(), syncFolder(store.folder), syncFolder(folder), syncFolder(cfg.Dir)); err != nil {
		return fmt.Errorf("write the checkpoint: %w", err)
	}
	return writeFileDurably(filepath.Join(cfg.Dir, identityFile), identity{cluster: cfg.Cluster, master: cfg.ID}.encode())
}

// restoreTerm makes the stable store of a master that was in the first term and has voted for nobody.
func restoreTerm(path string) error {
	stable, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bolt.Options{Timeout: stableLockTimeout}})
	if err != nil {
		return fmt.Errorf("make %s: %w", stableFile, err)
	}
	return errors.Join(stable.SetUint64([]byte(termKey), bootstrapTerm), stable.Close())
}

// claimEmpty locks a folder that holds nothing, or says what it holds.
func claimEmpty(dir string) (*os.File, error) {
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("master folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("master folder: %w", err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name fs.DirEntry) bool { return name.Name() == lockFile })
	if len(names) > 0 {
		return nil, errors.Join(occupied(dir, names), lock.Close())
	}
	return lock, nil
}

// occupied is the error about a folder that is not empty.
func occupied(dir string, names []fs.DirEntry) error {
	if data, err := os.ReadFile(filepath.Join(dir, identityFile)); err == nil {
		if id, err := decodeIdentity(data); err == nil {
			return gfs.Errorf(gfs.CodeExist, "folder %s belongs to master %s of cluster %q already: move it away, or restore into another", dir, id.master, id.cluster)
		}
	}
	var some []string
	for _, name := range names[:min(len(names), 3)] {
		some = append(some, name.Name())
	}
	return gfs.Errorf(gfs.CodeExist, "folder %s is not empty, it holds %s: move it away, or restore into another", dir, strings.Join(some, ", "))
}

// lockFolder locks a folder for one process, until the returned file is closed.
func lockFolder(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("master folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, gfs.Errorf(gfs.CodeInUse, "folder %s belongs to a running master: stop it, or use another folder", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return lock, nil
}
