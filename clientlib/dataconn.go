package clientlib

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/wire"
)

// Times and bounds of a data connection.
const (
	// silenceLimit is how long a peer that owes an answer may be silent, to pings too, before it counts as stopped. With
	// the reconfiguration that follows a stall stays within 2 s.
	silenceLimit = time.Second
	// readSilenceLimit is the same where only reads wait: going to another replica disturbs nobody.
	readSilenceLimit = 450 * time.Millisecond
	// pingParts is which part of its limit a peer may be silent before it is asked whether it is alive.
	pingParts = 3
	// stuckLimit gives a connection up on which nothing moves although its server lives: longer than a server lets a
	// mutation wait for a configuration.
	stuckLimit = 15 * time.Second
	// readSilence is how long a read waits while its connection brings no work at all, though its server lives.
	readSilence = 2 * time.Second
	// idleLimit closes connections that nobody uses.
	idleLimit = time.Minute
	// maxCalls bounds the requests in flight: a server reads no further beyond it.
	maxCalls = gfs.MaxConnectionRequests
	// stepBytes is the unit in which progress of a payload is noticed.
	stepBytes = 256 << 10
	// cancelGrace is how long a cancelled read whose payload is arriving waits before it gives the connection up.
	cancelGrace = 50 * time.Millisecond
)

// errSilent is the cause of the fault when a peer owes an answer and gives no sign of life.
var errSilent = errors.New("silent")

// call is one request on a data connection.
type call struct {
	op      wire.Op
	request proto.Message
	payload *buffer // data of the request, or nil; the connection holds it until it is written
	reply   proto.Message
	into    []byte           // room for the payload of the reply
	check   *arrivalCheck    // looks at the payload as it comes; nil: nobody does
	finish  func(done *call) // called once, without locks, on a goroutine of the connection; must not block

	received int   // bytes of into that were filled
	err      error // a fault, or a reply that makes no sense

	id        uint64 // the rest is guarded by the connection's lock
	receiving bool   // the reply's payload is being read into into
}

// dataConn is one connection to a chunkserver. Requests are pipelined: one goroutine writes, several frames a system
// call, one reads and tells the replies apart. Replies may overtake each other.
type dataConn struct {
	address  string
	silence  time.Duration // limit
	conn     net.Conn
	slots    chan struct{} // one for each call in flight
	wake     chan struct{}
	lastByte atomic.Int64 // when a byte last arrived or left, in Unix nanoseconds
	lastSign atomic.Int64 // when the server last answered a ping
	lastWork atomic.Int64 // when a reply, or a part of its payload, last arrived

	mu        sync.Mutex
	calls     map[uint64]*call
	queue     []*call // in calls or cancelled, to be written
	nextID    uint64
	busySince time.Time // when calls last became non-empty
	idleSince time.Time
	pinging   bool // a ping of the server is under way, on another connection
	failed    error
	broken    chan struct{} // closed with failed set
}

func newDataConn(address string, l lane, conn net.Conn) *dataConn {
	now := time.Now()
	c := &dataConn{address: address, silence: l.silence(), conn: conn, slots: make(chan struct{}, maxCalls), wake: make(chan struct{}, 1),
		calls: make(map[uint64]*call), broken: make(chan struct{}), idleSince: now}
	c.lastByte.Store(now.UnixNano())
	c.lastWork.Store(now.UnixNano())
	return c
}

// start sends a request; finish is called with the outcome unless start returns an error. It waits only while too
// many calls are in flight.
func (c *dataConn) start(ctx context.Context, request *call) error {
	select {
	case c.slots <- struct{}{}:
	case <-c.broken:
		return c.failure()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := c.enqueue(request); err != nil {
		<-c.slots
		return err
	}
	return nil
}

// startNow is start where that need not wait; otherwise it is false.
func (c *dataConn) startNow(request *call) bool {
	select {
	case c.slots <- struct{}{}:
	default:
		return false
	}
	if err := c.enqueue(request); err != nil {
		<-c.slots
		return false
	}
	return true
}

func (c *dataConn) enqueue(request *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return c.failed
	}
	if len(c.calls) == 0 {
		c.busySince = time.Now()
	}
	c.nextID++
	request.id = c.nextID
	c.calls[request.id] = request
	c.queue = append(c.queue, request)
	if request.payload != nil {
		request.payload.retain()
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

// cancel gives a call up; finish is not called afterwards, and into is the caller's again. It returns false if the
// call was over already: then finish was called or is about to be.
func (c *dataConn) cancel(request *call, done <-chan struct{}) bool {
	c.mu.Lock()
	if c.calls[request.id] != request {
		c.mu.Unlock()
		return false
	}
	if !request.receiving {
		c.remove(request)
		c.mu.Unlock()
		<-c.slots
		return true
	}
	c.mu.Unlock()
	timer := time.NewTimer(cancelGrace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C: // the buffer is in the reader's hands: only the end of the connection frees it
		c.fail(errors.New("a read was given up in the middle of its reply"))
		<-done
	}
	return false
}

// remove takes a call out of the table; the lock is held.
func (c *dataConn) remove(request *call) {
	delete(c.calls, request.id)
	if len(c.calls) == 0 {
		c.idleSince = time.Now()
	}
}

// complete takes a call out of the table and hands its outcome on.
func (c *dataConn) complete(request *call, err error) {
	c.mu.Lock()
	c.remove(request)
	c.mu.Unlock()
	<-c.slots
	request.err = err
	request.finish(request)
}

func (c *dataConn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// fail ends the connection: every call in flight ends with a fault.
func (c *dataConn) fail(cause error) {
	c.mu.Lock()
	if c.failed != nil {
		c.mu.Unlock()
		return
	}
	c.failed = &fault{address: c.address, cause: cause}
	lost := make([]*call, 0, len(c.calls))
	for id, request := range c.calls {
		if !request.receiving { // that one is the reader's to finish
			lost = append(lost, request)
			delete(c.calls, id)
		}
	}
	c.mu.Unlock()
	close(c.broken)
	c.conn.Close()
	for _, request := range lost {
		c.complete(request, c.failed)
	}
}

// check looks after silence and idleness; the pool calls it a few times a second. Ping says that the peer should be
// asked for a sign of life, and alive be called when it gave one.
func (c *dataConn) check(now time.Time) (ping bool) {
	c.mu.Lock()
	if c.failed != nil || len(c.calls) == 0 {
		expired := c.failed == nil && now.Sub(c.idleSince) > idleLimit
		if expired { // under the lock, so that no call is caught by it
			c.failed = &fault{address: c.address, cause: errors.New("idle")}
		}
		c.mu.Unlock()
		if expired {
			close(c.broken)
			c.conn.Close()
		}
		return false
	}
	stuck := now.Sub(later(c.busySince, c.lastByte.Load()))
	silent := min(stuck, now.Sub(later(c.busySince, c.lastSign.Load())))
	ping = silent > c.silence/pingParts && !c.pinging
	c.pinging = c.pinging || ping
	c.mu.Unlock()
	switch {
	case silent > c.silence:
		c.fail(fmt.Errorf("%w for %v", errSilent, silent.Round(time.Millisecond)))
	case stuck > stuckLimit:
		c.fail(fmt.Errorf("no byte for %v on this connection, though its server lives", stuck.Round(time.Second)))
	}
	return ping
}

// later is the later of a time and one in Unix nanoseconds.
func later(t time.Time, nanoseconds int64) time.Time {
	if other := time.Unix(0, nanoseconds); other.After(t) {
		return other
	}
	return t
}

// pinged ends a ping that check asked for.
func (c *dataConn) pinged(alive bool) {
	if alive {
		c.lastSign.Store(time.Now().UnixNano())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinging = false
}

// readLoop reads replies until the connection fails.
func (c *dataConn) readLoop() {
	frames := wire.NewReader(livingReader{c})
	for {
		header, err := frames.Next()
		if err == nil {
			err = c.receive(frames, header)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// receive reads one reply. An error ends the connection.
func (c *dataConn) receive(frames *wire.Reader, header wire.Header) error {
	c.mu.Lock()
	request := c.calls[header.RequestID]
	if request != nil {
		request.receiving = true
	}
	c.mu.Unlock()
	if request == nil { // cancelled
		return frames.Discard()
	}
	err := c.fill(frames, header, request)
	if err != nil {
		c.complete(request, &fault{address: c.address, cause: err})
		return err
	}
	c.complete(request, nil)
	return nil
}

func (c *dataConn) fill(frames *wire.Reader, header wire.Header, request *call) error {
	if !header.IsReply() || header.Op != request.op {
		return gfs.Errorf(gfs.CodeInvalid, "a frame %s (reply: %t) as the answer to %s", header.Op, header.IsReply(), request.op)
	}
	c.lastWork.Store(time.Now().UnixNano())
	if request.reply != nil {
		if err := frames.Decode(request.reply); err != nil {
			return err
		}
	}
	if header.PayloadBytes > len(request.into) {
		return gfs.Errorf(gfs.CodeInvalid, "a payload of %d bytes as the answer to %s, %d were asked for", header.PayloadBytes, request.op, len(request.into))
	}
	for request.received < header.PayloadBytes {
		n := min(header.PayloadBytes-request.received, stepBytes)
		if request.check != nil {
			n = request.check.step(n)
		}
		step := request.into[request.received : request.received+n]
		if err := frames.Payload(step); err != nil {
			return err
		}
		if request.check != nil {
			request.check.take(step)
		}
		request.received += n
		c.lastWork.Store(time.Now().UnixNano())
	}
	return nil
}

// livingReader notes when bytes arrive.
type livingReader struct{ c *dataConn }

func (r livingReader) Read(p []byte) (int, error) {
	n, err := r.c.conn.Read(p)
	if n > 0 {
		r.c.lastByte.Store(time.Now().UnixNano())
	}
	if err == io.EOF {
		err = errors.New("the connection was closed by the peer")
	}
	return n, err
}

// do sends a request and waits for its reply, which has no payload. See perform.
func (c *dataConn) do(ctx context.Context, op wire.Op, request, reply proto.Message, quiet time.Duration) error {
	_, err := c.perform(ctx, &call{op: op, request: request, reply: reply}, quiet)
	return err
}

// perform sends a request and waits for its reply, whose payload goes into r.into. Quiet, if not 0, is how long it
// waits while the connection brings no work at all; a server that does not even answer pings ends every wait.
func (c *dataConn) perform(ctx context.Context, r *call, quiet time.Duration) (received int, err error) {
	done := make(chan struct{})
	r.finish = func(*call) { close(done) }
	started := time.Now()
	if err := c.start(ctx, r); err != nil {
		return 0, err
	}
	var expired <-chan time.Time
	if quiet > 0 {
		timer := time.NewTicker(quiet / 4)
		defer timer.Stop()
		expired = timer.C
	}
	for {
		select {
		case <-done:
			return r.received, r.err
		case <-ctx.Done():
			if !c.cancel(r, done) {
				<-done
			}
			return 0, context.Cause(ctx)
		case now := <-expired:
			since := time.Unix(0, c.lastWork.Load())
			if since.Before(started) {
				since = started
			}
			if now.Sub(since) < quiet {
				continue
			}
			if !c.cancel(r, done) {
				<-done
			}
			return 0, &fault{address: c.address, cause: fmt.Errorf("%w: no answer to %s for %v", errSilent, r.op, quiet)}
		}
	}
}
