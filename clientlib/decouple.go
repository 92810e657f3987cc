package clientlib

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

const (
	// routeTime is how long a stream waits for a connection to the nearest replica before its data go in order.
	routeTime = 100 * time.Millisecond
	// pushPatience is how long nothing may come of pushes before their data go in order, besides the time of one piece at
	// pushRate, in bytes a second: somebody on their way has stopped, or the way is no good. A chain that goes by the primary
	// notices soon who has stopped.
	pushPatience = 300 * time.Millisecond
	pushRate     = 8 << 20
)

// route is the way of pushed data to the replicas of a chunk: a connection to the nearest one, and the addresses of the
// others in their order.
type route struct {
	first Server
	conn  *dataConn
	rest  []string
}

// route is the way of the data for a chunk; nil if they go in order: since that is as good, or since one of the replicas
// failed lately.
func (s *stream) route(at location, primary Server) *route {
	c := s.file.client
	if c.options.path == InOrder || slices.ContainsFunc(at.replicas, func(r Server) bool { return c.pool.suspected(r.Addr) }) {
		return nil
	}
	chain := slices.Clone(at.replicas)
	c.near.chain(chain, uint64(at.handle))
	if c.options.path == AutoPath && !c.near.nearer(chain[0], primary) {
		return nil
	}
	r := &route{first: chain[0]}
	for _, next := range chain[1:] {
		r.rest = append(r.rest, next.Addr)
	}
	ctx, cancel := context.WithTimeout(c.life, routeTime)
	defer cancel()
	var err error
	if r.conn, err = c.pool.get(ctx, r.first.Addr, pushLane); err != nil {
		c.pool.suspect(r.first.Addr)
		c.log.WithField("chunk", at.handle.String()).WithField("server", string(r.first.ID)).WithError(err).Warn("nearest replica unreachable")
		return nil
	}
	return r
}

// takeEarly takes what is to be pushed now; the lock is held. Each has one more hold on its data: it may be abandoned while
// it is pushed.
func (s *stream) takeEarly() []*mutation {
	var early []*mutation
	for len(early) < sendBurst {
		first := s.window.underway == 0
		m := s.window.takeAhead()
		if m == nil {
			break
		}
		if first {
			s.pushMoved = time.Now()
		}
		m.data.retain()
		early = append(early, m)
	}
	return early
}

// push sends the data of a mutation ahead of it, and ends the hold on them that takeEarly took.
func (s *stream) push(to *target, generation uint64, m *mutation) {
	defer m.data.release()
	m.sum()
	c := s.file.client
	m.counter, m.begun = c.pushes.Add(1), time.Now()
	request := &pb.Push{Handle: uint64(to.at.handle), Session: c.pusher, Counter: m.counter, Rest: to.route.rest,
		Offset: m.offset % gfs.BlockSize, Checksums: m.sums, Call: m.call}
	reply := &pb.PushReply{}
	err := to.route.conn.start(c.life, &call{op: wire.OpPush, request: request, payload: m.data, reply: reply,
		finish: func(done *call) {
			s.pushAnswered(to, generation, m, errors.Join(done.err, gfs.FromCode(gfs.Code(reply.GetCode()), reply.GetDetail())))
		}})
	if err != nil {
		s.pushAnswered(to, generation, m, err)
	}
}

// sum makes the mutation's checksums.
func (m *mutation) sum() {
	if m.sums == nil {
		m.sums = wire.AppendChecksums(make([]uint32, 0, wire.Parts(m.offset, int64(len(m.data.data)))), m.offset, m.data.data)
	}
}

// pushAnswered takes the answer to a push. Whatever is wrong with it, the mutation goes in order; one that found no room says
// nothing of the next, but after anything else nothing is pushed to this target any more. The master is told nothing: a
// member that has failed shows in the chain by the primary.
func (s *stream) pushAnswered(to *target, generation uint64, m *mutation, err error) {
	if isFault(err) {
		s.file.client.pool.suspect(to.route.first.Addr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.signal()
	if generation != s.generation {
		return
	}
	s.pushMoved = time.Now()
	switch {
	case err == nil:
		s.window.arrived(m)
	case errors.Is(err, gfs.ErrBusy):
		s.window.couple(m)
	default:
		s.couple(err)
	}
}

// couple pushes nothing any more to the present target; the lock is held.
func (s *stream) couple(why error) {
	if s.window.decoupled {
		s.file.client.log.WithFields(logrus.Fields{"chunk": s.chunk.String(), "server": string(s.target.route.first.ID)}).
			WithError(why).Warn("data go in order")
	}
	s.window.coupleAll()
}

// pushLeft is how long to wait for the pushes under way before they are given up, if there are any.
func (s *stream) pushLeft() (left time.Duration, pushing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pushLeftLocked()
}

func (s *stream) pushLeftLocked() (left time.Duration, pushing bool) {
	w := &s.window
	if w.underway == 0 {
		return s.file.client.options.timeout, false
	}
	piece := w.early / int64(w.underway+w.ready)
	return pushPatience + time.Duration(piece)*time.Second/pushRate - time.Since(s.pushMoved), true
}

// stopPushing gives the pushes under way up if nothing has come of them for too long.
func (s *stream) stopPushing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left, pushing := s.pushLeftLocked(); !pushing || left > 0 {
		return false
	}
	s.couple(gfs.Errorf(gfs.CodeUnavailable, "nothing came of what was pushed for %v", time.Since(s.pushMoved).Round(time.Millisecond)))
	return true
}
