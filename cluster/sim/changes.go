package sim

import (
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// The files of the workload, by their names in steps. Their paths have a slash before.
const (
	fileAppends = "appends" // is appended to
	fileWrites  = "writes"  // is written to at offsets
)

// Steps about files.
const (
	stepTruncate = "truncate"
	stepRemove   = "remove"
	stepDelete   = "delete"
	stepUndelete = "undelete"
	stepCreate   = "create"
	stepReplace  = "replace"
	stepWide     = "wide"
)

// trashTime is how long removed files can be restored.
const trashTime = 3 * time.Second

// changes adds what clients do to the files, in every other seed. It draws from numbers of its own, so
// that it changes nothing of the other seeds.
func (p *planner) changes(seed uint64) {
	if seed%2 == 1 {
		return
	}
	p.Rand = rand.New(rand.NewPCG(seed, 0xf11e5))
	wide := p.IntN(10) == 0
	if wide {
		p.add(0, stepWide, 2+p.IntN(2))
	}
	first, within := faultBegin, (faultEnd-faultBegin)*3/4
	if p.IntN(2) == 0 { // close together
		first += time.Duration(p.Int64N(int64(within)))
		within = 700 * time.Millisecond
	}
	for range 1 + p.IntN(6) {
		at := first + time.Duration(p.Int64N(int64(within)))
		name := []string{fileAppends, fileAppends, fileWrites}[p.IntN(3)]
		switch p.IntN(10) {
		case 0:
			p.add(at, stepRemove, name)
			if p.IntN(3) > 0 {
				p.add(at+time.Duration(p.Int64N(int64(trashTime))), []string{stepUndelete, stepUndelete, stepCreate}[p.IntN(3)], name)
			}
		case 1:
			p.add(at, stepDelete, name)
			p.add(at+time.Duration(p.IntN(1000))*time.Millisecond, stepCreate, name)
		case 2:
			p.add(at, stepReplace, name)
		default:
			p.add(at, stepTruncate, name, p.size(wide))
		}
	}
}

// size draws what a file is truncated to.
func (p *planner) size(wide bool) int64 {
	if wide && p.IntN(2) == 0 {
		return int64(p.IntN(4))*gfs.ChunkSize + p.Int64N(8000)
	}
	switch p.IntN(20) {
	case 0, 1, 2:
		return 0
	case 3, 4:
		return p.Int64N(4) * gfs.BlockSize
	case 5, 6, 7:
		return p.Int64N(400_000)
	case 8:
		return (1 + p.Int64N(3)) * gfs.ChunkSize
	case 9:
		return gfs.ChunkSize - p.Int64N(30_000)
	case 10:
		return (1+p.Int64N(2))*gfs.ChunkSize + p.Int64N(20_000)
	}
	return 1 + p.Int64N(60_000)
}

// changesFiles reports whether clients do more to the files than to append and write to them.
func (s Script) changesFiles() bool {
	for _, step := range s.Steps {
		if changesFiles(step.Verb) {
			return true
		}
	}
	return false
}

func changesFiles(verb string) bool {
	switch verb {
	case stepTruncate, stepRemove, stepDelete, stepUndelete, stepCreate, stepReplace:
		return true
	}
	return false
}

// owner is a client that changes files, one change after the other, in a session: what it asks for again takes effect
// once.
type owner struct {
	*clients
	id         uint64 // of its session
	registered bool
	sequence   uint64
	queue      []Step // the first is under way
}

// want queues a change.
func (o *owner) want(step Step) {
	o.busy++
	o.queue = append(o.queue, step)
	if len(o.queue) == 1 {
		o.begin()
	}
}

// begin begins the next change, once there is the file that it is about.
func (o *owner) begin() {
	switch {
	case !o.begun[o.queue[0].Arguments[0]]:
		o.later(retryPause, o.begin)
	case !o.registered:
		o.register()
	default:
		o.change(o.queue[0])
	}
}

// done ends a change.
func (o *owner) done() {
	o.busy--
	o.queue = o.queue[1:]
	if len(o.queue) > 0 {
		o.begin()
	}
}

func (o *owner) register() {
	if o.id == 0 {
		o.id = o.cluster.random.Uint64() | 1
	}
	m := &pb.NamespaceMutation{Session: &pb.Session{Id: o.id}, Operation: &pb.NamespaceMutation_RegisterSession{RegisterSession: &pb.RegisterSession{}}}
	o.ask(messages.OpMutate, func() bus.Call { return bus.Call{Request: m} }, func(a bus.Answer) {
		if a.Decode(new(pb.NamespaceReply)) == nil {
			o.registered = true
		}
		o.later(o.cluster.between(0, retryPause), o.begin)
	})
}

// change carries out a step.
func (o *owner) change(step Step) {
	name := step.Arguments[0]
	path := "/" + name
	m := new(pb.NamespaceMutation)
	then := func(*pb.FileStatus) { o.done() }
	made := func(status *pb.FileStatus) {
		o.work(name, status.GetFileId())
		o.done()
	}
	switch step.Verb {
	case stepTruncate:
		size, _ := strconv.ParseInt(step.Arguments[1], 10, 64)
		o.truncate(path, size)
		return
	case stepRemove, stepDelete:
		m.Operation = &pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: path, Now: step.Verb == stepDelete}}
	case stepUndelete:
		m.Operation = &pb.NamespaceMutation_Undelete{Undelete: &pb.Undelete{Path: path}}
	case stepCreate, stepReplace:
		then = made
		m.Operation = &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{
			Path: path, Mode: 0o644, Replicas: uint32(1 + o.cluster.random.IntN(3)), Synced: o.cluster.power, Replace: step.Verb == stepReplace,
		}}
	}
	o.mutate(m, then)
}

// mutate asks for a change until it is decided. then gets the status of the file, nil if there is no such file.
func (o *owner) mutate(m *pb.NamespaceMutation, then func(*pb.FileStatus)) {
	o.sequence++
	sequence := o.sequence
	m.Session = &pb.Session{Id: o.id, Sequence: sequence, LowestUnacknowledged: sequence}
	var try func()
	try = func() {
		o.ask(messages.OpMutate, func() bus.Call { return bus.Call{Request: m} }, func(a bus.Answer) {
			var reply pb.NamespaceReply
			err := a.Decode(&reply)
			switch code := gfs.CodeOf(err); {
			case err == nil:
				o.cluster.checks.changed(o.id, sequence)
				then(reply.GetStatus())
			case code == gfs.CodeNotExist || code == gfs.CodeExist:
				then(nil)
			case code.Action() == gfs.Retry || code == gfs.CodeOutcomeUnknown || code == gfs.CodeStaleEpoch:
				o.later(o.cluster.between(0, 2*retryPause), try)
			default:
				o.cluster.fail(checkErrors, "change %d, %T: %v", sequence, m.GetOperation(), err)
			}
		})
	}
	try()
}

// truncate makes a file as long as wanted. What it lacks of chunks for that is made, empty, and then it is asked for again.
func (o *owner) truncate(path string, size int64) {
	m := &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_Truncate{Truncate: &pb.Truncate{Path: path, Size: size}}}
	o.mutate(m, func(status *pb.FileStatus) {
		want := uint32((size + gfs.ChunkSize - 1) / gfs.ChunkSize)
		if status == nil || status.GetChunks() >= want {
			o.done()
			return
		}
		o.lengthen(status.GetFileId(), status.GetChunks(), want, func() { o.truncate(path, size) })
	})
}

// lengthen makes the chunks of a file from one index to another, unless somebody cuts the file meanwhile.
func (o *owner) lengthen(file uint64, from, to uint32, then func()) {
	if from == to {
		then()
		return
	}
	o.ask(messages.OpLease, func() bus.Call { return bus.Call{Request: &pb.LeaseRequest{FileId: file, Index: from, Allocate: true}} }, func(a bus.Answer) {
		switch err := a.Decode(new(pb.ChunkLocation)); {
		case err == nil:
			o.lengthen(file, from+1, to, then)
		case gfs.CodeOf(err) == gfs.CodeNotExist:
			o.later(retryPause, then)
		default:
			o.later(o.cluster.between(0, 2*retryPause), func() { o.lengthen(file, from, to, then) })
		}
	})
}

// work has a file worked on that is new under its name.
func (k *clients) work(name string, file uint64) {
	c := k.cluster
	if file == 0 || k.known[file] {
		return
	}
	k.known[file] = true
	c.note("%s is file %d now", name, file)
	if name == fileAppends {
		for range 1 + c.random.IntN(2) {
			k.appender(file, 5+c.random.IntN(20))
		}
		k.appendLarge(file)
		k.read(&reader{clients: k, file: file, seen: map[uint64]int64{}})
		return
	}
	k.slots(file, c.random.Perm(slotCount)[:5+c.random.IntN(10)])
	k.writeLarge(file)
	k.read(&reader{clients: k, file: file, slotted: true, seen: map[uint64]int64{}})
}

// confirm is the operator who lets go of what the masters keep, since it is more than the log has dropped lately: copies
// for truncations that came to nothing.
func (k *clients) confirm() {
	k.later(5*time.Second, k.confirm)
	ask := func(r *pb.GarbageRequest, on func(*pb.GarbageReply)) {
		k.ask(messages.OpGarbage, func() bus.Call { return bus.Call{Request: r} }, func(a bus.Answer) {
			var reply pb.GarbageReply
			if a.Decode(&reply) == nil {
				on(&reply)
			}
		})
	}
	ask(&pb.GarbageRequest{}, func(reply *pb.GarbageReply) {
		for _, s := range reply.GetServers() {
			if s.GetHeld() != "" {
				k.cluster.note("the operator confirms %s: %s", s.GetServer(), s.GetHeld())
				ask(&pb.GarbageRequest{Confirm: s.GetServer()}, func(*pb.GarbageReply) {})
			}
		}
	})
}

// befallFile carries out a step about files. It reports false for others.
func (c *cluster) befallFile(step Step) bool {
	switch {
	case !changesFiles(step.Verb):
		return false
	case len(step.Arguments) == 0 || step.Arguments[0] != fileAppends && step.Arguments[0] != fileWrites:
	case step.Verb == stepTruncate && len(step.Arguments) != 2:
	default:
		c.clients.owners[c.random.IntN(len(c.clients.owners))].want(step)
	}
	return true
}

// wide is how many chunks the file that is appended to has from the beginning, with little room in each; 0 if it has none.
func (s Script) wide() int {
	for _, step := range s.Steps {
		if step.Verb == stepWide && len(step.Arguments) == 1 {
			n, err := strconv.Atoi(step.Arguments[0])
			if err == nil && n > 0 && n <= 8 {
				return n
			}
		}
	}
	return 0
}
