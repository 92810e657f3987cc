package sim

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// chain is a chain stream from a member, its end 0, to its successor, its end 1.
type chain struct {
	stream *stream
	opened func(*pb.ChainOpened)
	sink   dataplane.ChainSink
	inbox  inbox
	events dataplane.DownstreamEvents
	early  []func(dataplane.DownstreamEvents) // what came before events did
}

// downEnd is the member's end, upEnd its successor's.
type (
	downEnd struct{ *chain }
	upEnd   struct{ *chain }
)

// openChain opens a chain stream at the member that open names.
func (c *cluster) openChain(ctx context.Context, from *server, open *pb.ChainOpen) (chunkserver.Downstream, *pb.ChainOpened, error) {
	n, member := c.network, open.Members[open.Position]
	unavailable := func(what string) (chunkserver.Downstream, *pb.ChainOpened, error) {
		return nil, nil, gfs.Errorf(gfs.CodeUnavailable, "chunkserver %s: %s", member.Id, what)
	}
	if from.life.pause(ctx, n.delay()) != nil {
		return unavailable("nobody waits any more")
	}
	to := c.byAddress[member.Address]
	s := n.dial(&from.node, &to.node)
	if s == nil {
		return unavailable("connection refused")
	}
	job, ended := n.world.running, false
	var answer *pb.ChainOpened
	k := &chain{stream: s, inbox: newInbox(to, open.Members[0].Address), opened: func(reply *pb.ChainOpened) {
		answer = reply
		job.wake(0)
	}}
	s.ends[0].lost = func(err error) {
		ended = true
		job.wake(0)
		k.hear(func(events dataplane.DownstreamEvents) { events.Lost(err) })
	}
	request := proto.Clone(open).(*pb.ChainOpen)
	s.send(1, func() {
		k.sink = to.server.OpenChain(request, upEnd{k})
		s.ends[1].lost = func(err error) { k.inbox.take(func() { k.sink.Lost(err) }) }
	})
	for answer == nil && !ended && ctx.Err() == nil {
		job.park(ctx)
	}
	switch {
	case ctx.Err() != nil || answer == nil:
		s.hangUp(0)
		return unavailable("no answer to chain-open")
	case answer.Code != 0 || len(answer.Differing) > 0:
		s.hangUp(0)
		return nil, answer, nil
	}
	return downEnd{k}, answer, nil
}

// hear hands an event to the member, as soon as it listens.
func (k *chain) hear(f func(dataplane.DownstreamEvents)) {
	if k.events == nil {
		k.early = append(k.early, f)
		return
	}
	f(k.events)
}

func (d downEnd) Start(events dataplane.DownstreamEvents) {
	d.events = events
	for _, f := range d.early {
		f(events)
	}
	d.early = nil
}

// write sends a frame, unless the stream has ended here.
func (d downEnd) write(f func()) error {
	s := d.stream
	if s.broken || s.ends[0].over {
		return errBroken
	}
	s.send(1, func() {
		if d.sink != nil {
			d.inbox.frame(f)
		}
	})
	return nil
}

func (d downEnd) Apply(a *dataplane.Apply) error {
	s := d.stream
	if l := (link{s.ends[0].node, s.ends[1].node}); s.network.lose[l] {
		delete(s.network.lose, l)
		s.network.world.note("a frame from %s to %s is lost", l.from.name, l.to.name)
		return nil
	}
	message, data := a.Encode()
	err := d.write(func() { upEnd(d).received(message, data) })
	if l := d.stream.ends[0].life; err == nil && l.world.chance(2) {
		_ = l.pause(context.Background(), l.disk())
	}
	return err
}

func (d downEnd) Tick(commitLength int64) error {
	return d.write(func() { d.sink.Tick(commitLength) })
}

func (d downEnd) Close(request *pb.ChainClose) error {
	return d.write(func() { d.sink.Close(request) })
}

func (d downEnd) Drop() { d.stream.hangUp(0) }

func (d downEnd) Wait() {}

func (u upEnd) Lost() bool { return u.stream.ends[1].over && !u.inbox.reading }

func (u upEnd) Opened(reply *pb.ChainOpened) {
	u.stream.send(0, func() { u.opened(reply) })
}

func (u upEnd) Closed(err error) {
	err = travelled(err)
	u.stream.send(0, func() { u.hear(func(events dataplane.DownstreamEvents) { events.Closed(err) }) })
}

func (u upEnd) Ack(serial gfs.Serial, accused gfs.ServerID, busy bool) {
	u.stream.send(0, func() { u.hear(func(events dataplane.DownstreamEvents) { events.Acked(serial, accused, busy) }) })
}

func (u upEnd) Drop() {
	u.inbox.drop()
	u.stream.hangUp(1)
}

// travelled is what is left of an error at the other side of a stream.
func travelled(err error) error {
	if err == nil {
		return nil
	}
	var e *gfs.Error
	if errors.As(err, &e) {
		return gfs.FromCode(e.Code, e.Detail)
	}
	return gfs.FromCode(gfs.CodeOf(err), err.Error())
}

// request sends a request to the data plane at an address on a stream of its own, and waits for the answer.
func (c *cluster) request(ctx context.Context, from *server, pool *dataplane.Pool, address string, op wire.Op, request, reply proto.Message, payload [][]byte) (*dataplane.Buffer, error) {
	n, to := c.network, c.byAddress[address]
	failed := func(what string) (*dataplane.Buffer, error) {
		return nil, gfs.Errorf(gfs.CodeUnavailable, "%s to chunkserver at %s: %s", op, address, what)
	}
	if from.life.pause(ctx, n.delay()) != nil {
		return failed("nobody waits any more")
	}
	s := n.dial(&from.node, &to.node)
	if s == nil {
		return failed("connection refused")
	}
	defer s.hangUp(0)
	job, over, heard := n.world.running, false, false
	var data []byte
	var answer proto.Message
	s.ends[0].lost = func(error) {
		over = true
		job.wake(0)
	}
	answered := func(m proto.Message, d []byte) {
		s.send(0, func() {
			answer, data, over, heard = m, d, true, true
			job.wake(0)
		})
	}
	request = proto.Clone(request)
	var sent []byte
	for _, part := range payload {
		sent = append(sent, part...)
	}
	s.send(1, func() { to.serve(request, sent, answered) })
	for !over && ctx.Err() == nil {
		job.park(ctx)
	}
	if !heard {
		return failed("no answer")
	}
	if reply != nil {
		proto.Merge(reply, answer)
	}
	if len(data) == 0 {
		return nil, nil
	}
	buffer := pool.Get(len(data))
	copy(buffer.Data, data)
	return buffer, nil
}

// serve takes a request of another server, as a connection does.
func (s *server) serve(request proto.Message, payload []byte, answered func(proto.Message, []byte)) {
	switch r := request.(type) {
	case nil: // a ping
		answered(nil, nil)
	case *pb.Digest:
		s.server.Handler().Digest(r, func(reply *pb.DigestReply, data *dataplane.Buffer) {
			var copied []byte
			if data != nil {
				copied = append(copied, data.Data...)
				data.Release()
			}
			answered(reply, copied)
		})
	case *pb.PrepareOrder:
		s.server.Handler().Prepare(r, func(reply *pb.PrepareReply, err error) {
			answer := &pb.Prepared{Reply: reply}
			if err = travelled(err); err != nil {
				answer.Code, answer.Detail = uint32(gfs.CodeOf(err)), err.Error()
			}
			answered(answer, nil)
		})
	case *pb.Patch:
		blocks := s.server.Pool().Get(len(payload))
		copy(blocks.Data, payload)
		s.server.Handler().Patch(r, blocks, func(err error) {
			reply := &pb.PatchReply{}
			if err = travelled(err); err != nil {
				reply.Code, reply.Detail = uint32(gfs.CodeOf(err)), err.Error()
			}
			answered(reply, nil)
		})
	case *pb.Pull:
		s.pull(r, answered)
	}
}
