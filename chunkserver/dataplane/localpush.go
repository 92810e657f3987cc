package dataplane

import (
	"maps"
	"slices"

	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// Inlet takes pushes as an accepted connection does, where there is none: a simulation tells it what comes. It is not safe for
// concurrent use.
type Inlet struct {
	server  *Server
	onwards forwarders
	answer  func(id uint64, reply *pb.PushReply)

	under   *passage // the push that is being read; nil between two
	rest    []byte   // of its buffer, not come yet
	offset  int64    // of rest
	sums    []uint32 // of rest
	corrupt error
}

// Relay is what goes on from an Inlet to one next server: what comes back on its Line is told here.
type Relay struct{ forwarder *forwarder }

// Address is the next server's.
func (r Relay) Address() string { return r.forwarder.address }

// Answered takes the next server's answer to a push.
func (r Relay) Answered(id uint64, reply *pb.PushReply) { r.forwarder.answered(id, reply) }

// Lost hears that the line has ended.
func (r Relay) Lost(err error) { r.forwarder.fail(err) }

// Inlet makes one that goes on by the lines that dial gives, and tells answer what came of each push, once.
func (s *Server) Inlet(dial func(Relay) (Line, error), answer func(id uint64, reply *pb.PushReply)) *Inlet {
	c := &Inlet{server: s, answer: answer}
	c.onwards = forwarders{now: s.now, connect: func(f *forwarder) (err error) {
		f.line, err = dial(Relay{f})
		return err
	}}
	return c
}

// Begin takes the head of a push with so many bytes, which come by Part. It takes over m.
func (c *Inlet) Begin(id uint64, m *pb.Push, bytes int) {
	in := newPassage(c.server, c, &c.onwards, id, m, bytes)
	if err := in.enter(m); err != nil {
		in.answer(err)
		return
	}
	c.under, c.corrupt = in, nil
	c.rest, c.offset, c.sums = in.data.buffer.Data, in.data.offset, in.data.sums
}

// Part takes the next bytes of the push, to the end of a block or of the push. It copies them.
func (c *Inlet) Part(part []byte) {
	if c.under == nil {
		return // it was refused
	}
	n := copy(c.rest, part)
	part = c.rest[:n]
	sums := wire.Parts(c.offset, int64(n))
	if c.corrupt == nil {
		c.corrupt = wire.Verify(c.sums[:sums], c.offset, part)
	}
	if c.corrupt == nil {
		c.under.step(part)
	}
	c.offset, c.rest, c.sums = c.offset+int64(n), c.rest[n:], c.sums[sums:]
	if len(c.rest) == 0 {
		in := c.under
		c.under = nil
		in.end(c.corrupt)
	}
}

// Close is the end of the connection, and with it of those that went on from it.
func (c *Inlet) Close(cause error) {
	if in := c.under; in != nil {
		c.under = nil
		in.end(cause)
	}
	for _, address := range slices.Sorted(maps.Keys(c.onwards.byAddress)) {
		if f := c.onwards.byAddress[address]; f.line != nil {
			f.fail(cause)
		}
	}
}

// pushed is part of pushSender.
func (c *Inlet) pushed(id uint64, reply *pb.PushReply) { c.answer(id, reply) }

// Pull gives a copy of pushed data to a member that lacks them.
func (s *Server) Pull(request *pb.Pull) (*pb.PullReply, []byte) {
	p, err := s.lend(request)
	if err != nil {
		code, detail := errorOf(err)
		return &pb.PullReply{Code: code, Detail: detail}, nil
	}
	defer p.release(1)
	return &pb.PullReply{}, append([]byte(nil), p.buffer.Data...)
}

// Pushed is what is held of pushed data: how many pushes, and how many bytes of room for those that wait for their mutation.
func (s *Server) Pushed() (pushes, waiting int) { return s.pushes.held() }
