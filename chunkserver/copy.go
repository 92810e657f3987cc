package chunkserver

import (
	"context"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// copyPieceBytes is how much a copy reads and writes at once.
const copyPieceBytes = 16 * gfs.BlockSize

// onCopy makes the replica here a copy of a closed chunk's, cut or extended to a length.
func (c *chunk) onCopy(order *pb.CopyOrder, reply actors.Reply[*pb.CopyReply]) {
	c.queue(func() {
		var digest [32]byte
		c.work(c.cs.joiners, func(ctx context.Context) (err error) {
			digest, err = copyReplica(ctx, c.cs.store, order)
			return err
		}, func(err error) {
			reply.Send(&pb.CopyReply{Digest: digest[:]}, err)
			c.finish()
		})
	}, reply.Fail)
}

// copyReplica obeys a CopyOrder; the same order again finds what was made. Up to its end the copy is a learner, so that
// half a copy is never taken for a whole one.
func copyReplica(ctx context.Context, s *store.Store, order *pb.CopyOrder) (digest [32]byte, err error) {
	version := gfs.Version(order.Version)
	replica, err := s.CreateLearner(gfs.ChunkHandle(order.Handle), version)
	if gfs.CodeOf(err) == gfs.CodeExist {
		replica, err = copyBegun(s, order)
	}
	if err != nil {
		return digest, err
	}
	if replica.Status().State == gfs.ReplicaLearner {
		if err := copyContent(ctx, s, replica, order); err != nil {
			return digest, err
		}
	}
	if err := replica.Sync(); err != nil && gfs.CodeOf(err) != gfs.CodeConflict { // closed: it was
		return digest, err
	}
	if err := s.Unmark([]*store.Replica{replica}); err != nil {
		return digest, err
	}
	held, err := replica.Digest()
	return held.Sum(), err
}

// copyBegun finds the replica that an earlier try of the same order has made or begun.
func copyBegun(s *store.Store, order *pb.CopyOrder) (*store.Replica, error) {
	replica, err := s.Get(gfs.ChunkHandle(order.Handle))
	if err != nil {
		return nil, err
	}
	status, version := replica.Status(), gfs.Version(order.Version)
	begun := status.State == gfs.ReplicaLearner && status.Marked && status.Promised == version && status.Active == 0
	done := status.State == gfs.ReplicaMember && status.Promised == version && status.Active == version && status.Length == order.Length
	if !begun && !done {
		return nil, gfs.Errorf(gfs.CodeExist, "chunk %s has another replica here: take another handle", replica.Handle())
	}
	return replica, nil
}

// copyContent fills a learner, and makes it a member in the order's version.
func copyContent(ctx context.Context, s *store.Store, replica *store.Replica, order *pb.CopyOrder) error {
	source, err := s.Get(gfs.ChunkHandle(order.Source))
	if err != nil {
		return err
	}
	held := source.Status()
	if held.Active != gfs.Version(order.SourceVersion) || held.State != gfs.ReplicaMember || held.Marked && held.Promised == held.Active {
		return gfs.Errorf(gfs.CodeStaleVersion, "chunk %s: the replica here is a %s of version %s, marked %t: want a closed one of version %s",
			source.Handle(), held.State, held.Active, held.Marked, gfs.Version(order.SourceVersion))
	}
	if err := replica.DiscardBeyondLength(); err != nil {
		return err
	}
	buffer, length := make([]byte, copyPieceBytes), min(held.Length, order.Length)
	for at := int64(0); at < length; {
		if ctx.Err() != nil {
			return gfs.Errorf(gfs.CodeUnavailable, "copy of chunk %s: %v", source.Handle(), ctx.Err())
		}
		n := 0
		for n < len(buffer) && at+int64(n) < length {
			block, err := source.Block(buffer[n:n+gfs.BlockSize], uint32((at+int64(n))/gfs.BlockSize))
			if err != nil {
				return err
			}
			n += len(block)
		}
		n = int(min(int64(n), length-at))
		if err := replica.WriteAt(at, buffer[:n], nil); err != nil {
			return err
		}
		at += int64(n)
	}
	if err := replica.Advance(store.Progress{Length: order.Length, Commit: order.Length}); err != nil {
		return err
	}
	table, err := source.Table()
	if err != nil {
		return err
	}
	return replica.ApplyPatch(store.Patch{
		Length: order.Length, Commit: order.Length, Active: gfs.Version(order.Version), State: gfs.ReplicaMember, Table: table.Below(order.Length),
	})
}
