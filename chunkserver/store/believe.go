package store

import (
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Believe makes a suspect a member again where no replica of the chunk is any better, power having been lost everywhere:
// it holds what was on disk at its last sync, and behind that the whole pieces that still match their checksums. What is
// behind them is cut off, with its entries in the append table: of a record all is there, or nothing. A block below the sync
// point that does not match was being overwritten since: what the mutations did not write in it is what it was, and it gets
// the checksum that its bytes have; the caller raises an event for the blocks that are returned. It is durable on return,
// and costs nothing for a member.
//
// The replica is to be open for mutation, and not to be written to meanwhile. Errors are those of ApplyPatch.
func (r *Replica) Believe() (torn []uint32, err error) {
	status := r.Status()
	if status.State == gfs.ReplicaMember {
		return nil, nil
	}
	if status.State != gfs.ReplicaSuspect || r.dir.failed.Load() {
		return nil, gfs.Errorf(gfs.CodeNoReplica, "chunk %s: the replica here is a %s that cannot be believed", r.handle, status.State)
	}
	table, err := r.Table()
	if err != nil {
		return nil, err
	}
	c, err := r.acquire()
	if err != nil {
		return nil, err
	}
	defer c.release()
	bad, err := r.VerifyAll()
	if err != nil {
		return nil, err
	}
	p := Patch{Length: c.believable(bad), Active: status.Active, State: gfs.ReplicaMember, Table: table}
	blocks := bad
	if cut := uint32(p.Length / gfs.BlockSize); p.Length < status.Length && p.Length%gfs.BlockSize > 0 && !slices.Contains(bad, cut) {
		blocks = append(slices.Clone(bad), cut) // it matches as a whole: what is left of it gets a checksum of its own
	}
	for _, block := range blocks {
		start := int64(block) * gfs.BlockSize
		length := min(gfs.BlockSize, p.Length-start)
		if length <= 0 {
			continue
		}
		data := make([]byte, length)
		if err := c.data.readFull(data, start); err != nil {
			return nil, r.failed("read data", err)
		}
		p.Blocks = append(p.Blocks, PatchBlock{Index: block, Data: data, CRC: checksum(data)})
		if slices.Contains(bad, block) {
			torn = append(torn, block)
		}
	}
	p.Commit = min(status.CommitLength, p.Length)
	p.Table.Cut(p.Length)
	return torn, r.ApplyPatch(p)
}

// believable is the length up to which the replica can be believed, where some of its blocks, in rising order, do not match
// their checksums: not below the sync point, and where a whole piece ends.
func (c *content) believable(bad []uint32) int64 {
	buf := c.replica.store.blocks.Get().(*[gfs.BlockSize]byte)
	defer c.replica.store.blocks.Put(buf)
	c.replica.mu.RLock()
	defer c.replica.mu.RUnlock()
	for _, block := range bad {
		start := int64(block) * gfs.BlockSize
		if min(start+gfs.BlockSize, c.sums.length) <= c.sums.syncLength {
			continue
		}
		best := c.sums.syncLength
		for _, length := range c.lengths {
			if length <= start {
				best = max(best, length)
			}
		}
		if c.data.readFull(buf[:], start) != nil {
			return best
		}
		for _, t := range c.history {
			if in := t.length - start; in > 0 && in < gfs.BlockSize && checksum(buf[:in]) == t.crc {
				best = max(best, t.length)
			}
		}
		return best
	}
	return c.sums.length
}
