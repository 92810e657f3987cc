package lease

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Recorded hands in the outcome of the record that was proposed: nil if it took effect, gfs.CodeOutcomeUnknown if
// it may have or may yet, any other error if it did not and never will.
func (c *Chunk) Recorded(err error, now time.Time) {
	if c.phase != Placing && c.phase != Logging && c.phase != Closing {
		return
	}
	if errors.Is(err, gfs.ErrOutcomeUnknown) {
		c.phase = InDoubt
		c.out.Revoked = true
		c.answerAll(c.gone())
		return
	}
	switch c.phase {
	case Placing:
		c.placed(err, now)
	case Logging:
		c.configured(err, now)
	case Closing:
		c.closed(err, now)
	}
}

// configured goes on to the grant, which happens once for each version.
func (c *Chunk) configured(err error, now time.Time) {
	a := &c.attempt
	if err != nil {
		c.refused(err)
		return
	}
	c.logged.Version, c.logged.Members, c.logged.Open = a.version, len(a.members), true
	c.counted = memberOf{a.version, a.joined}
	c.phase = Granting
	c.deadline, a.granted = now.Add(GrantTimeout), now
	c.out.Orders = append(c.out.Orders, Order{
		Kind: Grant, To: a.primary, Version: a.version, Members: a.members, Believe: a.suspect, Doubted: c.doubtedMembers(),
	})
}

// doubtedMembers are the members but the primary that were complained of: their answers to the master do not say that the primary
// reaches them, and mutations wait while it finds out.
func (c *Chunk) doubtedMembers() []gfs.ServerID {
	var doubted []gfs.ServerID
	for _, s := range c.attempt.members[1:] {
		if c.episode.accused[s.ID] {
			doubted = append(doubted, s.ID)
		}
	}
	return doubted
}

// refused is for a record that was not taken. Where the log says that the chunk is another one than we think, or is
// gone, this core is of no more use.
func (c *Chunk) refused(err error) {
	c.giveUp(err)
	if code := gfs.CodeOf(err); code == gfs.CodeConflict || code == gfs.CodeNotExist {
		c.phase = Ended
	}
}

// GrantAnswer is what a primary says to its Grant when it has brought its members in, or failed to.
type GrantAnswer struct {
	Busy    bool // alive and still at it: the other fields mean nothing
	Length  int64
	Accused gfs.ServerID // the member that could not be brought in, empty if none
	Err     error        // the primary refused, failed or could not be reached
}

// GrantAnswered hands in the answer to the Grant of one version.
func (c *Chunk) GrantAnswered(server gfs.ServerID, version gfs.Version, answer GrantAnswer, now time.Time) {
	if c.phase != Granting || version != c.attempt.version || server != c.attempt.primary.ID {
		return
	}
	switch {
	case answer.Busy:
		c.attempt.granted = now
	case errors.Is(answer.Err, gfs.ErrStaleEpoch):
		c.deposed()
	case answer.Accused != "":
		c.accusedByPrimary(answer.Accused)
	case answer.Err != nil:
		c.episode.notPrimary[server] = true
		if unreachable(answer.Err) {
			c.leaveOut(c.attempt.primary.process(), "could not be made the primary: "+answer.Err.Error())
		}
		c.retry()
	default:
		c.granted(answer.Length, now)
	}
}

// granted is for a configuration that this core made: every member holds its version.
func (c *Chunk) granted(length int64, now time.Time) {
	for _, s := range c.attempt.members {
		c.out.Notes = append(c.out.Notes, registry.Note{
			Server: s.ID, Promised: c.logged.Version, Active: c.logged.Version, Length: min(max(length, 0), gfs.ChunkSize),
			State: gfs.ReplicaMember, Marked: true,
		})
	}
	detail := "members " + memberIDs(c.attempt.members)
	if reasons := c.reasons(); reasons != "" {
		detail += ", left out: " + reasons
	}
	c.event(messages.EventLeaseGranted, c.attempt.primary.ID, "%s", detail)
	c.open(c.attempt.primary, c.attempt.members, now)
}

// memberIDs lists servers in the order of the chain.
func memberIDs(members []placement.Server) string {
	ids := make([]string, len(members))
	for i, s := range members {
		ids[i] = string(s.ID)
	}
	return strings.Join(ids, " ")
}

// unreachable reports whether an error says that the process did not act on the order at all.
func unreachable(err error) bool {
	switch gfs.CodeOf(err) {
	case gfs.CodeUnavailable, gfs.CodeOutcomeUnknown, gfs.CodeWrongIncarnation, gfs.CodeNoReplica:
		return true
	}
	return false
}

// accusedByPrimary leaves out a member that answered the master but not its primary. Where that would leave too few,
// it may be the primary whose network is at fault: another gets its chance first, but for a member that a client could not reach
// either.
func (c *Chunk) accusedByPrimary(accused gfs.ServerID) {
	primary := c.attempt.primary
	i := slices.IndexFunc(c.attempt.told, func(t told) bool { return t.replica.ID == accused })
	if i < 0 || accused == primary.ID {
		c.episode.notPrimary[primary.ID] = true
		c.retry()
		return
	}
	few := len(c.attempt.members)-1 < min(2, max(1, c.logged.Replicas))
	if few && !c.episode.notPrimary[primary.ID] && accused != c.episode.client && !c.attempt.told[i].relayed {
		c.episode.notPrimary[primary.ID] = true
		c.episode.miss(accused) // should the master not hear it either
		c.retry()
		return
	}
	c.out.Unreached = append(c.out.Unreached, accused)
	c.episode.accuse(accused)
	c.leaveOutTold(&c.attempt.told[i], "could not be brought in by "+string(primary.ID))
	c.retry()
}

// open begins a lease and answers who waits.
func (c *Chunk) open(primary Member, members []placement.Server, now time.Time) {
	if accused := c.episode.client; slices.ContainsFunc(members, func(s placement.Server) bool { return s.ID == accused }) {
		c.quiet = now.Add(ComplaintPause)
	}
	c.phase = Open
	c.primary, c.members, c.until = primary, members, now.Add(gfs.LeaseDuration)
	c.others = nil
	for i := range c.attempt.told {
		if m := c.attempt.told[i].member(); m.ID != primary.ID && slices.ContainsFunc(members, func(s placement.Server) bool { return s.ID == m.ID }) {
			c.others = append(c.others, m)
		}
	}
	c.episode, c.attempt = episode{}, attempt{}
	c.out.Granted, c.out.Revoked = true, false
	location := c.Location()
	for _, waiter := range c.waiters {
		c.answer(Answer{Waiter: waiter, Location: location})
	}
	c.waiters = nil
	if len(c.sealers) > 0 {
		c.orderClose()
	}
}

// Held is a lease that a chunkserver reports with its heartbeat.
type Held struct {
	Version gfs.Version
	Primary Member
	Members []placement.Server // chain order, primary first; nil if they are not known
	Extend  bool
}

// LeaseReported extends the lease of the primary that this core knows. A core that knows none adopts the primary,
// unless somebody has complained of it: a version is granted once, so whoever holds a lease in the logged version
// was given it by the master that logged it.
func (c *Chunk) LeaseReported(held Held, now time.Time) {
	if held.Version != c.logged.Version || !c.logged.Open {
		return
	}
	switch c.phase {
	case Open:
		if held.Extend && held.Primary.process() == c.primary.process() {
			c.until = now.Add(gfs.LeaseDuration)
		}
	case Idle, Locating, Waiting:
		// A lease that this core itself took away is no longer one, though its holder may not know yet.
		taken := held.Primary.process() == c.primary.process()
		if len(held.Members) > 0 && !taken && !c.episode.accused[held.Primary.ID] {
			c.open(held.Primary, held.Members, now)
		}
	}
}

// CloseRequested is a primary's word that all members are equal, synced and unmarked at length. The waiter is
// answered when the close is logged, with CodeConflict if the version is no longer the logged one or is on its way
// to another one.
func (c *Chunk) CloseRequested(waiter uint64, version gfs.Version, length int64, server gfs.ServerID, now time.Time) {
	refuse := func(format string, args ...any) {
		c.answer(Answer{Waiter: waiter, Err: gfs.Errorf(gfs.CodeConflict, format, args...)})
	}
	switch {
	case version != c.logged.Version:
		refuse("chunk %s: close of version %s, the logged one is %s", c.cfg.Handle, version, c.logged.Version)
	case length < 0 || length > gfs.ChunkSize:
		c.answer(Answer{Waiter: waiter, Err: gfs.Errorf(gfs.CodeInvalid, "chunk %s: close at %d bytes", c.cfg.Handle, length)})
	case c.untouched() && !c.logged.Open:
		c.answer(Answer{Waiter: waiter}) // a retry: the answer was lost
	case c.phase == Closing && len(c.closers) > 0 && c.closers[0].length == length && len(c.closers) < maxWaiters:
		c.closers = append(c.closers, closer{waiter, length})
	case c.phase == Open && server == c.primary.ID, c.untouched():
		c.phase = Closing
		c.closers = append(c.closers, closer{waiter, length})
		c.out.Record = &pb.Record{Command: &pb.Record_CloseChunk{CloseChunk: &pb.CloseChunk{
			Handle: uint64(c.cfg.Handle), Version: uint64(version), Length: length,
		}}}
	default:
		refuse("chunk %s: version %s is %s at the master", c.cfg.Handle, version, c.phase)
	}
}

// untouched reports whether the primary that an earlier master made may still be at work: this one knows of none and
// has told nobody to prepare.
func (c *Chunk) untouched() bool {
	return c.phase == Idle || (c.phase == Locating || c.phase == Waiting) && c.episode.attempts == 0
}

// closed ends a lease; whoever began to wait meanwhile gets a new version.
func (c *Chunk) closed(err error, now time.Time) {
	closers, length := c.closers, c.closers[0].length
	c.closers = nil
	c.out.Revoked = true
	c.phase = Idle
	for _, closer := range closers {
		c.answer(Answer{Waiter: closer.waiter, Err: err})
	}
	if err != nil {
		// Its members take nothing in this version any more: who waits gets another, or the scanner comes.
		c.refusedClose(err, now)
		return
	}
	c.logged.Open, c.logged.Length = false, length
	for _, s := range c.members {
		c.out.Notes = append(c.out.Notes, registry.Note{
			Server: s.ID, Promised: c.logged.Version, Active: c.logged.Version, Length: length, State: gfs.ReplicaMember,
		})
	}
	c.event(messages.EventChunkClosed, c.primary.ID, "%d bytes", length)
	c.sealed()
	if len(c.waiters) > 0 {
		c.begin(now)
	}
}

func (c *Chunk) refusedClose(err error, now time.Time) {
	switch gfs.CodeOf(err) {
	case gfs.CodeConflict, gfs.CodeNotExist:
		c.answerAll(err)
		c.phase = Ended
	default:
		if len(c.waiters)+len(c.sealers) > 0 {
			c.begin(now)
		}
	}
}
