package dataplane

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

const (
	// readAhead lets many small frames come in one system call, and copies little of a large one.
	readAhead = 32 << 10
	// verifyBytes is how much of a payload is read before its checksums are looked at: large enough that reading is
	// cheap, small enough that the bytes are still in the processor's cache.
	verifyBytes = 256 << 10
)

// conn is one accepted connection. Its fields belong to the reading goroutine unless they say otherwise.
type conn struct {
	server   *Server
	tcp      *net.TCPConn
	raw      syscall.RawConn
	in       frameReader
	out      *outbox
	requests *window // requests not answered
	bytes    *window // their data
	held     *window // frames of a chain stream that were not applied

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	mutate  pb.Mutate // reused by every request
	push    pb.Push
	onwards forwarders // for what is pushed
	reads   reader

	replying    sync.Mutex // guards mutateReply; any goroutine
	mutateReply pb.MutateReply
}

func newConn(s *Server, tcp *net.TCPConn) (*conn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &conn{
		server:   s,
		tcp:      tcp,
		raw:      raw,
		in:       newFrameReader(tcp),
		out:      newOutbox(tcp),
		requests: newWindow(gfs.MaxConnectionRequests, math.MaxInt),
		bytes:    newWindow(math.MaxInt, gfs.MaxConnectionBytes),
		held:     newWindow(gfs.MaxChainWindowFrames, gfs.MaxChainWindowBytes),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.onwards = forwarders{now: s.now, connect: c.connect}
	c.reads = reader{conn: c, frames: wire.NewWriter(tcp), heads: wire.NewWriter(moreWriter{raw})}
	return c, nil
}

// close may be called from any goroutine, more than once.
func (c *conn) close() {
	c.cancel()
	c.out.close()
	c.requests.close()
	c.bytes.close()
	c.held.close()
}

// serve handles requests until the connection ends.
func (c *conn) serve() {
	defer c.close()
	for {
		h, err := c.in.next()
		if err == nil {
			err = c.dispatch(h)
		}
		if err == nil {
			err = c.in.finish()
		}
		if err != nil {
			c.ended(err)
			return
		}
	}
}

// ended says why, where a person may want to know.
func (c *conn) ended(err error) {
	if gfs.CodeOf(err) == gfs.CodeInvalid {
		c.server.counters.Malformed.Add(1)
		c.server.quiet.warn(c.server.log.WithField("remote", c.tcp.RemoteAddr().String()).WithError(err), "malformed frame")
		return
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.server.log.WithField("remote", c.tcp.RemoteAddr().String()).WithError(err).Debug("data connection ended")
	}
}

// dispatch handles one request. An error ends the connection; what is wrong with the request alone is answered.
func (c *conn) dispatch(h wire.Header) error {
	if h.IsReply() {
		return gfs.Errorf(gfs.CodeInvalid, "%s reply to nothing", h.Op)
	}
	if h.PayloadBytes > 0 && h.Op != wire.OpMutate && h.Op != wire.OpPatch && h.Op != wire.OpPush {
		return gfs.Errorf(gfs.CodeInvalid, "%s request with a payload of %d bytes", h.Op, h.PayloadBytes)
	}
	switch h.Op {
	case wire.OpMutate:
		return c.onMutate(h)
	case wire.OpRead:
		return c.reads.serve(h)
	case wire.OpLength:
		return c.onLength(h)
	case wire.OpSync:
		return c.onSync(h)
	case wire.OpDigest:
		return c.onDigest(h)
	case wire.OpPatch:
		return c.onPatch(h)
	case wire.OpPrepare:
		return c.onPrepare(h)
	case wire.OpPing:
		c.reply(h, nil)
		return nil
	case wire.OpPush:
		return c.onPush(h)
	case wire.OpPull:
		return c.onPull(h)
	case wire.OpChainOpen:
		return c.onChainOpen(h)
	}
	return gfs.Errorf(gfs.CodeInvalid, "%s frame on a connection that is no chain stream", h.Op)
}

func (c *conn) reply(h wire.Header, m proto.Message) {
	c.out.send(wire.Header{Op: h.Op, Flags: wire.FlagReply, RequestID: h.RequestID}, m)
}

// replyData answers with data and waits until they are on their way.
func (c *conn) replyData(h wire.Header, m proto.Message, data []byte) {
	c.out.write.Lock()
	err := c.out.setDeadline(len(data))
	if err == nil {
		err = wire.NewWriter(c.tcp).Frame(wire.Header{Op: h.Op, Flags: wire.FlagReply, RequestID: h.RequestID}, m, data)
	}
	c.out.write.Unlock()
	if err != nil {
		c.out.close() // the frame was begun
	}
}

func (c *conn) onMutate(h wire.Header) error {
	if err := c.in.decode(&c.mutate); err != nil {
		return err
	}
	m := &Mutation{
		Handle:  gfs.ChunkHandle(c.mutate.Handle),
		Version: gfs.Version(c.mutate.Version),
		call:    c.mutate.Call,
		conn:    c,
		id:      h.RequestID,
	}
	c.requests.take(0)
	var err error
	if m.Request, err = requestOf(&c.mutate, h.PayloadBytes); err != nil {
		m.Reply(0, 0, err)
		return c.in.discard()
	}
	m.Checksums = append(m.sums[:0], c.mutate.Checksums...)
	if c.mutate.PushedSession != 0 {
		return c.onReference(m, &c.mutate)
	}
	if err := c.admit(m.Handle, h.PayloadBytes); err != nil {
		return err
	}
	m.buffer = c.server.pool.Get(h.PayloadBytes)
	offset := int64(0)
	if m.Request.Kind == mutation.KindWrite {
		offset = m.Request.Offset
	}
	corrupt, err := c.in.verified(m.buffer.Data, offset, m.Checksums, nil)
	if err != nil || corrupt != nil {
		m.ReleaseData()
		m.Reply(0, 0, corrupt)
		return err
	}
	c.hand(m)
	return nil
}

// hand passes on a mutation whose data are here.
func (c *conn) hand(m *Mutation) {
	c.server.counters.Mutations.Add(1)
	c.server.counters.MutationBytes.Add(int64(m.Request.Length))
	c.server.handler.Mutate(m)
}

// admit waits for room for n bytes of a mutation's data, while the connection is not read on.
func (c *conn) admit(handle gfs.ChunkHandle, n int) error {
	waited := c.bytes.take(n)
	waited = c.server.share(handle).take(n) || waited
	waited = c.server.requests.take(n) || waited
	if !waited {
		return nil
	}
	err := c.in.deadline(n) // the time spent here is not the client's
	if err != nil {
		c.dismiss(handle, n)
	}
	return err
}

// dismiss gives back what admit took.
func (c *conn) dismiss(handle gfs.ChunkHandle, n int) {
	c.bytes.put(n)
	c.server.share(handle).put(n)
	c.server.requests.put(n)
}

func (c *conn) onLength(h wire.Header) error {
	var request pb.Length
	if err := c.in.decode(&request); err != nil {
		return err
	}
	var reply pb.LengthReply
	_, status, endKnown, err := readable(c.server.handler, gfs.ChunkHandle(request.Handle), gfs.Version(request.Version))
	reply.Code, reply.Detail = errorOf(err)
	reply.Version, reply.CommitLength, reply.EndKnown = uint64(status.Active), status.CommitLength, endKnown
	c.reply(h, &reply)
	return nil
}

func (c *conn) onSync(h wire.Header) error {
	var request pb.SyncChunk
	if err := c.in.decode(&request); err != nil {
		return err
	}
	c.requests.take(0)
	c.server.handler.Mutate(&Mutation{
		Handle:  gfs.ChunkHandle(request.Handle),
		Version: gfs.Version(request.Version),
		Request: mutation.Request{Kind: mutation.KindSync},
		conn:    c,
		id:      h.RequestID,
	})
	return nil
}

func (c *conn) onDigest(h wire.Header) error {
	request := new(pb.Digest)
	if err := c.in.decode(request); err != nil {
		return err
	}
	c.requests.take(0)
	c.server.handler.Digest(request, func(reply *pb.DigestReply, data *Buffer) {
		if data == nil {
			c.reply(h, reply)
		} else {
			c.replyData(h, reply, data.Data)
			data.Release()
		}
		c.requests.put(0)
	})
	return nil
}

func (c *conn) onPrepare(h wire.Header) error {
	order := new(pb.PrepareOrder)
	if err := c.in.decode(order); err != nil {
		return err
	}
	c.requests.take(0)
	c.server.handler.Prepare(order, func(reply *pb.PrepareReply, err error) {
		code, detail := errorOf(err)
		c.reply(h, &pb.Prepared{Code: code, Detail: detail, Reply: reply})
		c.requests.put(0)
	})
	return nil
}

func (c *conn) onPatch(h wire.Header) error {
	request := new(pb.Patch)
	if err := c.in.decode(request); err != nil {
		return err
	}
	c.requests.take(0)
	c.bytes.take(h.PayloadBytes)
	blocks := c.server.pool.Get(h.PayloadBytes)
	if err := c.in.payload(blocks.Data); err != nil {
		blocks.Release()
		return err
	}
	c.server.handler.Patch(request, blocks, func(err error) {
		code, detail := errorOf(err)
		c.reply(h, &pb.PatchReply{Code: code, Detail: detail})
		c.requests.put(0)
		c.bytes.put(h.PayloadBytes)
	})
	return nil
}

// frameReader reads frames with a deadline on each that was begun and none between them.
type frameReader struct {
	tcp      *net.TCPConn
	buffered *bufio.Reader
	frames   *wire.Reader
	timed    bool // a deadline is set
	left     int  // bytes of the current payload not read yet
}

func newFrameReader(tcp *net.TCPConn) frameReader {
	buffered := bufio.NewReaderSize(tcp, readAhead)
	return frameReader{tcp: tcp, buffered: buffered, frames: wire.NewReader(buffered)}
}

// next waits for a frame's header and message.
func (r *frameReader) next() (wire.Header, error) {
	if _, err := r.buffered.Peek(1); err != nil {
		return wire.Header{}, err
	}
	if !r.arrived() {
		if err := r.deadline(0); err != nil {
			return wire.Header{}, err
		}
	}
	h, err := r.frames.Next()
	if err != nil {
		return h, err
	}
	r.left = h.PayloadBytes
	if r.left > r.buffered.Buffered() {
		err = r.deadline(r.left)
	}
	return h, err
}

// arrived reports whether the next frame's header and message are in the buffer as a whole and need no timer.
func (r *frameReader) arrived() bool {
	if r.buffered.Buffered() < wire.HeaderSize {
		return false
	}
	header, err := r.buffered.Peek(wire.HeaderSize) // at 16: the message's length, see package wire
	return err == nil && r.buffered.Buffered() >= wire.HeaderSize+int(binary.BigEndian.Uint32(header[16:]))
}

func (r *frameReader) deadline(n int) error {
	r.timed = true
	return r.tcp.SetReadDeadline(time.Now().Add(frameTime(n)))
}

func (r *frameReader) decode(m proto.Message) error { return r.frames.Decode(m) }

func (r *frameReader) payload(p []byte) error {
	r.left -= len(p)
	return r.frames.Payload(p)
}

func (r *frameReader) discard() error {
	r.left = 0
	return r.frames.Discard()
}

// verified reads the next len(data) bytes of the payload, which lie at offset in a chunk, and compares them with
// their checksums while they are hot. each, if not nil, gets every part that matches, in order, up to the first that does
// not. corrupt says which do not match; err ends the connection.
func (r *frameReader) verified(data []byte, offset int64, sums []uint32, each func(part []byte)) (corrupt, err error) {
	for len(data) > 0 {
		n := min(len(data), verifyBytes-int(offset%verifyBytes))
		if err := r.payload(data[:n]); err != nil {
			return nil, err
		}
		parts := wire.Parts(offset, int64(n))
		if corrupt == nil {
			corrupt = wire.Verify(sums[:parts], offset, data[:n])
		}
		if corrupt == nil && each != nil {
			each(data[:n])
		}
		offset, data, sums = offset+int64(n), data[n:], sums[parts:]
	}
	return corrupt, nil
}

// finish ends a frame that was read in whole.
func (r *frameReader) finish() error {
	if r.left != 0 {
		if err := r.discard(); err != nil {
			return err
		}
	}
	if !r.timed {
		return nil
	}
	r.timed = false
	return r.tcp.SetReadDeadline(time.Time{})
}
