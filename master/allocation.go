package master

import (
	"cmp"
	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/master/lease"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// creationTries is how often other servers are tried for a new chunk before the client hears of the failure.
const creationTries = 3

// maxAllocationWaiters bounds those who wait for one new chunk.
const maxAllocationWaiters = 4096

// place is the index in a file at which a chunk is being made.
type place struct {
	file  gfs.FileID
	index uint32
}

// reserveDepth is how many chunks may be reserved behind a file's last: a fast stream fills a chunk in less time than
// a busy disk needs to make one.
const reserveDepth = 2

// allocation is one new chunk on its way. Everyone who wants it joins. It is a reservation while nobody does.
type allocation struct {
	replicas int
	synced   bool
	tries    int
	avoid    map[gfs.ServerID]bool // servers that failed in this allocation
	reserved gfs.ChunkHandle       // what was begun when nobody wanted it yet
	waiters  []actors.Reply[*pb.ChunkLocation]
}

// answer ends the wait of all. They share the location, which nobody changes.
func (a *allocation) answer(location *pb.ChunkLocation, err error) {
	for _, waiter := range a.waiters {
		waiter.Send(location, err)
	}
	a.waiters = nil
}

// handleRange is what is left of the reserved handles.
type handleRange struct {
	next, end gfs.ChunkHandle
	asked     bool // a reservation is on its way
	waiting   []place
}

// lowHandles is how many handles are left when the next ones are reserved, so that nobody waits for the log.
const lowHandles = gfs.HandleReservation / 2

// wantLease asks for the chunk at an index of a file in a state in which it can be mutated.
type wantLease struct {
	request *pb.LeaseRequest
	reply   actors.Reply[*pb.ChunkLocation]
}

func (c wantLease) Do(s *namespaceShell) {
	if s.period == nil {
		c.reply.Fail(errNotActing())
		return
	}
	file, err := s.view().CheckFile(c.request.GetIdentity(), gfs.FileID(c.request.GetFileId()), true)
	if err != nil {
		s.refuse(c.reply, err)
		return
	}
	index := int(c.request.GetIndex())
	if c.request.GetLast() {
		index = max(file.Chunks-1, 0)
	}
	switch {
	case s.truncating(file.ID, index):
		c.reply.Fail(gfs.Errorf(gfs.CodeBusy, "the file is being truncated before chunk %d ends: try again", index))
	case index < file.Chunks && c.request.GetReserve():
		c.reply.Ok(&pb.ChunkLocation{})
	case index < file.Chunks:
		s.wantExisting(c, file, index)
	case c.request.GetReserve() && index < file.Chunks+reserveDepth && index < gfs.MaxFileChunks:
		s.reserve(file, uint32(index))
		c.reply.Ok(&pb.ChunkLocation{})
	case index >= gfs.MaxFileChunks:
		c.reply.Fail(gfs.Errorf(gfs.CodeInvalid, "chunk %d: a file has at most %d chunks", index, gfs.MaxFileChunks))
	case index > file.Chunks:
		s.refuse(c.reply, gfs.Errorf(gfs.CodeNotExist, "chunk %d of a file of %d chunks: the next one is %d", index, file.Chunks, file.Chunks))
	case !c.request.GetAllocate():
		s.refuse(c.reply, gfs.Errorf(gfs.CodeNotExist, "the file has %d chunks: ask for chunk %d with allocate set to make it", file.Chunks, index))
	default:
		s.allocate(file, uint32(index), c.reply)
	}
}

// refuse answers what the state forbids, once it is sure that it was the cluster's: a master that was replaced and has not
// heard of it must not tell a client that its file does not exist. What it grants by mistake, versions fence.
func (s *namespaceShell) refuse(reply actors.Reply[*pb.ChunkLocation], refusal error) {
	s.around.LinearizeAsync(func(err error) { reply.Fail(cmp.Or(err, refusal)) })
}

func (s *namespaceShell) wantExisting(c wantLease, file namespace.File, index int) {
	chunks, _, err := s.view().FileChunks(file.ID, index, 1)
	if err == nil && (len(chunks) != 1 || !s.leaseOf(chunks[0].Handle)) {
		err = gfs.Errorf(gfs.CodeInternal, "chunk %d of file %d is not in the chunk table", index, file.ID)
	}
	if err != nil {
		c.reply.Fail(err)
		return
	}
	s.tell(chunks[0].Handle, leaseWant{
		index: uint32(index), failedVersion: gfs.Version(c.request.GetFailedVersion()),
		failedServer: gfs.ServerID(c.request.GetFailedServer()), reply: c.reply,
	})
}

// allocate joins the allocation of a chunk, or begins it.
func (s *namespaceShell) allocate(file namespace.File, index uint32, reply actors.Reply[*pb.ChunkLocation]) {
	key := place{file.ID, index}
	a := s.allocations[key]
	switch {
	case a == nil && len(s.allocations) >= gfs.MaxInFlightRequests:
		reply.Fail(gfs.Errorf(gfs.CodeBusy, "%d chunks are being made: try again", len(s.allocations)))
		return
	case a == nil:
		a = &allocation{replicas: file.Replicas, synced: file.Synced, avoid: map[gfs.ServerID]bool{}}
		s.allocations[key] = a
		defer s.placeNew(key, a)
	case len(a.waiters) >= maxAllocationWaiters:
		reply.Fail(gfs.Errorf(gfs.CodeBusy, "%d requests wait for chunk %d of file %d: try again", len(a.waiters), index, file.ID))
		return
	case len(a.waiters) == 0 && a.reserved != 0 && s.leaseActors[a.reserved] != nil:
		s.tell(a.reserved, leasePlace{})
	}
	a.waiters = append(a.waiters, reply)
}

// reserve begins the allocation of a chunk that nobody wants yet, unless there is much to do already.
func (s *namespaceShell) reserve(file namespace.File, index uint32) {
	key := place{file.ID, index}
	if s.allocations[key] != nil || len(s.allocations) >= gfs.MaxInFlightRequests/2 {
		return
	}
	a := &allocation{replicas: file.Replicas, synced: file.Synced, avoid: map[gfs.ServerID]bool{}}
	s.allocations[key] = a
	s.placeNew(key, a)
}

// placeNew asks the registry for servers.
func (s *namespaceShell) placeNew(key place, a *allocation) {
	a.tries++
	avoid := make(map[gfs.ServerID]bool, len(a.avoid))
	for id := range a.avoid {
		avoid[id] = true
	}
	p := s.period
	s.registry.Send(chooseServers{want: a.replicas, avoid: avoid, reply: actors.NewReply(func(members []lease.Member, err error) {
		s.services.namespace.Send(serversChosen{p, key, members, err})
	})})
}

// serversChosen is the registry's answer.
type serversChosen struct {
	period  *period
	key     place
	members []lease.Member
	err     error
}

func (c serversChosen) Do(s *namespaceShell) {
	a := s.allocations[c.key]
	switch {
	case a == nil || s.period != c.period:
	case c.err != nil:
		s.allocated(c.key, nil, c.err)
	default:
		s.create(c.key, a, c.members)
	}
}

// create makes the chunk under a fresh handle.
func (s *namespaceShell) create(key place, a *allocation, members []lease.Member) {
	handle := s.takeHandle()
	if handle == 0 {
		s.handles.waiting = append(s.handles.waiting, key) // it begins again when there are handles
		return
	}
	s.counters.allocations.Add(1)
	s.spawnLease(handle, lease.Logged{}, a.synced)
	p, reserve := s.period, len(a.waiters) == 0
	if a.reserved = 0; reserve {
		a.reserved = handle
	}
	s.tell(handle, leaseCreate{
		place: lease.Place{File: key.file, Index: key.index, Replicas: a.replicas}, members: members, reserve: reserve,
		done: func(location *pb.ChunkLocation, failed []gfs.ServerID, err error) {
			s.services.namespace.Send(chunkCreated{p, key, location, failed, err})
		},
	})
}

// chunkCreated is the lease actor's answer.
type chunkCreated struct {
	period   *period
	key      place
	location *pb.ChunkLocation
	failed   []gfs.ServerID
	err      error
}

func (c chunkCreated) Do(s *namespaceShell) {
	a := s.allocations[c.key]
	if a == nil || s.period != c.period {
		return
	}
	// Whoever came to want a reservation just when it was given up gets a chunk of his own.
	lapsed := a.reserved != 0 && len(a.waiters) > 0
	if c.err != nil && (len(c.failed) > 0 || lapsed) && a.tries < creationTries {
		for _, id := range c.failed {
			a.avoid[id] = true
		}
		s.placeNew(c.key, a)
		return
	}
	s.allocated(c.key, c.location, c.err)
}

func (s *namespaceShell) allocated(key place, location *pb.ChunkLocation, err error) {
	a := s.allocations[key]
	delete(s.allocations, key)
	a.answer(location, err)
}

// takeHandle is the next reserved handle, 0 if there is none yet.
func (s *namespaceShell) takeHandle() gfs.ChunkHandle {
	if s.handles.end-s.handles.next <= lowHandles {
		s.reserveHandles()
	}
	if s.handles.next == s.handles.end {
		return 0
	}
	s.handles.next++
	return s.handles.next - 1
}

// reserveHandles asks the log for more handles.
func (s *namespaceShell) reserveHandles() {
	if s.handles.asked {
		return
	}
	s.handles.asked = true
	p := s.period
	s.propose(p, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: gfs.HandleReservation}}},
		func(outcome namespace.Outcome, err error) {
			s.services.namespace.Send(handlesReserved{p, outcome.First, outcome.Count, err})
		})
}

// handlesReserved is the log's answer.
type handlesReserved struct {
	period *period
	first  gfs.ChunkHandle
	count  int
	err    error
}

func (c handlesReserved) Do(s *namespaceShell) {
	if s.period == nil || s.period != c.period {
		return
	}
	s.handles.asked = false
	waiting := s.handles.waiting
	s.handles.waiting = nil
	if c.err != nil {
		for _, key := range waiting {
			if s.allocations[key] != nil {
				s.allocated(key, nil, c.err)
			}
		}
		return
	}
	if s.handles.end != c.first { // a gap: the rest of the old range is given up
		s.handles.next = c.first
	}
	s.handles.end = c.first + gfs.ChunkHandle(c.count)
	for _, key := range waiting {
		if a := s.allocations[key]; a != nil {
			a.tries--
			s.placeNew(key, a)
		}
	}
}
