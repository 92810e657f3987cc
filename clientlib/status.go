package clientlib

import (
	"io/fs"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// FileStatus is what FileInfo.Sys returns, as a *FileStatus: what the master knows beyond io/fs.
type FileStatus struct {
	ID       gfs.FileID // for ever, across renames
	Replicas int        // wanted of each chunk
	Chunks   int
	Owner    string
	Group    string
	Open     bool // the last chunk is open for mutation: the length may grow at any moment
	Synced   bool // every acknowledgement waits for fsync on all replicas
}

// fileInfo implements fs.FileInfo.
type fileInfo struct {
	name     string
	length   int64
	mode     fs.FileMode
	modified time.Time
	status   FileStatus
}

// newFileInfo takes what the master said; length is the true one.
func newFileInfo(s *pb.FileStatus, length int64) *fileInfo {
	mode := fs.FileMode(s.GetMode()) & fs.ModePerm
	if s.GetDirectory() {
		mode |= fs.ModeDir
		length = 0
	}
	return &fileInfo{name: s.GetName(), length: length, mode: mode, modified: time.Unix(0, s.GetModifiedUnixNano()),
		status: FileStatus{ID: gfs.FileID(s.GetFileId()), Replicas: int(s.GetReplicas()), Chunks: int(s.GetChunks()),
			Owner: s.GetOwner(), Group: s.GetGroup(), Open: s.GetOpen(), Synced: s.GetSynced()}}
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.length }
func (i *fileInfo) Mode() fs.FileMode  { return i.mode }
func (i *fileInfo) ModTime() time.Time { return i.modified }
func (i *fileInfo) IsDir() bool        { return i.mode.IsDir() }
func (i *fileInfo) String() string     { return fs.FormatFileInfo(i) }

// Sys is a *FileStatus that the caller owns.
func (i *fileInfo) Sys() any {
	status := i.status
	return &status
}

// FSInfo describes the whole file system. Bytes are those of the chunkservers' disks, so replicas count each.
type FSInfo struct {
	CapacityBytes, UsedBytes, FreeBytes int64
	Files, Directories, Chunks          int64
	UnderReplicated                     int64 // chunks with fewer good replicas than wanted
	Corrupt                             int64 // chunks with a replica that failed its checksums
	Missing                             int64 // chunks without any good replica
	ChunkserversUp, Chunkservers        int
}

// Server is a chunkserver as a client sees it.
type Server struct {
	ID   gfs.ServerID
	Addr string // HOST:PORT of its data plane
	Rack string
}

// ChunkLocation says where a range of a file is stored, so that work can go to the data.
type ChunkLocation struct {
	Offset  int64 // in the file, in bytes
	Length  int64 // of the chunk's data, in bytes: what the file holds behind it up to the next chunk reads as zeros
	Handle  gfs.ChunkHandle
	Version gfs.Version
	Open    bool         // for mutation: the chunk may grow at any moment
	Primary gfs.ServerID // orders the mutations of an open chunk; empty while nobody does
	Servers []Server     // that have a good replica and are up, in the order in which this client reads from them
}
