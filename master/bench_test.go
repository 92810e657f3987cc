package master_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/pb"
)

// concurrently runs b.N calls, 64 at a time.
func concurrently(b *testing.B, call func(worker, i int) error) {
	b.Helper()
	var next atomic.Int64
	var running sync.WaitGroup
	b.ResetTimer()
	for worker := range 64 {
		running.Go(func() {
			for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
				if err := call(worker, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	running.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// BenchmarkEcho is the limit that the others are held against: a bare service on the same bus.
func BenchmarkEcho(b *testing.B) {
	w := startWorld(b)
	conn, err := bus.Connect(bus.Config{URL: w.url, Log: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	service, err := bus.Serve(conn, bus.ServiceConfig{Name: "echo", Version: "1.0.0", Gate: actors.NewGate("requests", 1000)},
		bus.Endpoint{Name: "echo", Subject: "echo", Handle: bus.Typed(func(r *bus.Request, m *pb.StatRequest) { r.Reply(m) })})
	if err != nil {
		b.Fatal(err)
	}
	defer service.Stop()
	concurrently(b, func(int, int) error {
		return bus.Ask(w.ctx, w.client, "echo", &pb.StatRequest{Identity: user, Path: "/a"}, new(pb.StatRequest))
	})
}

func BenchmarkStat(b *testing.B) {
	w := startWorld(b)
	w.begin()
	w.create("/a", 1)
	concurrently(b, func(int, int) error {
		_, err := w.stat("/a")
		return err
	})
}

func BenchmarkCreate(b *testing.B) {
	w := startWorld(b)
	sessions := make([]uint64, 64)
	for i := range sessions {
		w.begin()
		sessions[i] = w.session
	}
	sequences := make([]uint64, 64)
	concurrently(b, func(worker, i int) error {
		sequences[worker]++
		m := &pb.NamespaceMutation{
			Session:  &pb.Session{Id: sessions[worker], Sequence: sequences[worker], LowestUnacknowledged: sequences[worker]},
			Identity: user,
		}
		createFile(fmt.Sprintf("/file-%d", i), 3)(m)
		return bus.Ask(w.ctx, w.client, w.subjects.Master(messages.OpMutate), m, new(pb.NamespaceReply))
	})
}

func BenchmarkAllocate(b *testing.B) {
	w := startWorld(b)
	for i := range 3 {
		startPeer(b, w.url, i+1)
	}
	w.await("the chunkservers are up", func() bool { return w.statFS().GetChunkserversUp() == 3 })
	w.begin()
	files := make([]uint64, 64)
	for i := range files {
		files[i] = w.create(fmt.Sprintf("/file-%d", i), 3)
	}
	next := make([]uint32, 64)
	concurrently(b, func(worker, _ int) error {
		_, err := w.lease(&pb.LeaseRequest{FileId: files[worker], Index: next[worker], Allocate: true})
		next[worker]++
		return err
	})
}
