package lease

import (
	"fmt"
	"time"

	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Times that only this package needs.
const (
	// Grace is how long members that were not complained of are waited for before they are left out, when too
	// few others remain.
	Grace = 10 * time.Second
	// AccusedGrace is how long after it began to act a master waits to hear of an accused at all, so that one that
	// does answer stays a member: two heartbeats.
	AccusedGrace = 2 * gfs.HeartbeatInterval
	// AccusedSilence is what an accused has to answer a Prepare: it was silent to somebody already.
	AccusedSilence = 200 * time.Millisecond
	// CreateTimeout is what all members together have to make an empty replica.
	CreateTimeout = 1500 * time.Millisecond
	// ReserveTimeout is how long a reserved chunk waits for Place. It is shorter than the idleness after which its
	// primary would close it.
	ReserveTimeout = gfs.CloseAfterIdle / 2
	// GrantTimeout is what a primary has to bring every member to its own state: up to a chunk's bytes for each.
	// GrantSilence is how long it may say nothing of it meanwhile.
	GrantTimeout = 10 * time.Second
	GrantSilence = gfs.PrepareSilence
	// ComplaintPause is how long after a client's complaint about a primary that did answer the master no other
	// client's complaint moves the primary again.
	ComplaintPause = 5 * time.Second
	// lateTick is how late a Tick may be before nobody's silence counts that once: this process was held up itself.
	lateTick = gfs.PrepareBusyInterval
	// pollInterval is how often the registry is asked again during a grace.
	pollInterval = 200 * time.Millisecond
	// tellAfter is when those who want the chunk are told that a grace runs: they wait no longer than 8 s for an answer.
	tellAfter = 5 * time.Second
)

const (
	// maxAttempts bounds the attempts of one reconfiguration: each leaves somebody out, or finds fresh news.
	maxAttempts = 32
	// quickAttempts is how many of them may follow each other at once: more than a failure or two need. Then each has to begin
	// firstSpacing after the one before it, twice as much each time, and maxSpacing at most.
	quickAttempts = 6
	firstSpacing  = 10 * time.Millisecond
	maxSpacing    = 400 * time.Millisecond
	// maxWaiters bounds those who wait for one chunk; beyond it ErrBusy.
	maxWaiters = 4096
)

// Phase is what the chunk is in. The zero value is Idle.
type Phase uint8

// The phases; see the package's documentation.
const (
	Idle      Phase = iota // no primary is known to be alive, and nothing is under way
	Creating               // the members of a new chunk were told to make it
	Reserved               // they have, and it waits for Place
	Placing                // its record is on its way
	Locating               // the registry was asked for the replicas
	Waiting                // a grace runs
	Preparing              // members were told to promise a new version
	Logging                // its record is on its way
	Granting               // the primary brings its members in
	Open                   // a primary holds the lease
	Closing                // the record of the close is on its way
	InDoubt                // whether the last record took effect is not known
	Ended                  // nothing more will happen
)

// String is the phase's name in logs and test scripts.
func (p Phase) String() string {
	return [...]string{"idle", "creating", "reserved", "placing", "locating", "waiting", "preparing", "logging", "granting", "open", "closing", "in-doubt", "ended"}[p]
}

// Logged is what the operation log says of the chunk.
type Logged struct {
	Version  gfs.Version
	Members  int
	Open     bool
	Length   int64 // bytes, as of the last close
	Replicas int   // wanted
}

// Config is what a Chunk needs all its life.
type Config struct {
	Handle gfs.ChunkHandle
	// NextVersion draws the version of an attempt: above all that it returned before and above every version of
	// an earlier epoch.
	NextVersion func() gfs.Version
	// ActingSince is when this master began to act: chunkservers that it has not heard of since may not have
	// had the time.
	ActingSince time.Time
	// Restored is the first epoch after the log was last restored from a backup, 0 if it never was. Of a chunk logged in
	// an earlier one the log does not know all configurations.
	Restored gfs.Epoch
}

// Member is one process of a chunkserver.
type Member struct {
	placement.Server
	Incarnation gfs.Incarnation
}

// process tells the processes of one chunkserver apart.
type process struct {
	id          gfs.ServerID
	incarnation gfs.Incarnation
}

func (m Member) process() process { return process{m.ID, m.Incarnation} }

// Place is where a new chunk goes.
type Place struct {
	File     gfs.FileID
	Index    uint32
	Replicas int
}

// Location is what a client needs to mutate the chunk.
type Location struct {
	Handle  gfs.ChunkHandle
	Version gfs.Version
	Length  int64 // as of the last close
	Primary gfs.ServerID
	Members []placement.Server // chain order, primary first; not to be changed
}

// Chunk is the core. Make one with New. It is not safe for concurrent use.
type Chunk struct {
	cfg    Config
	logged Logged
	phase  Phase

	primary Member // while Open or Closing, and afterwards the last one; zero if none was known
	members []placement.Server
	others  []Member  // of members those but the primary whose processes are known
	until   time.Time // end of the lease
	quiet   time.Time // until then clients' complaints move nothing while the primary gives signs of life
	doubt   doubt     // about the primary, complained of while quiet

	last     gfs.Version // the highest version drawn, for the check that they rise
	base     gfs.Version // what the next attempt starts from: the logged version, but after a restoration
	episode  episode
	attempt  attempt
	deadline time.Time // of Creating, Reserved, Waiting and Granting
	place    Place
	reserve  bool // a new chunk is not to be placed yet

	join    *join    // a replica that is being brought in
	counted memberOf // who was a joiner in the last configuration that this core logged

	waiters []uint64
	sealers []uint64 // who waits for the close
	closers []closer
	out     Outputs
}

type closer struct {
	waiter uint64
	length int64
}

// New makes the core of a chunk that the log knows as logged; the zero Logged is a chunk that is to be created.
func New(cfg Config, logged Logged) *Chunk {
	return &Chunk{cfg: cfg, logged: logged, last: logged.Version}
}

// Phase tells what the chunk is in.
func (c *Chunk) Phase() Phase { return c.phase }

// Logged tells what the log says of the chunk, as far as the core was told.
func (c *Chunk) Logged() Logged { return c.logged }

// Order is a message to a chunkserver. Its answer comes back with the method named after its kind.
type Order struct {
	Kind    OrderKind
	To      Member
	Version gfs.Version
	From    gfs.Version        // Prepare: the logged version that the attempt starts from; Clone: the logged version
	Members []placement.Server // Create and Grant: chain order, primary first; Probe: whom it is to ask
	Joiner  bool               // Prepare: it stays a learner, and takes from Source what it lacks
	Stream  bool               // Create: the chunk is reserved for a stream
	Source  placement.Server   // Clone, and Prepare of a joiner
	Via     Member             // Prepare: who passes it on, since the master does not reach To; zero if nobody has to
	Believe bool               // Grant: the primary is suspect, as all are, and is to be believed
	Doubted []gfs.ServerID     // Grant: members that were complained of, though they answered the master; Probe: of Members those
}

// OrderKind is which order it is.
type OrderKind uint8

// The kinds of orders.
const (
	Create  OrderKind = iota + 1 // answered with CreateAnswered
	Prepare                      // answered with PrepareAnswered, several times while busy
	Grant                        // answered with GrantAnswered
	Clone                        // answered with CloneAnswered
	Close                        // answered with CloseOrdered
	Probe                        // answered with ProbeAnswered
)

// String is the kind's name in logs and test scripts.
func (k OrderKind) String() string {
	return [...]string{"none", "create", "prepare", "grant", "clone", "close", "probe"}[k]
}

// Awaits reports whether the answer to an order still matters.
func (c *Chunk) Awaits(o Order) bool {
	switch {
	case o.Kind == Close:
		return c.phase == Open && o.Version == c.logged.Version && len(c.sealers) > 0
	case o.Kind == Probe:
		return c.awaitsProbe(o)
	case o.Version != c.attempt.version:
		return false
	case o.Kind == Grant:
		return c.phase == Granting
	}
	return (o.Kind == Create && c.phase == Creating || o.Kind == Prepare && c.phase == Preparing) && c.attempt.waitsFor(o.To.process())
}

// Answer ends one waiter's wait.
type Answer struct {
	Waiter   uint64
	Location Location // of a Want or a Create, if Err is nil
	Err      error
	Failed   []gfs.ServerID // of a Create that failed: who did not make the chunk
}

// Event is something that monitoring hears of.
type Event struct {
	Kind   string // messages.Event…
	Server gfs.ServerID
	Detail string
}

// Outputs are what must happen, in this order: notes and the lease to the registry, the record, orders, answers.
type Outputs struct {
	Notes     []registry.Note
	Unreached []gfs.ServerID // servers that another one, or a Create, has just failed to reach, for the registry
	Granted   bool           // the registry should know of the lease of Location()
	Revoked   bool           // the registry should forget the lease
	Locate    bool           // ask the registry for the replicas, answered with Located
	Record    *pb.Record     // propose it, answered with Recorded; time and epoch are the shell's
	Orders    []Order
	Answers   []Answer
	Events    []Event
	Wake      time.Time // call Tick then; zero: no need
	Joined    *JoinEnd  // of the replica that Join named
	Done      bool      // nothing is under way and nobody waits: the actor may go
}

// Take returns what has to happen since the last Take. It must be called after each input.
func (c *Chunk) Take() Outputs {
	c.settleJoin()
	out := c.out
	c.out = Outputs{}
	out.Wake = c.wake()
	out.Done = (c.phase == Idle || c.phase == Ended) && len(c.waiters)+len(c.sealers)+len(c.closers) == 0 && c.join == nil
	return out
}

func (c *Chunk) wake() time.Time {
	wake := c.phaseWake()
	if c.join != nil && !c.join.attempted && (wake.IsZero() || c.join.deadline.Before(wake)) {
		return c.join.deadline
	}
	return wake
}

func (c *Chunk) phaseWake() time.Time {
	switch c.phase {
	case Creating, Reserved, Waiting:
		return c.deadline
	case Granting:
		if silent := c.attempt.granted.Add(GrantSilence); silent.Before(c.deadline) {
			return silent
		}
		return c.deadline
	case Preparing:
		return c.attempt.deadline(&c.episode)
	case Open:
		if end := c.doubt.until; !end.IsZero() && end.Before(c.until) {
			return end
		}
		return c.until
	}
	return time.Time{}
}

// Tick lets time pass.
func (c *Chunk) Tick(now time.Time) {
	c.tickJoin(now)
	wake := c.phaseWake()
	if wake.IsZero() || now.Before(wake) || now.Sub(wake) > lateTick && c.excuse(now) {
		return
	}
	switch c.phase {
	case Creating:
		c.createTimedOut()
	case Reserved:
		c.abandon(nil, gfs.Errorf(gfs.CodeUnavailable, "not wanted within %v", ReserveTimeout))
	case Waiting:
		if !c.episode.spaced {
			c.episode.forgive()
		}
		c.locate()
	case Preparing:
		c.leaveOutSilent(now)
	case Granting:
		why := "is silent"
		if !now.Before(c.deadline) {
			why = "did not finish its grant in " + GrantTimeout.String()
		}
		c.leaveOut(c.attempt.primary.process(), why)
		c.retry()
	case Open:
		switch {
		case c.doubt.until.IsZero():
			c.begin(now)
		case c.doubt.heard:
			c.trust()
		default:
			c.primaryLost("is silent", now)
		}
	}
}

// Want asks for the chunk in a state in which it can be mutated. failedVersion and failedServer say what the
// asker held before and could not use, zero and empty if nothing. The waiter is answered once.
func (c *Chunk) Want(waiter uint64, failedVersion gfs.Version, failedServer gfs.ServerID, now time.Time) {
	if len(c.waiters) >= maxWaiters {
		c.answer(Answer{Waiter: waiter, Err: gfs.Errorf(gfs.CodeBusy, "%d requests wait for chunk %s", maxWaiters, c.cfg.Handle)})
		return
	}
	complains := failedVersion != 0 && failedVersion == c.logged.Version
	switch c.phase {
	case InDoubt, Ended:
		c.answer(Answer{Waiter: waiter, Err: c.gone()})
	case Open:
		switch {
		case !complains:
			c.answer(Answer{Waiter: waiter, Location: c.Location()})
		case now.Before(c.quiet) && failedServer == c.primary.ID:
			c.waiters = append(c.waiters, waiter)
			c.lookInto(now)
		case now.Before(c.quiet):
			c.answer(Answer{Waiter: waiter, Err: c.quietly()})
		default:
			c.waiters = append(c.waiters, waiter)
			c.begin(now)
			c.episode.accuse(failedServer)
			c.episode.client = failedServer
		}
	case Idle:
		c.waiters = append(c.waiters, waiter)
		c.begin(now)
		switch {
		case complains && c.logged.Open:
			c.episode.accuse(failedServer)
		case complains: // closed: its primary refused for that reason, most likely
			c.episode.miss(failedServer)
		}
	default:
		c.waiters = append(c.waiters, waiter)
		if complains && c.underWay() {
			c.accuseAgain(failedServer, true)
		}
	}
}

// Report is a complaint without anybody who waits: from a member, or from a client if reporter is empty. accused is
// empty when the reporter only asks for a new version.
func (c *Chunk) Report(version gfs.Version, reporter, accused gfs.ServerID, now time.Time) {
	if version != c.logged.Version {
		return
	}
	client := reporter == ""
	if client && accused != c.primary.ID {
		return // a client that cannot reach a secondary takes another; the primary says if it cannot either
	}
	switch {
	case c.phase == Open && client && now.Before(c.quiet):
		c.lookInto(now)
	case c.phase == Open:
		c.begin(now)
		c.episode.accuse(accused)
		switch {
		case client:
			c.episode.client = accused
		case accused != "" && accused != reporter: // and not because it takes part in an attempt already
			c.out.Unreached = append(c.out.Unreached, accused)
		}
	case c.underWay():
		c.accuseAgain(accused, client)
	}
}

// Revive is the scanner's word that the log has the chunk open, or knows an older version of it than chunkservers hold, or that
// all its replicas are suspect: without a live primary it gets one, which then closes it.
func (c *Chunk) Revive(now time.Time) {
	if c.phase == Idle {
		c.begin(now)
	}
}

// ServerDown says that a process of a chunkserver is dead.
func (c *Chunk) ServerDown(server gfs.ServerID, incarnation gfs.Incarnation, now time.Time) {
	dead := process{server, incarnation}
	c.joinerDown(dead)
	switch c.phase {
	case Creating, Reserved:
		c.createFailed(dead)
	case Preparing:
		if t := c.attempt.awaited(dead); t != nil && t.joiner {
			t.drop()
			c.chooseIfAll()
		} else if t != nil {
			c.leaveOut(dead, "went down")
			c.retry()
		}
	case Granting:
		if c.attempt.primary.process() == dead {
			c.leaveOut(dead, "went down")
			c.retry()
		}
	case Open:
		if c.primary.process() == dead {
			c.begin(now)
		}
	}
}

// Stop ends everything with err: this master acts no longer. Every waiter is answered.
func (c *Chunk) Stop(err error) {
	if c.phase == Open || c.phase == Closing {
		c.out.Revoked = true
	}
	c.answerAll(err)
	c.phase = Ended
}

// Location tells where to mutate the chunk. It means something while the phase is Open.
func (c *Chunk) Location() Location {
	return Location{Handle: c.cfg.Handle, Version: c.logged.Version, Length: c.logged.Length, Primary: c.primary.ID, Members: c.members}
}

// underWay reports whether a reconfiguration has not yet logged anything, so that complaints about the logged
// version still matter to it.
func (c *Chunk) underWay() bool {
	return c.phase == Locating || c.phase == Waiting || c.phase == Preparing
}

func (c *Chunk) gone() error {
	if c.phase == InDoubt {
		return gfs.Errorf(gfs.CodeUnavailable, "whether the last configuration of chunk %s was logged is not known: ask again when a master has taken over", c.cfg.Handle)
	}
	return gfs.Errorf(gfs.CodeNotActing, "chunk %s is no longer in this master's hands: ask again", c.cfg.Handle)
}

func (c *Chunk) answer(a Answer) { c.out.Answers = append(c.out.Answers, a) }

// answerAll gives every waiter, for the chunk, its close or the log of a close, the error.
func (c *Chunk) answerAll(err error) {
	c.answerWants(err)
	for _, closer := range c.closers {
		c.answer(Answer{Waiter: closer.waiter, Err: err})
	}
	for _, waiter := range c.sealers {
		c.answer(Answer{Waiter: waiter, Err: err})
	}
	c.sealers, c.closers = nil, nil
}

// answerWants gives those who want the chunk the error.
func (c *Chunk) answerWants(err error) {
	for _, waiter := range c.waiters {
		c.answer(Answer{Waiter: waiter, Err: err})
	}
	c.waiters = nil
}

func (c *Chunk) event(kind string, server gfs.ServerID, format string, args ...any) {
	c.out.Events = append(c.out.Events, Event{Kind: kind, Server: server, Detail: fmt.Sprintf(format, args...)})
}

// nextVersion draws a version and checks what everything else relies on.
func (c *Chunk) nextVersion() gfs.Version {
	v := c.cfg.NextVersion()
	if v <= c.last {
		panic(fmt.Sprintf("lease: chunk %s: version %s drawn after %s", c.cfg.Handle, v, c.last))
	}
	c.last = v
	return v
}
