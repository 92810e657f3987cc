package master_test

import (
	"strings"
	"testing"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// created is how many orders to make a replica the peers were given.
func created(peers []*peer) int {
	n := 0
	for _, p := range peers {
		p.mu.Lock()
		for _, order := range p.orders {
			if strings.HasPrefix(order, "create ") {
				n++
			}
		}
		p.mu.Unlock()
	}
	return n
}

func TestAReservedChunkIsInTheFileWhenItIsWanted(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	for range 2 {
		for index := range uint32(3) {
			w.mustLease(&pb.LeaseRequest{FileId: file, Index: index, Reserve: true}) // 0 is there
		}
	}
	if _, err := w.lease(&pb.LeaseRequest{FileId: file, Index: 3, Reserve: true}); gfs.CodeOf(err) != gfs.CodeNotExist {
		t.Fatalf("reserved too far ahead: %v", err)
	}
	w.await("two chunks are reserved", func() bool { return created(peers) == 9 })
	if chunks := w.locate(file); len(chunks) != 1 {
		t.Fatalf("%d chunks in the file", len(chunks))
	}
	for _, p := range peers { // nothing has to be made any more
		p.mu.Lock()
		p.failures[messages.CommandCreate] = gfs.Errorf(gfs.CodeNoSpace, "full")
		p.mu.Unlock()
	}
	for index := range uint32(3) {
		at := w.mustLease(&pb.LeaseRequest{FileId: file, Index: index, Allocate: true})
		if !primary(peers, at).holds(at.GetHandle(), at.GetVersion()) {
			t.Fatalf("chunk %d: %v", index, at)
		}
	}
	if chunks := w.locate(file); len(chunks) != 3 || created(peers) != 9 {
		t.Fatalf("%d chunks in the file, %d replicas made", len(chunks), created(peers))
	}
}

func TestAReservationLapses(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(1)
	w.begin()
	file := w.create("/a", 1)
	w.mustLease(&pb.LeaseRequest{FileId: file, Reserve: true})
	w.await("a chunk is reserved", func() bool { return created(peers) == 1 })
	w.await("it is given up and another one reserved", func() bool {
		w.mustLease(&pb.LeaseRequest{FileId: file, Reserve: true})
		return created(peers) == 2
	})
	if at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true}); !peers[0].holds(at.GetHandle(), at.GetVersion()) || created(peers) != 2 {
		t.Fatalf("%v after %d orders", at, created(peers))
	}
}
