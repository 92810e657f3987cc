package sim

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// server is a node with a chunkserver. Its directory outlives its processes.
type server struct {
	node
	cluster *cluster
	index   int
	address string
	id      gfs.ServerID // empty before the first start
	starts  int
	server  *chunkserver.Simulated

	boots      int // losses of power
	durable    durability
	disk       disk
	untilCrash int // operations on its disk until the process ends in one; 0 for never
}

// capacityBytes is what a server may hold: so little that what is free does not depend on the real disk, and more than the
// copies that truncations make.
const capacityBytes = 4 << 30

// start begins a process.
func (s *server) start() {
	if s.up() {
		return
	}
	s.starts++
	s.disk.given = false
	w := s.cluster.world
	s.life = &life{world: w, name: fmt.Sprintf("%s.%d", s.name, s.starts)}
	simulated, err := chunkserver.StartSimulated(chunkserver.Config{
		Dirs: []string{filepath.Join(s.cluster.dir, s.name)}, Cluster: clusterName, Advertise: s.address,
		Incarnation: gfs.Incarnation(s.index+1)<<32 | gfs.Incarnation(s.starts), CopyBytesPerSecond: 1 << 30, CapacityBytes: capacityBytes,
		Log: s.cluster.log.WithField("node", s.life.name), Clock: w.clock, Random: s.cluster.bytes, Crash: s.cluster.crashed,
	}, &surroundings{s, s.life}, store.Config{
		Boot: fmt.Sprint("boot ", s.boots), Intercept: s.intercept, NoFsync: true,
	}, pushLimits())
	if err != nil {
		switch {
		case s.life.dead:
		case s.disk.last == w.now:
			w.note("%s does not start: %v", s.life.name, err)
			w.after(startPause, nil, s.start)
		default:
			w.fail("restart", "%s: %v", s.name, err)
		}
		s.life.end()
		return
	}
	s.server, s.id = simulated, simulated.ID()
	s.cluster.byID[s.id] = s
	s.settleDoubt()
	w.note("%s starts", s.life.name)
}

// crash ends the process, as kill -9 does: what it wrote is there.
func (s *server) crash() {
	if s.life == nil || s.server == nil {
		return
	}
	s.cluster.world.note("%s ends", s.life.name)
	s.untilCrash, s.durable.lost = 0, nil
	s.life.dead = true
	s.life.end()
	// What closing would write is refused: the process is dead.
	_ = s.server.Abandon()
	s.server = nil
}

// errDead is what a dead process hears from its disk.
var errDead = errors.New("simulated end of the process in an operation on the disk")

// uncounted are the operations that a process does not end in.
var uncounted = []string{"read", "open", "sync names", "replace", "committed"}

// intercept ends the process in the middle of an operation, and lets a dead one do nothing.
func (s *server) intercept(op, path string, n int) (int, error) {
	if s.life.dead {
		return 0, errDead
	}
	if done, err := s.fails(op, path, n); err != nil {
		return done, err
	}
	if op == "committed" && len(s.durable.lost) > 0 && !s.cluster.checks.looking {
		if err := s.durable.evict(); err != nil {
			s.cluster.fail("set-up", "pages of %s: %v", s.name, err)
		}
	}
	if op == "sync" && s.cluster.tracks && !strings.Contains(path, "/patches/") {
		if err := s.durable.synced(path); err != nil {
			s.cluster.fail("set-up", "sync of %s: %v", path, err)
		}
	}
	if op == "rename" {
		s.deletes(path)
	}
	if op == "allocate" {
		return 0, nil // that takes time, and says nothing
	}
	if s.untilCrash == 0 || slices.Contains(uncounted, op) {
		return n, nil
	}
	if s.untilCrash--; s.untilCrash > 0 {
		return n, nil
	}
	w := s.cluster.world
	w.note("%s ends in %s of %d bytes", s.life.name, op, n)
	s.life.dead = true
	w.after(0, nil, s.crash)
	if op == "write" && n > 0 {
		return w.random.IntN(n + 1), errDead
	}
	return 0, errDead
}

// surroundings are what a simulated chunkserver meets the world through.
type surroundings struct {
	server *server
	life   *life
}

func (r *surroundings) Stage() actors.Stage { return r.life }

func (r *surroundings) Go(f func()) { r.life.Job(f) }

func (r *surroundings) Wait() {}

func (r *surroundings) Signal(l sync.Locker) chunkserver.Signal { return r.life.newSignal(l) }

func (r *surroundings) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return r.life.withTimeout(ctx, d)
}

func (r *surroundings) Pause(ctx context.Context, d time.Duration) error { return r.life.pause(ctx, d) }

func (r *surroundings) OpenChain(ctx context.Context, open *pb.ChainOpen) (chunkserver.Downstream, *pb.ChainOpened, error) {
	return r.server.cluster.openChain(ctx, r.server, open)
}

func (r *surroundings) Call(ctx context.Context, address string, op wire.Op, request, reply proto.Message, payload ...[]byte) error {
	_, err := r.server.cluster.request(ctx, r.server, nil, address, op, request, reply, payload)
	return err
}

func (r *surroundings) Fetch(ctx context.Context, pool *dataplane.Pool, address string, op wire.Op, request, reply proto.Message) (*dataplane.Buffer, error) {
	return r.server.cluster.request(ctx, r.server, pool, address, op, request, reply, nil)
}

func (r *surroundings) Ask(ctx context.Context, subject string, request, reply proto.Message) error {
	return r.server.cluster.network.askAndWait(ctx, &r.server.node, bus.Call{Subject: subject, Request: request}, reply)
}

func (r *surroundings) AskAsync(call bus.Call, on func(bus.Answer) (done bool)) {
	r.server.cluster.network.ask(&r.server.node, call, on)
}

func (r *surroundings) PublishJSON(string, any) error { return nil }
