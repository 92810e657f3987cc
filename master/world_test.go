package master_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of the time these tests wait for silence to count: let them wait together, whatever the number of cores.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const cluster = "test"

// world is a NATS server, a master and a client's connection.
type world struct {
	t        testing.TB
	ctx      context.Context
	url      string
	dir      string
	master   *master.Master
	client   *bus.Conn
	subjects messages.Subjects
	session  uint64
	sequence uint64
}

func startWorld(t testing.TB) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	nats, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	if !nats.ReadyForConnections(5 * time.Second) {
		t.Fatal("the NATS server did not start")
	}
	t.Cleanup(func() {
		nats.Shutdown()
		nats.WaitForShutdown()
	})
	subjects, err := messages.NewSubjects(cluster)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ctx: ctx, url: nats.ClientURL(), dir: t.TempDir(), subjects: subjects}
	client, err := bus.Connect(bus.Config{URL: w.url, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w.client = client
	w.startMaster(master.Config{})
	t.Cleanup(w.stopMaster)
	return w
}

func (w *world) startMaster(cfg master.Config) {
	w.t.Helper()
	cfg.ID, cfg.Cluster, cfg.Dir, cfg.Log = "m1", cluster, w.dir, quiet()
	cfg.NATS.URL = w.url
	m, err := master.Start(w.ctx, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.master = m
	w.await("the master acts", m.Acting)
}

func (w *world) stopMaster() {
	if err := w.master.Close(); err != nil {
		w.t.Errorf("close the master: %v", err)
	}
}

// await waits until a condition holds.
func (w *world) await(what string, condition func() bool) {
	w.t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			w.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// peers starts n chunkservers and waits until the master knows them.
func (w *world) peers(n int) []*peer {
	w.t.Helper()
	peers := make([]*peer, n)
	for i := range n {
		peers[i] = startPeer(w.t, w.url, i+1)
	}
	w.await("the chunkservers are up", func() bool { return w.statFS().GetChunkserversUp() == uint32(n) })
	return peers
}

func ask[R any, P interface {
	*R
	proto.Message
}](w *world, op string, request proto.Message) (P, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 15*time.Second)
	defer cancel()
	reply := P(new(R))
	return reply, bus.Ask(ctx, w.client, w.subjects.Master(op), request, reply)
}

var user = &pb.Identity{User: "alice", Groups: []string{"staff"}}

// begin registers a client session.
func (w *world) begin() {
	w.t.Helper()
	w.session, w.sequence = rand.Uint64()|1, 0
	_, err := ask[pb.NamespaceReply](w, messages.OpMutate, &pb.NamespaceMutation{
		Session: &pb.Session{Id: w.session}, Identity: user,
		Operation: &pb.NamespaceMutation_RegisterSession{RegisterSession: &pb.RegisterSession{}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) mutation(fill func(*pb.NamespaceMutation)) *pb.NamespaceMutation {
	w.sequence++
	m := &pb.NamespaceMutation{Session: &pb.Session{Id: w.session, Sequence: w.sequence, LowestUnacknowledged: w.sequence}, Identity: user}
	fill(m)
	return m
}

func createFile(path string, replicas uint32) func(*pb.NamespaceMutation) {
	return func(m *pb.NamespaceMutation) {
		m.Operation = &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: path, Mode: 0o644, Replicas: replicas, Exclusive: true}}
	}
}

func remove(path string) func(*pb.NamespaceMutation) {
	return func(m *pb.NamespaceMutation) {
		m.Operation = &pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: path, Now: true}}
	}
}

func (w *world) mutate(fill func(*pb.NamespaceMutation)) (*pb.FileStatus, error) {
	w.t.Helper()
	reply, err := ask[pb.NamespaceReply](w, messages.OpMutate, w.mutation(fill))
	return reply.GetStatus(), err
}

// create makes a file and returns its id.
func (w *world) create(path string, replicas uint32) uint64 {
	w.t.Helper()
	status, err := w.mutate(createFile(path, replicas))
	if err != nil {
		w.t.Fatal(err)
	}
	return status.GetFileId()
}

func (w *world) stat(path string) (*pb.FileStatus, error) {
	w.t.Helper()
	return ask[pb.FileStatus](w, messages.OpStat, &pb.StatRequest{Identity: user, Path: path})
}

func (w *world) statFS() *pb.StatFSReply {
	w.t.Helper()
	reply, err := ask[pb.StatFSReply](w, messages.OpStatFS, &pb.StatFSRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	return reply
}

// lease asks as a client does, again if the master that was asked ceased to act.
func (w *world) lease(request *pb.LeaseRequest) (*pb.ChunkLocation, error) {
	w.t.Helper()
	request.Identity = user
	for {
		at, err := ask[pb.ChunkLocation](w, messages.OpLease, request)
		if code := gfs.CodeOf(err); code != gfs.CodeNotActing && code != gfs.CodeOutcomeUnknown {
			return at, err
		}
	}
}

func (w *world) mustLease(request *pb.LeaseRequest) *pb.ChunkLocation {
	w.t.Helper()
	location, err := w.lease(request)
	if err != nil {
		w.t.Fatal(err)
	}
	return location
}

func (w *world) locate(file uint64) []*pb.ChunkLocation {
	w.t.Helper()
	reply, err := ask[pb.LocateReply](w, messages.OpLocate, &pb.LocateRequest{Identity: user, FileId: file, Count: 10})
	if err != nil {
		w.t.Fatal(err)
	}
	return reply.GetChunks()
}

// primary finds the peer that is a location's primary.
func primary(peers []*peer, at *pb.ChunkLocation) *peer {
	return peers[slices.IndexFunc(peers, func(p *peer) bool { return string(p.id) == at.GetPrimary() })]
}

func servers(at *pb.ChunkLocation) []string {
	var ids []string
	for _, s := range at.GetReplicas() {
		ids = append(ids, s.GetId())
	}
	slices.Sort(ids)
	return ids
}
