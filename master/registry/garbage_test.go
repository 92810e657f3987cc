package registry

import (
	"math"
	"slices"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// judge runs a whole sweep in the smallest slices and lists what it found as handle·16 + server.
func judge(r *Registry, known func(gfs.ChunkHandle) (Known, bool)) (orphaned, stale []int) {
	for from := gfs.ChunkHandle(0); ; {
		found, next := r.Garbage(from, 1, known)
		for _, g := range found {
			n := int(g.Handle)*16 + int(g.ID[15]-'0')
			if g.Orphaned {
				orphaned = append(orphaned, n)
			} else {
				stale = append(stale, n)
			}
		}
		if next == 0 {
			return orphaned, stale
		}
		from = next
	}
}

func TestWhatIsGarbage(t *testing.T) {
	const logged, before = gfs.Version(9), gfs.Version(8)
	const far = 3*pageSize + 1
	corrupt := func(handle uint64) *pb.ReplicaStatus {
		s := status(handle, logged)
		s.State = uint32(gfs.ReplicaCorrupt)
		return s
	}
	promised := status(5, before)
	promised.Promised = uint64(logged)
	log := map[gfs.ChunkHandle]Known{
		1: {logged, 2, false}, // enough good ones, and a stale one
		2: {logged, 3, false}, // not enough
		3: {logged, 2, true},  // open
		4: {logged, 2, false}, // enough, and a corrupt one
		5: {logged, 2, false}, // one that promised the logged version is good
		6: {logged, 3, false}, // a corrupt one in the way of a good one: every server has a replica
		7: {logged, 3, false}, // the same, and nobody has a good one
	}
	logOf := func(h gfs.ChunkHandle) (Known, bool) { k, found := log[h]; return k, found }
	r := known(t, 3)
	tell := func(n int, statuses ...*pb.ReplicaStatus) {
		t.Helper()
		_, err := r.Inventory(inventoryPage(n, 1, 1, 0, true, 0, math.MaxUint64, statuses...), start)
		must(t, err)
	}
	tell(1, status(1, logged), status(2, logged), status(3, logged), status(4, logged), status(5, logged), status(6, logged), status(7, before), status(far, logged))
	tell(2, status(1, logged), status(2, logged), status(3, logged), status(4, logged), promised, status(6, logged), status(7, before))
	if orphaned, stale := judge(r, logOf); !slices.Equal(orphaned, []int{far*16 + 1}) || stale != nil {
		t.Fatalf("server 3 has told nothing: orphaned %v, stale %v", orphaned, stale)
	}
	tell(3, status(1, before), status(2, before), status(3, before), corrupt(4), status(5, before), corrupt(6), corrupt(7), status(far, before))
	orphaned, stale := judge(r, logOf)
	if want := []int{far*16 + 1, far*16 + 3}; !slices.Equal(orphaned, want) {
		t.Errorf("orphaned %v, want %v", orphaned, want)
	}
	if want := []int{1*16 + 3, 4*16 + 3, 5*16 + 3, 6*16 + 3}; !slices.Equal(stale, want) {
		t.Errorf("stale %v, want %v", stale, want)
	}

	// Until a master that begins to act has heard everything anew, nobody's word counts.
	r.AskAgain()
	if orphaned, stale := judge(r, logOf); orphaned != nil || stale != nil {
		t.Errorf("after AskAgain: orphaned %v, stale %v", orphaned, stale)
	}

	// What a server deleted is forgotten, if it is the same process that says so.
	r.Deleted(id(3), 2, 1)
	if n := len(r.Replicas(1)); n != 3 {
		t.Errorf("another process's word: %d replicas", n)
	}
	r.Deleted(id(3), 1, 1)
	if n := len(r.Replicas(1)); n != 2 {
		t.Errorf("%d replicas", n)
	}
}
