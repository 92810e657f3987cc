package master

import (
	"maps"
	"slices"
	"time"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"
)

const (
	// copyTime is what chunkservers have for a copy, of which 64 MiB take a fraction of a second on an idle disk.
	copyTime = 5 * time.Second
	// retireTime is how long whoever waits for deletions waits for them.
	retireTime = time.Second
	// retireTries is how often a server is told to delete what is not as it was known to be: when a chunk loses its last
	// reference, an attempt at its next configuration may be under way.
	retireTries = 4
)

// copyChunk has the good replicas of a closed chunk copied by the servers that hold them. done is called once, with the
// copies, two at least unless only one server was asked.
type copyChunk struct {
	period *period
	order  *pb.CopyOrder // but for its header
	want   int           // replicas
	done   func(made []registry.Note, err error)
}

// copying is a copy on its way.
type copying struct {
	copyChunk
	asked, left int
	made        []registry.Note
	digest      string
	failure     error // of one server
	differ      error // closed replicas are not equal
}

func (c copyChunk) Do(s *registryShell) {
	if s.period == nil || s.period != c.period {
		c.done(nil, errNotActing())
		return
	}
	source, version := gfs.ChunkHandle(c.order.Source), gfs.Version(c.order.SourceVersion)
	var holders []registry.Replica
	for _, r := range s.core.Replicas(source) {
		if r.Up && r.Good(version) && len(holders) < max(c.want, 1) {
			holders = append(holders, r)
		}
	}
	if len(holders) == 0 {
		c.done(nil, gfs.Errorf(gfs.CodeUnavailable, "no good replica of chunk %s can be reached: start the chunkservers that hold them", source))
		return
	}
	k := &copying{copyChunk: c, asked: len(holders), left: len(holders)}
	for _, r := range holders {
		order := proto.CloneOf(c.order)
		order.Header = s.header(c.period, r.Incarnation)
		s.counters.ordersSent.Add(1)
		s.around.AskAsync(bus.Call{Subject: s.subjects.Chunkserver(r.ID, messages.CommandCopy), Request: order, Total: copyTime}, func(answer bus.Answer) bool {
			reply := new(pb.CopyReply)
			err := answer.Decode(reply)
			s.self.Send(replicaCopied{k, r.ID, string(reply.GetDigest()), err})
			return true
		})
	}
}

// replicaCopied is one chunkserver's answer.
type replicaCopied struct {
	k      *copying
	server gfs.ServerID
	digest string
	err    error
}

func (c replicaCopied) Do(s *registryShell) {
	k, source, version := c.k, gfs.ChunkHandle(c.k.order.Source), gfs.Version(c.k.order.Version)
	switch {
	case c.err != nil:
		s.counters.ordersFailed.Add(1)
		s.log.WithFields(logrus.Fields{"actor": "registry", "server": c.server, "chunk": source, "op": messages.CommandCopy, "err": c.err}).Warn("order failed")
		k.failure = c.err
	case len(k.made) > 0 && c.digest != k.digest:
		k.differ = gfs.Errorf(gfs.CodeInternal, "chunk %s is closed and its replicas at %s and %s differ: cairn admin fsck says more", source, k.made[0].Server, c.server)
		s.log.WithFields(logrus.Fields{"actor": "registry", "server": c.server, "chunk": source, "err": k.differ}).Error("closed replicas differ")
	default:
		k.digest = c.digest
		k.made = append(k.made, registry.Note{Server: c.server, Promised: version, Active: version, Length: k.order.Length, State: gfs.ReplicaMember})
	}
	if k.left--; k.left > 0 {
		return
	}
	switch {
	case k.differ != nil:
		k.done(nil, k.differ)
	case len(k.made) < min(2, k.asked):
		k.done(nil, k.failure)
	default:
		k.done(k.made, nil)
	}
}

// retireChunks has the replicas deleted of chunks that lost their last reference, at the servers that are up. done is
// called once, when they are deleted or retireTime is over: then the replicas are garbage like others.
type retireChunks struct {
	period  *period
	handles []gfs.ChunkHandle
	done    func()
}

// retiring counts the servers that have not answered.
type retiring struct {
	period *period
	left   int
	until  time.Time
	done   func()
}

func (c retireChunks) Do(s *registryShell) {
	if s.period == nil || s.period != c.period {
		c.done()
		return
	}
	orders := map[gfs.ServerID]*pb.DeleteOrder{}
	for _, handle := range c.handles {
		for _, r := range s.core.Replicas(handle) {
			if !r.Up {
				continue
			}
			if orders[r.ID] == nil {
				orders[r.ID] = &pb.DeleteOrder{Header: s.header(c.period, r.Incarnation)}
			}
			orders[r.ID].Replicas = append(orders[r.ID].Replicas, &pb.ReplicaStatus{
				Handle: uint64(handle), Promised: uint64(r.Promised), Active: uint64(r.Active), Length: r.Length, State: uint32(r.State), Marked: r.Marked,
			})
		}
	}
	if len(orders) == 0 {
		c.done()
		return
	}
	k := &retiring{c.period, len(orders), s.now().Add(retireTime), c.done}
	for _, id := range slices.Sorted(maps.Keys(orders)) {
		s.retire(k, id, orders[id], retireTries)
	}
}

// retire orders a server to delete, and once more what it says to be otherwise.
func (s *registryShell) retire(k *retiring, id gfs.ServerID, order *pb.DeleteOrder, tries int) {
	incarnation := gfs.Incarnation(order.GetHeader().GetIncarnation())
	s.counters.ordersSent.Add(1)
	call := bus.Call{Subject: s.subjects.Chunkserver(id, messages.CommandDelete), Request: order, Total: k.until.Sub(s.now())}
	s.around.AskAsync(call, func(answer bus.Answer) bool {
		reply := new(pb.DeleteReply)
		err := answer.Decode(reply)
		s.self.Send(serverRetired{k, id, incarnation, reply, err, tries - 1})
		return true
	})
}

// serverRetired is one chunkserver's answer.
type serverRetired struct {
	k           *retiring
	server      gfs.ServerID
	incarnation gfs.Incarnation
	reply       *pb.DeleteReply
	err         error
	tries       int // that are left
}

func (c serverRetired) Do(s *registryShell) {
	if c.err == nil {
		replicasDeleted{c.server, c.incarnation, c.reply}.Do(s)
		kept := c.reply.GetKept()
		if len(kept) > 0 && c.tries > 0 && s.now().Before(c.k.until) && s.period != nil && s.period == c.k.period {
			s.retire(c.k, c.server, &pb.DeleteOrder{Header: s.header(s.period, c.incarnation), Replicas: kept}, c.tries)
			return
		}
	} else {
		s.counters.ordersFailed.Add(1)
		s.log.WithFields(logrus.Fields{"actor": "registry", "server": c.server, "op": messages.CommandDelete, "err": c.err}).Warn("order failed")
	}
	if c.k.left--; c.k.left == 0 {
		c.k.done()
	}
}
