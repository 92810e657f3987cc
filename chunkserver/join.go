package chunkserver

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// Bounds of a join.
const (
	// cloneRounds is how often a learner looks at what it still lacks: what is mutated meanwhile differs again.
	cloneRounds = 4
	// fetchBlocks is how many blocks are asked for at once, patchBlocks how many are applied at once.
	fetchBlocks = 16
	patchBlocks = 64
	// maxFetchBlocks bounds what anybody may ask for at once.
	maxFetchBlocks = 64
	// maxJoinBlocks bounds what a joiner fetches while mutations wait: some more than it lacked when it was asked.
	maxJoinBlocks = 4 * gfs.JoinBlocks
	// promisePause is how long a joiner waits before it asks again whether its source has promised the version too.
	promisePause = 5 * time.Millisecond
)

// pacer spreads work over time. It is safe for concurrent use.
type pacer struct {
	perSecond int64

	mu   sync.Mutex
	free time.Time // when what was admitted is paid for
}

// wait admits n more, or ends with ctx and its error.
func (p *pacer) wait(ctx context.Context, around Runtime, now time.Time, n int64) error {
	p.mu.Lock()
	due := p.free
	if due.Before(now) {
		due = now
	}
	p.free = due.Add(time.Duration(n) * time.Second / time.Duration(p.perSecond))
	p.mu.Unlock()
	if !due.After(now) {
		return ctx.Err()
	}
	return around.Pause(ctx, due.Sub(now))
}

// onClone makes the replica here, stale or missing, a learner and brings it close to a member's state.
func (c *chunk) onClone(order *pb.CloneOrder, reply actors.Reply[*pb.CloneReply]) {
	c.queue(func() {
		if c.role != bystander {
			reply.Fail(gfs.Errorf(gfs.CodeConflict, "chunk %s is open for mutation here in version %s", c.handle, c.version))
			c.finish()
			return
		}
		c.endOrder(c.notPrimary())
		c.dropPatch()
		c.log.WithField("version", gfs.Version(order.Version).String()).Debug("copying")
		c.whenDrained(func() {
			var differing int
			c.work(c.cs.copies, func(ctx context.Context) (err error) {
				differing, err = c.cs.clone(ctx, order)
				return err
			}, func(err error) {
				reply.Send(&pb.CloneReply{DifferingBlocks: uint32(differing)}, err)
				c.finish()
			})
		})
	}, reply.Fail)
}

// clone returns how many blocks still differ.
func (cs *Chunkserver) clone(ctx context.Context, order *pb.CloneOrder) (int, error) {
	ctx, cancel := cs.around.WithTimeout(ctx, gfs.CloneTimeout)
	defer cancel()
	version := gfs.Version(order.Version)
	replica, err := cs.learner(gfs.ChunkHandle(order.Handle), version, gfs.Version(order.Promise))
	if err != nil {
		return 0, err
	}
	f := &fetching{cs: cs, replica: replica, source: order.Source, paced: true}
	// What it holds is of an earlier life: only what its checksums vouch for is worth comparing.
	if f.bad, err = replica.VerifyAll(); err != nil {
		return 0, err
	}
	copied := 0
	for round := range cloneRounds {
		theirs, err := f.digest(ctx)
		if err != nil {
			return 0, err
		}
		if theirs.Active != order.Version {
			return 0, gfs.Errorf(gfs.CodeStaleVersion, "chunk %s: chunkserver %s holds version %s, not %s",
				replica.Handle(), order.Source.Id, gfs.Version(theirs.Active), version)
		}
		differing, err := f.differing(theirs)
		if err != nil {
			return 0, err
		}
		if len(differing) == 0 || round == cloneRounds-1 || round > 0 && len(differing) < gfs.JoinBlocks {
			cs.log.WithFields(map[string]any{
				"chunk": replica.Handle().String(), "version": version.String(), "source": order.Source.Id, "blocks": copied, "differing": len(differing),
			}).Info("replica copied")
			return len(differing), replica.Sync()
		}
		if err := f.fetch(ctx, theirs.Length, differing, false); err != nil {
			return 0, err
		}
		copied += len(differing)
	}
	return 0, nil
}

// learner finds or makes the replica, as a learner. A replica that counts as a member of the logged version is left
// alone: whoever gave the order did not know.
func (cs *Chunkserver) learner(handle gfs.ChunkHandle, logged, promise gfs.Version) (*store.Replica, error) {
	replica, err := cs.store.Get(handle)
	if gfs.CodeOf(err) == gfs.CodeNoReplica {
		return cs.store.CreateLearner(handle, promise)
	}
	if err != nil {
		return nil, err
	}
	status := replica.Status()
	switch {
	case status.State == gfs.ReplicaMember && (status.Active == logged || status.Promised == logged):
		return nil, gfs.Errorf(gfs.CodeConflict, "chunk %s: the replica here is a member of version %s", handle, logged)
	case status.State == gfs.ReplicaCorrupt:
		return nil, gfs.Errorf(gfs.CodeCorrupt, "chunk %s: the replica here is corrupt: delete it first", handle)
	case status.State == gfs.ReplicaLearner && status.Marked && status.Promised >= promise:
		return replica, nil
	}
	return replica, replica.Promise(promise, 0, true)
}

// join is a joiner's part of Prepare: it has promised the version as a learner and takes what it lacks from a member
// that has promised it too, so that nothing changes there. What it then holds is on disk.
func (cs *Chunkserver) join(ctx context.Context, replica *store.Replica, order *pb.PrepareOrder) error {
	ctx, cancel := cs.around.WithTimeout(ctx, gfs.JoinTimeout)
	defer cancel()
	ctx, release := cs.attendedAtOnce(ctx, order.Source.Address) // mutations wait; it may join another time
	defer release()
	f := &fetching{cs: cs, replica: replica, source: order.Source, version: order.Version}
	theirs, err := f.digest(ctx)
	for gfs.CodeOf(err) == gfs.CodeStaleVersion {
		if err := cs.around.Pause(ctx, promisePause); err != nil {
			return gfs.Errorf(gfs.CodeUnavailable, "chunk %s: chunkserver %s has not promised version %s in time", replica.Handle(), order.Source.Id, gfs.Version(order.Version))
		}
		theirs, err = f.digest(ctx)
	}
	if err != nil {
		return err
	}
	ours, err := replica.Digest()
	if err != nil {
		return err
	}
	if sum := ours.Sum(); !bytes.Equal(sum[:], theirs.Digest) {
		differing, err := f.differing(theirs)
		if err == nil && len(differing) > maxJoinBlocks {
			err = gfs.Errorf(gfs.CodeConflict, "chunk %s: %d blocks differ, too many to fetch while mutations wait", replica.Handle(), len(differing))
		}
		if err == nil {
			err = f.fetch(ctx, theirs.Length, differing, true)
		}
		if err != nil {
			return err
		}
	}
	return replica.Sync()
}

// fetching is a learner that takes what it lacks from a source.
type fetching struct {
	cs      *Chunkserver
	replica *store.Replica
	source  *pb.Server
	version uint64   // that the source must have promised; 0 for any
	bad     []uint32 // blocks here that do not match their checksums, rising
	paced   bool
}

func (f *fetching) digest(ctx context.Context) (*pb.DigestReply, error) {
	reply := new(pb.DigestReply)
	request := &pb.Digest{Handle: uint64(f.replica.Handle()), Version: f.version}
	if err := f.cs.around.Call(ctx, f.source.Address, wire.OpDigest, request, reply); err != nil {
		return nil, err
	}
	if err := gfs.FromCode(gfs.Code(reply.Code), reply.Detail); err != nil {
		return nil, err
	}
	if reply.Length < 0 || reply.Length > gfs.ChunkSize || len(reply.Checksums) != blocksOf(reply.Length) {
		return nil, gfs.Errorf(gfs.CodeInvalid, "digest of chunk %s: %d checksums for %d bytes", f.replica.Handle(), len(reply.Checksums), reply.Length)
	}
	if state := gfs.ReplicaState(min(reply.State, 255)); state != gfs.ReplicaMember {
		return nil, gfs.Errorf(gfs.CodeNoReplica, "chunk %s: chunkserver %s has a %s, no member to copy from", f.replica.Handle(), f.source.Id, state)
	}
	return reply, nil
}

func blocksOf(length int64) int { return int((length + gfs.BlockSize - 1) / gfs.BlockSize) }

// differing lists the blocks of the source that this replica lacks, falling: the one that their length cuts is patched
// first, so that a patch never has to look at what lies beyond it here.
func (f *fetching) differing(theirs *pb.DigestReply) ([]uint32, error) {
	ours, err := f.replica.Digest()
	if err != nil {
		return nil, err
	}
	var blocks []uint32
	for i, sum := range theirs.Checksums {
		block := uint32(i)
		_, bad := slices.BinarySearch(f.bad, block)
		if bad || i >= len(ours.Blocks) || ours.Blocks[i] != sum || slices.Contains(ours.Unknown, block) {
			blocks = append(blocks, block)
		}
	}
	slices.Reverse(blocks)
	return blocks, nil
}

// fetch makes blocks, and the table if wanted, the source's up to cut. The replica stays what it is, a learner mostly.
func (f *fetching) fetch(ctx context.Context, cut int64, blocks []uint32, withTable bool) error {
	for {
		n := min(len(blocks), patchBlocks)
		patch, rest := blocks[:n], blocks[n:]
		if err := f.fetchPatch(ctx, cut, patch, withTable && len(rest) == 0); err != nil {
			return err
		}
		f.bad = slices.DeleteFunc(f.bad, func(block uint32) bool { return slices.Contains(patch, block) })
		if blocks = rest; len(blocks) == 0 {
			return nil
		}
	}
}

func (f *fetching) fetchPatch(ctx context.Context, cut int64, blocks []uint32, withTable bool) error {
	status := f.replica.Status()
	patch := store.Patch{Length: cut, Commit: status.CommitLength, Active: status.Active, State: status.State}
	for {
		n := min(len(blocks), fetchBlocks)
		data, table, err := f.fetchBlocks(ctx, cut, blocks[:n], &patch, withTable && n == len(blocks))
		defer data.Release() // the patch refers to it
		if err != nil {
			return err
		}
		patch.Table = table
		if blocks = blocks[n:]; len(blocks) == 0 {
			return f.replica.ApplyPatch(patch)
		}
	}
}

// fetchBlocks adds blocks to a patch. What is returned is the memory that they lie in.
func (f *fetching) fetchBlocks(ctx context.Context, cut int64, blocks []uint32, patch *store.Patch, withTable bool) (*dataplane.Buffer, *mutation.Table, error) {
	if f.paced {
		if err := f.cs.copyPace.wait(ctx, f.cs.around, f.cs.now(), int64(len(blocks))*gfs.BlockSize); err != nil {
			return nil, nil, gfs.Errorf(gfs.CodeUnavailable, "chunk %s was not copied in time: %v", f.replica.Handle(), err)
		}
	}
	var reply pb.DigestReply
	request := &pb.Digest{Handle: uint64(f.replica.Handle()), Version: f.version, Blocks: blocks, Cut: cut, Table: withTable}
	buffer, err := f.cs.around.Fetch(ctx, &f.cs.pool, f.source.Address, wire.OpDigest, request, &reply)
	if err == nil {
		err = gfs.FromCode(gfs.Code(reply.Code), reply.Detail)
	}
	if err != nil {
		return buffer, nil, err
	}
	var data []byte
	if buffer != nil {
		data = buffer.Data
	}
	bad := func(what string) (*dataplane.Buffer, *mutation.Table, error) {
		return buffer, nil, gfs.Errorf(gfs.CodeInvalid, "blocks of chunk %s from chunkserver %s: %s", f.replica.Handle(), f.source.Id, what)
	}
	if len(reply.BlockChecksums) != len(blocks) || int(reply.TableBytes) > len(data) {
		return bad("not a checksum for each, or a table beyond the data")
	}
	data, encoded := data[:len(data)-int(reply.TableBytes)], data[len(data)-int(reply.TableBytes):]
	for i, block := range blocks {
		n := int(min(gfs.BlockSize, cut-int64(block)*gfs.BlockSize))
		if n <= 0 || n > len(data) {
			return bad("too few bytes")
		}
		patch.Blocks = append(patch.Blocks, store.PatchBlock{Index: block, Data: data[:n:n], CRC: reply.BlockChecksums[i]})
		data = data[n:]
	}
	if len(data) > 0 {
		return bad("bytes of no block")
	}
	if !withTable {
		return buffer, nil, nil
	}
	table, err := mutation.ParseTable(encoded)
	return buffer, table, err
}

// readBlocks is the source's side: the blocks that a digest's request names, and the table.
func (cs *Chunkserver) readBlocks(replica *store.Replica, request *pb.Digest, reply *pb.DigestReply) (*dataplane.Buffer, error) {
	if len(request.Blocks) > maxFetchBlocks || request.Cut < 0 || request.Cut > gfs.ChunkSize {
		return nil, gfs.Errorf(gfs.CodeInvalid, "%d blocks up to %d of chunk %s: at most %d up to %d are given at once",
			len(request.Blocks), request.Cut, replica.Handle(), maxFetchBlocks, gfs.ChunkSize)
	}
	var encoded []byte
	if request.Table {
		table, err := replica.Table()
		if err != nil {
			return nil, err
		}
		encoded = table.AppendBinary(nil)
	}
	buffer := cs.pool.Get((len(request.Blocks)+1)*gfs.BlockSize + len(encoded))
	data := buffer.Data[:0]
	for _, block := range request.Blocks {
		content, err := replica.Block(data[len(data):len(data)+gfs.BlockSize], block)
		n := int(min(gfs.BlockSize, request.Cut-int64(block)*gfs.BlockSize))
		if err == nil && (n <= 0 || n > len(content)) {
			err = gfs.Errorf(gfs.CodeInvalid, "block %d of chunk %s has %d bytes, %d wanted", block, replica.Handle(), len(content), n)
		}
		if err != nil {
			buffer.Release()
			return nil, err
		}
		data = data[:len(data)+n]
		reply.BlockChecksums = append(reply.BlockChecksums, wire.Checksum(content[:n]))
	}
	reply.TableBytes = uint32(len(encoded))
	data = append(data, encoded...)
	buffer.Data = data
	return buffer, nil
}
