package chunkserver

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// leaseBook is the leases that this server holds as primary, for heartbeats. It is safe for concurrent use.
type leaseBook struct {
	mu   sync.Mutex
	held map[gfs.ChunkHandle]*heldLease
}

// heldLease is one lease. mutated says whether the chunk was mutated since the last heartbeat; its actor sets it.
type heldLease struct {
	version gfs.Version
	members []string
	mutated atomic.Bool
	length  atomic.Int64
}

// hold notes a lease and returns it, for its chunk's actor to keep up to date.
func (b *leaseBook) hold(handle gfs.ChunkHandle, version gfs.Version, members []*pb.Server, length int64) *heldLease {
	l := &heldLease{version: version}
	for _, m := range members {
		l.members = append(l.members, m.Id)
	}
	l.mutated.Store(true)
	l.length.Store(length)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held == nil {
		b.held = make(map[gfs.ChunkHandle]*heldLease)
	}
	b.held[handle] = l
	return l
}

// drop forgets the lease of a chunk, if it is held.
func (b *leaseBook) drop(handle gfs.ChunkHandle) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.held, handle)
}

// heartbeat is every lease held, by rising handle. Mutations from now on count for the next one.
func (b *leaseBook) heartbeat() []*pb.HeldLease {
	b.mu.Lock()
	held := maps.Clone(b.held)
	b.mu.Unlock()
	leases := make([]*pb.HeldLease, 0, len(held))
	for handle, l := range held {
		leases = append(leases, &pb.HeldLease{
			Handle: uint64(handle), Version: uint64(l.version), Extend: l.mutated.Swap(false), Length: l.length.Load(), Members: l.members,
		})
	}
	slices.SortFunc(leases, func(a, b *pb.HeldLease) int { return cmp.Compare(a.Handle, b.Handle) })
	return leases
}

// len is the number of leases held.
func (b *leaseBook) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.held)
}
