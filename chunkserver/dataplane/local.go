package dataplane

import (
	"context"
	"errors"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// What is in this file does the work of connections where there are none: a simulation passes on requests and frames by
// itself.

// Detached makes a server that listens nowhere and is not to be closed: one that takes part in a simulation.
func Detached(cfg Config) *Server {
	s := assemble(cfg)
	s.around.Go(s.sweepPushes)
	return s
}

// NewMutation makes a client's mutation of its request and a copy of its data, or of those that were pushed, with the checks
// of a connection. answer gets the reply and must not wait. The error ends the connection.
func (s *Server) NewMutation(request *pb.Mutate, data []byte, answer func(offset, length int64, err error)) (*Mutation, error) {
	r, err := requestOf(request, len(data))
	if err != nil {
		return nil, err
	}
	m := &Mutation{
		Handle: gfs.ChunkHandle(request.Handle), Version: gfs.Version(request.Version), Request: r,
		Checksums: request.Checksums, answer: answer,
	}
	if request.PushedSession != 0 {
		return m, s.refer(m, request)
	}
	m.buffer = s.pool.Get(len(data))
	copy(m.buffer.Data, data)
	return m, nil
}

// NewSync makes a client's request to make durable what was acknowledged.
func NewSync(handle gfs.ChunkHandle, version gfs.Version, answer func(offset, length int64, err error)) *Mutation {
	return &Mutation{Handle: handle, Version: version, Request: mutation.Request{Kind: mutation.KindSync}, answer: answer}
}

// Encode is a frame as it travels: its message, and the data that it carries one after another. Both are copies.
func (a *Apply) Encode() (*pb.ChainApply, []byte) {
	data := make([]byte, 0, a.carried())
	for i := range a.Runs {
		if a.Runs[i].pushed.none() {
			data = append(data, a.Runs[i].Data...)
		}
	}
	return new(applyMessage).fill(a), data
}

// DecodeApply makes the frame that Encode took apart, with the checks of a connection. It copies data. What was pushed it takes
// from what is here, or gets from the primary at an address; then it waits, in what Around's Go runs, and calls busy now
// and then. The errors end the stream.
func (s *Server) DecodeApply(ctx context.Context, message *pb.ChainApply, data []byte, primary string, busy func()) (*Apply, error) {
	a, err := parseApply(message, len(data))
	if err != nil {
		return nil, err
	}
	b := s.pool.Get(len(data))
	a.buffers = append(a.buffers, b)
	copy(b.Data, data)
	if err = a.layOut(b.Data, message.Checksums); err == nil {
		for i := range a.Runs {
			run := &a.Runs[i]
			if !run.pushed.none() {
				err = errors.Join(err, s.reference(ctx, a, run, primary, busy))
			} else {
				err = errors.Join(err, wire.Verify(run.Checksums, run.Offset, run.Data))
			}
		}
	}
	if err != nil {
		a.Release()
		return nil, err
	}
	return a, nil
}

// ReadCopy answers a client's read as a connection does that never uses sendfile. The data are the caller's.
func ReadCopy(h Handler, q *pb.Read) (*pb.ReadReply, []byte) {
	reply := new(pb.ReadReply)
	replica, from, to, err := check(h, q, reply)
	var data []byte
	if err == nil && from < to {
		data = make([]byte, to-from)
		n, failed := replica.ReadAt(data, from)
		if err = failed; err == nil && n < len(data) {
			err = behind(replica, n, from, to)
		}
		if gfs.CodeOf(err) == gfs.CodeCorrupt {
			h.Corrupt(replica.Handle(), err.Error())
		}
	}
	if err != nil {
		reply.Code, reply.Detail = errorOf(err)
		return reply, nil
	}
	return reply, data
}
