package chunkserver

import (
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

const (
	// fencedPatience is how long mutations wait at a primary that was fenced and has not been granted the next version:
	// then another server probably was, and the master tells the client which.
	fencedPatience = 500 * time.Millisecond
	// expireInterval is the pause between looks for mutations that have waited for too long.
	expireInterval = 200 * time.Millisecond
)

// onMutate takes up a client's mutation.
func (c *chunk) onMutate(m *dataplane.Mutation) {
	if c.order == nil || m.Version != c.version || c.sealed || c.unheard {
		m.ReleaseData()
		m.Reply(0, 0, c.refusal(m.Version))
		c.wake(idlePulse)
		return
	}
	now := c.cs.now()
	c.used = now
	m.Request.Sync = m.Request.Sync || c.synced
	if c.lease != nil {
		c.lease.mutated.Store(true)
	}
	reply, outcome := c.order.Submit(now, m.Request, m)
	switch outcome {
	case mutation.Answered:
		c.replies = append(c.replies, reply)
		c.answer()
	case mutation.Joined:
		m.ReleaseData()
		m.Handed = true
	case mutation.Queued:
		c.pump(now)
	}
	c.wake(livelyPulse)
}

// notPrimary sends clients to the master.
func (cs *Chunkserver) notPrimary(handle gfs.ChunkHandle) error {
	return gfs.Errorf(gfs.CodeNotPrimary, "chunkserver %s is not the primary of chunk %s: ask the master for it", cs.ID(), handle)
}

func (c *chunk) notPrimary() error { return c.cs.notPrimary(c.handle) }

// refusal says why a mutation of a version is not for this server.
func (c *chunk) refusal(version gfs.Version) error {
	if c.order == nil || c.sealed || c.unheard {
		return c.notPrimary()
	}
	return gfs.Errorf(gfs.CodeStaleVersion, "chunk %s has version %s, not %s: ask the master for its locations", c.handle, c.version, version)
}

// pump hands on what waits, as far as the pipeline has room.
func (c *chunk) pump(now time.Time) {
	if c.role != primary || c.pipe == nil {
		return
	}
	for {
		batch, ok := c.order.Next(now)
		if !ok {
			return
		}
		for _, m := range batch.Requests {
			if m != nil {
				m.Handed = true
			}
		}
		c.ticked = batch.Commit
		c.pipe.put(pipelineItem{batch: &batch})
	}
}

// onApplied hears that a batch or frame is applied here.
func (c *chunk) onApplied(serial gfs.Serial) {
	switch {
	case c.order != nil:
		c.replies = c.order.Applied(serial, c.replies)
		c.committed()
	case c.role == secondary:
		c.follow.Applied(serial)
		c.acknowledge()
	}
}

// onAcked hears from the successor. accused names a member further down that is silent.
func (c *chunk) onAcked(serial gfs.Serial, accused gfs.ServerID) {
	c.heardBelow = c.cs.now()
	c.below = max(c.below, serial)
	var err error
	switch {
	case c.role == primary && c.order != nil: // while it closes, a primary has none and owes nobody an answer
		if c.replies, err = c.order.Acked(serial, c.replies); err == nil {
			c.committed()
		}
	case c.role == secondary:
		if err = c.follow.Acked(serial); err == nil {
			c.acknowledge()
		}
	}
	switch {
	case err != nil:
		c.accuse(c.successor(), err.Error())
	case accused != "":
		c.accuse(accused, "accused by the member before it")
	}
}

// committed tells readers and clients what is committed, and lets more in.
func (c *chunk) committed() {
	if c.role == primary {
		c.pipe.replica.SetCommit(c.order.Commit())
		c.lease.length.Store(c.order.Commit())
	}
	c.answer()
	now := c.cs.now()
	c.pump(now)
	if c.role == primary && c.pipe.down != nil && c.ticked < c.order.Commit() && !c.ticking {
		c.ticking = true
		actors.After(c.entry.ref, gfs.CommitTick/2, actors.Func[*chunk]((*chunk).onTickDue))
	}
	c.closeSealed()
}

// onTickDue tells the secondaries the commit length unless a frame has done so meanwhile.
func (c *chunk) onTickDue() {
	c.ticking = false
	if c.role == primary && c.order != nil && c.pipe != nil && c.pipe.down != nil && c.ticked < c.order.Commit() {
		c.ticked = c.order.Commit()
		c.pipe.put(pipelineItem{tick: c.ticked})
	}
}

// primaryPulse watches the successor and the time since the last mutation.
func (c *chunk) primaryPulse(now time.Time) {
	switch {
	case c.closing != nil:
		c.closingPulse(now)
	case c.complaint != nil || c.order == nil:
	case c.silentBelow(now):
		c.accuse(c.successor(), "owes an acknowledgement and is silent")
	case c.sealed:
		c.closeSealed()
	case c.pipe != nil && c.order.Quiet() && now.Sub(c.used) >= gfs.CloseAfterIdle && !c.busy:
		c.beginClose()
	}
}

// expire answers mutations that have waited for too long.
func (c *chunk) expire(now time.Time) {
	if c.order == nil || now.Sub(c.expired) < expireInterval {
		return
	}
	c.expired = now
	patience, err := gfs.MutationPatience, error(gfs.Errorf(gfs.CodeUnavailable,
		"chunk %s has no configuration in which a mutation can be committed: try again", c.handle))
	if c.role == bystander && !c.busy {
		patience, err = fencedPatience, c.notPrimary()
	}
	c.replies = c.order.Expire(now.Add(-patience), err, c.replies)
	c.answer()
	if c.role == bystander && !c.busy && c.draining == nil && c.order.Pending() == 0 {
		c.endOrder(err)
	}
}

// accuse ends the version for lack of a member: a primary tells the master, a secondary its predecessor.
func (c *chunk) accuse(member gfs.ServerID, detail string) {
	switch c.role {
	case secondary:
		serial, _ := c.follow.Acknowledge()
		c.up.Ack(serial, member, false)
	case primary:
		if c.complaint != nil {
			return
		}
		c.entry.primaryIn.Store(0)
		if c.order != nil {
			c.order.Freeze()
		}
		if c.pipe != nil {
			c.pipe.stopForwarding()
		}
		c.complainAbout(member, pb.Report_UNREACHABLE, detail)
	}
}

// maxComplaints bounds the complaints while no mutation waits.
const maxComplaints = 10

// complainAbout asks the master for a new version until there is one.
func (c *chunk) complainAbout(member gfs.ServerID, kind pb.Report_Kind, detail string) {
	c.log.WithFields(logrus.Fields{"accused": string(member), "version": c.version.String(), "detail": detail}).
		Warn("asking for a new configuration")
	c.complaint = &pb.Report{
		Handle: uint64(c.handle), Version: uint64(c.version), Reporter: string(c.cs.ID()),
		Accused: string(member), Kind: kind, Detail: detail,
	}
	c.complaints, c.unheard = 0, false
	c.complain(c.cs.now())
}

func (c *chunk) complain(now time.Time) {
	c.complained = now
	c.complaints++
	complaint := c.complaint
	c.cs.report(complaint, func(err error) {
		c.send(func(c *chunk) {
			if c.complaint == complaint {
				c.onComplaintFailed(err)
			}
		})
	})
	if c.complaints >= maxComplaints && (c.order == nil || c.order.Pending() == 0) {
		c.freeze() // nobody waits any more, and whoever comes asks the master
		c.endOrder(c.notPrimary())
	}
	c.wake(gfs.ReportInterval)
}

// onComplaintFailed hears that the master did not take a complaint.
func (c *chunk) onComplaintFailed(err error) {
	switch gfs.CodeOf(err) {
	case gfs.CodeConflict, gfs.CodeStaleVersion, gfs.CodeNotExist: // the chunk has gone on without this server
		c.freeze()
		c.endOrder(c.notPrimary())
	default:
		// It cannot be reached from here, but may be from where the clients are, and may have made another the primary.
		c.unheard = true
		if c.order != nil {
			c.replies = c.order.Expire(c.cs.now().Add(1), c.notPrimary(), c.replies)
			c.answer()
		}
	}
}

func (c *chunk) onSuccessorLost(err error) {
	switch {
	case c.role == bystander:
	case c.closing == nil:
		c.accuse(c.successor(), "connection lost: "+err.Error())
	case !c.closing.below:
		c.failClosing(err)
	}
}

// onApplyFailed ends the version because this server's disk cannot go on. A full disk is told to whoever wrote what
// nobody has applied, and the members stay as they are; otherwise the chunk goes on without this server, and clients
// find out where. What was applied or sent on before may be committed in the next version: its clients find that out.
func (c *chunk) onApplyFailed(serial gfs.Serial, err error) {
	c.log.WithError(err).WithField("version", c.version.String()).Error("mutation not applied")
	full := gfs.CodeOf(err) == gfs.CodeNoSpace
	if gfs.CodeOf(err) == gfs.CodeCorrupt {
		c.cs.tellCorrupt(c.handle, err.Error())
	}
	refused := c.notPrimary()
	if full {
		refused = err
	}
	switch c.role {
	case secondary:
		c.accuse(c.cs.ID(), err.Error())
	case primary:
		c.freeze()
		c.endOrderBefore(serial, c.notPrimary(), refused)
		if full {
			c.complainAbout("", pb.Report_RENEW, err.Error())
		} else {
			c.complainAbout(c.cs.ID(), pb.Report_UNREACHABLE, err.Error())
		}
	case bystander:
		c.endOrderBefore(serial, c.notPrimary(), refused)
	}
}
