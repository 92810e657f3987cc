package store

import (
	"sync"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// Replica is one replica of a chunk. Its methods are safe for concurrent use: readers run beside each other and
// beside one writer, writers wait for one another. The order of mutations among writers is for the caller to keep.
type Replica struct {
	store  *Store
	dir    *directory
	handle gfs.ChunkHandle

	// syncTurn is held by Sync; it comes before write.
	syncTurn sync.Mutex
	// write is held by whatever changes the replica's files or row, across its I/O. It comes before mu.
	write sync.Mutex
	// mu guards what follows and the part of content that readers use. It is held across I/O only to overwrite
	// bytes that readers may be reading, and to open a closed replica.
	mu      sync.RWMutex
	row     row
	content *content
	pinned  bool  // content stays: the replica is, or is about to be, open for mutation
	gone    bool  // deleted
	broken  error // files are missing or make no sense
}

// Status is what a replica says of itself. Lengths are in bytes.
type Status struct {
	Handle       gfs.ChunkHandle
	Promised     gfs.Version // no lower version is obeyed
	Active       gfs.Version // the version whose content the replica holds; zero for a learner that holds none
	Length       int64       // whole pieces applied
	CommitLength int64       // known to be on every member; at most Length
	State        gfs.ReplicaState
	Marked       bool // open for mutation
}

// Handle names the chunk.
func (r *Replica) Handle() gfs.ChunkHandle { return r.handle }

// Status is the replica's present state. It blocks while a block is being overwritten or read, not for fsyncs.
func (r *Replica) Status() Status {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return Status{
		Handle: r.handle, Promised: r.row.promised, Active: r.row.active, Length: r.row.length,
		CommitLength: r.row.commit, State: r.state(), Marked: r.row.marked,
	}
}

// state is the row's state, or suspect after a failed fsync. The caller holds mu.
func (r *Replica) state() gfs.ReplicaState {
	if r.row.state == gfs.ReplicaMember && r.row.marked && r.dir.failed.Load() {
		return gfs.ReplicaSuspect
	}
	return r.row.state
}

// Promise makes v the lowest version that the replica obeys and opens it for mutation: the fence and the mark are
// on disk when Promise returns, with one fsync that concurrent callers share. If what was promised before is
// from, the version that the attempt starts from, then a member held everything of it and was frozen, and active
// becomes from in the same write; a suspect held it too, but for what its disk may have lost. A joiner becomes a learner
// in the same write.
//
// The caller has drained the mutations of older versions; pieces of which parts are missing are discarded here. A version that is not
// above what is promised is gfs.CodeStaleVersion, and the detail says what is; an epoch below the highest heard is
// gfs.CodeStaleEpoch.
func (r *Replica) Promise(v, from gfs.Version, joiner bool) error {
	if epoch := r.store.Epoch(); v.Epoch() < epoch {
		return gfs.Errorf(gfs.CodeStaleEpoch, "version %s of chunk %s: epoch %d was heard", v, r.handle, epoch)
	}
	r.write.Lock()
	defer r.write.Unlock()
	if promised := r.snapshotRow().promised; v <= promised {
		return gfs.Errorf(gfs.CodeStaleVersion, "version %s of chunk %s: promised is %s", v, r.handle, promised)
	}
	c, err := r.pin()
	if err != nil {
		return err
	}
	defer r.unpin()
	if err := r.discard(c); err != nil {
		return err
	}
	return r.commitRow(func(next *row) error {
		if next.promised == from && (next.state == gfs.ReplicaMember || next.state == gfs.ReplicaSuspect) && !joiner {
			next.active = from
		}
		if joiner {
			next.state = gfs.ReplicaLearner
		}
		next.promised, next.marked = v, true
		return nil
	})
}

// pin opens the replica's files for as long as it is marked. The caller holds write.
func (r *Replica) pin() (*content, error) {
	used, err := r.acquire()
	if err != nil {
		return nil, err
	}
	defer used.release()
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.content
	if c == nil { // evicted since
		c = used
		c.refs.Add(1)
		r.content = c
	}
	r.pinned = true
	if c.ahead == nil {
		c.prepare()
		// It was closed, so all of it is on disk.
		c.synced, c.syncDue = c.log.sequence, true
		c.sums.syncLength, c.sums.syncCRC = c.sums.length, c.sums.lastCRC()
	}
	return c, nil
}

// prepare gets a content ready for writers.
func (c *content) prepare() {
	c.ahead = make([]uint32, gfs.BlocksPerChunk)
	c.overwritten = blockSet{}
	c.resetAhead()
}

// unpin lets the cache have the files again unless the replica is marked. The caller holds write.
func (r *Replica) unpin() {
	r.mu.Lock()
	c := r.content
	if r.pinned = r.row.marked; r.pinned || c == nil {
		r.mu.Unlock()
		return
	}
	c.ahead, c.tails, c.after = nil, nil, nil
	c.overwritten = blockSet{}
	r.mu.Unlock()
	r.store.cache.touch(c)
}

// resetAhead makes the state beyond the length what it is when nothing lies there. The caller holds write.
func (c *content) resetAhead() {
	c.end = c.sums.length
	c.tails = c.tails[:0]
	c.torn = false
	if c.end < gfs.ChunkSize {
		c.ahead[c.end/gfs.BlockSize] = c.sums.lastCRC()
	}
}

// noted is the row as the index gets it. A replica that was never synced may have no files after a loss of power: it is empty
// then, as it was made, and the index must not know better.
func (r row) noted(unsynced bool) row {
	if unsynced {
		r.length, r.commit = 0, 0
	}
	return r
}

// commitRow changes the row, first in the index and then in memory. The caller holds write.
func (r *Replica) commitRow(edit func(next *row) error) error {
	r.mu.RLock()
	next, unsynced := r.row, false
	if c := r.content; c != nil {
		next.sequence, unsynced = c.log.sequence, c.unsynced
	}
	gone := r.gone
	r.mu.RUnlock()
	if gone {
		return gfs.Errorf(gfs.CodeNoReplica, "chunk %s: its replica here was deleted", r.handle)
	}
	if err := edit(&next); err != nil {
		return err
	}
	if err := r.dir.commit(rowChange(r.handle, next.noted(unsynced))); err != nil {
		return err
	}
	r.install(next)
	return nil
}

// install takes over a row that is in the index. The commit length may have risen meanwhile.
func (r *Replica) install(next row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if next.length == r.row.length {
		next.commit = max(next.commit, r.row.commit)
	}
	r.row = next
}

// open is the content of a replica that is open for mutation. The caller holds write.
func (r *Replica) open() (*content, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	switch {
	case r.gone || r.broken != nil:
		return nil, r.usable()
	case r.row.redo:
		return nil, gfs.Errorf(gfs.CodeConflict, "chunk %s: a patch failed half way: apply one again", r.handle)
	case !r.row.marked || r.content == nil:
		return nil, gfs.Errorf(gfs.CodeConflict, "chunk %s is closed: promise a version first", r.handle)
	}
	return r.content, nil
}

// closed reports whether the replica is whole and not open for mutation.
func (r *Replica) closed() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return !r.row.marked && r.usable() == nil
}

// Activate makes v, which must be what is promised, the version whose content the replica holds. A learner
// becomes a member, which the index says durably: after a loss of power it has to come back as a suspect. A suspect
// stays suspect until it is reconciled. Otherwise Activate survives kill -9 but is not fsynced. A patch that failed half way
// is applied again first.
func (r *Replica) Activate(v gfs.Version) error {
	r.write.Lock()
	defer r.write.Unlock()
	if err := r.finishPatch(); err != nil {
		return err
	}
	c, err := r.open()
	if err != nil {
		return err
	}
	next := r.snapshotRow()
	if next.promised != v {
		return gfs.Errorf(gfs.CodeStaleVersion, "version %s of chunk %s: promised is %s", v, r.handle, next.promised)
	}
	if next.active == v && next.state == gfs.ReplicaMember {
		return nil
	}
	next.active = v
	if next.state == gfs.ReplicaLearner {
		next.state = gfs.ReplicaMember
		err := r.commitRow(func(row *row) error {
			row.active, row.state = next.active, next.state
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := r.note(c, next); err != nil {
		return err
	}
	r.install(next)
	return nil
}

// snapshotRow is the row at present.
func (r *Replica) snapshotRow() row {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.row
}

// note writes what a row says of the content to the checksum file, without a change of length. The caller holds
// write.
func (r *Replica) note(c *content, next row) error {
	c.entry = record{
		kind: recordProgress, state: next.state, length: next.length, commit: next.commit, active: next.active,
		crcs: c.entry.crcs[:0],
	}
	return r.append(c, &c.entry)
}

// append writes a record to the checksum file. A failure other than a full disk makes the replica suspect.
func (r *Replica) append(c *content, e *record) error {
	if c.syncDue && e.kind != recordSync {
		if err := r.noteSync(c); err != nil {
			return err
		}
	}
	r.describe(c)
	if err := c.log.append(e, &c.sums); err != nil {
		return r.failed("write checksums", err)
	}
	return nil
}

// describe brings what a checkpoint says besides the sums up to date. Only writers read these fields.
func (r *Replica) describe(c *content) {
	at := r.snapshotRow()
	c.sums.commit, c.sums.active, c.sums.state = at.commit, at.active, at.state
}

// failed gives a failed write its code, and suspects the replica unless the disk is only full: what the page cache
// holds may never reach the disk. The caller holds write.
func (r *Replica) failed(what string, err error) error {
	if !outOfSpace(err) {
		r.mu.Lock()
		if r.row.state == gfs.ReplicaMember {
			r.row.state = gfs.ReplicaSuspect
			r.dir.index.later(rowChange(r.handle, r.row.noted(r.content != nil && r.content.unsynced)))
		}
		r.mu.Unlock()
		r.store.log.WithError(err).WithField("chunk", r.handle.String()).Error("disk failed, replica suspect")
	}
	return diskError(r.handle, what, err)
}

// SetState persists a state: corrupt or suspect when the holder finds it so, member when a suspect or learner was
// brought up to date. It fsyncs the index.
func (r *Replica) SetState(state gfs.ReplicaState) error {
	if state < gfs.ReplicaMember || state > gfs.ReplicaCorrupt {
		return gfs.Errorf(gfs.CodeInvalid, "state %s of chunk %s", state, r.handle)
	}
	r.write.Lock()
	defer r.write.Unlock()
	if c, err := r.open(); err == nil {
		next := r.snapshotRow()
		next.state = state
		// A condemned replica's disk may well refuse; the index is what counts then.
		if err := r.note(c, next); err != nil && state == gfs.ReplicaMember {
			return err
		}
	}
	return r.commitRow(func(next *row) error {
		next.state = state
		return nil
	})
}

// SetCommit raises the commit length, below which readers are served, to at most the length. It costs no I/O: the
// next record of the checksum file carries it.
func (r *Replica) SetCommit(commit int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.row.commit = max(r.row.commit, min(commit, r.row.length))
}

// Table is a copy of the append table as of the length. It may open a closed replica.
func (r *Replica) Table() (*mutation.Table, error) {
	c, err := r.acquire()
	if err != nil {
		return nil, err
	}
	defer c.release()
	r.mu.RLock()
	defer r.mu.RUnlock()
	return c.sums.table.Clone(), nil
}

// UnknownBlocks lists the blocks whose bytes match neither their CRC nor an intended one, in rising order. They
// are served to nobody until a patch or an overwrite of the whole block replaces them.
func (r *Replica) UnknownBlocks() ([]uint32, error) {
	c, err := r.acquire()
	if err != nil {
		return nil, err
	}
	defer c.release()
	r.mu.RLock()
	defer r.mu.RUnlock()
	return c.sums.unknown.list(), nil
}
