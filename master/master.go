package master

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/oplog"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
)

const (
	// readWorkers serve the reads that take long, readQueue of which may wait.
	readWorkers = 4
	readQueue   = 1024
	// epochPause is the pause before the record that begins an epoch is tried again.
	epochPause = 100 * time.Millisecond
	// defaultVersion is what monitoring shows where Config.Version is empty.
	defaultVersion = "0.1.0"
)

// Config says how a master runs. ID, Dir, Cluster and one of NATS and Conn are needed.
type Config struct {
	// ID and Cluster are 1 to 64 letters, digits, - and _. They are kept in Dir and must stay the same.
	ID      string
	Cluster string
	// Dir is the folder of the operation log and its checkpoints.
	Dir string
	// NATS says how to connect (its Log and Name are filled in). Conn, if not nil, is used instead, and stays open.
	NATS bus.Config
	Conn *bus.Conn
	// Peers are the masters of the group, this one among them: 3 or 5. Empty: this master stands alone.
	Peers []oplog.Peer
	// RaftListen is the HOST:PORT on which peers are accepted; empty: this master's address in Peers. RaftListener,
	// if not nil, is used instead and belongs to the master.
	RaftListen   string
	RaftListener net.Listener
	// RaftDial connects to peers; nil: TCP.
	RaftDial oplog.DialFunc
	// ElectionTimeout is the silence of the leader after which a standby stands for election; 0: the log's default.
	ElectionTimeout time.Duration
	// TrashRetention is how long removed files can be undeleted; 0: gfs.DefaultTrashRetention, negative: not at all,
	// they are dropped at the next scan.
	TrashRetention time.Duration
	// Version is shown by monitoring, as SemVer; empty: a development version.
	Version string
	// Log gets what happens. Required.
	Log *logrus.Entry
	// ReplicationDelay is how long a chunkserver is missing before others get replicas in the place of its own; 0 is
	// gfs.ReplicationDelay.
	ReplicationDelay time.Duration
	// Clock is the wall clock; nil: time.Now.
	Clock func() time.Time
	// Random seeds placement; nil: crypto/rand.
	Random io.Reader
	// Crash is called once when the process must not go on: a bug, or a damaged log. Nil: the process ends.
	Crash func(error)
}

// Master is a running master. Its methods may be called from any goroutine.
type Master struct {
	*services
	edge    *edge
	ownConn bool
	cancel  context.CancelFunc
	running sync.WaitGroup
	closing sync.Once
	closed  error
}

// Start opens the log, connects to NATS and serves. It returns when requests reach this master, which may be before
// it, or anyone, acts. ctx bounds the start alone. Errors are those of oplog.Open and bus.Connect, or gfs.CodeInvalid
// for the configuration.
func Start(ctx context.Context, cfg Config) (*Master, error) {
	v, err := newServices(&cfg)
	if err != nil {
		return nil, err
	}
	m := &Master{services: v}
	if err := m.start(ctx, cfg); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func newServices(cfg *Config) (*services, error) {
	if cfg.Log == nil {
		return nil, gfs.Errorf(gfs.CodeInvalid, "a master needs a log")
	}
	subjects, err := messages.NewSubjects(cfg.Cluster)
	if err != nil {
		return nil, err
	}
	if cfg.ReplicationDelay <= 0 {
		cfg.ReplicationDelay = gfs.ReplicationDelay
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = crand.Reader
	}
	if cfg.Version == "" {
		cfg.Version = defaultVersion
	}
	var seed [32]byte
	if _, err := io.ReadFull(cfg.Random, seed[:]); err != nil {
		return nil, fmt.Errorf("random seed: %w", err)
	}
	v := &services{
		id: cfg.ID, cluster: cfg.Cluster, log: cfg.Log.WithFields(logrus.Fields{"role": "master", "server": cfg.ID}),
		now: cfg.Clock, random: newRandom(seed), trash: cfg.TrashRetention, replicationDelay: cfg.ReplicationDelay,
		subjects: subjects,
	}
	switch {
	case v.trash == 0:
		v.trash = gfs.DefaultTrashRetention
	case v.trash < 0:
		v.trash = 0
	}
	return v, nil
}

func (m *Master) start(ctx context.Context, cfg Config) error {
	m.conn = cfg.Conn
	if m.conn == nil {
		nats := cfg.NATS
		nats.Log, nats.Name = m.log, "cairn-master "+cfg.ID
		conn, err := bus.Connect(nats)
		if err != nil {
			return err
		}
		m.conn, m.ownConn = conn, true
	}
	around := &process{conn: m.conn}
	m.around = around
	m.makeActors(cfg.Crash)
	log, err := oplog.Open(ctx, oplog.Config{
		Cluster: cfg.Cluster, ID: cfg.ID, Dir: cfg.Dir, Peers: cfg.Peers, Listen: cfg.RaftListen, Listener: cfg.RaftListener,
		Dial: cfg.RaftDial, Machine: machine{m.namespace}, Log: cfg.Log, Crash: cfg.Crash, ElectionTimeout: cfg.ElectionTimeout,
	})
	if err != nil {
		return err
	}
	m.oplog, around.Log = log, log
	if m.edge, err = serveEdge(m.services, cfg.Version); err != nil {
		return err
	}
	background, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.running.Go(func() { m.watchRole(background) })
	m.running.Go(func() { m.publishMetrics(background) })
	m.log.WithFields(logrus.Fields{"nats": m.conn.Address(), "peers": len(cfg.Peers)}).Info("master started")
	return nil
}

// makeActors starts the actors that live as long as the master. What they do begins with the first message.
func (v *services) makeActors(crash func(error)) {
	stage := v.around.Stage()
	v.system = actors.NewSystem(actors.Config{Log: v.log, Crash: crash, Stage: stage})
	v.workers = actors.NewWorkersOn(stage, readWorkers, readQueue)
	registryShell := &registryShell{services: v, core: registry.New(v.now())}
	scannerShell := &scannerShell{services: v}
	backupShell := &backupShell{services: v, running: map[uint64]*backupRun{}}
	v.registry = actors.Spawn(v.system, "registry", registryShell)
	v.scanner = actors.Spawn(v.system, "scanner", scannerShell)
	v.backups = actors.Spawn(v.system, "backups", backupShell)
	v.namespace = actors.Spawn(v.system, "namespace", newNamespaceShell(v))
	registryShell.self, scannerShell.self, backupShell.self = v.registry, v.scanner, v.backups
	v.registry.Send(registryStart{})
}

// Acting reports whether this master acts: it leads its group and its epoch has begun.
func (m *Master) Acting() bool { return m.acting.Load() != nil }

// ID is the master's id.
func (m *Master) ID() string { return m.id }

// Log is the operation log, for what operators do with it: its state, checkpoints, a change of leader.
func (m *Master) Log() *oplog.Log { return m.oplog }

// Close stops serving, ends the log and returns when nothing of the master runs any more. Who waits is told to ask
// again. Later calls return the result of the first.
func (m *Master) Close() error {
	m.closing.Do(func() {
		if m.edge != nil {
			m.edge.stop()
		}
		if m.cancel != nil {
			m.cancel()
		}
		m.running.Wait()
		if m.oplog != nil {
			m.closed = m.oplog.Close() // the namespace actor applies until then
		}
		if m.system != nil {
			m.system.Shutdown()
			m.workers.Stop()
		}
		if m.ownConn {
			m.conn.Close()
		}
		m.log.Info("master stopped")
	})
	return m.closed
}

// watchRole begins and ends the periods of acting.
func (m *Master) watchRole(ctx context.Context) {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		select {
		case leads := <-m.oplog.Changes():
			m.cease()
			if leads && !m.begin(ctx) {
				retry.Reset(epochPause)
			}
		case <-retry.C:
			if m.oplog.Acting() && !m.Acting() && !m.begin(ctx) {
				retry.Reset(epochPause)
			}
		case <-ctx.Done():
			m.cease()
			return
		}
	}
}

// begin logs a new epoch and acts in it. It reports false if that is to be tried again; a leadership that is lost
// meanwhile brings another change.
func (m *Master) begin(ctx context.Context) bool {
	began := make(chan error, 1)
	var begun namespace.Outcome
	m.beginEpoch(func(outcome namespace.Outcome, err error) {
		begun = outcome
		began <- err
	})
	select {
	case err := <-began:
		if err != nil {
			m.log.WithField("err", err).Warn("no epoch begun")
			return false
		}
	case <-ctx.Done():
		return true
	}
	m.act(begun.Epoch, begun.Restored)
	return true
}

// beginEpoch proposes the record that begins an epoch; done is called as propose calls it.
func (v *services) beginEpoch(done func(namespace.Outcome, error)) {
	v.propose(&period{}, &pb.Record{Command: &pb.Record_BeginEpoch{BeginEpoch: &pb.BeginEpoch{MasterId: v.id}}}, done)
}

// act begins to act in an epoch; restored is as in Outcome.
func (v *services) act(epoch, restored gfs.Epoch) {
	p := &period{epoch: epoch, restored: restored, since: v.now()}
	v.namespace.Send(beginActing{p})
	v.acting.Store(p)
	v.log.WithField("epoch", epoch).Info("acting master")
	v.event(&pb.Event{Kind: messages.EventMasterElected, Server: v.id, Detail: fmt.Sprintf("epoch %d", epoch)})
}

func (v *services) cease() {
	if v.acting.Swap(nil) != nil {
		v.log.Info("no longer the acting master")
	}
	v.namespace.Send(ceaseActing{})
}
