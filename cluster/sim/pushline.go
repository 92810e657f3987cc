package sim

import (
	"bytes"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// newMutation makes a mutation at the primary.
func newMutation(at *chunkserver.Simulated, m *pb.Mutate, data []byte, answer func(offset, length int64, err error)) (*dataplane.Mutation, error) {
	if m.PushedSession != 0 {
		data = nil
	}
	return at.Data().NewMutation(m, data, answer)
}

// pushLine is a connection for pushes: a client's to the first server, or a server's to the next.
type pushLine struct {
	cluster *cluster
	stream  *stream
	inlet   *dataplane.Inlet // the receiver's
	lost    func(error)
	stop    func() bool // watching
}

// pull gives pushed data to a member that lacks them, now and then late.
func (s *server) pull(r *pb.Pull, answered func(proto.Message, []byte)) {
	answer := func() {
		reply, data := s.server.Data().Pull(r)
		s.cluster.damage(data)
		answered(reply, data)
	}
	if w := s.cluster.world; w.chance(6) {
		s.life.After(w.between(0, gfs.PullTimeout*5/4), answer)
		return
	}
	answer()
}

// damage changes a byte of data on their way, now and then.
func (c *cluster) damage(data []byte) {
	if len(data) > 0 && c.chance(50) {
		data[c.random.IntN(len(data))] ^= 0x10
	}
}

// openPush opens a pushLine from a node to the server at an address; nil if nobody is there.
func (c *cluster) openPush(from *node, address string, answered func(uint64, *pb.PushReply), lost func(error)) *pushLine {
	to := c.byAddress[address]
	s := c.network.dial(from, &to.node)
	if s == nil {
		return nil
	}
	inlet := to.server.Data().Inlet(func(next dataplane.Relay) (dataplane.Line, error) {
		if l := c.openPush(&to.node, next.Address(), next.Answered, next.Lost); l != nil {
			return l, nil
		}
		return nil, gfs.Errorf(gfs.CodeUnavailable, "push to %s: connection refused", next.Address())
	}, func(id uint64, reply *pb.PushReply) { s.send(0, func() { answered(id, reply) }) })
	s.ends[0].lost, s.ends[1].lost = lost, inlet.Close
	return &pushLine{cluster: c, stream: s, inlet: inlet, lost: lost, stop: func() bool { return true }}
}

// Send, Watch and Close are those of dataplane.Line.
func (l *pushLine) Send(id uint64, push *pb.Push, part []byte, left int, _ time.Duration) error {
	s := l.stream
	if s.broken || s.ends[0].over {
		return errBroken
	}
	if push != nil {
		push = proto.Clone(push).(*pb.Push)
	}
	part = bytes.Clone(part)
	l.cluster.damage(part)
	s.send(1, func() {
		if push != nil {
			l.inlet.Begin(id, push, len(part)+left)
		}
		l.inlet.Part(part)
	})
	return nil
}

func (l *pushLine) Watch(d time.Duration) {
	l.stop()
	if d > 0 {
		l.stop = l.stream.ends[0].life.After(d, func() { l.lost(errBroken) })
	}
}

func (l *pushLine) Close() {
	l.stop()
	l.stream.hangUp(0)
}
