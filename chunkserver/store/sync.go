package store

import (
	"cmp"
	"errors"
	"path/filepath"
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Sync makes all that the replica holds up to its length durable, and that length a sync point. It blocks for the
// disk; neither readers nor writers wait meanwhile, and what they write is not covered. Of several callers each
// waits for the one before, and for nothing more if that covered everything. A failed fsync fails the disk: every
// replica there that is open for mutation is suspect from then on.
func (r *Replica) Sync() error {
	r.syncTurn.Lock()
	defer r.syncTurn.Unlock()
	c, at, err := r.beginSync()
	if c == nil {
		return err
	}
	defer c.release()
	if err := c.data.sync(); err != nil {
		return r.dir.fail(r.handle, err)
	}
	noted, region, err := r.syncedData(c, at)
	if err != nil {
		return err
	}
	if err := c.meta.sync(); err != nil {
		return r.dir.fail(r.handle, err)
	}
	if at.fresh {
		// The first sync also makes the files' names durable.
		if err := r.dir.syncDir(filepath.Dir(r.dir.chunkPath(r.handle))); err != nil {
			return r.dir.fail(r.handle, err)
		}
	}
	r.write.Lock()
	defer r.write.Unlock()
	c.fresh, c.unsynced = c.fresh && !at.fresh, c.unsynced && !at.fresh
	if c.log.syncing == region {
		c.log.synced = region
	}
	c.log.syncing = neverSynced
	c.synced = max(c.synced, noted)
	return nil
}

// syncPoint is where a replica was when a sync began.
type syncPoint struct {
	length   int64
	crc      uint32
	sequence uint64
	fresh    bool
}

// beginSync takes down where the replica is, with a reference to its content; nil when there is nothing to sync.
func (r *Replica) beginSync() (*content, syncPoint, error) {
	r.write.Lock()
	defer r.write.Unlock()
	if r.closed() {
		return nil, syncPoint{}, nil // it was synced then
	}
	c, err := r.open()
	if err != nil || c.synced == c.log.sequence && !c.log.stale {
		return nil, syncPoint{}, err
	}
	c.refs.Add(1)
	return c, syncPoint{c.sums.length, c.sums.lastCRC(), c.log.sequence, c.fresh}, nil
}

// syncedData notes that the data is on disk as it was at a point. It returns the record up to which everything is
// on disk once the log is, zero if more was written meanwhile, and the log's region.
func (r *Replica) syncedData(c *content, at syncPoint) (noted uint64, region int, err error) {
	r.write.Lock()
	defer r.write.Unlock()
	if now, err := r.open(); err != nil || now != c {
		return 0, 0, err // deleted meanwhile
	}
	quiet := c.log.sequence == at.sequence && !c.log.stale
	if at.length <= c.sums.length { // no patch cut it short meanwhile
		r.setSyncPoint(c, at.length, at.crc)
		if err := r.noteSync(c); err != nil {
			return 0, 0, err
		}
	}
	if quiet {
		noted = c.log.sequence
	}
	c.log.syncing = c.log.region
	return noted, c.log.region, nil
}

// noteSync records that the data up to the length is on disk. It may be said only once that is so. The caller holds
// write.
func (r *Replica) noteSync(c *content) error {
	c.syncDue = false
	s := &c.sums
	e := record{kind: recordSync, state: gfs.ReplicaMember, length: s.syncLength}
	if s.syncLength%gfs.BlockSize != 0 {
		e.crcs = []uint32{s.syncCRC}
	}
	return r.append(c, &e)
}

// setSyncPoint makes a length the sync point, in memory. The caller holds write.
func (r *Replica) setSyncPoint(c *content, length int64, crc uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.sums.syncLength, c.sums.syncCRC = length, crc
}

// fail gives up a disk whose fsync failed: what it did not take may be gone from the page cache as well.
func (d *directory) fail(h gfs.ChunkHandle, err error) error {
	d.failed.Store(true)
	// The next process shall take this disk as after a loss of power. An index that cannot say so now says it with the
	// next thing that it can.
	d.index.later(change{bucketServer, []byte(keyBoot), []byte("failed")})
	_ = d.index.commit(nil)
	return gfs.Errorf(gfs.CodeNoReplica, "chunk %s: fsync in %s: %v; replace the disk", h, d.path, err)
}

// byDirectory groups replicas by data directory, each group by rising handle and without repetition: the order in
// which many write locks are taken.
func (s *Store) byDirectory(replicas []*Replica) map[*directory][]*Replica {
	groups := make(map[*directory][]*Replica, len(s.dirs))
	for _, r := range replicas {
		groups[r.dir] = append(groups[r.dir], r)
	}
	for d, group := range groups {
		slices.SortFunc(group, func(a, b *Replica) int { return cmp.Compare(a.handle, b.handle) })
		groups[d] = slices.Compact(group)
	}
	return groups
}

// SyncAll makes all that the replicas hold up to their lengths durable, with one syncfs a data directory however
// many they are; for few replicas on a busy disk Sync costs less. Those that are closed are passed over. Space
// reserved beyond the lengths is given back: SyncAll is what comes before Unmark.
func (s *Store) SyncAll(replicas []*Replica) error {
	var errs error
	for d, group := range s.byDirectory(replicas) {
		errs = errors.Join(errs, d.syncGroup(group))
	}
	return errs
}

func (d *directory) syncGroup(group []*Replica) error {
	var errs error
	sequences := make([]uint64, len(group))
	for i, r := range group {
		r.write.Lock()
		c, err := r.open()
		switch {
		case r.closed():
		case err != nil:
			errs = errors.Join(errs, err)
		default:
			if c.end == c.sums.length {
				errs = errors.Join(errs, r.discard(c)) // gives back what was reserved
			}
			if c.log.stale {
				r.describe(c)
				errs = errors.Join(errs, c.log.checkpoint(&c.sums))
			}
			sequences[i] = c.log.sequence
		}
		r.write.Unlock()
	}
	if errs != nil {
		return errs
	}
	if err := d.syncAll(); err != nil {
		return d.fail(group[0].handle, err)
	}
	for i, r := range group {
		r.write.Lock()
		if c, err := r.open(); err == nil {
			c.fresh, c.unsynced = false, false
			if c.log.sequence == sequences[i] {
				// The record that says so goes ahead of the next one: the log up to here is on disk, so
				// whatever of it a restart finds ends at this length or has that record.
				c.synced, c.syncDue = sequences[i], true
				c.log.synced, c.log.syncing = c.log.region, neverSynced
				r.setSyncPoint(c, c.sums.length, c.sums.lastCRC())
			}
		}
		r.write.Unlock()
	}
	return nil
}

// Unmark closes replicas: their length, commit length and active version go into the index, which from then on is
// all that a restart reads of them, and the mark is dropped; one commit a data directory. Each must be synced with
// nothing written since, or it stays marked and the error, CodeConflict, names it; the others are closed all the
// same. What lies beyond a length is discarded.
func (s *Store) Unmark(replicas []*Replica) error {
	var errs error
	for d, group := range s.byDirectory(replicas) {
		errs = errors.Join(errs, d.unmarkGroup(group))
	}
	return errs
}

func (d *directory) unmarkGroup(group []*Replica) error {
	var errs error
	var changes []change
	var closing []*Replica
	var rows []row
	for _, r := range group {
		r.write.Lock()
		defer r.write.Unlock()
		if r.closed() {
			continue
		}
		c, err := r.open()
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		if err := r.discard(c); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		if c.synced != c.log.sequence || c.log.stale || d.failed.Load() {
			errs = errors.Join(errs, gfs.Errorf(gfs.CodeConflict, "chunk %s was written since it was synced: sync it again", r.handle))
			continue
		}
		next := r.snapshotRow()
		next.marked, next.sequence = false, c.log.sequence
		changes, closing, rows = append(changes, rowChange(r.handle, next)), append(closing, r), append(rows, next)
	}
	if len(closing) == 0 {
		return errs
	}
	if err := d.commit(changes...); err != nil {
		return errors.Join(errs, err)
	}
	for i, r := range closing {
		r.install(rows[i])
		r.unpin()
	}
	return errs
}
