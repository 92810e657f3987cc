package master_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/pb"
)

// A server that answers the master and that a primary does not reach gets no new chunks while there are others: each would
// lose it at the first mutation.
func TestAServerThatOthersDoNotReachGetsNoNewChunks(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.peers(4)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	accused := at.GetReplicas()[1].GetId()
	report := &pb.Report{
		Handle: at.GetHandle(), Version: at.GetVersion(), Reporter: at.GetPrimary(), Accused: accused, Kind: pb.Report_UNREACHABLE,
	}
	if _, err := ask[pb.ReportReply](w, messages.OpReport, report); err != nil {
		t.Fatal(err)
	}
	w.await("the chunk has another version", func() bool { return w.locate(file)[0].GetVersion() != at.GetVersion() })
	for i := range 8 {
		made := w.mustLease(&pb.LeaseRequest{FileId: w.create(fmt.Sprintf("/new%d", i), 3), Allocate: true})
		if slices.Contains(servers(made), accused) {
			t.Fatalf("chunk %d is at %v, of which %s is not reached", i, servers(made), accused)
		}
	}
	if made := w.mustLease(&pb.LeaseRequest{FileId: w.create("/all", 4), Allocate: true}); !slices.Contains(servers(made), accused) {
		t.Errorf("four replicas of four servers are at %v", servers(made))
	}
}
