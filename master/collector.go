package master

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

const (
	// deleteBatch is how many replicas one order deletes, and so, with one order a server and round, how fast.
	deleteBatch = 256
	// deleteTimeout is how long an order to delete is waited for.
	deleteTimeout = 30 * time.Second
	// confirmMemory is how long an operator's confirmation holds.
	confirmMemory = time.Hour
	// heldShare is the share of a server's replicas, one in so many, that may be unknown to the log beyond what the
	// log itself dropped lately. Source: semantics 7, Guard
	heldShare = 10
)

// collector decides which garbage is deleted: it counts in one sweep over all replicas, and in the next one orders
// deletions at the servers whose counts are plausible. It is not safe for concurrent use. The zero value is ready.
type collector struct {
	counting  map[gfs.ServerID]*tally // of the sweep under way
	counted   map[gfs.ServerID]*tally // of the last whole sweep; nil before the first
	under     map[gfs.ServerID]time.Time
	confirmed map[gfs.ServerID]time.Time
	batches   map[gfs.ServerID][]registry.Garbage
}

// tally is the garbage of a server.
type tally struct {
	replicas, orphaned, stale uint64
	empty                     uint64 // of the orphaned ones, those that never held a byte: of creations that were given up
	lost                      uint64 // of the orphaned ones, those that may belong to history that the log has lost
	held                      string // why nothing is deleted there, empty if it is
}

// begin begins a sweep.
func (c *collector) begin(now time.Time) {
	c.counting, c.batches = map[gfs.ServerID]*tally{}, map[gfs.ServerID][]registry.Garbage{}
	for server, since := range c.under {
		if now.Sub(since) > deleteTimeout+time.Second {
			delete(c.under, server)
		}
	}
	for server, since := range c.confirmed {
		if now.Sub(since) > confirmMemory {
			delete(c.confirmed, server)
		}
	}
}

// add counts garbage and chooses what to delete of it. lost tells of which chunks the log may have lost the history: those
// are nobody's garbage until an operator says so.
func (c *collector) add(found []registry.Garbage, lost func(gfs.ChunkHandle) bool) {
	for _, g := range found {
		t := c.counting[g.ID]
		if t == nil {
			t = &tally{}
			c.counting[g.ID] = t
		}
		if g.Orphaned {
			t.orphaned++
		} else {
			t.stale++
		}
		if g.Orphaned && g.Length == 0 {
			t.empty++ // nobody can miss it: the chunkserver keeps one that has a byte after all
		} else if g.Orphaned && lost(g.Handle) {
			t.lost++
			if _, confirmed := c.confirmed[g.ID]; !confirmed {
				continue
			}
		}
		last := c.counted[g.ID]
		if _, busy := c.under[g.ID]; !busy && last != nil && last.held == "" && len(c.batches[g.ID]) < deleteBatch {
			c.batches[g.ID] = append(c.batches[g.ID], g)
		}
	}
}

// end ends a sweep. dropped is how many chunks the log dropped lately. It returns the servers that begin to be held
// back, with the reason.
func (c *collector) end(audits []registry.Audit, dropped uint64) (held map[gfs.ServerID]string) {
	held = map[gfs.ServerID]string{}
	for _, audit := range audits {
		t := c.counting[audit.Server]
		if t == nil {
			continue
		}
		t.replicas = audit.Replicas
		if _, confirmed := c.confirmed[audit.Server]; confirmed {
			continue
		}
		t.held = doubt(audit, t, dropped)
		if before := c.counted[audit.Server]; t.held != "" && (before == nil || before.held == "") {
			held[audit.Server] = t.held
		}
	}
	c.counted, c.counting = c.counting, nil
	return held
}

// doubt is the reason not to believe that orphaned replicas are garbage, empty if there is none.
func doubt(audit registry.Audit, t *tally, dropped uint64) string {
	full := t.orphaned - t.empty
	switch {
	case audit.Strange > 0:
		return fmt.Sprintf("%d of its %d replicas are of chunks that this operation log never made: it may have lost its history", audit.Strange, audit.Replicas)
	case t.lost > 0:
		return fmt.Sprintf("%d of its %d replicas may be of chunks made after the backup from which the operation log was restored", t.lost, audit.Replicas)
	case full > dropped && (full-dropped)*heldShare > audit.Replicas:
		return fmt.Sprintf("%d of its %d replicas are of chunks that no file has, and the operation log dropped only %d lately", full, audit.Replicas, dropped)
	}
	return ""
}

// ordered counts an order to a server as under way; answered, as over.
func (c *collector) ordered(server gfs.ServerID, now time.Time) {
	if c.under == nil {
		c.under = map[gfs.ServerID]time.Time{}
	}
	c.under[server] = now
}

func (c *collector) answered(server gfs.ServerID) { delete(c.under, server) }

// confirm believes that what a server holds and the log does not know is garbage.
func (c *collector) confirm(server gfs.ServerID, now time.Time) error {
	t := c.counted[server]
	if t == nil {
		return gfs.Errorf(gfs.CodeNotExist, "no garbage is known at chunkserver %q: admin gc lists the servers that have any", server)
	}
	if c.confirmed == nil {
		c.confirmed = map[gfs.ServerID]time.Time{}
	}
	c.confirmed[server] = now
	t.held = ""
	return nil
}

// describe lists what the last whole sweep counted, by server.
func (c *collector) describe() []*pb.ServerGarbage {
	var all []*pb.ServerGarbage
	for server, t := range c.counted {
		all = append(all, &pb.ServerGarbage{Server: string(server), Replicas: t.replicas, Orphaned: t.orphaned, Stale: t.stale, Held: t.held})
	}
	slices.SortFunc(all, func(a, b *pb.ServerGarbage) int { return cmp.Compare(a.GetServer(), b.GetServer()) })
	return all
}
