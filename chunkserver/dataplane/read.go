package dataplane

import (
	"fmt"
	"os"

	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// reader answers the reads of one connection. An answer has up to three parts: bytes copied up to a block's
// boundary, settled whole blocks that the kernel sends from the file, and bytes copied behind them. What is copied
// is copied before anything is sent, so that an error is still an answer.
type reader struct {
	conn    *conn
	frames  *wire.Writer
	heads   *wire.Writer // of frames that sendfile ends
	request pb.Read
	reply   pb.ReadReply
	sums    []uint32
}

// plan is where the parts of one answer lie: [from, settledFrom) and [settledTo, to) are copied.
type plan struct {
	from, settledFrom, settledTo, to int64
	file                             *os.File
	done                             func()
}

func (r *reader) serve(h wire.Header) error {
	c := r.conn
	if err := c.in.decode(&r.request); err != nil {
		return err
	}
	if err := c.in.finish(); err != nil {
		return err
	}
	r.reply.Reset()
	replica, from, to, err := check(r.conn.server.handler, &r.request, &r.reply)
	c.server.trace("read", r.request.Call, gfs.ChunkHandle(r.request.Handle), err)
	if err != nil {
		r.reply.Code, r.reply.Detail = errorOf(err)
	}
	if err != nil || from == to {
		c.reply(h, &r.reply)
		return nil
	}
	p, head, tail, err := r.collect(replica, from, to)
	defer head.Release()
	defer tail.Release()
	defer p.finish()
	if err != nil {
		if gfs.CodeOf(err) == gfs.CodeCorrupt {
			c.server.handler.Corrupt(replica.Handle(), err.Error())
		}
		r.reply.Code, r.reply.Detail = errorOf(err)
		c.reply(h, &r.reply)
		return nil
	}
	r.reply.Checksums = r.sums
	return r.send(h, p, head, tail)
}

// check finds the replica and the range to answer with, and fills in what the answer says of the replica.
func check(h Handler, q *pb.Read, reply *pb.ReadReply) (replica *store.Replica, from, to int64, err error) {
	replica, status, endKnown, err := readable(h, gfs.ChunkHandle(q.Handle), gfs.Version(q.Version))
	reply.Version, reply.CommitLength = uint64(status.Active), status.CommitLength
	reply.EndKnown, reply.Orphaned = endKnown, h.Orphaned()
	if err != nil {
		return nil, 0, 0, err
	}
	if q.Offset < 0 || q.Length < 0 || q.Offset > gfs.ChunkSize {
		return nil, 0, 0, gfs.Errorf(gfs.CodeInvalid, "read of %d bytes at offset %d: a chunk has %d bytes", q.Length, q.Offset, gfs.ChunkSize)
	}
	if status.CommitLength < q.AtLeast {
		return nil, 0, 0, gfs.Errorf(gfs.CodeBehind, "%d bytes are known to be committed here, %d wanted: ask the primary", status.CommitLength, q.AtLeast)
	}
	from = min(q.Offset, status.CommitLength)
	to = min(from+min(q.Length, gfs.MaxReadBytes), status.CommitLength)
	return replica, from, to, nil
}

// readable finds a replica that may be read in a version, 0 for any.
func readable(h Handler, handle gfs.ChunkHandle, version gfs.Version) (*store.Replica, store.Status, bool, error) {
	replica, endKnownIn, err := h.Replica(handle)
	if err != nil {
		return nil, store.Status{}, false, err
	}
	status := replica.Status()
	if status.State == gfs.ReplicaLearner || status.State == gfs.ReplicaSuspect || status.Active == 0 {
		return nil, status, false, gfs.Errorf(gfs.CodeNoReplica, "chunk %s: the replica here is a %s and serves nobody: read another", handle, status.State)
	}
	if version != 0 && version != status.Active {
		return nil, status, false, gfs.Errorf(gfs.CodeStaleVersion, "chunk %s: the replica here has version %s, not %s", handle, status.Active, version)
	}
	return replica, status, endKnownIn == status.Active, nil
}

// collect copies what is to be copied and finds the settled blocks between.
func (r *reader) collect(replica *store.Replica, from, to int64) (p plan, head, tail *Buffer, err error) {
	r.sums = r.sums[:0]
	p = plan{from: from, settledFrom: from, settledTo: from, to: to}
	if blocks := alignUp(from); !r.request.Copy && to-blocks >= gfs.BlockSize {
		if blocks > from {
			if head, err = r.copy(replica, from, blocks); err != nil {
				return p, head, nil, err
			}
		}
		p.settledFrom, p.settledTo = blocks, blocks
		var n int64
		p.file, r.sums, n, p.done = replica.Settled(blocks, (to-blocks)/gfs.BlockSize*gfs.BlockSize, r.sums)
		p.settledTo += n
	}
	if p.settledTo < to {
		tail, err = r.copy(replica, p.settledTo, to)
	}
	return p, head, tail, err
}

func alignUp(offset int64) int64 { return (offset + gfs.BlockSize - 1) / gfs.BlockSize * gfs.BlockSize }

// copy reads [from, to) checked and appends its checksums.
func (r *reader) copy(replica *store.Replica, from, to int64) (*Buffer, error) {
	b := r.conn.server.pool.Get(int(to - from))
	n, err := replica.ReadAt(b.Data, from)
	if err == nil && n < len(b.Data) {
		// The commit length never falls in a version: another version took over since it was looked at.
		err = behind(replica, n, from, to)
	}
	if err != nil {
		return b, err
	}
	r.sums = wire.AppendChecksums(r.sums, from, b.Data)
	return b, nil
}

// behind says that a replica has less than it had when it was looked at.
func behind(replica *store.Replica, n int, from, to int64) error {
	return gfs.Errorf(gfs.CodeBehind, "chunk %s: %d bytes at offset %d, %d wanted: another version took over", replica.Handle(), n, from, to-from)
}

func (p plan) finish() {
	if p.done != nil {
		p.done()
	}
}

// send writes the answer. An error ends the connection: the frame was begun.
func (r *reader) send(h wire.Header, p plan, head, tail *Buffer) error {
	c := r.conn
	counters := &c.server.counters
	counters.Reads.Add(1)
	counters.ReadBytes.Add(p.to - p.from)
	counters.SendfileBytes.Add(p.settledTo - p.settledFrom)
	c.out.write.Lock()
	defer c.out.write.Unlock()
	if err := c.out.setDeadline(int(p.to - p.from)); err != nil {
		return err
	}
	answer := wire.Header{Op: h.Op, Flags: wire.FlagReply, RequestID: h.RequestID}
	if p.settledFrom == p.settledTo {
		return r.frames.Frame(answer, &r.reply, bytesOf(head), bytesOf(tail))
	}
	if err := r.heads.Head(answer, &r.reply, int(p.to-p.from)); err != nil {
		return err
	}
	if head != nil {
		if _, err := (moreWriter{c.raw}).Write(head.Data); err != nil {
			return err
		}
	}
	if err := sendfile(c.raw, p.file, p.settledFrom, int(p.settledTo-p.settledFrom)); err != nil {
		return fmt.Errorf("send chunk %s from offset %d: %w", gfs.ChunkHandle(r.request.Handle), p.settledFrom, err)
	}
	if tail != nil {
		if _, err := c.tcp.Write(tail.Data); err != nil {
			return err
		}
	}
	return nil
}

func bytesOf(b *Buffer) []byte {
	if b == nil {
		return nil
	}
	return b.Data
}
