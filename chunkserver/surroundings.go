package chunkserver

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// Surroundings are what a server meets the world through, apart from its disks and its clock. Those of a process are
// goroutines, timers, TCP and NATS; a simulation has its own.
type Surroundings interface {
	Runtime
	Peers
	Masters
}

// Runtime is how a server's work is carried out.
type Runtime interface {
	// Stage carries out turns, timers and jobs; nil is goroutines.
	Stage() actors.Stage
	// Go runs f, which may wait, beside everything else; Wait returns when all of these have returned.
	Go(f func())
	Wait()
	// Signal makes something that what Go runs can wait at, with l held.
	Signal(l sync.Locker) Signal
	// WithTimeout is context.WithTimeout, and Pause waits for d or for the end of ctx, whose error it returns.
	WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
	Pause(ctx context.Context, d time.Duration) error
}

// Signal is what sync.Cond is.
type Signal interface {
	Wait()
	Signal()
}

// Peers are the other servers' data planes: see the functions of package dataplane with the same names.
type Peers interface {
	OpenChain(ctx context.Context, open *pb.ChainOpen) (Downstream, *pb.ChainOpened, error)
	Call(ctx context.Context, address string, op wire.Op, request, reply proto.Message, payload ...[]byte) error
	Fetch(ctx context.Context, pool *dataplane.Pool, address string, op wire.Op, request, reply proto.Message) (*dataplane.Buffer, error)
}

// Downstream is what dataplane.Downstream is, and Upstream what dataplane.Upstream is.
type Downstream interface {
	Start(events dataplane.DownstreamEvents)
	Apply(a *dataplane.Apply) error
	Tick(commitLength int64) error
	Close(request *pb.ChainClose) error
	Drop()
	Wait()
}

// Upstream is a member's end of the stream from its predecessor.
type Upstream interface {
	Lost() bool
	Opened(reply *pb.ChainOpened)
	Closed(err error)
	Ack(serial gfs.Serial, accused gfs.ServerID, busy bool)
	Drop()
}

// Masters is the way to the masters: see the functions of package bus with the same names.
type Masters interface {
	Ask(ctx context.Context, subject string, request, reply proto.Message) error
	AskAsync(call bus.Call, on func(bus.Answer) (done bool))
	PublishJSON(subject string, value any) error
}

// process is the surroundings of a server that is a process, or part of one.
type process struct {
	conn *bus.Conn // nil before there is one
	wg   sync.WaitGroup
}

func (p *process) Stage() actors.Stage { return nil }

func (p *process) Go(f func()) { p.wg.Go(f) }

func (p *process) Wait() { p.wg.Wait() }

func (p *process) Signal(l sync.Locker) Signal { return sync.NewCond(l) }

func (p *process) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}

func (p *process) Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *process) OpenChain(ctx context.Context, open *pb.ChainOpen) (Downstream, *pb.ChainOpened, error) {
	down, opened, err := dataplane.OpenChain(ctx, open)
	if down == nil { // a nil of another type than the interface's
		return nil, opened, err
	}
	return down, opened, err
}

func (p *process) Call(ctx context.Context, address string, op wire.Op, request, reply proto.Message, payload ...[]byte) error {
	return dataplane.Call(ctx, address, op, request, reply, payload...)
}

func (p *process) Fetch(ctx context.Context, pool *dataplane.Pool, address string, op wire.Op, request, reply proto.Message) (*dataplane.Buffer, error) {
	return dataplane.Fetch(ctx, pool, address, op, request, reply)
}

func (p *process) Ask(ctx context.Context, subject string, request, reply proto.Message) error {
	return bus.Ask(ctx, p.conn, subject, request, reply)
}

func (p *process) AskAsync(call bus.Call, on func(bus.Answer) (done bool)) {
	bus.AskAsync(p.conn, call, on)
}

func (p *process) PublishJSON(subject string, value any) error {
	return bus.PublishJSON(p.conn, subject, value)
}
