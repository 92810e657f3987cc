package lease

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// episode is one reconfiguration, over all its attempts.
type episode struct {
	began      time.Time
	attempts   int
	next       time.Time             // the next attempt does not begin before
	spaced     bool                  // it is only for that that the chunk is Waiting
	client     gfs.ServerID          // the primary before, if a client could not reach it
	joins      bool                  // a join began it: its joiner is told in the first attempt
	witness    Member                // was asked whether it hears the members that are missing, and has not answered
	asked      []gfs.ServerID        // whom the witness was asked about
	relayed    map[gfs.ServerID]bool // members that the witness hears and the master does not: false once that was of no use
	accused    map[gfs.ServerID]bool // complained of: left out without a grace if they do not answer
	out        map[process]string    // left out of further attempts, and why
	notPrimary map[gfs.ServerID]bool // did not do a primary's work: takes the role only if nobody else can
	learners   map[process]bool      // joiners of the logged version that said themselves that they never were brought in
}

// accuse records that somebody could not use a server as primary or member.
func (e *episode) accuse(server gfs.ServerID) {
	if server != "" {
		e.accused[server], e.notPrimary[server] = true, true
	}
}

// miss records that somebody could not use a server that had no role to fail in, or had just laid it down.
func (e *episode) miss(server gfs.ServerID) {
	if server != "" {
		e.accused[server] = true
	}
}

// forgive lets those be asked again who were left out without a complaint.
func (e *episode) forgive() {
	e.relayed = nil
	maps.DeleteFunc(e.out, func(p process, _ string) bool { return !e.accused[p.id] })
}

// attempt is one version on its way from Prepare to Grant.
type attempt struct {
	version gfs.Version
	from    gfs.Version
	suspect bool // all replicas are suspect: the best of them is taken alone
	began   time.Time
	told    []told
	primary Member             // from Logging on
	members []placement.Server // from Logging on; chain order
	joined  gfs.ServerID       // the joiner among members, empty if there is none
	granted time.Time          // while Granting: the primary's last sign of life
	excused Phase              // in which silence did not count once
}

// told is one replica that was asked to prepare.
type told struct {
	replica  registry.Replica
	answered bool
	sign     time.Time // last sign of life
	length   int64
	digest   string
	relayed  bool // by way of the first one told
	joiner   bool
	dropped  bool // a joiner that is not waited for any more
}

// drop goes on without a joiner.
func (t *told) drop() { t.answered, t.dropped = true, true }

func (t *told) member() Member {
	return Member{Server: t.replica.Server, Incarnation: t.replica.Incarnation}
}

func (t *told) deadline(a *attempt, e *episode) time.Time {
	silence := gfs.PrepareSilence
	if e.accused[t.replica.ID] {
		silence = AccusedSilence
	}
	deadline, end := t.sign.Add(silence), a.began.Add(gfs.PrepareTimeout)
	if t.joiner {
		end = a.began.Add(gfs.JoinTimeout)
	}
	if end.Before(deadline) {
		return end
	}
	return deadline
}

// deadline is when the first of those who have not answered counts as silent.
func (a *attempt) deadline(e *episode) time.Time {
	var first time.Time
	for i := range a.told {
		if t := &a.told[i]; !t.answered {
			if d := t.deadline(a, e); first.IsZero() || d.Before(first) {
				first = d
			}
		}
	}
	return first
}

// waitsFor reports whether the replica at a process has not answered.
func (a *attempt) waitsFor(p process) bool { return a.awaited(p) != nil }

// awaited finds the replica at a process that has not answered, nil if there is none.
func (a *attempt) awaited(p process) *told {
	for i := range a.told {
		if t := &a.told[i]; !t.answered && t.member().process() == p {
			return t
		}
	}
	return nil
}

// begin starts a reconfiguration.
func (c *Chunk) begin(now time.Time) {
	if c.phase == Open {
		c.out.Revoked, c.out.Granted = true, false
	}
	c.doubt = doubt{}
	c.episode = episode{
		began: now, accused: map[gfs.ServerID]bool{}, out: map[process]string{}, notPrimary: map[gfs.ServerID]bool{},
	}
	c.locate()
}

func (c *Chunk) locate() {
	c.phase = Locating
	c.out.Locate = true
}

// retry goes on with another attempt, unless there were too many.
func (c *Chunk) retry() {
	if c.episode.attempts >= maxAttempts {
		c.giveUp(gfs.Errorf(gfs.CodeUnavailable, "chunk %s: no configuration after %d attempts (%s)",
			c.cfg.Handle, c.episode.attempts, c.reasons()))
		return
	}
	c.locate()
}

func (c *Chunk) leaveOut(p process, why string) { c.episode.out[p] = why }

// leaveOutTold is leaveOut for one that was told: nothing is passed on to it again before the others that are left out are
// asked again too.
func (c *Chunk) leaveOutTold(t *told, why string) {
	if t.relayed {
		c.episode.relayed[t.replica.ID] = false
	}
	c.leaveOut(t.member().process(), why)
}

// giveUp answers who waits. If the chunk is open in the log, the scanner will bring it back here.
func (c *Chunk) giveUp(err error) {
	c.phase = Idle
	c.answerAll(err)
}

// reasons says why who was left out was left out.
func (c *Chunk) reasons() string {
	texts := make([]string, 0, len(c.episode.out))
	for p, why := range c.episode.out {
		texts = append(texts, string(p.id)+" "+why)
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), "; ")
}

// Located answers Outputs.Locate with what the registry knows of the chunk's replicas.
func (c *Chunk) Located(replicas []registry.Replica, now time.Time) {
	if c.phase != Locating {
		return
	}
	c.base = c.newest(replicas)
	s := c.count(replicas)
	graceRuns := now.Before(c.episode.began.Add(Grace))
	tooFew := len(s.tell)+len(s.relay) < min(2, max(1, c.logged.Replicas)) && len(s.missing)+s.unheard > 0
	unheard := s.unheard > 0 && now.Before(c.cfg.ActingSince.Add(Grace)) ||
		s.accused > 0 && now.Before(c.cfg.ActingSince.Add(AccusedGrace))
	// A member of whom a restored log knows nothing may have gone on alone, whoever complains of it.
	lost := c.restored() && s.unheard+s.accused > 0 && now.Before(c.cfg.ActingSince.Add(Grace))
	c.episode.spaced = now.Before(c.episode.next)
	switch {
	case c.episode.spaced:
		c.phase, c.deadline = Waiting, c.episode.next
	case lost || graceRuns && (tooFew || unheard):
		c.phase = Waiting
		c.deadline = now.Add(pollInterval)
		if tooFew {
			c.askWitness(s)
		}
		if !now.Before(c.episode.began.Add(tellAfter)) {
			c.answerWants(c.notYet(s))
		}
	case len(s.tell) > 0:
		c.prepare(append(s.tell, s.relay...), false, now)
	case len(s.suspects) > 0 && s.sound == 0 && s.unheard+s.accused == 0:
		c.prepare(s.suspects, true, now)
	case len(s.suspects) > 0 && s.sound == 0 && s.unheard+s.accused <= len(s.joiners):
		// Whether a joiner was brought in, and is sound, it tells itself before a suspect is believed.
		c.prepare(append(s.suspects, s.joiners...), true, now)
	default:
		c.giveUp(c.nobodyLeft(s))
	}
}

// prepare starts an attempt with a number of its own.
func (c *Chunk) prepare(replicas []registry.Replica, suspect bool, now time.Time) {
	c.episode.attempts++
	if extra := c.episode.attempts - quickAttempts; extra >= 0 {
		c.episode.next = now.Add(min(firstSpacing<<min(extra, 10), maxSpacing))
	}
	c.attempt = attempt{version: c.nextVersion(), from: c.base, suspect: suspect, began: now}
	c.phase = Preparing
	for _, r := range replicas {
		t := told{replica: r, sign: now, relayed: !suspect && c.episode.relayed[r.ID]} // who restarted since is told itself
		order := Order{Kind: Prepare, To: t.member(), Version: c.attempt.version, From: c.attempt.from}
		if t.relayed {
			delete(c.episode.out, t.member().process())
			order.Via = c.attempt.told[0].member() // such replicas come behind all others
		}
		c.attempt.told = append(c.attempt.told, t)
		c.out.Orders = append(c.out.Orders, order)
	}
	c.tellJoiner(now)
}

// PrepareAnswer is what a replica says to a Prepare.
type PrepareAnswer struct {
	Busy     bool // alive and still at work: the other fields mean nothing
	Promised gfs.Version
	Active   gfs.Version
	Length   int64
	State    gfs.ReplicaState
	Digest   string // equal for replicas that hold the same bytes, length and append table
	Err      error  // it refused, or could not be reached
}

// PrepareAnswered hands in the answer of one server to the Prepare of one version. Answers to attempts that are
// over are dropped.
func (c *Chunk) PrepareAnswered(server gfs.ServerID, version gfs.Version, answer PrepareAnswer, now time.Time) {
	if c.phase != Preparing || version != c.attempt.version {
		return
	}
	i := slices.IndexFunc(c.attempt.told, func(t told) bool { return t.replica.ID == server && !t.answered })
	if i < 0 {
		return
	}
	t := &c.attempt.told[i]
	switch {
	case errors.Is(answer.Err, gfs.ErrStaleEpoch):
		c.deposed()
		return
	case t.joiner && !answer.Busy:
		c.joinerAnswered(t, answer)
		c.chooseIfAll()
		return
	case answer.Err != nil:
		if t.relayed && errors.Is(answer.Err, gfs.ErrUnavailable) {
			c.episode.accuse(server) // by whom it was said to be alive
		}
		c.leaveOutTold(t, fmt.Sprintf("refused to prepare: %v", answer.Err))
		c.retry()
		return
	case answer.Busy:
		t.sign = now
		return
	}
	if t.replica.State == gfs.ReplicaLearner && answer.Promised == version {
		c.learnerAnswered(t.member(), version, answer)
		return
	}
	if why := c.unsound(answer); why != "" {
		// A definite answer, so nobody waits for better news. It has promised a version that is never logged.
		c.episode.accuse(server)
		c.leaveOut(t.member().process(), why)
		c.retry()
		return
	}
	t.answered, t.length, t.digest = true, answer.Length, answer.Digest
	c.out.Notes = append(c.out.Notes, registry.Note{
		Server: server, Promised: version, Active: answer.Active, Length: answer.Length, State: answer.State, Marked: true,
	})
	c.chooseIfAll()
}

// learnerAnswered ends an attempt that suspects were told of for lack of anybody sound: the joiner was brought in, and is
// sound, or it never will be, since it has promised another version now.
func (c *Chunk) learnerAnswered(m Member, version gfs.Version, answer PrepareAnswer) {
	c.out.Notes = append(c.out.Notes, registry.Note{
		Server: m.ID, Promised: version, Active: answer.Active, Length: answer.Length, State: answer.State, Marked: true,
	})
	if answer.State == gfs.ReplicaLearner {
		if c.episode.learners == nil {
			c.episode.learners = map[process]bool{}
		}
		c.episode.learners[m.process()] = true
	}
	c.retry()
}

// chooseIfAll goes on when everyone who was told has answered, but for joiners that are not waited for.
func (c *Chunk) chooseIfAll() {
	if !slices.ContainsFunc(c.attempt.told, func(t told) bool { return !t.answered }) {
		c.choose()
	}
}

// unsound says why who answered is no member of the version that the attempt starts from, empty if it is one. If
// such a replica were counted in and the version logged, it would be good without holding what was acknowledged.
func (c *Chunk) unsound(answer PrepareAnswer) string {
	state := gfs.ReplicaMember
	if c.attempt.suspect {
		state = gfs.ReplicaSuspect
	}
	switch {
	case answer.Promised != c.attempt.version:
		return fmt.Sprintf("promised %s instead of %s", answer.Promised, c.attempt.version)
	case answer.Active != c.attempt.from:
		return fmt.Sprintf("holds version %s instead of %s", answer.Active, c.attempt.from)
	case answer.State != state && answer.State != gfs.ReplicaMember:
		return "is " + answer.State.String()
	case answer.Length < 0 || answer.Length > gfs.ChunkSize:
		return fmt.Sprintf("has %d bytes", answer.Length)
	}
	return ""
}

// leaveOutSilent ends an attempt because of those that gave no sign of life. A joiner ends none: it is late, and the
// attempt goes on without it.
func (c *Chunk) leaveOutSilent(now time.Time) {
	again := false
	for i := range c.attempt.told {
		t := &c.attempt.told[i]
		switch {
		case t.answered || now.Before(t.deadline(&c.attempt, &c.episode)):
		case t.joiner:
			t.drop()
		default:
			c.leaveOutTold(t, "is silent")
			again = true
		}
	}
	if again {
		c.retry()
		return
	}
	c.chooseIfAll()
}

// choose picks the primary among those that answered, which is all that were told, and proposes the record.
func (c *Chunk) choose() {
	a := &c.attempt
	primary := c.choosePrimary()
	if a.suspect && len(a.told) > 1 {
		c.keepOnly(primary)
		return
	}
	members := make([]placement.Server, 0, len(a.told))
	for i := range a.told {
		t := &a.told[i]
		if t.joiner && !a.equal(t) {
			continue
		}
		if t.joiner {
			a.joined = t.replica.ID
		}
		members = append(members, t.replica.Server)
	}
	a.primary, a.members = primary.member(), placement.Chain(members, primary.replica.ID)
	c.phase = Logging
	c.out.Record = &pb.Record{Command: &pb.Record_ConfigureChunk{ConfigureChunk: &pb.ConfigureChunk{
		Handle: uint64(c.cfg.Handle), FromVersion: uint64(c.logged.Version), Version: uint64(a.version), Members: uint32(len(a.members)), Open: true, UnsyncedLost: a.suspect,
	}}}
}

// keepOnly goes on with the best of the suspects alone, in an attempt of its own: the others have promised this
// one's version and would count for it once it is logged.
func (c *Chunk) keepOnly(best *told) {
	for i := range c.attempt.told {
		if t := &c.attempt.told[i]; t != best {
			c.episode.accuse(t.replica.ID)
			c.leaveOut(t.member().process(), fmt.Sprintf("is suspect and has %d bytes", t.length))
		}
	}
	c.event(messages.EventChunkSuspect, best.replica.ID, "every replica is suspect: %d bytes of this one are taken, unsynced writes may be lost", best.length)
	c.retry()
}

// choosePrimary prefers the old primary, then the longest replica; one that was accused or failed as a primary
// comes after all others.
func (c *Chunk) choosePrimary() *told {
	doubtful := func(t *told) bool { return c.episode.notPrimary[t.replica.ID] }
	order := func(a, b *told) int {
		return cmp.Or(
			cmp.Compare(number(a.relayed), number(b.relayed)), // it could not be granted anything
			cmp.Compare(number(doubtful(a)), number(doubtful(b))),
			cmp.Compare(number(b.replica.ID == c.primary.ID && !c.attempt.suspect), number(a.replica.ID == c.primary.ID && !c.attempt.suspect)),
			cmp.Compare(b.length, a.length),
			cmp.Compare(a.replica.ID, b.replica.ID),
		)
	}
	best := &c.attempt.told[0] // joiners come last
	for i := range c.attempt.told {
		if t := &c.attempt.told[i]; !t.joiner && order(t, best) < 0 {
			best = t
		}
	}
	return best
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// deposed ends everything: a chunkserver knows a later master. What becomes of a record that is on its way says so too.
func (c *Chunk) deposed() {
	if c.phase == Placing || c.phase == Logging || c.phase == Closing {
		return
	}
	c.Stop(gfs.Errorf(gfs.CodeNotActing, "another master has taken over: ask again"))
}
