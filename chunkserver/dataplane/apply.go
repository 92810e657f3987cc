package dataplane

import (
	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// Run is data that lie together in a chunk and in memory, written at once.
type Run struct {
	Offset    int64 // within the chunk
	Data      []byte
	Checksums []uint32 // of Data, cut at the chunk's block boundaries

	pushed   pushKey // names the data, if they were pushed and the frame does not carry them
	mutation int     // then the index of the mutation
}

// Apply is one frame of a chain: mutations with consecutive serial numbers and their data. Whoever has it releases
// it once.
//
// The data are cut into runs by a rule that sender and receiver apply alike: a mutation of at least
// gfs.SmallMutationBytes is a run of its own; shorter ones, each beginning where the one before ended, share a run.
// Mutations without data are skipped. The checksums are those of the runs, one after the other. Data that were pushed
// are a run of their own too, which travels without them.
type Apply struct {
	First     gfs.Serial
	Mutations []mutation.Mutation
	Commit    int64 // the primary's commit length
	Runs      []Run

	buffers  []*Buffer
	requests []*Mutation
	claimed  []*pushed
	pushed   []pushKey // of each mutation, while a frame is taken apart; nil if it carries all its data
	window   *window
	bytes    int
}

// Last is the serial number of the last mutation.
func (a *Apply) Last() gfs.Serial { return a.First + gfs.Serial(len(a.Mutations)) - 1 }

// Bytes is the length of the data.
func (a *Apply) Bytes() int { return a.bytes }

// carried is the length of the data that travel with the frame.
func (a *Apply) carried() int {
	n := 0
	for i := range a.Runs {
		if a.Runs[i].pushed.none() {
			n += len(a.Runs[i].Data)
		}
	}
	return n
}

// Release gives the memory of the data back.
func (a *Apply) Release() {
	for _, b := range a.buffers {
		b.Release()
	}
	for _, m := range a.requests {
		m.ReleaseData()
	}
	for _, p := range a.claimed {
		p.release(1)
	}
	if a.window != nil {
		a.window.put(a.bytes)
	}
	a.buffers, a.requests, a.claimed, a.window, a.Runs = nil, nil, nil, nil, nil
}

// NewApply makes the frame of a primary's batch. data has the request behind each mutation, nil for one without
// data; NewApply takes over their data but not the duty to answer them. Data of small mutations are copied together
// and given back at once.
func NewApply(pool *Pool, batch mutation.Batch[*Mutation]) *Apply {
	a := &Apply{First: batch.First, Mutations: batch.Mutations, Commit: batch.Commit}
	for from := 0; from < len(a.Mutations); {
		m := &a.Mutations[from]
		switch {
		case m.Length == 0:
			from++
		case m.Length >= gfs.SmallMutationBytes:
			a.addLarge(from, batch.Requests[from])
			from++
		default:
			to := runEnd(a.Mutations, from)
			a.addSmall(pool, a.Mutations[from:to], batch.Requests[from:to])
			from = to
		}
	}
	return a
}

// runEnd is the index behind the run of small mutations that begins at from.
func runEnd(mutations []mutation.Mutation, from int) int {
	end := mutations[from].Offset + int64(mutations[from].Length)
	to := from + 1
	for ; to < len(mutations); to++ {
		m := &mutations[to]
		if m.Length == 0 || m.Length >= gfs.SmallMutationBytes || m.Offset != end {
			break
		}
		end += int64(m.Length)
	}
	return to
}

func (a *Apply) addLarge(index int, request *Mutation) {
	m := &a.Mutations[index]
	sums := request.Checksums
	if request.Request.Kind == mutation.KindAppend && m.Offset%gfs.BlockSize != 0 {
		sums = wire.AppendChecksums(nil, m.Offset, request.Data())
	}
	run := Run{Offset: m.Offset, Data: request.Data(), Checksums: sums}
	if request.pushed != nil {
		run.pushed, run.mutation = request.pushed.key, index
	}
	a.Runs = append(a.Runs, run)
	a.requests = append(a.requests, request)
	a.bytes += m.Length
}

func (a *Apply) addSmall(pool *Pool, mutations []mutation.Mutation, requests []*Mutation) {
	total := 0
	for i := range mutations {
		total += mutations[i].Length
	}
	b := pool.Get(total)
	at := 0
	for _, r := range requests {
		at += copy(b.Data[at:], r.Data())
		r.ReleaseData()
	}
	offset := mutations[0].Offset
	a.Runs = append(a.Runs, Run{Offset: offset, Data: b.Data, Checksums: wire.AppendChecksums(nil, offset, b.Data)})
	a.buffers = append(a.buffers, b)
	a.bytes += total
}

// parseApply checks the message of a frame with payload bytes of data. The runs come with layOut.
func parseApply(message *pb.ChainApply, payload int) (*Apply, error) {
	n := len(message.Mutations)
	if n == 0 || n > gfs.MaxBatchMutations || message.FirstSerial == 0 {
		return nil, gfs.Errorf(gfs.CodeInvalid, "chain frame of %d mutations from serial %d: want 1 to %d, from 1 on", n, message.FirstSerial, gfs.MaxBatchMutations)
	}
	a := &Apply{First: gfs.Serial(message.FirstSerial), Commit: message.CommitLength, Mutations: make([]mutation.Mutation, n)}
	carried := 0
	for i, m := range message.Mutations {
		to := &a.Mutations[i]
		*to = mutation.Mutation{
			Offset: m.Offset, Length: int(m.Length), NewLength: m.NewLength, Writer: gfs.WriterID(m.Writer),
			Sequence: m.Sequence, Lowest: m.LowestUnacknowledged, Sync: m.Sync,
		}
		for _, w := range m.DroppedWriters {
			to.Dropped = append(to.Dropped, gfs.WriterID(w))
		}
		if err := to.Check(); err != nil {
			return nil, err
		}
		a.bytes += to.Length
		if m.PushedSession == 0 {
			carried += to.Length
			continue
		}
		if to.Length < gfs.SmallMutationBytes {
			return nil, gfs.Errorf(gfs.CodeInvalid, "chain frame with %d pushed bytes: want %d at least", to.Length, gfs.SmallMutationBytes)
		}
		if a.pushed == nil {
			a.pushed = make([]pushKey, n)
		}
		a.pushed[i] = pushKey{m.PushedSession, m.PushedCounter}
	}
	if a.bytes > gfs.MaxPieceBytes {
		return nil, gfs.Errorf(gfs.CodeInvalid, "chain frame for %d bytes of data: at most %d are allowed", a.bytes, gfs.MaxPieceBytes)
	}
	if carried != payload {
		return nil, gfs.Errorf(gfs.CodeInvalid, "chain frame with %d bytes of data for mutations of %d bytes", payload, carried)
	}
	return a, nil
}

// layOut cuts data into runs and gives each its checksums. Those of pushed data remain to be filled.
func (a *Apply) layOut(data []byte, sums []uint32) error {
	for from := 0; from < len(a.Mutations); {
		m := &a.Mutations[from]
		to, length := from+1, m.Length
		if m.Length == 0 {
			from++
			continue
		}
		if m.Length < gfs.SmallMutationBytes {
			to = runEnd(a.Mutations, from)
			last := &a.Mutations[to-1]
			length = int(last.Offset + int64(last.Length) - m.Offset)
		}
		parts := wire.Parts(m.Offset, int64(length))
		if parts > len(sums) {
			return gfs.Errorf(gfs.CodeInvalid, "chain frame with too few checksums for its data")
		}
		run := Run{Offset: m.Offset, Checksums: sums[:parts:parts]}
		if a.pushed != nil && !a.pushed[from].none() {
			run.pushed, run.mutation = a.pushed[from], from
		} else {
			run.Data, data = data[:length:length], data[length:]
		}
		a.Runs = append(a.Runs, run)
		sums, from = sums[parts:], to
	}
	if len(sums) != 0 {
		return gfs.Errorf(gfs.CodeInvalid, "chain frame with %d checksums too many", len(sums))
	}
	return nil
}

// applyMessage encodes frames, reusing its memory.
type applyMessage struct {
	message pb.ChainApply
	slab    []pb.ChainMutation
}

// fill makes the message of a frame, valid until the next call.
func (e *applyMessage) fill(a *Apply) *pb.ChainApply {
	e.message.FirstSerial, e.message.CommitLength = uint64(a.First), a.Commit
	e.message.Mutations, e.message.Checksums = e.message.Mutations[:0], e.message.Checksums[:0]
	for len(e.slab) < len(a.Mutations) {
		e.slab = append(e.slab[:cap(e.slab)], pb.ChainMutation{})
	}
	for i := range a.Mutations {
		from, to := &a.Mutations[i], &e.slab[i]
		to.Offset, to.Length, to.NewLength = from.Offset, uint32(from.Length), from.NewLength
		to.Writer, to.Sequence, to.LowestUnacknowledged = uint64(from.Writer), from.Sequence, from.Lowest
		to.DroppedWriters, to.Sync = to.DroppedWriters[:0], from.Sync
		to.PushedSession, to.PushedCounter = 0, 0
		for _, w := range from.Dropped {
			to.DroppedWriters = append(to.DroppedWriters, uint64(w))
		}
		e.message.Mutations = append(e.message.Mutations, to)
	}
	for i := range a.Runs {
		run := &a.Runs[i]
		e.message.Checksums = append(e.message.Checksums, run.Checksums...)
		if !run.pushed.none() {
			to := &e.slab[run.mutation]
			to.PushedSession, to.PushedCounter = run.pushed.session, run.pushed.counter
		}
	}
	return &e.message
}
