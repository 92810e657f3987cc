package master

import (
	"errors"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/lease"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"
)

// orderSlack is how much longer an order is listened for than the core waits: it is the core that decides who is
// silent.
const orderSlack = time.Second

// closeOrderTimeout is what a primary has to begin a close: it only takes note.
const closeOrderTimeout = 500 * time.Millisecond

// goneAfter is after what time without an answer a server is looked for: a process that was killed is known to be gone a
// moment later, and what was sent to it before that is lost without a word.
const goneAfter = 40 * time.Millisecond

// probeTimeout is what a server has to find out whether others give it a sign of life.
const probeTimeout = 3 * gfs.MemberSilence

// order sends an order of the core to a chunkserver; the answer comes back as a command.
func (s *leaseShell) order(o lease.Order) {
	header := s.header(s.period, o.To.Incarnation)
	switch o.Kind {
	case lease.Create:
		s.orderCreate(o, header)
	case lease.Prepare:
		s.orderPrepare(o, header)
	case lease.Grant:
		s.orderGrant(o, header)
	case lease.Close:
		s.orderClose(o, header)
	case lease.Probe:
		s.orderProbe(o, header)
	case lease.Clone:
		s.orderClone(o, header)
	}
}

func (s *leaseShell) orderCreate(o lease.Order, header *pb.OrderHeader) {
	s.send(o, messages.CommandCreate, lease.CreateTimeout, &pb.CreateOrder{
		Header: header, Handle: uint64(s.handle), Version: uint64(o.Version), Members: describeServers(o.Members),
		LeaseMs: gfs.LeaseDuration.Milliseconds(), Synced: s.synced, Stream: o.Stream,
	}, func(answer bus.Answer) bool {
		err := answer.Decode(new(pb.OrderReply))
		if s.again(o, err) {
			return true
		}
		s.answered(o, err)
		s.self.Send(createAnswered{o.To.ID, o.Version, err})
		return true
	})
	actors.After(s.self, goneAfter, actors.Command[*leaseShell](orderUnanswered(o)))
}

func (s *leaseShell) orderPrepare(o lease.Order, header *pb.OrderHeader) {
	order := &pb.PrepareOrder{
		Header: header, Handle: uint64(s.handle), Version: uint64(o.Version), FromVersion: uint64(o.From), Joiner: o.Joiner,
		Source: describeServer(o.Source),
	}
	command, message, relayed := messages.CommandPrepare, proto.Message(order), o.Via.ID != ""
	if relayed {
		command = messages.CommandRelay
		message = &pb.RelayOrder{Header: s.header(s.period, o.Via.Incarnation), To: describeServer(o.To.Server), Prepare: order}
	}
	s.send(o, command, gfs.PrepareTimeout, message, func(answer bus.Answer) bool {
		var reply pb.PrepareReply
		err := answer.Decode(&reply)
		if s.again(o, err) { // it is alive, at least
			s.self.Send(prepareAnswered{o.To.ID, o.Version, lease.PrepareAnswer{Busy: true}})
			return true
		}
		if !reply.GetBusy() {
			s.answered(o, err)
		}
		s.self.Send(prepareAnswered{o.To.ID, o.Version, lease.PrepareAnswer{
			Busy: reply.GetBusy(), Promised: gfs.Version(reply.GetPromised()), Active: gfs.Version(reply.GetActive()),
			Length: reply.GetLength(), State: gfs.ReplicaState(min(reply.GetState(), 255)),
			Digest: string(reply.GetDigest()), Err: err,
		}})
		return !reply.GetBusy()
	})
	if !relayed {
		actors.After(s.self, goneAfter, actors.Command[*leaseShell](orderUnanswered(o)))
	}
}

func (s *leaseShell) orderGrant(o lease.Order, header *pb.OrderHeader) {
	s.send(o, messages.CommandGrant, lease.GrantTimeout, &pb.GrantOrder{
		Header: header, Handle: uint64(s.handle), Version: uint64(o.Version), Members: describeServers(o.Members),
		LeaseMs: gfs.LeaseDuration.Milliseconds(), Synced: s.synced, Believe: o.Believe,
		Doubted: describeIDs(o.Doubted),
	}, func(answer bus.Answer) bool {
		var reply pb.GrantReply
		err := answer.Decode(&reply)
		if s.again(o, err) {
			s.self.Send(grantAnswered{o.To.ID, o.Version, lease.GrantAnswer{Busy: true}})
			return true
		}
		if !reply.GetBusy() {
			s.answered(o, err)
		}
		s.self.Send(grantAnswered{o.To.ID, o.Version, lease.GrantAnswer{
			Busy: reply.GetBusy(), Length: reply.GetLength(), Accused: gfs.ServerID(reply.GetAccused()), Err: err,
		}})
		return !reply.GetBusy()
	})
	actors.After(s.self, goneAfter, actors.Command[*leaseShell](orderUnanswered(o)))
}

func describeIDs(ids []gfs.ServerID) []string {
	described := make([]string, len(ids))
	for i, id := range ids {
		described[i] = string(id)
	}
	return described
}

func (s *leaseShell) orderClose(o lease.Order, header *pb.OrderHeader) {
	s.send(o, messages.CommandClose, closeOrderTimeout, &pb.CloseOrder{
		Header: header, Handle: uint64(s.handle), Version: uint64(o.Version),
	}, func(answer bus.Answer) bool {
		err := answer.Decode(new(pb.OrderReply))
		if s.again(o, err) {
			return true
		}
		s.answered(o, err)
		s.self.Send(closeOrdered{o.To.ID, o.Version, err})
		return true
	})
}

func (s *leaseShell) orderProbe(o lease.Order, header *pb.OrderHeader) {
	s.send(o, messages.CommandProbe, probeTimeout, &pb.ProbeOrder{
		Header: header, Servers: describeServers(o.Members), Doubted: describeIDs(o.Doubted),
	},
		func(answer bus.Answer) bool {
			var reply pb.ProbeReply
			err := answer.Decode(&reply)
			if s.again(o, err) {
				return true
			}
			s.answered(o, err)
			s.self.Send(probeAnswered{o.To.ID, o.Version, reply.GetSilent(), err})
			return true
		})
}

func (s *leaseShell) orderClone(o lease.Order, header *pb.OrderHeader) {
	s.send(o, messages.CommandClone, gfs.CloneTimeout, &pb.CloneOrder{
		Header: header, Handle: uint64(s.handle), Version: uint64(o.From), Promise: uint64(o.Version), Source: describeServer(o.Source),
	}, func(answer bus.Answer) bool {
		var reply pb.CloneReply
		err := answer.Decode(&reply)
		s.answered(o, err)
		s.self.Send(cloneAnswered{o.To.ID, o.Version, int(reply.GetDifferingBlocks()), err})
		return true
	})
}

func (s *leaseShell) send(o lease.Order, command string, patience time.Duration, message proto.Message, on func(bus.Answer) bool) {
	to := o.To.ID
	if command == messages.CommandRelay {
		to = o.Via.ID
	}
	s.ask(to, command, patience+orderSlack, message, on)
}

func (s *leaseShell) ask(to gfs.ServerID, command string, total time.Duration, message proto.Message, on func(bus.Answer) bool) {
	s.counters.ordersSent.Add(1)
	s.around.AskAsync(bus.Call{Subject: s.subjects.Chunkserver(to, command), Request: message, Total: total}, on)
}

// again has an order given once more after a pause, if nobody had room for it: that is no refusal, and must not cost a
// member. It runs outside the actor.
func (s *leaseShell) again(o lease.Order, err error) bool {
	if !errors.Is(err, gfs.ErrBusy) {
		return false
	}
	s.self.Send(orderBusy(o))
	return true
}

// orderBusy says that there was no room for an order, orderAgain that the pause after that is over.
type (
	orderBusy  lease.Order
	orderAgain lease.Order
)

func (c orderBusy) Do(s *leaseShell) {
	actors.After(s.self, gfs.PrepareBusyInterval, actors.Command[*leaseShell](orderAgain(c)))
}

func (c orderAgain) Do(s *leaseShell) {
	if o := lease.Order(c); s.core.Awaits(o) {
		s.order(o)
	}
}

// orderUnanswered says that goneAfter has passed since a Create, a Prepare or a Grant.
type orderUnanswered lease.Order

// Do looks for the server if it has not answered. That it is gone is the answer, and of a Create that it says nothing: the core
// times the silence of those that have a chunk already. How it is otherwise it says itself.
func (c orderUnanswered) Do(s *leaseShell) {
	o := lease.Order(c)
	if !s.core.Awaits(o) {
		return
	}
	probe := &pb.ProbeOrder{Header: s.header(s.period, o.To.Incarnation)}
	s.ask(o.To.ID, messages.CommandProbe, gfs.PrepareSilence, probe, func(answer bus.Answer) bool {
		err := answer.Decode(new(pb.ProbeReply))
		switch code := gfs.CodeOf(err); {
		case code == gfs.CodeOutcomeUnknown && o.Kind == lease.Create: // others make another chunk in less time than this one needs
			s.self.Send(createAnswered{o.To.ID, o.Version, err})
		case code != gfs.CodeUnavailable && code != gfs.CodeWrongIncarnation:
		case o.Kind == lease.Create:
			s.self.Send(createAnswered{o.To.ID, o.Version, err})
		case o.Kind == lease.Prepare:
			s.self.Send(prepareAnswered{o.To.ID, o.Version, lease.PrepareAnswer{Err: err}})
		default:
			s.self.Send(grantAnswered{o.To.ID, o.Version, lease.GrantAnswer{Err: err}})
		}
		return true
	})
}

// answered logs the end of an order. It runs outside the actor and touches only what does not change.
func (s *leaseShell) answered(o lease.Order, err error) {
	entry := s.log.WithFields(logrus.Fields{"actor": "lease", "chunk": s.handle, "version": o.Version, "server": o.To.ID, "op": o.Kind})
	if err == nil {
		entry.Debug("order carried out")
		return
	}
	s.counters.ordersFailed.Add(1)
	entry.WithField("err", err).Warn("order failed")
}

// createAnswered, prepareAnswered, grantAnswered, closeOrdered, probeAnswered and cloneAnswered are the answers to orders.
type createAnswered struct {
	server  gfs.ServerID
	version gfs.Version
	err     error
}

func (c createAnswered) Do(s *leaseShell) {
	s.core.CreateAnswered(c.server, c.version, c.err, s.now())
	s.carry()
}

type prepareAnswered struct {
	server  gfs.ServerID
	version gfs.Version
	answer  lease.PrepareAnswer
}

func (c prepareAnswered) Do(s *leaseShell) {
	s.core.PrepareAnswered(c.server, c.version, c.answer, s.now())
	s.carry()
}

type grantAnswered struct {
	server  gfs.ServerID
	version gfs.Version
	answer  lease.GrantAnswer
}

func (c grantAnswered) Do(s *leaseShell) {
	s.core.GrantAnswered(c.server, c.version, c.answer, s.now())
	s.carry()
}

type closeOrdered struct {
	server  gfs.ServerID
	version gfs.Version
	err     error
}

func (c closeOrdered) Do(s *leaseShell) {
	s.core.CloseOrdered(c.server, c.version, c.err, s.now())
	s.carry()
}

type probeAnswered struct {
	server  gfs.ServerID
	version gfs.Version
	silent  []string
	err     error
}

func (c probeAnswered) Do(s *leaseShell) {
	silent := make([]gfs.ServerID, len(c.silent))
	for i, id := range c.silent {
		silent[i] = gfs.ServerID(id)
	}
	s.core.ProbeAnswered(c.server, c.version, silent, c.err, s.now())
	s.carry()
}

type cloneAnswered struct {
	server    gfs.ServerID
	promise   gfs.Version
	differing int
	err       error
}

func (c cloneAnswered) Do(s *leaseShell) {
	s.core.CloneAnswered(c.server, c.promise, c.differing, c.err, s.now())
	s.carry()
}
