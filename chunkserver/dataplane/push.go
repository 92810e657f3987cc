package dataplane

import (
	"cmp"
	"context"
	"time"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// sweepInterval is the pause between looks for pushed data that nobody asks for.
const sweepInterval = time.Second

// maxAddressBytes bounds an address in a push.
const maxAddressBytes = 256

// onPush takes in data for a mutation that comes later, and passes them on while they arrive.
func (c *conn) onPush(h wire.Header) error {
	m := &c.push
	if err := c.in.decode(m); err != nil {
		return err
	}
	c.requests.take(0)
	in := newPassage(c.server, c, &c.onwards, h.RequestID, m, h.PayloadBytes)
	if err := in.enter(m); err != nil {
		in.answer(err)
		return c.in.discard()
	}
	p := in.data
	err := c.in.deadline(in.left) // the time spent until here is not the sender's
	var corrupt error
	if err == nil {
		corrupt, err = c.in.verified(p.buffer.Data, p.offset, p.sums, in.step)
	}
	in.end(cmp.Or(err, corrupt))
	return err
}

// pushed answers a push.
func (c *conn) pushed(id uint64, reply *pb.PushReply) {
	c.reply(wire.Header{Op: wire.OpPush, RequestID: id}, reply)
	c.requests.put(0)
}

// passage is pushed data on their way through this server. It belongs to the goroutine that reads them, but for what
// answer needs.
type passage struct {
	server  *Server
	from    pushSender
	onwards *forwarders
	id      uint64 // of the request, here and at the next server
	call    uint64
	handle  gfs.ChunkHandle
	key     pushKey
	bytes   int

	data   *pushed    // until the store has them
	left   int        // bytes not verified yet
	next   *forwarder // nil at the end of the chain
	onward *pb.Push   // what next is told
	begun  bool       // it has been told: then whoever takes the push from its list answers
	failed error
}

// pushSender is who hears what came of a push, once, on any goroutine.
type pushSender interface {
	pushed(id uint64, reply *pb.PushReply)
}

func newPassage(s *Server, from pushSender, onwards *forwarders, id uint64, m *pb.Push, n int) *passage {
	return &passage{server: s, from: from, onwards: onwards, id: id, call: m.Call, handle: gfs.ChunkHandle(m.Handle),
		key: pushKey{m.Session, m.Counter}, bytes: n, left: n}
}

// enter makes room for the data and gets hold of the next server. Meanwhile the connection is not read on. If it fails, there
// is nothing to end.
func (in *passage) enter(m *pb.Push) error {
	if err := checkPush(m, in.left); err != nil {
		return err
	}
	s, position := in.server, int(m.Position)
	if !s.pushes.admit(position, in.left) {
		return gfs.Errorf(gfs.CodeBusy, "no room for %d pushed bytes at position %d of their chain for %v: send them in order",
			in.left, position, s.pushes.limits.Patience)
	}
	if err := in.meet(m); err != nil {
		s.pushes.refund(position, in.left)
		return err
	}
	in.data = &pushed{key: in.key, position: position, buffer: s.pool.Get(in.left), offset: m.Offset, came: s.now()}
	in.data.sums = append(in.data.room[:0], m.Checksums...)
	return nil
}

// meet gets hold of the next server, if there is one.
func (in *passage) meet(m *pb.Push) (err error) {
	if len(m.Rest) == 0 {
		return nil
	}
	if in.next, err = in.onwards.to(m.Rest[0], len(m.Rest)); err != nil {
		return err
	}
	m.Rest, m.Position = m.Rest[1:], m.Position+1
	in.onward = m
	return nil
}

// step takes in a verified part of the data. The last one is passed on when the store has all, so that the answer which
// leads to a mutation never comes before the data are to be had.
func (in *passage) step(part []byte) {
	in.left -= len(part)
	if in.left == 0 && in.failed == nil {
		in.failed = in.keep()
	}
	if in.next == nil || in.failed != nil && !in.begun {
		return
	}
	if err := in.next.pass(in, part); in.failed == nil {
		in.failed = err
	}
}

// keep puts the data into the store, unless the push was answered already: then it was refused further down.
func (in *passage) keep() error {
	if in.begun && !in.next.awaits(in.id) {
		return gfs.Errorf(gfs.CodeUnavailable, "refused further down the chain")
	}
	err := in.server.pushes.put(in.data)
	if err == nil {
		in.data = nil
	}
	return err
}

// end is for when nothing more comes. err says why that is not all, or what is wrong with it.
func (in *passage) end(err error) {
	if err = cmp.Or(err, in.failed); err != nil {
		in.leave(err)
		return
	}
	in.server.counters.Pushes.Add(1)
	in.server.counters.PushBytes.Add(int64(in.bytes))
	if in.next == nil {
		in.answer(nil)
	}
}

// leave ends a push that failed.
func (in *passage) leave(err error) {
	if p := in.data; p != nil {
		in.server.pushes.refund(p.position, len(p.buffer.Data))
		p.buffer.Release()
	}
	if !in.begun || in.next.take(in.id) {
		in.answer(err)
	}
	if in.begun && in.next.within { // the next server waits for the rest of a frame
		in.next.fail(err)
	}
}

// answer tells the sender what came of the push; data that waited for it in vain are dropped.
func (in *passage) answer(err error) {
	if err != nil && gfs.CodeOf(err) != gfs.CodeConflict { // then the data of that name are another push's
		in.server.pushes.withdraw(in.key)
	}
	in.server.trace("push", in.call, in.handle, err)
	code, detail := errorOf(err)
	in.from.pushed(in.id, &pb.PushReply{Code: code, Detail: detail})
}

// checkPush refuses what no client of this protocol sends.
func checkPush(m *pb.Push, payload int) error {
	switch {
	case payload < gfs.SmallMutationBytes:
		return gfs.Errorf(gfs.CodeInvalid, "push of %d bytes: send less than %d in order", payload, gfs.SmallMutationBytes)
	case m.Session == 0:
		return gfs.Errorf(gfs.CodeInvalid, "push without a session")
	case m.Offset < 0 || m.Offset >= gfs.BlockSize:
		return gfs.Errorf(gfs.CodeInvalid, "push at offset %d within a block of %d bytes", m.Offset, gfs.BlockSize)
	case m.Position >= gfs.MaxReplicas || int(m.Position)+1+len(m.Rest) > gfs.MaxReplicas:
		return gfs.Errorf(gfs.CodeInvalid, "push along a chain of more than %d servers", gfs.MaxReplicas)
	}
	for _, address := range m.Rest {
		if address == "" || len(address) > maxAddressBytes {
			return gfs.Errorf(gfs.CodeInvalid, "push to an address of %d bytes: want 1 to %d", len(address), maxAddressBytes)
		}
	}
	if want := wire.Parts(m.Offset, int64(payload)); len(m.Checksums) != want {
		return gfs.Errorf(gfs.CodeInvalid, "%d checksums for %d bytes at offset %d, want %d", len(m.Checksums), payload, m.Offset, want)
	}
	return nil
}

// onReference hands on a mutation whose data were pushed. One whose data are not here ends the connection: what the same
// client has sent after it must not overtake it, and then is sent again behind it.
func (c *conn) onReference(m *Mutation, request *pb.Mutate) error {
	if err := c.server.refer(m, request); err != nil {
		return err
	}
	if err := c.admit(m.Handle, m.Request.Length); err != nil {
		m.pushed.release(2)
		return err
	}
	c.hand(m)
	return nil
}

// refer gives a mutation the data that were pushed for it.
func (s *Server) refer(m *Mutation, request *pb.Mutate) error {
	key := pushKey{request.PushedSession, request.PushedCounter}
	offset := int64(0)
	if m.Request.Kind == mutation.KindWrite {
		offset = m.Request.Offset
	}
	p := s.pushes.claim(key, 2) // the data's and the answer's: a member that lacks them gets them until both are over
	if p == nil {
		return gfs.Errorf(gfs.CodeUnavailable, "push %d of session %016x is not here", key.counter, key.session)
	}
	if !p.fits(m.Request.Length, offset, m.Checksums) {
		p.release(2)
		return gfs.Errorf(gfs.CodeInvalid, "push %d of session %016x is of other data", key.counter, key.session)
	}
	m.pushed, m.buffer = p, p.buffer
	s.counters.References.Add(1)
	return nil
}

// onPull gives pushed data to a member that lacks them.
func (c *conn) onPull(h wire.Header) error {
	var request pb.Pull
	if err := c.in.decode(&request); err != nil {
		return err
	}
	p, err := c.server.lend(&request)
	if err != nil {
		code, detail := errorOf(err)
		c.reply(h, &pb.PullReply{Code: code, Detail: detail})
		return nil
	}
	c.replyData(h, &pb.PullReply{}, p.buffer.Data)
	p.release(1)
	return nil
}

// lend finds the data that a member lacks. They are to be released once.
func (s *Server) lend(request *pb.Pull) (*pushed, error) {
	p := s.pushes.borrow(pushKey{request.Session, request.Counter})
	if p == nil {
		return nil, gfs.Errorf(gfs.CodeUnavailable, "push %d of session %016x is not here", request.Counter, request.Session)
	}
	s.counters.Pulls.Add(1)
	return p, nil
}

// reference gets the data of a run that the frame a does not carry: its own, or those of the primary, at whose address it
// waits for them until ctx ends. Meanwhile it calls busy now and then.
func (s *Server) reference(ctx context.Context, a *Apply, run *Run, primary string, busy func()) error {
	n := a.Mutations[run.mutation].Length
	if p := s.pushes.claim(run.pushed, 1); p != nil {
		if p.fits(n, run.Offset, run.Checksums) {
			run.Data, a.claimed = p.buffer.Data, append(a.claimed, p)
			return nil
		}
		p.release(1)
	}
	data, err := s.pull(ctx, run.pushed, primary, busy)
	if err != nil {
		return err
	}
	a.buffers = append(a.buffers, data)
	if len(data.Data) != n {
		return gfs.Errorf(gfs.CodeInvalid, "pull of %d bytes gave %d", n, len(data.Data))
	}
	run.Data = data.Data
	return wire.Verify(run.Checksums, run.Offset, run.Data)
}

// pull gets pushed data from the primary. Meanwhile the predecessor hears by busy that this member is alive.
func (s *Server) pull(ctx context.Context, key pushKey, primary string, busy func()) (*Buffer, error) {
	ctx, cancel := s.around.WithTimeout(ctx, gfs.PullTimeout)
	defer cancel()
	s.around.Go(func() {
		for s.around.Pause(ctx, gfs.BusyInterval) == nil {
			busy()
		}
	})
	var reply pb.PullReply
	data, err := s.around.Fetch(ctx, s.pool, primary, wire.OpPull, &pb.Pull{Session: key.session, Counter: key.counter}, &reply)
	if err == nil && reply.Code != 0 {
		err = gfs.FromCode(gfs.Code(reply.Code), reply.Detail)
	}
	if err == nil && data == nil {
		err = gfs.Errorf(gfs.CodeInvalid, "pull gave no data")
	}
	if err != nil {
		data.Release()
		return nil, err
	}
	return data, nil
}

// sweepPushes drops pushed data that nobody asks for, until the server is closed.
func (s *Server) sweepPushes() {
	for s.around.Pause(s.ctx, sweepInterval) == nil {
		if n := s.pushes.sweep(s.now()); n > 0 {
			s.log.WithField("pushes", n).Debug("pushed data that nobody asked for")
		}
	}
}
