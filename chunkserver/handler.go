package chunkserver

import (
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// handler connects the data plane with the store and the chunks' actors.
type handler struct{ cs *Chunkserver }

func (h handler) Replica(handle gfs.ChunkHandle) (*store.Replica, gfs.Version, error) {
	replica, err := h.cs.store.Get(handle)
	if err != nil {
		return nil, 0, err
	}
	if version := h.cs.chunks.primaryIn(handle); version != 0 {
		return replica, version, nil
	}
	if status := replica.Status(); !status.Marked {
		return replica, status.Active, nil
	}
	return replica, 0, nil
}

func (h handler) Orphaned() bool { return h.cs.orphaned() }

func (h handler) Corrupt(handle gfs.ChunkHandle, detail string) { h.cs.tellCorrupt(handle, detail) }

func (h handler) Mutate(m *dataplane.Mutation) {
	h.cs.chunks.send(m.Handle, mutate{m})
}

func (h handler) Digest(request *pb.Digest, reply func(*pb.DigestReply)) {
	h.cs.chunks.send(gfs.ChunkHandle(request.Handle), routed(func(c *chunk) { c.onDigest(request, reply) }))
}

func (h handler) Patch(request *pb.Patch, blocks *dataplane.Buffer, reply func(error)) {
	h.cs.chunks.send(gfs.ChunkHandle(request.Handle), routed(func(c *chunk) { c.onPatch(request, blocks, reply) }))
}

func (h handler) OpenChain(open *pb.ChainOpen, up *dataplane.Upstream) dataplane.ChainSink {
	handle := gfs.ChunkHandle(open.Handle)
	h.cs.chunks.send(handle, routed(func(c *chunk) { c.onChainOpen(open, up) }))
	return above{h.cs, handle, up}
}
