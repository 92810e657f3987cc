package dataplane

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testHandler serves one store and records what it is handed.
type testHandler struct {
	store     *store.Store
	endKnown  atomic.Uint64
	mutations chan *Mutation
	corrupt   chan string
	opened    chan *Upstream
	sink      ChainSink
}

func (h *testHandler) Replica(handle gfs.ChunkHandle) (*store.Replica, gfs.Version, error) {
	r, err := h.store.Get(handle)
	return r, gfs.Version(h.endKnown.Load()), err
}
func (h *testHandler) Orphaned() bool                           { return false }
func (h *testHandler) Corrupt(_ gfs.ChunkHandle, detail string) { h.corrupt <- detail }
func (h *testHandler) Mutate(m *Mutation)                       { h.mutations <- m }
func (h *testHandler) Digest(_ *pb.Digest, f func(*pb.DigestReply, *Buffer)) {
	f(&pb.DigestReply{Length: 42}, nil)
}
func (h *testHandler) Prepare(_ *pb.PrepareOrder, f func(*pb.PrepareReply, error)) {
	f(nil, gfs.Errorf(gfs.CodeStaleEpoch, "no order is for this server"))
}

func (h *testHandler) Patch(_ *pb.Patch, b *Buffer, f func(error)) {
	b.Release()
	f(gfs.ErrStaleVersion)
}
func (h *testHandler) OpenChain(_ *pb.ChainOpen, up *Upstream) ChainSink {
	h.opened <- up
	return h.sink
}

// recorder is a chain's sink.
type recorder struct {
	frames chan *Apply
	ticks  chan int64
	closes chan *pb.ChainClose
	lost   chan error
}

func (r *recorder) Apply(a *Apply)         { r.frames <- a }
func (r *recorder) Tick(n int64)           { r.ticks <- n }
func (r *recorder) Close(c *pb.ChainClose) { r.closes <- c }
func (r *recorder) Lost(err error)         { r.lost <- err }

const (
	testChunk   = gfs.ChunkHandle(5)
	testVersion = gfs.Version(1<<32 | 1)
)

func quiet() *logrus.Entry {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return logrus.NewEntry(logger)
}

func newServer(t *testing.T) (*Server, *testHandler) {
	t.Helper()
	s, err := store.Open(store.Config{Dirs: []string{t.TempDir()}, Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	h := &testHandler{
		store: s, mutations: make(chan *Mutation, 2000), corrupt: make(chan string, 10), opened: make(chan *Upstream, 10),
		sink: &recorder{make(chan *Apply, 1000), make(chan int64, 10), make(chan *pb.ChainClose, 10), make(chan error, 10)},
	}
	server, err := Listen(Config{Listen: "127.0.0.1:0", Handler: h, Pool: new(Pool), Log: quiet(), Clock: time.Now, Around: newGoroutines(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return server, h
}

// fill makes a replica with content of which commit bytes are committed.
func (h *testHandler) fill(t *testing.T, content []byte, commit int64) *store.Replica {
	t.Helper()
	r, err := h.store.Create(testChunk, testVersion)
	if err == nil {
		err = r.WriteAt(0, content, nil)
	}
	if err == nil {
		err = r.Advance(store.Progress{Length: int64(len(content)), Commit: commit})
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// peer is a connection that asks one thing at a time.
type peer struct {
	t   *testing.T
	tcp net.Conn
	in  *wire.Reader
	out *wire.Writer
}

func connect(t *testing.T, s *Server) *peer {
	t.Helper()
	tcp, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	tcp.SetDeadline(time.Now().Add(20 * time.Second))
	return &peer{t, tcp, wire.NewReader(tcp), wire.NewWriter(tcp)}
}

func (p *peer) read(q *pb.Read) (*pb.ReadReply, []byte) {
	p.t.Helper()
	q.Handle = uint64(testChunk)
	if err := p.out.Frame(wire.Header{Op: wire.OpRead, RequestID: 9}, q); err != nil {
		p.t.Fatal(err)
	}
	h, err := p.in.Next()
	if err != nil {
		p.t.Fatal(err)
	}
	reply, data := new(pb.ReadReply), make([]byte, h.PayloadBytes)
	if err := p.in.Decode(reply); err != nil {
		p.t.Fatal(err)
	}
	if err := p.in.Payload(data); err != nil {
		p.t.Fatal(err)
	}
	if h.RequestID != 9 || !h.IsReply() {
		p.t.Fatalf("reply %+v", h)
	}
	if len(data) > 0 {
		if err := wire.Verify(reply.Checksums, q.Offset, data); err != nil {
			p.t.Fatal(err)
		}
	}
	return reply, data
}

func TestReadsOfAllShapes(t *testing.T) {
	s, h := newServer(t)
	content := make([]byte, 3<<20+12345)
	rand.NewChaCha8([32]byte{1}).Read(content)
	commit := int64(len(content) - 1000)
	h.fill(t, content, commit)
	p := connect(t, s)
	random := rand.New(rand.NewPCG(1, 1))
	for i := range 300 {
		offset, length := random.Int64N(commit+5000), random.Int64N(1<<21)
		if i%3 == 0 {
			offset = offset / gfs.BlockSize * gfs.BlockSize
		}
		reply, data := p.read(&pb.Read{Version: uint64(testVersion), Offset: offset, Length: length, Copy: i%7 == 0})
		from := min(offset, commit)
		to := min(from+min(length, gfs.MaxReadBytes), commit)
		if reply.Code != 0 || !bytes.Equal(data, content[from:to]) || reply.CommitLength != commit {
			t.Fatalf("read of %d at %d: %d bytes, %v", length, offset, len(data), reply)
		}
	}
	if n := s.Counters().SendfileBytes.Load(); n == 0 {
		t.Error("nothing went by sendfile")
	}
	before := s.Counters().SendfileBytes.Load()
	p.read(&pb.Read{Offset: 0, Length: 1 << 20, Copy: true})
	if s.Counters().SendfileBytes.Load() != before {
		t.Error("sendfile although a copy was wanted")
	}
}

func TestReadsSayWhatTheReplicaIs(t *testing.T) {
	s, h := newServer(t)
	r := h.fill(t, make([]byte, 1000), 500)
	p := connect(t, s)
	for name, c := range map[string]struct {
		q    *pb.Read
		want gfs.Code
	}{
		"any version":     {&pb.Read{Length: 10}, gfs.CodeNone},
		"another version": {&pb.Read{Version: uint64(testVersion) + 1, Length: 10}, gfs.CodeStaleVersion},
		"behind":          {&pb.Read{Length: 10, AtLeast: 501}, gfs.CodeBehind},
		"not behind":      {&pb.Read{Length: 10, AtLeast: 500}, gfs.CodeNone},
		"negative":        {&pb.Read{Offset: -1, Length: 10}, gfs.CodeInvalid},
		"negative length": {&pb.Read{Length: -10}, gfs.CodeInvalid},
		"beyond":          {&pb.Read{Offset: gfs.ChunkSize + 1}, gfs.CodeInvalid},
	} {
		reply, _ := p.read(c.q)
		if gfs.Code(reply.Code) != c.want || gfs.Version(reply.Version) != testVersion || reply.EndKnown {
			t.Errorf("%s: %v", name, reply)
		}
	}
	h.endKnown.Store(uint64(testVersion))
	if reply, data := p.read(&pb.Read{Offset: 400, Length: 1000}); !reply.EndKnown || len(data) != 100 {
		t.Errorf("the end: %v with %d bytes", reply, len(data))
	}
	if err := r.SetState(gfs.ReplicaSuspect); err != nil {
		t.Fatal(err)
	}
	if reply, _ := p.read(&pb.Read{Length: 10}); gfs.Code(reply.Code) != gfs.CodeNoReplica {
		t.Errorf("a suspect serves: %v", reply)
	}
}

func TestRepliesComeFromAnywhereInAnyOrder(t *testing.T) {
	s, h := newServer(t)
	p := connect(t, s)
	data := []byte("a record")
	const n = 500
	go func() {
		for i := range uint64(n) {
			m := &pb.Mutate{Handle: 1, Version: 1, Kind: pb.Mutate_APPEND, Checksums: wire.AppendChecksums(nil, 0, data)}
			if p.out.Frame(wire.Header{Op: wire.OpMutate, RequestID: i + 1}, m, data) != nil {
				return
			}
		}
	}()
	var waiting []*Mutation
	for range n {
		m := <-h.mutations
		if !bytes.Equal(m.Data(), data) {
			t.Fatalf("data %q", m.Data())
		}
		waiting = append(waiting, m)
	}
	rand.Shuffle(n, func(i, j int) { waiting[i], waiting[j] = waiting[j], waiting[i] })
	var wg sync.WaitGroup
	for _, m := range waiting {
		wg.Go(func() {
			m.ReleaseData()
			m.Reply(int64(m.id)*10, 7, nil)
		})
	}
	seen := make(map[uint64]bool)
	for range n {
		head, err := p.in.Next()
		var reply pb.MutateReply
		if err == nil {
			err = p.in.Decode(&reply)
		}
		if err != nil || reply.Offset != int64(head.RequestID)*10 || seen[head.RequestID] {
			t.Fatalf("reply %+v %v: %v", head, &reply, err)
		}
		seen[head.RequestID] = true
	}
	wg.Wait()
	if s.InFlight() != 0 {
		t.Errorf("%d requests are still counted", s.InFlight())
	}
}

func TestFrameThatStopsInTheMiddleOrDoesNotBelong(t *testing.T) {
	s, h := newServer(t)
	for name, frame := range map[string]func(*wire.Writer) error{
		"a reply":             func(w *wire.Writer) error { return w.Frame(wire.Header{Op: wire.OpPing, Flags: wire.FlagReply}, nil) },
		"apply with no chain": func(w *wire.Writer) error { return w.Frame(wire.Header{Op: wire.OpChainApply}, &pb.ChainApply{}) },
		"read with payload":   func(w *wire.Writer) error { return w.Frame(wire.Header{Op: wire.OpRead}, &pb.Read{}, []byte("x")) },
		"chain of one": func(w *wire.Writer) error {
			return w.Frame(wire.Header{Op: wire.OpChainOpen}, &pb.ChainOpen{Handle: 1, Version: 1, Members: []*pb.Server{{}}, Position: 1})
		},
		"no message": func(w *wire.Writer) error {
			return w.Frame(wire.Header{Op: wire.OpMutate}, &pb.Server{Id: strings.Repeat("x", 100)})
		},
	} {
		p := connect(t, s)
		if err := frame(p.out); err != nil {
			t.Fatal(err)
		}
		if _, err := p.in.Next(); name != "no message" && err == nil {
			t.Errorf("%s: the connection goes on", name)
		}
	}
	p := connect(t, s)
	p.tcp.Write([]byte("CRN1")) // a header that never comes holds up nobody else
	q := connect(t, s)
	if err := q.out.Frame(wire.Header{Op: wire.OpPing, RequestID: 3}, nil); err != nil {
		t.Fatal(err)
	}
	if head, err := q.in.Next(); err != nil || head.RequestID != 3 {
		t.Fatal(err)
	}
	if len(h.mutations) != 0 {
		t.Error("nonsense was handed on")
	}
}

// events hears a downstream.
type events struct {
	acks   chan gfs.Serial
	closed chan error
	lost   chan error
}

func (e *events) Acked(serial gfs.Serial, _ gfs.ServerID, _ bool) { e.acks <- serial }
func (e *events) Closed(err error)                                { e.closed <- err }
func (e *events) Lost(err error)                                  { e.lost <- err }

func TestChainStream(t *testing.T) {
	s, h := newServer(t)
	sink := h.sink.(*recorder)
	open := &pb.ChainOpen{Handle: 5, Version: 1, Members: []*pb.Server{{Id: "a"}, {Id: "b", Address: s.Addr().String()}}, Position: 1}
	go func() { (<-h.opened).Opened(&pb.ChainOpened{Differing: []string{"b"}}) }()
	if d, opened, err := OpenChain(context.Background(), open); err != nil || d != nil || len(opened.Differing) != 1 {
		t.Fatalf("a member that differs: %v, %v, %v", d, opened, err)
	}
	<-sink.lost

	ups := make(chan *Upstream, 1)
	go func() {
		up := <-h.opened
		up.Opened(&pb.ChainOpened{})
		ups <- up
	}()
	d, _, err := OpenChain(context.Background(), open)
	if err != nil {
		t.Fatal(err)
	}
	up, heard := <-ups, &events{make(chan gfs.Serial, 10), make(chan error, 1), make(chan error, 1)}
	d.Start(heard)
	data := bytes.Repeat([]byte{7}, 100_000)
	frame := &Apply{First: 1, Commit: 3, Runs: []Run{{Offset: 10, Data: data, Checksums: wire.AppendChecksums(nil, 10, data)}}}
	frame.Mutations = append(frame.Mutations, mutationOf(10, len(data)))
	if err := d.Apply(frame); err != nil {
		t.Fatal(err)
	}
	got := <-sink.frames
	if got.Commit != 3 || !bytes.Equal(got.Runs[0].Data, data) {
		t.Fatalf("frame %+v", got)
	}
	up.Ack(1, "", false)
	if serial := <-heard.acks; serial != 1 {
		t.Fatalf("acknowledged %d", serial)
	}
	got.Release()
	if err := d.Tick(77); err != nil || <-sink.ticks != 77 {
		t.Fatal("tick", err)
	}
	if err := d.Close(&pb.ChainClose{Length: 5}); err != nil || (<-sink.closes).Length != 5 {
		t.Fatal("close", err)
	}
	up.Closed(gfs.Errorf(gfs.CodeConflict, "no"))
	if err := <-heard.closed; !errors.Is(err, gfs.ErrConflict) {
		t.Fatalf("closed with %v", err)
	}
	// A frame whose data were damaged on the way ends the stream and is not handed on.
	frame.Runs[0].Checksums[0]++
	frame.First = 2
	if err := d.Apply(frame); err != nil {
		t.Fatal(err)
	}
	if err := <-sink.lost; !errors.Is(err, gfs.ErrCorrupt) {
		t.Fatalf("lost with %v", err)
	}
	<-heard.lost
	d.Wait()
	if len(sink.frames) != 0 {
		t.Error("damaged data were handed on")
	}
}

func TestUnappliedFramesHoldTheSenderBack(t *testing.T) {
	s, h := newServer(t)
	sink := h.sink.(*recorder)
	go func() { (<-h.opened).Opened(&pb.ChainOpened{}) }()
	d, _, err := OpenChain(context.Background(), &pb.ChainOpen{
		Handle: 5, Version: 1, Members: []*pb.Server{{Id: "a"}, {Id: "b", Address: s.Addr().String()}}, Position: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	heard := &events{make(chan gfs.Serial, 10), make(chan error, 1), make(chan error, 1)}
	d.Start(heard)
	const frames = gfs.MaxChainWindowFrames + 20
	go func() {
		for i := range frames {
			m := mutationOf(int64(i), 1)
			d.Apply(&Apply{First: gfs.Serial(i + 1), Mutations: append([]mutationType(nil), m), Runs: []Run{{
				Offset: int64(i), Data: []byte{1}, Checksums: wire.AppendChecksums(nil, int64(i), []byte{1}),
			}}})
		}
	}()
	held := make([]*Apply, 0, frames)
	for range gfs.MaxChainWindowFrames {
		held = append(held, <-sink.frames)
	}
	select {
	case <-sink.frames:
		t.Fatal("more frames than the window has")
	case <-time.After(50 * time.Millisecond):
	}
	for i := range 20 {
		held[i].Release()
		held = append(held, <-sink.frames)
	}
	d.Drop()
	<-heard.lost
	<-sink.lost
	for _, a := range held[20:] {
		a.Release()
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	s, _ := newServer(t)
	var reply pb.DigestReply
	if err := Call(context.Background(), s.Addr().String(), wire.OpDigest, &pb.Digest{}, &reply); err != nil || reply.Length != 42 {
		t.Fatalf("%v, %v", &reply, err)
	}
	var patched pb.PatchReply
	if err := Call(context.Background(), s.Addr().String(), wire.OpPatch, &pb.Patch{}, &patched, []byte("blocks")); err != nil || gfs.Code(patched.Code) != gfs.CodeStaleVersion {
		t.Fatalf("%v, %v", &patched, err)
	}
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := Call(ctx, deaf.Addr().String(), wire.OpDigest, &pb.Digest{}, &reply); !errors.Is(err, gfs.ErrUnavailable) {
		t.Fatalf("a peer that says nothing: %v", err)
	}
}
