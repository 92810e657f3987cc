package master

import (
	"testing"
	"time"

	"github.com/cairnfs/cairn/master/lease"
	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/messages/gfs"
)

func TestThePaceOfJoins(t *testing.T) {
	var j joinPace
	now := time.Unix(1_000_000, 0)
	plan := func(handle gfs.ChunkHandle, server gfs.ServerID) joinPlan {
		return joinPlan{handle: handle, target: lease.Member{Server: placement.Server{ID: server}}}
	}
	if !j.admit(plan(1, "a"), now) || j.admit(plan(1, "b"), now) || !j.admit(plan(2, "a"), now) || j.admit(plan(3, "a"), now) || !j.admit(plan(3, "b"), now) {
		t.Fatal("one join a chunk, and two a server")
	}
	if busy := j.busy(now); len(busy) != 3 || !busy[3] {
		t.Fatalf("busy %v", busy)
	}
	j.ended(2, nil, now)
	if j.busy(now)[2] {
		t.Error("one that succeeded is still busy")
	}
	// One that fails is left alone for longer each time.
	failed := gfs.Errorf(gfs.CodeBusy, "")
	j.ended(1, failed, now)
	for pause := joinPause; pause < maxJoinPause; pause *= 2 {
		if !j.busy(now.Add(pause - time.Millisecond))[1] || j.busy(now.Add(pause))[1] {
			t.Fatalf("not left alone for %v", pause)
		}
		now = now.Add(pause)
		if !j.admit(plan(1, "a"), now) {
			t.Fatal("not admitted after its pause")
		}
		j.ended(1, failed, now)
	}
	j.ended(9, failed, now)
	if j.busy(now)[9] {
		t.Error("one that was never begun is busy")
	}
	// One that is never heard of again does not count for ever.
	if j.busy(now.Add(joinTimeout))[3] || len(j.running) != 0 {
		t.Errorf("still running: %v", j.running)
	}
	for h := range gfs.ChunkHandle(maxJoins + 5) {
		if got := j.admit(plan(100+h, gfs.ServerID(rune('a'+h))), now); got != (h < maxJoins) {
			t.Fatalf("join %d: admitted %t", h, got)
		}
	}
}
