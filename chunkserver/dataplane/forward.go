package dataplane

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// forwarders are the connections on which the pushes of one accepted connection go on. They belong to the goroutine that
// reads the pushes.
type forwarders struct {
	now       func() time.Time
	connect   func(f *forwarder) error // gives f its line
	byAddress map[string]*forwarder
}

// Line is a connection to the next server, as a forwarder uses it. None of its methods calls the forwarder back.
type Line interface {
	// Send sends a part of push id, behind which left bytes come. push goes ahead of the first part, and is nil with the
	// others. It may wait, for patience and the time that so many bytes take; push and part stay the caller's.
	Send(id uint64, push *pb.Push, part []byte, left int, patience time.Duration) error
	// Watch ends the line if no answer comes within d; 0 waits for ever. It and Close may be called from any goroutine.
	Watch(d time.Duration)
	Close()
}

// forwarder is a connection on which the pushes of one accepted connection go on to one server. The goroutine that reads
// the pushes writes to it; one of its own reads the answers and passes them back. It ends with the accepted connection,
// or when the other server is silent.
type forwarder struct {
	address string
	line    Line // nil if nobody could be reached
	within  bool // a frame was begun and is not finished; the goroutine that reads pushes alone uses it

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

// to gives a connection to the server at address, after which the data have servers-1 others to go to.
func (all *forwarders) to(address string, servers int) (*forwarder, error) {
	f := all.byAddress[address]
	if f != nil {
		if again, failed := f.state(); failed == nil {
			f.expect(servers)
			return f, nil
		} else if all.now().Before(again) {
			return nil, failed
		}
	}
	if all.byAddress == nil {
		all.byAddress = make(map[string]*forwarder)
	}
	delete(all.byAddress, address)
	if len(all.byAddress) >= gfs.MaxPushTargets && !all.drop() {
		return nil, gfs.Errorf(gfs.CodeBusy, "pushes to %d other servers are under way on this connection", len(all.byAddress))
	}
	f = &forwarder{address: address, pending: make(map[uint64]*forwarded)}
	all.byAddress[address] = f
	f.expect(servers)
	if err := all.connect(f); err != nil {
		f.failed, f.again = err, all.now().Add(gfs.PushSilence)
		return nil, err
	}
	return f, nil
}

// drop ends a connection on which nothing is under way, if there is one.
func (all *forwarders) drop() bool {
	for address, f := range all.byAddress {
		f.mu.Lock()
		idle := len(f.pending) == 0
		f.mu.Unlock()
		if idle {
			if f.line != nil {
				f.fail(net.ErrClosed)
			}
			delete(all.byAddress, address)
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
	var head *pb.Push
	if !in.begun {
		if err := f.await(in); err != nil {
			return err
		}
		in.begun, f.within, head = true, true, in.onward
	}
	if err := f.line.Send(in.id, head, part, in.left, f.silence); err != nil {
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

// watch says how long the other server may be silent from now on; the lock is held.
func (f *forwarder) watch() {
	limit := time.Duration(0)
	if f.owed > 0 {
		limit = f.silence
	}
	f.line.Watch(limit)
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

// answered takes the other server's answer to a push. Whose answer nobody awaits is passed over.
func (f *forwarder) answered(id uint64, reply *pb.PushReply) {
	f.mu.Lock()
	p := f.pending[id]
	f.mu.Unlock()
	if p != nil && f.take(id) {
		p.passage.answer(gfs.FromCode(gfs.Code(reply.Code), reply.Detail))
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
	f.line.Close()
	for _, id := range slices.Sorted(maps.Keys(lost)) {
		lost[id].passage.answer(err)
	}
}

// tcpLine is a Line in earnest.
type tcpLine struct {
	tcp   *net.TCPConn
	out   *wire.Writer // into head
	head  sliceWriter
	parts [2][]byte
}

// connect dials the server at f's address, and lets a goroutine read its answers until the connection ends, which it does
// with c.
func (c *conn) connect(f *forwarder) error {
	ctx, cancel := context.WithTimeout(c.ctx, gfs.MemberSilence)
	defer cancel()
	tcp, err := dial(ctx, f.address)
	if err != nil {
		return err
	}
	l := &tcpLine{tcp: tcp}
	l.out = wire.NewWriter(&l.head)
	stop := context.AfterFunc(c.ctx, l.Close)
	f.line = l
	c.server.wg.Go(func() {
		defer stop()
		f.fail(l.listen(f))
	})
	return nil
}

// Send is part of Line.
func (l *tcpLine) Send(id uint64, push *pb.Push, part []byte, left int, patience time.Duration) error {
	parts := l.parts[1:]
	if push != nil {
		l.head = l.head[:0]
		if err := l.out.Head(wire.Header{Op: wire.OpPush, RequestID: id}, push, left+len(part)); err != nil {
			return err
		}
		l.parts[0], parts = l.head, l.parts[:]
	}
	l.parts[1] = part
	vectors := net.Buffers(parts)
	err := l.tcp.SetWriteDeadline(time.Now().Add(patience + time.Duration(len(part))*time.Second/gfs.FrameRateBytes))
	if err == nil {
		_, err = vectors.WriteTo(l.tcp)
	}
	clear(l.parts[:])
	return err
}

// Watch is part of Line.
func (l *tcpLine) Watch(d time.Duration) {
	var limit time.Time
	if d > 0 {
		limit = time.Now().Add(d)
	}
	if err := l.tcp.SetReadDeadline(limit); err != nil {
		l.Close() // it has ended already, or ends now
	}
}

// Close is part of Line.
func (l *tcpLine) Close() { l.tcp.Close() }

// listen reads answers until the connection ends.
func (l *tcpLine) listen(f *forwarder) error {
	in := wire.NewReader(l.tcp)
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
			return err
		}
		f.answered(h.RequestID, &reply)
	}
}
