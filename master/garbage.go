package master

import (
	"maps"
	"slices"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
)

// garbagePages is how many pages of 256 handles one turn of the registry looks through for garbage.
const garbagePages = 16

// Garbage goes through the actors like this. The scanner, which counts and decides how much is deleted where, has the
// registry look for replicas that its view of the log does not need. The namespace actor leaves out those whose chunk has
// a lease actor, since it is being made or reconfigured, or is a copy on its way, and sends the orders; a chunkserver deletes what still is as it
// reported it, and its answer goes back to the registry and the scanner.

// findGarbage looks through a slice of all replicas.
type findGarbage struct {
	view  *namespace.View
	from  gfs.ChunkHandle
	reply actors.Reply[garbageSlice]
}

// garbageSlice is what was found; next is 0 after the last slice, which alone carries the audits.
type garbageSlice struct {
	found  []registry.Garbage
	next   gfs.ChunkHandle
	audits []registry.Audit
}

func (c findGarbage) Do(s *registryShell) {
	var slice garbageSlice
	slice.found, slice.next = s.core.Garbage(c.from, garbagePages, func(handle gfs.ChunkHandle) (registry.Known, bool) {
		chunk, found := c.view.Chunk(handle)
		return registry.Known{Version: chunk.Version, Replicas: chunk.Replicas, Open: chunk.Open}, found
	})
	if slice.next == 0 {
		slice.audits = s.core.Audits()
	}
	c.reply.Ok(slice)
}

// sweepGarbage has the registry look through the slice of all replicas that begins at a handle.
func (s *scannerShell) sweepGarbage(from gfs.ChunkHandle) {
	self, p := s.self, s.period
	s.registry.Send(findGarbage{s.view, from, actors.NewReply(func(slice garbageSlice, _ error) {
		self.Send(garbageFound{p, slice})
	})})
}

// garbageFound is the registry's answer.
type garbageFound struct {
	period *period
	slice  garbageSlice
}

func (c garbageFound) Do(s *scannerShell) {
	if !s.current(c.period) || s.view == nil {
		return
	}
	s.garbage.add(c.slice.found, s.view.Lost)
	if c.slice.next != 0 {
		s.sweepGarbage(c.slice.next)
		return
	}
	for _, server := range slices.Sorted(maps.Keys(s.garbage.batches)) {
		s.garbage.ordered(server, s.now())
		s.deleteVerified(server, s.garbage.batches[server])
	}
	for server, reason := range s.garbage.end(c.slice.audits, s.view.DroppedLately()) {
		s.log.WithFields(logrus.Fields{"actor": "scanner", "server": server, "err": reason}).Warn("replicas that no file needs are kept; see admin gc")
		s.event(&pb.Event{Kind: messages.EventGarbageHeld, Server: string(server), Detail: reason})
	}
	s.endRound()
}

// deleteVerified has garbage deleted if this master still acts. A placement of whose record nobody learnt what became of
// it was proposed before the leadership was lost; once the leadership is verified it has been applied or never will be.
func (s *scannerShell) deleteVerified(server gfs.ServerID, batch []registry.Garbage) {
	p := s.period
	s.around.LinearizeAsync(func(err error) {
		if err != nil {
			s.self.Send(garbageDeleted{p, server, err})
			return
		}
		s.namespace.Send(deleteGarbage{p, batch})
	})
}

// deleteGarbage orders one server's garbage deleted.
type deleteGarbage struct {
	period *period
	batch  []registry.Garbage
}

func (c deleteGarbage) Do(s *namespaceShell) {
	if s.period == nil || s.period != c.period {
		return
	}
	to, p := c.batch[0], s.period
	order := &pb.DeleteOrder{Header: s.header(p, to.Incarnation)}
	for _, g := range c.batch {
		if s.collectable(g) && g.Incarnation == to.Incarnation {
			order.Replicas = append(order.Replicas, &pb.ReplicaStatus{
				Handle: uint64(g.Handle), Promised: uint64(g.Promised), Active: uint64(g.Active), Length: g.Length,
				State: uint32(g.State), Marked: g.Marked,
			})
		}
	}
	if len(order.Replicas) == 0 {
		s.scanner.Send(garbageDeleted{p, to.ID, nil})
		return
	}
	s.counters.ordersSent.Add(1)
	s.around.AskAsync(bus.Call{
		Subject: s.subjects.Chunkserver(to.ID, messages.CommandDelete), Request: order, Total: deleteTimeout,
	}, func(answer bus.Answer) bool {
		var reply pb.DeleteReply
		err := answer.Decode(&reply)
		if err == nil {
			s.registry.Send(replicasDeleted{to.ID, to.Incarnation, &reply})
		} else {
			s.counters.ordersFailed.Add(1)
		}
		s.scanner.Send(garbageDeleted{p, to.ID, err})
		return true
	})
}

// collectable reports whether a replica still is garbage as far as this actor knows: it alone knows which chunks are
// being made.
func (s *namespaceShell) collectable(g registry.Garbage) bool {
	if s.leaseActors[g.Handle] != nil || s.copies[g.Handle] || g.Handle >= s.handles.next {
		return false // s.handles.next is 0 before the first reservation, and then nothing is
	}
	chunk, found := s.view().Chunk(g.Handle)
	if g.Orphaned {
		return !found
	}
	return found && !chunk.Open && chunk.Version == g.Version
}

// replicasDeleted tells the registry what a chunkserver deleted and how the rest is.
type replicasDeleted struct {
	server      gfs.ServerID
	incarnation gfs.Incarnation
	reply       *pb.DeleteReply
}

func (c replicasDeleted) Do(s *registryShell) {
	for _, handle := range c.reply.GetGone() {
		s.core.Deleted(c.server, c.incarnation, gfs.ChunkHandle(handle))
	}
	for _, status := range c.reply.GetKept() {
		s.core.Kept(c.server, c.incarnation, status)
	}
	s.counters.replicasDeleted.Add(uint64(len(c.reply.GetGone())))
}

// garbageDeleted is the end of an order.
type garbageDeleted struct {
	period *period
	server gfs.ServerID
	err    error
}

func (c garbageDeleted) Do(s *scannerShell) {
	if !s.current(c.period) {
		return
	}
	if c.err != nil {
		s.log.WithFields(logrus.Fields{"actor": "scanner", "server": c.server, "err": c.err}).Debug("garbage not deleted")
	}
	s.garbage.answered(c.server)
}

// describeGarbage answers an operator.
type describeGarbage struct {
	request *bus.Request
	confirm gfs.ServerID
}

func (c describeGarbage) Do(s *scannerShell) {
	if s.period == nil {
		c.request.Ignore()
		return
	}
	if c.confirm != "" {
		if err := s.garbage.confirm(c.confirm, s.now()); err != nil {
			c.request.Fail(err)
			return
		}
		s.log.WithFields(logrus.Fields{"actor": "scanner", "server": c.confirm}).Warn("an operator confirmed that what no file needs there is garbage")
	}
	c.request.Reply(&pb.GarbageReply{Servers: s.garbage.describe()})
}
