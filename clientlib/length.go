package clientlib

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// stat asks the master for a file's status, and, while its last chunk is open for mutation, a replica that knows
// for the true length.
func (c *Client) stat(p *patience, request *pb.StatRequest) (*fileInfo, error) {
	request.Identity = c.identify()
	status := &pb.FileStatus{}
	if _, err := c.askUntil(p, messages.OpStat, request, status); err != nil {
		return nil, err
	}
	length, err := c.trueLength(p, status)
	if err != nil {
		return nil, err
	}
	return newFileInfo(status, length), nil
}

// trueLength is the length of the file that status describes.
func (c *Client) trueLength(p *patience, status *pb.FileStatus) (int64, error) {
	for {
		if status.GetDirectory() || !status.GetOpen() || status.GetChunks() == 0 {
			return status.GetLength(), nil
		}
		last := status.GetChunks() - 1
		length, exists, err := c.chunkLength(p, gfs.FileID(status.GetFileId()), last)
		if err != nil || exists {
			return int64(last)*gfs.ChunkSize + length, err
		}
		// A truncation has cut it away since.
		request := &pb.StatRequest{Identity: c.identify(), FileId: status.GetFileId()}
		status = &pb.FileStatus{}
		if _, err := c.askUntil(p, messages.OpStat, request, status); err != nil {
			return 0, err
		}
	}
}

// chunkLength is the committed length of a chunk now, if the file has it.
func (c *Client) chunkLength(p *patience, file gfs.FileID, index uint32) (length int64, exists bool, err error) {
	for {
		at, exists, err := c.fetchLocations(p, file, index)
		switch {
		case err != nil || !exists:
			return 0, false, err
		case !at.open:
			return at.length, true, nil
		}
		last := error(gfs.Errorf(gfs.CodeUnavailable, "chunk %v is open for mutation and has no primary", at.handle))
		for _, server := range c.candidates(at, true) {
			reply := &pb.LengthReply{}
			err := c.exchange(p, server, readLane, wire.OpLength, &pb.Length{Handle: uint64(at.handle), Version: uint64(at.version)}, reply)
			if err == nil {
				err = gfs.FromCode(gfs.Code(reply.GetCode()), reply.GetDetail())
			}
			if err == nil && reply.GetEndKnown() {
				c.locations.saw(file, at, reply.GetCommitLength())
				return reply.GetCommitLength(), true, nil
			}
			if isFault(err) {
				c.unreachable(p, at, server, err)
			}
			if err == nil {
				continue
			}
			if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				return 0, false, err
			}
			last = err
		}
		if err := p.pause(last); err != nil {
			return 0, false, err
		}
	}
}

// syncChunk makes every acknowledged mutation of the chunk durable on all its replicas. since is the version in which the
// first of them was acknowledged: ErrUnsyncedLost if power was lost at all replicas in a later one.
func (c *Client) syncChunk(p *patience, file gfs.FileID, index uint32, since gfs.Version) error {
	synced, exists, err := c.makeDurable(p, file, index)
	if err != nil || !exists || synced == since {
		return err
	}
	at, _, err := c.fetchLocations(p, file, index)
	if err == nil && at.lost > since {
		err = gfs.Errorf(gfs.CodeUnsyncedLost, "chunk %v of file %d, from byte %d on: what was written since version %s was not all synced before version %s",
			at.handle, file, int64(index)*gfs.ChunkSize, since, at.lost)
	}
	return err
}

// makeDurable syncs what a chunk holds, in the version that it returns. Exists is false if a truncation has cut it away.
func (c *Client) makeDurable(p *patience, file gfs.FileID, index uint32) (version gfs.Version, exists bool, err error) {
	for {
		at, exists, err := c.locate(p, file, index)
		if err != nil {
			return 0, false, err
		}
		if exists && !at.open { // perhaps only when it was cached
			at, exists, err = c.fetchLocations(p, file, index)
			if err != nil {
				return 0, false, err
			}
		}
		if !exists || !at.open {
			return at.version, exists, nil // closing made it durable
		}
		err = gfs.Errorf(gfs.CodeUnavailable, "chunk %v is open for mutation and has no primary", at.handle)
		if server, ok := at.primaryServer(); ok {
			reply := &pb.SyncChunkReply{}
			err = c.exchange(p, server, mutateLane, wire.OpSync, &pb.SyncChunk{Handle: uint64(at.handle), Version: uint64(at.version)}, reply)
			if err == nil {
				err = gfs.FromCode(gfs.Code(reply.GetCode()), reply.GetDetail())
			}
			if err == nil {
				return at.version, true, nil
			}
			if isFault(err) {
				c.unreachable(p, at, server, err)
			}
		}
		if actionFor(err) == gfs.GiveUp {
			return 0, false, err
		}
		c.locations.drop(file, at)
		if err := p.pause(err); err != nil {
			return 0, false, err
		}
	}
}

// exchange sends one request without payload to a chunkserver. A sync may take long, so there only a server that is
// silent altogether is given up.
func (c *Client) exchange(p *patience, server Server, l lane, op wire.Op, request, reply proto.Message) error {
	conn, err := c.pool.get(p.ctx, server.Addr, l)
	if err != nil {
		return err
	}
	quiet := readSilence
	if op == wire.OpSync {
		quiet = p.left()
	}
	err = conn.do(p.ctx, op, request, reply, quiet)
	return err
}
