package master

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/oplog"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// period is one time of acting, from the record that began its epoch to the loss of leadership. Whoever does
// something on behalf of the acting master holds the period that it is part of.
type period struct {
	epoch    gfs.Epoch
	restored gfs.Epoch // as namespace.View.Restored
	since    time.Time
	attempts atomic.Uint32
}

// nextVersion draws the version of the next attempt.
func (p *period) nextVersion() gfs.Version {
	n := p.attempts.Add(1)
	if n == 0 {
		panic(fmt.Sprintf("master: epoch %d has used up its versions", p.epoch))
	}
	return gfs.NewVersion(p.epoch, n)
}

// services is what the shells of one master share. All but the period and the counters is set before the first
// message arrives and not changed afterwards.
type services struct {
	id      string
	cluster string
	log     *logrus.Entry
	now     func() time.Time
	random  *rand.Rand // the registry actor's alone
	trash   time.Duration
	// replicationDelay is how long a chunkserver is missing before its replicas are replaced elsewhere.
	replicationDelay time.Duration
	subjects         messages.Subjects
	conn             *bus.Conn
	around           Surroundings
	system           *actors.System
	workers          *actors.Workers
	oplog            *oplog.Log

	namespace actors.Ref[*namespaceShell]
	registry  actors.Ref[*registryShell]
	scanner   actors.Ref[*scannerShell]
	backups   actors.Ref[*backupShell]

	acting   atomic.Pointer[period] // nil while this master does not act
	orders   atomic.Uint64          // numbers of orders
	counters counters
}

// counters are for the metrics.
type counters struct {
	requests, failures                    atomic.Uint64
	mutations, reads, leases, allocations atomic.Uint64
	heartbeats, ordersSent, ordersFailed  atomic.Uint64
	replicasDeleted                       atomic.Uint64
	leaseActors                           atomic.Int64
}

func errNotActing() error {
	return gfs.Errorf(gfs.CodeNotActing, "this master does not act: ask again, the acting one answers")
}

// propose puts a command into the log on behalf of a period. done is called once, on a goroutine that it must not
// hold up, with the outcome of the command when it was applied, or with an error: that of the outcome, or the log's
// own (gfs.CodeOutcomeUnknown if the record may yet take effect). It takes over record.
func (v *services) propose(p *period, record *pb.Record, done func(namespace.Outcome, error)) {
	record.TimeUnixNano, record.Epoch = v.now().UnixNano(), uint32(p.epoch)
	data, err := proto.Marshal(record)
	if err != nil {
		done(namespace.Outcome{}, gfs.Errorf(gfs.CodeInvalid, "cannot encode the record: %v", err))
		return
	}
	v.around.ProposeAsync(data, func(result any, err error) {
		if err != nil {
			done(namespace.Outcome{}, err)
			return
		}
		outcome, ok := result.(namespace.Outcome)
		if !ok {
			panic(fmt.Sprintf("master: a record was answered with %T", result))
		}
		if outcome.Err != nil {
			done(outcome, outcome.Err)
			return
		}
		done(outcome, nil)
	})
}

// event tells monitoring. It is lost if nobody listens or NATS is away.
func (v *services) event(e *pb.Event) {
	e.TimeUnixNano, e.Cluster = v.now().UnixNano(), v.cluster
	v.publishJSON(v.subjects.Event(e.GetKind()), e)
}

func (v *services) publishJSON(subject string, message proto.Message) {
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err == nil {
		err = v.around.PublishJSON(subject, json.RawMessage(data))
	}
	if err != nil {
		v.log.WithFields(logrus.Fields{"subject": subject, "err": err}).Debug("monitoring message lost")
	}
}

// header is what every order to a process begins with.
func (v *services) header(p *period, incarnation gfs.Incarnation) *pb.OrderHeader {
	return &pb.OrderHeader{Epoch: uint32(p.epoch), Incarnation: uint64(incarnation), Number: v.orders.Add(1)}
}

// newRandom makes a source that is not safe for concurrent use.
func newRandom(seed [32]byte) *rand.Rand { return rand.New(rand.NewChaCha8(seed)) }
