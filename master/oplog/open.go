package oplog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/boltdb/bolt"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/sirupsen/logrus"
)

const (
	raftFolder  = "raft"
	walFolder   = "wal"
	stableFile  = "stable.bolt"
	scratchFile = "checkpoint.tmp"

	defaultCheckpointBytes = 64 << 20
	defaultSegmentBytes    = 16 << 20
	minSegmentBytes        = 2 * MaxBatchBytes

	aloneElectionTimeout = 50 * time.Millisecond
	groupElectionTimeout = 800 * time.Millisecond
	minElectionTimeout   = 10 * time.Millisecond
	// commitInterval is how soon a standby hears that an entry was committed if no other follows.
	// commitInterval is how soon a standby hears that an entry was committed if no other follows. It costs a message to
	// each standby, and nobody waits for it: whoever takes over commits an entry of its own first.
	commitInterval = 500 * time.Millisecond
	// trailingEntries stay in the log behind a checkpoint, so that a standby that was away for a moment is not
	// sent all of it.
	trailingEntries      = 1024
	aloneTrailingEntries = 64
	// maxMessageEntries bounds one message between masters, to 16 MiB: its entries are batches already.
	maxMessageEntries = 32
	// never puts the Raft library's own timing of snapshots out of the way.
	never = 1000 * time.Hour
	// roleBacklog keeps Raft from waiting for us when it reports a change of role.
	roleBacklog = 64
	// stableLockTimeout bounds the wait for bolt's lock; ours on the folder comes first, so nobody should hold it.
	stableLockTimeout = 5 * time.Second
	maxPeers          = 5
)

// Open opens the log in cfg.Dir, made new if the folder is empty: it loads the newest checkpoint into the machine
// and reads and checks what follows. It returns before the group has a leader; Changes tells. Entries behind the
// checkpoint are applied once a leader has said that they are committed. A context that has ended ends Open.
//
// Errors: gfs.CodeInvalid (configuration, a newer format), gfs.CodeInUse (another process has the folder open), gfs.CodeWrongCluster,
// gfs.CodeCorrupt (log or checkpoint fail their checks).
func Open(ctx context.Context, cfg Config) (_ *Log, err error) {
	if cfg.Listener != nil {
		defer func() {
			if err != nil {
				_ = cfg.Listener.Close() // twice, perhaps: that does no harm
			}
		}()
	}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, ended(ctx)
	}
	lock, err := claimFolder(cfg.Dir, identity{cluster: cfg.Cluster, master: cfg.ID})
	if err != nil {
		return nil, err
	}
	l := &Log{
		cfg:         cfg,
		alone:       len(cfg.Peers) == 0,
		log:         cfg.Log.WithFields(logrus.Fields{"role": "master", "server": cfg.ID, "actor": "oplog"}),
		lock:        lock,
		stop:        make(chan struct{}),
		roles:       make(chan bool, roleBacklog),
		changes:     make(chan bool, 1),
		flights:     make(chan flight, maxFlights),
		checkpoints: make(chan checkpointRequest),
	}
	l.proposals.wake = make(chan struct{}, 1)
	l.reads.wake = make(chan struct{}, 1)
	if err := l.openStores(); err != nil {
		return nil, errors.Join(err, l.closeStores())
	}
	if err := l.startRaft(ctx); err != nil {
		return nil, errors.Join(err, l.closeStores())
	}
	l.running.Go(l.watchRole)
	l.running.Go(l.sendBatches)
	l.running.Go(l.finishFlights)
	l.running.Go(l.answerReads)
	l.running.Go(l.takeCheckpoints)
	l.log.WithFields(logrus.Fields{"op": "open", "applied": l.applier.applied.Load(), "last": l.raft.LastIndex()}).Info("operation log open")
	return l, nil
}

// complete checks the configuration and fills in defaults.
func (cfg *Config) complete() error {
	if err := errors.Join(checkID("cluster", cfg.Cluster), checkID("master", cfg.ID)); err != nil {
		return err
	}
	if cfg.Dir == "" || cfg.Machine == nil {
		return gfs.Errorf(gfs.CodeInvalid, "a log needs a folder and a machine")
	}
	if err := cfg.checkPeers(); err != nil {
		return err
	}
	if cfg.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		cfg.Log = logrus.NewEntry(silent)
	}
	if cfg.Crash == nil {
		cfg.Crash = func(err error) { panic(err) }
	}
	if cfg.Dial == nil {
		cfg.Dial = dialTCP
	}
	if cfg.ElectionTimeout == 0 {
		cfg.ElectionTimeout = groupElectionTimeout
		if len(cfg.Peers) == 0 {
			cfg.ElectionTimeout = aloneElectionTimeout
		}
	}
	if cfg.trailing == 0 {
		cfg.trailing = trailingEntries
		if len(cfg.Peers) == 0 {
			cfg.trailing = aloneTrailingEntries
		}
	}
	if cfg.CheckpointBytes == 0 {
		cfg.CheckpointBytes = defaultCheckpointBytes
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = defaultSegmentBytes
	}
	if cfg.ElectionTimeout < minElectionTimeout || cfg.CheckpointBytes < 0 || cfg.SegmentBytes < minSegmentBytes || cfg.SegmentBytes > math.MaxInt32 {
		return gfs.Errorf(gfs.CodeInvalid, "election timeout %v, checkpoint bytes %d, segment bytes %d: want at least %v, 1 and %d",
			cfg.ElectionTimeout, cfg.CheckpointBytes, cfg.SegmentBytes, minElectionTimeout, minSegmentBytes)
	}
	return nil
}

func (cfg *Config) checkPeers() error {
	if len(cfg.Peers) == 0 {
		return nil
	}
	if len(cfg.Peers) > maxPeers || len(cfg.Peers)%2 == 0 {
		return gfs.Errorf(gfs.CodeInvalid, "%d masters: a group has 1, 3 or 5", len(cfg.Peers))
	}
	seen := make(map[string]bool, 2*len(cfg.Peers))
	for _, peer := range cfg.Peers {
		if err := checkID("master", peer.ID); err != nil {
			return err
		}
		if host, port, err := net.SplitHostPort(peer.Addr); err != nil || host == "" || port == "" || port == "0" {
			return gfs.Errorf(gfs.CodeInvalid, "address %q of master %s: want host:port as the other masters reach it", peer.Addr, peer.ID)
		}
		if seen["id "+peer.ID] || seen["at "+peer.Addr] {
			return gfs.Errorf(gfs.CodeInvalid, "master %s at %s is listed twice", peer.ID, peer.Addr)
		}
		seen["id "+peer.ID], seen["at "+peer.Addr] = true, true
	}
	if !seen["id "+cfg.ID] {
		return gfs.Errorf(gfs.CodeInvalid, "master %s is not among its own peers: add it to the list", cfg.ID)
	}
	return nil
}

// servers is the group as Raft knows it.
func (cfg *Config) servers() []raft.Server {
	if len(cfg.Peers) == 0 {
		return []raft.Server{{ID: raft.ServerID(cfg.ID), Address: raft.ServerAddress(cfg.ID)}}
	}
	servers := make([]raft.Server, len(cfg.Peers))
	for i, peer := range cfg.Peers {
		servers[i] = raft.Server{ID: raft.ServerID(peer.ID), Address: raft.ServerAddress(peer.Addr)}
	}
	return servers
}

// openStores opens log and stable store. On error, what was opened stays for closeStores.
func (l *Log) openStores() (err error) {
	folder := filepath.Join(l.cfg.Dir, raftFolder)
	if err := os.MkdirAll(filepath.Join(folder, walFolder), 0o755); err != nil {
		return fmt.Errorf("master folder: %w", err)
	}
	stable, err := raftboltdb.New(raftboltdb.Options{
		Path:        filepath.Join(folder, stableFile),
		BoltOptions: &bolt.Options{Timeout: stableLockTimeout},
	})
	if err != nil {
		return fmt.Errorf("open %s: %w", stableFile, err)
	}
	l.stable = stable
	l.meta = &metadb.BoltMetaDB{}
	l.wal, err = openWAL(filepath.Join(folder, walFolder), l.meta, l.cfg.SegmentBytes, newChatter(l.log).Named("wal"))
	if err != nil {
		return err
	}
	l.entries = &entryStore{
		wal:     l.wal,
		written: make(chan struct{}, 1),
		due:     make(chan struct{}, 1),
		limit:   l.cfg.CheckpointBytes,
	}
	l.applier = &applier{
		machine:  l.cfg.Machine,
		crash:    l.crash,
		scratch:  filepath.Join(folder, scratchFile),
		stop:     l.stop,
		bytes:    &l.entries.bytes,
		advanced: make(chan struct{}, 1),
	}
	l.entries.failed = l.applier.fail
	return syncFolder(l.cfg.Dir)
}

// crash reports what must end the process, once.
func (l *Log) crash(err error) {
	l.term.Store(0)
	l.log.WithFields(logrus.Fields{"op": "crash", "err": err}).Error("operation log cannot go on")
	l.cfg.Crash(err)
}

// startRaft loads the checkpoint, checks the log and starts Raft.
func (l *Log) startRaft(ctx context.Context) error {
	logger := newChatter(l.log)
	store, err := newCheckpointStore(filepath.Join(l.cfg.Dir, raftFolder), logger)
	if err != nil {
		return fmt.Errorf("open checkpoints: %w", err)
	}
	if err := removeUnfinished(store.folder); err != nil {
		return err
	}
	fresh, err := l.checkHistory(store)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ended(ctx)
	}
	transport, err := newTransport(&l.cfg, logger)
	if err != nil {
		return err
	}
	conf := l.raftConfig()
	conf.Logger = logger
	if fresh {
		err = raft.BootstrapCluster(conf, l.entries, l.stable, store, transport, raft.Configuration{Servers: l.cfg.servers()})
	}
	if err == nil {
		l.entries.reading.Store(true)
		l.raft, err = newRaft(conf, l.applier, l.entries, l.stable, store, transport)
		l.entries.reading.Store(false)
	}
	if err != nil {
		err = l.explain(err, store)
	} else if err = l.checkMembers(); err != nil {
		err = errors.Join(err, l.raft.Shutdown().Error())
	}
	if err != nil {
		if closer, ok := transport.(io.Closer); ok {
			err = errors.Join(err, closer.Close())
		}
		return err
	}
	l.applier.started.Store(true)
	return nil
}

// explain finds the cause behind what the Raft library says about a failed start.
func (l *Log) explain(err error, store *checkpointStore) error {
	if cause := l.applier.failure(); cause != nil {
		return cause
	}
	if cause := store.lastOpenError(); cause != nil {
		return gfs.Errorf(gfs.CodeCorrupt, "the newest checkpoint in %s is damaged (%v): put the folder back from a backup, or start this master empty in a group of several",
			store.folder, cause)
	}
	return fmt.Errorf("start the operation log: %w", err)
}

func (l *Log) raftConfig() *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(l.cfg.ID)
	conf.HeartbeatTimeout = l.cfg.ElectionTimeout
	conf.ElectionTimeout = l.cfg.ElectionTimeout
	conf.LeaderLeaseTimeout = l.cfg.ElectionTimeout / 2
	conf.CommitTimeout = commitInterval
	conf.MaxAppendEntries = maxMessageEntries
	conf.ShutdownOnRemove = false
	conf.TrailingLogs = l.cfg.trailing
	if l.alone {
		conf.LeaderLeaseTimeout = l.cfg.ElectionTimeout
	}
	conf.SnapshotInterval = never
	conf.SnapshotThreshold = math.MaxUint64
	conf.NotifyCh = l.roles
	conf.NoLegacyTelemetry = true
	return conf
}

// checkMembers refuses to run with other masters than those of the group: two lists would make two groups, each of
// which thinks that it is the cluster.
func (l *Log) checkMembers() error {
	future := l.raft.GetConfiguration()
	if err := future.Error(); err != nil {
		return err
	}
	ids := func(servers []raft.Server) []string {
		var out []string
		for _, server := range servers {
			out = append(out, string(server.ID))
		}
		slices.Sort(out)
		return out
	}
	got, want := ids(future.Configuration().Servers), ids(l.cfg.servers())
	if !slices.Equal(got, want) {
		return gfs.Errorf(gfs.CodeInvalid, "folder %s is of a group of masters %v, not %v: start it with those as peers", l.cfg.Dir, got, want)
	}
	return nil
}

// newRaft is raft.NewRaft, which panics on a log entry that cannot be read.
func newRaft(conf *raft.Config, fsm raft.FSM, entries *entryStore, stable raft.StableStore, store raft.SnapshotStore, transport raft.Transport) (r *raft.Raft, err error) {
	defer func() {
		damage := recover()
		if damage == nil {
			return
		}
		cause, ok := damage.(error)
		if _, bug := damage.(runtime.Error); bug || !ok {
			panic(damage)
		}
		r, err = nil, cause
	}()
	return raft.NewRaft(conf, fsm, entries, stable, store, transport)
}
