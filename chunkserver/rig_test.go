package chunkserver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testCluster = "test"

// rig is chunkserver processes in one, a NATS server, and a master played by the test.
type rig struct {
	t        testing.TB
	url      string
	conn     *bus.Conn
	subjects messages.Subjects
	servers  []*chunkserver.Chunkserver
	dirs     []string
	epoch    atomic.Uint32
	number   atomic.Uint64
	attempt  atomic.Uint32

	reports    chan *pb.Report
	closes     chan *pb.CloseRequest
	heartbeats chan *pb.Heartbeat
	pages      chan *pb.InventoryPage
	wantPages  atomic.Bool
	silent     atomic.Bool  // the master answers no heartbeat
	deaf       atomic.Bool  // the master answers no report
	skipped    atomic.Int64 // time.Duration that the servers' clocks are ahead
	logged     sync.Map     // handle to version, both as numbers
}

func testLog(t testing.TB) *logrus.Entry {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	if os.Getenv("CAIRN_TEST_LOG") != "" {
		logger.SetOutput(os.Stderr)
		logger.SetLevel(logrus.DebugLevel)
	}
	return logrus.NewEntry(logger)
}

func newRig(t testing.TB, servers int) *rig {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(5 * time.Second) {
		t.Fatal("the NATS server did not start")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	r := &rig{
		t: t, url: s.ClientURL(), reports: make(chan *pb.Report, 1024), closes: make(chan *pb.CloseRequest, 1024),
		heartbeats: make(chan *pb.Heartbeat, 1024), pages: make(chan *pb.InventoryPage, 1024),
	}
	r.epoch.Store(1)
	if r.subjects, err = messages.NewSubjects(testCluster); err != nil {
		t.Fatal(err)
	}
	if r.conn, err = bus.Connect(bus.Config{URL: r.url, Log: testLog(t)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.conn.Close)
	r.serveMaster()
	for i := range servers {
		r.dirs = append(r.dirs, t.TempDir())
		r.servers = append(r.servers, nil)
		r.start(i)
	}
	return r
}

// serveMaster plays the master's part in what chunkservers ask.
func (r *rig) serveMaster() {
	r.t.Helper()
	endpoint := func(name, subject string, handle func(*bus.Request)) bus.Endpoint {
		return bus.Endpoint{Name: name, Subject: subject, Handle: handle}
	}
	_, err := bus.Serve(r.conn, bus.ServiceConfig{Name: "cairn-master", Version: "1.0.0", Gate: actors.NewGate("requests", 4096)},
		endpoint("report", r.subjects.Master(messages.OpReport), bus.Typed(func(q *bus.Request, m *pb.Report) {
			push(r.reports, m)
			if r.deaf.Load() {
				q.Ignore()
				return
			}
			if logged, ok := r.logged.Load(m.Handle); ok && logged != m.Version {
				q.Fail(gfs.Errorf(gfs.CodeConflict, "the version is another"))
				return
			}
			q.Reply(&pb.ReportReply{})
		})),
		endpoint("close", r.subjects.Master(messages.OpCloseChunk), bus.Typed(func(q *bus.Request, m *pb.CloseRequest) {
			push(r.closes, m)
			q.Reply(&pb.CloseReply{})
		})),
		endpoint("inventory", r.subjects.Master(messages.OpInventory), bus.Typed(func(q *bus.Request, m *pb.InventoryPage) {
			push(r.pages, m)
			q.Reply(&pb.InventoryAck{Epoch: r.epoch.Load()})
		})),
		endpoint("heartbeat", r.subjects.HeartbeatAll(), bus.Typed(func(q *bus.Request, m *pb.Heartbeat) {
			push(r.heartbeats, m)
			if r.silent.Load() {
				q.Ignore()
				return
			}
			q.Reply(&pb.HeartbeatReply{Epoch: r.epoch.Load(), SendInventory: r.wantPages.Load() && m.InventorySequence == 0})
		})),
	)
	if err != nil {
		r.t.Fatal(err)
	}
}

// push keeps the newest: nobody may be listening.
func push[M any](c chan M, m M) {
	for {
		select {
		case c <- m:
			return
		default:
		}
		select {
		case <-c:
		default:
		}
	}
}

func (r *rig) start(i int) *chunkserver.Chunkserver {
	r.t.Helper()
	cs, err := chunkserver.Start(context.Background(), chunkserver.Config{
		Dirs: []string{r.dirs[i]}, Cluster: testCluster, NATS: r.url, Log: testLog(r.t).WithField("n", i),
		Clock: func() time.Time { return time.Now().Add(time.Duration(r.skipped.Load())) },
		Crash: func(err error) { r.t.Errorf("crash: %v", err) },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.servers[i] = cs
	r.t.Cleanup(func() { cs.Close() })
	return cs
}

// skip moves the servers' clocks on.
func (r *rig) skip(d time.Duration) { r.skipped.Add(int64(d)) }

func (r *rig) stop(i int) {
	r.t.Helper()
	if err := r.servers[i].Close(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) member(i int) *pb.Server {
	return &pb.Server{Id: string(r.servers[i].ID()), Address: r.servers[i].Addr()}
}

func (r *rig) members(numbers ...int) []*pb.Server {
	var members []*pb.Server
	for _, i := range numbers {
		members = append(members, r.member(i))
	}
	return members
}

func (r *rig) nextVersion() gfs.Version {
	return gfs.NewVersion(gfs.Epoch(r.epoch.Load()), r.attempt.Add(1))
}

func (r *rig) header(i int) *pb.OrderHeader {
	return &pb.OrderHeader{Epoch: r.epoch.Load(), Incarnation: uint64(r.servers[i].Incarnation()), Number: r.number.Add(1)}
}

// order gives one order and returns its error.
func (r *rig) order(i int, command string, order, reply proto.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	bus.AskAsync(r.conn, bus.Call{Subject: r.subjects.Chunkserver(r.servers[i].ID(), command), Request: order, Total: 20 * time.Second},
		func(answer bus.Answer) bool {
			proto.Reset(reply)
			err := answer.Decode(reply)
			if p, ok := reply.(interface{ GetBusy() bool }); ok && err == nil && p.GetBusy() {
				return false
			}
			done <- err
			return true
		})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s at server %d: %w", command, i, ctx.Err())
	}
}

// create makes a chunk on the given servers, the first its primary.
func (r *rig) create(handle gfs.ChunkHandle, numbers ...int) gfs.Version {
	r.t.Helper()
	return r.createFor(handle, r.members(numbers...), numbers...)
}

// createFor is create with the members as they are told of each other.
func (r *rig) createFor(handle gfs.ChunkHandle, members []*pb.Server, numbers ...int) gfs.Version {
	r.t.Helper()
	version := r.nextVersion()
	var wg sync.WaitGroup
	for _, i := range numbers {
		wg.Go(func() {
			err := r.order(i, messages.CommandCreate, &pb.CreateOrder{
				Header: r.header(i), Handle: uint64(handle), Version: uint64(version), Members: members, LeaseMs: 60000,
			}, &pb.OrderReply{})
			if err != nil {
				r.t.Errorf("create at server %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	return version
}

func (r *rig) prepare(i int, handle gfs.ChunkHandle, version, from gfs.Version) (*pb.PrepareReply, error) {
	reply := &pb.PrepareReply{}
	err := r.order(i, messages.CommandPrepare, &pb.PrepareOrder{
		Header: r.header(i), Handle: uint64(handle), Version: uint64(version), FromVersion: uint64(from),
	}, reply)
	return reply, err
}

func (r *rig) grant(handle gfs.ChunkHandle, version gfs.Version, numbers ...int) (*pb.GrantReply, error) {
	reply := &pb.GrantReply{}
	err := r.order(numbers[0], messages.CommandGrant, &pb.GrantOrder{
		Header: r.header(numbers[0]), Handle: uint64(handle), Version: uint64(version), Members: r.members(numbers...), LeaseMs: 60000,
	}, reply)
	return reply, err
}

// reconfigure takes a chunk from one version to a new one on the given servers.
func (r *rig) reconfigure(handle gfs.ChunkHandle, from gfs.Version, numbers ...int) gfs.Version {
	r.t.Helper()
	version := r.nextVersion()
	for _, i := range numbers {
		if reply, err := r.prepare(i, handle, version, from); err != nil {
			r.t.Fatalf("prepare at server %d: %v", i, err)
		} else if gfs.Version(reply.Promised) != version {
			r.t.Fatalf("server %d promised %v, want %v", i, gfs.Version(reply.Promised), version)
		}
	}
	r.logged.Store(uint64(handle), uint64(version))
	reply, err := r.grant(handle, version, numbers...)
	if err != nil || reply.Accused != "" {
		r.t.Fatalf("grant: %v, accused %q", err, reply.GetAccused())
	}
	return version
}

// receive waits for a message that satisfies a condition.
func receive[M any](t testing.TB, c chan M, what string, want func(M) bool) M {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case m := <-c:
			if want(m) {
				return m
			}
		case <-timeout:
			t.Fatalf("no %s came", what)
		}
	}
}

// client is a connection to a data plane on which requests are pipelined.
type client struct {
	t       testing.TB
	tcp     net.Conn
	mu      sync.Mutex
	out     *wire.Writer // into queued
	queued  bytes.Buffer
	wake    chan struct{}
	next    uint64
	waiting map[uint64]func(wire.Header, *wire.Reader) error
	done    chan struct{}
}

func dial(t testing.TB, address string) *client {
	t.Helper()
	tcp, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, tcp: tcp, wake: make(chan struct{}, 1), waiting: make(map[uint64]func(wire.Header, *wire.Reader) error), done: make(chan struct{})}
	c.out = wire.NewWriter(&c.queued)
	go c.listen()
	go c.flush()
	t.Cleanup(c.close)
	return c
}

func (c *client) close() {
	c.tcp.Close()
	<-c.done
}

// flush writes what is queued, many requests at once.
func (c *client) flush() {
	var frames bytes.Buffer
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		c.mu.Lock()
		frames.Reset()
		frames, c.queued = c.queued, frames
		c.mu.Unlock()
		c.tcp.Write(frames.Bytes())
	}
}

func (c *client) listen() {
	defer close(c.done)
	in := wire.NewReader(c.tcp)
	for {
		h, err := in.Next()
		if err != nil {
			break
		}
		c.mu.Lock()
		f := c.waiting[h.RequestID]
		delete(c.waiting, h.RequestID)
		c.mu.Unlock()
		if err := f(h, in); err != nil {
			c.t.Errorf("reply %+v: %v", h, err)
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, f := range c.waiting {
		delete(c.waiting, id)
		f(wire.Header{}, nil)
	}
}

// send sends a request; on hears the reply, or a nil reader if the connection ended.
func (c *client) send(op wire.Op, m proto.Message, on func(wire.Header, *wire.Reader) error, payload ...[]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	c.waiting[c.next] = on
	if err := c.out.Frame(wire.Header{Op: op, RequestID: c.next}, m, payload...); err != nil {
		delete(c.waiting, c.next)
		c.t.Error(err)
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// result is what came of a mutation.
type result struct {
	offset, length int64
	err            error
}

func (c *client) mutate(m *pb.Mutate, data []byte) <-chan result {
	answer := make(chan result, 1)
	if m.Checksums == nil {
		offset := int64(0)
		if m.Kind == pb.Mutate_WRITE {
			offset = m.Offset
		}
		m.Checksums = wire.AppendChecksums(nil, offset, data)
	}
	c.send(wire.OpMutate, m, func(_ wire.Header, in *wire.Reader) error {
		var reply pb.MutateReply
		if in == nil {
			answer <- result{err: gfs.Errorf(gfs.CodeUnavailable, "connection ended")}
			return nil
		}
		err := in.Decode(&reply)
		answer <- result{reply.Offset, reply.Length, gfs.FromCode(gfs.Code(reply.Code), reply.Detail)}
		return err
	}, data)
	return answer
}

func (c *client) write(handle gfs.ChunkHandle, version gfs.Version, offset int64, data []byte) <-chan result {
	return c.mutate(&pb.Mutate{Handle: uint64(handle), Version: uint64(version), Kind: pb.Mutate_WRITE, Offset: offset}, data)
}

func (c *client) append(handle gfs.ChunkHandle, version gfs.Version, writer gfs.WriterID, sequence uint64, data []byte) <-chan result {
	return c.mutate(&pb.Mutate{
		Handle: uint64(handle), Version: uint64(version), Kind: pb.Mutate_APPEND, Writer: uint64(writer), Sequence: sequence,
	}, data)
}

// call sends a request and decodes its reply.
func (c *client) call(op wire.Op, m, reply proto.Message) {
	c.t.Helper()
	done := make(chan struct{})
	c.send(op, m, func(_ wire.Header, in *wire.Reader) error {
		defer close(done)
		if in == nil {
			return nil
		}
		return in.Decode(reply)
	})
	<-done
}

// read reads once; the payload is checked against the checksums.
func (c *client) read(m *pb.Read) (*pb.ReadReply, []byte) {
	c.t.Helper()
	reply, done := new(pb.ReadReply), make(chan []byte, 1)
	c.send(wire.OpRead, m, func(h wire.Header, in *wire.Reader) error {
		if in == nil {
			done <- nil
			return nil
		}
		if err := in.Decode(reply); err != nil {
			return err
		}
		data := make([]byte, h.PayloadBytes)
		err := in.Payload(data)
		if err == nil && len(data) > 0 {
			err = wire.Verify(reply.Checksums, m.Offset, data)
		}
		done <- data
		return err
	})
	return reply, <-done
}

// readAll reads [0, length) of a replica.
func (c *client) readAll(handle gfs.ChunkHandle, version gfs.Version, length int64) []byte {
	c.t.Helper()
	var all []byte
	for int64(len(all)) < length {
		reply, data := c.read(&pb.Read{
			Handle: uint64(handle), Version: uint64(version), Offset: int64(len(all)), Length: length - int64(len(all)), AtLeast: length,
		})
		if gfs.Code(reply.Code) == gfs.CodeBehind {
			continue // a secondary hears of it within gfs.CommitTick
		}
		if reply.Code != 0 || len(data) == 0 {
			c.t.Fatalf("read at %d of %d: %s %s, commit length %d", len(all), length, gfs.Code(reply.Code), reply.Detail, reply.CommitLength)
		}
		all = append(all, data...)
	}
	return all
}
