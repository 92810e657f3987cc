package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// pushLimits let pushed data get old, and find no room, within a run.
func pushLimits() dataplane.PushLimits {
	return dataplane.PushLimits{PositionBytes: 3 * gfs.SmallMutationBytes, Patience: -1, Lifetime: pushLifetime}
}

const (
	pushSession  = 1
	pushLifetime = time.Second
	// pushPatience is how long a client waits for the answer to a push.
	pushPatience = 300 * time.Millisecond
	// pushStreamTime is how long it uses a connection for pushes.
	pushStreamTime = 3 * time.Second
)

// largeWriter appends records that are long enough to be pushed.
const largeWriter = gfs.WriterID(1000)

// appendLarge lets it append, in some runs.
func (k *clients) appendLarge(id uint64) {
	c := k.cluster
	if c.chance(3) {
		k.busy++
		a := &writer{clients: k, file: id, id: largeWriter, left: 6 + c.random.IntN(10), sequence: 1, pace: c.between(time.Millisecond, 200*time.Millisecond)}
		a.next()
	}
}

// writeLarge lets one writer more write to slots that are long enough to be pushed.
func (k *clients) writeLarge(id uint64) {
	c := k.cluster
	if c.chance(2) {
		return
	}
	a := &writer{clients: k, file: id, left: largeCount, pace: c.between(time.Millisecond, 300*time.Millisecond), gives: c.chance(2)}
	for _, n := range c.random.Perm(largeCount) {
		a.slots = append(a.slots, slotCount+n)
	}
	k.busy++
	a.next()
}

// push is the data of a mutation on their way ahead of it. What a client does with them here, and when it takes them to be there,
// is not always what it ought to do.
type push struct {
	*writer
	mutation *pb.Mutate
	data     []byte
	counter  uint64 // its name
	request  uint64
	head     *pb.Push
	line     *sharedLine
	parts    [][]byte // to be sent
	tornAt   int      // so many parts are not sent
	arrived  bool
	decided  bool
}

// ahead sends a mutation, whose data may go ahead of it.
func (a *writer) ahead(m *pb.Mutate, data []byte) {
	c := a.cluster
	if a.inOrder || len(data) < gfs.SmallMutationBytes || c.chance(8) {
		a.send(m, data)
		return
	}
	p := &push{writer: a, mutation: m, data: data, counter: a.name()}
	chain := a.chain()
	if len(chain) == 0 { // its own push of an earlier try, or another's
		p.counter -= min(p.counter-1, c.random.Uint64N(5))
		p.decide(true)
		return
	}
	p.head = &pb.Push{Handle: m.Handle, Session: pushSession, Counter: p.counter, Rest: chain[1:], Offset: m.Offset % gfs.BlockSize, Checksums: m.Checksums}
	if p.line = a.lineTo(chain[0]); p.line == nil {
		a.later(time.Millisecond, func() { p.decide(false) })
		return
	}
	p.line.sending = true
	a.requests++
	p.request = a.requests
	p.line.waiting[p.request] = p
	for at := p.head.Offset; len(data) > 0; at = 0 {
		n := min(int(gfs.BlockSize-at), len(data))
		p.parts, data = append(p.parts, data[:n]), data[n:]
	}
	if c.chance(8) {
		p.tornAt = 1 + c.random.IntN(len(p.parts))
	}
	p.goOn()
	a.later(pushPatience, func() {
		if !p.arrived {
			p.decide(c.chance(6))
		}
	})
}

// chain is the addresses of the servers that data are pushed to, in their order: all replicas, or some.
func (a *writer) chain() (addresses []string) {
	c := a.cluster
	replicas := slices.Clone(a.location.Replicas)
	c.random.Shuffle(len(replicas), func(i, j int) { replicas[i], replicas[j] = replicas[j], replicas[i] })
	if c.chance(3) {
		if first := slices.IndexFunc(replicas, func(r *pb.Server) bool { return r.Id == a.location.Primary }); first > 0 && !c.chance(4) {
			replicas[0], replicas[first] = replicas[first], replicas[0] // the others pull the data there
		}
		replicas = replicas[:c.random.IntN(len(replicas)+1)]
	}
	for _, r := range replicas {
		addresses = append(addresses, r.Address)
	}
	return addresses
}

// name is a name for pushed data: a new one, but for a client that was started again and begins anew.
func (k *clients) name() uint64 {
	if k.cluster.chance(8) {
		k.pushes -= min(k.pushes, k.cluster.random.Uint64N(6))
	}
	k.pushes++
	return k.pushes
}

// goOn sends the next part.
func (p *push) goOn() {
	c := p.cluster
	if len(p.parts) == p.tornAt {
		p.line.sending = false
		if p.tornAt > 0 {
			p.line.Close()
		} else if c.chance(6) {
			p.decide(true) // whether or not it has arrived
		}
		return
	}
	part := p.parts[0]
	p.parts = p.parts[1:]
	left := 0
	for _, more := range p.parts {
		left += len(more)
	}
	_ = p.line.Send(p.request, p.head, part, left, 0)
	p.head = nil
	pause := time.Duration(0)
	if c.chance(4) {
		pause = c.between(0, 400*time.Millisecond)
	}
	p.later(pause, p.goOn)
}

// answered takes the answer to the push.
func (p *push) answered(reply *pb.PushReply) {
	c := p.cluster
	if reply.Code != 0 {
		c.note("push %d: %s %s", p.counter, gfs.Code(reply.Code), reply.Detail)
		p.decide(c.chance(6))
		return
	}
	p.arrived = true
	pause := time.Duration(0)
	if c.chance(6) {
		pause = c.between(0, 2*pushLifetime)
	}
	p.later(pause, func() { p.decide(true) })
}

// decide sends the mutation, which names the data or carries them.
func (p *push) decide(named bool) {
	if p.decided {
		return
	}
	p.decided, p.named, p.inOrder = true, named, !named
	if named {
		p.mutation.PushedSession, p.mutation.PushedCounter, p.mutation.PushedBytes = pushSession, p.counter, uint32(len(p.data))
	}
	p.send(p.mutation, p.data)
}

// sharedLine is a client's connection for pushes, which go by it one after the other.
type sharedLine struct {
	*pushLine
	address string
	sending bool             // a push was begun and is not complete
	waiting map[uint64]*push // for their answers, by request
}

// lineTo gives a line to the server at an address: one that is there, or a new one; nil if nobody is there.
func (k *clients) lineTo(address string) *sharedLine {
	c := k.cluster
	for _, l := range k.lines {
		if l.address == address && !l.sending && c.chance(2) {
			return l
		}
	}
	l := &sharedLine{address: address, waiting: make(map[uint64]*push)}
	l.pushLine = c.openPush(&k.node, address, func(request uint64, reply *pb.PushReply) {
		if p := l.waiting[request]; p != nil {
			delete(l.waiting, request)
			p.answered(reply)
		}
	}, func(error) {
		k.lines = slices.DeleteFunc(k.lines, func(other *sharedLine) bool { return other == l })
		for _, request := range slices.Sorted(maps.Keys(l.waiting)) {
			l.waiting[request].decide(c.chance(4))
		}
	})
	if l.pushLine == nil {
		return nil
	}
	k.lines = append(k.lines, l)
	k.later(pushStreamTime, l.Close)
	return l
}
