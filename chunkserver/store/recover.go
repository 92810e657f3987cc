package store

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// recover brings a marked replica back after a restart, without any peer. After a crash of the process all that it
// wrote is there; only the blocks of the last intent, and what lies beyond the length, can be torn. With powerLost
// the replica is suspect already, and what is read here is no more than a start. It runs before anybody else has
// the replica. What is wrong with the replica is told by its state; errors are those of the disk.
func (r *Replica) recover(powerLost bool) error {
	c, p, err := r.read(true)
	if powerLost && gfs.CodeOf(err) == gfs.CodeCorrupt && !errors.Is(err, errUnread) && r.row.length == 0 {
		// Made just before the power was lost, and never synced.
		c, p, err = r.remake()
	}
	if err != nil {
		if gfs.CodeOf(err) != gfs.CodeCorrupt {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.condemn(err)
		return nil
	}
	defer c.dropRoom()
	c.prepare()
	c.history, c.lengths = slices.Clone(p.tails), p.lengths
	c.log.synced = unknownSynced
	c.fresh, c.unsynced = true, c.sums.syncLength == 0 // whether the files' names are on disk is not known either
	r.content, r.pinned = c, true
	if r.row.redo {
		return r.redo(c)
	}
	c.allocated = gfs.ChunkSize // how much was reserved is not known: it is given back
	r.adopt(c, p)
	changed := len(p.outstanding) > 0
	for _, in := range p.outstanding {
		c.settle(in)
	}
	if err := r.discard(c); err != nil {
		return err
	}
	changed = r.checkLast(c) || changed
	if changed {
		r.describe(c)
		err := c.log.checkpoint(&c.sums)
		switch {
		case err == nil:
		case outOfSpace(err): // whoever writes next writes it first; until then a restart finds out the same again
			c.log.stale = true
			r.store.log.WithError(err).WithField("chunk", r.handle.String()).Warn("disk full, checksums of a restart not written")
		default:
			return r.failed("write checksums", err)
		}
	}
	return nil
}

// adopt takes from the checksum file what is newer there than in the index.
func (r *Replica) adopt(c *content, p *replay) {
	r.row.length, r.row.commit = c.sums.length, c.sums.commit
	if c.sums.active == r.row.promised && r.row.state == gfs.ReplicaLearner {
		r.row.state = c.sums.state // activated after the promise
	}
	r.row.active = max(r.row.active, c.sums.active)
	if p.damaged && r.row.state == gfs.ReplicaMember {
		r.row.state = gfs.ReplicaSuspect
		r.store.log.WithField("chunk", r.handle.String()).Error("checksum file damaged, replica suspect")
	}
}

// settle finds out whether a block that was being overwritten holds its old bytes or the intended ones.
func (c *content) settle(in intent) {
	block := int(in.block)
	n := bytesInBlock(block, c.sums.length)
	if n == 0 {
		return
	}
	err := c.data.readFull(c.room()[:n], int64(block)*gfs.BlockSize)
	switch sum := checksum(c.room()[:n]); {
	case err == nil && sum == in.crc:
		c.sums.crcs[block] = in.crc
		c.sums.known(block)
	case err == nil && sum == c.sums.crcs[block]:
	default:
		c.sums.crcs[block] = in.crc
		c.sums.unknown.add(block)
		c.sums.named.add(block)
	}
}

// checkLast checks the bytes below the length of the block that it cuts: that block was being written most
// recently. It reports whether that changed anything.
func (r *Replica) checkLast(c *content) bool {
	n := int(c.sums.length % gfs.BlockSize)
	block := int(c.sums.length / gfs.BlockSize)
	if n == 0 || c.sums.unknown.has(block) {
		return false
	}
	err := c.data.readFull(c.room()[:n], int64(block)*gfs.BlockSize)
	if err == nil && checksum(c.room()[:n]) == c.sums.crcs[block] {
		return false
	}
	c.sums.unknown.add(block)
	return true
}

// redo applies a patch again that a crash cut short.
func (r *Replica) redo(c *content) error {
	after, blocks, err := r.readPatch()
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.condemn(gfs.Errorf(gfs.CodeCorrupt, "chunk %s: %v", r.handle, err))
		return nil
	}
	if r.row.state == gfs.ReplicaSuspect {
		after.state = gfs.ReplicaSuspect // blocks that the patch left alone may be lost
	}
	after.active = max(after.active, r.row.active)
	r.row.length = c.sums.length
	r.write.Lock()
	defer r.write.Unlock()
	return r.applyPatch(c, after, blocks)
}

// remake makes the empty files of a replica that was never synced.
func (r *Replica) remake() (*content, *replay, error) {
	if err := r.dir.moveAside(r.handle, trashFileName(r.handle, r.store.now().UnixNano())); err != nil {
		return nil, nil, err
	}
	if err := r.makeFiles(); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, nil, err
	}
	c := r.content
	c.release()
	r.content = nil
	return r.read(true)
}

// makeFiles makes the files of an empty replica as its row describes it, and opens them for writers.
func (r *Replica) makeFiles() error {
	data, meta, err := r.dir.createExclusive(r.handle, r.store.now().UnixNano())
	if err != nil {
		return err
	}
	s := &sums{
		handle: r.handle, sequence: 1, active: r.row.active, state: r.row.state, table: &mutation.Table{},
	}
	b := appendCheckpoint(nil, s)
	if err := meta.writeAt(b, 0); err != nil {
		data.Close()
		meta.Close()
		return errors.Join(err, r.dir.moveAside(r.handle, trashFileName(r.handle, r.store.now().UnixNano())))
	}
	c := r.opened(data, meta, &replay{sums: s, base: int64(len(b)), end: int64(len(b))}, 0)
	c.prepare()
	c.fresh, c.unsynced = true, true
	c.log.synced = neverSynced
	r.content, r.pinned = c, true
	return nil
}

// Recompute makes peace with an unknown block that an intent names and that no replica holds intact: its bytes as
// they are become right, with their own CRC. That may bless a mixture of old and new bytes of a mutation that was
// never acknowledged, so the caller raises an event. Any other block is CodeConflict: rot is not blessed.
func (r *Replica) Recompute(block uint32) error {
	r.write.Lock()
	defer r.write.Unlock()
	c, err := r.open()
	if err != nil {
		return err
	}
	if block >= gfs.BlocksPerChunk || !c.sums.named.has(int(block)) {
		return gfs.Errorf(gfs.CodeConflict, "chunk %s block %d: no mutation was under way there: fetch it from another replica", r.handle, block)
	}
	defer c.dropRoom()
	n := bytesInBlock(int(block), c.sums.length)
	if err := c.data.readFull(c.room()[:n], int64(block)*gfs.BlockSize); err != nil {
		return r.failed("read data", err)
	}
	if err := r.discard(c); err != nil {
		return err
	}
	r.mu.Lock()
	c.sums.crcs[block] = checksum(c.room()[:n])
	c.sums.known(int(block))
	r.mu.Unlock()
	c.resetAhead()
	r.describe(c)
	if err := c.log.checkpoint(&c.sums); err != nil {
		c.log.stale = true
		return r.failed("write checksums", err)
	}
	return nil
}
