package mutation

import (
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Primary is the serial order of one chunk as its primary makes it. T is the shell's side of a request; the zero T
// means none.
//
// A request waits until Next puts it into a batch: then it has its serial number and, if it is an append, its offset,
// for good. A batch is applied by this server (Applied) and by the others (Acked); what everyone has applied is
// committed, in serial order, and its requests are answered. A change of configuration is Freeze, then Reopen if this
// server goes on as primary, or End.
//
// Methods that answer requests append to a slice of replies and return it. A request is answered exactly once. A
// Primary is not safe for concurrent use. Make it with NewPrimary.
// Source: GFS 3.1 and 3.3
type Primary[T any] struct {
	length  int64  // after everything numbered
	commit  int64  // after everything committed
	table   *Table // after everything numbered
	heard   map[gfs.WriterID]time.Time
	swept   time.Time
	dropped []gfs.WriterID // left the table, and the next batch says so

	waiting queue[*item[T]] // not numbered
	flight  queue[*item[T]] // numbered, not committed, by serial
	known   map[appendID]*item[T]
	padding *item[T] // numbered padding that is not committed

	next        gfs.Serial
	applied     gfs.Serial
	acked       gfs.Serial
	outstanding int   // batches made and not applied here
	depth       int   // how many there may be, by whether the last one waits for the disk
	requests    int   // unanswered
	bytes       int   // their data
	queued      int64 // data of what waits
	alone       bool
	frozen      bool
	ended       bool
}

type appendID struct {
	writer   gfs.WriterID
	sequence uint64
}

// item is a mutation on its way, with the requests that it answers: one, none for padding or after they gave up, or
// several when a retry joined an append or appends that did not fit share a padding.
type item[T any] struct {
	request   Request
	serial    gfs.Serial
	offset    int64
	newLength int64
	full      bool // its requests are answered ErrChunkFull
	askers    []asker[T]
}

type asker[T any] struct {
	who   T
	bytes int
	since time.Time
}

// Submitted is what Submit made of a request.
type Submitted uint8

// Refused, or known already: the Reply is the answer. Queued: the data are wanted, the answer comes later. Joined: an
// equal append is on its way and its answer will be this one's, whose data are not wanted.
const (
	Answered Submitted = iota
	Queued
	Joined
)

// NewPrimary begins a version in which all replicas are equal to this server's, which has the given length and append
// table; everything in them is committed. The table becomes the Primary's. alone says that there is no other member.
func NewPrimary[T any](now time.Time, length int64, table *Table, alone bool) *Primary[T] {
	p := &Primary[T]{
		length: length, commit: length, table: table, swept: now, next: 1, depth: gfs.PrimaryPipelineBatches, alone: alone,
		heard: make(map[gfs.WriterID]time.Time), known: make(map[appendID]*item[T]),
	}
	for e := range table.Entries() {
		p.heard[e.Writer] = now
	}
	return p
}

// Submit takes up a request whose data are complete. Refusals are gfs.CodeNotPrimary, CodeBusy, CodeChunkFull,
// CodeOutcomeUnknown and CodeInvalid.
func (p *Primary[T]) Submit(now time.Time, r Request, who T) (Reply[T], Submitted) {
	answer := Reply[T]{Request: who, Length: p.commit}
	if p.ended {
		answer.Err = gfs.Errorf(gfs.CodeNotPrimary, "the chunk was closed here: ask the master for its primary")
		return answer, Answered
	}
	if p.requests >= gfs.MaxChunkPending || p.bytes+r.Length > gfs.MaxChunkPendingBytes {
		answer.Err = gfs.Errorf(gfs.CodeBusy, "%d mutations with %d bytes wait at this chunk: try again after a pause", p.requests, p.bytes)
		return answer, Answered
	}
	if r.Kind == KindAppend {
		if r.Writer != 0 {
			if it, done := p.recall(now, r, &answer); it != nil {
				p.ask(it, asker[T]{who, 0, now})
				return answer, Joined
			} else if done {
				return answer, Answered
			}
		}
		if p.commit == gfs.ChunkSize {
			answer.Err = gfs.Errorf(gfs.CodeChunkFull, "append to the next chunk")
			return answer, Answered
		}
	}
	it := &item[T]{request: r}
	p.ask(it, asker[T]{who, r.Length, now})
	p.waiting.push(it)
	p.queued += int64(r.Length)
	if r.Writer != 0 {
		p.known[appendID{r.Writer, r.Sequence}] = it
		p.heard[r.Writer] = now
	}
	return answer, Queued
}

func (p *Primary[T]) ask(it *item[T], a asker[T]) {
	it.askers = append(it.askers, a)
	p.requests++
	p.bytes += a.bytes
}

// recall looks for an earlier try of an append: it is on its way, or done and then in answer.
func (p *Primary[T]) recall(now time.Time, r Request, answer *Reply[T]) (it *item[T], done bool) {
	mismatch := func(length int) error {
		return gfs.Errorf(gfs.CodeInvalid, "writer %016x used sequence %d for a record of %d bytes already, now for one of %d",
			uint64(r.Writer), r.Sequence, length, r.Length)
	}
	if it := p.known[appendID{r.Writer, r.Sequence}]; it != nil {
		if it.request.Length != r.Length {
			answer.Err = mismatch(it.request.Length)
			return nil, true
		}
		return it, false
	}
	switch entry, outcome := p.table.Lookup(r.Writer, r.Sequence); {
	case outcome == Known && int(entry.Length) != r.Length:
		answer.Err = mismatch(int(entry.Length))
	case outcome == Known:
		answer.Offset = int64(entry.Offset)
		p.heard[r.Writer] = now
	case outcome == Forgotten:
		answer.Err = gfs.Errorf(gfs.CodeOutcomeUnknown, "append %d of writer %016x is older than what is remembered", r.Sequence, uint64(r.Writer))
	default:
		return nil, false
	}
	return nil, true
}

// Next makes the next batch of what waits, if this server has room for one.
func (p *Primary[T]) Next(now time.Time) (Batch[T], bool) {
	if p.frozen || p.ended || p.waiting.len() == 0 || p.outstanding >= p.depth {
		return Batch[T]{}, false
	}
	b := Batch[T]{First: p.next, Commit: p.commit}
	p.dropSilent(now)
	for p.waiting.len() > 0 && len(b.Mutations) < gfs.MaxBatchMutations {
		it := p.waiting.front()
		if b.Bytes > 0 && b.Bytes+it.request.Length > gfs.MaxBatchBytes {
			break
		}
		p.waiting.pop()
		p.queued -= int64(it.request.Length)
		if m, placed := p.place(it); placed {
			if p.depth = gfs.PrimaryPipelineBatches; m.Sync {
				p.depth = gfs.DurablePipelineBatches
			}
			var who T
			if m.Length > 0 && len(it.askers) > 0 {
				who = it.askers[0].who
			}
			b.Mutations, b.Requests = append(b.Mutations, m), append(b.Requests, who)
			b.Bytes += m.Length
		}
	}
	if len(b.Mutations) == 0 { // all that waited shares a padding that is on its way
		return Batch[T]{}, false
	}
	b.Mutations[0].Dropped, p.dropped = p.dropped, nil
	p.outstanding++
	return b, true
}

// place gives an item its serial number. It reports false for one that joined a padding on its way.
func (p *Primary[T]) place(it *item[T]) (Mutation, bool) {
	r := &it.request
	m := Mutation{Offset: p.length, NewLength: p.length, Sync: r.Sync || r.Kind == KindSync}
	switch {
	case r.Kind == KindSync:
	case r.Kind == KindWrite:
		m.Offset, m.Length = r.Offset, r.Length
		m.NewLength = max(p.length, r.Offset+int64(r.Length))
	case p.fits(r):
		m.Length, m.NewLength = r.Length, p.length+int64(r.Length)
		m.Writer, m.Sequence, m.Lowest = r.Writer, r.Sequence, r.Lowest
		if entry, ok := m.Entry(); ok && !p.table.Add(entry.Entry, entry.Lowest) {
			panic("mutation: the append table is full after all")
		}
	default:
		delete(p.known, appendID{r.Writer, r.Sequence}) // a retry is answered full as well
		if p.padding != nil {
			p.padding.askers = append(p.padding.askers, it.askers...)
			return m, false
		}
		m.NewLength = gfs.ChunkSize
		it.full = true
		p.padding = it
	}
	it.serial, it.offset, it.newLength = p.next, m.Offset, m.NewLength
	p.next++
	p.length = m.NewLength
	p.flight.push(it)
	return m, true
}

// fits reports whether the chunk has room for an append, and its table for the writer.
func (p *Primary[T]) fits(r *Request) bool {
	return p.length+int64(r.Length) <= gfs.ChunkSize && (r.Writer == 0 || !p.table.Full() || p.table.Has(r.Writer))
}

// sweepInterval is the pause between looks for silent writers; sweepFullInterval when the table is full.
const (
	sweepInterval     = time.Minute
	sweepFullInterval = time.Second
)

// dropSilent forgets the writers that were silent for gfs.AppendMemory and have nothing on its way.
func (p *Primary[T]) dropSilent(now time.Time) {
	since := now.Sub(p.swept)
	if since < sweepFullInterval || since < sweepInterval && !p.table.Full() {
		return
	}
	p.swept = now
	for writer, heard := range p.heard {
		if now.Sub(heard) < gfs.AppendMemory {
			continue
		}
		delete(p.heard, writer)
		if p.table.Has(writer) {
			p.table.DropWriter(writer)
			p.dropped = append(p.dropped, writer)
		}
	}
}

// Applied notes that the oldest batch not noted yet, which ends at serial, is applied here.
func (p *Primary[T]) Applied(serial gfs.Serial, replies []Reply[T]) []Reply[T] {
	if serial <= p.applied || serial >= p.next || p.outstanding == 0 {
		panic("mutation: applied what was not numbered")
	}
	p.outstanding--
	p.applied = serial
	return p.settle(replies)
}

// Acked notes that the successor and everyone below has applied everything up to serial. The error, gfs.CodeInvalid,
// is about a serial that was never given.
func (p *Primary[T]) Acked(serial gfs.Serial, replies []Reply[T]) ([]Reply[T], error) {
	if serial >= p.next {
		return replies, gfs.Errorf(gfs.CodeInvalid, "acknowledgement up to serial %d, %d was the last", serial, p.next-1)
	}
	p.acked = max(p.acked, serial)
	return p.settle(replies), nil
}

// settle commits what everyone has applied.
func (p *Primary[T]) settle(replies []Reply[T]) []Reply[T] {
	if p.frozen {
		return replies
	}
	serial := p.applied
	if !p.alone {
		serial = min(serial, p.acked)
	}
	return p.commitUpTo(serial, replies)
}

func (p *Primary[T]) commitUpTo(serial gfs.Serial, replies []Reply[T]) []Reply[T] {
	first := len(replies)
	for p.flight.len() > 0 && p.flight.front().serial <= serial {
		it := p.flight.pop()
		p.commit = max(p.commit, it.newLength)
		var err error
		if it.full {
			err = gfs.Errorf(gfs.CodeChunkFull, "append to the next chunk")
		}
		if it == p.padding {
			p.padding = nil
		}
		replies = p.answer(it, it.offset, err, replies)
	}
	for i := first; i < len(replies); i++ {
		replies[i].Length = p.commit
	}
	return replies
}

// answer answers everyone who asked for an item.
func (p *Primary[T]) answer(it *item[T], offset int64, err error, replies []Reply[T]) []Reply[T] {
	p.forget(it)
	for _, a := range it.askers {
		replies = append(replies, Reply[T]{Request: a.who, Offset: offset, Length: p.commit, Err: err})
		p.requests--
		p.bytes -= a.bytes
	}
	it.askers = nil
	return replies
}

func (p *Primary[T]) forget(it *item[T]) {
	id := appendID{it.request.Writer, it.request.Sequence}
	if id.writer != 0 && p.known[id] == it {
		delete(p.known, id)
	}
}

// Freeze ends the version: nothing more is numbered or committed until Reopen. Requests may still be submitted, and
// wait.
func (p *Primary[T]) Freeze() { p.frozen = true }

// Drained reports whether every batch made was applied here.
func (p *Primary[T]) Drained() bool { return p.outstanding == 0 }

// Reopen begins a new version in which every member was made equal to this server's replica, after Freeze and with
// everything Drained. What was numbered is thereby committed, and its requests are answered.
func (p *Primary[T]) Reopen(alone bool, replies []Reply[T]) []Reply[T] {
	if !p.frozen || p.outstanding > 0 {
		panic("mutation: reopened while mutations are applied")
	}
	replies = p.commitUpTo(p.next-1, replies)
	p.next, p.applied, p.acked = 1, 0, 0
	p.alone, p.frozen = alone, false
	return replies
}

// Expire gives up on requests that have waited since before limit, with err. A mutation that has its number stays in
// its place.
func (p *Primary[T]) Expire(limit time.Time, err error, replies []Reply[T]) []Reply[T] {
	expire := func(it *item[T]) {
		kept := it.askers[:0]
		for _, a := range it.askers {
			if a.since.Before(limit) {
				replies = append(replies, Reply[T]{Request: a.who, Length: p.commit, Err: err})
				p.requests--
				p.bytes -= a.bytes
			} else {
				kept = append(kept, a)
			}
		}
		clear(it.askers[len(kept):])
		it.askers = kept
	}
	for _, it := range p.flight.all() {
		expire(it)
	}
	p.waiting.filter(func(it *item[T]) bool {
		if !it.askers[0].since.Before(limit) {
			return true
		}
		p.queued -= int64(it.request.Length)
		replies = p.answer(it, 0, err, replies) // the data go with the first asker, so those who joined go too
		return false
	})
	return replies
}

// End ends the chunk's mutation here: everyone is answered with err, and later requests are refused.
func (p *Primary[T]) End(err error, replies []Reply[T]) []Reply[T] {
	return p.EndBefore(1, err, err, replies)
}

// EndBefore is End where nobody has applied anything from serial on, nor ever will: those requests are answered with
// refused. Earlier ones may yet be committed in another version, and are answered with err.
func (p *Primary[T]) EndBefore(serial gfs.Serial, err, refused error, replies []Reply[T]) []Reply[T] {
	p.frozen, p.ended = true, true
	for p.flight.len() > 0 {
		it, why := p.flight.pop(), err
		if it.serial >= serial {
			why = refused
		}
		replies = p.answer(it, 0, why, replies)
	}
	for p.waiting.len() > 0 {
		replies = p.answer(p.waiting.pop(), 0, refused, replies)
	}
	p.padding, p.queued = nil, 0
	return replies
}

// Quiet reports whether no request waits and no mutation is on its way.
func (p *Primary[T]) Quiet() bool { return p.waiting.len() == 0 && p.flight.len() == 0 }

// Owed reports whether the successor owes an acknowledgement.
func (p *Primary[T]) Owed() bool { return !p.alone && !p.frozen && p.acked+1 < p.next }

// Commit is the committed length in bytes; Length that after everything numbered.
func (p *Primary[T]) Commit() int64 { return p.commit }

// Length is the chunk's length after everything numbered.
func (p *Primary[T]) Length() int64 { return p.length }

// Claimed is Length with the data of all that waits to be numbered, as if each were an append; it may be beyond the end of a
// chunk.
func (p *Primary[T]) Claimed() int64 { return p.length + p.queued }

// Pending is the number of unanswered requests.
func (p *Primary[T]) Pending() int { return p.requests }
