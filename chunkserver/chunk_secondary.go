package chunkserver

import (
	"bytes"
	"context"
	"time"

	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// onChainOpen is the order of a predecessor to take part in a version.
func (c *chunk) onChainOpen(open *pb.ChainOpen, up Upstream) {
	refuse := func(err error) {
		up.Opened(openedError(err))
	}
	c.queue(func() { c.openChain(open, up) }, refuse)
}

func openedError(err error) *pb.ChainOpened {
	return &pb.ChainOpened{Code: uint32(gfs.CodeOf(err)), Detail: err.Error()}
}

// chainJoin is what a member finds out when its chain is opened.
type chainJoin struct {
	replica *store.Replica
	down    Downstream
	answer  *pb.ChainOpened
}

// openChain compares this replica with the primary's, opens the rest of the chain, and answers for all of it.
func (c *chunk) openChain(open *pb.ChainOpen, up Upstream) {
	version := gfs.Version(open.Version)
	if c.version == version && c.role == secondary && c.follow.Started() {
		up.Opened(openedError(gfs.Errorf(gfs.CodeConflict, "version %s of chunk %s has mutations already", version, c.handle)))
		c.finish()
		return
	}
	err := c.mayJoin(version)
	if called := open.Members[open.Position].Id; err == nil && called != string(c.cs.ID()) {
		err = gfs.Errorf(gfs.CodeInvalid, "the chain wants chunkserver %s, this is %s: its address is another's now", called, c.cs.ID())
	}
	if err != nil {
		up.Opened(openedError(err))
		c.finish()
		return
	}
	c.freeze()
	c.endOrder(c.notPrimary())
	c.whenDrained(func() {
		join := &chainJoin{}
		pool := c.cs.chainPool(int(open.Position), len(open.Members))
		c.work(pool, func(ctx context.Context) error { return join.run(ctx, c.cs, open) }, func(err error) {
			defer c.finish()
			if err != nil {
				join.answer = openedError(err)
			}
			if c.overtaken {
				join.answer = openedError(gfs.Errorf(gfs.CodeStaleVersion, "version %s of chunk %s was overtaken by another", version, c.handle))
			}
			if up.Lost() && join.answer.Code == 0 { // it was told before this server was a member, and will not be again
				join.answer = openedError(gfs.Errorf(gfs.CodeUnavailable, "the predecessor in version %s of chunk %s has gone", version, c.handle))
			}
			if join.answer.Code != 0 || len(join.answer.Differing) > 0 {
				if join.down != nil {
					join.down.Drop()
				}
				up.Opened(join.answer)
				return
			}
			c.becomeSecondary(open, up, join)
		})
	})
}

// mayJoin reports whether the replica has promised exactly this version.
func (c *chunk) mayJoin(version gfs.Version) error {
	replica, err := c.cs.store.Get(c.handle)
	if err != nil {
		return err
	}
	if promised := replica.Status().Promised; promised != version {
		return gfs.Errorf(gfs.CodeStaleVersion, "chunk %s: promised is version %s, not %s", c.handle, promised, version)
	}
	return nil
}

// run is the slow part of joining a chain. An error is this server's; what others say is in answer.
func (j *chainJoin) run(ctx context.Context, cs *Chunkserver, open *pb.ChainOpen) error {
	var err error
	if j.replica, err = cs.store.Get(gfs.ChunkHandle(open.Handle)); err != nil {
		return err
	}
	if state := j.replica.Status().State; state == gfs.ReplicaCorrupt {
		return gfs.Errorf(gfs.CodeCorrupt, "chunk %s: the replica at chunkserver %s is corrupt", j.replica.Handle(), cs.ID())
	}
	digest, err := j.replica.Digest()
	if err != nil {
		return err
	}
	sum := digest.Sum()
	j.answer = &pb.ChainOpened{}
	if bytes.Equal(sum[:], open.Digest) && len(digest.Unknown) == 0 && j.replica.Status().State != gfs.ReplicaSuspect {
		if err := settleOnDisk(j.replica, open.Synced); err != nil {
			return err
		}
		if err := j.replica.Activate(gfs.Version(open.Version)); err != nil {
			return err
		}
	} else {
		j.answer.Differing = append(j.answer.Differing, string(cs.ID()))
	}
	if int(open.Position) == len(open.Members)-1 {
		return nil
	}
	next := &pb.ChainOpen{
		Handle: open.Handle, Version: open.Version, Members: open.Members, Position: open.Position + 1,
		Digest: open.Digest, Length: open.Length, CommitLength: open.CommitLength, Synced: open.Synced,
		Doubted: open.Doubted,
	}
	var below *pb.ChainOpened
	j.down, below, err = cs.openBelow(ctx, next)
	member := open.Members[next.Position].Id
	switch {
	case err != nil && ctx.Err() != nil: // this server gave up
		return err
	case err != nil:
		j.answer.Code, j.answer.Detail, j.answer.Accused = uint32(gfs.CodeOf(err)), err.Error(), member
	case below.Code != 0:
		j.answer.Code, j.answer.Detail, j.answer.Accused = below.Code, below.Detail, below.Accused
		if below.Accused == "" {
			j.answer.Accused = member
		}
	default:
		j.answer.Differing = append(j.answer.Differing, below.Differing...)
	}
	return nil
}

// becomeSecondary takes part in a version from its beginning.
func (c *chunk) becomeSecondary(open *pb.ChainOpen, up Upstream, join *chainJoin) {
	c.role, c.version = secondary, gfs.Version(open.Version)
	c.members, c.position = open.Members, int(open.Position)
	c.up = up
	c.follow = mutation.NewSecondary(open.Length, join.down == nil)
	c.below, c.owedBelow = 0, false
	join.replica.SetCommit(open.CommitLength)
	c.startPipeline(join.replica, join.down)
	up.Opened(join.answer)
	c.log.WithField("version", c.version.String()).Debug("secondary")
}

// startPipeline begins to carry out a version's mutations.
func (c *chunk) startPipeline(replica *store.Replica, down Downstream) {
	c.pipe = newPipeline(replica, down, &c.cs.pool, chunkEvents{c}, c.cs.around)
	if down != nil {
		down.Start(below{c, c.pipe})
	}
	c.cs.around.Go(c.pipe.run)
}

// onApply takes up a frame from the predecessor.
func (c *chunk) onApply(frame *dataplane.Apply) {
	if c.role != secondary || c.pipe == nil {
		frame.Release()
		return
	}
	if err := c.follow.Receive(frame.First, frame.Mutations); err != nil {
		frame.Release()
		c.log.WithError(err).WithField("version", c.version.String()).Warn("chain stream refused")
		c.up.Drop()
		return
	}
	c.used = c.cs.now()
	c.pipe.put(pipelineItem{apply: frame})
	c.wake(livelyPulse)
}

// acknowledge tells the predecessor what is applied here and below.
func (c *chunk) acknowledge() {
	if serial, news := c.follow.Acknowledge(); news && c.up != nil {
		c.up.Ack(serial, "", false)
	}
}

// onTick hears the commit length in a pause between frames.
func (c *chunk) onTick(commitLength int64) {
	if c.role != secondary || c.pipe == nil {
		return
	}
	c.pipe.replica.SetCommit(commitLength)
	if c.pipe.down != nil {
		c.pipe.put(pipelineItem{tick: commitLength})
	}
}

// onPredecessorLost leaves the version: only a new one can take mutations here.
func (c *chunk) onPredecessorLost(err error) {
	c.log.WithError(err).WithField("version", c.version.String()).Debug("predecessor lost")
	if c.closing != nil {
		c.endClosing()
	}
	c.freeze()
	c.wake(idlePulse)
}

// secondaryPulse tells the predecessor that this member is alive while it owes something, and who is not.
func (c *chunk) secondaryPulse(now time.Time) {
	if !c.follow.Owes() {
		return
	}
	if c.silentBelow(now) {
		c.accuse(c.successor(), "owes an acknowledgement and is silent")
		c.heardBelow = now // say it again after a while
		return
	}
	c.up.Ack(0, "", true)
}
