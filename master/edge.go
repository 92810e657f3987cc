package master

import (
	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
)

// edge is where requests come in: two NATS services. That of the chunkservers has a gate of its own, so that a flood
// of clients' requests cannot make chunkservers look dead.
type edge struct {
	*services
	clients, chunkservers *bus.Service
}

// endpointHeartbeat is the name of the endpoint that hears heartbeats.
const endpointHeartbeat = "heartbeat"

// maxChunkserverRequests bounds what chunkservers sent and was not answered: some heartbeats and pages of each.
const maxChunkserverRequests = 4096

func serveEdge(v *services, version string) (*edge, error) {
	e := &edge{services: v}
	acts := func() bool { return v.acting.Load() != nil }
	var err error
	e.chunkservers, err = bus.Serve(v.conn, bus.ServiceConfig{
		Name: "cairn-master-chunkservers", Version: version, Description: "what chunkservers tell the masters of cluster " + v.cluster,
		Metadata: map[string]string{"id": v.id}, Gate: actors.NewGate("messages of chunkservers", maxChunkserverRequests), Answers: acts,
	}, e.forChunkservers()...)
	if err != nil {
		return nil, err
	}
	e.clients, err = bus.Serve(v.conn, bus.ServiceConfig{
		Name: "cairn-master", Version: version, Description: "the namespace and the chunks of cluster " + v.cluster,
		Metadata: map[string]string{"id": v.id}, Gate: actors.NewGate("requests to the master", gfs.MaxInFlightRequests), Answers: acts,
	}, e.forClients()...)
	if err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
}

func (e *edge) forChunkservers() []bus.Endpoint {
	return []bus.Endpoint{
		{Name: endpointHeartbeat, Subject: e.subjects.HeartbeatAll(), Always: true, Handle: bus.Typed(e.heartbeat)},
		{Name: messages.OpInventory, Subject: e.subjects.Master(messages.OpInventory), Always: true, Handle: bus.Typed(e.inventory)},
		e.endpoint(messages.OpReport, bus.Typed(e.report)),
		e.endpoint(messages.OpCloseChunk, bus.Typed(e.closeChunk)),
	}
}

func (e *edge) forClients() []bus.Endpoint {
	return []bus.Endpoint{
		e.endpoint(messages.OpMutate, bus.Typed(e.mutate)),
		e.endpoint(messages.OpStat, linearized(e, stat)),
		e.endpoint(messages.OpList, linearized(e, list)),
		e.endpoint(messages.OpTrash, linearized(e, listTrash)),
		e.endpoint(messages.OpStatFS, linearized(e, askStatFS)),
		e.endpoint(messages.OpLocate, linearized(e, locate)),
		e.endpoint(messages.OpLease, bus.Typed(e.lease)),
		e.endpoint(messages.OpServers, bus.Typed(e.servers)),
		e.endpoint(messages.OpGarbage, bus.Typed(e.askGarbage)),
		e.endpoint(messages.OpMasterState, bus.Typed(e.masterState)),
		e.endpoint(messages.OpBackup, linearized(e, fetchBackup)),
	}
}

func (e *edge) endpoint(op string, handle func(*bus.Request)) bus.Endpoint {
	return bus.Endpoint{Name: op, Subject: e.subjects.Master(op), Handle: func(r *bus.Request) {
		e.counters.requests.Add(1)
		if e.log.Logger.IsLevelEnabled(logrus.DebugLevel) {
			e.log.WithFields(logrus.Fields{"op": op, "request": r.RequestID(), "bytes": len(r.Data())}).Debug("request")
		}
		handle(r)
	}}
}

// stop ends the services; requests that were admitted are still answered.
func (e *edge) stop() {
	for _, service := range []*bus.Service{e.clients, e.chunkservers} {
		if service != nil {
			service.Stop()
		}
	}
}

func (e *edge) heartbeat(r *bus.Request, beat *pb.Heartbeat) { e.registry.Send(heartbeat{r, beat}) }

func (e *edge) inventory(r *bus.Request, page *pb.InventoryPage) { e.registry.Send(inventory{r, page}) }

func (e *edge) report(r *bus.Request, c *pb.Report) {
	if c.GetKind() == pb.Report_CORRUPT && c.GetReporter() != c.GetAccused() { // a holder has told of its own replica
		e.event(&pb.Event{
			Kind: messages.EventChunkCorrupt, Server: c.GetAccused(), Chunk: gfs.ChunkHandle(c.GetHandle()).String(),
			Version: gfs.Version(c.GetVersion()).String(), Detail: c.GetDetail(),
		})
	}
	e.namespace.Send(report{c, bus.ReplyTo[*pb.ReportReply](r)})
}

func (e *edge) closeChunk(r *bus.Request, c *pb.CloseRequest) {
	e.namespace.Send(closeChunk{c, bus.ReplyTo[*pb.CloseReply](r)})
}

func (e *edge) lease(r *bus.Request, c *pb.LeaseRequest) {
	e.counters.leases.Add(1)
	e.namespace.Send(wantLease{c, bus.ReplyTo[*pb.ChunkLocation](r)})
}

func (e *edge) servers(r *bus.Request, _ *pb.ServersRequest) { e.registry.Send(listServers{r}) }

// mutate puts a mutation into the log. What is malformed is refused before; whatever depends on the state is decided
// when the record is applied, since only that turn knows whether this is the retry of a mutation that took effect.
func (e *edge) mutate(r *bus.Request, m *pb.NamespaceMutation) {
	e.counters.mutations.Add(1)
	p := e.acting.Load()
	if p == nil {
		r.Ignore()
		return
	}
	if err := checkMutation(m); err != nil {
		r.Fail(err)
		return
	}
	if m.GetTruncate() != nil {
		e.namespace.Send(truncate{r, m})
		return
	}
	e.propose(p, &pb.Record{Command: &pb.Record_Mutation{Mutation: m}}, func(outcome namespace.Outcome, err error) {
		if err != nil {
			e.counters.failures.Add(1)
			r.Fail(err)
			return
		}
		r.Reply(outcome.Reply)
		if !outcome.Repeated {
			e.mutated(m, outcome)
		}
	})
}

// mutated tells monitoring of files that came and went.
func (e *edge) mutated(m *pb.NamespaceMutation, outcome namespace.Outcome) {
	switch op := m.GetOperation().(type) {
	case *pb.NamespaceMutation_CreateFile:
		if !outcome.Made {
			return // one that exists was opened
		}
		e.event(&pb.Event{Kind: messages.EventFileCreated, Path: op.CreateFile.GetPath()})
	case *pb.NamespaceMutation_Remove:
		if outcome.Reply.GetStatus() != nil {
			e.event(&pb.Event{Kind: messages.EventFileDeleted, Path: op.Remove.GetPath()})
		}
	}
}

// checkMutation refuses what no state would accept.
func checkMutation(m *pb.NamespaceMutation) error {
	var paths []string
	switch op := m.GetOperation().(type) {
	case nil:
		return gfs.Errorf(gfs.CodeInvalid, "mutation without an operation")
	case *pb.NamespaceMutation_CreateFile:
		paths = append(paths, op.CreateFile.GetPath())
		if n := op.CreateFile.GetReplicas(); n > gfs.MaxReplicas {
			return gfs.Errorf(gfs.CodeInvalid, "%d replicas: want 1 to %d, or 0 for the default", n, gfs.MaxReplicas)
		}
	case *pb.NamespaceMutation_MakeDirectory:
		paths = append(paths, op.MakeDirectory.GetPath())
	case *pb.NamespaceMutation_Remove:
		paths = append(paths, op.Remove.GetPath())
	case *pb.NamespaceMutation_Rename:
		paths = append(paths, op.Rename.GetFrom(), op.Rename.GetTo())
	case *pb.NamespaceMutation_SetAttributes:
		paths = append(paths, op.SetAttributes.GetPath())
	case *pb.NamespaceMutation_Undelete:
		paths = append(paths, op.Undelete.GetPath())
	case *pb.NamespaceMutation_Truncate:
		if op.Truncate.GetReplacement() != nil {
			return gfs.Errorf(gfs.CodeInvalid, "truncate with a replacement: the master makes it")
		}
		if op.Truncate.GetFileId() == 0 {
			paths = append(paths, op.Truncate.GetPath())
		}
	}
	for _, name := range paths {
		if _, err := gfs.CleanPath(name); err != nil {
			return err
		}
	}
	return nil
}

func (e *edge) askGarbage(r *bus.Request, c *pb.GarbageRequest) {
	if e.acting.Load() == nil {
		r.Ignore()
		return
	}
	e.scanner.Send(describeGarbage{r, gfs.ServerID(c.GetConfirm())})
}

func (e *edge) masterState(r *bus.Request, _ *pb.MasterStateRequest) {
	e.namespace.Send(read{r, func(s *namespaceShell, r *bus.Request) {
		counts := s.view().Counts()
		state := &pb.MasterStateReply{
			Id: s.id, Epoch: uint32(s.view().Epoch()), AppliedIndex: s.oplog.Stats().Applied,
			Files: uint64(counts.Files), Chunks: uint64(counts.Chunks),
		}
		s.registry.Send(completeState{r, state})
	}})
}

// completeState adds what the registry knows.
type completeState struct {
	request *bus.Request
	state   *pb.MasterStateReply
}

func (c completeState) Do(s *registryShell) {
	c.state.ChunkserversUp = uint32(s.core.Totals().Up)
	c.request.Reply(c.state)
}
