package master_test

import (
	"errors"
	"testing"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"google.golang.org/protobuf/proto"
)

// still is surroundings in which nothing happens but turns, and nobody answers.
type still struct{ turns []func() }

func (s *still) Stage() actors.Stage { return s }

func (s *still) Turn(f func()) { s.turns = append(s.turns, f) }

func (s *still) After(time.Duration, func()) func() bool { return func() bool { return true } }

func (s *still) Job(f func()) { s.Turn(f) }

func (s *still) ProposeAsync([]byte, func(any, error)) {}

func (s *still) LinearizeAsync(func(error)) {}

func (s *still) AskAsync(bus.Call, func(bus.Answer) bool) {}

func (s *still) PublishJSON(string, any) error { return nil }

func (s *still) run() {
	for len(s.turns) > 0 {
		next := s.turns[0]
		s.turns = s.turns[1:]
		next()
	}
}

// A master that has lost the lead may apply the next one's records before it hears of that. What it is asked then it must
// not answer out of them.
func TestAnotherEpochEndsActing(t *testing.T) {
	around := &still{}
	var crash error
	m, err := master.StartSimulated(master.Config{ID: "m1", Cluster: "test", Log: quiet(), Crash: func(err error) { crash = err }}, around)
	if err != nil {
		t.Fatal(err)
	}
	apply := func(epoch uint32, record *pb.Record) {
		t.Helper()
		record.Epoch, record.TimeUnixNano = epoch, 1
		data, err := proto.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		m.Apply(data, func(any) {})
		around.run()
	}
	begin := &pb.Record{Command: &pb.Record_BeginEpoch{BeginEpoch: &pb.BeginEpoch{MasterId: "m1"}}}
	apply(0, begin)
	m.Act(1)
	around.run()
	apply(1, &pb.Record{Command: &pb.Record_Mutation{Mutation: &pb.NamespaceMutation{
		Operation: &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/f", Mode: 0o644, Replicas: 1}},
	}}})
	apply(1, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 1}}})
	apply(1, &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{FileId: 2, Handle: 1, Version: uint64(gfs.NewVersion(1, 1)), Members: 1}}})
	lease := func() error {
		request, err := proto.Marshal(&pb.LeaseRequest{FileId: 2})
		if err != nil {
			t.Fatal(err)
		}
		answered := errors.New("no answer")
		m.Handle("cairn.test.master.lease", bus.NewRequest("", request, func(a bus.Answer) { answered = a.Decode(&pb.ChunkLocation{}) }))
		around.run()
		return answered
	}
	// While it acts it would look for the chunk's replicas, of which it knows none, and wait.
	if err := lease(); err == nil || gfs.CodeOf(err) == gfs.CodeNotActing || gfs.CodeOf(err) == gfs.CodeNotExist {
		t.Fatalf("while it acts: %v", err)
	}
	apply(0, begin)
	apply(2, &pb.Record{Command: &pb.Record_ConfigureChunk{ConfigureChunk: &pb.ConfigureChunk{
		Handle: 1, FromVersion: uint64(gfs.NewVersion(1, 1)), Version: uint64(gfs.NewVersion(2, 1)), Members: 1, Open: true,
	}}})
	if err := lease(); gfs.CodeOf(err) != gfs.CodeNotActing {
		t.Errorf("after another epoch began: %v", err)
	}
	if crash != nil {
		t.Error(crash)
	}
}
