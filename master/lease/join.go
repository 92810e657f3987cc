package lease

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
)

// memberOf is a member of one configuration.
type memberOf struct {
	version gfs.Version
	id      gfs.ServerID
}

// join is a replica on its way to become a member: first a learner that copies, then a joiner of one attempt, which is
// not begun before everybody in it has given a sign of life.
type join struct {
	target    Member
	promise   gfs.Version    // the clone's own version, which no configuration gets
	known     []Member       // good replicas that were known to be up when it began
	deadline  time.Time      // of the copying, then of the signs of life
	asked     []gfs.ServerID // members that have not given a sign of life yet
	attempted bool           // an attempt with it was begun
	why       string         // it was left out of the attempt
}

// JoinEnd says what came of a Join: nil if the replica has become a member.
type JoinEnd struct {
	Server gfs.ServerID
	Err    error
}

// Join asks for target, a server whose replica is stale or that has none, to be made a member of the chunk; version is
// the logged one as far as the asker knows. sources are the good replicas that are up: one to copy from while the chunk is
// closed; of an open one it is the primary, and all its members must be among them. It ends with Outputs.Joined, soon and with an error if it is not the time for it: while
// something else goes on at the chunk, nothing is begun. Only an attempt makes a member, and it is made when the learner
// lacks fewer than gfs.JoinBlocks blocks.
// Source: semantics 5
func (c *Chunk) Join(target Member, version gfs.Version, sources []Member, now time.Time) {
	source, err := c.mayJoin(target, version, sources)
	if err != nil {
		c.out.Joined = &JoinEnd{Server: target.ID, Err: err}
		return
	}
	c.join = &join{target: target, promise: c.nextVersion(), known: slices.Clone(sources), deadline: now.Add(gfs.CloneTimeout)}
	c.out.Orders = append(c.out.Orders, Order{
		Kind: Clone, To: target, Version: c.join.promise, From: c.logged.Version, Source: source.Server,
	})
}

// mayJoin finds the replica to copy from, or says why nothing is begun.
func (c *Chunk) mayJoin(target Member, version gfs.Version, sources []Member) (Member, error) {
	refuse := func(format string, args ...any) (Member, error) {
		return Member{}, gfs.Errorf(gfs.CodeBusy, "chunk %s: "+format, append([]any{c.cfg.Handle}, args...)...)
	}
	sources = slices.DeleteFunc(slices.Clone(sources), func(m Member) bool { return m.ID == target.ID })
	switch {
	case c.join != nil:
		return refuse("%s joins already", c.join.target.ID)
	case version != c.logged.Version:
		return refuse("version %s is not the logged one, %s", version, c.logged.Version)
	case c.phase == Open && slices.ContainsFunc(c.members, func(s placement.Server) bool { return s.ID == target.ID }):
		return refuse("%s is a member", target.ID)
	case c.phase == Open && len(c.members) >= min(max(1, c.logged.Replicas), gfs.MaxReplicas):
		return refuse("it has %d members", len(c.members))
	case c.phase == Open && slices.ContainsFunc(c.members, func(s placement.Server) bool { return find(sources, s.ID) < 0 }):
		return refuse("a member is not known to be up")
	case c.phase == Open:
		return c.primary, nil
	case c.phase != Idle || c.logged.Open:
		return refuse("it is %s", c.phase)
	case len(sources) == 0:
		return refuse("nobody to copy from is up")
	}
	return sources[0], nil
}

// CloneAnswered hands in a learner's answer to its clone order: how many blocks it lacked at the last look.
func (c *Chunk) CloneAnswered(server gfs.ServerID, promise gfs.Version, differing int, err error, now time.Time) {
	j := c.join
	if j == nil || j.attempted || j.target.ID != server || j.promise != promise {
		return
	}
	switch {
	case errors.Is(err, gfs.ErrStaleEpoch):
		c.deposed()
	case err != nil:
		c.endJoin(err)
	case differing >= gfs.JoinBlocks:
		c.endJoin(gfs.Errorf(gfs.CodeBusy, "chunk %s: %s still lacks %d blocks", c.cfg.Handle, server, differing))
	case c.phase == Open:
		c.probeMembers(now)
	default:
		c.bringIn(now)
	}
}

// bringIn begins the attempt with the joiner, unless something else goes on.
func (c *Chunk) bringIn(now time.Time) {
	if c.phase != Open && (c.phase != Idle || c.logged.Open) {
		c.endJoin(gfs.Errorf(gfs.CodeBusy, "chunk %s is %s", c.cfg.Handle, c.phase))
		return
	}
	c.begin(now)
	c.episode.joins, c.join.attempted = true, true
}

func (c *Chunk) endJoin(err error) {
	c.out.Joined = &JoinEnd{Server: c.join.target.ID, Err: err}
	c.join = nil
}

// tickJoin ends a copying that takes too long, or a wait for signs of life.
func (c *Chunk) tickJoin(now time.Time) {
	switch {
	case c.join == nil || c.join.attempted || now.Before(c.join.deadline):
	case len(c.join.asked) > 0:
		c.endJoin(gfs.Errorf(gfs.CodeUnavailable, "chunk %s: no sign of life of %v in %s", c.cfg.Handle, c.join.asked, gfs.PrepareSilence))
	default:
		c.endJoin(gfs.Errorf(gfs.CodeUnavailable, "chunk %s was not copied to %s in %s", c.cfg.Handle, c.join.target.ID, gfs.CloneTimeout))
	}
}

func (c *Chunk) joinerDown(dead process) {
	if c.join != nil && !c.join.attempted && c.join.target.process() == dead {
		c.endJoin(gfs.Errorf(gfs.CodeUnavailable, "chunkserver %s went down", dead.id))
	}
}

// tellJoiner adds the joiner to an attempt's Prepare. It is told once only: a chunk does not wait for it twice.
func (c *Chunk) tellJoiner(now time.Time) {
	a := &c.attempt
	if !c.episode.joins || c.episode.attempts > 1 || a.suspect || len(a.told) >= gfs.MaxReplicas {
		return
	}
	target := c.join.target
	if slices.ContainsFunc(a.told, func(t told) bool { return t.replica.ID == target.ID }) {
		return // it is good after all
	}
	source := a.told[0].replica.Server
	for i := range a.told {
		if t := &a.told[i]; t.replica.ID == c.primary.ID {
			source = t.replica.Server
		}
	}
	a.told = append(a.told, told{
		replica: registry.Replica{Server: target.Server, Incarnation: target.Incarnation, Up: true, State: gfs.ReplicaLearner},
		sign:    now, joiner: true,
	})
	c.out.Orders = append(c.out.Orders, Order{Kind: Prepare, To: target, Version: a.version, From: a.from, Joiner: true, Source: source})
}

// joinerAnswered takes a joiner's last word. Whatever it is, no new attempt comes of it.
func (c *Chunk) joinerAnswered(t *told, answer PrepareAnswer) {
	switch {
	case answer.Err != nil:
		c.join.why = answer.Err.Error()
		t.drop()
		return
	case answer.Promised != c.attempt.version || answer.State != gfs.ReplicaLearner || answer.Length < 0 || answer.Length > gfs.ChunkSize:
		c.join.why = fmt.Sprintf("it is a %s with %d bytes that promised %s", answer.State, answer.Length, answer.Promised)
		t.drop()
	default:
		t.answered, t.length, t.digest = true, answer.Length, answer.Digest
	}
	c.out.Notes = append(c.out.Notes, registry.Note{
		Server: t.replica.ID, Promised: answer.Promised, Active: answer.Active, Length: answer.Length, State: answer.State, Marked: true,
	})
}

// equal reports whether a joiner holds what a member does that answered in the same version, and nothing else: then it
// holds every acknowledged mutation.
func (a *attempt) equal(joiner *told) bool {
	return !joiner.dropped && joiner.digest != "" && slices.ContainsFunc(a.told, func(t told) bool {
		return !t.joiner && t.answered && t.digest == joiner.digest
	})
}

// settleJoin ends a join when the reconfiguration that it was part of is over, or nothing more will happen.
func (c *Chunk) settleJoin() {
	if c.join == nil {
		return
	}
	over := c.phase == Ended || c.phase == InDoubt
	switch id := c.join.target.ID; {
	case !over && (!c.join.attempted || c.phase != Open && c.phase != Idle):
	case c.phase == Open && slices.ContainsFunc(c.members, func(s placement.Server) bool { return s.ID == id }):
		c.event(messages.EventReplicaJoined, id, "%d members", len(c.members))
		c.endJoin(nil)
	default:
		why := c.join.why
		if why == "" {
			why = "it was late, or differed"
		}
		c.endJoin(gfs.Errorf(gfs.CodeConflict, "chunk %s: %s was left out: %s", c.cfg.Handle, id, why))
	}
}
