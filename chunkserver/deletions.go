package chunkserver

import (
	"sync"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// deletionMemory is for how long at least a deletion is remembered. An order of before that comes still later than this
// is for a process that has long been out of touch.
const deletionMemory = 10 * time.Minute

// deletions remembers of which chunks this process has deleted replicas lately. A handle is given out once: an order that
// creates such a chunk is an old one that came twice, or late, and would make an empty replica that takes mutations of a
// chunk that no file has. Orders for a process before this one are refused for their incarnation.
type deletions struct {
	mu          sync.Mutex
	began       time.Time                    // of late
	late, early map[gfs.ChunkHandle]struct{} // the present span of deletionMemory, and the one before
}

// add notes a deletion.
func (d *deletions) add(h gfs.ChunkHandle, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.late == nil || now.Sub(d.began) >= deletionMemory {
		d.late, d.early, d.began = make(map[gfs.ChunkHandle]struct{}), d.late, now
	}
	d.late[h] = struct{}{}
}

// has reports whether a replica of the chunk was deleted lately.
func (d *deletions) has(h gfs.ChunkHandle) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, late := d.late[h]
	_, early := d.early[h]
	return late || early
}
