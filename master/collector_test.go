package master

import (
	"testing"
	"time"

	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
)

func orphans(server gfs.ServerID, n int) []registry.Garbage {
	found := make([]registry.Garbage, n)
	for i := range found {
		found[i] = registry.Garbage{
			Replica: registry.Replica{Server: placement.Server{ID: server}, Length: 7}, Handle: gfs.ChunkHandle(i + 1), Orphaned: true,
		}
	}
	return found
}

// Nothing is deleted before a whole sweep has counted, nor where the log did not drop that many chunks itself.
func TestGarbageIsCountedBeforeItIsDeleted(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		name              string
		orphaned, lost    int // lost: of the orphaned ones, history that the log lost
		replicas, strange uint64
		dropped           uint64
		confirm           bool
		deleted           int
	}{
		{"a few", 10, 0, 100, 0, 0, false, 10},
		{"more than a tenth", 11, 0, 100, 0, 0, false, 0},
		{"more than a tenth, and confirmed", 11, 0, 100, 0, 0, true, 11},
		{"all, as the log says", 100, 0, 100, 0, 100, false, 100},
		{"all, and the log dropped most of them", 100, 0, 100, 0, 90, false, 100},
		{"all, and the log dropped many", 100, 0, 100, 0, 89, false, 0},
		{"beyond what the log made", 1, 0, 100, 1, 1000, false, 0},
		{"some may be lost history", 10, 1, 100, 0, 100, false, 0},
		{"some may be lost history, and confirmed", 10, 10, 100, 0, 100, true, 10},
		{"more than an order holds", deleteBatch + 1, 0, 300, 0, 1000, false, deleteBatch},
	} {
		var g collector
		lost := func(h gfs.ChunkHandle) bool { return int(h) <= c.lost }
		none := func(gfs.ChunkHandle) bool { return false }
		audits := []registry.Audit{{Server: "a", Told: true, Replicas: c.replicas, Strange: c.strange}, {Server: "b", Told: true, Replicas: 100}}
		g.begin(now)
		g.add(orphans("a", c.orphaned), lost)
		g.add(orphans("b", 1), none)
		if len(g.batches) != 0 {
			t.Errorf("%s: deleted in the first sweep: %v", c.name, g.batches)
		}
		held := g.end(audits, c.dropped)
		if c.confirm {
			if err := g.confirm("a", now); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if (held["a"] == "") != (c.deleted > 0 && !c.confirm) || held["b"] != "" {
			t.Errorf("%s: held back %v", c.name, held)
		}
		g.begin(now)
		g.add(orphans("a", c.orphaned), lost)
		g.add(orphans("b", 1), none)
		if len(g.batches["a"]) != c.deleted || len(g.batches["b"]) != 1 {
			t.Errorf("%s: %d deleted, and %d at the other server", c.name, len(g.batches["a"]), len(g.batches["b"]))
		}
		for server := range g.batches {
			g.ordered(server, now)
		}
		if again := g.end(audits, c.dropped); len(again) != 0 {
			t.Errorf("%s: told twice: %v", c.name, again)
		}
		g.begin(now.Add(time.Second))
		g.add(orphans("b", 1), none)
		if len(g.batches["b"]) != 0 {
			t.Errorf("%s: a second order beside the first", c.name)
		}
		g.begin(now.Add(2 * deleteTimeout))
		g.add(orphans("b", 1), none)
		if len(g.batches["b"]) != 1 {
			t.Errorf("%s: an order without an answer blocks its server for ever", c.name)
		}
	}
}

// Replicas that never held a byte are no sign of lost history, and nobody misses them.
func TestEmptyGarbageIsNotDoubted(t *testing.T) {
	now, found := time.Unix(1e9, 0), orphans("a", 9)
	for i := range found {
		found[i].Length = 0
	}
	var g collector
	for range 2 {
		g.begin(now)
		g.add(found, func(gfs.ChunkHandle) bool { return true })
		if held := g.end([]registry.Audit{{Server: "a", Told: true, Replicas: 10}}, 0); len(held) != 0 {
			t.Fatalf("held back: %v", held)
		}
	}
	if len(g.batches["a"]) != 9 {
		t.Errorf("%d deleted", len(g.batches["a"]))
	}
}

// What is being made or reconfigured is not garbage, whatever the registry's view says; nor is a handle not yet given out.
func TestWhatIsBeingMadeIsNotGarbage(t *testing.T) {
	s := &namespaceShell{state: namespace.New(), leaseActors: map[gfs.ChunkHandle]*leaseEntry{8: {}}, handles: handleRange{next: 9, end: 20}}
	for handle, want := range map[gfs.ChunkHandle]bool{6: true, 8: false, 9: false, 19: false, 20: false} {
		if got := s.collectable(registry.Garbage{Handle: handle, Orphaned: true}); got != want {
			t.Errorf("chunk %s: collectable %t", handle, got)
		}
	}
	if s.collectable(registry.Garbage{Handle: 6, Version: 1}) {
		t.Error("a stale replica of a chunk that is gone meanwhile is for the next sweep to judge")
	}
	s.handles = handleRange{}
	if s.collectable(registry.Garbage{Handle: 6, Orphaned: true}) {
		t.Error("before the first reservation nobody knows which handles may yet be placed")
	}
}
