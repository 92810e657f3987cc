package dataplane

import (
	"errors"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// Mutation is one client's request to mutate a chunk, its data complete and equal to their checksums; or the request
// to make durable what was acknowledged, which has no data. Whoever has it answers it once with Reply and gives its
// data back with ReleaseData, in any order.
type Mutation struct {
	Handle  gfs.ChunkHandle
	Version gfs.Version // that the client believes in
	Request mutation.Request
	// Checksums are those of the data: cut at the chunk's block boundaries for a write, from the start of the data for
	// an append.
	Checksums []uint32
	// Handed is the holder's note that the data have gone to an Apply or were given back, so that it need not release
	// them.
	Handed bool
	// Claimed is what the reply says of the room that is left: see pb.MutateReply.
	Claimed int64

	buffer *Buffer
	pushed *pushed // whose buffer it is, if it was pushed: held for the data and for the answer
	call   uint64  // the client's, for logs
	conn   *conn
	answer func(offset, length int64, err error) // in the place of conn for what came by no connection
	id     uint64
	sums   [9]uint32 // room for the checksums of a stream's piece
}

// Data is what the mutation carries. It is valid until ReleaseData.
func (m *Mutation) Data() []byte {
	if m.buffer == nil {
		return nil
	}
	return m.buffer.Data
}

// ReleaseData gives the data's memory back.
func (m *Mutation) ReleaseData() {
	if m.buffer == nil {
		return
	}
	n := len(m.buffer.Data)
	if m.pushed != nil {
		m.pushed.release(1)
	} else {
		m.buffer.Release()
	}
	m.buffer = nil
	if m.answer == nil {
		m.conn.dismiss(m.Handle, n)
	}
}

// Reply answers the client: with where the data begin and the chunk's committed length, or with an error. It never
// blocks and may be called from any goroutine.
func (m *Mutation) Reply(offset, length int64, err error) {
	if m.pushed != nil {
		m.pushed.release(1)
	}
	if m.answer != nil {
		m.answer(offset, length, err)
		return
	}
	c := m.conn
	code, detail := errorOf(err)
	c.server.trace("mutate", m.call, m.Handle, err)
	if m.Request.Kind == mutation.KindSync {
		c.reply(wire.Header{Op: wire.OpSync, RequestID: m.id}, &pb.SyncChunkReply{Code: code, Detail: detail})
	} else {
		c.replying.Lock()
		r := &c.mutateReply
		r.Code, r.Detail, r.Offset, r.Length, r.Claimed = code, detail, offset, length, m.Claimed
		c.reply(wire.Header{Op: wire.OpMutate, RequestID: m.id}, r)
		c.replying.Unlock()
	}
	c.requests.put(0)
}

// errorOf is an error as replies carry it.
func errorOf(err error) (code uint32, detail string) {
	if err == nil {
		return 0, ""
	}
	return uint32(gfs.CodeOf(err)), detailOf(err)
}

// detailOf is what the peer's copy of an error says.
func detailOf(err error) string {
	var e *gfs.Error
	if errors.As(err, &e) {
		return e.Detail
	}
	return err.Error()
}

// requestOf checks what a client asks for. payload is the number of bytes that come with it, unless they were pushed.
func requestOf(m *pb.Mutate, payload int) (mutation.Request, error) {
	if m.PushedSession != 0 {
		if payload != 0 || m.PushedBytes < gfs.SmallMutationBytes || m.PushedBytes > gfs.MaxPieceBytes {
			return mutation.Request{}, gfs.Errorf(gfs.CodeInvalid, "mutation of %d pushed bytes and %d others: want %d to %d and no others",
				m.PushedBytes, payload, gfs.SmallMutationBytes, gfs.MaxPieceBytes)
		}
		payload = int(m.PushedBytes)
	}
	r := mutation.Request{
		Length:   payload,
		Writer:   gfs.WriterID(m.Writer),
		Sequence: m.Sequence,
		Lowest:   m.LowestUnacknowledged,
		Sync:     m.Synced,
	}
	sumsFrom := int64(0)
	switch m.Kind {
	case pb.Mutate_WRITE:
		r.Kind, r.Offset = mutation.KindWrite, m.Offset
		if r.Writer != 0 {
			return r, gfs.Errorf(gfs.CodeInvalid, "a write names a writer: only appends have one")
		}
		if m.Offset < 0 || m.Offset > gfs.ChunkSize-int64(payload) {
			return r, gfs.Errorf(gfs.CodeInvalid, "write of %d bytes at offset %d: a chunk has %d bytes, cut the write at its end",
				payload, m.Offset, gfs.ChunkSize)
		}
		sumsFrom = m.Offset
	case pb.Mutate_APPEND:
		r.Kind = mutation.KindAppend
		if payload > gfs.MaxRecordBytes {
			return r, gfs.Errorf(gfs.CodeRecordTooLarge, "record of %d bytes", payload)
		}
	default:
		return r, gfs.Errorf(gfs.CodeInvalid, "mutation of unknown kind %d: want WRITE or APPEND", m.Kind)
	}
	if payload == 0 {
		return r, gfs.Errorf(gfs.CodeInvalid, "mutation without data")
	}
	if want := wire.Parts(sumsFrom, int64(payload)); len(m.Checksums) != want {
		return r, gfs.Errorf(gfs.CodeInvalid, "%d checksums for %d bytes at offset %d, want %d", len(m.Checksums), payload, sumsFrom, want)
	}
	return r, nil
}
