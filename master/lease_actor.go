package master

import (
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/master/lease"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
)

// leaseShell runs one chunk's lease.Chunk.
type leaseShell struct {
	*services
	period *period
	handle gfs.ChunkHandle
	core   *lease.Chunk
	synced bool // the file's acknowledgements wait for fsync
	self   actors.Ref[*leaseShell]

	waiters map[uint64]func(lease.Answer)
	waiter  uint64 // the last number given out
	handled uint64 // commands of the namespace actor that were carried out
	timer   *actors.Timer
	wake    time.Time // what timer is set to
}

func newLeaseShell(v *services, p *period, handle gfs.ChunkHandle, logged lease.Logged, synced bool) *leaseShell {
	return &leaseShell{
		services: v, period: p, handle: handle, synced: synced, waiters: map[uint64]func(lease.Answer){},
		core: lease.New(lease.Config{Handle: handle, NextVersion: p.nextVersion, ActingSince: p.since, Restored: p.restored}, logged),
	}
}

// Stopped answers who still waits.
func (s *leaseShell) Stopped() {
	s.core.Stop(errNotActing())
	s.carry()
	s.timer.Stop()
}

// wait keeps who is to be answered and returns the number that the core knows him by.
func (s *leaseShell) wait(answer func(lease.Answer)) uint64 {
	s.waiter++
	s.waiters[s.waiter] = answer
	return s.waiter
}

// carry does what the core wants after an input. Orders and answers come after the record, which was only proposed
// by then: the core asks for an order that needs it when it was applied.
func (s *leaseShell) carry() {
	out := s.core.Take()
	if len(out.Notes) > 0 {
		s.registry.Send(noteReplicas{s.period, s.handle, out.Notes})
	}
	if len(out.Unreached) > 0 {
		s.registry.Send(serversUnreached{s.period, out.Unreached})
	}
	switch {
	case out.Granted:
		location := s.core.Location()
		s.registry.Send(grantLease{s.period, s.handle, location.Version, location.Primary})
	case out.Revoked:
		s.registry.Send(endLease{s.period, s.handle})
	}
	if out.Locate {
		s.registry.Send(locateReplicas{s.handle, s.self})
	}
	if out.Record != nil {
		s.propose(s.period, out.Record, func(_ namespace.Outcome, err error) { s.self.Send(leaseRecorded{err}) })
	}
	for _, order := range out.Orders {
		s.order(order)
	}
	for _, a := range out.Answers {
		answer := s.waiters[a.Waiter]
		delete(s.waiters, a.Waiter)
		answer(a)
	}
	if out.Joined != nil {
		s.scanner.Send(joinEnded{s.period, s.handle, out.Joined.Err})
	}
	for _, e := range out.Events {
		s.log.WithFields(logrus.Fields{
			"actor": "lease", "chunk": s.handle, "version": s.core.Logged().Version, "about": e.Server, "detail": e.Detail,
		}).Info(e.Kind)
		s.event(&pb.Event{
			Kind: e.Kind, Server: string(e.Server), Chunk: s.handle.String(), Version: s.core.Logged().Version.String(), Detail: e.Detail,
		})
	}
	s.setTimer(out.Wake)
	if out.Done {
		s.namespace.Send(leaseIdle{s.handle, s.self, s.handled})
	}
}

func (s *leaseShell) setTimer(wake time.Time) {
	if wake.Equal(s.wake) {
		return
	}
	s.timer.Stop()
	s.wake, s.timer = wake, nil
	if !wake.IsZero() {
		s.timer = actors.After(s.self, wake.Sub(s.now()), actors.Command[*leaseShell](leaseTick{wake}))
	}
}

// leaseTick says that a time has come.
type leaseTick struct{ wake time.Time }

func (c leaseTick) Do(s *leaseShell) {
	if !c.wake.Equal(s.wake) {
		return // set anew since
	}
	s.wake = time.Time{}
	// A timer may be early by the clock's own account; the core wants to hear of the time that it asked for.
	now := s.now()
	if now.Before(c.wake) {
		now = c.wake
	}
	s.core.Tick(now)
	s.carry()
}

// routed is a command that came by way of the namespace actor.
type routed struct{ cmd actors.Command[*leaseShell] }

func (c routed) Do(s *leaseShell) {
	s.handled++
	c.cmd.Do(s)
}

// leaseWant asks for the chunk with a live primary.
type leaseWant struct {
	index         uint32
	failedVersion gfs.Version
	failedServer  gfs.ServerID
	reply         actors.Reply[*pb.ChunkLocation]
}

func (c leaseWant) Do(s *leaseShell) {
	waiter := s.wait(func(a lease.Answer) {
		if a.Err != nil {
			c.reply.Fail(a.Err)
			return
		}
		c.reply.Ok(describeLocation(c.index, a.Location))
	})
	s.core.Want(waiter, c.failedVersion, c.failedServer, s.now())
	s.carry()
}

// describeLocation is a core's location as clients get it.
func describeLocation(index uint32, at lease.Location) *pb.ChunkLocation {
	location := &pb.ChunkLocation{
		Index: index, Handle: uint64(at.Handle), Version: uint64(at.Version), Length: at.Length, Open: true, Primary: string(at.Primary),
		Replicas: describeServers(at.Members),
	}
	return location
}

func describeServers(servers []placement.Server) []*pb.Server {
	described := make([]*pb.Server, len(servers))
	for i, server := range servers {
		described[i] = describeServer(server)
	}
	return described
}

// describeServer is nil for the zero Server.
func describeServer(server placement.Server) *pb.Server {
	if server.ID == "" {
		return nil
	}
	return &pb.Server{Id: string(server.ID), Address: server.Address, Rack: server.Rack}
}

// leaseCreate makes the chunk; with reserve it is placed by leasePlace. done is called once.
type leaseCreate struct {
	place   lease.Place
	members []lease.Member
	reserve bool
	done    func(location *pb.ChunkLocation, failed []gfs.ServerID, err error)
}

func (c leaseCreate) Do(s *leaseShell) {
	waiter := s.wait(func(a lease.Answer) {
		if a.Err != nil {
			c.done(nil, a.Failed, a.Err)
			return
		}
		c.done(describeLocation(c.place.Index, a.Location), nil, nil)
	})
	s.core.Create(waiter, c.place, c.members, c.reserve, s.now())
	s.carry()
}

// leasePlace has a reserved chunk placed.
type leasePlace struct{}

func (leasePlace) Do(s *leaseShell) {
	s.core.Place()
	s.carry()
}

// leaseSeal asks for the chunk closed. done is called once.
type leaseSeal struct{ done func(error) }

func (c leaseSeal) Do(s *leaseShell) {
	waiter := s.wait(func(a lease.Answer) { c.done(a.Err) })
	s.core.Seal(waiter, s.now())
	s.carry()
}

// leaseReport is a complaint.
type leaseReport struct{ report *pb.Report }

func (c leaseReport) Do(s *leaseShell) {
	r := c.report
	s.log.WithFields(logrus.Fields{
		"actor": "lease", "chunk": s.handle, "version": gfs.Version(r.GetVersion()), "reporter": r.GetReporter(), "accused": r.GetAccused(),
		"kind": r.GetKind(), "detail": r.GetDetail(),
	}).Info("complaint")
	switch r.GetKind() {
	case pb.Report_UNREACHABLE:
		s.core.Report(gfs.Version(r.GetVersion()), gfs.ServerID(r.GetReporter()), gfs.ServerID(r.GetAccused()), s.now())
	case pb.Report_RENEW:
		s.core.Report(gfs.Version(r.GetVersion()), gfs.ServerID(r.GetReporter()), "", s.now())
	}
	s.carry()
}

// leaseClose is a primary's close.
type leaseClose closeChunk

func (c leaseClose) Do(s *leaseShell) {
	waiter := s.wait(func(a lease.Answer) {
		if a.Err != nil {
			c.reply.Fail(a.Err)
			return
		}
		c.reply.Ok(&pb.CloseReply{})
	})
	r := c.request
	s.core.CloseRequested(waiter, gfs.Version(r.GetVersion()), r.GetLength(), gfs.ServerID(r.GetServer()), s.now())
	s.carry()
}

// leaseReported is a lease that a chunkserver says it holds.
type leaseReported struct{ held registry.Held }

func (c leaseReported) Do(s *leaseShell) {
	h := c.held
	s.core.LeaseReported(lease.Held{
		Version: h.Version, Primary: lease.Member{Server: h.Server, Incarnation: h.Incarnation}, Members: h.Members, Extend: h.Extend,
	}, s.now())
	s.carry()
}

// leaseServerDown says that a process of a chunkserver is dead.
type leaseServerDown serverDown

func (c leaseServerDown) Do(s *leaseShell) {
	s.core.ServerDown(c.server, c.incarnation, s.now())
	s.carry()
}

// leaseRevive says that the log has the chunk open.
type leaseRevive struct{}

func (leaseRevive) Do(s *leaseShell) {
	s.core.Revive(s.now())
	s.carry()
}

// leaseStop ends everything.
type leaseStop struct{ err error }

func (c leaseStop) Do(s *leaseShell) {
	s.core.Stop(c.err)
	s.carry()
}

// leaseLocated is the registry's answer.
type leaseLocated struct{ replicas []registry.Replica }

func (c leaseLocated) Do(s *leaseShell) {
	s.core.Located(c.replicas, s.now())
	s.carry()
}

// leaseRecorded is the log's answer.
type leaseRecorded struct{ err error }

func (c leaseRecorded) Do(s *leaseShell) {
	s.core.Recorded(c.err, s.now())
	s.carry()
}
