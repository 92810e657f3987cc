package lease

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Create makes a new chunk at members, whose first is to be its primary, and logs it at place. The waiter is
// answered once. If a member fails, the handle is of no more use: the answer names who failed, and the asker tries
// others with another handle. With reserve it is not logged before Place is called, and given up if that does not
// happen in time. It may be called once, on the core of a chunk that the log does not know.
func (c *Chunk) Create(waiter uint64, place Place, members []Member, reserve bool, now time.Time) {
	if c.phase != Idle || c.logged != (Logged{}) || len(members) == 0 {
		panic(fmt.Sprintf("lease: chunk %s: create of %d members while %s", c.cfg.Handle, len(members), c.phase))
	}
	c.waiters = append(c.waiters, waiter)
	c.place, c.phase, c.deadline, c.reserve = place, Creating, now.Add(CreateTimeout), reserve
	c.attempt = attempt{version: c.nextVersion(), began: now, primary: members[0]}
	for _, m := range members {
		t := told{sign: now}
		t.replica.Server, t.replica.Incarnation = m.Server, m.Incarnation
		c.attempt.told = append(c.attempt.told, t)
		c.attempt.members = append(c.attempt.members, m.Server)
	}
	for _, m := range members {
		c.out.Orders = append(c.out.Orders, Order{Kind: Create, To: m, Version: c.attempt.version, Members: c.attempt.members, Stream: reserve})
	}
}

// CreateAnswered hands in a member's answer to the creation: nil when its empty replica exists.
func (c *Chunk) CreateAnswered(server gfs.ServerID, version gfs.Version, err error, now time.Time) {
	if c.phase != Creating || version != c.attempt.version {
		return
	}
	i := slices.IndexFunc(c.attempt.told, func(t told) bool { return t.replica.ID == server && !t.answered })
	switch {
	case i < 0:
		return
	case errors.Is(err, gfs.ErrStaleEpoch):
		c.deposed()
		return
	case err != nil:
		if unreachable(err) {
			c.out.Unreached = append(c.out.Unreached, server)
		}
		c.abandon([]gfs.ServerID{server}, err)
		return
	}
	c.attempt.told[i].answered = true
	if slices.ContainsFunc(c.attempt.told, func(t told) bool { return !t.answered }) {
		return
	}
	if c.reserve {
		c.phase, c.deadline = Reserved, now.Add(ReserveTimeout)
		return
	}
	c.record()
}

// Place has a chunk that was made with reserve logged as soon as it is made. It changes nothing otherwise.
func (c *Chunk) Place() {
	c.reserve = false
	if c.phase == Reserved {
		c.record()
	}
}

func (c *Chunk) record() {
	c.phase = Placing
	c.out.Record = &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{
		FileId: uint64(c.place.File), Index: c.place.Index, Handle: uint64(c.cfg.Handle),
		Version: uint64(c.attempt.version), Members: uint32(len(c.attempt.members)),
	}}}
}

// placed is the outcome of the record that puts the chunk into its file. The creation was the grant.
func (c *Chunk) placed(err error, now time.Time) {
	if err != nil {
		c.answerAll(err)
		c.phase = Ended
		return
	}
	c.logged = Logged{Version: c.attempt.version, Members: len(c.attempt.members), Open: true, Replicas: c.place.Replicas}
	c.granted(0, now)
}

func (c *Chunk) createTimedOut() {
	var silent []gfs.ServerID
	for i := range c.attempt.told {
		if t := &c.attempt.told[i]; !t.answered {
			silent = append(silent, t.replica.ID)
		}
	}
	c.out.Unreached = append(c.out.Unreached, silent...)
	c.abandon(silent, gfs.Errorf(gfs.CodeUnavailable, "no answer within %v", CreateTimeout))
}

// createFailed gives a chunk up that is being made at a process which died. A reserved chunk is given up whoever of
// its members died: there is time for another.
func (c *Chunk) createFailed(dead process) {
	member := func(t told) bool { return t.member().process() == dead }
	if c.attempt.waitsFor(dead) || c.phase == Reserved && slices.ContainsFunc(c.attempt.told, member) {
		c.abandon([]gfs.ServerID{dead.id}, gfs.Errorf(gfs.CodeUnavailable, "it went down"))
	}
}

// abandon gives the handle up; failed is empty where nobody is to blame.
func (c *Chunk) abandon(failed []gfs.ServerID, err error) {
	code, why := gfs.CodeUnavailable, err.Error()
	if errors.Is(err, gfs.ErrNoSpace) {
		code, why = gfs.CodeNoSpace, gfs.DetailOf(err)
	}
	wrapped := gfs.Errorf(code, "chunk %s was not made: %s", c.cfg.Handle, why)
	if len(failed) > 0 {
		wrapped = gfs.Errorf(code, "chunkserver %s could not make chunk %s: %s", failed[0], c.cfg.Handle, why)
	}
	for _, waiter := range c.waiters {
		c.answer(Answer{Waiter: waiter, Err: wrapped, Failed: failed})
	}
	c.waiters = nil
	c.phase = Ended
}
