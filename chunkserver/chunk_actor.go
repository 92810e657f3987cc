package chunkserver

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// role is what this server is for a chunk in the version that it takes part in.
type role uint8

const (
	bystander role = iota // takes no mutations: closed, fenced, left out or lost
	primary
	secondary
)

// chunk is the shell of the actor of one chunk that is open for mutation here. The order of mutations is the cores'
// (package mutation), carrying them out the pipeline's; the actor connects them with the streams to its neighbours,
// the clients and the master.
//
// Orders that take disk or network (prepare, grant, create, opening the chain, digest, patch, close) are done one at a
// time, in the order of their arrival; mutations go on beside them as far as the role allows.
type chunk struct {
	cs     *Chunkserver
	entry  *chunkEntry
	handle gfs.ChunkHandle
	log    *logrus.Entry
	routed int64

	role     role
	version  gfs.Version // in which role holds; of a bystander, in which it last did
	members  []*pb.Server
	position int
	synced   bool // every mutation is to be durable before it is acknowledged

	order     *mutation.Primary[*dataplane.Mutation] // kept by a fenced primary: it may be granted the next version too
	follow    mutation.Secondary
	pipe      *pipeline
	draining  *pipeline // of a version that has ended, still writing
	onDrained func()
	up        Upstream
	replies   []mutation.Reply[*dataplane.Mutation]

	heardBelow time.Time // the last sign of life of the successor
	owedBelow  bool      // it owed an acknowledgement at the last look
	below      gfs.Serial
	used       time.Time  // the last mutation
	lease      *heldLease // of an open primary, else nil
	ticked     int64      // the commit length that the secondaries have been told
	ticking    bool       // a tick is on its way
	expired    time.Time  // the last look for mutations that wait too long
	complaint  *pb.Report
	complained time.Time
	complaints int
	unheard    bool // the master did not take the complaint: nobody is let wait for what comes of it
	closing    *closing
	sealed     bool // the master wants the version closed: it takes nothing new

	busy      bool // an order is being carried out
	overtaken bool // a Prepare waits for it to end
	cancel    context.CancelFunc
	backlog   []func()
	patch     *patchInProgress

	pulse   *actors.Timer
	pulseAt time.Time
}

// maxBacklog bounds the orders that wait at one chunk.
const maxBacklog = 64

// Pauses between looks at a chunk: with something on its way, and without.
const (
	livelyPulse = gfs.BusyInterval
	idlePulse   = time.Second
)

func (cs *Chunkserver) spawnChunk(e *chunkEntry) actors.Ref[*chunk] {
	c := &chunk{
		cs: cs, entry: e, handle: e.handle,
		log: cs.log.WithFields(logrus.Fields{"actor": "chunk", "chunk": e.handle.String()}),
	}
	return actors.Spawn(cs.system, "chunk "+e.handle.String(), c)
}

// Stopped ends what the actor has running when the process ends.
func (c *chunk) Stopped() {
	c.pulse.Stop()
	if c.cancel != nil {
		c.cancel()
	}
	if c.lease != nil {
		c.cs.leases.drop(c.handle)
	}
	if c.pipe != nil {
		c.pipe.end()
	}
	if c.up != nil {
		c.up.Drop()
	}
	c.dropPatch()
	c.endOrder(gfs.Errorf(gfs.CodeNotPrimary, "chunkserver %s is stopping: ask the master for another primary", c.cs.ID()))
}

// send queues a command of the chunk's own, from any goroutine.
func (c *chunk) send(f func(*chunk)) { c.entry.ref.Send(actors.Func[*chunk](f)) }

// queue carries out an order when those before it are done. start runs inside the actor and must lead to finish.
// refuse is called instead when too many wait.
func (c *chunk) queue(start func(), refuse func(error)) {
	switch {
	case !c.busy:
		c.busy = true
		start()
	case len(c.backlog) < maxBacklog:
		c.backlog = append(c.backlog, start)
	default:
		refuse(gfs.Errorf(gfs.CodeBusy, "%d orders wait at chunk %s", len(c.backlog), c.handle))
	}
	c.wake(idlePulse)
}

// finish ends an order.
func (c *chunk) finish() {
	c.busy, c.cancel = false, nil
	if len(c.backlog) > 0 {
		next := c.backlog[0]
		c.backlog = c.backlog[1:]
		c.busy = true
		next()
	}
}

// work does slow work for the order that is being carried out, and then calls done inside the actor. ctx ends when the
// order is overtaken by a Prepare.
func (c *chunk) work(pool *actors.Workers, slow func(ctx context.Context) error, done func(error)) {
	ctx, cancel := context.WithCancel(c.cs.ctx)
	c.cancel = cancel
	admitted := pool.Go(func() {
		err := slow(ctx)
		cancel()
		c.send(func(*chunk) { done(err) })
	})
	if !admitted {
		cancel()
		done(gfs.Errorf(gfs.CodeBusy, "chunkserver %s has no worker free: try again after a pause", c.cs.ID()))
	}
}

// freeze ends the version that the chunk is in: nothing of it is numbered, applied or acknowledged any more, but for
// what the pipeline has in hand.
func (c *chunk) freeze() {
	c.entry.primaryIn.Store(0)
	if c.lease != nil {
		c.cs.leases.drop(c.handle)
		c.lease = nil
	}
	if c.order != nil {
		c.order.Freeze()
	}
	c.follow.Freeze()
	c.role = bystander
	c.complaint, c.unheard = nil, false
	c.closing, c.sealed = nil, false
	if c.up != nil {
		c.up.Drop()
		c.up = nil
	}
	if c.pipe != nil {
		c.draining, c.pipe = c.pipe, nil
		c.draining.end()
	}
}

// whenDrained calls f once no write of an ended version is under way.
func (c *chunk) whenDrained(f func()) {
	if c.draining == nil {
		f()
		return
	}
	c.onDrained = f
}

// endOrder gives up being the primary: whoever waits is told why.
func (c *chunk) endOrder(why error) {
	c.endOrderBefore(1, why, why)
}

// endOrderBefore is endOrder where nobody has applied anything from serial on: those who wait for that are refused.
func (c *chunk) endOrderBefore(serial gfs.Serial, why, refused error) {
	if c.order == nil {
		return
	}
	c.replies = c.order.EndBefore(serial, why, refused, c.replies[:0])
	c.order = nil
	c.answer()
}

// answer sends the replies that have come together.
func (c *chunk) answer() {
	for i := range c.replies {
		r := &c.replies[i]
		if !r.Request.Handed {
			r.Request.ReleaseData()
		}
		if c.order != nil {
			r.Request.Claimed = c.order.Claimed()
		}
		r.Request.Reply(r.Offset, r.Length, r.Err)
	}
	clear(c.replies)
	c.replies = c.replies[:0]
}

// wake makes the pulse come within d.
func (c *chunk) wake(d time.Duration) {
	at := c.cs.now().Add(d)
	if c.pulse != nil && !c.pulseAt.After(at) {
		return
	}
	c.pulse.Stop()
	c.pulseAt = at
	c.pulse = actors.After(c.entry.ref, d, actors.Func[*chunk]((*chunk).onPulse))
}

// onPulse is the regular look at everything that depends on time.
func (c *chunk) onPulse() {
	now := c.cs.now()
	if c.pulse == nil || now.Before(c.pulseAt) {
		return // a timer that was taken back too late
	}
	if now.Sub(c.pulseAt) > gfs.MemberSilence/2 {
		c.heardBelow = now // this process was held up itself: signs of life may lie unread
	}
	c.pulse = nil
	switch c.role {
	case primary:
		c.primaryPulse(now)
	case secondary:
		c.secondaryPulse(now)
	}
	if c.complaint != nil && now.Sub(c.complained) >= gfs.ReportInterval {
		c.complain(now)
	}
	c.expire(now)
	switch {
	case c.lively():
		c.wake(livelyPulse)
	case c.idle() && c.cs.chunks.retire(c.entry, c.routed):
		c.entry.ref.Stop()
	default:
		c.wake(idlePulse)
	}
}

// idle reports whether the actor has nothing to do or to remember.
func (c *chunk) idle() bool {
	return c.role == bystander && !c.busy && c.order == nil && c.draining == nil && c.complaint == nil && c.patch == nil
}

// lively reports whether somebody waits for something of this chunk.
func (c *chunk) lively() bool {
	return c.order != nil && c.order.Pending() > 0 || c.sealed && c.closing == nil || c.role == secondary && c.follow.Owes()
}

// silentBelow reports whether the successor owes an acknowledgement and has not been heard of for too long.
func (c *chunk) silentBelow(now time.Time) bool {
	if c.pipe == nil || c.pipe.down == nil {
		return false
	}
	owed := gfs.Serial(c.pipe.sent.Load()) > c.below
	if owed && !c.owedBelow {
		c.heardBelow = now // the debt is new
	}
	c.owedBelow = owed
	return owed && now.Sub(c.heardBelow) > gfs.MemberSilence
}

// successor is the member below this one; there is one.
func (c *chunk) successor() gfs.ServerID { return gfs.ServerID(c.members[c.position+1].Id) }
