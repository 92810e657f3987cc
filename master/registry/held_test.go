package registry

import (
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func TestALeaseIsToldOfAgainWhenItsLastMemberIsKnown(t *testing.T) {
	r := New(time.Time{})
	r.SetHandleLimit(100)
	primary := beat(1, 1, 1)
	primary.Leases = []*pb.HeldLease{
		{Handle: 5, Version: 10, Members: []string{string(id(1)), string(id(2)), string(id(3))}},
		{Handle: 6, Version: 10, Members: []string{string(id(1)), string(id(9))}},
	}
	for _, step := range []struct {
		beat *pb.Heartbeat
		want []gfs.ServerID // the members of the leases that can be told with members
	}{
		{primary, nil},
		{beat(2, 1, 1), nil},
		{beat(3, 1, 1), []gfs.ServerID{id(1), id(2), id(3)}},
		{beat(3, 1, 2), nil}, // once
	} {
		heard, err := r.Heartbeat(step.beat, time.Time{})
		must(t, err)
		var got []gfs.ServerID
		for _, held := range heard.Held {
			for _, m := range held.Members {
				got = append(got, m.ID)
			}
			if held.Members != nil && (held.Handle != 5 || held.Version != 10 || held.Server.ID != id(1) || held.Incarnation != 1) {
				t.Errorf("told of %+v", held)
			}
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("after a heartbeat of %s: members %v, want %v", step.beat.GetServer().GetId(), got, step.want)
		}
	}
	if replicas := r.Replicas(5); len(replicas) != 3 {
		t.Errorf("replicas %v: the primary names three", replicas)
	}
}

func TestOnlyTheGrantedLeaseIsExtended(t *testing.T) {
	r := known(t, 2)
	r.GrantLease(5, 10, id(1))
	hb := beat(1, 1, 2)
	hb.Leases = []*pb.HeldLease{
		{Handle: 5, Version: 10, Extend: true, Members: []string{string(id(1)), string(id(2))}},
		{Handle: 6, Version: 10, Extend: true, Members: []string{string(id(1)), string(id(9))}},
	}
	heard, err := r.Heartbeat(hb, start)
	must(t, err)
	if !slices.Equal(heard.Extended, []gfs.ChunkHandle{5}) || len(heard.Held) != 2 {
		t.Fatalf("heard %+v", heard)
	}
	if len(heard.Held[0].Members) != 2 || heard.Held[1].Members != nil {
		t.Fatalf("members %+v", heard.Held)
	}
	for _, lease := range []*pb.HeldLease{{Handle: 5, Version: 9, Extend: true}, {Handle: 5, Version: 10}} {
		hb = beat(1, 1, 2)
		hb.Leases = []*pb.HeldLease{lease}
		if heard, err = r.Heartbeat(hb, start); err != nil || len(heard.Extended) != 0 {
			t.Fatalf("%v extended: %+v, %v", lease, heard, err)
		}
	}
	if l, held := r.Lease(5); !held || l != (Lease{Version: 10, Server: id(1)}) {
		t.Fatalf("lease %+v", l)
	}
	r.EndLease(5)
	if _, held := r.Lease(5); held || r.Candidates(start)[0].Leases != 0 {
		t.Fatal("an ended lease is still held")
	}
}
