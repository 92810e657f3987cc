package clientlib

import (
	"context"
	"io/fs"
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Stat describes a file or directory; the length is the true one, also while the file is being written. Sys of the
// result is a *FileStatus.
func (c *Client) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	path, err := gfs.CleanPath(name)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	info, err := c.stat(c.patience(ctx), &pb.StatRequest{Path: path})
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return info, nil
}

// Chmod sets the permission bits.
func (c *Client) Chmod(ctx context.Context, name string, mode fs.FileMode) error {
	bits := uint32(mode.Perm())
	return c.setAttributes(ctx, "chmod", name, &pb.SetAttributes{Mode: &bits})
}

// Chown sets owner and group; an empty one stays as it is.
func (c *Client) Chown(ctx context.Context, name, owner, group string) error {
	change := &pb.SetAttributes{}
	if owner != "" {
		change.Owner = &owner
	}
	if group != "" {
		change.Group = &group
	}
	return c.setAttributes(ctx, "chown", name, change)
}

// Chtimes sets the time of the last modification.
func (c *Client) Chtimes(ctx context.Context, name string, modified time.Time) error {
	nanoseconds := modified.UnixNano()
	return c.setAttributes(ctx, "chtimes", name, &pb.SetAttributes{ModifiedUnixNano: &nanoseconds})
}

// SetReplicas sets how many replicas each chunk of a file should have: 1 to gfs.MaxReplicas. The master brings the
// chunks there in the background.
func (c *Client) SetReplicas(ctx context.Context, name string, replicas int) error {
	if replicas < 1 || replicas > gfs.MaxReplicas {
		return pathError("setreplicas", name, gfs.Errorf(gfs.CodeInvalid, "%d replicas: want 1 to %d", replicas, gfs.MaxReplicas))
	}
	wanted := uint32(replicas)
	return c.setAttributes(ctx, "setreplicas", name, &pb.SetAttributes{Replicas: &wanted})
}

func (c *Client) setAttributes(ctx context.Context, op, name string, change *pb.SetAttributes) error {
	return c.change(ctx, op, name, func(path string) *pb.NamespaceMutation {
		change.Path = path
		return &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_SetAttributes{SetAttributes: change}}
	})
}

// StatFS describes the whole file system.
func (c *Client) StatFS(ctx context.Context) (FSInfo, error) {
	reply := &pb.StatFSReply{}
	if err := c.ask(ctx, messages.OpStatFS, &pb.StatFSRequest{}, reply); err != nil {
		return FSInfo{}, pathError("statfs", "/", err)
	}
	return FSInfo{
		CapacityBytes: reply.GetCapacityBytes(), UsedBytes: reply.GetUsedBytes(), FreeBytes: reply.GetFreeBytes(),
		Files: int64(reply.GetFiles()), Directories: int64(reply.GetDirectories()), Chunks: int64(reply.GetChunks()),
		UnderReplicated: int64(reply.GetUnderReplicated()), Corrupt: int64(reply.GetCorrupt()), Missing: int64(reply.GetMissing()),
		ChunkserversUp: int(reply.GetChunkserversUp()), Chunkservers: int(reply.GetChunkservers()),
	}, nil
}

// Locations asks the master where the chunks are stored that hold length bytes from offset, in the file's order, the
// nearest server first.
func (c *Client) Locations(ctx context.Context, name string, offset, length int64) ([]ChunkLocation, error) {
	found, err := c.chunkLocations(c.patience(ctx), name, offset, length)
	return found, pathError("locations", name, err)
}

func (c *Client) chunkLocations(p *patience, name string, offset, length int64) ([]ChunkLocation, error) {
	if offset < 0 || length < 0 {
		return nil, gfs.Errorf(gfs.CodeInvalid, "%d bytes from offset %d: want no negative numbers", length, offset)
	}
	path, err := gfs.CleanPath(name)
	if err != nil {
		return nil, err
	}
	info, err := c.stat(p, &pb.StatRequest{Path: path})
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, gfs.Errorf(gfs.CodeIsDirectory, "only files have chunks")
	}
	end := min(offset+min(length, gfs.MaxFileBytes), info.length)
	var found []ChunkLocation
	for start := offset / gfs.ChunkSize * gfs.ChunkSize; start < end; start += gfs.ChunkSize {
		find := c.locate
		if len(found)%locateAhead == 0 { // the master is asked for these, not the cache
			find = c.fetchLocations
		}
		at, exists, err := find(p, info.status.ID, uint32(start/gfs.ChunkSize))
		if err != nil || !exists {
			return found, err
		}
		held := info.length - start
		if held > gfs.ChunkSize { // full, but for one that a hole ends
			held = at.length
			if at.open || held < gfs.ChunkSize {
				if held, exists, err = c.chunkLength(p, info.status.ID, at.index); err != nil || !exists {
					return found, err
				}
			}
		}
		found = append(found, ChunkLocation{Offset: start, Length: held,
			Handle: at.handle, Version: at.version, Open: at.open, Primary: at.primary, Servers: c.candidates(at, false)})
		p.progress()
	}
	return found, nil
}
