package chunkserver

import (
	"context"
	"errors"
	"slices"

	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// settleUnknown brings the blocks that are in no known state here into one, before the others are made equal: each is
// taken from a member where it verifies. What no member has was being overwritten by a mutation that was never
// acknowledged, at all of them: what that did not write is what it was. Where no mutation was under way it is rot, and the
// replica corrupt. It returns the digest afterwards; an error says that this server is not the one to be primary.
func (a *activation) settleUnknown(ctx context.Context, digest store.Digest) (store.Digest, error) {
	lacking, silent := digest.Unknown, false
	for _, member := range a.members[1:] {
		if len(lacking) == 0 {
			break
		}
		left, err := a.takeFrom(ctx, member, digest.Length, lacking)
		if err != nil {
			a.cs.log.WithError(err).WithField("member", member.Id).Warn("blocks in doubt not looked for")
			silent = true
		}
		lacking = left
	}
	if !silent {
		for _, block := range lacking {
			if err := a.replica.Recompute(block); err != nil && gfs.CodeOf(err) != gfs.CodeConflict {
				return store.Digest{}, err
			} else if err == nil {
				a.cs.tellTorn(a.replica.Handle(), block)
			}
		}
	}
	digest, err := a.replica.Digest()
	if err == nil && len(digest.Unknown) > 0 {
		a.accused = string(a.cs.ID())
		err = gfs.Errorf(gfs.CodeCorrupt, "chunk %s: %d blocks are in no known state here", a.replica.Handle(), len(digest.Unknown))
		if !silent {
			err = errors.Join(err, a.replica.SetState(gfs.ReplicaCorrupt))
			a.cs.tellCorrupt(a.replica.Handle(), err.Error())
			a.cs.heartbeat.Send(stateSoon(a.replica.Handle()))
		}
	}
	return digest, err
}

// takeFrom takes those of the blocks that a member has. It returns the others.
func (a *activation) takeFrom(ctx context.Context, member *pb.Server, length int64, blocks []uint32) ([]uint32, error) {
	ctx, cancel := a.cs.around.WithTimeout(ctx, memberTimeout)
	defer cancel()
	f := &fetching{cs: a.cs, replica: a.replica, source: member, version: uint64(a.version)}
	theirs, err := f.digest(ctx)
	if err != nil {
		return blocks, err
	}
	var there, left []uint32
	for _, block := range blocks {
		end := min(int64(block+1)*gfs.BlockSize, length)
		if theirs.Length >= end && !slices.Contains(theirs.UnknownBlocks, block) {
			there = append(there, block)
		} else {
			left = append(left, block)
		}
	}
	if len(there) == 0 {
		return left, nil
	}
	slices.Reverse(there) // falling, as fetch wants them
	if err := f.fetch(ctx, length, there, false); err != nil {
		return blocks, err
	}
	return left, nil
}
