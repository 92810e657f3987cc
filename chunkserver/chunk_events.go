package chunkserver

import (
	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

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

func (e chunkEvents) applyFailed(p *pipeline, err error) {
	e.chunk.send(func(c *chunk) {
		if p == c.pipe || p == c.draining {
			c.onApplyFailed(err)
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
	up     *dataplane.Upstream
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
