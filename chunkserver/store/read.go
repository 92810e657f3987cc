package store

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"os"
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
)

// ReadAt copies bytes below the commit length into p, each block checked against its CRC; an
// overwrite is seen in a block wholly or not at all. It returns fewer than len(p) bytes and io.EOF where
// the commit length ends them. CodeCorrupt names the block that does not match; the bytes before it are good.
// A learner or suspect serves nobody: CodeNoReplica.
func (r *Replica) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, gfs.Errorf(gfs.CodeInvalid, "read at %d of chunk %s", off, r.handle)
	}
	c, err := r.acquire()
	if err != nil {
		return 0, err
	}
	defer c.release()
	done := 0
	for done < len(p) {
		n, err := r.readBlock(c, p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readBlock copies what p has room for out of the block that off lies in.
func (r *Replica) readBlock(c *content, p []byte, off int64) (int, error) {
	block, in := int(off/gfs.BlockSize), int(off%gfs.BlockSize)
	r.mu.RLock()
	state, length, commit := r.state(), r.row.length, r.row.commit
	r.mu.RUnlock()
	switch {
	case state == gfs.ReplicaLearner || state == gfs.ReplicaSuspect:
		return 0, gfs.Errorf(gfs.CodeNoReplica, "chunk %s: the replica here is a %s: read another one", r.handle, state)
	case off >= commit:
		return 0, io.EOF
	}
	n := min(len(p), bytesInBlock(block, commit)-in)
	if in == 0 && n == bytesInBlock(block, length) {
		// Another writer may have moved the length on since: then the block is longer than what is asked for.
		switch have, err := r.loadBlock(c, p[:n], block); {
		case err != nil:
			return 0, err
		case have == n:
			return n, nil
		}
	}
	buf := r.store.blocks.Get().(*[gfs.BlockSize]byte)
	defer r.store.blocks.Put(buf)
	have, err := r.loadBlock(c, buf[:], block)
	switch {
	case err != nil:
		return 0, err
	case have <= in:
		return 0, io.EOF // a patch cut the chunk short
	}
	return copy(p[:n], buf[in:have]), nil
}

// loadBlock reads a block's bytes below the length into b, checked, and returns how many they are; more than len(b)
// means that they have no room and nothing was read. A slow disk keeps no writer waiting: the block is read without
// the lock at first, and again with it if anything was overwritten meanwhile.
func (r *Replica) loadBlock(c *content, b []byte, block int) (int, error) {
	r.mu.RLock()
	n, overwrites := bytesInBlock(block, r.row.length), c.overwrites.Load()
	want, unknown := c.sums.crcs[block], c.sums.unknown.has(block)
	r.mu.RUnlock()
	if n > len(b) {
		return n, nil
	}
	err := c.check(b[:n], block, want, unknown)
	if c.overwrites.Load() == overwrites {
		return n, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if n = bytesInBlock(block, r.row.length); n > len(b) {
		return n, nil
	}
	return n, c.check(b[:n], block, c.sums.crcs[block], c.sums.unknown.has(block))
}

// check reads a block's bytes into b and holds them against a CRC.
func (c *content) check(b []byte, block int, want uint32, unknown bool) error {
	h := c.replica.handle
	if unknown {
		return gfs.Errorf(gfs.CodeCorrupt, "chunk %s block %d is in no known state: read another replica", h, block)
	}
	if err := c.data.readFull(b, int64(block)*gfs.BlockSize); err != nil {
		return gfs.Errorf(gfs.CodeCorrupt, "chunk %s block %d: %v: read another replica", h, block, err)
	}
	if got := checksum(b); got != want {
		return gfs.Errorf(gfs.CodeCorrupt, "chunk %s block %d has checksum %08x, want %08x: read another replica", h, block, got, want)
	}
	return nil
}

// Settled is the leading run of settled blocks from a block-aligned offset, of at most n bytes: whole blocks,
// wholly below the commit length, that nothing has overwritten since the chunk was opened for mutation. Their
// bytes do not change while f is held, so sendfile may hand out its pages; the bytes are not checked here, their
// CRC32Cs are appended to crcs for whoever receives them. f is shared: give sendfile an offset of its own, do not
// close f, and call done once when finished. With count zero there is nothing, f and done are nil, and ReadAt says
// why or copies.
func (r *Replica) Settled(off, n int64, crcs []uint32) (f *os.File, sums []uint32, count int64, done func()) {
	if off < 0 || off%gfs.BlockSize != 0 || off >= gfs.ChunkSize {
		return nil, crcs, 0, nil
	}
	c, err := r.acquire()
	if err != nil {
		return nil, crcs, 0, nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if state := r.state(); state == gfs.ReplicaMember || state == gfs.ReplicaCorrupt {
		first, end := int(off/gfs.BlockSize), int(min(off+min(n, gfs.ChunkSize), r.row.commit)/gfs.BlockSize)
		for block := first; block < end; block++ {
			if c.overwritten.has(block) || c.sums.unknown.has(block) {
				break
			}
			crcs = append(crcs, c.sums.crcs[block])
			count += gfs.BlockSize
		}
	}
	if count == 0 {
		c.release()
		return nil, crcs, 0, nil
	}
	return c.data.File, crcs, count, c.done
}

// Verify reads one block below the length and compares it with its CRC: nil, or CodeCorrupt. It works in every
// state of the replica and does not change it.
func (r *Replica) Verify(block uint32) error {
	c, err := r.acquire()
	if err != nil {
		return err
	}
	defer c.release()
	return r.verify(c, int(block))
}

func (r *Replica) verify(c *content, block int) error {
	if block >= gfs.BlocksPerChunk {
		return nil
	}
	buf := r.store.blocks.Get().(*[gfs.BlockSize]byte)
	defer r.store.blocks.Put(buf)
	_, err := r.loadBlock(c, buf[:], block)
	return err
}

// VerifyAll verifies every block below the length and returns those that do not match, rising. It reads the whole
// replica, block by block, and keeps nobody out.
func (r *Replica) VerifyAll() ([]uint32, error) {
	c, err := r.acquire()
	if err != nil {
		return nil, err
	}
	defer c.release()
	var bad []uint32
	for block := range blockCount(r.Status().Length) {
		if r.verify(c, block) != nil {
			bad = append(bad, uint32(block))
		}
	}
	return bad, nil
}

// Digest is what the replicas of a chunk compare: two replicas with equal Sums hold the same bytes, length and
// append table.
type Digest struct {
	Length  int64
	Blocks  []uint32 // CRC32C of each block's bytes over exactly [0, Length)
	Unknown []uint32 // blocks whose bytes are not known to match theirs, rising; mostly nil
	Table   [sha256.Size]byte
}

// Sum is one value for all of the digest.
func (d Digest) Sum() [sha256.Size]byte {
	b := make([]byte, 0, 16+4*len(d.Blocks)+4*len(d.Unknown)+len(d.Table))
	b = binary.LittleEndian.AppendUint64(b, uint64(d.Length))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(d.Unknown)))
	for _, list := range [...][]uint32{d.Blocks, d.Unknown} {
		for _, n := range list {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
	}
	return sha256.Sum256(append(b, d.Table[:]...))
}

// Digest is the replica's digest as of its length; what WriteAt wrote beyond is not in it. It reads no data. The
// slices are the caller's.
func (r *Replica) Digest() (Digest, error) {
	c, err := r.acquire()
	if err != nil {
		return Digest{}, err
	}
	defer c.release()
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := &c.sums
	return Digest{
		Length: s.length, Blocks: slices.Clone(s.crcs[:blockCount(s.length)]), Unknown: s.unknown.list(),
		Table: s.table.Digest(),
	}, nil
}

// SyncPoint is what the last Sync or close made durable, in bytes from the chunk's beginning.
func (r *Replica) SyncPoint() (int64, error) {
	c, err := r.acquire()
	if err != nil {
		return 0, err
	}
	defer c.release()
	r.mu.RLock()
	defer r.mu.RUnlock()
	return c.sums.syncLength, nil
}

// VerifiedPrefix reads the replica from its beginning and returns the number of bytes that are what they once were
// acknowledged as: up to the first block that does not match, and of that block as much as its sync point or a
// length that it went through lets verify. It is for suspects after power was lost everywhere: the one with the
// longest such prefix, not below any sync point, is worth keeping.
func (r *Replica) VerifiedPrefix() (int64, error) {
	c, err := r.acquire()
	if err != nil {
		return 0, err
	}
	defer c.release()
	length := r.Status().Length
	for block := range blockCount(length) {
		if r.verify(c, block) != nil {
			return r.partialPrefix(c, block)
		}
	}
	return length, nil
}

// partialPrefix is the verified prefix that ends in a block which as a whole does not match.
func (r *Replica) partialPrefix(c *content, block int) (int64, error) {
	buf := r.store.blocks.Get().(*[gfs.BlockSize]byte)
	defer r.store.blocks.Put(buf)
	r.mu.RLock()
	defer r.mu.RUnlock()
	start := int64(block) * gfs.BlockSize
	if err := c.data.readFull(buf[:], start); err != nil {
		return start, nil
	}
	best := start
	for _, t := range append(slices.Clone(c.history), tail{c.sums.syncLength, c.sums.syncCRC}) {
		in := t.length - start
		if in > 0 && in < gfs.BlockSize && t.length > best && checksum(buf[:in]) == t.crc {
			best = t.length
		}
	}
	return best, nil
}
