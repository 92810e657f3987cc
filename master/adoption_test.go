package master_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"google.golang.org/protobuf/proto"
)

// asked is surroundings that keep the subjects of what chunkservers are asked.
type asked struct {
	still
	subjects []string
}

func (a *asked) AskAsync(call bus.Call, _ func(bus.Answer) bool) {
	a.subjects = append(a.subjects, call.Subject)
}

// turn runs one turn: the oldest that was asked for, or the newest.
func (a *asked) turn(newest bool) {
	i := 0
	if newest {
		i = len(a.turns) - 1
	}
	next := a.turns[i]
	a.turns = slices.Delete(a.turns, i, i+1)
	next()
}

// A heartbeat tells of a primary and, by that, of its replica. Whoever asks for the chunk in that moment gets the primary,
// in whatever order the actors have their turns: with the replica alone a new configuration would be made beside it.
func TestAPrimaryIsHeardOfBeforeItsReplica(t *testing.T) {
	around := &asked{}
	m, err := master.StartSimulated(master.Config{ID: "m1", Cluster: "test", Log: quiet(), Crash: func(err error) { t.Error(err) }}, around)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(message proto.Message) []byte {
		data, err := proto.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	apply := func(epoch uint32, record *pb.Record) {
		record.Epoch, record.TimeUnixNano = epoch, 1
		m.Apply(encode(record), func(any) {})
		around.run()
	}
	version := gfs.NewVersion(1, 1)
	apply(0, &pb.Record{Command: &pb.Record_BeginEpoch{BeginEpoch: &pb.BeginEpoch{MasterId: "m0"}}})
	apply(1, &pb.Record{Command: &pb.Record_Mutation{Mutation: &pb.NamespaceMutation{
		Operation: &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/f", Mode: 0o644, Replicas: 1}},
	}}})
	apply(1, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 1}}})
	apply(1, &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{FileId: 2, Handle: 1, Version: uint64(version), Members: 1}}})
	apply(0, &pb.Record{Command: &pb.Record_BeginEpoch{BeginEpoch: &pb.BeginEpoch{MasterId: "m1"}}})
	m.Act(2)
	around.run()

	location := &pb.ChunkLocation{}
	m.Handle("cairn.test.master.lease", bus.NewRequest("", encode(&pb.LeaseRequest{FileId: 2}), func(a bus.Answer) {
		if err := a.Decode(location); err != nil {
			t.Error(err)
		}
	}))
	around.turn(false) // the request is at the chunk's lease actor
	const id = "00000000000000a1"
	m.Handle("cairn.test.heartbeat.*", bus.NewRequest("cairn.test.heartbeat."+id, encode(&pb.Heartbeat{
		Server: &pb.Server{Id: id, Address: "10.0.0.1:1"}, Incarnation: 1, Sequence: 1,
		Leases: []*pb.HeldLease{{Handle: 1, Version: uint64(version), Members: []string{id}}},
	}), func(bus.Answer) {}))
	around.turn(false) // which asks the registry for the replicas, behind the heartbeat
	for len(around.turns) > 0 {
		around.turn(true)
	}
	prepared := slices.ContainsFunc(around.subjects, func(subject string) bool { return strings.HasSuffix(subject, ".prepare") })
	if location.GetPrimary() != id || gfs.Version(location.GetVersion()) != version || prepared {
		t.Errorf("the client hears of %v, and was anybody told to prepare: %t", location, prepared)
	}
}
