package clientlib

import (
	"sync/atomic"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// directRead is a fetch for which no goroutine waits: the connection's hands its bytes to the reader. That is for the usual
// case, in which all that is asked for comes; in every other a goroutine reads the segment once more, with all that a read
// does when something is wrong. Each piece of a stream so wakes up the connection and the reader and nobody in between.
type directRead struct {
	conn    *dataConn
	started time.Time
	over    atomic.Bool // set by whoever decides what becomes of the segment: the reply, or the reader who gives it up
}

// fetchDirectly starts such a fetch. It is false if something is not at hand, the location or a connection, or if the chunk is
// not known to have as much: then nothing was started.
func (f *openFile) fetchDirectly(s *segment, length int) bool {
	c := f.client
	index, within := uint32(s.offset/gfs.ChunkSize), s.offset%gfs.ChunkSize
	at, known := c.locations.cached(f.id, index)
	if !known {
		return false
	}
	seen := c.locations.seen(f.id, at)
	if !at.open {
		seen = max(seen, at.length)
	}
	if within+int64(length) > seen {
		return false
	}
	servers := c.candidates(at, false)
	if len(servers) == 0 || c.pool.suspected(servers[0].Addr) {
		return false
	}
	conn := c.pool.live(servers[0].Addr, readLane)
	if conn == nil {
		return false
	}
	p := c.patience(f.life)
	into := s.data.data[:length]
	reply := &pb.ReadReply{}
	check := &arrivalCheck{offset: within, reply: reply}
	d := &directRead{conn: conn, started: time.Now()}
	s.direct = d
	request := &call{
		op: wire.OpRead, reply: reply, into: into, check: check,
		request: &pb.Read{Handle: uint64(at.handle), Version: uint64(at.version), Offset: within, Length: int64(length), AtLeast: seen, Call: p.call},
	}
	request.finish = func(done *call) {
		if d.over.Swap(true) {
			return // given up: the buffer is the garbage collector's
		}
		if done.err != nil || reply.GetCode() != 0 || reply.GetOrphaned() || done.received != length || check.end() != nil {
			f.fetchAgain(s, length)
			return
		}
		c.locations.saw(f.id, at, within+int64(length))
		s.data.data = into
		close(s.done)
	}
	if c.debugging() {
		p.log().WithField("server", string(servers[0].ID)).WithField("offset", within).Debug("read sent")
	}
	if !conn.startNow(request) {
		s.direct = nil
		return false
	}
	return true
}

// fetchAgain reads a segment whose direct fetch gave nothing.
func (f *openFile) fetchAgain(s *segment, length int) {
	if !f.fetch(s, length) {
		s.err = errClientClosed()
		close(s.done)
	}
}

// await waits for a segment. A direct fetch is given up when its connection has brought no work at all for readSilence.
func (r *readAhead) await(p *patience, s *segment) error {
	for s.direct != nil {
		select {
		case <-s.done:
			return nil
		default:
		}
		quiet := time.Since(later(s.direct.started, s.direct.conn.lastWork.Load()))
		if quiet < readSilence {
			if over, err := p.awaitFor(s.done, readSilence-quiet); over || err != nil {
				return err
			}
			continue
		}
		if !s.direct.over.Swap(true) {
			length := cap(s.data.data)
			s.data = r.file.client.buffers.get(length) // the old one may yet be written to
			r.file.fetchAgain(s, length)
		}
		s.direct = nil
	}
	return p.await(s.done)
}
