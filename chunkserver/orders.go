package chunkserver

import (
	"cmp"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// serviceVersion is what monitoring shows of the orders' protocol.
const serviceVersion = "1.0.0"

// serveOrders takes the acting master's orders from NATS.
func (cs *Chunkserver) serveOrders() (*bus.Service, error) {
	return bus.Serve(cs.conn, bus.ServiceConfig{
		Name:        "cairn-chunkserver",
		Version:     serviceVersion,
		Description: "orders to chunkserver " + string(cs.ID()),
		Metadata:    map[string]string{"server": string(cs.ID()), "address": cs.self.Address},
		Gate:        actors.NewGate("orders to a chunkserver", gfs.MaxInFlightRequests),
	}, cs.orders()...)
}

// orders are the orders of the acting master. Each is checked against the epoch and the incarnation, and then goes to the
// actor of its chunk.
func (cs *Chunkserver) orders() []bus.Endpoint {
	endpoint := func(command string, handle func(*bus.Request)) bus.Endpoint {
		return bus.Endpoint{Name: command, Subject: cs.subjects.Chunkserver(cs.ID(), command), Handle: handle}
	}
	return []bus.Endpoint{
		endpoint(messages.CommandCreate, bus.Typed(cs.onCreate)),
		endpoint(messages.CommandPrepare, bus.Typed(cs.onPrepare)),
		endpoint(messages.CommandGrant, bus.Typed(cs.onGrant)),
		endpoint(messages.CommandClose, bus.Typed(cs.onClose)),
		endpoint(messages.CommandProbe, bus.Typed(cs.onProbe)),
		endpoint(messages.CommandRelay, bus.Typed(cs.onRelay)),
		endpoint(messages.CommandCopy, bus.Typed(cs.onCopy)),
		endpoint(messages.CommandClone, bus.Typed(cs.onClone)),
		endpoint(messages.CommandDelete, bus.Typed(cs.onDelete)),
		endpoint(messages.CommandReport, bus.Typed(cs.onInventoryOrder)),
	}
}

// obey calls do if the order is for this process and from no replaced master, else fail. A higher epoch is on disk before.
func (cs *Chunkserver) obey(fail func(error), header *pb.OrderHeader, do func()) {
	epoch := gfs.Epoch(header.GetEpoch())
	switch known := cs.store.Epoch(); {
	case epoch == 0:
		fail(gfs.Errorf(gfs.CodeInvalid, "order without an epoch"))
	case gfs.Incarnation(header.GetIncarnation()) != cs.cfg.Incarnation:
		fail(gfs.Errorf(gfs.CodeWrongIncarnation, "chunkserver %s has incarnation %016x, the order is for %016x",
			cs.ID(), uint64(cs.cfg.Incarnation), header.GetIncarnation()))
	case epoch < known:
		fail(gfs.Errorf(gfs.CodeStaleEpoch, "the order has epoch %d, a master of epoch %d was heard", epoch, known))
	case epoch == known:
		cs.heardMaster()
		do()
	default:
		admitted := cs.disk.Go(func() {
			if err := cs.store.RaiseEpoch(epoch); err != nil {
				fail(err)
				return
			}
			cs.heardMaster()
			do()
		})
		if !admitted {
			fail(gfs.Errorf(gfs.CodeBusy, "chunkserver %s has no worker free: try again after a pause", cs.ID()))
		}
	}
}

// checkMembers refuses a configuration that this server cannot be the primary of, or a member of any.
func (cs *Chunkserver) checkMembers(handle, version uint64, members []*pb.Server, asPrimary bool) error {
	mine := false
	for i, m := range members {
		mine = mine || m.Id == string(cs.ID()) && (i == 0 || !asPrimary)
	}
	if handle == 0 || version == 0 || len(members) == 0 || len(members) > gfs.MaxReplicas || !mine {
		return gfs.Errorf(gfs.CodeInvalid, "order for chunk %016x, version %s with %d members: want 1 to %d with chunkserver %s in its place",
			handle, gfs.Version(version), len(members), gfs.MaxReplicas, cs.ID())
	}
	return nil
}

func (cs *Chunkserver) onCreate(r *bus.Request, order *pb.CreateOrder) {
	if err := cs.checkMembers(order.Handle, order.Version, order.Members, false); err != nil {
		r.Fail(err)
		return
	}
	cs.obey(r.Fail, order.Header, func() {
		cs.chunks.send(gfs.ChunkHandle(order.Handle), routed(func(c *chunk) { c.onCreate(order, bus.ReplyTo[*pb.OrderReply](r)) }))
	})
}

func (cs *Chunkserver) onPrepare(r *bus.Request, order *pb.PrepareOrder) {
	cs.obey(r.Fail, order.Header, func() {
		busy := func() { r.Progress(&pb.PrepareReply{Busy: true}) }
		cs.chunks.send(gfs.ChunkHandle(order.Handle), routed(func(c *chunk) { c.onPrepare(order, bus.ReplyTo[*pb.PrepareReply](r), busy) }))
	})
}

func (cs *Chunkserver) onGrant(r *bus.Request, order *pb.GrantOrder) {
	if err := cs.checkMembers(order.Handle, order.Version, order.Members, true); err != nil {
		r.Fail(err)
		return
	}
	cs.obey(r.Fail, order.Header, func() {
		busy := func() { r.Progress(&pb.GrantReply{Busy: true}) }
		cs.chunks.send(gfs.ChunkHandle(order.Handle), routed(func(c *chunk) { c.onGrant(order, bus.ReplyTo[*pb.GrantReply](r), busy) }))
	})
}

func (cs *Chunkserver) onClose(r *bus.Request, order *pb.CloseOrder) {
	cs.obey(r.Fail, order.Header, func() {
		cs.chunks.send(gfs.ChunkHandle(order.Handle), routed(func(c *chunk) { c.onCloseOrder(gfs.Version(order.Version), bus.ReplyTo[*pb.OrderReply](r)) }))
	})
}

// onProbe gives a sign of life, when the servers that the order names have been asked for theirs.
func (cs *Chunkserver) onProbe(r *bus.Request, order *pb.ProbeOrder) {
	if len(order.Servers) > gfs.MaxReplicas {
		r.Fail(gfs.Errorf(gfs.CodeInvalid, "probe of %d servers: at most %d are asked at once", len(order.Servers), gfs.MaxReplicas))
		return
	}
	cs.obey(r.Fail, order.Header, func() {
		cs.probe(order.Servers, order.Doubted, func(silent []string) { r.Reply(&pb.ProbeReply{Silent: silent}) })
	})
}

// onRelay passes a Prepare on over the data plane. The server that it is for checks the order itself.
func (cs *Chunkserver) onRelay(r *bus.Request, order *pb.RelayOrder) {
	if order.GetTo().GetAddress() == "" || order.Prepare == nil || order.To.Id == string(cs.ID()) {
		r.Fail(gfs.Errorf(gfs.CodeInvalid, "order to pass on to chunkserver %q: want another server's address, and a Prepare", order.GetTo().GetId()))
		return
	}
	cs.obey(r.Fail, order.Header, func() { cs.relay(r, order.To, order.Prepare) })
}

// relay answers for another server, and says that it is at work for as long as that one answers pings.
func (cs *Chunkserver) relay(r *bus.Request, to *pb.Server, order *pb.PrepareOrder) {
	ctx, cancel := cs.around.WithTimeout(cs.ctx, gfs.PrepareTimeout)
	ctx, release := cs.attended(ctx, to.Address)
	cs.around.Go(func() {
		for cs.around.Pause(ctx, gfs.PrepareBusyInterval) == nil {
			r.Progress(&pb.PrepareReply{Busy: true})
		}
	})
	cs.around.Go(func() {
		defer cancel()
		defer release()
		var answer pb.Prepared
		err := cs.around.Call(ctx, to.Address, wire.OpPrepare, order, &answer)
		cs.log.WithFields(logrus.Fields{
			"chunk": gfs.ChunkHandle(order.Handle).String(), "version": gfs.Version(order.Version).String(), "to": to.Id, "code": answer.Code,
		}).WithError(err).Debug("order passed on")
		switch {
		case err != nil:
			r.Fail(err)
		case answer.Code != 0 || answer.Reply == nil:
			r.Fail(gfs.FromCode(cmp.Or(gfs.Code(answer.Code), gfs.CodeInternal), answer.Detail))
		default:
			r.Reply(answer.Reply)
		}
	})
}

func (cs *Chunkserver) onCopy(r *bus.Request, order *pb.CopyOrder) {
	if order.Handle == 0 || order.Version == 0 || order.Source == 0 || order.Source == order.Handle || order.Length < 1 || order.Length > gfs.ChunkSize {
		r.Fail(gfs.Errorf(gfs.CodeInvalid, "copy of chunk %016x to chunk %016x, version %s, of %d bytes: want two chunks and 1 to %d bytes",
			order.Source, order.Handle, gfs.Version(order.Version), order.Length, gfs.ChunkSize))
		return
	}
	cs.obey(r.Fail, order.Header, func() {
		cs.chunks.send(gfs.ChunkHandle(order.Handle), routed(func(c *chunk) { c.onCopy(order, bus.ReplyTo[*pb.CopyReply](r)) }))
	})
}

func (cs *Chunkserver) onClone(r *bus.Request, order *pb.CloneOrder) {
	if order.Handle == 0 || order.Version == 0 || order.Promise <= order.Version || order.Source.GetAddress() == "" || order.Source.Id == string(cs.ID()) {
		r.Fail(gfs.Errorf(gfs.CodeInvalid, "clone of chunk %016x in version %s, promise %s, from chunkserver %q: want another server, and a promise above the version",
			order.Handle, gfs.Version(order.Version), gfs.Version(order.Promise), order.Source.GetId()))
		return
	}
	cs.obey(r.Fail, order.Header, func() {
		cs.chunks.send(gfs.ChunkHandle(order.Handle), routed(func(c *chunk) { c.onClone(order, bus.ReplyTo[*pb.CloneReply](r)) }))
	})
}

// onDelete removes the replicas that still are as the order states them; the others stay, and the answer says how they are.
func (cs *Chunkserver) onDelete(r *bus.Request, order *pb.DeleteOrder) {
	if len(order.Replicas) > gfs.InventoryPageEntries {
		r.Fail(gfs.Errorf(gfs.CodeInvalid, "order to delete %d replicas: at most %d are allowed", len(order.Replicas), gfs.InventoryPageEntries))
		return
	}
	cs.obey(r.Fail, order.Header, func() {
		var left atomic.Int64
		left.Store(int64(len(order.Replicas)) + 1)
		done := func() {
			if left.Add(-1) == 0 {
				r.Reply(cs.deleted(order))
				cs.heartbeat.Send(actors.Func[*heartbeat]((*heartbeat).sweepSoon))
			}
		}
		for _, stated := range order.Replicas {
			cs.chunks.send(gfs.ChunkHandle(stated.Handle), routed(func(c *chunk) { c.onDelete(stated, done) }))
		}
		done()
	})
}

// deleted states what became of the replicas of an order.
func (cs *Chunkserver) deleted(order *pb.DeleteOrder) *pb.DeleteReply {
	reply := &pb.DeleteReply{}
	for _, stated := range order.Replicas {
		replica, err := cs.store.Get(gfs.ChunkHandle(stated.Handle))
		if err != nil {
			reply.Gone = append(reply.Gone, stated.Handle)
			continue
		}
		reply.Kept = append(reply.Kept, describeReplica(replica.Status()))
	}
	return reply
}

func (cs *Chunkserver) onInventoryOrder(r *bus.Request, order *pb.InventoryOrder) {
	cs.obey(r.Fail, order.Header, func() {
		cs.heartbeat.Send(actors.Func[*heartbeat]((*heartbeat).sendInventory))
		r.Reply(&pb.OrderReply{})
	})
}
