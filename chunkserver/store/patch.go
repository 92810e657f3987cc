package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// PatchBlock is one block as it is after a patch: all of its bytes below the patch's length, and their CRC32C.
type PatchBlock struct {
	Index uint32
	Data  []byte
	CRC   uint32
}

// Patch makes a replica equal to another one: the blocks that differ, and everything but blocks whole.
type Patch struct {
	Length int64
	Commit int64 // at most Length counts
	Active gfs.Version
	State  gfs.ReplicaState
	// Blocks are in any order, none twice. Blocks beyond the replica's old length that are not among them are zero.
	Blocks []PatchBlock
	Table  *mutation.Table // nil keeps the replica's own
}

// The side file: a header, the checkpoint as it is after the patch, the blocks' data one after another.
const (
	patchMagic       = "cairnptc"
	patchFormat      = 1
	patchHeaderBytes = 24 // magic, format, CRC32C of what follows up to the data, length of the checkpoint, number of blocks
)

// ApplyPatch takes over a patch of a replica that is open for mutation, atomically: what the replica holds is fsynced, the patch
// is collected in a side file and fsynced, marked in the index, applied, fsynced, and the mark dropped; after a crash it is
// applied again. So
// the replica has its old state or the new one, and the new one is durable when ApplyPatch returns. Readers see
// either. What lay beyond the length is discarded. Block data that does not match its CRC is CodeCorrupt, and a
// patch that makes no sense CodeInvalid; then, and when there is no space, nothing has changed.
//
// A disk that fails or fills up later than that leaves the patched blocks unknown and the replica closed to
// all other writers (CodeConflict); the next ApplyPatch or Activate, or a restart, does it all again first.
//
// p and what it refers to stay the caller's.
func (r *Replica) ApplyPatch(p Patch) error {
	r.write.Lock()
	defer r.write.Unlock()
	if err := r.finishPatch(); err != nil {
		return err
	}
	c, err := r.open()
	if err != nil {
		return err
	}
	if err := r.discard(c); err != nil {
		return err
	}
	defer c.dropRoom()
	after, err := c.patched(r, &p)
	if err != nil {
		return err
	}
	// The checkpoint after the patch says that all is on disk. If an fsync of it fails, a restart writes the patch's blocks
	// again, but not those that it leaves alone.
	if c.synced != c.log.sequence {
		if err := c.data.sync(); err != nil {
			return r.dir.fail(r.handle, err)
		}
	}
	// From the mark on there is no way back, so a full disk has to show before.
	err = c.log.reserve(after)
	for _, b := range p.Blocks {
		if err == nil {
			err = c.data.allocate(int64(b.Index)*gfs.BlockSize, int64(len(b.Data)))
		}
	}
	if err != nil {
		return r.failed("reserve space", err)
	}
	if err := r.writePatch(after, p.Blocks); err != nil {
		return err
	}
	if err := r.commitRow(func(next *row) error { next.redo = true; return nil }); err != nil {
		return err
	}
	return r.applyPatch(c, after, p.Blocks)
}

// patched is what the checksum file says after a patch; errors say what is wrong with the patch.
func (c *content) patched(r *Replica, p *Patch) (*sums, error) {
	bad := func(format string, args ...any) (*sums, error) {
		return nil, gfs.Errorf(gfs.CodeInvalid, "patch of chunk "+r.handle.String()+": "+format, args...)
	}
	if p.Length < 0 || p.Length > gfs.ChunkSize {
		return bad("length %d, want 0 to %d", p.Length, gfs.ChunkSize)
	}
	if p.State < gfs.ReplicaMember || p.State > gfs.ReplicaCorrupt {
		return bad("state %s", p.State)
	}
	after := c.sums
	after.length, after.commit, after.active, after.state = p.Length, min(p.Commit, p.Length), p.Active, p.State
	if p.Table != nil {
		after.table = p.Table.Clone()
	}
	var seen blockSet
	for _, b := range p.Blocks {
		switch want := bytesInBlock(int(b.Index), p.Length); {
		case b.Index >= gfs.BlocksPerChunk || want == 0 || seen.has(int(b.Index)):
			return bad("block %d lies beyond length %d or is there twice", b.Index, p.Length)
		case len(b.Data) != want:
			return bad("block %d has %d bytes, want %d", b.Index, len(b.Data), want)
		case checksum(b.Data) != b.CRC:
			return nil, gfs.Errorf(gfs.CodeCorrupt, "patch of chunk %s: block %d does not match its checksum: send it again", r.handle, b.Index)
		}
		seen.add(int(b.Index))
		after.crcs[b.Index] = b.CRC
		after.known(int(b.Index))
	}
	for block := range gfs.BlocksPerChunk {
		old, now := bytesInBlock(block, c.sums.length), bytesInBlock(block, p.Length)
		switch {
		case seen.has(block):
		case now == 0:
			after.crcs[block] = 0
			after.known(block)
		case now > old:
			sum := uint32(0)
			if old > 0 {
				sum = after.crcs[block]
			}
			after.crcs[block] = extendChecksum(sum, zeros[:now-old])
		case now < old:
			if err := c.readChecked(r, block, old); err != nil {
				return nil, err
			}
			after.crcs[block] = checksum(c.room()[:now])
		}
	}
	after.syncLength, after.syncCRC = after.length, after.lastCRC()
	return &after, nil
}

// patchHead is what the side file begins with.
func patchHead(after *sums, blocks []PatchBlock) []byte {
	le := binary.LittleEndian
	head := append(make([]byte, 0, 16<<10), zeros[:patchHeaderBytes]...)
	for _, b := range blocks {
		head = le.AppendUint32(head, b.Index)
	}
	listed := len(head)
	head = appendCheckpoint(head, after)
	copy(head, patchMagic)
	le.PutUint32(head[8:], patchFormat)
	le.PutUint32(head[16:], uint32(len(head)-listed))
	le.PutUint32(head[20:], uint32(len(blocks)))
	le.PutUint32(head[12:], checksum(head[16:]))
	return head
}

// writePatch puts the side file in place, durably.
func (r *Replica) writePatch(after *sums, blocks []PatchBlock) error {
	head := patchHead(after, blocks)
	path := r.dir.patchPath(r.handle)
	f, err := r.dir.openFile(path+".new", os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return diskError(r.handle, "write patch", err)
	}
	err = f.writeAt(head, 0)
	at := int64(len(head))
	for _, b := range blocks {
		if err != nil {
			break
		}
		err = f.writeAt(b.Data, at)
		at += int64(len(b.Data))
	}
	if err == nil {
		err = f.sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = r.dir.replace(path+".new", path)
	}
	if err == nil {
		err = r.dir.syncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = os.Remove(path + ".new")
		return diskError(r.handle, "write patch", err)
	}
	return nil
}

// readPatch reads the side file.
func (r *Replica) readPatch() (*sums, []PatchBlock, error) {
	b, err := os.ReadFile(r.dir.patchPath(r.handle))
	if err != nil {
		return nil, nil, err
	}
	after, blocks, err := parsePatch(b)
	if err == nil && after.handle != r.handle {
		err = fmt.Errorf("patch file is of chunk %s", after.handle)
	}
	return after, blocks, err
}

// parsePatch reads the bytes of a side file; the blocks refer to them.
func parsePatch(b []byte) (*sums, []PatchBlock, error) {
	bad := errors.New("patch file makes no sense")
	le := binary.LittleEndian
	if len(b) < patchHeaderBytes || string(b[:8]) != patchMagic || le.Uint32(b[8:]) != patchFormat {
		return nil, nil, bad
	}
	size, count := int64(le.Uint32(b[16:])), int64(le.Uint32(b[20:]))
	head := patchHeaderBytes + 4*count + size
	if count > gfs.BlocksPerChunk || head > int64(len(b)) || checksum(b[16:head]) != le.Uint32(b[12:]) {
		return nil, nil, bad
	}
	after, _, err := parseCheckpoint(b[patchHeaderBytes+4*count : head])
	if err != nil {
		return nil, nil, errors.Join(bad, err)
	}
	data := b[head:]
	blocks := make([]PatchBlock, count)
	for i := range blocks {
		index := le.Uint32(b[patchHeaderBytes+4*i:])
		if index >= gfs.BlocksPerChunk {
			return nil, nil, bad
		}
		n := bytesInBlock(int(index), after.length)
		if n > len(data) || checksum(data[:n]) != after.crcs[index] {
			return nil, nil, bad
		}
		blocks[i] = PatchBlock{Index: index, Data: data[:n], CRC: after.crcs[index]}
		data = data[n:]
	}
	return after, blocks, nil
}

// applyPatch carries out a patch that the index marks. The caller holds write, or nobody else has the replica yet.
func (r *Replica) applyPatch(c *content, after *sums, blocks []PatchBlock) error {
	if err := r.replaceAll(c, after, blocks); err != nil {
		return r.failed("apply patch", err)
	}
	err := errors.Join(c.data.sync(), c.meta.sync())
	if err == nil && c.fresh { // the files' names too
		err = r.dir.syncDir(filepath.Dir(r.dir.chunkPath(r.handle)))
	}
	if err != nil {
		return r.dir.fail(r.handle, err)
	}
	c.synced, c.fresh, c.unsynced = c.log.sequence, false, false
	c.log.synced, c.log.syncing = c.log.region, neverSynced
	err = r.commitRow(func(next *row) error {
		next.redo = false
		next.length, next.commit, next.active, next.state = after.length, after.commit, after.active, after.state
		return nil
	})
	if err != nil {
		return err
	}
	if err := os.Remove(r.dir.patchPath(r.handle)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.store.log.WithError(err).WithField("chunk", r.handle.String()).Warn("patch file not removed")
	}
	return nil
}

// finishPatch applies a patch again that failed half way, if there is one: a patch is the difference to a state that
// is whole. The caller holds write.
func (r *Replica) finishPatch() error {
	r.mu.RLock()
	c, pending := r.content, r.row.redo && r.usable() == nil
	r.mu.RUnlock()
	if !pending {
		return nil
	}
	after, blocks, err := r.readPatch()
	if err != nil {
		return r.failed("read patch", err)
	}
	after.active = max(after.active, r.snapshotRow().active) // it may have been frozen in a later version meanwhile
	return r.applyPatch(c, after, blocks)
}

// replaceAll writes a patch's blocks and the checkpoint after it. Readers wait: what they see in between would
// match no checksum.
func (r *Replica) replaceAll(c *content, after *sums, blocks []PatchBlock) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.overwrites.Add(1)
	for _, b := range blocks {
		// Until all is done the block counts as unknown: if this fails half way, the next digest says so.
		c.sums.unknown.add(int(b.Index))
		if int64(b.Index)*gfs.BlockSize < r.row.commit {
			c.overwritten.add(int(b.Index))
		}
		if err := c.data.writeAt(b.Data, int64(b.Index)*gfs.BlockSize); err != nil {
			c.log.stale = true
			return err
		}
	}
	if err := c.data.truncate(after.length); err != nil {
		c.log.stale = true
		return err
	}
	if err := c.log.checkpoint(after); err != nil {
		c.log.stale = true
		return err
	}
	r.dir.used.Add(after.length - r.row.length)
	c.sums = *after
	c.size, c.allocated, c.syncDue = after.length, 0, false
	c.resetAhead()
	r.row.length, r.row.commit, r.row.active, r.row.state = after.length, after.commit, after.active, after.state
	return nil
}

// dropPatches removes side files that a crash left before their mark was set or after it was dropped.
func (d *directory) dropPatches(replicas map[gfs.ChunkHandle]*Replica) {
	names, err := os.ReadDir(filepath.Join(d.path, patchesName))
	if err != nil {
		return // the next start tries again
	}
	for _, name := range names {
		h, err := gfs.ParseChunkHandle(name.Name())
		if r := replicas[h]; err == nil && r != nil && r.dir == d && r.row.redo {
			continue
		}
		_ = os.Remove(filepath.Join(d.path, patchesName, name.Name()))
	}
}
