package master_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/master/lease"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// endWith has the peer's process end with the next order of a kind unread; then ended is closed.
func (p *peer) endWith(command string) (ended <-chan struct{}) {
	lost, gone := make(chan struct{}), make(chan struct{})
	p.mu.Lock()
	p.lost[command] = lost
	p.mu.Unlock()
	go func() {
		<-lost
		p.kill()
		close(gone)
	}()
	return gone
}

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
		old := primary(peers, at)
		ended := old.endWith(messages.CommandPrepare)
		began := time.Now()
		if after := w.reLease(file, at); len(after.GetReplicas()) != 2 {
			t.Fatalf("before %v, after %v", at, after)
		}
		best = min(best, time.Since(began))
		<-ended
		old.start(w.url)
		w.await("it is up again", func() bool { return w.statFS().GetChunkserversUp() == 3 })
	}
	if best >= lease.AccusedSilence {
		t.Errorf("a new primary after %v", best)
	}

	// The same with a chunk that is being made, whether one that was to make it is gone or stopped: others make it.
	one := startPeer(t, w.url, 4)
	w.await("a fourth is up", func() bool { return w.statFS().GetChunkserversUp() == 4 })
	one.pause(true)
	slow := 0
	for i := range 8 { // it is among the three that are chosen first, for it has made none
		began := time.Now()
		at := w.mustLease(&pb.LeaseRequest{FileId: w.create(fmt.Sprintf("/stopped%d", i), 3), Allocate: true})
		if took := time.Since(began); took >= lease.CreateTimeout || slices.Contains(servers(at), string(one.id)) {
			t.Errorf("a chunk was made at %v after %v", servers(at), took)
		} else if took >= gfs.PrepareSilence {
			slow++
		}
	}
	if slow > 4 {
		t.Errorf("one did not answer, and was tried for %d chunks", slow)
	}
	one.pause(false)
	one.kill()
	one.start(w.url)
	w.await("it is up again", func() bool { return w.statFS().GetChunkserversUp() == 4 })
	ended := one.endWith(messages.CommandCreate)
	for i := 0; ; i++ { // until it is among the three that are chosen
		began := time.Now()
		w.mustLease(&pb.LeaseRequest{FileId: w.create(fmt.Sprintf("/made%d", i), 3), Allocate: true})
		if took := time.Since(began); took >= lease.CreateTimeout {
			t.Errorf("a chunk was made after %v", took)
		}
		select {
		case <-ended:
			return
		default:
		}
	}
}
