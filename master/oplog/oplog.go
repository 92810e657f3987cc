package oplog

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/sirupsen/logrus"
)

// Peer is one master of a group.
type Peer struct {
	ID   string // as in its Config
	Addr string // host:port at which the others reach it
}

// Config says how to open a log. Cluster, ID, Dir and Machine are needed, the rest has defaults.
type Config struct {
	// Cluster and ID say whose log it is: 1 to 64 letters, digits, '-' and '_'. They are written into a new folder
	// and must match those in an old one.
	Cluster string
	ID      string
	// Dir is the master's folder. Everything in it but what is named in the package's documentation is left alone.
	Dir string
	// Peers are the masters of the group, this one among them: 3 or 5 (or 1). Empty: the master stands alone and
	// opens no socket. At the first start they form the group; later they must be the same ids, at whatever
	// addresses they now have.
	Peers []Peer
	// Listen is the host:port on which peers are accepted; empty: the address of this master in Peers. Listener
	// takes its place if it is set; it is closed with the Log, or by Open if that fails.
	Listen   string
	Listener net.Listener
	// Dial connects to peers; nil: TCP.
	Dial DialFunc
	// Machine is the replicated state, empty at first.
	Machine Machine
	// Log gets start, stop, checkpoints and changes of role at Info, the Raft library's chatter at Debug.
	Log *logrus.Entry
	// Crash is called once, when the log must not go on: an entry or checkpoint failed its check, or a write to
	// the log failed. It should end the process. Nil: panic. If it returns, nothing is applied any more.
	Crash func(error)
	// ElectionTimeout is the silence after which a standby stands for election; zero: 50 ms alone, else 800 ms.
	// A leader that hears no majority for half of it steps down.
	ElectionTimeout time.Duration
	// CheckpointBytes of log are written between two checkpoints; zero: 64 MiB, about a second of replay.
	CheckpointBytes int64
	// SegmentBytes is the size of one file of the log, allocated in advance; zero: 16 MiB.
	SegmentBytes int

	trailing uint64 // entries that stay behind a checkpoint; zero: the default, less in tests
}

// Log is an open operation log. Its methods may be called from any goroutine.
type Log struct {
	cfg   Config
	alone bool
	log   *logrus.Entry

	lock    *os.File
	wal     *wal.WAL
	meta    *metadb.BoltMetaDB
	stable  *raftboltdb.BoltStore
	entries *entryStore
	applier *applier
	raft    *raft.Raft

	stop    chan struct{}
	running sync.WaitGroup
	closing sync.Once
	closed  error

	roles   chan bool     // from Raft: became or ceased to be leader
	changes chan bool     // to the owner: began or ceased to act
	term    atomic.Uint64 // the term in which this master acts, 0 if it does not

	proposals   proposalQueue
	flights     chan flight
	reads       readQueue
	checkpoints chan checkpointRequest
	counters    counters
}

type counters struct {
	entries     atomic.Uint64 // log entries that this master handed to Raft
	records     atomic.Uint64 // records in them
	checkpoints atomic.Uint64 // checkpoints that it wrote
}

// Stats is the log's state at a glance, for metrics and for people.
type Stats struct {
	State       string // Leader, Follower, Candidate or Shutdown
	Acting      bool
	Term        uint64 // Raft's current term
	LeaderID    string // "" if unknown
	FirstIndex  uint64 // of the oldest entry still in the log
	LastIndex   uint64
	CommitIndex uint64
	Applied     uint64 // the last entry that the machine has applied
	Queued      int    // records that wait to be sent
	QueuedBytes int
	Entries     uint64 // log entries proposed here since the start
	Records     uint64 // records in them: Records/Entries is the factor of group commit
	LogBytes    int64  // bytes of log since the last checkpoint
	Checkpoints uint64 // written here since the start
	// LastContact is how long ago a standby heard from its leader; 0 on the leader, -1 if never.
	LastContact time.Duration
}

// Stats reads the state; the fields are not of one instant.
func (l *Log) Stats() Stats {
	_, leader := l.raft.LeaderWithID()
	first, _ := l.entries.FirstIndex() // 0 once the log is closed
	queued, queuedBytes := l.proposals.size()
	stats := Stats{
		State:       l.raft.State().String(),
		Acting:      l.Acting(),
		Term:        l.raft.CurrentTerm(),
		LeaderID:    string(leader),
		FirstIndex:  first,
		LastIndex:   l.raft.LastIndex(),
		CommitIndex: l.raft.CommitIndex(),
		Applied:     l.applier.applied.Load(),
		Queued:      queued,
		QueuedBytes: queuedBytes,
		Entries:     l.counters.entries.Load(),
		Records:     l.counters.records.Load(),
		LogBytes:    max(0, l.entries.bytes.Load()),
		Checkpoints: l.counters.checkpoints.Load(),
	}
	if l.raft.State() != raft.Leader {
		if last := l.raft.LastContact(); last.IsZero() {
			stats.LastContact = -1
		} else {
			stats.LastContact = time.Since(last)
		}
	}
	return stats
}

// Leader is the id of the master that leads the group and its address as its peers know it; both are "" while
// nobody is known to lead.
func (l *Log) Leader() (id, addr string) {
	address, server := l.raft.LeaderWithID()
	return string(server), string(address)
}

// Transfer hands the leadership to another master of the group: the named one, or the one that is furthest if id is
// "". It returns when this master has ceased to lead. Errors: gfs.CodeNotActing, gfs.CodeInvalid (nobody else, or
// no such master), gfs.CodeUnavailable (the other did not take over).
func (l *Log) Transfer(ctx context.Context, id string) error {
	if !l.Acting() {
		return errNotActing()
	}
	var future raft.Future
	if id == "" {
		if l.alone {
			return gfs.Errorf(gfs.CodeInvalid, "this master stands alone: there is nobody to hand over to")
		}
		future = l.raft.LeadershipTransfer()
	} else {
		addr := ""
		for _, peer := range l.cfg.Peers {
			if peer.ID == id && id != l.cfg.ID {
				addr = peer.Addr
			}
		}
		if addr == "" {
			return gfs.Errorf(gfs.CodeInvalid, "no other master %q in this group: see `cairn admin masters`", id)
		}
		future = l.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(addr))
	}
	done := make(chan error, 1)
	if !l.proposals.ifOpen(func() { l.running.Go(func() { done <- future.Error() }) }) {
		return errClosing()
	}
	select {
	case err := <-done:
		if err != nil {
			return gfs.Errorf(gfs.CodeUnavailable, "the leadership stays here: %v; try again", err)
		}
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

// Close ends the log: what was not yet sent is refused, what is on its way is waited for, then everything is
// closed and the folder released. The machine must go on applying until Close has returned. Later calls return
// the result of the first.
func (l *Log) Close() error {
	l.closing.Do(func() {
		l.log.WithField("op", "close").Info("operation log closing")
		l.proposals.close()
		l.reads.close()
		close(l.stop)
		// Everything that waits for Raft ends while Raft still runs: it leaves futures unanswered when it stops.
		l.running.Wait()
		l.closed = errors.Join(l.raft.Shutdown().Error(), l.closeStores())
	})
	return l.closed
}

// closeStores closes what was opened of the stores, then releases the folder.
func (l *Log) closeStores() error {
	var errs []error
	if l.wal != nil {
		errs = append(errs, l.wal.Close())
	}
	if l.meta != nil {
		errs = append(errs, l.meta.Close()) // raft-wal leaves it open
	}
	if l.stable != nil {
		errs = append(errs, l.stable.Close())
	}
	return errors.Join(append(errs, l.lock.Close())...)
}
