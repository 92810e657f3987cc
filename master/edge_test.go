package master_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// raw sends bytes and returns the code that they were answered with, -1 if nobody answered.
func (w *world) raw(subject string, data []byte) int {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	reply, err := w.client.NATS().RequestWithContext(ctx, subject, data)
	if err != nil {
		w.t.Errorf("%s: %d bytes: %v", subject, len(data), err)
		return -1
	}
	var code int
	if text := reply.Header.Get(micro.ErrorCodeHeader); text != "" {
		if _, err := fmt.Sscan(text, &code); err != nil {
			w.t.Error(err)
		}
	}
	return code
}

func TestGarbageIsRefusedAndHarmsNobody(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	random := rand.New(rand.NewPCG(1, 2))
	subjects := []string{w.subjects.Heartbeat(peers[0].id), w.subjects.Heartbeat("nobody")}
	for _, op := range []string{
		messages.OpMutate, messages.OpStat, messages.OpList, messages.OpLocate, messages.OpLease, messages.OpReport,
		messages.OpCloseChunk, messages.OpInventory,
	} {
		subjects = append(subjects, w.subjects.Master(op))
	}
	for _, subject := range subjects {
		for _, length := range []int{1, 10, 100, 1000, 100_000} {
			garbage := make([]byte, length)
			for i := range garbage {
				garbage[i] = byte(random.Uint32())
			}
			garbage[0] = 0xff // no tag of a protobuf
			if code := w.raw(subject, garbage); code != int(gfs.CodeInvalid) {
				t.Errorf("%s: %d random bytes: code %d", subject, length, code)
			}
		}
		if code := w.raw(subject, nil); code == 0 {
			t.Errorf("%s: an empty message was taken", subject)
		}
	}
	if at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true}); len(at.GetReplicas()) != 3 {
		t.Fatalf("location %v", at)
	}
}

func TestWhatNobodyWouldSendIsRefused(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	refused := func(what string, err error, want gfs.Code) {
		t.Helper()
		if gfs.CodeOf(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	_, err := w.mutate(createFile("relative", 1))
	refused("a relative path", err, gfs.CodeInvalid)
	_, err = w.mutate(createFile("/b", 9))
	refused("nine replicas", err, gfs.CodeInvalid)
	_, err = w.mutate(func(*pb.NamespaceMutation) {})
	refused("no operation", err, gfs.CodeInvalid)
	_, err = ask[pb.NamespaceReply](w, messages.OpMutate, &pb.NamespaceMutation{
		Session: &pb.Session{Id: 12345, Sequence: 1}, Identity: user,
		Operation: &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/c"}},
	})
	refused("a session that never began", err, gfs.CodeSessionEnded)
	_, err = w.lease(&pb.LeaseRequest{FileId: file, Index: math.MaxUint32, Allocate: true})
	refused("a chunk far away", err, gfs.CodeInvalid)
	_, err = w.lease(&pb.LeaseRequest{FileId: uint64(gfs.RootID)})
	refused("a directory's chunk", err, gfs.CodeIsDirectory)
	_, err = ask[pb.ChunkLocation](w, messages.OpLease, &pb.LeaseRequest{Identity: &pb.Identity{User: "mallory"}, FileId: file})
	refused("somebody else's file", err, gfs.CodePermission)
	_, err = ask[pb.LocateReply](w, messages.OpLocate, &pb.LocateRequest{Identity: user, FileId: file, Count: 1025})
	refused("too many chunks", err, gfs.CodeInvalid)
	_, err = ask[pb.ReportReply](w, messages.OpReport, &pb.Report{Handle: 999, Version: 1})
	refused("a report of an unknown chunk", err, gfs.CodeNotExist)
	_, err = ask[pb.CloseReply](w, messages.OpCloseChunk, &pb.CloseRequest{Handle: at.GetHandle(), Version: at.GetVersion(), Length: -1, Server: at.GetPrimary()})
	refused("a close at -1", err, gfs.CodeInvalid)
	_, err = ask[pb.CloseReply](w, messages.OpCloseChunk, &pb.CloseRequest{Handle: at.GetHandle(), Version: at.GetVersion(), Server: at.GetReplicas()[1].GetId()})
	refused("a close by a secondary", err, gfs.CodeConflict)
	_, err = ask[pb.InventoryAck](w, messages.OpInventory, &pb.InventoryPage{Server: string(peers[0].id), Incarnation: 77, Inventory: 1, Last: true})
	refused("an inventory of another process", err, gfs.CodeWrongIncarnation)

	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	foreign := &pb.Heartbeat{Server: &pb.Server{Id: string(peers[1].id), Address: "h:1"}, Incarnation: 9, Sequence: 1}
	refused("a heartbeat under another's name", bus.Ask(ctx, w.client, w.subjects.Heartbeat(peers[0].id), foreign, new(pb.HeartbeatReply)), gfs.CodeInvalid)

	// A client's complaint with the wrong version changes nothing.
	again := w.mustLease(&pb.LeaseRequest{FileId: file, FailedVersion: at.GetVersion() + 1, FailedServer: at.GetPrimary()})
	if again.GetVersion() != at.GetVersion() || again.GetPrimary() != at.GetPrimary() {
		t.Errorf("moved from %v to %v", at, again)
	}
}

func TestEventsAndMetricsAreForTheNatsTool(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	events := make(chan *nats.Msg, 100)
	for _, subject := range []string{w.subjects.Event(">"), w.subjects.Metrics("master", "*")} {
		sub, err := w.client.NATS().ChanSubscribe(subject, events)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	if err := w.client.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	peers := w.peers(3)
	w.begin()
	at := w.mustLease(&pb.LeaseRequest{FileId: w.create("/a", 3), Allocate: true})
	if err := primary(peers, at).closeChunk(w.ctx, at.GetHandle(), at.GetVersion(), 5); err != nil {
		t.Fatal(err)
	}
	// A holder tells of its corrupt replica itself, a client has nobody but the master to do so.
	for _, reporter := range []string{at.GetPrimary(), ""} {
		report := &pb.Report{Handle: at.GetHandle(), Version: at.GetVersion(), Reporter: reporter, Accused: at.GetPrimary(), Kind: pb.Report_CORRUPT, Detail: "told by " + reporter}
		if _, err := ask[pb.ReportReply](w, messages.OpReport, report); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.mutate(remove("/a")); err != nil {
		t.Fatal(err)
	}
	missing := map[string]string{ // kind → what its JSON holds
		messages.EventChunkserverUp: string(peers[0].id), messages.EventFileCreated: `"/a"`, messages.EventLeaseGranted: gfs.ChunkHandle(at.GetHandle()).String(),
		messages.EventChunkClosed: gfs.Version(at.GetVersion()).String(), messages.EventFileDeleted: `"/a"`, "metrics": `"chunkservers_up"`,
		messages.EventChunkCorrupt: `"told by "`,
	}
	for len(missing) > 0 {
		select {
		case msg := <-events:
			var fields map[string]any
			if err := json.Unmarshal(msg.Data, &fields); err != nil {
				t.Fatalf("%s: %v", msg.Subject, err)
			}
			kind, _ := fields["kind"].(string)
			if kind == "" {
				kind = "metrics"
			}
			if kind == messages.EventChunkCorrupt && !strings.Contains(string(msg.Data), missing[kind]) {
				t.Errorf("the master tells of what the holder has told: %s", msg.Data)
			}
			if strings.Contains(string(msg.Data), missing[kind]) {
				delete(missing, kind)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("never heard of %v", missing)
		}
	}
}

func TestMissingAndUnderReplicatedChunksAreCounted(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	three := w.mustLease(&pb.LeaseRequest{FileId: w.create("/three", 3), Allocate: true})
	one := w.mustLease(&pb.LeaseRequest{FileId: w.create("/one", 1), Allocate: true})
	for _, at := range []*pb.ChunkLocation{three, one} {
		if err := primary(peers, at).closeChunk(w.ctx, at.GetHandle(), at.GetVersion(), 5); err != nil {
			t.Fatal(err)
		}
	}
	primary(peers, one).kill()
	w.await("one chunk is missing and one has too few replicas", func() bool {
		fs := w.statFS()
		return fs.GetMissing() == 1 && fs.GetUnderReplicated() == 1
	})
	// Nobody left: the error says who would help, at once since the dead one was complained of.
	_, err := w.lease(&pb.LeaseRequest{FileId: 3, FailedVersion: one.GetVersion(), FailedServer: one.GetPrimary()})
	if !errors.Is(err, gfs.ErrUnavailable) || !strings.Contains(err.Error(), "down: "+one.GetPrimary()) {
		t.Errorf("lease on a chunk without replicas: %v", err)
	}
	primary(peers, one).start(w.url)
	w.await("it is back", func() bool { return w.statFS().GetMissing() == 0 })
}
