package master_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"
)

// peer plays a chunkserver over NATS: it obeys orders as semantics 3 demands, keeps what a chunkserver keeps, and
// can be killed, paused and restarted. It stores no bytes.
type peer struct {
	t           testing.TB
	conn        *bus.Conn
	subjects    messages.Subjects
	id          gfs.ServerID
	rack        string
	incarnation uint64
	free        int64

	mu       sync.Mutex
	replicas map[uint64]*pb.ReplicaStatus
	leases   map[uint64]*pb.HeldLease
	epoch    uint32
	paused   bool                     // as by SIGSTOP: takes messages and answers none
	lost     map[string]chan struct{} // by command: the next one gets no answer, and this is closed
	failures map[string]error         // by command: what the next order is answered with
	accuses  string                   // whom the next grant names
	others   []*peer                  // reached over the data plane, whatever the master hears of them
	orders   []string                 // "prepare 2.1", in order of arrival
	extended map[uint64]int

	sequence uint64
	stop     context.CancelFunc
	running  sync.WaitGroup
	service  *bus.Service
}

// beatInterval is shorter than a chunkserver's, to make tests short.
const beatInterval = 100 * time.Millisecond

func quiet() *logrus.Entry {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return logrus.NewEntry(logger)
}

// startPeer starts chunkserver number n.
func startPeer(t testing.TB, url string, n int) *peer {
	t.Helper()
	p := &peer{
		t: t, id: gfs.ServerID(fmt.Sprintf("%016x", n)), rack: fmt.Sprintf("rack%d", n%2), free: 90 << 30,
		replicas: map[uint64]*pb.ReplicaStatus{}, leases: map[uint64]*pb.HeldLease{}, failures: map[string]error{}, lost: map[string]chan struct{}{}, extended: map[uint64]int{},
	}
	subjects, err := messages.NewSubjects(cluster)
	if err != nil {
		t.Fatal(err)
	}
	p.subjects = subjects
	p.start(url)
	t.Cleanup(p.kill)
	return p
}

// start begins a process over what the peer keeps.
func (p *peer) start(url string) {
	p.t.Helper()
	conn, err := bus.Connect(bus.Config{URL: url, Log: quiet()})
	if err != nil {
		p.t.Fatal(err)
	}
	p.conn = conn
	p.incarnation++
	p.sequence = 0
	command := func(name string, handle func(*bus.Request)) bus.Endpoint {
		return bus.Endpoint{Name: name, Subject: p.subjects.Chunkserver(p.id, name), Handle: func(r *bus.Request) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.paused {
				r.Ignore()
				return
			}
			if lost := p.lost[name]; lost != nil {
				r.Ignore()
				close(lost)
				delete(p.lost, name)
				return
			}
			if err := p.failures[name]; err != nil {
				delete(p.failures, name)
				r.Fail(err)
				return
			}
			handle(r)
		}}
	}
	p.service, err = bus.Serve(conn, bus.ServiceConfig{Name: "peer", Version: "1.0.0", Gate: actors.NewGate("orders", 1000)},
		command(messages.CommandCreate, bus.Typed(p.create)),
		command(messages.CommandPrepare, bus.Typed(p.prepare)),
		command(messages.CommandGrant, bus.Typed(p.grant)),
		command(messages.CommandClone, bus.Typed(p.clone)),
		command(messages.CommandProbe, bus.Typed(p.probe)),
		command(messages.CommandRelay, bus.Typed(p.relay)),
	)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.running.Go(func() { p.beat(ctx) })
}

// kill ends the process as kill -9 does: nobody serves its subjects any more. What is durable stays.
func (p *peer) kill() {
	if p.stop == nil {
		return
	}
	p.stop()
	p.running.Wait()
	p.conn.Close()
	p.stop = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.leases)
}

// pause stops the process as SIGSTOP does, until resume.
func (p *peer) pause(paused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = paused
}

func (p *peer) check(header *pb.OrderHeader) error {
	switch {
	case header.GetIncarnation() != p.incarnation:
		return gfs.Errorf(gfs.CodeWrongIncarnation, "order for %d, this is %d", header.GetIncarnation(), p.incarnation)
	case header.GetEpoch() < p.epoch:
		return gfs.Errorf(gfs.CodeStaleEpoch, "epoch %d, heard of %d", header.GetEpoch(), p.epoch)
	}
	p.epoch = header.GetEpoch()
	return nil
}

func (p *peer) create(r *bus.Request, o *pb.CreateOrder) {
	p.orders = append(p.orders, "create "+gfs.Version(o.GetVersion()).String())
	if err := p.check(o.GetHeader()); err != nil {
		r.Fail(err)
		return
	}
	if p.replicas[o.GetHandle()] != nil {
		r.Fail(gfs.Errorf(gfs.CodeExist, "chunk %x exists", o.GetHandle()))
		return
	}
	p.replicas[o.GetHandle()] = &pb.ReplicaStatus{
		Handle: o.GetHandle(), Promised: o.GetVersion(), Active: o.GetVersion(), State: uint32(gfs.ReplicaMember), Marked: true,
	}
	if o.GetMembers()[0].GetId() == string(p.id) {
		p.lease(o.GetHandle(), o.GetVersion(), o.GetMembers())
	}
	r.Reply(&pb.OrderReply{})
}

func (p *peer) lease(handle, version uint64, members []*pb.Server) {
	held := &pb.HeldLease{Handle: handle, Version: version, Extend: true}
	for _, m := range members {
		held.Members = append(held.Members, m.GetId())
	}
	p.leases[handle] = held
}

func (p *peer) prepare(r *bus.Request, o *pb.PrepareOrder) {
	r.Progress(&pb.PrepareReply{Busy: true})
	bus.ReplyTo[*pb.PrepareReply](r).Send(p.promise(o))
}

// relay passes an order on.
func (p *peer) relay(r *bus.Request, o *pb.RelayOrder) {
	if err := p.check(o.GetHeader()); err != nil {
		r.Fail(err)
		return
	}
	i := slices.IndexFunc(p.others, func(other *peer) bool { return string(other.id) == o.GetTo().GetId() })
	if i < 0 {
		r.Fail(gfs.Errorf(gfs.CodeUnavailable, "%s is not reached", o.GetTo().GetId()))
		return
	}
	p.others[i].mu.Lock()
	defer p.others[i].mu.Unlock()
	bus.ReplyTo[*pb.PrepareReply](r).Send(p.others[i].promise(o.GetPrepare()))
}

func (p *peer) promise(o *pb.PrepareOrder) (*pb.PrepareReply, error) {
	p.orders = append(p.orders, "prepare "+gfs.Version(o.GetVersion()).String())
	replica := p.replicas[o.GetHandle()]
	err := p.check(o.GetHeader())
	switch {
	case err != nil:
		return nil, err
	case replica == nil:
		return nil, gfs.Errorf(gfs.CodeNoReplica, "no chunk %x", o.GetHandle())
	case o.GetVersion() <= replica.GetPromised():
		return nil, gfs.Errorf(gfs.CodeStaleVersion, "promised %s", gfs.Version(replica.GetPromised()))
	case o.GetJoiner() && (replica.GetState() != uint32(gfs.ReplicaLearner) || o.GetSource().GetAddress() == ""):
		return nil, gfs.Errorf(gfs.CodeConflict, "no learner, or no source")
	}
	if replica.GetPromised() == o.GetFromVersion() && replica.GetState() == uint32(gfs.ReplicaMember) {
		replica.Active = o.GetFromVersion()
	}
	replica.Promised, replica.Marked = o.GetVersion(), true
	delete(p.leases, o.GetHandle())
	return &pb.PrepareReply{Promised: replica.GetPromised(), Active: replica.GetActive(), Length: replica.GetLength(), State: replica.GetState(), Digest: []byte("all peers are equal")}, nil
}

// probe hears everybody.
func (p *peer) probe(r *bus.Request, o *pb.ProbeOrder) {
	if err := p.check(o.GetHeader()); err != nil {
		r.Fail(err)
		return
	}
	r.Reply(&pb.ProbeReply{})
}

// clone makes a learner that lacks nothing.
func (p *peer) clone(r *bus.Request, o *pb.CloneOrder) {
	p.orders = append(p.orders, "clone "+gfs.Version(o.GetVersion()).String())
	replica := p.replicas[o.GetHandle()]
	if err := p.check(o.GetHeader()); err != nil {
		r.Fail(err)
		return
	}
	switch {
	case replica == nil:
		replica = &pb.ReplicaStatus{Handle: o.GetHandle()}
		p.replicas[o.GetHandle()] = replica
	case replica.GetState() == uint32(gfs.ReplicaMember) && (replica.GetActive() == o.GetVersion() || replica.GetPromised() == o.GetVersion()):
		r.Fail(gfs.Errorf(gfs.CodeConflict, "a member"))
		return
	}
	replica.State, replica.Marked = uint32(gfs.ReplicaLearner), true
	replica.Promised = max(replica.GetPromised(), o.GetPromise())
	r.Reply(&pb.CloneReply{})
}

// grant stands for the chain and the reconciliation as well: the members become active when the master is told.
func (p *peer) grant(r *bus.Request, o *pb.GrantOrder) {
	p.orders = append(p.orders, "grant "+gfs.Version(o.GetVersion()).String())
	replica := p.replicas[o.GetHandle()]
	if err := p.check(o.GetHeader()); err != nil {
		r.Fail(err)
		return
	}
	if replica.GetPromised() != o.GetVersion() {
		r.Fail(gfs.Errorf(gfs.CodeStaleVersion, "promised %s", gfs.Version(replica.GetPromised())))
		return
	}
	if accused := p.accuses; accused != "" {
		p.accuses = ""
		r.Reply(&pb.GrantReply{Accused: accused})
		return
	}
	replica.Active = o.GetVersion()
	p.lease(o.GetHandle(), o.GetVersion(), o.GetMembers())
	r.Reply(&pb.GrantReply{Length: replica.GetLength()})
}

// beat sends heartbeats, and an inventory when it is asked for one.
func (p *peer) beat(ctx context.Context) {
	ticker := time.NewTicker(beatInterval)
	defer ticker.Stop()
	for {
		p.beatOnce(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *peer) beatOnce(ctx context.Context) {
	p.mu.Lock()
	if p.paused {
		p.mu.Unlock()
		return
	}
	p.sequence++
	beat := &pb.Heartbeat{
		Server:      &pb.Server{Id: string(p.id), Address: "127.0.0.1:75" + string(p.id[len(p.id)-2:]), Rack: p.rack},
		Incarnation: p.incarnation, Sequence: p.sequence, Epoch: p.epoch,
		CapacityBytes: 100 << 30, UsedBytes: 100<<30 - p.free, FreeBytes: p.free, Chunks: uint64(len(p.replicas)),
	}
	for _, held := range p.leases {
		beat.Leases = append(beat.Leases, proto.Clone(held).(*pb.HeldLease))
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var reply pb.HeartbeatReply
	if err := bus.Ask(ctx, p.conn, p.subjects.Heartbeat(p.id), beat, &reply); err != nil {
		return // no master acts
	}
	p.mu.Lock()
	p.epoch = max(p.epoch, reply.GetEpoch())
	for _, handle := range reply.GetExtended() {
		p.extended[handle]++
	}
	p.mu.Unlock()
	if reply.GetSendInventory() {
		p.sendInventory(ctx)
	}
}

func (p *peer) sendInventory(ctx context.Context) {
	p.mu.Lock()
	page := &pb.InventoryPage{
		Server: string(p.id), Incarnation: p.incarnation, Inventory: p.sequence, Last: true, LastHandle: math.MaxUint64,
	}
	for _, replica := range p.replicas {
		page.Replicas = append(page.Replicas, proto.Clone(replica).(*pb.ReplicaStatus))
	}
	p.mu.Unlock()
	slices.SortFunc(page.Replicas, func(a, b *pb.ReplicaStatus) int { return int(a.GetHandle()) - int(b.GetHandle()) })
	if err := bus.Ask(ctx, p.conn, p.subjects.Master(messages.OpInventory), page, new(pb.InventoryAck)); err != nil && ctx.Err() == nil {
		p.t.Logf("inventory of %s: %v", p.id, err)
	}
}

// holds reports whether the peer holds the lease of a chunk in a version.
func (p *peer) holds(handle, version uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leases[handle].GetVersion() == version
}

// closeChunk closes a chunk as its primary does.
func (p *peer) closeChunk(ctx context.Context, handle, version uint64, length int64) error {
	err := bus.Ask(ctx, p.conn, p.subjects.Master(messages.OpCloseChunk),
		&pb.CloseRequest{Handle: handle, Version: version, Length: length, Server: string(p.id)}, new(pb.CloseReply))
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.leases, handle)
	return err
}
