package dataplane

import (
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/wire"
)

// keptOutbox is the largest encoding buffer that an outbox keeps between writes.
const keptOutbox = 256 << 10

// outbox is the writing side of a connection. Small frames are encoded at once and written by a goroutine of its
// own, all that are there in one call, so that whoever replies never waits. Frames with data are written by their
// sender, who does wait.
type outbox struct {
	tcp   *net.TCPConn
	write sync.Mutex // held while writing to tcp

	mu      sync.Mutex
	encoder *wire.Writer // appends to pending
	pending sliceWriter
	spare   sliceWriter // the buffer written last
	closed  bool
	wake    chan struct{}
	done    chan struct{}
}

type sliceWriter []byte

func (s *sliceWriter) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}

func newOutbox(tcp *net.TCPConn) *outbox {
	o := &outbox{tcp: tcp, wake: make(chan struct{}, 1), done: make(chan struct{})}
	o.encoder = wire.NewWriter(&o.pending)
	return o
}

// send queues a frame without data. It never blocks; after close it does nothing. m may be reused on return.
func (o *outbox) send(h wire.Header, m proto.Message) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	empty := len(o.pending) == 0
	if err := o.encoder.Frame(h, m); err != nil {
		o.mu.Unlock()
		panic("dataplane: a reply that cannot be encoded: " + err.Error())
	}
	o.mu.Unlock()
	if empty {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// run writes what is queued until the outbox is closed.
func (o *outbox) run() {
	for {
		select {
		case <-o.wake:
		case <-o.done:
			return
		}
		o.write.Lock()
		o.mu.Lock()
		frames := o.pending
		o.pending, o.spare = o.spare[:0], nil
		o.mu.Unlock()
		err := o.setDeadline(len(frames))
		if err == nil {
			_, err = o.tcp.Write(frames)
		}
		o.write.Unlock()
		if cap(frames) <= keptOutbox {
			o.mu.Lock()
			o.spare = frames[:0]
			o.mu.Unlock()
		}
		if err != nil {
			o.close() // the reading side ends with the connection
			return
		}
	}
}

// setDeadline gives the peer time to take n bytes. The caller holds write.
func (o *outbox) setDeadline(n int) error {
	return o.tcp.SetWriteDeadline(time.Now().Add(frameTime(n)))
}

// close ends the connection with whatever is queued. It is idempotent.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed = true
		close(o.done)
		o.tcp.Close()
	}
}

// frameTime is what a peer has to send or take n bytes that were begun.
func frameTime(n int) time.Duration {
	return gfs.FrameTimeout + time.Duration(n)*time.Second/gfs.FrameRateBytes
}
