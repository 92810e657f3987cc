package store

import (
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Believe makes a suspect a member again where no replica of the chunk is any better, power having been lost everywhere:
// it holds what was on disk at its last sync, and behind that what still matches its checksums. What does not is cut off,
// with its entries in the append table. A block below the sync point that does not match was being overwritten since: what
// the mutations did not write in it is what it was, and it gets the checksum that its bytes have; the caller raises an
// event for the blocks that are returned. It is durable on return, and costs nothing for a member.
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
	p := Patch{Length: status.Length, Active: status.Active, State: gfs.ReplicaMember, Table: table}
	c, err := r.acquire()
	if err != nil {
		return nil, err
	}
	defer c.release()
	bad, err := r.VerifyAll()
	if err != nil {
		return nil, err
	}
	for _, block := range bad {
		start := int64(block) * gfs.BlockSize
		length := min(start+gfs.BlockSize, status.Length)
		if length > c.sums.syncLength {
			length = r.verifiedEnd(c, start)
			p.Length = max(length, start)
		}
		if length > start {
			data := make([]byte, length-start)
			if err := c.data.readFull(data, start); err != nil {
				return nil, r.failed("read data", err)
			}
			p.Blocks = append(p.Blocks, PatchBlock{Index: block, Data: data, CRC: checksum(data)})
			torn = append(torn, block)
		}
		if p.Length < status.Length {
			break
		}
	}
	p.Commit = min(status.CommitLength, p.Length)
	p.Table.Cut(p.Length)
	return torn, r.ApplyPatch(p)
}

// verifiedEnd is where a block that as a whole does not match is to be cut: at the longest length that is vouched for,
// and not below the sync point.
func (r *Replica) verifiedEnd(c *content, start int64) int64 {
	buf := r.store.blocks.Get().(*[gfs.BlockSize]byte)
	defer r.store.blocks.Put(buf)
	r.mu.RLock()
	defer r.mu.RUnlock()
	best := max(start, c.sums.syncLength)
	if c.data.readFull(buf[:], start) != nil {
		return best
	}
	for _, t := range slices.Clone(c.history) {
		if in := t.length - start; in > 0 && in < gfs.BlockSize && t.length > best && checksum(buf[:in]) == t.crc {
			best = t.length
		}
	}
	return best
}
