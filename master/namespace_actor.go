package master

import (
	"cmp"
	"maps"
	"slices"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/lease"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// namespaceShell owns the replicated state, and knows which actor holds the lease of a chunk.
type namespaceShell struct {
	*services
	state  *namespace.State
	latest *namespace.View // of the state as it is; nil when it has to be taken anew
	index  uint64          // of the log entry that was applied last, 0 before the first since the start

	period      *period // nil while this master does not act
	leaseActors map[gfs.ChunkHandle]*leaseEntry
	handles     handleRange
	allocations map[place]*allocation
	truncations map[gfs.FileID]*truncation
	copies      map[gfs.ChunkHandle]bool // being made for truncations: no garbage yet
}

// leaseEntry is a chunk's lease actor. sent counts the commands that went there, so that an actor which says that
// it is idle is not ended with a command on its way.
type leaseEntry struct {
	ref  actors.Ref[*leaseShell]
	sent uint64
}

func newNamespaceShell(v *services) *namespaceShell {
	return &namespaceShell{
		services: v, state: namespace.New(),
		leaseActors: map[gfs.ChunkHandle]*leaseEntry{}, allocations: map[place]*allocation{}, truncations: map[gfs.FileID]*truncation{}, copies: map[gfs.ChunkHandle]bool{},
	}
}

// view is the state as it is now. A view makes the next changes copy what they touch, so one serves all reads
// between two batches.
func (s *namespaceShell) view() *namespace.View {
	if s.latest == nil {
		s.latest = s.state.View()
	}
	return s.latest
}

// applyBatch applies the records of one log entry.
type applyBatch struct {
	index   uint64
	records []*pb.Record // nil where one could not be decoded
	answers chan<- []any
}

func (c applyBatch) Do(s *namespaceShell) {
	s.latest, s.index = nil, c.index
	outcomes := make([]any, len(c.records))
	for i, record := range c.records {
		if record == nil {
			outcomes[i] = namespace.Outcome{Err: gfs.Errorf(gfs.CodeInvalid, "a record that this release cannot read: upgrade this master")}
			continue
		}
		outcome := s.state.Apply(record)
		outcomes[i] = outcome
		s.applied(outcome)
	}
	c.answers <- outcomes
}

// applied does what a record's outcome means to this master, acting or not.
func (s *namespaceShell) applied(outcome namespace.Outcome) {
	if s.period != nil && outcome.Epoch > s.period.epoch {
		ceaseActing{}.Do(s) // another master has begun; the log will say so, but its records may be here before
	}
	if outcome.Count > 0 {
		s.registry.Send(raiseHandleLimit{outcome.First + gfs.ChunkHandle(outcome.Count)})
	}
	for _, handle := range outcome.Dropped {
		if s.leaseActors[handle] != nil {
			s.tell(handle, leaseStop{gfs.Errorf(gfs.CodeNotExist, "the file of chunk %s was removed", handle)})
		}
	}
}

// takeView hands out the state of this moment.
type takeView struct{ answers chan<- *namespace.View }

func (c takeView) Do(s *namespaceShell) { c.answers <- s.view() }

// replaceState puts a checkpoint's state in place.
type replaceState struct {
	state *namespace.State
	done  chan<- struct{}
}

func (c replaceState) Do(s *namespaceShell) {
	s.state, s.latest = c.state, nil
	s.registry.Send(raiseHandleLimit{s.view().NextHandle()})
	close(c.done)
}

// beginActing starts a period: this master's epoch was applied.
type beginActing struct{ period *period }

func (c beginActing) Do(s *namespaceShell) {
	s.end(errNotActing())
	s.period = c.period
	s.registry.Send(registryActs{period: c.period, limit: s.view().NextHandle()})
	s.scanner.Send(scannerActs(c))
	s.reserveHandles()
}

// ceaseActing ends the period.
type ceaseActing struct{}

func (ceaseActing) Do(s *namespaceShell) {
	s.end(errNotActing())
	s.registry.Send(registryActs{})
	s.scanner.Send(scannerActs{})
}

// Stopped answers who still waits.
func (s *namespaceShell) Stopped() { s.end(errNotActing()) }

// end stops all lease actors and answers those who wait for allocations and truncations, in one order, so that a
// simulation can be repeated.
func (s *namespaceShell) end(err error) {
	s.period = nil
	for _, handle := range s.leased() {
		s.leaseActors[handle].ref.Send(leaseStop{err})
		s.leaseActors[handle].ref.Stop()
	}
	clear(s.leaseActors)
	byPlace := func(a, b place) int { return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.index, b.index)) }
	for _, key := range slices.SortedFunc(maps.Keys(s.allocations), byPlace) {
		s.allocated(key, nil, err)
	}
	for _, file := range slices.Sorted(maps.Keys(s.truncations)) {
		s.endTruncation(s.truncations[file], nil, err)
	}
	clear(s.copies)
	s.handles = handleRange{}
	s.counters.leaseActors.Store(0)
}

// leased are the chunks that have lease actors, by rising handle, so that a simulation can be repeated.
func (s *namespaceShell) leased() []gfs.ChunkHandle { return slices.Sorted(maps.Keys(s.leaseActors)) }

// tell sends a command to a chunk's lease actor, which exists.
func (s *namespaceShell) tell(handle gfs.ChunkHandle, cmd actors.Command[*leaseShell]) {
	entry := s.leaseActors[handle]
	entry.sent++
	entry.ref.Send(routed{cmd})
}

// spawnLease makes the lease actor of a chunk; the zero Logged is for one that is to be created.
func (s *namespaceShell) spawnLease(handle gfs.ChunkHandle, logged lease.Logged, synced bool) {
	shell := newLeaseShell(s.services, s.period, handle, logged, synced)
	entry := &leaseEntry{ref: actors.Spawn(s.system, "lease "+handle.String(), shell)}
	shell.self = entry.ref
	s.leaseActors[handle] = entry
	s.counters.leaseActors.Store(int64(len(s.leaseActors)))
}

// leaseOf makes sure that a chunk has a lease actor. It reports false for a chunk that no file has.
func (s *namespaceShell) leaseOf(handle gfs.ChunkHandle) bool {
	if s.leaseActors[handle] != nil {
		return true
	}
	chunk, found := s.view().Chunk(handle)
	if !found {
		return false
	}
	synced := false
	if status, err := s.view().StatID(nil, chunk.File); err == nil {
		synced = status.GetSynced()
	}
	s.spawnLease(handle, loggedOf(chunk), synced)
	return true
}

func loggedOf(c namespace.Chunk) lease.Logged {
	return lease.Logged{Version: c.Version, Members: c.Members, Open: c.Open, Length: c.Length, Replicas: c.Replicas}
}

// leaseIdle is a lease actor's word that it has nothing to do after handled commands.
type leaseIdle struct {
	handle  gfs.ChunkHandle
	ref     actors.Ref[*leaseShell]
	handled uint64
}

func (c leaseIdle) Do(s *namespaceShell) {
	entry := s.leaseActors[c.handle]
	if entry != nil && entry.ref == c.ref && entry.sent == c.handled {
		entry.ref.Stop()
		delete(s.leaseActors, c.handle)
		s.counters.leaseActors.Store(int64(len(s.leaseActors)))
	}
}

// leasesHeld are the leases that a chunkserver says it holds.
type leasesHeld struct {
	period *period
	held   []registry.Held
}

func (c leasesHeld) Do(s *namespaceShell) {
	if s.period == nil || s.period != c.period {
		return
	}
	for _, h := range c.held {
		if s.leaseActors[h.Handle] == nil {
			// A primary of the master before is adopted if its version is the logged one.
			chunk, found := s.view().Chunk(h.Handle)
			if !found || !chunk.Open || chunk.Version != h.Version || !s.leaseOf(h.Handle) {
				continue
			}
		}
		s.tell(h.Handle, leaseReported{h})
	}
}

// serverDown says that a process of a chunkserver is dead.
type serverDown struct {
	server      gfs.ServerID
	incarnation gfs.Incarnation
}

func (c serverDown) Do(s *namespaceShell) {
	for _, handle := range s.leased() {
		s.tell(handle, leaseServerDown(c))
	}
}

// reviveChunks is the scanner's list of chunks that need a primary: that are open in the log, known to chunkservers in a newer
// version than to a log that was restored from a backup, or of which all replicas are suspect.
type reviveChunks struct {
	period  *period
	handles []gfs.ChunkHandle
	closed  bool // they need one even where the log has them closed
}

func (c reviveChunks) Do(s *namespaceShell) {
	if s.period == nil || s.period != c.period {
		return
	}
	for _, handle := range c.handles {
		if s.leaseActors[handle] != nil {
			continue
		}
		if chunk, found := s.view().Chunk(handle); found && (chunk.Open || c.closed) && s.leaseOf(handle) {
			s.tell(handle, leaseRevive{})
		}
	}
}

// report passes a complaint on to the chunk's lease actor.
type report struct {
	report *pb.Report
	reply  actors.Reply[*pb.ReportReply]
}

func (c report) Do(s *namespaceShell) {
	if s.period == nil {
		c.reply.Fail(errNotActing())
		return
	}
	handle, about := gfs.ChunkHandle(c.report.GetHandle()), gfs.Version(c.report.GetVersion())
	// Versions only grow: whoever is still in this one has been left out of a later one, and would complain for ever. No
	// lease actor is made for that: it would have nothing to do, and be taken for one that looks after the chunk.
	if chunk, found := s.view().Chunk(handle); found && about != 0 && about < chunk.Version {
		c.reply.Fail(gfs.Errorf(gfs.CodeStaleVersion, "chunk %s has version %s: the complaint is about %s", handle, chunk.Version, about))
		return
	}
	if !s.leaseOf(handle) {
		c.reply.Fail(gfs.Errorf(gfs.CodeNotExist, "no file has chunk %s", handle))
		return
	}
	s.tell(handle, leaseReport{c.report})
	c.reply.Ok(&pb.ReportReply{})
}

// closeChunk passes a primary's close on to the chunk's lease actor.
type closeChunk struct {
	request *pb.CloseRequest
	reply   actors.Reply[*pb.CloseReply]
}

func (c closeChunk) Do(s *namespaceShell) {
	handle := gfs.ChunkHandle(c.request.GetHandle())
	switch {
	case s.period == nil:
		c.reply.Fail(errNotActing())
	case !s.leaseOf(handle):
		c.reply.Fail(gfs.Errorf(gfs.CodeNotExist, "no file has chunk %s", handle))
	default:
		s.tell(handle, leaseClose(c))
	}
}

// read answers a request out of the state as it is now; leadership was verified before.
type read struct {
	request *bus.Request
	answer  func(s *namespaceShell, r *bus.Request)
}

func (c read) Do(s *namespaceShell) { c.answer(s, c.request) }
