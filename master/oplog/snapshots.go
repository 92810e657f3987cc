package oplog

import (
	"io"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	// retainedCheckpoints is the newest and the one before: an operator who loses the newest to a bad disk can
	// go back by hand, as long as the log still reaches back to it.
	retainedCheckpoints = 2
	// raftStateFile is the name that the Raft library gives to a snapshot's content.
	raftStateFile = "state.bin"
)

// checkpointStore is the Raft library's snapshot store with two differences. It lists the newest checkpoint alone,
// because Raft otherwise falls back to an older one without a word, although the log may not reach back that far.
// And what it opens knows its path, so that bolt can map the file instead of copying it.
type checkpointStore struct {
	files  *raft.FileSnapshotStore
	folder string

	mu      sync.Mutex
	openErr error // why the last Open failed, or nil
}

func newCheckpointStore(dir string, logger hclog.Logger) (*checkpointStore, error) {
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, retainedCheckpoints, logger)
	if err != nil {
		return nil, err
	}
	return &checkpointStore{files: files, folder: filepath.Join(dir, "snapshots")}, nil
}

// Create begins a checkpoint.
func (s *checkpointStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, transport raft.Transport,
) (raft.SnapshotSink, error) {
	return s.files.Create(version, index, term, configuration, configurationIndex, transport)
}

// List returns the newest checkpoint, or none.
func (s *checkpointStore) List() ([]*raft.SnapshotMeta, error) {
	metas, err := s.files.List()
	return metas[:min(len(metas), 1)], err
}

// Open checks the file against its CRC64 and opens it.
func (s *checkpointStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, content, err := s.files.Open(id)
	s.mu.Lock()
	s.openErr = err
	s.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	return meta, &checkpointFile{
		ReadCloser: content,
		path:       filepath.Join(s.folder, id, raftStateFile),
		index:      meta.Index,
	}, nil
}

// lastOpenError is why the last Open failed, or nil.
func (s *checkpointStore) lastOpenError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openErr
}

// checkpointFile is an open checkpoint.
type checkpointFile struct {
	io.ReadCloser
	path  string
	index uint64
}

// unwrapCheckpoint finds the file behind the readers that the Raft library puts around it.
func unwrapCheckpoint(content io.ReadCloser) (*checkpointFile, bool) {
	for {
		switch c := content.(type) {
		case *checkpointFile:
			return c, true
		case raft.ReadCloserWrapper:
			content = c.WrappedReadCloser()
		default:
			return nil, false
		}
	}
}
