package chunkserver

import (
	"sync"
	"sync/atomic"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/messages/gfs"
)

// chunkTable finds the actor of a chunk, which is spawned when it is first wanted and leaves when it has nothing to
// do. It is safe for concurrent use.
type chunkTable struct {
	spawn func(*chunkEntry) actors.Ref[*chunk]

	mu     sync.RWMutex
	chunks map[gfs.ChunkHandle]*chunkEntry
}

// chunkEntry is what is known of a chunk outside its actor.
type chunkEntry struct {
	handle gfs.ChunkHandle
	ref    actors.Ref[*chunk]
	routed atomic.Int64 // commands sent through the table
	// primaryIn is the version in which this server is the chunk's open primary, or 0.
	primaryIn atomic.Uint64
}

func newChunkTable(spawn func(*chunkEntry) actors.Ref[*chunk]) *chunkTable {
	return &chunkTable{spawn: spawn, chunks: make(map[gfs.ChunkHandle]*chunkEntry)}
}

// mutate is the command that brings a client's mutation.
type mutate struct{ mutation *dataplane.Mutation }

// Do submits the mutation.
func (m mutate) Do(c *chunk) {
	c.routed++
	c.onMutate(m.mutation)
}

// routed is any other command that goes through the table.
type routed func(*chunk)

// Do is the command's turn.
func (r routed) Do(c *chunk) {
	c.routed++
	r(c)
}

// send queues a command to a chunk's actor. Such commands are counted, so that an actor leaves only when nothing is on
// its way to it.
func (t *chunkTable) send(handle gfs.ChunkHandle, cmd routed) {
	t.mu.RLock()
	if e := t.chunks[handle]; e != nil {
		e.routed.Add(1)
		e.ref.Send(cmd)
		t.mu.RUnlock()
		return
	}
	t.mu.RUnlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.chunks[handle]
	if e == nil {
		e = &chunkEntry{handle: handle}
		e.ref = t.spawn(e)
		t.chunks[handle] = e
	}
	e.routed.Add(1)
	e.ref.Send(cmd)
}

// sendMutation queues a mutation to its chunk's actor, if there is one.
func (t *chunkTable) sendMutation(m *dataplane.Mutation) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.chunks[m.Handle]
	if e == nil {
		return false
	}
	e.routed.Add(1)
	e.ref.Send(mutate{m})
	return true
}

// primaryIn is the version in which this server is the open primary of a chunk, or 0.
func (t *chunkTable) primaryIn(handle gfs.ChunkHandle) gfs.Version {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if e := t.chunks[handle]; e != nil {
		return gfs.Version(e.primaryIn.Load())
	}
	return 0
}

// retire takes an actor out of the table if it has seen every command that was sent to it.
func (t *chunkTable) retire(e *chunkEntry, seen int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.routed.Load() != seen {
		return false
	}
	delete(t.chunks, e.handle)
	return true
}

// len is the number of chunks with an actor.
func (t *chunkTable) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.chunks)
}
