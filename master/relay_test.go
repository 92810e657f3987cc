package master_test

import (
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Of a chunk's last two members the master does not hear one, which the other does hear: that one passes the order on, the
// chunk keeps both, and nobody waits out a grace.
func TestAMemberThatTheMasterAloneDoesNotHearStaysOne(t *testing.T) {
	t.Parallel()
	for _, wait := range []bool{false, true} { // until it counts as down
		w := startWorld(t)
		peers := w.peers(2)
		peers[0].others, peers[1].others = peers, peers
		w.begin()
		file := w.create("/a", 2)
		at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
		cut := primary(peers, at)
		if err := cut.closeChunk(w.ctx, at.GetHandle(), at.GetVersion(), 5); err != nil {
			t.Fatal(err)
		}
		cut.pause(true)
		if wait {
			w.await("it is down", func() bool { return w.statFS().GetChunkserversUp() == 1 })
		}
		began := time.Now()
		after := w.mustLease(&pb.LeaseRequest{FileId: file})
		if took := time.Since(began); took > gfs.HeartbeatTimeout {
			t.Errorf("down: %t: a lease after %v", wait, took)
		}
		if !slices.Equal(servers(after), servers(at)) || after.GetPrimary() == string(cut.id) {
			t.Errorf("down: %t: before %v, after %v", wait, at, after)
		}
		cut.mu.Lock()
		if promised := cut.replicas[at.GetHandle()].GetPromised(); promised != after.GetVersion() {
			t.Errorf("down: %t: it has promised %s", wait, gfs.Version(promised))
		}
		cut.mu.Unlock()
	}
}
