package clientlib

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

const (
	// readPieceBytes is the most that one request reads; a large read goes in several at once. Pieces that stay in the
	// processor's cache from the socket to the caller are cheaper than fewer, larger ones.
	readPieceBytes = 512 << 10
	// readWorkers is how many pieces of one call are under way at once.
	readWorkers = 4
	// corruptRounds is how often all replicas must be found corrupt, with fresh locations, before the caller hears.
	corruptRounds = 2
	// maxReports bounds the reports of faults under way.
	maxReports = 4
)

// piece is a part of a read that lies in one chunk.
type piece struct {
	offset int64 // in the file
	into   []byte
	n      int
	err    error
}

// readAt fills buf from offset. It reads less only at the end of the file, with io.EOF, or with another error.
func (f *openFile) readAt(p *patience, buf []byte, offset int64) (int, error) {
	switch {
	case offset < 0:
		return 0, gfs.Errorf(gfs.CodeInvalid, "negative offset %d", offset)
	case len(buf) == 0:
		return 0, nil
	case offset >= gfs.MaxFileBytes:
		return 0, io.EOF
	}
	pieces := cutReads(buf, offset)
	if len(pieces) == 1 {
		return f.readPiece(p, pieces[0].offset, pieces[0].into)
	}
	next := make(chan *piece)
	var workers sync.WaitGroup
	var stop atomic.Bool // a piece met the end or an error: those behind it do not count
	for range min(readWorkers, len(pieces)) {
		workers.Go(func() {
			for piece := range next {
				if piece.n, piece.err = f.readPiece(p.part(), piece.offset, piece.into); piece.err != nil {
					stop.Store(true)
				}
			}
		})
	}
	for i := 0; i < len(pieces) && !stop.Load(); i++ {
		next <- &pieces[i]
	}
	close(next)
	workers.Wait()
	total := 0
	for _, piece := range pieces {
		total += piece.n
		if piece.err != nil {
			return total, piece.err
		}
	}
	return total, nil
}

// cutReads cuts a read at multiples of readPieceBytes, of which a chunk is one.
func cutReads(buf []byte, offset int64) []piece {
	pieces := make([]piece, 0, len(buf)/readPieceBytes+2)
	for len(buf) > 0 {
		n := min(len(buf), readPieceBytes-int(offset%readPieceBytes))
		pieces = append(pieces, piece{offset: offset, into: buf[:n]})
		offset, buf = offset+int64(n), buf[n:]
	}
	return pieces
}

// readPiece is readAt within one chunk. What a chunk lacks before the next chunk begins reads as zeros.
func (f *openFile) readPiece(p *patience, offset int64, buf []byte) (int, error) {
	if offset >= gfs.MaxFileBytes {
		return 0, io.EOF
	}
	index, within := uint32(offset/gfs.ChunkSize), offset%gfs.ChunkSize
	n, exists, err := f.readChunk(p, index, within, buf)
	if err != nil || n == len(buf) {
		return n, err
	}
	if !exists {
		return 0, io.EOF
	}
	// Only the master knows whether this is a hole or the end: a chunk behind may have been made, or cut away.
	if _, more, err := f.client.fetchLocations(p, f.id, index+1); err != nil || !more {
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	// The chunk may have grown after it was read and before its successor was made.
	f.exists(index + 1)
	grown, _, err := f.readChunk(p, index, within+int64(n), buf[n:])
	if n += grown; err != nil {
		return n, err
	}
	clear(buf[n:])
	return len(buf), nil
}

// readChunk fills buf from within the chunk at index. Less means that the chunk's data ends there.
func (f *openFile) readChunk(p *patience, index uint32, within int64, buf []byte) (n int, exists bool, err error) {
	corrupt := 0
	for {
		at, exists, err := f.client.locate(p, f.id, index)
		if err != nil || !exists {
			return 0, false, err
		}
		f.exists(index)
		n, err := f.readReplicas(p, at, within, buf)
		if err == nil {
			if n > 0 { // a read beyond the end has seen nothing
				f.client.locations.saw(f.id, at, within+int64(n))
			}
			return n, true, nil
		}
		if actionFor(err) == gfs.GiveUp {
			return 0, true, err
		}
		if gfs.CodeOf(err) == gfs.CodeCorrupt {
			if corrupt++; corrupt >= corruptRounds {
				return 0, true, err
			}
		}
		f.client.locations.drop(f.id, at)
		if err := p.pause(err); err != nil {
			return 0, true, err
		}
	}
}

// readReplicas tries the replicas of a chunk one after the other. An error says that none could serve, or that the
// location is out of date.
func (f *openFile) readReplicas(p *patience, at location, within int64, buf []byte) (int, error) {
	c := f.client
	seen := c.locations.seen(f.id, at)
	servers := c.candidates(at, at.open && within+int64(len(buf)) > seen)
	err := error(gfs.Errorf(gfs.CodeUnavailable, "chunk %v has no good replica that is up", at.handle))
	corrupt, have := 0, 0
	for i, server := range servers {
		flagged := c.pool.suspected(server.Addr)
		n, reply, failed := c.readReplica(p, at, server, within+int64(have), buf[have:], seen)
		if failed == nil {
			if reply.GetOrphaned() && !flagged && i+1 < len(servers) { // another may have heard from the master
				c.pool.suspect(server.Addr)
				continue
			}
			have += n
			if have == len(buf) || reply.GetEndKnown() {
				return have, nil
			}
			if closed, err := f.closedAt(p, at, within+int64(have)); err != nil || closed {
				return have, err
			}
			failed = gfs.Errorf(gfs.CodeBehind, "the replica of chunk %v at %s does not know its end", at.handle, server.Addr)
		}
		if err = failed; gfs.CodeOf(err) == gfs.CodeCorrupt && !isFault(err) {
			corrupt++
		}
		if actionFor(err) == gfs.GiveUp { // another version here may be this replica's delay or ours: others tell
			return 0, err
		}
	}
	if corrupt > 0 && corrupt == len(servers) {
		return 0, gfs.Errorf(gfs.CodeCorrupt, "chunk %v, %d replicas read: %v", at.handle, corrupt, err)
	}
	if corrupt > 0 && gfs.CodeOf(err) == gfs.CodeCorrupt {
		err = gfs.Errorf(gfs.CodeUnavailable, "chunk %v: %v, and no other replica answers", at.handle, err)
	}
	return 0, err
}

// closedAt reports whether the chunk is closed in the version of at and has nothing from end on, asking the master now. A replica of
// a closed chunk does not know its end when an attempt at a new version fenced it and came to nothing.
func (f *openFile) closedAt(p *patience, at location, end int64) (bool, error) {
	if at.open || end < at.length {
		return false, nil
	}
	now, exists, err := f.client.fetchLocations(p, f.id, at.index)
	return exists && !now.open && now.handle == at.handle && now.version == at.version && now.length == at.length, err
}

// candidates is the order in which replicas are tried: near ones first, those that failed lately last. The end of an
// open chunk is best known to its primary.
func (c *Client) candidates(at location, tail bool) []Server {
	servers := slices.Clone(at.replicas)
	c.near.order(servers, uint64(at.handle), c.pool.suspected)
	if !tail {
		return servers
	}
	if i := slices.IndexFunc(servers, func(s Server) bool { return s.ID == at.primary }); i > 0 && !c.pool.suspected(servers[i].Addr) {
		primary := servers[i]
		copy(servers[1:i+1], servers[:i])
		servers[0] = primary
	}
	return servers
}

// readReplica reads from one replica and checks what comes. A mismatch may be a page that was overwritten while it
// was sent: the same range is read once more as a copy before the replica is reported.
func (c *Client) readReplica(p *patience, at location, server Server, within int64, buf []byte, seen int64) (int, *pb.ReadReply, error) {
	request := &pb.Read{Handle: uint64(at.handle), Version: uint64(at.version), Offset: within, Length: int64(len(buf)), AtLeast: seen, Call: p.call}
	for {
		n, reply, bad, err := c.readOnce(p, server, request, buf)
		if err != nil {
			if isFault(err) {
				c.unreachable(p, at, server, err)
			}
			return 0, nil, err
		}
		if bad == nil {
			return n, reply, nil
		}
		if !request.Copy {
			request.Copy = true
			continue
		}
		err = gfs.Errorf(gfs.CodeCorrupt, "chunk %v at %s: %v", at.handle, server.Addr, bad)
		c.report(at, server, pb.Report_CORRUPT, err)
		return 0, nil, err
	}
}

// readOnce reads into buf and says what was found bad in what came; err is that nothing came.
func (c *Client) readOnce(p *patience, server Server, request *pb.Read, buf []byte) (n int, reply *pb.ReadReply, bad, err error) {
	conn, err := c.pool.get(p.ctx, server.Addr, readLane)
	if err != nil {
		return 0, nil, nil, err
	}
	reply = &pb.ReadReply{}
	check := &arrivalCheck{offset: request.Offset, reply: reply}
	if c.debugging() {
		p.log().WithField("server", string(server.ID)).WithField("offset", request.GetOffset()).Debug("read sent")
	}
	n, err = conn.perform(p.ctx, &call{op: wire.OpRead, request: request, reply: reply, into: buf, check: check}, readSilence)
	if err == nil {
		err = gfs.FromCode(gfs.Code(reply.GetCode()), reply.GetDetail())
	}
	if err != nil {
		return 0, nil, nil, err
	}
	return n, reply, check.end(), nil
}

// arrivalCheck compares the data of a read with their checksums while they come in: then they are still in the
// processor's cache, where the caller finds them too.
type arrivalCheck struct {
	offset int64 // of what comes next, within the chunk
	reply  *pb.ReadReply
	parts  int // checksums used
	bad    error
}

// step is how many of the next n bytes to read before take is called: up to the end of a block.
func (a *arrivalCheck) step(n int) int { return min(n, stepBytes-int(a.offset%stepBytes)) }

// take checks the next bytes, which end where step said, or where the data do.
func (a *arrivalCheck) take(data []byte) {
	sums, parts := a.reply.GetChecksums(), wire.Parts(a.offset, int64(len(data)))
	from := min(a.parts, len(sums))
	if a.bad == nil {
		a.bad = wire.Verify(sums[from:min(from+parts, len(sums))], a.offset, data)
	}
	a.offset += int64(len(data))
	a.parts += parts
}

// end is what was found bad in the whole.
func (a *arrivalCheck) end() error {
	if n := len(a.reply.GetChecksums()); a.bad == nil && n != a.parts {
		return gfs.Errorf(gfs.CodeInvalid, "%d checksums for data in %d parts", n, a.parts)
	}
	return a.bad
}

// unreachable notes that a server could not be talked to; if it is a primary the master hears, since nobody else
// may need that chunk's end. Silence must last: the first time, another replica may do.
func (c *Client) unreachable(p *patience, at location, server Server, why error) {
	p.log().WithField("chunk", at.handle.String()).WithField("server", string(server.ID)).WithError(why).Warn("replica unreachable")
	lasting := c.pool.suspected(server.Addr) || !errors.Is(why, errSilent)
	c.pool.suspect(server.Addr)
	if lasting && at.open && server.ID == at.primary {
		c.report(at, server, pb.Report_UNREACHABLE, why)
	}
}

// report tells the master of a fault in the background, once; it is dropped while too many are under way.
func (c *Client) report(at location, accused Server, kind pb.Report_Kind, why error) {
	select {
	case c.reports <- struct{}{}:
	default:
		return
	}
	started := c.spawn(func() {
		defer func() { <-c.reports }()
		request := &pb.Report{Handle: uint64(at.handle), Version: uint64(at.version), Accused: string(accused.ID), Kind: kind, Detail: why.Error()}
		if err := c.ask(c.life, messages.OpReport, request, &pb.ReportReply{}); err != nil {
			c.log.WithError(fmt.Errorf("report %v: %w", kind, err)).Debug("report not delivered")
		}
	})
	if !started {
		<-c.reports
	}
}
