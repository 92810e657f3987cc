package chunkserver

import (
	"sync"
	"sync/atomic"

	"github.com/cairnfs/cairn/chunkserver/dataplane"
	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// pipeline is the goroutine that carries out one chunk's mutations in one version, in serial order: it sends each
// frame to the successor, if there is one, and then applies it here. The chunk actor puts in what is to be done and
// hears back what was done; neither waits for the other.
type pipeline struct {
	replica *store.Replica
	down    Downstream // nil for the last member
	pool    *dataplane.Pool
	events  pipelineEvents

	mu      sync.Mutex
	arrived Signal // with mu
	queue   []pipelineItem
	spare   []pipelineItem
	ended   bool

	// forwarding is false once the successor is lost or the version has ended here.
	forwarding atomic.Bool
	// sent is the last serial whose sending has begun.
	sent atomic.Uint64

	reserved int64 // disk space reserved, in bytes from the chunk's beginning
	broken   bool  // a local write failed: nothing more is applied
	// written is the last serials of the batches and frames that were written here and not yet reported, in order; durable
	// says that some of it has to be on disk before.
	written []gfs.Serial
	durable bool
	appends []mutation.Append
	dropped []gfs.WriterID
}

// pipelineEvents hears of a pipeline's work, on its goroutine; its methods must not wait.
type pipelineEvents interface {
	// applied: everything up to serial is applied here; one call for each batch or frame.
	applied(p *pipeline, serial gfs.Serial)
	// forwardFailed: the successor is lost. What was put in is still applied here.
	forwardFailed(p *pipeline, err error)
	// applyFailed: this server cannot go on with the chunk in this version. Nothing from serial on was applied here or
	// sent on, nor will be.
	applyFailed(p *pipeline, serial gfs.Serial, err error)
	// drained: end was called, and nothing is being written any more. It is the last event.
	drained(p *pipeline)
}

// pipelineItem is one thing to do: one of its fields is set, or tick is meant.
type pipelineItem struct {
	batch *mutation.Batch[*dataplane.Mutation]
	apply *dataplane.Apply
	close *pb.ChainClose
	tick  int64
}

// newPipeline makes a pipeline; its goroutine is to call run.
func newPipeline(replica *store.Replica, down Downstream, pool *dataplane.Pool, events pipelineEvents, around Runtime) *pipeline {
	p := &pipeline{replica: replica, down: down, pool: pool, events: events}
	p.arrived = around.Signal(&p.mu)
	p.forwarding.Store(down != nil)
	return p
}

// put queues an item; after end it gives the item's memory back. It never waits: what is queued is bounded by whoever
// makes it.
func (p *pipeline) put(item pipelineItem) {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		panic("chunkserver: a mutation put into a pipeline that has ended")
	}
	p.queue = append(p.queue, item)
	p.mu.Unlock()
	p.arrived.Signal()
}

// end stops forwarding at once and lets what is queued be applied here; then drained is called.
func (p *pipeline) end() {
	p.stopForwarding()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.arrived.Signal()
}

// stopForwarding ends the stream to the successor; a write that hangs in it returns.
func (p *pipeline) stopForwarding() {
	p.forwarding.Store(false)
	if p.down != nil {
		p.down.Drop()
	}
}

// run carries out what is put in until end. It returns when the stream to the successor has ended as well.
func (p *pipeline) run() {
	for {
		p.mu.Lock()
		for len(p.queue) == 0 && !p.ended {
			p.arrived.Wait()
		}
		items, ended := p.queue, p.ended
		p.queue, p.spare = p.spare[:0], nil
		p.mu.Unlock()
		for i := range items {
			p.do(&items[i])
		}
		p.settle() // one fsync for all that had come
		if len(items) == 0 && ended {
			p.events.drained(p)
			if p.down != nil {
				p.down.Wait()
			}
			return
		}
		clear(items)
		p.mu.Lock()
		p.spare = items[:0]
		p.mu.Unlock()
	}
}

func (p *pipeline) do(item *pipelineItem) {
	switch {
	case item.batch != nil:
		p.carryOut(dataplane.NewApply(p.pool, *item.batch))
	case item.apply != nil:
		p.carryOut(item.apply)
	case item.close != nil:
		p.forward(func() error { return p.down.Close(item.close) })
	default:
		p.forward(func() error { return p.down.Tick(item.tick) })
	}
}

// forward sends one frame, unless forwarding has ended.
func (p *pipeline) forward(send func() error) {
	if !p.forwarding.Load() {
		return
	}
	if err := send(); err != nil && p.forwarding.Swap(false) {
		p.down.Drop()
		p.events.forwardFailed(p, err)
	}
}

// carryOut forwards and applies a frame and gives its memory back.
func (p *pipeline) carryOut(a *dataplane.Apply) {
	defer a.Release()
	if p.broken {
		return
	}
	// Space first: a primary whose disk is full must not send on what it cannot apply.
	untouched, err := a.First, p.reserve(a)
	if err == nil {
		untouched = a.Last() + 1
		p.forward(func() error {
			p.sent.Store(uint64(a.Last()))
			return p.down.Apply(a)
		})
		err = p.applyHere(a)
	}
	if err != nil {
		p.settle()
		p.fail(untouched, err)
		return
	}
	p.written = append(p.written, a.Last())
	if !p.durable {
		p.settle()
	}
}

// settle makes what was written durable, if any of it has to be, with one fsync for all that came while the one before ran,
// and reports it.
func (p *pipeline) settle() {
	if p.durable && len(p.written) > 0 {
		p.durable = false
		if err := p.replica.Sync(); err != nil {
			touched := max(p.written[len(p.written)-1], gfs.Serial(p.sent.Load())) // the frame after may be on its way
			p.fail(touched+1, err)
			p.written = p.written[:0]
		}
	}
	for _, serial := range p.written {
		p.events.applied(p, serial)
	}
	p.written = p.written[:0]
}

// fail ends the pipeline's work, once. Nothing from serial on was applied here or sent on.
func (p *pipeline) fail(serial gfs.Serial, err error) {
	if p.broken {
		return
	}
	p.broken = true
	p.events.applyFailed(p, serial, err) // first: the stream that ends next would be blamed on the successor
	p.stopForwarding()
}

// How far disk space is reserved ahead: for a stream far, for small records little.
const (
	streamReserveBytes = 16 << 20
	recordReserveBytes = 1 << 20
	streamFrameBytes   = 256 << 10
)

func (p *pipeline) reserve(a *dataplane.Apply) error {
	end := int64(0)
	for i := range a.Runs {
		end = max(end, a.Runs[i].Offset+int64(len(a.Runs[i].Data)))
	}
	if end <= p.reserved {
		return nil
	}
	step := int64(recordReserveBytes)
	if a.Bytes() >= streamFrameBytes {
		step = streamReserveBytes
	}
	ahead := min((end/step+1)*step, gfs.ChunkSize)
	err := p.replica.Preallocate(ahead)
	if err != nil && gfs.CodeOf(err) == gfs.CodeNoSpace {
		ahead = end // no room to be generous
		err = p.replica.Preallocate(ahead)
	}
	if err == nil {
		p.reserved = ahead
	}
	return err
}

func (p *pipeline) applyHere(a *dataplane.Apply) error {
	for i := range a.Runs {
		run := &a.Runs[i]
		if err := p.replica.WriteAt(run.Offset, run.Data, run.Checksums); err != nil {
			return err
		}
	}
	p.appends, p.dropped = p.appends[:0], p.dropped[:0]
	for i := range a.Mutations {
		m := &a.Mutations[i]
		p.dropped = append(p.dropped, m.Dropped...)
		if entry, ok := m.Entry(); ok {
			p.appends = append(p.appends, entry)
		}
		p.durable = p.durable || m.Sync
	}
	last := &a.Mutations[len(a.Mutations)-1]
	return p.replica.Advance(store.Progress{Length: last.NewLength, Commit: a.Commit, Appends: p.appends, Dropped: p.dropped})
}
