package chunkserver

import (
	"context"
	"slices"

	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// onCorrupt verifies the replica in the chunk's own order, and declares it corrupt if a block is bad: then it is a member
// of no configuration again, its good blocks are served while there is no better replica, and the master replaces it.
func (c *chunk) onCorrupt() {
	c.queue(func() {
		bad := false
		c.work(c.cs.disk, func(context.Context) (err error) {
			bad, err = c.cs.condemn(c.handle)
			return err
		}, func(err error) {
			if err != nil {
				c.log.WithError(err).Warn("replica not verified")
			}
			if bad {
				c.leaveCorrupt()
				c.cs.heartbeat.Send(stateSoon(c.handle))
			}
			c.finish()
		})
	}, func(error) {}) // whoever reads the block next finds it again
}

// condemn declares a replica corrupt if one of its blocks is bad, and reports whether it did. A block that a crash left
// in no known state is not bad: the next configuration decides what is in it.
func (cs *Chunkserver) condemn(handle gfs.ChunkHandle) (bad bool, err error) {
	replica, err := cs.store.Get(handle)
	if err != nil {
		return false, err
	}
	if replica.Status().State != gfs.ReplicaMember {
		return false, nil // known already
	}
	blocks, err := badBlocks(replica)
	if err != nil || len(blocks) == 0 {
		return replica.Status().State == gfs.ReplicaCorrupt, err // its files may be gone, or not be given
	}
	cs.log.WithField("chunk", handle.String()).WithField("blocks", blocks).Error("replica declared corrupt")
	return true, replica.SetState(gfs.ReplicaCorrupt)
}

// badBlocks lists the blocks whose bytes do not match what is known of them.
func badBlocks(replica *store.Replica) ([]uint32, error) {
	blocks, err := replica.VerifyAll()
	if err != nil || len(blocks) == 0 {
		return nil, err
	}
	unknown, err := replica.UnknownBlocks()
	return slices.DeleteFunc(blocks, func(block uint32) bool { return slices.Contains(unknown, block) }), err
}

// leaveCorrupt ends this server's part in the chunk's version, which goes on without it.
func (c *chunk) leaveCorrupt() {
	const detail = "the replica is corrupt"
	switch c.role {
	case secondary:
		c.accuse(c.cs.ID(), detail)
	case primary:
		c.freeze()
		c.endOrder(c.notPrimary())
		c.complainAbout(c.cs.ID(), pb.Report_UNREACHABLE, detail)
	case bystander:
	}
}
