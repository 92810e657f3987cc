package sim

import (
	"slices"
	"time"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// clients are all clients of a cluster, on one node whose process never ends.
type clients struct {
	cluster *cluster
	node    node
	busy    int    // writers and changes of files that are not done
	pushes  uint64 // the last name of pushed data
	// requests counts pushes, which go by lines.
	requests uint64
	lines    []*sharedLine
	stopped  bool // nobody begins anything new

	wide    int             // chunks that the file to append to has from the beginning
	changes bool            // files are truncated, removed, and made again
	writers gfs.WriterID    // the last one that appends
	begun   map[string]bool // the names of the files that are worked on
	known   map[uint64]bool // the files themselves
	owners  [2]owner
}

// newClients makes the clients for a script. They do nothing before begin.
func newClients(c *cluster, s Script) *clients {
	k := &clients{
		cluster: c, node: node{name: "clients", life: &life{world: c.world, name: "clients"}},
		wide: s.wide(), changes: s.changesFiles(), begun: map[string]bool{}, known: map[uint64]bool{},
	}
	for i := range k.owners {
		k.owners[i].clients = k
	}
	return k
}

// Patience of a simulated client.
const (
	requestPatience = 2 * time.Second
	retryPause      = 50 * time.Millisecond
)

// begin makes the files and then lets everybody work.
func (k *clients) begin() {
	c := k.cluster
	replicas := func() uint32 { return uint32([]int{1, 2, 2, 3, 3, 3}[c.random.IntN(6)]) }
	synced := c.chance(4) || c.power
	k.create("/"+fileAppends, replicas(), synced, func(id uint64) {
		chunks := k.wide
		if c.chance(40) {
			chunks = max(chunks, 1)
		}
		k.fill(id, 0, uint32(chunks), func() { k.append(id) })
	})
	k.create("/"+fileWrites, replicas(), synced, func(id uint64) {
		k.begun[fileWrites], k.known[id] = true, true
		slots := c.random.Perm(slotCount)
		for range 1 + c.random.IntN(3) {
			n := 8 + c.random.IntN(16)
			k.slots(id, slots[:n])
			slots = slots[n:]
		}
		if k.changes {
			k.read(&reader{clients: k, file: id, slotted: true, seen: map[uint64]int64{}})
		}
		k.writeLarge(id)
	})
}

// fillOffset is where a chunk is written to that is to be full soon.
const fillOffset = gfs.ChunkSize - 100_000

// fill makes chunks that are full soon.
func (k *clients) fill(file uint64, index, end uint32, then func()) {
	if index == end {
		then()
		return
	}
	k.busy++
	f := &writer{clients: k, file: file, index: index, left: 1, fills: true, then: func() { k.fill(file, index+1, end, then) }}
	f.next()
}

// append begins to append to a file, and to read it.
func (k *clients) append(id uint64) {
	c := k.cluster
	k.begun[fileAppends], k.known[id] = true, true
	for range 2 + c.random.IntN(3) {
		k.appender(id, 15+c.random.IntN(40))
	}
	k.appendLarge(id)
	for range 2 {
		k.read(&reader{clients: k, file: id, seen: map[uint64]int64{}})
	}
}

// appender begins to append so many records.
func (k *clients) appender(file uint64, records int) {
	k.writers++
	a := &writer{clients: k, file: file, id: k.writers, left: records, sequence: 1, pace: k.cluster.between(time.Millisecond, 120*time.Millisecond)}
	k.busy++
	a.next()
}

// slots begins to write to slots, the last one first.
func (k *clients) slots(file uint64, slots []int) {
	c := k.cluster
	a := &writer{clients: k, file: file, left: len(slots), pace: c.between(time.Millisecond, 200*time.Millisecond), slots: slots, gives: c.chance(2)}
	if c.chance(2) {
		slices.SortFunc(a.slots, func(x, y int) int { return y - x }) // the last one is the next
	}
	k.busy++
	a.next()
}

// ask asks the acting master until it answers.
func (k *clients) ask(op string, request func() bus.Call, on func(bus.Answer)) {
	call := request()
	call.Subject = k.cluster.subjects.Master(op)
	call.Total = requestPatience
	k.cluster.network.ask(&k.node, call, func(a bus.Answer) bool {
		on(a)
		return true
	})
}

func (k *clients) create(path string, replicas uint32, synced bool, then func(uint64)) {
	synced = synced || k.cluster.oneDisk && replicas == 1 // nobody else has what that one loses
	k.ask(messages.OpMutate, func() bus.Call {
		return bus.Call{Request: &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_CreateFile{
			CreateFile: &pb.CreateFile{Path: path, Mode: 0o644, Replicas: replicas, Synced: synced},
		}}}
	}, func(a bus.Answer) {
		var reply pb.NamespaceReply
		if err := a.Decode(&reply); err != nil {
			k.later(retryPause, func() { k.create(path, replicas, synced, then) })
			return
		}
		then(reply.GetStatus().GetFileId())
	})
}

func (k *clients) later(d time.Duration, f func()) { k.cluster.after(d, k.node.life, f) }

// writer appends records to a file, or writes to slots of its first chunk, one at a time.
type writer struct {
	*clients
	file     uint64
	id       gfs.WriterID // 0: it writes to slots
	sequence uint64
	slots    []int
	fills    bool // it writes to fillOffset, once
	then     func()
	gives    bool // up a slot now and then, when a try has failed: what was tried may be there or not
	left     int
	pace     time.Duration
	since    time.Duration // when it began to try the present mutation
	index    uint32        // of the chunk
	last     bool          // the file's last chunk instead: its own was cut away
	cuts     int           // how often that was found in a row
	location *pb.ChunkLocation
	failed   *pb.ChunkLocation // what could not be used
	blamed   string            // and who failed
	named    bool              // the present try names data that were pushed
	inOrder  bool              // the present mutation's data are not pushed any more
}

// next begins the next mutation.
func (a *writer) next() {
	if a.left == 0 || a.stopped {
		a.busy--
		if a.then != nil {
			a.then()
		}
		return
	}
	a.left--
	a.named, a.inOrder = false, false
	a.later(a.cluster.between(0, 2*a.pace), func() {
		a.since = a.cluster.now
		a.try()
	})
}

// try sends the present mutation, as often as it takes.
func (a *writer) try() {
	if a.location == nil {
		a.lease()
		return
	}
	c, at := a.cluster, a.location
	m := &pb.Mutate{Handle: at.Handle, Version: at.Version}
	var data []byte
	switch {
	case a.fills:
		data = []byte{1}
		m.Kind, m.Offset = pb.Mutate_WRITE, fillOffset
		m.Checksums = wire.AppendChecksums(nil, m.Offset, data)
		c.checks.fills(gfs.ChunkHandle(at.Handle))
	case a.id != 0:
		data = record(a.id, a.sequence)
		m.Kind, m.Writer, m.Sequence, m.LowestUnacknowledged = pb.Mutate_APPEND, uint64(a.id), a.sequence, a.sequence
		m.Checksums = wire.AppendChecksums(nil, 0, data)
	default:
		data = slot(a.slots[a.left])
		c.checks.tries(gfs.ChunkHandle(at.Handle), a.slots[a.left])
		m.Kind, m.Offset = pb.Mutate_WRITE, slotOffset(a.slots[a.left])
		m.Checksums = wire.AppendChecksums(nil, m.Offset, data)
	}
	a.ahead(m, data)
}

// send sends the present mutation, with its data or with their name.
func (a *writer) send(m *pb.Mutate, data []byte) {
	c, at := a.cluster, a.location
	to := c.byID[gfs.ServerID(at.Primary)]
	over := false
	var s *stream
	done := func(offset int64, err error) {
		if over {
			return
		}
		over = true
		if s != nil {
			s.hangUp(0)
		}
		a.answered(offset, err)
	}
	refused := gfs.Errorf(gfs.CodeUnavailable, "no connection")
	if to != nil {
		s = c.network.dial(&a.node, &to.node)
	}
	if s == nil {
		a.later(time.Millisecond, func() { done(0, refused) })
		return
	}
	s.ends[0].lost = func(error) { done(0, refused) }
	a.later(requestPatience, func() { done(0, refused) })
	server := to.server
	s.send(1, func() {
		mutation, err := newMutation(server, m, data, func(offset, length int64, err error) {
			if !s.ends[1].life.dead && err == nil {
				c.checks.completed(to, m, data, offset)
			}
			err = travelled(err)
			s.send(0, func() { done(offset, err) })
		})
		if err != nil {
			c.note("%s ends a connection: %v", to.name, err)
			s.hangUp(1)
			return
		}
		c.checks.taken(to, m, mutation, data)
		server.Handler().Mutate(mutation)
	})
}

// answered is what came of a try.
func (a *writer) answered(offset int64, err error) {
	c := a.cluster
	switch code := gfs.CodeOf(err); {
	case a.named && code == gfs.CodeUnavailable: // perhaps the data are not there
		a.named, a.inOrder = false, !c.chance(4)
		a.later(c.between(0, retryPause), a.try)
	case err == nil:
		c.checks.landed(a.location.Handle, a.since)
		if a.id != 0 {
			c.checks.acknowledged(a.location.Handle, a.id, a.sequence, offset)
			a.sequence++
		}
		a.next()
	case code == gfs.CodeChunkFull:
		a.location, a.failed = nil, nil
		a.index++
		a.try()
	case code == gfs.CodeNoSpace && c.refusedForSpace(a):
		a.later(fullPause, a.try)
	case code == gfs.CodeBusy:
		a.later(retryPause, a.try)
	case code == gfs.CodeNotPrimary || code == gfs.CodeStaleVersion || code == gfs.CodeUnavailable || code == gfs.CodeNoReplica:
		a.failed, a.blamed = a.location, a.location.Primary
		a.location = nil
		if a.gives && c.chance(3) {
			a.next()
			return
		}
		a.later(c.between(0, retryPause), a.try)
	default:
		c.fail(checkErrors, "mutation of chunk %d by writer %d, sequence %d: %v", a.location.Handle, a.id, a.sequence, err)
	}
}

// lease asks the master for the chunk.
func (a *writer) lease() {
	a.ask(messages.OpLease, func() bus.Call {
		r := &pb.LeaseRequest{FileId: a.file, Index: a.index, Allocate: true}
		if a.last {
			r.Index, r.Last = 0, true
		}
		if a.failed != nil {
			r.FailedVersion, r.FailedServer = a.failed.Version, a.blamed
		}
		return bus.Call{Request: r}
	}, func(answer bus.Answer) {
		var location pb.ChunkLocation
		switch err := answer.Decode(&location); {
		case gfs.CodeOf(err) == gfs.CodeNotExist:
			a.cutAway()
		case err != nil:
			a.cluster.mayRefuse(err)
			a.later(a.cluster.between(0, 2*retryPause), a.try)
		default:
			a.location, a.failed, a.index, a.last, a.cuts = &location, nil, location.Index, false, 0
			a.try()
		}
	})
}

// maxCuts is how often in a row a writer looks for the file's last chunk when its own was cut away.
const maxCuts = 8

// cutAway is for a chunk that is gone: a truncation has cut it off, or the file was removed, which shows when its last
// chunk is asked for.
func (a *writer) cutAway() {
	a.failed, a.last = nil, true
	if a.cuts++; a.cuts < maxCuts {
		a.later(a.cluster.between(0, retryPause), a.try)
		return
	}
	a.cluster.checks.gone(a.file)
	a.left = 0
	a.next()
}

// reader reads a file that is appended to, from any replica. What it has seen it wants to see again.
type reader struct {
	*clients
	file    uint64
	slotted bool             // it is written to at offsets
	seen    map[uint64]int64 // length by chunk
}

// read reads once, and goes on after a pause.
func (k *clients) read(r *reader) {
	c := k.cluster
	again := func() {
		if !k.stopped {
			k.later(c.between(0, 500*time.Millisecond), func() { k.read(r) })
		}
	}
	asked := c.now
	k.ask(messages.OpLocate, func() bus.Call { return bus.Call{Request: &pb.LocateRequest{FileId: r.file, Count: 16}} }, func(a bus.Answer) {
		var reply pb.LocateReply
		if err := a.Decode(&reply); err != nil || len(reply.Chunks) == 0 {
			again()
			return
		}
		c.checks.located(&reply, asked)
		location := reply.Chunks[c.random.IntN(len(reply.Chunks))]
		if len(location.Replicas) == 0 {
			again()
			return
		}
		r.readFrom(location, location.Replicas[c.random.IntN(len(location.Replicas))].Id, again)
	})
}

func (r *reader) readFrom(at *pb.ChunkLocation, id string, again func()) {
	c := r.cluster
	to := c.byID[gfs.ServerID(id)]
	var s *stream
	if to != nil {
		s = c.network.dial(&r.node, &to.node)
	}
	if s == nil {
		again()
		return
	}
	over := false
	done := func() {
		if !over {
			over = true
			s.hangUp(0)
			again()
		}
	}
	s.ends[0].lost = func(error) { done() }
	r.later(requestPatience, done)
	q := &pb.Read{Handle: at.Handle, Version: at.Version, Length: gfs.MaxReadBytes, AtLeast: r.seen[at.Handle]}
	t := c.checks.truth(gfs.ChunkHandle(at.Handle))
	switch {
	case r.slotted:
		q.Offset = c.random.Int64N(slotOffset(slotCount + largeCount))
	case t.first > 0 && c.chance(3): // what is before is as it was
		q.Offset = max(0, t.first-c.random.Int64N(4000))
	default:
		q.Offset = t.base
		if !c.chance(8) {
			q.Offset += max(0, int64(len(t.seen))-c.random.Int64N(4000))
		}
	}
	server := to.server
	s.send(1, func() {
		reply, data := dataplane.ReadCopy(server.Handler(), q)
		s.send(0, func() {
			if reply.Code == 0 {
				c.checks.read(q, to.name, data, reply)
				r.seen[at.Handle] = max(r.seen[at.Handle], reply.CommitLength)
			}
			done()
		})
	})
}
