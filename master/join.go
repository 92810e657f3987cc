package master

import (
	"time"

	"github.com/cairnfs/cairn/master/lease"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/sirupsen/logrus"
)

const (
	// maxJoins bounds the replicas that the cluster brings in at once.
	maxJoins = 32
	// maxThin bounds the thin chunks of one slice that anything is done for in a round.
	maxThin = 64
	// joinTimeout is after what time a join that was never heard of again is forgotten.
	joinTimeout = gfs.CloneTimeout + time.Minute
	// joinPause is how long a chunk is left alone after a join that failed; it doubles up to maxJoinPause.
	joinPause    = time.Second
	maxJoinPause = time.Minute
	// maxJoinPauses bounds the chunks that are left alone; of more than these the pauses are forgotten.
	maxJoinPauses = 4096
)

// joinPlan is a replica to bring in.
type joinPlan struct {
	handle  gfs.ChunkHandle
	version gfs.Version // the logged one as of the scanner's view
	target  lease.Member
	sources []lease.Member
}

// plan finds out what can be done for a chunk with too few good replicas, false if nothing at present.
func (s *registryShell) plan(chunk namespace.Chunk) (joinPlan, bool) {
	thin := s.core.Thin(chunk.Handle, chunk.Version, s.replicationDelay, s.now())
	p := joinPlan{handle: chunk.Handle, version: chunk.Version}
	if len(thin.Good) == 0 || s.period == nil {
		return p, false
	}
	for _, r := range thin.Good {
		p.sources = append(p.sources, memberOf(r))
	}
	if thin.Stale != nil {
		p.target = memberOf(*thin.Stale)
		return p, true
	}
	if !thin.Fresh || s.now().Sub(s.period.since) < s.replicationDelay {
		return p, false
	}
	avoid := map[gfs.ServerID]bool{}
	for _, id := range thin.Held {
		avoid[id] = true
	}
	servers, err := placement.Choose(s.core.Candidates(s.now()), 1, avoid, s.random)
	if err != nil {
		return p, false // StatFS counts the chunk; when there is room again it gets its replica
	}
	s.core.Placed(servers)
	p.target = lease.Member{Server: servers[0], Incarnation: s.core.Incarnation(servers[0].ID)}
	return p, true
}

func memberOf(r registry.Replica) lease.Member {
	return lease.Member{Server: r.Server, Incarnation: r.Incarnation}
}

// joinPace decides how many joins go on at once, and when one that failed is tried again. The zero value is ready.
type joinPace struct {
	running map[gfs.ChunkHandle]joinRun
	paused  map[gfs.ChunkHandle]joinRest
}

type joinRun struct {
	server gfs.ServerID
	began  time.Time
}

type joinRest struct {
	until    time.Time
	failures int
}

// busy lists the chunks that are to be left alone.
func (j *joinPace) busy(now time.Time) map[gfs.ChunkHandle]bool {
	busy := make(map[gfs.ChunkHandle]bool, len(j.running)+len(j.paused))
	for handle, run := range j.running {
		if now.Sub(run.began) >= joinTimeout {
			delete(j.running, handle)
			continue
		}
		busy[handle] = true
	}
	for handle, rest := range j.paused {
		if now.Before(rest.until) {
			busy[handle] = true
		} else if now.Sub(rest.until) > maxJoinPause {
			delete(j.paused, handle)
		}
	}
	return busy
}

// admit reports whether a join may begin now, and counts it if so.
func (j *joinPace) admit(plan joinPlan, now time.Time) bool {
	if _, running := j.running[plan.handle]; running || len(j.running) >= maxJoins {
		return false
	}
	here := 0
	for _, run := range j.running {
		if run.server == plan.target.ID {
			here++
		}
	}
	if here >= gfs.MaxServerJoins {
		return false
	}
	if j.running == nil {
		j.running, j.paused = map[gfs.ChunkHandle]joinRun{}, map[gfs.ChunkHandle]joinRest{}
	}
	j.running[plan.handle] = joinRun{plan.target.ID, now}
	return true
}

// ended counts the end of a join.
func (j *joinPace) ended(handle gfs.ChunkHandle, err error, now time.Time) {
	if _, running := j.running[handle]; !running {
		return
	}
	delete(j.running, handle)
	if err == nil {
		delete(j.paused, handle)
		return
	}
	if len(j.paused) >= maxJoinPauses {
		clear(j.paused)
	}
	rest := j.paused[handle]
	rest.until = now.Add(min(joinPause<<min(rest.failures, 10), maxJoinPause))
	rest.failures++
	j.paused[handle] = rest
}

// join begins what of the plans may begin now.
func (s *scannerShell) join(plans []joinPlan) {
	for _, plan := range plans {
		if s.joins.admit(plan, s.now()) {
			s.namespace.Send(joinChunk{s.period, plan})
		}
	}
}

// joinEnded is a lease actor's word of what came of a join.
type joinEnded struct {
	period *period
	handle gfs.ChunkHandle
	err    error
}

func (c joinEnded) Do(s *scannerShell) {
	if !s.current(c.period) {
		return
	}
	if c.err != nil {
		s.log.WithFields(logrus.Fields{"actor": "scanner", "chunk": c.handle, "err": c.err}).Debug("replica not brought in")
	}
	s.joins.ended(c.handle, c.err, s.now())
}

// joinChunk passes a plan on to the chunk's lease actor.
type joinChunk struct {
	period *period
	plan   joinPlan
}

func (c joinChunk) Do(s *namespaceShell) {
	switch {
	case s.period == nil || s.period != c.period:
	case !s.leaseOf(c.plan.handle):
		s.scanner.Send(joinEnded{c.period, c.plan.handle, nil}) // the chunk is gone
	default:
		s.tell(c.plan.handle, leaseJoin{c.plan})
	}
}

// leaseJoin names a replica to bring in.
type leaseJoin struct{ plan joinPlan }

func (c leaseJoin) Do(s *leaseShell) {
	s.core.Join(c.plan.target, c.plan.version, c.plan.sources, s.now())
	s.carry()
}
