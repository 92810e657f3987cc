package clientlib

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// sendBurst is how many mutations are handed to a connection before the stream looks up again.
const sendBurst = 64

// stubbornRefusals is how often a server may deny being the primary of a version before the master is asked to look
// into it: a chunk that is being closed denies it for a few milliseconds.
const stubbornRefusals = 4

// maxCuts is how often in a row a stream looks for the file's present chunks when its own was cut away.
const maxCuts = 8

// stream carries mutations of one open file, in order, to the primary of a chunk: a writing stream to that of its
// chunk, an appending one to that of the file's last chunk, and on to the next when that is full. One goroutine
// drives it while there is something to do.
type stream struct {
	file    *openFile
	appends bool
	writer  gfs.WriterID // appending only

	mu         sync.Mutex
	window     window
	index      uint32
	located    bool            // false: an appending stream that has to ask which chunk is the last
	chunk      gfs.ChunkHandle // of the last target
	held       bool            // the file had a chunk at index: it is not to be made again
	sequence   uint64
	target     *target
	generation uint64    // of the target: answers to what was sent before it are nobody's
	trouble    error     // what ended the present target
	progressed bool      // since the driving goroutine last looked
	pushMoved  time.Time // when a push was last answered, or the first of those under way began
	running    bool
	retired    bool // replaced: whoever has work asks the file for another
	wake       chan struct{}

	// Only the driving goroutine uses these.
	refusals, faults int // since the last progress
	cuts             int // how often the chunk was found cut away since a target was found
	accused          accusation
}

// target is where a stream sends: a chunk in one version, its primary, a connection to it.
type target struct {
	at     location
	server Server
	conn   *dataConn
	next   foresight
	route  *route // nil: all data go in order
}

// accusation is what the master is told with the next request for a lease.
type accusation struct {
	version gfs.Version
	server  gfs.ServerID
}

func newStream(file *openFile) *stream {
	return &stream{file: file, wake: make(chan struct{}, 1)}
}

// kick makes sure that somebody looks at the window; the lock is held. It reports false if the client is closed.
func (s *stream) kick() bool {
	if s.running {
		s.signal()
		return true
	}
	s.running = s.file.client.spawn(s.run)
	return s.running
}

func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run drives the stream until its window is empty.
func (s *stream) run() {
	p := s.file.client.patience(s.file.client.life)
	for {
		more, err := s.step(p)
		if err != nil {
			s.giveUp(err)
		}
		if !more && err == nil {
			return
		}
		if err != nil {
			p.progress() // what is queued from now on gets its own time
		}
	}
}

// step does the next thing there is to do. More is false when there is nothing and the goroutine must end.
func (s *stream) step(p *patience) (more bool, err error) {
	s.mu.Lock()
	if s.progressed {
		s.progressed, s.refusals, s.faults = false, 0, 0
		p.progress()
	}
	switch {
	case s.window.empty():
		s.window.forget()
		s.running = false
		s.mu.Unlock()
		return false, nil
	case s.trouble != nil:
		p.call = s.window.entries[0].call // what follows is on its behalf
		trouble := s.trouble
		s.trouble = nil
		s.generation++
		s.window.rewind()
		s.mu.Unlock()
		return true, s.repair(p, trouble)
	case s.window.exhausted():
		s.window.advance()
		s.generation++
		s.index++
		s.target, s.held, s.accused = nil, false, accusation{}
		s.mu.Unlock()
		return true, nil
	case s.target == nil:
		p.call = s.window.entries[0].call
		s.mu.Unlock()
		return true, s.establish(p)
	}
	early := s.takeEarly()
	burst := make([]*mutation, 0, sendBurst)
	lowest := make([]uint64, 0, sendBurst)
	for len(burst) < sendBurst {
		m := s.window.take()
		if m == nil {
			break
		}
		burst = append(burst, m)
		lowest = append(lowest, s.window.lowest(m.sequence))
	}
	to, generation := s.target, s.generation
	s.mu.Unlock()
	if len(early)+len(burst) == 0 {
		return true, s.wait(p)
	}
	for i, m := range burst {
		if err := s.send(to, generation, m, lowest[i]); err != nil {
			s.fault(generation, err)
			break
		}
	}
	for _, m := range early {
		s.push(to, generation, m)
	}
	return true, nil
}

// wait waits until the window or the answers give something to do.
func (s *stream) wait(p *patience) error {
	limit, pushing := s.pushLeft()
	timer := time.NewTimer(max(min(p.left(), limit), 0))
	defer timer.Stop()
	select {
	case <-s.wake:
		return nil
	case <-timer.C:
		if pushing && s.stopPushing() {
			return nil
		}
	case <-s.file.client.life.Done():
	}
	s.mu.Lock()
	progressed := s.progressed
	s.mu.Unlock()
	if progressed && s.file.client.life.Err() == nil {
		return nil
	}
	return p.ended(gfs.Errorf(gfs.CodeUnavailable, "the primary of chunk %d of the file does not answer", s.index))
}

// send hands one mutation to the connection.
func (s *stream) send(to *target, generation uint64, m *mutation, lowest uint64) error {
	m.sum()
	request := &pb.Mutate{Handle: uint64(to.at.handle), Version: uint64(to.at.version), Checksums: m.sums, Synced: s.file.synced, Call: m.call}
	if s.appends {
		request.Kind, request.Writer, request.Sequence, request.LowestUnacknowledged =
			pb.Mutate_APPEND, uint64(s.writer), m.sequence, lowest
	} else {
		request.Kind, request.Offset = pb.Mutate_WRITE, m.offset
	}
	if c := s.file.client; c.debugging() {
		c.callLog(m.call).WithField("chunk", to.at.handle.String()).WithField("server", string(to.server.ID)).WithField("bytes", len(m.data.data)).Debug("mutation sent")
	}
	payload := m.data
	if m.reference && time.Since(m.begun) < gfs.PushLifetime/2 {
		request.PushedSession, request.PushedCounter, request.PushedBytes = s.file.client.pusher, m.counter, uint32(len(m.data.data))
		payload = nil
	}
	reply := &pb.MutateReply{}
	return to.conn.start(s.file.client.life, &call{op: wire.OpMutate, request: request, payload: payload, reply: reply,
		finish: func(done *call) { s.replied(to, generation, m, reply, done.err) }})
}

// fault notes what ended the target of generation.
func (s *stream) fault(generation uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if generation == s.generation && s.trouble == nil {
		s.trouble = err
	}
	s.signal()
}

// replied takes the answer to one mutation. It runs on a goroutine of the connection.
func (s *stream) replied(to *target, generation uint64, m *mutation, reply *pb.MutateReply, err error) {
	if err == nil {
		err = s.checkReply(m, reply)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.signal()
	if generation != s.generation || m.state != inFlight {
		return
	}
	switch {
	case err == nil:
		s.progressed = true
		end := reply.GetOffset() + int64(len(m.data.data))
		s.file.client.locations.saw(s.file.id, to.at, end)
		s.file.touched(to.at.index, to.at.version)
		if n := to.next.add(len(m.data.data), to.at.index, time.Now()); n > 0 {
			s.file.reserve(to.at.index, n)
		}
		gone := s.window.acknowledge(m, end, reply.GetClaimed())
		if s.appends {
			s.settle(m, int64(to.at.index)*gfs.ChunkSize+reply.GetOffset(), nil)
			return
		}
		for _, decided := range gone {
			s.settle(decided, 0, nil)
		}
	case s.appends && errors.Is(err, gfs.ErrChunkFull):
		s.progressed = true
		s.window.refuse(m)
	case actionFor(err) == gfs.GiveUp:
		gone := s.window.remove(m)
		s.settle(m, 0, err)
		if !s.appends {
			for _, decided := range gone {
				s.settle(decided, 0, nil)
			}
		}
	case s.trouble == nil:
		s.trouble = err
	}
}

// checkReply is the error that a reply carries, or that it is.
func (s *stream) checkReply(m *mutation, reply *pb.MutateReply) error {
	if err := gfs.FromCode(gfs.Code(reply.GetCode()), reply.GetDetail()); err != nil {
		return err
	}
	if offset := reply.GetOffset(); offset < 0 || offset > gfs.ChunkSize-int64(len(m.data.data)) || !s.appends && offset != m.offset {
		return gfs.Errorf(gfs.CodeInternal, "the primary put %d bytes for offset %d at offset %d of the chunk", len(m.data.data), m.offset, offset)
	}
	return nil
}

// settle decides a mutation that is out of the window, or needs its data no more; the lock is held.
func (s *stream) settle(m *mutation, result int64, err error) {
	s.file.room.release(m.cost)
	m.data.release()
	if err != nil && m.queued {
		s.file.fail(err)
	}
	m.settle(result, err)
}

// giveUp ends everything in the window with err.
func (s *stream) giveUp(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	s.target, s.trouble, s.accused = nil, nil, accusation{}
	for _, m := range s.window.drain() {
		switch {
		case s.appends && m.state == acked: // decided before
		case m.sent && m.state != refused: // err is about going on, not about what this chunk was sent before
			s.settle(m, 0, outcomeUnknown(err))
		default:
			s.settle(m, 0, err)
		}
	}
}

// abandon takes out a mutation that nobody waits for any longer. What was sent stays until it is decided, for the
// order's sake: then it is false.
func (s *stream) abandon(m *mutation, why error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-m.done:
		return true
	default:
	}
	if m.ever {
		return false
	}
	s.window.remove(m)
	s.settle(m, 0, why)
	s.signal()
	return true
}

// establish gets a lease on the stream's chunk and a connection to its primary.
func (s *stream) establish(p *patience) error {
	c := s.file.client
	s.mu.Lock()
	index, last, held := s.index, s.appends && !s.located, s.held
	s.mu.Unlock()
	request := &pb.LeaseRequest{FileId: uint64(s.file.id), Index: index, Last: last, Allocate: last || !held,
		FailedVersion: uint64(s.accused.version), FailedServer: string(s.accused.server)}
	if last {
		request.Index = 0
	}
	at, err := s.acquire(p, request)
	if gfs.CodeOf(err) == gfs.CodeNotExist && s.cuts < maxCuts {
		return s.cutAway(p)
	}
	if err != nil {
		return err
	}
	s.accused = accusation{} // told
	if !last && at.index != index {
		return gfs.Errorf(gfs.CodeInternal, "the master gave chunk %d for chunk %d", at.index, index)
	}
	s.file.exists(at.index)
	server, ok := at.primaryServer()
	if !ok {
		return p.pause(gfs.Errorf(gfs.CodeUnavailable, "chunk %v has no primary", at.handle))
	}
	conn, err := c.pool.get(c.life, server.Addr, mutateLane)
	if err != nil {
		if !isFault(err) {
			return err
		}
		return s.accuse(p, at, server, err)
	}
	route := s.route(at, server)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index, s.located, s.held, s.cuts = at.index, true, true, 0
	if s.chunk != at.handle { // the first, the next, or another one in place of one that was cut
		s.chunk = at.handle
		s.window.restart()
	}
	s.target = &target{at: at, server: server, conn: conn, next: foresight{since: time.Now()}, route: route}
	s.window.decoupled = route != nil
	return nil
}

// acquire gets the lease, when all before the chunk is made and decided.
func (s *stream) acquire(p *patience, request *pb.LeaseRequest) (location, error) {
	if !request.GetLast() {
		if err := s.file.completeBefore(p, request.GetIndex()); err != nil {
			return location{}, err
		}
		if err := s.file.reach(p, request.GetIndex()); err != nil {
			return location{}, err
		}
	}
	return s.file.client.lease(p, request)
}

// cutAway is for a chunk that is gone: a truncation has cut it off, or the file was removed, which shows when the same is
// tried again. What was sent to it and not acknowledged is sent again, an append to the file's end as it is now.
func (s *stream) cutAway(p *patience) error {
	s.file.chunks.Store(0)
	s.mu.Lock()
	s.held, s.located = false, !s.appends
	s.target, s.accused = nil, accusation{}
	s.generation++
	s.window.restart()
	s.mu.Unlock()
	if s.cuts++; s.cuts == 1 {
		return nil
	}
	return p.pause(nil)
}

// accuse notes for the next request that the primary cannot be reached, and pauses unless it is the first time.
func (s *stream) accuse(p *patience, at location, server Server, why error) error {
	c := s.file.client
	p.log().WithField("chunk", at.handle.String()).WithField("version", at.version.String()).WithField("server", string(server.ID)).
		WithError(why).Warn("primary unreachable")
	c.pool.suspect(server.Addr)
	c.locations.drop(s.file.id, at)
	s.accused = accusation{version: at.version, server: server.ID}
	s.faults++
	if s.faults <= 1 {
		return nil
	}
	return p.pause(why)
}

// repair does what is to be done about a target that failed: connect again, ask the master for another, or wait.
func (s *stream) repair(p *patience, trouble error) error {
	c := s.file.client
	s.mu.Lock()
	old := s.target
	s.mu.Unlock()
	if context.Cause(c.life) != nil {
		return errClientClosed()
	}
	switch {
	case isFault(trouble):
		// A connection may be lost while its server lives; a server that was silent is not asked again.
		if s.faults == 0 && !errors.Is(trouble, errSilent) {
			if conn, err := c.pool.get(c.life, old.server.Addr, mutateLane); err == nil {
				s.faults++
				s.retarget(&target{at: old.at, server: old.server, conn: conn})
				return nil
			}
		}
		s.retarget(nil)
		return s.accuse(p, old.at, old.server, trouble)
	case actionFor(trouble) == gfs.RefreshLocations, actionFor(trouble) == gfs.NextReplica:
		c.locations.drop(s.file.id, old.at)
		s.accused = accusation{version: old.at.version}
		s.refusals++
		if s.refusals >= stubbornRefusals {
			s.accused.server = old.server.ID
		}
		s.retarget(nil)
		if s.refusals == 1 {
			return nil
		}
	case gfs.CodeOf(trouble) == gfs.CodeUnavailable: // it waits for a configuration, which may be another's by now
		c.locations.drop(s.file.id, old.at)
		s.retarget(nil)
	}
	return p.pause(trouble)
}

func (s *stream) retarget(to *target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = to
	s.window.decoupled = false
}

// undecided seals the window and gives what is in it.
func (s *stream) undecided() []*mutation {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.window.seal()
	s.signal()
	return append([]*mutation(nil), s.window.entries...)
}

// retire reports whether the stream has nothing to do; then it takes nothing any more.
func (s *stream) retire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = s.window.empty() && !s.running
	return s.retired
}
