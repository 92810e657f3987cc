package store

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/cairnfs/cairn/messages/gfs"
)

// content is a replica with its files open. It exists while the replica is open for mutation, and otherwise as
// long as the cache of open files keeps it.
type content struct {
	replica    *Replica
	data, meta file
	// refs counts the replica itself and everyone who uses the files; at zero they are closed.
	refs atomic.Int64
	// done is release as a value, so that handing it out allocates nothing.
	done func()
	// element is the place in the cache's list; nil outside. Guarded by the cache.
	element *list.Element

	// Below the length. Guarded by Replica.mu; written with Replica.write held as well.
	sums        sums
	overwritten blockSet // since the chunk was opened for mutation
	history     []tail   // lengths before the present one in its block, as found at a restart
	lengths     []int64  // all lengths that the log went through, as found at a restart
	// overwrites counts the times that bytes readers may read were changed, before each: a reader that finds the
	// count as it was need not have kept writers out.
	overwrites atomic.Uint64

	// What follows is for the writers, guarded by Replica.write.
	log  sumLog
	end  int64 // everything beyond is zero
	size int64 // of the data file
	// ahead are the CRCs of the bytes below end of the blocks from the one that the length lies in.
	ahead []uint32
	tails []tail // ends beyond the length of what WriteAt wrote, rising
	// torn means that a write beyond the length failed where others had written: the length can not move on before
	// DiscardBeyondLength.
	torn      bool
	allocated int64                // disk space reserved up to here
	synced    uint64               // the last record known to be on disk with all before it
	syncDue   bool                 // a record of the sync point goes ahead of the next one
	fresh     bool                 // the files' names may not be on disk
	unsynced  bool                 // and as far as is known nothing else is; then fresh too
	after     []rewritten          // scratch
	scratch   *[gfs.BlockSize]byte // from the pool while a writer needs it
	entry     record               // scratch
}

// room is a writer's room for one block, which dropRoom gives back.
func (c *content) room() []byte {
	if c.scratch == nil {
		c.scratch = c.replica.store.blocks.Get().(*[gfs.BlockSize]byte)
	}
	return c.scratch[:]
}

func (c *content) dropRoom() {
	if c.scratch != nil {
		c.replica.store.blocks.Put(c.scratch)
		c.scratch = nil
	}
}

func (c *content) release() {
	if c.refs.Add(-1) == 0 {
		// Nothing was written that Close could report: the kernel reports at fsync.
		c.data.Close()
		c.meta.Close()
	}
}

// opened builds the content of a replica from its open files and what the checksum file says.
func (r *Replica) opened(data, meta file, p *replay, size int64) *content {
	c := &content{replica: r, data: data, meta: meta, sums: *p.sums, end: p.sums.length, size: size}
	c.refs.Store(1)
	c.done = c.release
	c.log = sumLog{
		f: meta, region: p.region, base: p.base, end: p.end, sequence: p.sums.sequence, synced: p.region, syncing: neverSynced,
		limit: r.store.config.logBytes,
	}
	// What the file should hold and does not is in no known state.
	for block := int(max(size, 0) / gfs.BlockSize); block < blockCount(c.sums.length); block++ {
		if size < min(int64(block+1)*gfs.BlockSize, c.sums.length) {
			c.sums.unknown.add(block)
		}
	}
	return c
}

// read opens a replica's files and reads the checksum file; that of a marked replica ends where a crash cut it.
func (r *Replica) read(marked bool) (*content, *replay, error) {
	data, meta, err := r.dir.openReplica(r.handle)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, gfs.Errorf(gfs.CodeCorrupt, "chunk %s: %v", r.handle, err)
	case damaged(err):
		return nil, nil, r.unread(err)
	case err != nil: // too many open files, say: the replica may be sound
		return nil, nil, gfs.Errorf(gfs.CodeNoReplica, "chunk %s: %v", r.handle, err)
	}
	fail := func(code gfs.Code, err error) (*content, *replay, error) {
		data.Close()
		meta.Close()
		return nil, nil, gfs.Errorf(code, "chunk %s: %v", r.handle, err)
	}
	dataInfo, err := data.Stat()
	if err != nil {
		return fail(gfs.CodeNoReplica, err)
	}
	metaInfo, err := meta.Stat()
	if err != nil {
		return fail(gfs.CodeNoReplica, err)
	}
	p, err := replayFile(meta, metaInfo.Size(), marked)
	switch {
	case errors.Is(err, errNewer):
		return fail(gfs.CodeInvalid, err)
	case errors.Is(err, errUnread):
		data.Close()
		meta.Close()
		return nil, nil, r.unread(fmt.Errorf("checksum file: %w", err))
	case err != nil:
		return fail(gfs.CodeCorrupt, fmt.Errorf("checksum file: %w", err))
	case p.sums.handle != r.handle:
		return fail(gfs.CodeCorrupt, fmt.Errorf("checksum file is of chunk %s", p.sums.handle))
	}
	if !marked {
		p.fulfil() // what was announced last was done before the chunk was closed
	}
	return r.opened(data, meta, p, dataInfo.Size()), p, nil
}

// unread is the error, CodeCorrupt, of a replica of which the disk did not give a file.
func (r *Replica) unread(err error) error {
	return fmt.Errorf("%w (%w)", gfs.Errorf(gfs.CodeCorrupt, "chunk %s: %v", r.handle, err), errUnread)
}

// acquire is the replica's content, opened if need be, for the caller to use until it calls release. It blocks
// for reading a few KiB.
func (r *Replica) acquire() (*content, error) {
	r.mu.RLock()
	c, err := r.content, r.usable()
	pinned := r.pinned
	if c != nil && err == nil {
		c.refs.Add(1)
	}
	r.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	if c == nil {
		if c, err = r.load(); err != nil {
			return nil, err
		}
	}
	if !pinned {
		r.store.cache.touch(c)
	}
	return c, nil
}

// usable refuses a replica that is deleted or whose checksum file can not be read.
func (r *Replica) usable() error {
	switch {
	case r.gone:
		return gfs.Errorf(gfs.CodeNoReplica, "chunk %s: its replica here was deleted", r.handle)
	case r.broken != nil:
		return r.broken
	}
	return nil
}

// load opens a closed replica for reading, with a reference for the caller.
func (r *Replica) load() (*content, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.usable(); err != nil {
		return nil, err
	}
	if r.content != nil { // another caller was faster
		r.content.refs.Add(1)
		return r.content, nil
	}
	c, _, err := r.read(false)
	if err == nil && (c.sums.sequence != r.row.sequence || c.sums.length != r.row.length) {
		err = gfs.Errorf(gfs.CodeCorrupt, "chunk %s: checksum file ends at record %d and length %d, the index says %d and %d",
			r.handle, c.sums.sequence, c.sums.length, r.row.sequence, r.row.length)
		c.release()
	}
	if err != nil {
		if gfs.CodeOf(err) == gfs.CodeCorrupt {
			r.condemn(err)
		}
		return nil, err
	}
	r.content = c
	c.refs.Add(1)
	return c, nil
}

// condemn declares a replica corrupt whose files are gone or make no sense; one that the disk did not give is so for this
// process alone, the next one tries again. The caller holds Replica.mu.
func (r *Replica) condemn(err error) {
	r.broken = err
	r.row.state = gfs.ReplicaCorrupt
	if !errors.Is(err, errUnread) {
		r.dir.index.later(rowChange(r.handle, r.row))
	}
	r.store.log.WithError(err).WithField("chunk", r.handle.String()).Error("replica corrupt")
}

// fileCache bounds how many closed replicas keep their files open: the ones used last.
type fileCache struct {
	mu    sync.Mutex
	limit int
	order list.List // of *content, the one used last in front
}

// touch says that a content was used, and closes the one that was not for the longest time if there are too many.
func (k *fileCache) touch(c *content) {
	k.mu.Lock()
	if c.element != nil {
		k.order.MoveToFront(c.element)
	} else {
		c.element = k.order.PushFront(c)
	}
	var victim *content
	if k.order.Len() > k.limit {
		last := k.order.Back()
		victim = last.Value.(*content)
		k.order.Remove(last)
		victim.element = nil
	}
	k.mu.Unlock()
	if victim != nil {
		victim.replica.evict(victim)
	}
}

// forget takes a content out of the cache without closing it.
func (k *fileCache) forget(c *content) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.element != nil {
		k.order.Remove(c.element)
		c.element = nil
	}
}

// evict lets go of a content that the cache dropped, unless the replica was opened for mutation meanwhile. Who
// still uses the files keeps them open.
func (r *Replica) evict(c *content) {
	r.mu.Lock()
	drop := r.content == c && !r.pinned
	if drop {
		r.content = nil
	}
	r.mu.Unlock()
	if drop {
		c.release()
	}
}
