package registry

import (
	"math"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func TestWhatCanBeDoneForAThinChunk(t *testing.T) {
	const handle, logged, before = gfs.ChunkHandle(7), gfs.Version(9), gfs.Version(8)
	r := known(t, 5)
	tell := func(n int, statuses ...*pb.ReplicaStatus) {
		_, err := r.Inventory(inventoryPage(n, 1, 1, 0, true, 0, math.MaxUint64, statuses...), start)
		must(t, err)
	}
	learner, corrupt := status(7, before-1), status(7, before)
	learner.State, corrupt.State = uint32(gfs.ReplicaLearner), uint32(gfs.ReplicaCorrupt)
	tell(1, status(7, logged))
	tell(2, learner)
	tell(3, status(7, before))
	tell(4, corrupt)
	thin := r.Thin(handle, logged, time.Minute, start)
	if len(thin.Good) != 1 || thin.Good[0].ID != id(1) || thin.Stale == nil || thin.Stale.ID != id(3) || len(thin.Held) != 4 {
		t.Fatalf("thin %+v", thin)
	}
	if thin.Fresh {
		t.Error("server 5 has not said what it has, and another gets a replica")
	}
	tell(5)
	if !r.Thin(handle, logged, time.Minute, start).Fresh {
		t.Error("everyone is up and has said what it has")
	}

	// Server 3 goes away: what is left is the learner, and after a minute another server.
	for d := time.Second; d <= 63*time.Second; d += time.Second {
		for _, n := range []int{1, 2, 4, 5} {
			_, err := r.Heartbeat(beat(n, 1, 1+uint64(d/time.Second)), start.Add(d))
			must(t, err)
		}
		r.Tick(start.Add(d))
		thin := r.Thin(handle, logged, time.Minute, start.Add(d))
		up, fresh := d < gfs.HeartbeatTimeout, d >= time.Minute
		if want := map[bool]gfs.ServerID{true: id(3), false: id(2)}[up]; thin.Stale == nil || thin.Stale.ID != want {
			t.Fatalf("after %v: stale %+v, want that of %s", d, thin.Stale, want)
		}
		if !up && thin.Fresh != fresh {
			t.Fatalf("after %v: fresh %t", d, thin.Fresh)
		}
	}

	// It comes back as another process: until it has said what it has, nothing is known of it.
	_, err := r.Heartbeat(beat(3, 2, 1), start.Add(64*time.Second))
	must(t, err)
	if thin := r.Thin(handle, logged, time.Minute, start.Add(64*time.Second)); thin.Stale.ID != id(2) || thin.Fresh {
		t.Fatalf("thin %+v", thin)
	}
}

// After a restoration the newest replica tells what the log has lost; a learner, or what a later epoch made, tells nothing.
func TestNewestTellsOfConfigurationsThatTheLogLost(t *testing.T) {
	v := gfs.NewVersion
	for _, c := range []struct {
		what    string
		replica Replica
		want    gfs.Version
	}{
		{"frozen", Replica{Promised: v(5, 2), Active: v(5, 1), State: gfs.ReplicaMember}, v(5, 2)},
		{"prepared since", Replica{Promised: v(9, 1), Active: v(5, 1), State: gfs.ReplicaMember}, v(5, 1)},
		{"granted since", Replica{Promised: v(9, 1), Active: v(9, 1), State: gfs.ReplicaMember}, 0},
		{"suspect", Replica{Promised: v(5, 2), Active: v(5, 2), State: gfs.ReplicaSuspect}, v(5, 2)},
		{"a learner", Replica{Promised: v(5, 3), Active: v(5, 1), State: gfs.ReplicaLearner}, 0},
		{"corrupt", Replica{Promised: v(5, 2), Active: v(5, 2), State: gfs.ReplicaCorrupt}, 0},
	} {
		if got := c.replica.Newest(9); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}
