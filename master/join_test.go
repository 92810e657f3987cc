package master_test

import (
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// replicas is how many good replicas of a file's first chunk are located.
func (w *world) replicas(file uint64) int { return len(w.locate(file)[0].GetReplicas()) }

func TestAStaleReplicaIsBroughtIn(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(4)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	old := primary(peers, at)
	old.kill()
	after := w.reLease(file, at)
	if len(after.GetReplicas()) != 2 {
		t.Fatalf("before %v, after %v", at, after)
	}
	old.start(w.url)
	w.await("the stale replica is a member again", func() bool { return w.replicas(file) == 3 })
	joined := w.mustLease(&pb.LeaseRequest{FileId: file})
	if joined.GetPrimary() != after.GetPrimary() || !slices.Contains(servers(joined), string(old.id)) || joined.GetVersion() <= after.GetVersion() {
		t.Fatalf("before %v, after %v", after, joined)
	}
	for _, p := range peers {
		if p.mu.Lock(); p.replicas[at.GetHandle()] == nil == slices.Contains(servers(at), string(p.id)) {
			t.Errorf("the replicas are not where they were: %s has %v", p.id, p.replicas)
		}
		p.mu.Unlock()
	}
	w.await("nothing is counted as missing", func() bool { return w.statFS().GetUnderReplicated() == 0 })
}

// A server that stays away is replaced, though not at once.
func TestAMissingReplicaIsReplaced(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	const delay = gfs.HeartbeatTimeout + 3*time.Second
	w.stopMaster()
	w.startMaster(master.Config{ReplicationDelay: delay})
	peers := w.peers(4)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	lost := primary(peers, at)
	if err := lost.closeChunk(w.ctx, at.GetHandle(), at.GetVersion(), 5); err != nil {
		t.Fatal(err)
	}
	lost.kill()
	killed := time.Now()
	w.await("it is missed", func() bool { return w.statFS().GetUnderReplicated() == 1 })
	w.await("another server has a replica", func() bool { return w.replicas(file) == 3 })
	if took := time.Since(killed); took < delay-2*beatInterval {
		t.Errorf("it was replaced after %v", took)
	}
	if slices.Contains(servers(w.locate(file)[0]), string(lost.id)) {
		t.Errorf("located %v", w.locate(file)[0])
	}
}
