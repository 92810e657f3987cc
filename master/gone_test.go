package master_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/master/lease"
	"github.com/cairnfs/cairn/messages/pb"
)

// A server that ends with an order unread is gone a moment later: it is not waited for as one that is silent.
func TestAnOrderThatTheDeadHaveIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	best := time.Hour
	for try := 0; try < 5 && best >= lease.AccusedSilence; try++ { // a busy machine may take its time
		file := w.create(fmt.Sprintf("/%d", try), 3)
		at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
		old, lost := primary(peers, at), make(chan struct{})
		old.mu.Lock()
		old.lost = lost
		old.mu.Unlock()
		began := time.Now()
		var dying sync.WaitGroup
		dying.Go(func() {
			<-lost
			old.kill()
		})
		if after := w.reLease(file, at); len(after.GetReplicas()) != 2 {
			t.Fatalf("before %v, after %v", at, after)
		}
		best = min(best, time.Since(began))
		dying.Wait()
		old.start(w.url)
		w.await("it is up again", func() bool { return w.statFS().GetChunkserversUp() == 3 })
	}
	if best >= lease.AccusedSilence {
		t.Errorf("a new primary after %v", best)
	}
}
