package sim

import (
	"encoding/binary"
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
	appends uint64 // the file that is appended to
	writes  uint64 // the file that is written to at offsets
	busy    int    // writers that are not done
	pushes  uint64 // the last name of pushed data
	// requests counts pushes, which go by lines.
	requests uint64
	lines    []*sharedLine
	stopped  bool // nobody begins anything new
}

// Patience of a simulated client.
const (
	requestPatience = 2 * time.Second
	retryPause      = 50 * time.Millisecond
)

// begin makes the files and then lets everybody work.
func (k *clients) begin(c *cluster) {
	k.cluster = c
	k.node = node{name: "clients", life: &life{world: c.world, name: "clients"}}
	replicas := func() uint32 { return uint32([]int{1, 2, 2, 3, 3, 3}[c.random.IntN(6)]) }
	synced := c.chance(4) || c.power
	k.create("/appends", replicas(), synced, func(id uint64) {
		k.appends = id
		if c.chance(40) { // the chunk is full soon
			k.busy++
			f := &writer{clients: k, file: id, left: 1, fills: true, then: func() { k.append(id) }}
			f.next()
			return
		}
		k.append(id)
	})
	k.create("/writes", replicas(), synced, func(id uint64) {
		k.writes = id
		slots := c.random.Perm(slotCount)
		for range 1 + c.random.IntN(3) {
			n := 8 + c.random.IntN(16)
			a := &writer{clients: k, file: id, left: n, pace: c.between(time.Millisecond, 200*time.Millisecond), slots: slots[:n], gives: c.chance(2)}
			slots = slots[n:]
			if c.chance(2) {
				slices.SortFunc(a.slots, func(x, y int) int { return y - x }) // the last one is the next
			}
			k.busy++
			a.next()
		}
		k.writeLarge(id)
	})
}

// fillOffset is where a chunk is written to that is to be full soon.
const fillOffset = gfs.ChunkSize - 100_000

// append begins to append to a file, and to read it.
func (k *clients) append(id uint64) {
	c := k.cluster
	for i := range 2 + c.random.IntN(3) {
		a := &writer{clients: k, file: id, id: gfs.WriterID(i + 1), left: 15 + c.random.IntN(40), sequence: 1, pace: c.between(time.Millisecond, 120*time.Millisecond)}
		k.busy++
		a.next()
	}
	k.appendLarge(id)
	for range 2 {
		k.read(&reader{clients: k, file: id, seen: map[uint64]int64{}})
	}
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

// Writes at offsets go to slots, each once: what is there is known, or zeros.
const (
	slotBytes = 1500
	slotCount = 200
	// Behind them are some that are long enough to be pushed.
	largeBytes = gfs.SmallMutationBytes + 3000
	largeCount = 4
)

// slotOffset is where a slot begins.
func slotOffset(n int) int64 {
	if n < slotCount {
		return int64(n) * slotBytes
	}
	return slotCount*slotBytes + int64(n-slotCount)*largeBytes
}

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
	index    uint32 // of the chunk
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
	a.later(a.cluster.between(0, 2*a.pace), a.try)
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
		c.checks.truth(gfs.ChunkHandle(at.Handle)).base = fillOffset + 1
	case a.id != 0:
		data = record(a.id, a.sequence)
		m.Kind, m.Writer, m.Sequence, m.LowestUnacknowledged = pb.Mutate_APPEND, uint64(a.id), a.sequence, a.sequence
		m.Checksums = wire.AppendChecksums(nil, 0, data)
	default:
		data = slot(a.slots[a.left])
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
		c.fail("no error at a client", "mutation of chunk %d by writer %d, sequence %d: %v", a.location.Handle, a.id, a.sequence, err)
	}
}

// lease asks the master for the chunk.
func (a *writer) lease() {
	a.ask(messages.OpLease, func() bus.Call {
		r := &pb.LeaseRequest{FileId: a.file, Index: a.index, Allocate: true}
		if a.failed != nil {
			r.FailedVersion, r.FailedServer = a.failed.Version, a.blamed
		}
		return bus.Call{Request: r}
	}, func(answer bus.Answer) {
		var location pb.ChunkLocation
		if err := answer.Decode(&location); err != nil {
			a.cluster.mayRefuse(err)
			a.later(a.cluster.between(0, 2*retryPause), a.try)
			return
		}
		a.location, a.failed = &location, nil
		a.try()
	})
}

// reader reads a file that is appended to, from any replica. What it has seen it wants to see again.
type reader struct {
	*clients
	file uint64
	seen map[uint64]int64 // length by chunk
}

// read reads once, and goes on after a pause.
func (k *clients) read(r *reader) {
	c := k.cluster
	again := func() {
		if !k.stopped {
			k.later(c.between(0, 500*time.Millisecond), func() { k.read(r) })
		}
	}
	k.ask(messages.OpLocate, func() bus.Call { return bus.Call{Request: &pb.LocateRequest{FileId: r.file, Count: 16}} }, func(a bus.Answer) {
		var reply pb.LocateReply
		if err := a.Decode(&reply); err != nil || len(reply.Chunks) == 0 {
			again()
			return
		}
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
	q.Offset = t.base
	if !c.chance(8) {
		q.Offset += max(0, int64(len(t.seen))-c.random.Int64N(4000))
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

// Records begin with a header, so that a chunk of them can be taken apart: magic, writer, sequence, length of all.
const (
	recordMagic  = 0x4352_4543
	recordHeader = 4 + 8 + 8 + 4
)

// record is the bytes of an append: they follow from writer and sequence.
func record(id gfs.WriterID, sequence uint64) []byte {
	n := recordHeader + int(mix(uint64(id)<<32|sequence)%1200)
	if sequence%29 == 0 {
		n += 60_000
	}
	if id == largeWriter {
		n += gfs.SmallMutationBytes
	}
	b := make([]byte, n)
	binary.LittleEndian.PutUint32(b, recordMagic)
	binary.LittleEndian.PutUint64(b[4:], uint64(id))
	binary.LittleEndian.PutUint64(b[12:], sequence)
	binary.LittleEndian.PutUint32(b[20:], uint32(n))
	fill(b[recordHeader:], uint64(id)<<40|sequence)
	return b
}

// slot is the bytes of a write to a slot.
func slot(n int) []byte {
	b := make([]byte, slotBytes)
	if n >= slotCount {
		b = make([]byte, largeBytes)
	}
	fill(b, uint64(n)|1<<63)
	return b
}

func fill(b []byte, seed uint64) {
	var next [8]byte
	for len(b) > 0 {
		seed = mix(seed)
		binary.LittleEndian.PutUint64(next[:], seed|0x0101_0101_0101_0101) // no byte is zero
		b = b[copy(b, next[:]):]
	}
}

// mix is the step of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
