package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// DownstreamEvents hears what comes up a chain stream. Its methods are called one at a time, on the stream's own
// goroutine, and must not wait.
type DownstreamEvents interface {
	// Acked: see pb.ChainAck.
	Acked(serial gfs.Serial, accused gfs.ServerID, busy bool)
	// Closed answers ChainClose.
	Closed(err error)
	// Lost is called once, when the stream has ended for whatever reason.
	Lost(err error)
}

// Downstream is a member's end of the stream to its successor. Apply, Tick and Close write to it and may block for as
// long as the successor does; they are called by one goroutine at a time. Drop may be called by any.
type Downstream struct {
	tcp     *net.TCPConn
	in      frameReader
	out     *wire.Writer
	message applyMessage
	payload [][]byte
	dropped atomic.Bool
	done    chan struct{}
}

// streamWriteTimeout is what a successor has to take one frame. It is long: a successor that stopped is found by its
// silence, and then the stream is dropped.
const streamWriteTimeout = 30 * time.Second

// dial connects to a member's data plane. It ends with ctx. The error is gfs.CodeUnavailable.
func dial(ctx context.Context, address string) (*net.TCPConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, gfs.Errorf(gfs.CodeUnavailable, "connect to chunkserver at %s: %v", address, err)
	}
	return c.(*net.TCPConn), nil
}

// OpenChain connects to the member at open.Position and opens a chain stream there. It blocks until everyone from
// that member down has answered, or until ctx ends. The stream is in use if the answer has code 0 and names nobody
// differing; otherwise the Downstream is nil. events hears nothing before OpenChain has returned with a stream and
// Start was called.
func OpenChain(ctx context.Context, open *pb.ChainOpen) (*Downstream, *pb.ChainOpened, error) {
	member := open.Members[open.Position]
	tcp, err := dial(ctx, member.Address)
	if err != nil {
		return nil, nil, err
	}
	d := &Downstream{tcp: tcp, in: newFrameReader(tcp), out: wire.NewWriter(tcp), done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { tcp.Close() })
	opened := new(pb.ChainOpened)
	err = d.handshake(open, opened)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		tcp.Close()
		return nil, nil, gfs.Errorf(gfs.CodeUnavailable, "open the chain of chunk %016x at chunkserver %s: %v", open.Handle, member.Id, err)
	}
	if opened.Code != 0 || len(opened.Differing) > 0 {
		tcp.Close()
		return nil, opened, nil
	}
	return d, opened, nil
}

func (d *Downstream) handshake(open *pb.ChainOpen, opened *pb.ChainOpened) error {
	if err := d.out.Frame(wire.Header{Op: wire.OpChainOpen, RequestID: 1}, open); err != nil {
		return err
	}
	h, err := d.in.next()
	if err != nil {
		return err
	}
	if h.Op != wire.OpChainOpen || !h.IsReply() || h.PayloadBytes != 0 {
		return gfs.Errorf(gfs.CodeInvalid, "%s frame in answer to chain-open", h.Op)
	}
	if err := d.in.decode(opened); err != nil {
		return err
	}
	return d.in.finish()
}

// Start begins to read what comes up the stream. It is called once.
func (d *Downstream) Start(events DownstreamEvents) {
	go func() {
		defer close(d.done)
		err := d.listen(events)
		d.Drop()
		events.Lost(err)
	}()
}

func (d *Downstream) listen(events DownstreamEvents) error {
	for {
		h, err := d.in.next()
		if err != nil {
			return err
		}
		if h.PayloadBytes != 0 {
			return gfs.Errorf(gfs.CodeInvalid, "%s frame with a payload up a chain stream", h.Op)
		}
		switch {
		case h.Op == wire.OpChainAck && !h.IsReply():
			var ack pb.ChainAck
			if err := d.in.decode(&ack); err != nil {
				return err
			}
			events.Acked(gfs.Serial(ack.Serial), gfs.ServerID(ack.Accused), ack.Busy)
		case h.Op == wire.OpChainClose && h.IsReply():
			var closed pb.ChainClosed
			if err := d.in.decode(&closed); err != nil {
				return err
			}
			events.Closed(gfs.FromCode(gfs.Code(closed.Code), closed.Detail))
		default:
			return gfs.Errorf(gfs.CodeInvalid, "%s frame up a chain stream", h.Op)
		}
		if err := d.in.finish(); err != nil {
			return err
		}
	}
}

// Apply sends a frame of mutations, which stay the caller's.
func (d *Downstream) Apply(a *Apply) error {
	d.payload = d.payload[:0]
	for i := range a.Runs {
		if a.Runs[i].pushed.none() {
			d.payload = append(d.payload, a.Runs[i].Data)
		}
	}
	return d.write(wire.OpChainApply, 0, d.message.fill(a), d.payload...)
}

// Tick sends the commit length.
func (d *Downstream) Tick(commitLength int64) error {
	return d.write(wire.OpChainTick, 0, &pb.ChainTick{CommitLength: commitLength})
}

// Close asks to end mutation in this version. The answer comes as an event; the stream stays until Drop.
func (d *Downstream) Close(request *pb.ChainClose) error {
	return d.write(wire.OpChainClose, 2, request)
}

func (d *Downstream) write(op wire.Op, id uint64, m proto.Message, payload ...[]byte) error {
	if err := d.tcp.SetWriteDeadline(time.Now().Add(streamWriteTimeout)); err != nil {
		return err
	}
	if err := d.out.Frame(wire.Header{Op: op, RequestID: id}, m, payload...); err != nil {
		return fmt.Errorf("send %s down the chain: %w", op, err)
	}
	return nil
}

// Drop ends the stream; a blocked write returns. It may be called from any goroutine, more than once.
func (d *Downstream) Drop() {
	if d.dropped.CompareAndSwap(false, true) {
		d.tcp.Close()
	}
}

// Wait returns when the goroutine of a started and dropped stream has ended.
func (d *Downstream) Wait() { <-d.done }

// Call sends one request to the data plane at address on a connection of its own and waits for its reply, until ctx
// ends. The error is gfs.CodeUnavailable where there is no reply; what the reply says is the caller's to look at. A nil
// reply has no message.
func Call(ctx context.Context, address string, op wire.Op, request, reply proto.Message, payload ...[]byte) error {
	data, err := call(ctx, address, op, request, reply, nil, payload...)
	data.Release()
	return err
}

// Fetch is a Call whose answer may have data of at most what a frame carries. They are nil where there are none, and
// otherwise the caller's to release.
func Fetch(ctx context.Context, pool *Pool, address string, op wire.Op, request, reply proto.Message) (*Buffer, error) {
	return call(ctx, address, op, request, reply, pool)
}

// call refuses data in the answer if there is no pool.
func call(ctx context.Context, address string, op wire.Op, request, reply proto.Message, pool *Pool, payload ...[]byte) (*Buffer, error) {
	failed := func(err error) (*Buffer, error) {
		return nil, gfs.Errorf(gfs.CodeUnavailable, "%s to chunkserver at %s: %v", op, address, err)
	}
	tcp, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	defer tcp.Close()
	defer context.AfterFunc(ctx, func() { tcp.Close() })()
	in, out := newFrameReader(tcp), wire.NewWriter(tcp)
	if err := out.Frame(wire.Header{Op: op, RequestID: 1}, request, payload...); err != nil {
		return failed(err)
	}
	h, err := in.next()
	if err == nil && (h.Op != op || !h.IsReply() || h.PayloadBytes != 0 && pool == nil) {
		err = errors.New("answered with another frame")
	}
	if err == nil && reply != nil {
		err = in.decode(reply)
	}
	if err != nil {
		return failed(err)
	}
	if h.PayloadBytes == 0 {
		return nil, nil
	}
	data := pool.Get(h.PayloadBytes)
	if err := in.payload(data.Data); err != nil {
		data.Release()
		return failed(err)
	}
	return data, nil
}
