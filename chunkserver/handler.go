package chunkserver

import (
	"github.com/cairnfs/cairn/actors"
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

// Mutate spares itself an actor where there is none: then this server is nobody's primary.
func (h handler) Mutate(m *dataplane.Mutation) {
	if !h.cs.chunks.sendMutation(m) {
		m.ReleaseData()
		m.Reply(0, 0, h.cs.notPrimary(m.Handle))
	}
}

func (h handler) Digest(request *pb.Digest, reply func(*pb.DigestReply, *dataplane.Buffer)) {
	h.cs.chunks.send(gfs.ChunkHandle(request.Handle), routed(func(c *chunk) { c.onDigest(request, reply) }))
}

func (h handler) Patch(request *pb.Patch, blocks *dataplane.Buffer, reply func(error)) {
	h.cs.chunks.send(gfs.ChunkHandle(request.Handle), routed(func(c *chunk) { c.onPatch(request, blocks, reply) }))
}

// Prepare obeys as if the order had come by NATS, but that nobody hears of work in between.
func (h handler) Prepare(order *pb.PrepareOrder, reply func(*pb.PrepareReply, error)) {
	h.cs.obey(func(err error) { reply(nil, err) }, order.GetHeader(), func() {
		h.cs.chunks.send(gfs.ChunkHandle(order.Handle), routed(func(c *chunk) { c.onPrepare(order, actors.NewReply(reply), func() {}) }))
	})
}

func (h handler) OpenChain(open *pb.ChainOpen, up *dataplane.Upstream) dataplane.ChainSink {
	return h.openChain(open, up)
}

func (h handler) openChain(open *pb.ChainOpen, up Upstream) dataplane.ChainSink {
	handle := gfs.ChunkHandle(open.Handle)
	h.cs.chunks.send(handle, routed(func(c *chunk) { c.onChainOpen(open, up) }))
	return above{h.cs, handle, up}
}

// chunkEvents brings what happens in pipelines and on streams to the chunk's actor. Every command checks that it is
// about the pipeline or stream of the present version.
type chunkEvents struct{ chunk *chunk }

func (e chunkEvents) applied(p *pipeline, serial gfs.Serial) {
	e.chunk.send(func(c *chunk) {
		if p == c.pipe || p == c.draining {
			c.onApplied(serial)
		}
	})
}

func (e chunkEvents) forwardFailed(p *pipeline, err error) {
	e.chunk.send(func(c *chunk) {
		if p == c.pipe {
			c.onSuccessorLost(err)
		}
	})
}

func (e chunkEvents) applyFailed(p *pipeline, serial gfs.Serial, err error) {
	e.chunk.send(func(c *chunk) {
		if p == c.pipe || p == c.draining {
			c.onApplyFailed(serial, err)
		}
	})
}

func (e chunkEvents) drained(p *pipeline) {
	e.chunk.send(func(c *chunk) {
		if p != c.draining {
			return
		}
		c.draining = nil
		if f := c.onDrained; f != nil {
			c.onDrained = nil
			f()
		}
	})
}

// below hears the stream to the successor of one pipeline.
type below struct {
	chunk *chunk
	pipe  *pipeline
}

func (b below) Acked(serial gfs.Serial, accused gfs.ServerID, _ bool) {
	b.chunk.send(func(c *chunk) {
		if b.pipe == c.pipe {
			c.onAcked(serial, accused)
		}
	})
}

func (b below) Closed(err error) {
	b.chunk.send(func(c *chunk) {
		if b.pipe == c.pipe {
			c.onClosedBelow(err)
		}
	})
}

func (b below) Lost(err error) {
	b.chunk.send(func(c *chunk) {
		if b.pipe == c.pipe {
			c.onSuccessorLost(err)
		}
	})
}

// above hears the stream from the predecessor. The chunk's actor may have left meanwhile, so it goes by the table.
type above struct {
	cs     *Chunkserver
	handle gfs.ChunkHandle
	up     Upstream
}

func (a above) Apply(frame *dataplane.Apply) {
	a.cs.chunks.send(a.handle, routed(func(c *chunk) {
		if a.up == c.up {
			c.onApply(frame)
		} else {
			frame.Release()
		}
	}))
}

func (a above) Tick(commitLength int64) {
	a.cs.chunks.send(a.handle, routed(func(c *chunk) {
		if a.up == c.up {
			c.onTick(commitLength)
		}
	}))
}

func (a above) Close(request *pb.ChainClose) {
	a.cs.chunks.send(a.handle, routed(func(c *chunk) {
		if a.up == c.up {
			c.onCloseFromAbove(request)
		}
	}))
}

func (a above) Lost(err error) {
	a.cs.chunks.send(a.handle, routed(func(c *chunk) {
		if a.up == c.up {
			c.onPredecessorLost(err)
		}
	}))
}
