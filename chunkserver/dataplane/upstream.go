package dataplane

import (
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// Upstream is a member's end of the stream on which its predecessor sends mutations. Its methods never block and may
// be called from any goroutine.
type Upstream struct {
	conn *conn
	open uint64 // request id of ChainOpen
	last uint64 // request id of ChainClose, set before the sink hears of it
	// primary is the address of the chain's first member.
	primary string
	lost    atomic.Bool
}

// Lost reports whether the stream has ended. It is true before the sink's Lost is called.
func (u *Upstream) Lost() bool { return u.lost.Load() }

// Opened answers ChainOpen.
func (u *Upstream) Opened(reply *pb.ChainOpened) {
	u.send(wire.OpChainOpen, wire.FlagReply, u.open, reply)
}

// Closed answers ChainClose. It must not be called before the sink's Close.
func (u *Upstream) Closed(err error) {
	code, detail := errorOf(err)
	u.send(wire.OpChainClose, wire.FlagReply, u.last, &pb.ChainClosed{Code: code, Detail: detail})
}

// Ack tells the predecessor up to which serial everyone from here down has applied; accused names a member below
// that is silent, and busy says that more will come.
func (u *Upstream) Ack(serial gfs.Serial, accused gfs.ServerID, busy bool) {
	u.send(wire.OpChainAck, 0, 0, &pb.ChainAck{Serial: uint64(serial), Accused: string(accused), Busy: busy})
}

// Drop ends the stream's connection.
func (u *Upstream) Drop() { u.conn.close() }

func (u *Upstream) send(op wire.Op, flags uint8, id uint64, m proto.Message) {
	u.conn.out.send(wire.Header{Op: op, Flags: flags, RequestID: id}, m)
}

// onChainOpen turns the connection into a chain stream and serves it to its end.
func (c *conn) onChainOpen(h wire.Header) error {
	open := new(pb.ChainOpen)
	if err := c.in.decode(open); err != nil {
		return err
	}
	if err := checkOpen(open); err != nil {
		return err
	}
	if err := c.in.finish(); err != nil {
		return err
	}
	up := &Upstream{conn: c, open: h.RequestID, primary: open.Members[0].Address}
	sink := c.server.handler.OpenChain(open, up)
	err := c.chain(up, sink)
	up.lost.Store(true)
	sink.Lost(err)
	return err
}

func checkOpen(open *pb.ChainOpen) error {
	n := len(open.Members)
	if n < 2 || n > gfs.MaxReplicas || open.Position == 0 || int(open.Position) >= n {
		return gfs.Errorf(gfs.CodeInvalid, "chain of %d members opened at position %d: want 2 to %d members and a position from 1 below their number",
			n, open.Position, gfs.MaxReplicas)
	}
	if open.Handle == 0 || open.Version == 0 || open.Length < 0 || open.Length > gfs.ChunkSize {
		return gfs.Errorf(gfs.CodeInvalid, "chain opened for chunk %016x, version %d, length %d", open.Handle, open.Version, open.Length)
	}
	return nil
}

// chain reads frames until the stream ends, which it always does with an error.
func (c *conn) chain(up *Upstream, sink ChainSink) error {
	var message pb.ChainApply
	for {
		h, err := c.in.next()
		if err != nil {
			return err
		}
		switch {
		case h.IsReply():
			err = gfs.Errorf(gfs.CodeInvalid, "%s reply down a chain stream", h.Op)
		case h.Op == wire.OpChainApply:
			var a *Apply
			if a, err = c.readApply(&message, h, up); err == nil {
				sink.Apply(a)
			}
		case h.Op == wire.OpChainTick:
			var tick pb.ChainTick
			if err = c.in.decode(&tick); err == nil {
				sink.Tick(tick.CommitLength)
			}
		case h.Op == wire.OpChainClose:
			request := new(pb.ChainClose)
			if err = c.in.decode(request); err == nil {
				up.last = h.RequestID
				sink.Close(request)
			}
		default:
			err = gfs.Errorf(gfs.CodeInvalid, "%s frame on a chain stream", h.Op)
		}
		if err == nil {
			err = c.in.finish()
		}
		if err != nil {
			return err
		}
	}
}

// readApply reads a frame of mutations and checks all of it.
func (c *conn) readApply(message *pb.ChainApply, h wire.Header, up *Upstream) (*Apply, error) {
	if err := c.in.decode(message); err != nil {
		return nil, err
	}
	a, err := parseApply(message, h.PayloadBytes)
	if err != nil {
		return nil, err
	}
	c.held.take(a.bytes)
	a.window = c.held
	b := c.server.pool.Get(h.PayloadBytes)
	a.buffers = append(a.buffers, b)
	if err = a.layOut(b.Data, message.Checksums); err == nil {
		err = c.readRuns(a, up)
	}
	if err != nil {
		a.Release()
		return nil, err
	}
	c.server.counters.ChainFrames.Add(1)
	c.server.counters.ChainBytes.Add(int64(h.PayloadBytes))
	return a, nil
}

// readRuns gets the data of a frame, most of which follow it.
func (c *conn) readRuns(a *Apply, up *Upstream) error {
	for i := range a.Runs {
		run := &a.Runs[i]
		if !run.pushed.none() {
			if err := c.server.reference(c.ctx, a, run, up.primary, func() { up.Ack(0, "", true) }); err != nil {
				return err
			}
			continue
		}
		corrupt, err := c.in.verified(run.Data, run.Offset, run.Checksums, nil)
		if err == nil {
			err = corrupt // the predecessor checked it too: one of us, or what is between, is broken
		}
		if err != nil {
			return err
		}
	}
	return nil
}
