package store

import (
	"slices"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// maxTails bounds the ends remembered beyond the length; where one was dropped its CRC is computed again.
const maxTails = gfs.MaxChunkPending

// WriteAt writes data at an offset in bytes without moving the length: Advance does, by whole pieces. Between the
// end of what was written before and off there are zeros afterwards. data and crcs stay the caller's and are not
// kept.
//
// crcs is nil or the CRC32C of each part of data cut at the chunk's block boundaries, checked by the caller: they
// spare a pass over data wherever a part is all that its block holds. A part that extends its block is added to
// the CRC that is there. A write into the middle of a block reads and checks the block first: CodeCorrupt, and
// nothing is written, when it is not what it was.
//
// Below the length the new CRCs are in the checksum file before the data is written, so that after kill -9 each
// block is what it was, what it should be, or known to be neither. Beyond the length nothing needs to be said:
// after a crash it is discarded. CodeNoSpace leaves the replica as it was; after any other failure it is suspect.
// WriteAt does not fsync.
func (r *Replica) WriteAt(off int64, data []byte, crcs []uint32) error {
	end := off + int64(len(data))
	if off < 0 || len(data) == 0 || len(data) > gfs.ChunkSize || end > gfs.ChunkSize {
		return gfs.Errorf(gfs.CodeInvalid, "write of %d bytes at %d of chunk %s: want 1 byte at least and within %d",
			len(data), off, r.handle, gfs.ChunkSize)
	}
	if parts := int((end-1)/gfs.BlockSize-off/gfs.BlockSize) + 1; crcs != nil && len(crcs) != parts {
		return gfs.Errorf(gfs.CodeInvalid, "write of %d bytes at %d of chunk %s: %d checksums, want %d",
			len(data), off, r.handle, len(crcs), parts)
	}
	r.write.Lock()
	defer r.write.Unlock()
	c, err := r.open()
	switch {
	case err != nil:
		return err
	case c.torn:
		return gfs.Errorf(gfs.CodeConflict, "chunk %s: a write beyond its length failed: discard what lies there first", r.handle)
	}
	if off > c.end {
		c.extendZeros(off)
	}
	if off == c.end {
		return r.extend(c, data, crcs)
	}
	return r.overwrite(c, off, data, crcs)
}

// extendZeros moves the end over bytes that are zero.
func (c *content) extendZeros(to int64) {
	for c.end < to {
		block, in := int(c.end/gfs.BlockSize), int(c.end%gfs.BlockSize)
		n := int(min(int64(gfs.BlockSize-in), to-c.end))
		switch {
		case n == gfs.BlockSize:
			c.ahead[block] = zeroBlockCRC
		case in == 0:
			c.ahead[block] = checksum(zeros[:n])
		default:
			c.ahead[block] = extendChecksum(c.ahead[block], zeros[:n])
		}
		c.end += int64(n)
	}
}

// extend writes data at the end.
func (r *Replica) extend(c *content, data []byte, crcs []uint32) error {
	off := c.end
	before := c.ahead[off/gfs.BlockSize]
	if err := c.data.writeAt(data, off); err != nil {
		// What part of data was written must be zeros again.
		if c.data.truncate(off) == nil {
			c.size = off
		} else {
			c.torn = true
		}
		return r.failed("write data", err)
	}
	for i, at, rest := 0, off, data; len(rest) > 0; i++ {
		block, in := int(at/gfs.BlockSize), int(at%gfs.BlockSize)
		part := rest[:min(gfs.BlockSize-in, len(rest))]
		switch {
		case in > 0:
			c.ahead[block] = extendChecksum(before, part)
		case crcs != nil:
			c.ahead[block] = crcs[i]
		default:
			c.ahead[block] = checksum(part)
		}
		at, rest = at+int64(len(part)), rest[len(part):]
	}
	c.wrote(off + int64(len(data)))
	return nil
}

// wrote moves the end to where a write ended, and remembers the CRC there, which Advance may need.
func (c *content) wrote(end int64) {
	c.size = max(c.size, end)
	if end < c.end {
		return
	}
	c.end = end
	if end%gfs.BlockSize == 0 || end <= c.sums.length {
		return
	}
	if len(c.tails) == maxTails {
		c.tails = slices.Delete(c.tails, 0, maxTails/2)
	}
	c.tails = append(c.tails, tail{end, c.ahead[end/gfs.BlockSize]})
}

// rewritten is a block after a write: the CRC of its bytes below the length, and of those below the end.
type rewritten struct {
	block int
	below uint32
	all   uint32
	whole bool // nothing of the old bytes is left
}

// overwrite writes data at an offset below the end, and perhaps beyond it.
func (r *Replica) overwrite(c *content, off int64, data []byte, crcs []uint32) error {
	end := off + int64(len(data))
	defer c.dropRoom()
	if err := c.foresee(r, off, data, crcs); err != nil {
		return err
	}
	if off >= c.sums.length {
		if err := c.data.writeAt(data, off); err != nil {
			c.torn = true
			return r.failed("write data", err)
		}
		c.rewrote(off, end)
		return nil
	}
	// A hole may be among what is overwritten: a full disk has to show before anything is changed.
	if err := c.data.allocate(off, min(end, c.sums.length)-off); err != nil {
		return r.failed("reserve space", err)
	}
	c.entry = record{kind: recordIntent, state: gfs.ReplicaMember, intents: c.entry.intents[:0]}
	for _, b := range c.after {
		if bytesInBlock(b.block, c.sums.length) > 0 {
			c.entry.intents = append(c.entry.intents, intent{uint32(b.block), b.below})
		}
	}
	if err := r.append(c, &c.entry); err != nil {
		return err
	}
	if err := r.replace(c, off, data); err != nil {
		return r.failed("write data", err)
	}
	return nil
}

// replace writes data over bytes that readers may be reading. They check what they copy, so they have to see the
// old block with the old CRC, or the new with the new.
func (r *Replica) replace(c *content, off int64, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.overwrites.Add(1)
	if err := c.data.writeAt(data, off); err != nil {
		c.salvage()
		return err
	}
	c.rewrote(off, off+int64(len(data)))
	return nil
}

// foresee computes into c.after what each block's CRC is after data is written at off, which is below the end.
func (c *content) foresee(r *Replica, off int64, data []byte, crcs []uint32) error {
	c.after = c.after[:0]
	for i := 0; len(data) > 0; i++ {
		block, in := int(off/gfs.BlockSize), int(off%gfs.BlockSize)
		part := data[:min(gfs.BlockSize-in, len(data))]
		off, data = off+int64(len(part)), data[len(part):]

		old, below := bytesInBlock(block, c.end), bytesInBlock(block, c.sums.length)
		after := rewritten{block: block, whole: in == 0 && len(part) >= old}
		bytes := part
		if !after.whole {
			if err := c.readChecked(r, block, old); err != nil {
				return err
			}
			bytes = c.room()[:max(old, in+len(part))]
			copy(bytes[in:], part)
		}
		below = min(below, len(bytes))
		switch {
		case after.whole && crcs != nil && (below == 0 || below == len(bytes)):
			after.below, after.all = crcs[i], crcs[i]
		default:
			after.below = checksum(bytes[:below])
			after.all = extendChecksum(after.below, bytes[below:])
		}
		c.after = append(c.after, after)
	}
	return nil
}

// readChecked reads a block's n bytes below the end into c.room and checks them. The caller holds write.
func (c *content) readChecked(r *Replica, block, n int) error {
	if err := c.data.readFull(c.room()[:n], int64(block)*gfs.BlockSize); err != nil {
		return gfs.Errorf(gfs.CodeCorrupt, "chunk %s block %d: %v", r.handle, block, err)
	}
	want := c.ahead[block]
	if bytesInBlock(block, c.sums.length) == gfs.BlockSize {
		want = c.sums.crcs[block]
	}
	if c.sums.unknown.has(block) || checksum(c.room()[:n]) != want {
		return gfs.Errorf(gfs.CodeCorrupt, "chunk %s block %d does not match its checksum: fetch it from another replica",
			r.handle, block)
	}
	return nil
}

// rewrote takes over what foresee computed. Where that concerns readers the caller holds mu.
func (c *content) rewrote(off, end int64) {
	for _, b := range c.after {
		below := bytesInBlock(b.block, c.sums.length)
		if below > 0 && off < c.sums.length {
			c.sums.crcs[b.block] = b.below
			c.overwritten.add(b.block)
			if b.whole {
				c.sums.known(b.block)
			}
		}
		if below < gfs.BlockSize {
			c.ahead[b.block] = b.all
		}
	}
	c.tails = slices.DeleteFunc(c.tails, func(t tail) bool {
		return off < t.length && end > t.length/gfs.BlockSize*gfs.BlockSize
	})
	c.wrote(end)
}

// salvage finds out what a failed overwrite left: blocks that are as they were, as they should be, or unknown.
// The caller holds mu and write.
func (c *content) salvage() {
	for _, b := range c.after {
		below := bytesInBlock(b.block, c.sums.length)
		if below == 0 {
			continue
		}
		c.overwritten.add(b.block)
		err := c.data.readFull(c.room()[:below], int64(b.block)*gfs.BlockSize)
		switch sum := checksum(c.room()[:below]); {
		case err == nil && sum == c.sums.crcs[b.block]:
		case err == nil && sum == b.below:
			c.sums.crcs[b.block] = b.below
		default:
			c.sums.crcs[b.block] = b.below
			c.sums.unknown.add(b.block)
			c.sums.named.add(b.block)
		}
	}
	c.torn = true
	// The log ends with an intent that was not carried out: only a checkpoint may follow.
	c.log.stale = true
}

// DiscardBeyondLength drops what WriteAt wrote beyond the length, on disk too: bytes beyond the length are zero
// then, as they are after a restart. It costs nothing when there is nothing to drop. It does not fsync.
func (r *Replica) DiscardBeyondLength() error {
	r.write.Lock()
	defer r.write.Unlock()
	c, err := r.open()
	if err != nil {
		return err
	}
	return r.discard(c)
}

func (r *Replica) discard(c *content) error {
	if c.torn || c.size > c.sums.length || c.allocated > c.sums.length {
		if err := c.data.truncate(c.sums.length); err != nil {
			return r.failed("cut data", err)
		}
		c.size, c.allocated = c.sums.length, 0
	}
	c.resetAhead()
	return nil
}

// Preallocate reserves disk space for the first n bytes of the chunk, so that writing there neither fails for lack
// of space nor pays for finding it. The length stays, and bytes never written stay zero. Space that is left over
// is given back by DiscardBeyondLength and when the chunk is closed.
func (r *Replica) Preallocate(n int64) error {
	if n < 1 || n > gfs.ChunkSize {
		return gfs.Errorf(gfs.CodeInvalid, "reserve %d bytes for chunk %s: want 1 to %d", n, r.handle, gfs.ChunkSize)
	}
	r.write.Lock()
	defer r.write.Unlock()
	c, err := r.open()
	if err != nil || n <= c.allocated {
		return err
	}
	if err := c.data.allocate(0, n); err != nil {
		return r.failed("reserve space", err)
	}
	c.allocated = n
	return nil
}

// Progress is what Advance persists: whole pieces, in serial order.
type Progress struct {
	// Length is the chunk's length in bytes from now on. Where nothing was written up to it there are zeros:
	// that is padding.
	Length int64
	// Commit is the commit length as far as known; at most Length counts, and it never falls.
	Commit int64
	// Dropped are writers that leave the append table, by the primary's decision; Appends what it takes up after
	// that, in order. Both stay the caller's.
	Dropped []gfs.WriterID
	Appends []mutation.Append
}

// Advance moves length, commit length and append table by whole pieces, and persists that together with the CRCs
// of what the length moved over, in one record. After kill -9 a replica has all of it or nothing. On an error
// nothing has changed. It does not fsync.
func (r *Replica) Advance(p Progress) error {
	r.write.Lock()
	defer r.write.Unlock()
	c, err := r.open()
	if err != nil {
		return err
	}
	s := &c.sums
	switch {
	case p.Length < s.length || p.Length > gfs.ChunkSize:
		return gfs.Errorf(gfs.CodeInvalid, "length %d of chunk %s: want %d to %d", p.Length, r.handle, s.length, gfs.ChunkSize)
	case p.Length > s.length && c.torn:
		return gfs.Errorf(gfs.CodeConflict, "chunk %s: a write beyond its length failed: discard what lies there first", r.handle)
	case len(p.Appends) > gfs.MaxChunkPending || len(p.Dropped) > gfs.MaxAppendWriters:
		return gfs.Errorf(gfs.CodeInvalid, "%d appends and %d dropped writers of chunk %s: at most %d and %d in one step",
			len(p.Appends), len(p.Dropped), r.handle, gfs.MaxChunkPending, gfs.MaxAppendWriters)
	case !fits(s.table, p):
		return gfs.Errorf(gfs.CodeInvalid, "append table of chunk %s: more than %d writers", r.handle, gfs.MaxAppendWriters)
	}
	if p.Length > c.end {
		c.extendZeros(p.Length)
	}
	defer c.dropRoom()
	last, err := c.checksumAt(r, p.Length)
	if err != nil {
		return err
	}
	if c.size < p.Length {
		if err := c.data.truncate(p.Length); err != nil {
			return r.failed("extend data", err)
		}
		c.size = p.Length
	}

	at := r.snapshotRow()
	at.length, at.commit = p.Length, max(at.commit, min(p.Commit, p.Length))
	first := int(s.length / gfs.BlockSize)
	c.entry = record{
		kind: recordProgress, state: at.state, length: at.length, commit: at.commit, active: at.active,
		crcs: c.entry.crcs[:0], appends: p.Appends, dropped: p.Dropped,
	}
	if p.Length > s.length {
		c.entry.first = uint32(first)
		c.entry.crcs = append(c.entry.crcs, c.ahead[first:blockCount(p.Length)]...)
		if p.Length%gfs.BlockSize != 0 {
			c.entry.crcs[len(c.entry.crcs)-1] = last
		}
	}
	err = r.append(c, &c.entry)
	c.entry.appends, c.entry.dropped = nil, nil // the caller's
	if err != nil {
		return err
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	r.dir.used.Add(p.Length - s.length)
	r.row.length, r.row.commit = at.length, max(at.commit, r.row.commit)
	s.length = p.Length
	copy(s.crcs[c.entry.first:], c.entry.crcs)
	for _, id := range p.Dropped {
		s.table.DropWriter(id)
	}
	for i := range p.Appends {
		s.table.Add(p.Appends[i].Entry, p.Appends[i].Lowest)
	}
	c.dropTails(p.Length)
	return nil
}

// dropTails forgets the ends up to a length.
func (c *content) dropTails(length int64) {
	n := 0
	for n < len(c.tails) && c.tails[n].length <= length {
		n++
	}
	c.tails = c.tails[:copy(c.tails, c.tails[n:])]
}

// fits reports whether the append table has room for all writers of a step.
func fits(t *mutation.Table, p Progress) bool {
	fresh := 0
	for i := range p.Appends {
		if id := p.Appends[i].Writer; id != 0 && !t.Has(id) {
			fresh++
		}
	}
	if t.Len()+fresh <= gfs.MaxAppendWriters {
		return true
	}
	// Close to the bound: some may be twice in the step, some dropped by it.
	t = t.Clone()
	for _, id := range p.Dropped {
		t.DropWriter(id)
	}
	for i := range p.Appends {
		if !t.Add(p.Appends[i].Entry, p.Appends[i].Lowest) {
			return false
		}
	}
	return true
}

// checksumAt is the CRC of the block that a length not above the end cuts, up to that length; zero when it cuts
// none. The caller holds write.
func (c *content) checksumAt(r *Replica, length int64) (uint32, error) {
	in := int(length % gfs.BlockSize)
	switch {
	case in == 0:
		return 0, nil
	case length == c.end:
		return c.ahead[length/gfs.BlockSize], nil
	case length == c.sums.length:
		return c.sums.lastCRC(), nil
	}
	for _, t := range c.tails {
		if t.length == length {
			return t.crc, nil
		}
	}
	block := int(length / gfs.BlockSize)
	if err := c.readChecked(r, block, bytesInBlock(block, c.end)); err != nil {
		return 0, err
	}
	return checksum(c.room()[:in]), nil
}
