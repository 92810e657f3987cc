package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

const clusterName = "sim"

// Simulated times.
const (
	epochPause = 100 * time.Millisecond
	commitTime = 4 * time.Millisecond
	// zombieTime is how long a master may go on after it has lost the lead.
	zombieTime = 1500 * time.Millisecond
	// electionTime is how long nobody leads after the end of the leader.
	electionTime     = 400 * time.Millisecond
	replicationDelay = 3 * time.Second
	// clientsBegin is when the first master acts and has heard of the chunkservers.
	clientsBegin = 50 * time.Millisecond
)

// cluster is masters, chunkservers and clients in a world.
type cluster struct {
	*world
	network   *network
	dir       string
	log       *logrus.Logger
	bytes     io.Reader // random
	subjects  messages.Subjects
	oplog     operationLog
	state     *namespace.State // of all that is committed, for the checkers
	masters   []*masterNode
	servers   []*server
	byAddress map[string]*server
	byID      map[gfs.ServerID]*server
	clients   *clients
	checks    checks
	power     bool // what is not synced is lost anywhere: then everything is synced, and nothing of it may be lost
	tracks    bool // what is not synced is lost somewhere
	fails     bool // some disk does
	oneDisk   bool // only one server has trouble, with its disk
	flips     []flip
	troubled  bool // by a fault: there was one at least
}

// newCluster makes a cluster for a script, whose servers keep their data below dir.
func newCluster(w *world, dir string, log *logrus.Logger, s Script) (*cluster, error) {
	subjects, err := messages.NewSubjects(clusterName)
	if err != nil {
		return nil, err
	}
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(w.random.Uint32())
	}
	c := &cluster{
		world: w, dir: dir, log: log, subjects: subjects, bytes: rand.NewChaCha8(seed), state: namespace.New(),
		fails: s.badDisks(), oneDisk: s.oneDisk(), tracks: s.badDisks() || s.losesPower(), power: s.losesPower() || s.badDisks() && !s.oneDisk(),
		byAddress: make(map[string]*server), byID: make(map[gfs.ServerID]*server),
		network: &network{world: w, cut: make(map[link]time.Duration), lose: make(map[link]bool),
			late: make(map[link]time.Duration), echo: make(map[*node]time.Duration)},
	}
	c.network.serve = c.serve
	c.checks = newChecks(c)
	c.clients = newClients(c, s)
	for i := range 2 {
		c.masters = append(c.masters, &masterNode{node: node{name: fmt.Sprintf("m%d", i)}, cluster: c, index: i})
	}
	for i := range s.servers() {
		s := &server{node: node{name: fmt.Sprintf("cs%d", i)}, cluster: c, index: i, address: fmt.Sprintf("10.0.0.%d:1", i+1)}
		c.servers = append(c.servers, s)
		c.byAddress[s.address] = s
	}
	for _, m := range c.masters {
		m.start()
	}
	for _, s := range c.servers {
		s.start()
	}
	c.masters[0].lead()
	c.supervise()
	c.after(clientsBegin, nil, func() { c.clients.begin() })
	return c, nil
}

// supervise elects a leader where there is none.
func (c *cluster) supervise() {
	c.after(c.between(electionTime/2, electionTime), nil, func() {
		if l := c.oplog.leader; l == nil || !l.up() {
			first := c.random.IntN(len(c.masters))
			for i := range c.masters {
				if m := c.masters[(first+i)%len(c.masters)]; m.up() {
					m.lead()
					break
				}
			}
		}
		c.supervise()
	})
}

// end lets go of all directories.
func (c *cluster) end() {
	for _, m := range c.masters {
		if m.life != nil {
			m.life.end()
		}
	}
	for _, s := range c.servers {
		if s.server != nil {
			s.life.dead = true
			s.life.end()
			_ = s.server.Abandon()
		}
	}
}

// crashed hears of a panic inside an actor.
func (c *cluster) crashed(err error) {
	c.fail(checkPanic, "%v", err)
}

// commit adds a record to the log.
func (c *cluster) commit(record []byte) {
	decoded := new(pb.Record)
	if err := proto.Unmarshal(record, decoded); err != nil {
		panic(err)
	}
	c.oplog.records = append(c.oplog.records, record)
	outcome := c.state.Apply(decoded)
	c.note("record %d: %v: %v", len(c.oplog.records), describeRecord(decoded), outcome.Err)
	for _, m := range c.masters {
		m.apply()
	}
	c.checks.committed(decoded, outcome)
}

func describeRecord(r *pb.Record) string {
	switch command := r.GetCommand().(type) {
	case *pb.Record_ConfigureChunk:
		k := command.ConfigureChunk
		return fmt.Sprintf("chunk %d goes from version %s to %s with %d members", k.Handle, gfs.Version(k.FromVersion), gfs.Version(k.Version), k.Members)
	case *pb.Record_PlaceChunk:
		k := command.PlaceChunk
		return fmt.Sprintf("chunk %d is placed in version %s with %d members", k.Handle, gfs.Version(k.Version), k.Members)
	case *pb.Record_CloseChunk:
		k := command.CloseChunk
		return fmt.Sprintf("chunk %d is closed in version %s with %d bytes", k.Handle, gfs.Version(k.Version), k.Length)
	case *pb.Record_Mutation:
		m := command.Mutation
		return fmt.Sprintf("%T %d of session %016x, to %d bytes, with chunk %d in the place of %d", m.GetOperation(), m.GetSession().GetSequence(),
			m.GetSession().GetId(), m.GetTruncate().GetSize(), m.GetTruncate().GetReplacement().GetHandle(), m.GetTruncate().GetReplacement().GetSource())
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", r.GetCommand()), "*pb.Record_")
}

// serve brings a request on the bus to whoever serves its subject. It reports false if nobody does.
func (c *cluster) serve(k *call, subject string, data []byte) bool {
	rest := strings.TrimPrefix(subject, "cairn."+clusterName+".")
	parts := strings.Split(rest, ".")
	if parts[0] == "cs" {
		s := c.byID[gfs.ServerID(parts[1])]
		if s == nil || !s.up() {
			return false
		}
		k.deliver(&s.node, subject, data, func(r *bus.Request) { s.server.Order(parts[2], r) })
		return true
	}
	endpoint := subject
	if parts[0] == "heartbeat" {
		endpoint = c.subjects.HeartbeatAll()
	}
	served := false
	for _, m := range c.masters {
		if m.up() {
			served = true
			k.deliver(&m.node, subject, data, func(r *bus.Request) { m.master.Handle(endpoint, r) })
		}
	}
	return served
}

// scratch makes a directory for a run: in memory where there is such a place.
func scratch() (string, error) {
	const shared = "/dev/shm"
	if info, err := os.Stat(shared); err == nil && info.IsDir() {
		if dir, err := os.MkdirTemp(shared, "cairn-sim-"); err == nil {
			return dir, nil
		}
	}
	return os.MkdirTemp("", "cairn-sim-")
}
