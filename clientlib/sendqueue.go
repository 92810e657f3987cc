package clientlib

import (
	"fmt"
	"net"
	"time"

	"github.com/cairnfs/cairn/messages/wire"
)

const (
	// batchBytes and batchFrames bound what one system call sends.
	batchBytes  = 512 << 10
	batchFrames = 256
	// sendTime bounds how long a batch may take. A busy server may not read for a while; whether it lives is seen by
	// pings, which end a blocked connection much earlier.
	sendTime = time.Minute
)

// writeLoop sends what is queued until the connection fails. Frames that wait together leave in one system call.
func (c *dataConn) writeLoop() {
	var out batch
	out.frames = wire.NewWriter(&out.heads)
	for {
		c.mu.Lock()
		queue := c.queue
		c.queue = nil
		failed := c.failed
		c.mu.Unlock()
		if failed != nil {
			releasePayloads(queue)
			return
		}
		if len(queue) == 0 {
			select {
			case <-c.wake:
			case <-c.broken:
			}
			continue
		}
		for len(queue) > 0 {
			n := out.take(c, queue)
			err := out.send(c)
			releasePayloads(queue[:n])
			queue = queue[n:]
			if err != nil {
				c.fail(fmt.Errorf("send: %w", err))
				releasePayloads(queue)
				queue = nil
			}
		}
	}
}

func releasePayloads(calls []*call) {
	for _, request := range calls {
		if request.payload != nil {
			request.payload.release()
		}
	}
}

// batch gathers frames for one system call: heads are copied together, payloads stay where they are.
type batch struct {
	frames *wire.Writer
	heads  headBytes
	parts  []batchPart
	bytes  int
	err    error
	spare  net.Buffers
}

// batchPart is a range of heads, and the payload behind it.
type batchPart struct {
	from, to int
	payload  []byte
}

// headBytes collects heads; the range of each is noted since growing moves them.
type headBytes struct{ bytes []byte }

func (h *headBytes) Write(p []byte) (int, error) {
	h.bytes = append(h.bytes, p...)
	return len(p), nil
}

// take fills the batch from the front of queue and says how many calls it used. Cancelled ones are left out.
func (b *batch) take(c *dataConn, queue []*call) (used int) {
	b.heads.bytes, b.parts, b.bytes, b.err = b.heads.bytes[:0], b.parts[:0], 0, nil
	for used < len(queue) && used < batchFrames && b.bytes < batchBytes {
		request := queue[used]
		used++
		c.mu.Lock()
		wanted := c.calls[request.id] == request
		c.mu.Unlock()
		if !wanted {
			continue
		}
		var payload []byte
		if request.payload != nil {
			payload = request.payload.data
		}
		from := len(b.heads.bytes)
		if err := b.frames.Head(wire.Header{Op: request.op, RequestID: request.id}, request.request, len(payload)); err != nil {
			b.err = err
			return used
		}
		b.parts = append(b.parts, batchPart{from: from, to: len(b.heads.bytes), payload: payload})
		b.bytes += len(b.heads.bytes) - from + len(payload)
	}
	return used
}

// send writes the batch, a large payload in steps, so that progress shows.
func (b *batch) send(c *dataConn) error {
	if b.err != nil {
		return b.err
	}
	vectors := b.spare[:0]
	pending := 0
	flush := func() error {
		if pending == 0 {
			return nil
		}
		if err := c.conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
			return err
		}
		rest := vectors
		_, err := rest.WriteTo(c.conn)
		clear(vectors)
		vectors, pending = vectors[:0], 0
		c.lastByte.Store(time.Now().UnixNano())
		return err
	}
	for _, part := range b.parts {
		vectors = append(vectors, b.heads.bytes[part.from:part.to])
		pending += part.to - part.from
		for payload := part.payload; len(payload) > 0; {
			n := min(len(payload), batchBytes)
			vectors, pending, payload = append(vectors, payload[:n]), pending+n, payload[n:]
			if pending >= batchBytes {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	err := flush()
	b.spare = vectors
	return err
}
