package registry

import (
	"cmp"
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Known is what the operation log says of a chunk, as far as it decides which of its replicas are garbage.
type Known struct {
	Version  gfs.Version // the logged one
	Replicas int         // wanted
	Open     bool
}

// Garbage is a replica that no file needs.
type Garbage struct {
	Replica
	Handle   gfs.ChunkHandle
	Version  gfs.Version // the logged one that it was judged by, 0 of an orphaned chunk
	Orphaned bool        // no file has the chunk; else the replica is stale or corrupt and the chunk has enough good ones
}

// Garbage looks through the replicas of the chunks from a handle on, over so many pages of 256 handles, and lists those
// that no file needs, by handle and server; next is where to go on, 0 when that was all. known tells what the log says of
// a chunk, false if it has none; a chunk that is being made counts as known to nobody here, and is for the caller to
// leave out. Only servers that are up and have told all their replicas since they came up, or since a master last asked
// them to, are judged or counted. Source: semantics 7
func (r *Registry) Garbage(from gfs.ChunkHandle, pages int, known func(gfs.ChunkHandle) (Known, bool)) (found []Garbage, next gfs.ChunkHandle) {
	first, _ := split(from)
	for n, number := range r.locations.from(first) {
		if n == pages {
			return found, gfs.ChunkHandle(number * pageSize)
		}
		for i := range pageSize {
			if handle := gfs.ChunkHandle(number*pageSize + uint64(i)); handle >= from {
				found = r.appendGarbage(found, handle, known)
			}
		}
	}
	return found, 0
}

// appendGarbage judges the replicas of one chunk.
func (r *Registry) appendGarbage(into []Garbage, handle gfs.ChunkHandle, known func(gfs.ChunkHandle) (Known, bool)) []Garbage {
	var buffer [8]entry
	entries := r.locations.appendEntries(buffer[:0], handle)
	if len(entries) == 0 {
		return into
	}
	logged, exists := known(handle)
	if exists && logged.Open {
		return into // its lease actor sees to it
	}
	good := 0
	for _, e := range entries {
		if exists && r.servers[e.server].told() && e.good(logged.Version) {
			good++
		}
	}
	first := len(into)
	for _, e := range entries {
		s := r.servers[e.server]
		switch {
		case !s.told():
		case !exists:
			into = append(into, Garbage{r.replica(e), handle, 0, true})
		case e.good(logged.Version) || good == 0:
		case e.state != gfs.ReplicaCorrupt && e.active >= logged.Version:
		case good >= logged.Replicas || e.state == gfs.ReplicaCorrupt && !r.roomBeside(entries):
			// A corrupt replica goes before there is another one if only its own place is left for that.
			into = append(into, Garbage{r.replica(e), handle, logged.Version, false})
		}
	}
	slices.SortFunc(into[first:], func(a, b Garbage) int { return cmp.Compare(a.ID, b.ID) })
	return into
}

// roomBeside reports whether a server that holds none of these replicas could take one.
func (r *Registry) roomBeside(entries []entry) bool {
	for index, s := range r.servers {
		if s.up && !s.draining && s.free >= gfs.ChunkSize &&
			!slices.ContainsFunc(entries, func(e entry) bool { return int(e.server) == index }) {
			return true
		}
	}
	return false
}

// told reports whether what is known of the server's replicas is all there is, and not from before a master began to act.
func (s *server) told() bool { return s.up && s.inventoried && !s.wanted }

// good is Replica.Good of an entry.
func (e entry) good(logged gfs.Version) bool {
	return e.state == gfs.ReplicaMember && (e.active == logged || e.promised == logged)
}

// Deleted records that a server has no replica of a chunk any more, as it said itself.
func (r *Registry) Deleted(server gfs.ServerID, incarnation gfs.Incarnation, handle gfs.ChunkHandle) {
	if index, known := r.byID[server]; known && r.servers[index].incarnation == incarnation {
		r.locations.remove(handle, index)
	}
}

// Kept records how a server said that a replica is which it was to delete.
func (r *Registry) Kept(server gfs.ServerID, incarnation gfs.Incarnation, status *pb.ReplicaStatus) {
	index, known := r.byID[server]
	page := &pb.InventoryPage{FirstHandle: status.GetHandle(), LastHandle: status.GetHandle(), Replicas: []*pb.ReplicaStatus{status}}
	if known && r.servers[index].incarnation == incarnation && checkPage(page) == nil {
		r.applyStatus(index, status)
	}
}

// Audit sizes what a server that is up holds.
type Audit struct {
	Server   gfs.ServerID
	Told     bool   // all of it
	Replicas uint64 // as of its last heartbeat
	Strange  uint64 // replicas that its last inventory named beyond the handle limit
}

// Audits sizes what the servers that are up hold, in no order.
func (r *Registry) Audits() []Audit {
	var audits []Audit
	for _, s := range r.servers {
		if s.up {
			audits = append(audits, Audit{s.ID, s.told(), s.chunks, s.strange})
		}
	}
	return audits
}
