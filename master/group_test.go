package master_test

import (
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/master/oplog"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// startGroup starts three masters in place of the one.
func (w *world) startGroup() []*master.Master {
	w.t.Helper()
	var peers []oplog.Peer
	var listeners []net.Listener
	for _, id := range []string{"g1", "g2", "g3"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			w.t.Fatal(err)
		}
		listeners = append(listeners, listener)
		peers = append(peers, oplog.Peer{ID: id, Addr: listener.Addr().String()})
	}
	var masters []*master.Master
	for i, peer := range peers {
		cfg := master.Config{
			ID: peer.ID, Cluster: cluster, Dir: filepath.Join(w.dir, peer.ID), Peers: peers, RaftListener: listeners[i],
			ElectionTimeout: 500 * time.Millisecond, Log: quiet(),
		}
		cfg.NATS.URL = w.url
		m, err := master.Start(w.ctx, cfg)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() {
			if err := m.Close(); err != nil {
				w.t.Errorf("close %s: %v", m.ID(), err)
			}
		})
		masters = append(masters, m)
	}
	return masters
}

// acting waits until one of the masters acts.
func (w *world) acting(masters []*master.Master) *master.Master {
	w.t.Helper()
	var found *master.Master
	w.await("a master acts", func() bool {
		i := slices.IndexFunc(masters, (*master.Master).Acting)
		if i >= 0 {
			found = masters[i]
		}
		return i >= 0
	})
	return found
}

func TestAStandbyTakesOver(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.stopMaster()
	masters := w.startGroup()
	first := w.acting(masters)
	peers := w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})

	began := time.Now()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := w.acting(slices.DeleteFunc(slices.Clone(masters), func(m *master.Master) bool { return m == first }))
	if _, err := w.mutate(createFile("/b", 3)); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s acts instead of %s after %v", second.ID(), first.ID(), time.Since(began))

	// The new master knows the primary of the old one, and where the replicas are, without having asked anybody.
	adopted := w.mustLease(&pb.LeaseRequest{FileId: file})
	if adopted.GetPrimary() != at.GetPrimary() || adopted.GetVersion() != at.GetVersion() {
		t.Errorf("adopted %v, was %v", adopted, at)
	}
	if located := w.locate(file); !slices.Equal(servers(located[0]), servers(at)) {
		t.Errorf("located %v, was %v", located, at)
	}
	// What it configures is above everything that the old one made.
	primary(peers, at).kill()
	after := w.reLease(file, at)
	if gfs.Version(after.GetVersion()).Epoch() <= gfs.Version(at.GetVersion()).Epoch() {
		t.Errorf("version %s after %s", gfs.Version(after.GetVersion()), gfs.Version(at.GetVersion()))
	}
}

// A master that may have been replaced tells nobody that a file does not exist: its successor may know it.
func TestAMasterWithoutItsGroupRefusesNothing(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.stopMaster()
	masters := w.startGroup()
	first := w.acting(masters)
	w.begin()
	if _, err := w.lease(&pb.LeaseRequest{FileId: 999, Allocate: true}); gfs.CodeOf(err) != gfs.CodeNotExist {
		t.Fatalf("while the group is whole: %v", err)
	}
	for _, m := range masters {
		if m != first {
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := ask[pb.ChunkLocation](w, messages.OpLease, &pb.LeaseRequest{Identity: user, FileId: 999, Allocate: true})
	if err == nil || gfs.CodeOf(err) == gfs.CodeNotExist {
		t.Fatalf("alone: %v", err)
	}
}

func TestLeadershipThatMovesLosesNothing(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.stopMaster()
	masters := w.startGroup()
	w.acting(masters)
	peers := w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	for range 3 {
		old := w.acting(masters)
		if err := old.Log().Transfer(w.ctx, ""); err != nil {
			t.Fatal(err)
		}
		w.await("the old one has noticed", func() bool { return !old.Acting() })
		w.acting(masters)
		next := w.reLease(file, at)
		if next.GetVersion() <= at.GetVersion() || len(next.GetReplicas()) < 2 { // on a slow machine one may be left out
			t.Fatalf("next %v, was %v", next, at)
		}
		at = next
	}
	// A lead may move once more by itself while the primary closes, and the next master draw another version: as a chunkserver
	// does, it asks again then.
	for {
		err := primary(peers, at).closeChunk(w.ctx, at.GetHandle(), at.GetVersion(), 5)
		if err == nil {
			break
		}
		if w.ctx.Err() != nil {
			t.Fatal(err)
		}
		at = w.mustLease(&pb.LeaseRequest{FileId: file, Index: at.GetIndex()})
	}
}
