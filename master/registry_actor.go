package master

import (
	"slices"
	"strings"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/lease"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
)

// livenessInterval is how often silence is looked for.
const livenessInterval = gfs.HeartbeatTimeout / 12

// registryShell runs the registry.Registry. It does so on standbys too: they hear the same heartbeats.
type registryShell struct {
	*services
	core   *registry.Registry
	period *period // nil while this master does not act
	self   actors.Ref[*registryShell]
	timer  *actors.Timer
	survey surveyCounts // of the scanner's last round
}

// surveyCounts are what the scanner found in one round over all chunks.
type surveyCounts struct{ under, missing, corrupt uint64 }

// registryStart begins the watch over silence.
type registryStart struct{}

func (registryStart) Do(s *registryShell) { s.arm() }

func (s *registryShell) arm() {
	s.timer = actors.After(s.self, livenessInterval, actors.Command[*registryShell](livenessTick{}))
}

// Stopped ends the watch.
func (s *registryShell) Stopped() { s.timer.Stop() }

// livenessTick lets time pass.
type livenessTick struct{}

func (livenessTick) Do(s *registryShell) {
	for _, down := range s.core.Tick(s.now()) {
		s.log.WithFields(logrus.Fields{"actor": "registry", "server": down.Server, "silent_ms": down.Silent.Milliseconds()}).Warn("chunkserver down")
		s.died(down.Server, down.Incarnation, "silent for "+down.Silent.Round(time.Millisecond).String())
	}
	s.arm()
}

// died tells everyone that a process is dead.
func (s *registryShell) died(server gfs.ServerID, incarnation gfs.Incarnation, why string) {
	if s.period == nil {
		return
	}
	s.namespace.Send(serverDown{server, incarnation})
	s.event(&pb.Event{Kind: messages.EventChunkserverDown, Server: string(server), Detail: why})
}

// registryActs begins a period, or ends it where period is nil.
type registryActs struct {
	period *period
	limit  gfs.ChunkHandle
}

func (c registryActs) Do(s *registryShell) {
	s.period = c.period
	s.core.EndLeases()
	if c.period == nil {
		return
	}
	s.core.SetHandleLimit(c.limit)
	s.core.AskAgain()
	// What the primaries of the master before said to this one while it stood by.
	s.namespace.Send(leasesHeld{c.period, s.core.LastHeld()})
}

// raiseHandleLimit says that handles below limit were given out.
type raiseHandleLimit struct{ limit gfs.ChunkHandle }

func (c raiseHandleLimit) Do(s *registryShell) { s.core.SetHandleLimit(c.limit) }

// heartbeat is a chunkserver's heartbeat. Every master hears it and the acting one answers.
type heartbeat struct {
	request *bus.Request
	beat    *pb.Heartbeat
}

func (c heartbeat) Do(s *registryShell) {
	s.counters.heartbeats.Add(1)
	heard, err := s.hear(c)
	switch {
	case s.period == nil:
		c.request.Ignore()
	case err != nil:
		s.log.WithFields(logrus.Fields{"actor": "registry", "subject": c.request.Subject(), "err": err}).Warn("heartbeat refused")
		c.request.Fail(err)
	default:
		reply := &pb.HeartbeatReply{Epoch: uint32(s.period.epoch), SendInventory: heard.SendInventory, ActingMaster: s.id}
		for _, handle := range heard.Extended {
			reply.Extended = append(reply.Extended, uint64(handle))
		}
		c.request.Reply(reply)
	}
}

func (s *registryShell) hear(c heartbeat) (registry.Heard, error) {
	id := gfs.ServerID(c.beat.GetServer().GetId())
	if !strings.HasSuffix(c.request.Subject(), "."+string(id)) {
		return registry.Heard{}, gfs.Errorf(gfs.CodeInvalid, "heartbeat of server %.32q on %s: send it on your own subject", id, c.request.Subject())
	}
	heard, err := s.core.Heartbeat(c.beat, s.now())
	if err != nil {
		return heard, err
	}
	if heard.Replaced != 0 {
		s.died(id, heard.Replaced, "its process was replaced by another one")
	}
	if heard.CameUp || heard.Replaced != 0 {
		s.log.WithFields(logrus.Fields{"actor": "registry", "server": id, "address": c.beat.GetServer().GetAddress()}).Info("chunkserver up")
		if s.period != nil {
			s.event(&pb.Event{Kind: messages.EventChunkserverUp, Server: string(id), Detail: c.beat.GetServer().GetAddress()})
		}
	}
	if s.period != nil && len(heard.Held) > 0 {
		s.namespace.Send(leasesHeld{s.period, heard.Held})
	}
	return heard, nil
}

// inventory is a page of a full inventory.
type inventory struct {
	request *bus.Request
	page    *pb.InventoryPage
}

func (c inventory) Do(s *registryShell) {
	complete, err := s.core.Inventory(c.page, s.now())
	if complete {
		s.log.WithFields(logrus.Fields{"actor": "registry", "server": c.page.GetServer(), "pages": c.page.GetPage() + 1}).Info("inventory complete")
	}
	switch {
	case s.period == nil:
		c.request.Ignore()
	case err != nil:
		c.request.Fail(err)
	default:
		c.request.Reply(&pb.InventoryAck{Epoch: uint32(s.period.epoch)})
	}
}

// noteReplicas records what a lease actor learnt.
type noteReplicas struct {
	period *period
	handle gfs.ChunkHandle
	notes  []registry.Note
}

func (c noteReplicas) Do(s *registryShell) {
	if s.period == c.period {
		s.core.Note(c.handle, c.notes)
	}
}

// serversUnreached records that chunkservers were not reached by others.
type serversUnreached struct {
	period  *period
	servers []gfs.ServerID
}

func (c serversUnreached) Do(s *registryShell) {
	if s.period == c.period {
		s.core.Unreached(c.servers, s.now())
	}
}

// grantLease and endLease record who is the primary of a chunk.
type grantLease struct {
	period  *period
	handle  gfs.ChunkHandle
	version gfs.Version
	primary gfs.ServerID
}

func (c grantLease) Do(s *registryShell) {
	if s.period == c.period {
		s.core.GrantLease(c.handle, c.version, c.primary)
	}
}

type endLease struct {
	period *period
	handle gfs.ChunkHandle
}

func (c endLease) Do(s *registryShell) {
	if s.period == c.period {
		s.core.EndLease(c.handle)
	}
}

// locateReplicas asks for a chunk's replicas on behalf of its lease actor.
type locateReplicas struct {
	handle gfs.ChunkHandle
	lease  actors.Ref[*leaseShell]
}

// The answer goes by the namespace actor, as what heartbeats say of leases does: a primary that was heard of is adopted
// before its replica can begin an attempt.
func (c locateReplicas) Do(s *registryShell) {
	s.namespace.Send(replicasLocated{c.handle, c.lease, leaseLocated{s.core.Replicas(c.handle)}})
}

// replicasLocated passes the registry's answer on, unless the lease actor that asked is gone.
type replicasLocated struct {
	handle gfs.ChunkHandle
	lease  actors.Ref[*leaseShell]
	answer leaseLocated
}

func (c replicasLocated) Do(s *namespaceShell) {
	if entry := s.leaseActors[c.handle]; entry != nil && entry.ref == c.lease {
		s.tell(c.handle, c.answer)
	}
}

// chooseServers asks for servers for a new chunk, the primary first.
type chooseServers struct {
	want  int
	avoid map[gfs.ServerID]bool
	reply actors.Reply[[]lease.Member]
}

func (c chooseServers) Do(s *registryShell) {
	servers, err := placement.Choose(s.core.Candidates(s.now()), c.want, c.avoid, s.random)
	if err != nil {
		c.reply.Fail(err)
		return
	}
	s.core.Placed(servers)
	members := make([]lease.Member, len(servers))
	for i, server := range servers {
		members[i] = lease.Member{Server: server, Incarnation: s.core.Incarnation(server.ID)}
	}
	c.reply.Ok(members)
}

// locateChunks answers a client that wants to read: first is the index of the first chunk.
type locateChunks struct {
	request *bus.Request
	chunks  []namespace.Chunk
	lost    []gfs.Version // by chunk: see namespace.View.LostBefore
	first   int
	total   int
}

func (c locateChunks) Do(s *registryShell) {
	reply := &pb.LocateReply{FileChunks: uint32(c.total)}
	for i, chunk := range c.chunks {
		location := s.locate(uint32(c.first+i), chunk)
		location.LostBefore = uint64(c.lost[i])
		reply.Chunks = append(reply.Chunks, location)
	}
	c.request.Reply(reply)
}

// locate lists a chunk's good replicas, the primary first.
func (s *registryShell) locate(index uint32, chunk namespace.Chunk) *pb.ChunkLocation {
	location := &pb.ChunkLocation{
		Index: index, Handle: uint64(chunk.Handle), Version: uint64(chunk.Version), Length: chunk.Length, Open: chunk.Open,
	}
	if l, held := s.core.Lease(chunk.Handle); held && l.Version == chunk.Version {
		location.Primary = string(l.Server)
	}
	replicas := s.core.Replicas(chunk.Handle)
	readable := func(r registry.Replica) bool { return r.Up && r.Good(chunk.Version) }
	if !slices.ContainsFunc(replicas, readable) {
		// Most blocks of a corrupt replica are good, and its server serves no bad one.
		readable = func(r registry.Replica) bool {
			return r.Up && r.State == gfs.ReplicaCorrupt && r.Active == chunk.Version
		}
	}
	for _, r := range replicas {
		if !readable(r) {
			continue
		}
		server := &pb.Server{Id: string(r.ID), Address: r.Address, Rack: r.Rack}
		location.Replicas = append(location.Replicas, server)
		if last := len(location.Replicas) - 1; server.GetId() == location.GetPrimary() {
			location.Replicas[0], location.Replicas[last] = location.Replicas[last], location.Replicas[0]
		}
	}
	return location
}

// surveyChunks counts the good replicas of a slice of chunks for the scanner, and plans joins for some that have too
// few.
type surveyChunks struct {
	period *period
	chunks []namespace.Chunk
	busy   map[gfs.ChunkHandle]bool // those to make no plan for; not changed any more
	reply  actors.Reply[sliceSurvey]
}

// sliceSurvey is what was found in a slice.
type sliceSurvey struct {
	counts surveyCounts
	plans  []joinPlan
	revive []gfs.ChunkHandle // that need a primary, though the log may have them closed
}

func (c surveyChunks) Do(s *registryShell) {
	var found sliceSurvey
	for _, chunk := range c.chunks {
		survey := s.core.Survey(chunk.Handle, chunk.Version)
		found.counts.corrupt += uint64(survey.Corrupt)
		if chunk.Version.Epoch() < c.period.restored && s.core.Ahead(chunk.Handle, chunk.Version, c.period.restored) {
			found.revive = append(found.revive, chunk.Handle) // the log was restored, and what it knows as good brings none of these in
			continue
		}
		switch {
		case survey.Good == 0:
			found.counts.missing++
			if survey.Suspect > 0 { // power was lost, and nobody serves a suspect before it was a primary
				found.revive = append(found.revive, chunk.Handle)
			}
		case survey.Good < chunk.Replicas:
			found.counts.under++
			if len(found.plans) < maxThin && !c.busy[chunk.Handle] {
				if plan, ok := s.plan(chunk); ok {
					found.plans = append(found.plans, plan)
				}
			}
		}
	}
	c.reply.Ok(found)
}

// surveyed is the scanner's sum over all chunks.
type surveyed struct{ counts surveyCounts }

func (c surveyed) Do(s *registryShell) { s.survey = c.counts }

// statFS completes the namespace actor's counts.
type statFS struct {
	request *bus.Request
	counts  namespace.Counts
}

func (c statFS) Do(s *registryShell) {
	t := s.core.Totals()
	c.request.Reply(&pb.StatFSReply{
		CapacityBytes: t.Capacity, UsedBytes: t.Used, FreeBytes: t.Free,
		Files: uint64(c.counts.Files), Directories: uint64(c.counts.Directories), Chunks: uint64(c.counts.Chunks),
		UnderReplicated: s.survey.under, Corrupt: s.survey.corrupt, Missing: s.survey.missing,
		ChunkserversUp: uint32(t.Up), Chunkservers: uint32(t.Servers),
	})
}

// listServers describes the chunkservers.
type listServers struct{ request *bus.Request }

func (c listServers) Do(s *registryShell) {
	c.request.Reply(&pb.ServersReply{Servers: s.core.Servers(s.now())})
}

// totals asks for the registry's sums.
type totals struct{ reply actors.Reply[registry.Totals] }

func (c totals) Do(s *registryShell) { c.reply.Ok(s.core.Totals()) }
