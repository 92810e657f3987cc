package master_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/master/oplog"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"google.golang.org/protobuf/proto"
)

func TestAFileFromItsCreationToItsClose(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(4)
	w.begin()
	file := w.create("/a", 3)

	if _, err := w.lease(&pb.LeaseRequest{FileId: file, Last: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the last chunk of an empty file: %v", err)
	}
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Last: true, Allocate: true})
	if len(at.GetReplicas()) != 3 || at.GetReplicas()[0].GetId() != at.GetPrimary() || at.GetIndex() != 0 || !at.GetOpen() {
		t.Fatalf("location %v", at)
	}
	if !primary(peers, at).holds(at.GetHandle(), at.GetVersion()) {
		t.Fatal("the primary was not told of its lease")
	}
	again := w.mustLease(&pb.LeaseRequest{FileId: file, Index: 0, Allocate: true})
	if !proto.Equal(at, again) {
		t.Fatalf("asked again: %v, first %v", again, at)
	}
	if _, err := w.lease(&pb.LeaseRequest{FileId: file, Index: 2, Allocate: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a chunk beyond the next: %v", err)
	}

	located := w.locate(file)
	if len(located) != 1 || located[0].GetPrimary() != at.GetPrimary() || !slices.Equal(servers(located[0]), servers(at)) ||
		located[0].GetReplicas()[0].GetId() != at.GetPrimary() {
		t.Fatalf("located %v, leased %v", located, at)
	}
	if err := primary(peers, at).closeChunk(w.ctx, at.GetHandle(), at.GetVersion(), 12345); err != nil {
		t.Fatal(err)
	}
	status, err := w.stat("/a")
	if err != nil || status.GetLength() != 12345 || status.GetOpen() || status.GetChunks() != 1 {
		t.Fatalf("status %v, %v", status, err)
	}
	if located = w.locate(file); located[0].GetPrimary() != "" || located[0].GetOpen() || located[0].GetLength() != 12345 {
		t.Fatalf("located after the close: %v", located)
	}

	// Nothing is kept of a chunk that is closed and that nobody wants.
	w.await("the lease actor is gone", func() bool {
		metrics, err := w.master.Metrics(w.ctx)
		return err == nil && metrics.GetValues()["lease_actors"] == 0 && metrics.GetValues()["leases"] == 0
	})
	// A closed chunk is opened again in a version of its own, by all of its members.
	reopened := w.mustLease(&pb.LeaseRequest{FileId: file, Last: true})
	if reopened.GetHandle() != at.GetHandle() || reopened.GetVersion() <= at.GetVersion() || !slices.Equal(servers(reopened), servers(at)) {
		t.Fatalf("reopened %v, was %v", reopened, at)
	}
	// The version before is fenced.
	if err := primary(peers, at).closeChunk(w.ctx, at.GetHandle(), at.GetVersion(), 12345); !errors.Is(err, gfs.ErrConflict) {
		t.Fatalf("a close of the version before: %v", err)
	}
	// The next chunk takes the next handle.
	next := w.mustLease(&pb.LeaseRequest{FileId: file, Index: 1, Allocate: true})
	if next.GetHandle() != at.GetHandle()+1 || next.GetIndex() != 1 {
		t.Fatalf("next %v", next)
	}
}

func TestConcurrentAllocationsShareAChunk(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	locations := make(chan *pb.ChunkLocation, 16)
	for range cap(locations) {
		go func() {
			at, err := w.lease(&pb.LeaseRequest{FileId: file, Last: true, Allocate: true})
			if err != nil {
				t.Error(err)
			}
			locations <- at
		}()
	}
	first := <-locations
	for range cap(locations) - 1 {
		if at := <-locations; at.GetHandle() != first.GetHandle() || at.GetVersion() != first.GetVersion() {
			t.Fatalf("%v and %v", at, first)
		}
	}
	if chunks := w.locate(file); len(chunks) != 1 {
		t.Fatalf("%d chunks", len(chunks))
	}
}

func TestTooFewChunkserversAreNamed(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.begin()
	file := w.create("/a", 3)
	_, err := w.lease(&pb.LeaseRequest{FileId: file, Allocate: true})
	if !errors.Is(err, gfs.ErrUnavailable) || !strings.Contains(err.Error(), "0 chunkservers are up, 3 replicas wanted: start 3 more") {
		t.Fatalf("none: %v", err)
	}
	w.peers(2)
	_, err = w.lease(&pb.LeaseRequest{FileId: file, Allocate: true})
	if !errors.Is(err, gfs.ErrUnavailable) || !strings.Contains(err.Error(), "2 chunkservers are up, 3 replicas wanted: start 1 more or create the file with fewer replicas") {
		t.Fatalf("two: %v", err)
	}
	if at := w.mustLease(&pb.LeaseRequest{FileId: w.create("/b", 2), Allocate: true}); len(at.GetReplicas()) != 2 {
		t.Fatalf("location %v", at)
	}
}

func TestAServerThatFailsToMakeAChunkIsReplaced(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(4)
	w.begin()
	for i := range 6 { // whichever three are chosen, the first of them fails once
		for _, p := range peers[:2] {
			p.mu.Lock()
			p.failures[messages.CommandCreate] = gfs.Errorf(gfs.CodeNoSpace, "full")
			p.mu.Unlock()
		}
		at, err := w.lease(&pb.LeaseRequest{FileId: w.create(fmt.Sprintf("/%d", i), 2), Allocate: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range servers(at) {
			p := peers[slices.IndexFunc(peers, func(p *peer) bool { return string(p.id) == id })]
			p.mu.Lock()
			if p.replicas[at.GetHandle()] == nil {
				t.Errorf("member %s has no replica", id)
			}
			p.mu.Unlock()
		}
	}
}

// reLease asks for a chunk whose primary failed, as a client does.
func (w *world) reLease(file uint64, at *pb.ChunkLocation) *pb.ChunkLocation {
	w.t.Helper()
	return w.mustLease(&pb.LeaseRequest{FileId: file, Index: at.GetIndex(), FailedVersion: at.GetVersion(), FailedServer: at.GetPrimary()})
}

func TestAKilledPrimaryIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	primary(peers, at).kill()
	began := time.Now()
	after := w.reLease(file, at)
	took := time.Since(began)
	if len(after.GetReplicas()) != 2 || after.GetPrimary() == at.GetPrimary() || after.GetVersion() <= at.GetVersion() {
		t.Fatalf("before %v, after %v", at, after)
	}
	if took > time.Second {
		t.Errorf("it took %v", took)
	}
	t.Logf("a new primary after %v", took)
	if chunks := w.locate(file); slices.Contains(servers(chunks[0]), at.GetPrimary()) {
		t.Errorf("the dead one is still located: %v", chunks[0])
	}
}

func TestAPausedPrimaryIsLeftOut(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	old := primary(peers, at)
	old.pause(true)
	began := time.Now()
	after := w.reLease(file, at)
	if took := time.Since(began); took > 1500*time.Millisecond || len(after.GetReplicas()) != 2 {
		t.Fatalf("after %v: %v", took, after)
	}
	// It goes on, with a lease that is worth nothing: it holds an old version and is not located.
	old.pause(false)
	w.await("the paused one is up again", func() bool { return w.statFS().GetChunkserversUp() == 3 })
	if chunks := w.locate(file); len(chunks[0].GetReplicas()) != 2 || chunks[0].GetPrimary() != after.GetPrimary() {
		t.Fatalf("located %v", chunks[0])
	}
}

func TestAnAccusedPrimaryThatAnswersStaysAMember(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	after := w.reLease(file, at)
	if len(after.GetReplicas()) != 3 || after.GetPrimary() == at.GetPrimary() {
		t.Fatalf("before %v, after %v", at, after)
	}
	_, err := w.lease(&pb.LeaseRequest{FileId: file, FailedVersion: after.GetVersion(), FailedServer: after.GetPrimary()})
	if !errors.Is(err, gfs.ErrBusy) {
		t.Fatalf("the role moves to and fro: %v", err)
	}
}

func TestAMemberThatThePrimaryCannotReachIsLeftOut(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	p := primary(peers, at)
	lost := at.GetReplicas()[2].GetId()
	p.mu.Lock()
	p.accuses = lost
	p.mu.Unlock()
	if _, err := ask[pb.ReportReply](w, messages.OpReport, &pb.Report{
		Handle: at.GetHandle(), Version: at.GetVersion(), Reporter: string(p.id), Accused: lost, Kind: pb.Report_UNREACHABLE,
	}); err != nil {
		t.Fatal(err)
	}
	after := w.mustLease(&pb.LeaseRequest{FileId: file})
	if after.GetPrimary() != at.GetPrimary() || slices.Contains(servers(after), lost) || len(after.GetReplicas()) != 2 {
		t.Fatalf("before %v, after %v", at, after)
	}
	// Whoever was left out and has not heard of it is told when it complains.
	_, err := ask[pb.ReportReply](w, messages.OpReport, &pb.Report{
		Handle: at.GetHandle(), Version: at.GetVersion(), Reporter: lost, Accused: string(p.id), Kind: pb.Report_UNREACHABLE,
	})
	if !errors.Is(err, gfs.ErrStaleVersion) {
		t.Errorf("a complaint about a version of the past: %v", err)
	}
}

func TestSilentPrimariesAreReplacedWithoutAClient(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	primary(peers, at).pause(true)
	w.await("another primary holds the lease", func() bool {
		chunks := w.locate(file)
		return chunks[0].GetPrimary() != "" && chunks[0].GetPrimary() != at.GetPrimary()
	})
	if up := w.statFS().GetChunkserversUp(); up != 2 {
		t.Errorf("%d chunkservers are up", up)
	}
}

func TestLeasesAreExtended(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	at := w.mustLease(&pb.LeaseRequest{FileId: w.create("/a", 3), Allocate: true})
	p := primary(peers, at)
	w.await("the lease is extended", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.extended[at.GetHandle()] > 0
	})
}

func TestARestartedMasterKnowsEverything(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	closed, open := w.create("/closed", 3), w.create("/open", 3)
	first := w.mustLease(&pb.LeaseRequest{FileId: closed, Allocate: true})
	if err := primary(peers, first).closeChunk(w.ctx, first.GetHandle(), first.GetVersion(), 77); err != nil {
		t.Fatal(err)
	}
	if err := w.master.Log().Checkpoint(w.ctx); err != nil { // some of it from a checkpoint, some from the log
		t.Fatal(err)
	}
	second := w.mustLease(&pb.LeaseRequest{FileId: open, Allocate: true})
	retried := w.mutation(createFile("/c", 1))
	before, err := ask[pb.NamespaceReply](w, messages.OpMutate, retried)
	if err != nil {
		t.Fatal(err)
	}

	w.stopMaster()
	w.startMaster(master.Config{})

	status, err := w.stat("/closed")
	if err != nil || status.GetLength() != 77 || status.GetFileId() != closed {
		t.Fatalf("status %v, %v", status, err)
	}
	after, err := ask[pb.NamespaceReply](w, messages.OpMutate, retried)
	if err != nil || !proto.Equal(before, after) {
		t.Fatalf("the retry: %v, %v; the first try: %v", after, err, before)
	}
	if _, err := w.mutate(createFile("/c", 1)); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a second create: %v", err)
	}
	// The primary that went on working is adopted, in the version that it has.
	adopted := w.mustLease(&pb.LeaseRequest{FileId: open})
	if adopted.GetVersion() != second.GetVersion() || adopted.GetPrimary() != second.GetPrimary() || !slices.Equal(servers(adopted), servers(second)) {
		t.Fatalf("adopted %v, was %v", adopted, second)
	}
	reopened := w.mustLease(&pb.LeaseRequest{FileId: closed})
	if gfs.Version(reopened.GetVersion()).Epoch() <= gfs.Version(first.GetVersion()).Epoch() || len(reopened.GetReplicas()) != 3 {
		t.Fatalf("reopened %v, was %v", reopened, first)
	}
	if next := w.mustLease(&pb.LeaseRequest{FileId: open, Index: 1, Allocate: true}); next.GetHandle() <= second.GetHandle() {
		t.Fatalf("handle %x was given out again, the last was %x", next.GetHandle(), second.GetHandle())
	}
}

func TestOpenChunksWithoutAPrimaryAreRevived(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	w.stopMaster()
	// All chunkservers restart while no master acts: nobody holds the lease any more.
	for _, p := range peers {
		p.kill()
		p.start(w.url)
	}
	w.startMaster(master.Config{})
	var chunks []*pb.ChunkLocation
	w.await("a new primary is located", func() bool {
		chunks = w.locate(file)
		return chunks[0].GetVersion() > at.GetVersion() && chunks[0].GetPrimary() != ""
	})
	if err := primary(peers, chunks[0]).closeChunk(w.ctx, at.GetHandle(), chunks[0].GetVersion(), 5); err != nil {
		t.Fatal(err)
	}
	if status, err := w.stat("/a"); err != nil || status.GetOpen() || status.GetLength() != 5 {
		t.Fatalf("status %v, %v", status, err)
	}
}

func TestARemovedFileHasNoLeases(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.peers(3)
	w.begin()
	file := w.create("/a", 3)
	w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
	if _, err := w.mutate(remove("/a")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.lease(&pb.LeaseRequest{FileId: file}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("lease: %v", err)
	}
	if _, err := ask[pb.LocateReply](w, messages.OpLocate, &pb.LocateRequest{Identity: user, FileId: file, Count: 1}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("locate: %v", err)
	}
	if _, err := w.stat("/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("stat: %v", err)
	}
}

func TestTheTrashIsDropped(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.stopMaster()
	w.startMaster(master.Config{TrashRetention: -1})
	w.begin()
	w.create("/a", 1)
	if _, err := w.mutate(func(m *pb.NamespaceMutation) {
		m.Operation = &pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: "/a"}}
	}); err != nil {
		t.Fatal(err)
	}
	w.await("the trash is empty", func() bool { return w.statFS().GetFiles() == 0 })
}

func TestAMasterThatCannotStartSaysWhyAndLeavesNothing(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	conn, err := bus.Connect(bus.Config{URL: w.url, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := func(change func(*master.Config)) error {
		cfg := master.Config{ID: "m9", Cluster: cluster, Dir: t.TempDir(), Conn: conn, Log: quiet()}
		change(&cfg)
		m, err := master.Start(w.ctx, cfg)
		if err == nil {
			err = m.Close()
		}
		return err
	}
	for what, c := range map[string]struct {
		change func(*master.Config)
		want   gfs.Code
	}{
		"nothing":   {func(*master.Config) {}, gfs.CodeNone},
		"a cluster": {func(c *master.Config) { c.Cluster = "a.b" }, gfs.CodeInvalid},
		"a log":     {func(c *master.Config) { c.Log = nil }, gfs.CodeInvalid},
		"an id":     {func(c *master.Config) { c.ID = "" }, gfs.CodeInvalid},
		"a bus":     {func(c *master.Config) { c.Conn, c.NATS.URL = nil, "nats://127.0.0.1:1" }, gfs.CodeUnavailable},
		"a folder":  {func(c *master.Config) { c.ID, c.Dir = "m1", w.dir }, gfs.CodeInUse},
		"peers": {func(c *master.Config) {
			c.Peers = []oplog.Peer{{ID: "m9", Addr: "127.0.0.1:1"}, {ID: "m8", Addr: "127.0.0.1:2"}}
		}, gfs.CodeInvalid},
	} {
		if err := start(c.change); gfs.CodeOf(err) != c.want {
			t.Errorf("without %s: %v, want %s", what, err, c.want)
		}
	}
	if err := conn.Flush(w.ctx); err != nil {
		t.Errorf("the caller's connection was closed: %v", err)
	}
}

func TestReadsAndListings(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.begin()
	for i := range 5 {
		w.create(fmt.Sprintf("/f%d", i), 1)
	}
	page, err := ask[pb.ListReply](w, messages.OpList, &pb.ListRequest{Identity: user, Path: "/", After: "f1", Limit: 2})
	if err != nil || len(page.GetEntries()) != 2 || page.GetEntries()[0].GetName() != "f2" || !page.GetMore() {
		t.Fatalf("page %v, %v", page, err)
	}
	status, err := w.stat("/f3")
	if err != nil {
		t.Fatal(err)
	}
	if byID, err := ask[pb.FileStatus](w, messages.OpStat, &pb.StatRequest{Identity: user, FileId: status.GetFileId()}); err != nil || byID.GetFileId() != status.GetFileId() {
		t.Fatalf("%v, %v", byID, err)
	}
	state, err := ask[pb.MasterStateReply](w, messages.OpMasterState, &pb.MasterStateRequest{})
	if err != nil || state.GetFiles() != 5 || state.GetId() != "m1" || state.GetEpoch() == 0 {
		t.Fatalf("state %v, %v", state, err)
	}
	metrics, err := w.master.Metrics(w.ctx)
	if err != nil || metrics.GetValues()["files"] != 5 || metrics.GetValues()["acting"] != 1 {
		t.Fatalf("metrics %v, %v", metrics, err)
	}
}

// A chunkserver that has no room for an order for a moment is neither left out nor passed over.
func TestABusyAnswerToAnOrderCostsNoMember(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(3)
	w.begin()
	busy := func(command string) {
		for _, p := range peers {
			p.mu.Lock()
			p.failures[command] = gfs.Errorf(gfs.CodeBusy, "no worker is free")
			p.mu.Unlock()
		}
	}
	// On a machine that is busy itself a member may be silent for longer than it may; not every time.
	for try := range 5 {
		file := w.create(fmt.Sprintf("/a%d", try), 3)
		busy(messages.CommandCreate)
		at := w.mustLease(&pb.LeaseRequest{FileId: file, Allocate: true})
		busy(messages.CommandPrepare)
		busy(messages.CommandGrant)
		after := w.reLease(file, at)
		if len(after.GetReplicas()) == 3 && after.GetVersion() == at.GetVersion()+1 {
			return
		}
		t.Logf("before %v, after %v", at, after)
	}
	t.Fatal("a busy answer cost a member, or an attempt")
}
