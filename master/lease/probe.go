package lease

import (
	"errors"
	"slices"
	"time"

	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/messages/gfs"
)

// A Probe asks for signs of life and changes nothing: before a chunk that works is stopped for a joiner's sake or because
// of a client, and before it goes on with a single member.

// ProbeAnswered hands in a server's answer to a Probe: which of those that it was to ask give it no sign of life, or the
// error with which the server itself gave none.
func (c *Chunk) ProbeAnswered(server gfs.ServerID, version gfs.Version, silent []gfs.ServerID, err error, now time.Time) {
	c.out.Unreached = append(c.out.Unreached, silent...) // though nobody may wait for it any more
	switch asked := (Order{Kind: Probe, To: Member{Server: placement.Server{ID: server}}, Version: version}); {
	case !c.awaitsProbe(asked):
	case errors.Is(err, gfs.ErrStaleEpoch):
		c.deposed()
	case c.join != nil && version == c.join.promise:
		c.memberProbed(server, silent, err, now)
	case c.phase == Open && server == c.primary.ID:
		c.primaryProbed(err, now)
	case c.phase == Open:
		c.primaryWitnessed(silent, now)
	default:
		c.witnessAnswered(silent, err)
	}
}

// awaitsProbe reports whether the answer to a Probe still matters.
func (c *Chunk) awaitsProbe(o Order) bool {
	switch {
	case c.join != nil && o.Version == c.join.promise:
		return slices.Contains(c.join.asked, o.To.ID)
	case o.Version != c.logged.Version:
		return false
	case c.phase == Open:
		return !c.doubt.until.IsZero() && (o.To.ID == c.doubt.witness || o.To.ID == c.primary.ID && !c.doubt.heard)
	}
	return c.underWay() && o.To.ID == c.episode.witness.ID
}

// doubt is about a primary that does answer the master, as far as is known, and of which a client complains a moment after one
// complained of the primary before: it may be the client that reaches nobody.
type doubt struct {
	until   time.Time    // what is awaited has until then; zero if there is no doubt
	heard   bool         // the primary has answered
	witness gfs.ServerID // a member that was asked whether it hears the primary, and has not answered; empty if there is none
}

// lookInto asks the primary for a sign of life, and another member whether it hears the primary too: the master may be the only
// one that does. Who waits hears what comes of it.
func (c *Chunk) lookInto(now time.Time) {
	if !c.doubt.until.IsZero() {
		return
	}
	c.doubt.until = now.Add(AccusedSilence)
	c.out.Orders = append(c.out.Orders, Order{Kind: Probe, To: c.primary, Version: c.logged.Version})
	if len(c.others) > 0 {
		c.doubt.witness = c.others[0].ID
		c.out.Orders = append(c.out.Orders, Order{
			Kind: Probe, To: c.others[0], Version: c.logged.Version,
			Members: []placement.Server{c.primary.Server}, Doubted: []gfs.ServerID{c.primary.ID},
		})
	}
}

// primaryProbed takes the primary's own answer.
func (c *Chunk) primaryProbed(err error, now time.Time) {
	if unreachable(err) {
		c.primaryLost(err.Error(), now)
		return
	}
	c.doubt.heard = true
	if c.doubt.witness == "" {
		c.trust()
		return
	}
	c.doubt.until = now.Add(gfs.MemberSilence)
}

// primaryWitnessed takes the other member's answer. What it says against the primary is worth what a client says of the first
// one: the primary loses its role, and takes part in the attempt if it answers.
func (c *Chunk) primaryWitnessed(silent []gfs.ServerID, now time.Time) {
	c.doubt.witness = ""
	switch accused := c.primary.ID; {
	case slices.Contains(silent, accused):
		c.begin(now)
		c.episode.accuse(accused)
		c.episode.client = accused
	case c.doubt.heard:
		c.trust()
	}
}

// trust ends the doubt, and nothing moves.
func (c *Chunk) trust() {
	c.doubt = doubt{}
	for _, waiter := range c.waiters {
		c.answer(Answer{Waiter: waiter, Err: c.quietly()})
	}
	c.waiters = nil
}

// quietly is the answer to a complaint that moves nothing.
func (c *Chunk) quietly() error {
	return gfs.Errorf(gfs.CodeBusy, "chunk %s got another primary a moment ago, and the one before does answer the master: try %s again",
		c.cfg.Handle, c.primary.Address)
}

// primaryLost goes on without a primary that neither a client nor the master could reach.
func (c *Chunk) primaryLost(why string, now time.Time) {
	lost := c.primary
	c.begin(now)
	c.episode.accuse(lost.ID)
	c.leaveOut(lost.process(), why)
}

// excuse gives who is awaited its time once more, once in each phase of an attempt, and reports whether it did: what it said
// may lie unread, for this process was held up.
func (c *Chunk) excuse(now time.Time) bool {
	a := &c.attempt
	if c.phase != Preparing && c.phase != Granting || a.excused == c.phase {
		return false
	}
	a.excused, a.granted = c.phase, now
	for i := range a.told {
		a.told[i].sign = now
	}
	return true
}

// accuseAgain records a complaint that comes while an attempt is under way. One that is new, about a member that has
// answered, is worth another attempt: it may have fallen silent since, and whoever brings it in would wait for it longer.
func (c *Chunk) accuseAgain(server gfs.ServerID, client bool) {
	if client && server != "" && server == c.primary.ID {
		c.episode.client = server
	}
	known := c.episode.accused[server]
	c.episode.accuse(server)
	answered := slices.ContainsFunc(c.attempt.told, func(t told) bool { return t.replica.ID == server && t.answered && !t.joiner })
	if c.phase == Preparing && answered && !known {
		c.retry()
	}
}

// askWitness asks the one member that is left whether it hears those that are missing. Of those that it does not hear it
// complains. Those that the master alone does not hear get their orders by way of it.
func (c *Chunk) askWitness(s census) {
	e := &c.episode
	missing := slices.DeleteFunc(slices.Clone(s.missing), func(m placement.Server) bool { _, tried := e.relayed[m.ID]; return tried })
	if len(s.tell) == 0 || len(missing) == 0 || e.witness.ID != "" {
		return
	}
	e.witness = Member{Server: s.tell[0].Server, Incarnation: s.tell[0].Incarnation}
	e.asked = nil
	for _, m := range missing {
		e.asked = append(e.asked, m.ID)
	}
	c.out.Orders = append(c.out.Orders, Order{Kind: Probe, To: e.witness, Version: c.logged.Version, Members: missing})
}

func (c *Chunk) witnessAnswered(silent []gfs.ServerID, err error) {
	e := &c.episode
	e.witness = Member{}
	if err != nil {
		return
	}
	for _, id := range e.asked {
		if slices.Contains(silent, id) {
			e.accuse(id)
			continue
		}
		if e.relayed == nil {
			e.relayed = map[gfs.ServerID]bool{}
		}
		e.relayed[id] = true
	}
	if c.phase == Waiting {
		c.locate()
	}
}

// find is the index of a server among processes, -1 if it is not there.
func find(members []Member, id gfs.ServerID) int {
	return slices.IndexFunc(members, func(m Member) bool { return m.ID == id })
}

// probeMembers asks everybody who is to be in the attempt with the joiner for a sign of life, and the primary whether it
// hears the others: an attempt stops the chunk's mutations until all have answered.
func (c *Chunk) probeMembers(now time.Time) {
	j := c.join
	j.deadline = now.Add(gfs.PrepareSilence)
	for _, s := range c.members {
		i := find(j.known, s.ID)
		if i < 0 {
			c.endJoin(gfs.Errorf(gfs.CodeBusy, "chunk %s: member %s came in meanwhile", c.cfg.Handle, s.ID))
			return
		}
		order := Order{Kind: Probe, To: j.known[i], Version: j.promise}
		if s.ID == c.primary.ID {
			everybody := append(slices.Clone(c.members), j.target.Server)
			order.Members = slices.DeleteFunc(everybody, func(other placement.Server) bool { return other.ID == s.ID })
		}
		j.asked = append(j.asked, s.ID)
		c.out.Orders = append(c.out.Orders, order)
	}
}

// memberProbed begins the attempt when everybody has answered.
func (c *Chunk) memberProbed(server gfs.ServerID, silent []gfs.ServerID, err error, now time.Time) {
	j := c.join
	switch {
	case err != nil:
		c.endJoin(gfs.Errorf(gfs.CodeUnavailable, "chunk %s: no sign of life of %s: %v", c.cfg.Handle, server, err))
		return
	case len(silent) > 0:
		c.endJoin(gfs.Errorf(gfs.CodeUnavailable, "chunk %s: %s has no sign of life of %v", c.cfg.Handle, server, silent))
		return
	}
	j.asked = slices.DeleteFunc(j.asked, func(id gfs.ServerID) bool { return id == server })
	if len(j.asked) == 0 {
		c.bringIn(now)
	}
}
