package dataplane

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// forwarder is a connection on which the pushes of one accepted connection go on to one server. The goroutine that reads
// the pushes writes to it; one of its own reads the answers and passes them back. It ends with the accepted connection,
// or when the other server is silent.
type forwarder struct {
	conn    *conn
	address string
	tcp     *net.TCPConn
	stop    func() bool // does not end it with the accepted connection any more

	// Only the goroutine that reads pushes uses these.
	out    *wire.Writer // into head
	head   sliceWriter
	parts  [2][]byte
	within bool // a frame was begun and is not finished

	mu      sync.Mutex
	pending map[uint64]*forwarded
	owed    int           // of pending, those that the other server has as a whole
	silence time.Duration // that ends it while answers are owed or parts are not taken; the reader of pushes alone sets it
	failed  error
	again   time.Time // no new dial before
}

// forwarded is a push that awaits its answer.
type forwarded struct {
	passage *passage
	whole   bool
}

// forwarder gives a connection to the server at address, after which the data have servers-1 others to go to.
func (c *conn) forwarder(address string, servers int) (*forwarder, error) {
	f := c.forwarders[address]
	if f != nil {
		if again, failed := f.state(); failed == nil {
			f.expect(servers)
			return f, nil
		} else if time.Now().Before(again) {
			return nil, failed
		}
	}
	if c.forwarders == nil {
		c.forwarders = make(map[string]*forwarder)
	}
	delete(c.forwarders, address)
	if len(c.forwarders) >= gfs.MaxPushTargets && !c.dropForwarder() {
		return nil, gfs.Errorf(gfs.CodeBusy, "pushes to %d other servers are under way on this connection", len(c.forwarders))
	}
	f = &forwarder{conn: c, address: address, pending: make(map[uint64]*forwarded)}
	c.forwarders[address] = f
	f.expect(servers)
	ctx, cancel := context.WithTimeout(c.ctx, gfs.MemberSilence)
	defer cancel()
	var err error
	if f.tcp, err = dial(ctx, address); err != nil {
		f.failed, f.again = err, time.Now().Add(gfs.PushSilence)
		return nil, err
	}
	f.out = wire.NewWriter(&f.head)
	f.stop = context.AfterFunc(c.ctx, func() { f.tcp.Close() })
	c.server.wg.Go(f.listen)
	return f, nil
}

// dropForwarder ends a connection on which nothing is under way, if there is one.
func (c *conn) dropForwarder() bool {
	for address, f := range c.forwarders {
		f.mu.Lock()
		idle := len(f.pending) == 0
		f.mu.Unlock()
		if idle {
			if f.tcp != nil {
				f.fail(net.ErrClosed)
			}
			delete(c.forwarders, address)
			return true
		}
	}
	return false
}

// state says why the connection has ended, if it has, and before when no other is to be made in its place.
func (f *forwarder) state() (again time.Time, failed error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.again, f.failed
}

// expect notes how many servers the data of a push go to, each of which may take its time.
func (f *forwarder) expect(servers int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silence = max(f.silence, time.Duration(servers)*gfs.PushSilence)
}

// pass sends on a part of a push, the first with the head of the frame.
func (f *forwarder) pass(in *passage, part []byte) error {
	parts := f.parts[1:]
	if !in.begun {
		f.head = f.head[:0]
		if err := f.out.Head(wire.Header{Op: wire.OpPush, RequestID: in.id}, in.onward, in.left+len(part)); err != nil {
			return err
		}
		if err := f.await(in); err != nil {
			return err
		}
		in.begun, f.within = true, true
		f.parts[0], parts = f.head, f.parts[:]
	}
	f.parts[1] = part
	vectors := net.Buffers(parts)
	err := f.tcp.SetWriteDeadline(time.Now().Add(f.silence + time.Duration(len(part))*time.Second/gfs.FrameRateBytes))
	if err == nil {
		_, err = vectors.WriteTo(f.tcp)
	}
	clear(f.parts[:])
	if err != nil {
		f.within = false
		f.fail(err)
		return err
	}
	if in.left == 0 {
		f.within = false
		f.passed(in.id)
	}
	return nil
}

// await puts a push on the list of those to be answered.
func (f *forwarder) await(in *passage) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return f.failed
	}
	if f.pending[in.id] != nil {
		return gfs.Errorf(gfs.CodeInvalid, "request %d is a push that was not answered yet", in.id)
	}
	f.pending[in.id] = &forwarded{passage: in}
	return nil
}

// awaits reports whether a push was not answered yet.
func (f *forwarder) awaits(id uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pending[id] != nil
}

// passed notes that the other server has a push as a whole: it owes the answer now.
func (f *forwarder) passed(id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pending[id]; p != nil {
		p.whole = true
		if f.owed++; f.owed == 1 {
			f.watch()
		}
	}
}

// watch sets the time at which the other server counts as silent; the lock is held.
func (f *forwarder) watch() {
	var limit time.Time
	if f.owed > 0 {
		limit = time.Now().Add(f.silence)
	}
	if err := f.tcp.SetReadDeadline(limit); err != nil {
		f.tcp.Close() // it has ended already, or ends now
	}
}

// take takes a push off the list; false if it is not there. Whoever takes it answers it.
func (f *forwarder) take(id uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pending[id]
	if p == nil {
		return false
	}
	delete(f.pending, id)
	if p.whole {
		f.owed--
	}
	f.watch()
	return true
}

// listen reads answers until the connection ends.
func (f *forwarder) listen() {
	defer f.stop()
	in := wire.NewReader(f.tcp)
	var reply pb.PushReply
	for {
		h, err := in.Next()
		if err == nil && (h.Op != wire.OpPush || !h.IsReply() || h.PayloadBytes != 0) {
			err = gfs.Errorf(gfs.CodeInvalid, "%s frame in answer to push", h.Op)
		}
		if err == nil {
			err = in.Decode(&reply)
		}
		if err != nil {
			f.fail(err)
			return
		}
		f.mu.Lock()
		p := f.pending[h.RequestID]
		f.mu.Unlock()
		if p != nil && f.take(h.RequestID) {
			p.passage.answer(gfs.FromCode(gfs.Code(reply.Code), reply.Detail))
		}
	}
}

// fail ends the connection: everything under way on it is answered. It may be called from any goroutine, more than once.
func (f *forwarder) fail(cause error) {
	f.mu.Lock()
	if f.failed == nil {
		f.failed = gfs.Errorf(gfs.CodeUnavailable, "push to chunkserver at %s: %v", f.address, cause)
	}
	err, lost := f.failed, f.pending
	f.pending, f.owed = make(map[uint64]*forwarded), 0
	f.mu.Unlock()
	f.tcp.Close()
	for _, p := range lost {
		p.passage.answer(err)
	}
}
