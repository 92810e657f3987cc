package chunkserver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Config says what a chunkserver is. Dirs, Cluster and Log are required.
type Config struct {
	// Dirs are the data directories, made if need be. Together they are one server, with one id.
	Dirs []string
	// Cluster is the name of the cluster: 1 to 64 letters, digits, - or _. A directory belongs to one for ever.
	Cluster string
	// NATS is the URL of the NATS servers; empty is nats://127.0.0.1:4222. InProcess, if not nil, is a NATS server of
	// this process that is used instead; Bus, if not nil, is a connection that is used instead and stays its owner's.
	NATS      string
	InProcess nats.InProcessConnProvider
	Bus       *bus.Conn
	// Listen is the HOST:PORT of the data plane; empty is 127.0.0.1:0, a free port. Insecure allows one beyond
	// loopback: data connections are not authenticated.
	Listen   string
	Insecure bool
	// Advertise is the HOST:PORT at which others reach the data plane; empty is the listener's own.
	Advertise string
	// Rack is the label of the server's rack, for placement; Host names the machine in logs.
	Rack string
	Host string
	// CapacityBytes bounds the capacity that the server states; 0 is the disks'. ReserveBytes is what is left free on
	// each disk: new replicas are refused below it.
	CapacityBytes int64
	ReserveBytes  int64
	// Incarnation tells this process from earlier ones of the same server; 0 draws one.
	Incarnation gfs.Incarnation
	// CopyBytesPerSecond bounds how fast replicas are brought up to date here; 0 is gfs.CopyBytesPerSecond.
	CopyBytesPerSecond int64
	// Log gets what a person may want to know.
	Log *logrus.Entry
	// Clock is the time; nil is time.Now. Random is where ids come from; nil is crypto/rand.
	Clock  func() time.Time
	Random io.Reader
	// Crash hears of a bug, a panic inside an actor; nil ends the process.
	Crash func(error)
}

// Chunkserver is a running chunkserver. It is safe for concurrent use.
type Chunkserver struct {
	cfg      Config
	log      *logrus.Entry
	now      func() time.Time
	subjects messages.Subjects
	self     *pb.Server

	store     *store.Store
	pool      dataplane.Pool
	server    *dataplane.Server
	conn      *bus.Conn
	around    Surroundings
	service   *bus.Service
	system    *actors.System
	disk      *actors.Workers // waits for the disk
	network   *actors.Workers // waits for the master, or for a peer to take data
	chains    chainWorkers
	copies    *actors.Workers // brings learners up to date
	joiners   *actors.Workers // does the same under Prepare, and makes copies: somebody waits
	copyPace  pacer
	closer    closer
	attending attendance
	chunks    *chunkTable
	leases    leaseBook
	heartbeat actors.Ref[*heartbeat]
	counters  counters
	corrupt   corruptReports
	deletions deletions

	ctx       context.Context // ends with the server
	cancel    context.CancelFunc
	heard     atomic.Int64 // when a master was last heard, in Unix nanoseconds
	closeOnce sync.Once
	closeErr  error
}

// The workers of a server, and how many jobs may wait for them.
const (
	diskWorkers, diskQueue       = 8, 4096
	networkWorkers, networkQueue = 64, 4096
	copyQueue                    = 4 * gfs.MaxServerJoins
)

// Start opens the data directories, connects to NATS, and serves until Close. It returns when orders and data
// connections are taken; the masters hear of the server within gfs.HeartbeatInterval. ctx bounds the start alone.
//
// Errors: those of store.Open for the directories; gfs.CodeInvalid for a configuration that cannot be; gfs.CodeUnavailable
// without a NATS server.
func Start(ctx context.Context, cfg Config) (*Chunkserver, error) {
	cs, err := newChunkserver(cfg)
	if err != nil {
		return nil, err
	}
	if err := cs.start(ctx); err != nil {
		return nil, errors.Join(err, cs.Close())
	}
	cs.log.WithFields(logrus.Fields{"address": cs.self.Address, "rack": cs.cfg.Rack, "host": cs.cfg.Host, "chunks": cs.store.Len()}).
		Info("chunkserver started")
	return cs, nil
}

func newChunkserver(cfg Config) (*Chunkserver, error) {
	if cfg.Log == nil || len(cfg.Dirs) == 0 {
		return nil, gfs.Errorf(gfs.CodeInvalid, "a chunkserver wants a log and at least one data directory")
	}
	subjects, err := messages.NewSubjects(cfg.Cluster)
	if err != nil {
		return nil, err
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.CopyBytesPerSecond <= 0 {
		cfg.CopyBytesPerSecond = gfs.CopyBytesPerSecond
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	for cfg.Incarnation == 0 {
		var random [8]byte
		if _, err := io.ReadFull(cfg.Random, random[:]); err != nil {
			return nil, fmt.Errorf("draw an incarnation: %w", err)
		}
		cfg.Incarnation = gfs.Incarnation(binary.BigEndian.Uint64(random[:]))
	}
	cs := &Chunkserver{cfg: cfg, log: cfg.Log.WithField("role", "chunkserver"), now: cfg.Clock, subjects: subjects}
	cs.ctx, cs.cancel = context.WithCancel(context.Background())
	return cs, nil
}

func (cs *Chunkserver) start(ctx context.Context) error {
	around := &process{}
	if err := cs.open(around, store.Config{}); err != nil {
		return err
	}
	if err := cs.connect(around); err != nil {
		return err
	}
	cs.beat()
	return ctx.Err()
}

// open opens the directories and makes everything that does the server's work. disks says what Config does not.
func (cs *Chunkserver) open(around Surroundings, disks store.Config) error {
	var err error
	cfg := &cs.cfg
	cs.around = around
	disks.Dirs, disks.Cluster, disks.CapacityBytes, disks.ReserveBytes = cfg.Dirs, cfg.Cluster, cfg.CapacityBytes, cfg.ReserveBytes
	disks.Log, disks.Random, disks.Now = cs.log, cfg.Random, cfg.Clock
	cs.store, err = store.Open(disks)
	if err != nil {
		return err
	}
	cs.log = cs.log.WithField("server", string(cs.store.ID()))
	cs.closer.store, cs.closer.around = cs.store, cs.around
	stage := cs.around.Stage()
	cs.disk = actors.NewWorkersOn(stage, diskWorkers, diskQueue)
	cs.network = actors.NewWorkersOn(stage, networkWorkers, networkQueue)
	cs.chains = newChainWorkers(stage)
	cs.copies = actors.NewWorkersOn(stage, gfs.MaxServerJoins, copyQueue)
	cs.joiners = actors.NewWorkersOn(stage, gfs.MaxServerJoins, copyQueue)
	cs.copyPace.perSecond = cs.cfg.CopyBytesPerSecond
	cs.system = actors.NewSystem(actors.Config{Log: cs.log, Crash: cfg.Crash, Stage: stage})
	cs.chunks = newChunkTable(cs.spawnChunk)
	cs.heard.Store(cs.now().UnixNano())
	return nil
}

// connect begins to take data connections and orders, as a process does.
func (cs *Chunkserver) connect(around *process) error {
	var err error
	cfg := &cs.cfg
	if cs.conn = cfg.Bus; cs.conn == nil {
		cs.conn, err = bus.Connect(bus.Config{
			URL: cfg.NATS, InProcess: cfg.InProcess, Name: "cairn-chunkserver " + string(cs.ID()), Log: cs.log,
		})
		if err != nil {
			return err
		}
	}
	around.conn = cs.conn
	cs.server, err = dataplane.Listen(dataplane.Config{
		Listen: cfg.Listen, Insecure: cfg.Insecure, Handler: handler{cs}, Pool: &cs.pool, Log: cs.log,
		Clock: cs.now, Around: cs.around,
	})
	if err != nil {
		return err
	}
	cs.self = &pb.Server{Id: string(cs.ID()), Address: cfg.Advertise, Rack: cfg.Rack}
	if cs.self.Address == "" {
		cs.self.Address = cs.server.Addr().String()
	}
	cs.service, err = cs.serveOrders()
	return err
}

// beat begins to tell the masters of the server.
func (cs *Chunkserver) beat() {
	shell := &heartbeat{cs: cs}
	cs.heartbeat = actors.Spawn(cs.system, "heartbeat", shell)
	cs.heartbeat.Send(actors.Func[*heartbeat](func(h *heartbeat) {
		h.self = cs.heartbeat
		h.beat()
	}))
}

// ID is the server's id, kept in its data directories.
func (cs *Chunkserver) ID() gfs.ServerID { return cs.store.ID() }

// Addr is the HOST:PORT that the server advertises for its data plane.
func (cs *Chunkserver) Addr() string { return cs.self.Address }

// Incarnation tells this process from earlier ones of the same server.
func (cs *Chunkserver) Incarnation() gfs.Incarnation { return cs.cfg.Incarnation }

// Close ends the server: it takes nothing new, ends its connections, and leaves its directories to another process.
// Replicas that are open for mutation stay marked: the masters bring them up to date when the server is back. Close
// syncs nothing, as nothing was promised of what is not synced. It is idempotent.
func (cs *Chunkserver) Close() error {
	cs.closeOnce.Do(func() { cs.closeErr = cs.close() })
	return cs.closeErr
}

// close ends what start has begun, in the opposite order; start may have stopped anywhere.
func (cs *Chunkserver) close() error {
	if cs.service != nil {
		cs.service.Stop()
	}
	cs.cancel()
	if cs.server != nil {
		_ = cs.server.Close() // the listener's error says nothing that anybody could act on
	}
	if cs.network != nil {
		cs.copies.Stop()
		cs.joiners.Stop()
		cs.network.Stop()
		cs.chains.stop()
		cs.disk.Stop()
		cs.system.Shutdown()
	}
	if cs.around != nil {
		cs.around.Wait()
	}
	if cs.conn != nil && cs.cfg.Bus == nil {
		cs.conn.Close()
	}
	if cs.store == nil {
		return nil
	}
	err := cs.store.Close()
	cs.log.Info("chunkserver stopped")
	return err
}

// heardMaster notes that the acting master answered or ordered.
func (cs *Chunkserver) heardMaster() { cs.heard.Store(cs.now().UnixNano()) }

// orphaned reports whether no master was heard for gfs.OrphanSilence.
func (cs *Chunkserver) orphaned() bool {
	return cs.now().UnixNano()-cs.heard.Load() > int64(gfs.OrphanSilence)
}
