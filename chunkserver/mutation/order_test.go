package mutation

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func appendOf(writer gfs.WriterID, sequence uint64, length int) Request {
	return Request{Kind: KindAppend, Writer: writer, Sequence: sequence, Length: length}
}

// submit expects a request to be queued.
func submit(t *testing.T, p *Primary[int], r Request, who int) {
	t.Helper()
	if reply, outcome := p.Submit(start, r, who); outcome != Queued {
		t.Fatalf("request %d: %v, %+v", who, outcome, reply)
	}
}

func next(t *testing.T, p *Primary[int]) Batch[int] {
	t.Helper()
	b, ok := p.Next(start)
	if !ok {
		t.Fatal("no batch")
	}
	return b
}

func replies(t *testing.T, got []Reply[int], want ...string) {
	t.Helper()
	var text []string
	for _, r := range got {
		if r.Err != nil {
			text = append(text, fmt.Sprintf("%d %s", r.Request, gfs.CodeOf(r.Err)))
			continue
		}
		text = append(text, fmt.Sprintf("%d at %d of %d", r.Request, r.Offset, r.Length))
	}
	if !slices.Equal(text, want) {
		t.Fatalf("replies %q, want %q", text, want)
	}
}

func TestCommitNeedsBothThisServerAndTheChain(t *testing.T) {
	p := NewPrimary[int](start, 100, new(Table), false)
	submit(t, p, appendOf(1, 1, 10), 1)
	b := next(t, p)
	if b.First != 1 || b.Mutations[0].Offset != 100 || b.Mutations[0].NewLength != 110 {
		t.Fatalf("batch %+v", b)
	}
	got, err := p.Acked(1, nil)
	if replies(t, got); err != nil {
		t.Fatal(err)
	}
	replies(t, p.Applied(1, nil), "1 at 100 of 110")

	submit(t, p, appendOf(1, 2, 5), 2)
	next(t, p)
	replies(t, p.Applied(2, nil))
	got, _ = p.Acked(2, nil)
	replies(t, got, "2 at 110 of 115")
	if _, err := p.Acked(3, nil); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Fatalf("an acknowledgement of what was never sent: %v", err)
	}
	if !p.Quiet() || p.Owed() || p.Pending() != 0 {
		t.Error("not quiet")
	}
}

func TestWhatWaitsIsJoined(t *testing.T) {
	p := NewPrimary[int](start, 0, new(Table), true)
	for i := range gfs.PrimaryPipelineBatches {
		submit(t, p, appendOf(1, uint64(i+1), 10), i)
		next(t, p)
	}
	for i := range 100 {
		submit(t, p, appendOf(2, uint64(i+1), 10), 100+i)
	}
	if _, ok := p.Next(start); ok {
		t.Fatal("a batch beyond the pipeline's depth")
	}
	p.Applied(1, nil)
	if b := next(t, p); len(b.Mutations) != 100 || b.Bytes != 1000 {
		t.Fatalf("a batch of %d mutations", len(b.Mutations))
	}
}

// What is to be durable is handed on further ahead: an fsync takes long, and covers all that is written when it begins.
func TestDurableBatchesGoFurtherAhead(t *testing.T) {
	p := NewPrimary[int](start, 0, new(Table), true)
	for i := range gfs.DurablePipelineBatches {
		r := appendOf(1, uint64(i+1), 10)
		r.Sync = true
		submit(t, p, r, i)
		next(t, p)
	}
	submit(t, p, appendOf(2, 1, 10), 100)
	if _, ok := p.Next(start); ok {
		t.Fatal("a batch beyond the pipeline's depth")
	}
	for serial := range gfs.DurablePipelineBatches - gfs.PrimaryPipelineBatches {
		p.Applied(gfs.Serial(serial+1), nil)
	}
	next(t, p)
	submit(t, p, appendOf(2, 2, 10), 101)
	if _, ok := p.Next(start); ok {
		t.Fatal("a batch that need not be durable beyond the pipeline's usual depth")
	}
}

func TestBatchIsBoundedInBytes(t *testing.T) {
	p := NewPrimary[int](start, 0, new(Table), true)
	for i := range 3 {
		submit(t, p, Request{Kind: KindWrite, Length: gfs.MaxBatchBytes/2 + i}, i)
	}
	if b := next(t, p); len(b.Mutations) != 1 {
		t.Fatalf("%d mutations with %d bytes", len(b.Mutations), b.Bytes)
	}
	big := NewPrimary[int](start, 0, new(Table), true)
	submit(t, big, appendOf(0, 0, gfs.MaxRecordBytes), 1)
	if b := next(t, big); b.Bytes != gfs.MaxRecordBytes {
		t.Fatal("a long record does not go alone")
	}
}

func TestRetriesJoinOrFindTheirAppend(t *testing.T) {
	p := NewPrimary[int](start, 0, new(Table), true)
	submit(t, p, appendOf(7, 1, 10), 1)
	join := func(who int) {
		if _, outcome := p.Submit(start, appendOf(7, 1, 10), who); outcome != Joined {
			t.Fatalf("a retry of what is on its way: %v", outcome)
		}
	}
	join(2)
	next(t, p)
	join(3)
	replies(t, p.Applied(1, nil), "1 at 0 of 10", "2 at 0 of 10", "3 at 0 of 10")
	reply, outcome := p.Submit(start, appendOf(7, 1, 10), 4)
	if outcome != Answered {
		t.Fatal("a retry of what is committed is not answered")
	}
	replies(t, []Reply[int]{reply}, "4 at 0 of 10")
	if reply, _ := p.Submit(start, appendOf(7, 1, 11), 5); gfs.CodeOf(reply.Err) != gfs.CodeInvalid {
		t.Fatalf("another record under the same number: %v", reply.Err)
	}
	submit(t, p, Request{Kind: KindAppend, Writer: 7, Sequence: 9, Lowest: 9, Length: 1}, 6)
	next(t, p)
	p.Applied(2, nil)
	if reply, _ := p.Submit(start, appendOf(7, 2, 10), 7); !errors.Is(reply.Err, gfs.ErrOutcomeUnknown) {
		t.Fatalf("a retry of what may be forgotten: %v", reply.Err)
	}
}

func TestRecordThatDoesNotFitPadsTheChunk(t *testing.T) {
	p := NewPrimary[int](start, gfs.ChunkSize-100, new(Table), false)
	submit(t, p, appendOf(1, 1, 60), 1)
	submit(t, p, appendOf(2, 1, 60), 2)
	submit(t, p, appendOf(3, 1, 10), 3) // behind the padding nothing fits
	b := next(t, p)
	if len(b.Mutations) != 2 || b.Mutations[1].Length != 0 || b.Mutations[1].NewLength != gfs.ChunkSize || b.Requests[1] != 0 {
		t.Fatalf("batch %+v", b)
	}
	submit(t, p, appendOf(4, 1, 1), 4)
	if _, ok := p.Next(start); ok {
		t.Fatal("a second padding while the first is on its way")
	}
	p.Applied(2, nil)
	got, _ := p.Acked(1, nil)
	replies(t, got, fmt.Sprintf("1 at %d of %d", gfs.ChunkSize-100, gfs.ChunkSize-40))
	got, _ = p.Acked(2, nil)
	replies(t, got, "2 chunk_full", "3 chunk_full", "4 chunk_full")
	if reply, outcome := p.Submit(start, appendOf(5, 1, 1), 5); outcome != Answered || !errors.Is(reply.Err, gfs.ErrChunkFull) {
		t.Fatalf("an append to a full chunk: %v", reply.Err)
	}
	if reply, outcome := p.Submit(start, appendOf(1, 1, 60), 6); outcome != Answered || reply.Offset != gfs.ChunkSize-100 {
		t.Fatalf("a retry in a full chunk: %+v", reply)
	}
}

func TestExactlyFullChunkIsAnsweredWhenAllIsCommitted(t *testing.T) {
	p := NewPrimary[int](start, gfs.ChunkSize-10, new(Table), true)
	submit(t, p, appendOf(1, 1, 10), 1)
	submit(t, p, appendOf(2, 1, 1), 2)
	b := next(t, p)
	if len(b.Mutations) != 2 || b.Mutations[1].NewLength != gfs.ChunkSize || b.Mutations[1].Offset != gfs.ChunkSize {
		t.Fatalf("batch %+v", b)
	}
	replies(t, p.Applied(2, nil), fmt.Sprintf("1 at %d of %d", gfs.ChunkSize-10, gfs.ChunkSize), "2 chunk_full")
}

func TestFullTablePadsTheChunk(t *testing.T) {
	table := new(Table)
	for i := range gfs.MaxAppendWriters {
		table.Add(Entry{Writer: gfs.WriterID(i + 1), Sequence: 1}, 0)
	}
	p := NewPrimary[int](start, 50, table, true)
	submit(t, p, appendOf(5, 2, 10), 1)
	submit(t, p, appendOf(99999, 1, 10), 2)
	submit(t, p, appendOf(0, 0, 10), 3)
	b := next(t, p)
	replies(t, p.Applied(b.Last(), nil), fmt.Sprintf("1 at 50 of %d", gfs.ChunkSize), "2 chunk_full", "3 chunk_full")
}

func TestSilentWritersLeaveTheTable(t *testing.T) {
	p := NewPrimary[int](start, 0, new(Table), true)
	for w := range gfs.WriterID(3) {
		submit(t, p, appendOf(w+1, 1, 10), int(w))
	}
	next(t, p)
	p.Applied(3, nil)
	later := start.Add(gfs.AppendMemory)
	p.Submit(later.Add(-time.Second), appendOf(2, 2, 10), 4)
	b, _ := p.Next(later)
	dropped := b.Mutations[0].Dropped
	if slices.Sort(dropped); !slices.Equal(dropped, []gfs.WriterID{1, 3}) {
		t.Fatalf("dropped %v, want 1 and 3", dropped)
	}
	if reply, outcome := p.Submit(later, appendOf(1, 1, 10), 5); outcome != Queued {
		t.Fatalf("a dropped writer is remembered: %+v", reply)
	}
}

func TestReopenCommitsWhatWasNumbered(t *testing.T) {
	p := NewPrimary[int](start, 0, new(Table), false)
	submit(t, p, appendOf(1, 1, 10), 1)
	next(t, p)
	submit(t, p, appendOf(1, 2, 10), 2)
	p.Freeze()
	replies(t, p.Applied(1, nil))
	got, _ := p.Acked(1, nil)
	replies(t, got) // the version has ended: an acknowledgement commits nothing any more
	if _, ok := p.Next(start); ok {
		t.Fatal("a frozen primary gave a number")
	}
	submit(t, p, appendOf(1, 3, 10), 3)
	replies(t, p.Reopen(true, nil), "1 at 0 of 10")
	b := next(t, p)
	if b.First != 1 || len(b.Mutations) != 2 {
		t.Fatalf("batch %+v", b)
	}
	replies(t, p.Applied(2, nil), "2 at 10 of 30", "3 at 20 of 30")
}

func TestEndAnswersEveryone(t *testing.T) {
	p := NewPrimary[int](start, 0, new(Table), false)
	submit(t, p, appendOf(1, 1, 10), 1)
	next(t, p)
	p.Submit(start, appendOf(1, 1, 10), 2)
	submit(t, p, Request{Kind: KindSync}, 3)
	replies(t, p.End(gfs.ErrNotPrimary, nil), "1 not_primary", "2 not_primary", "3 not_primary")
	if reply, outcome := p.Submit(start, appendOf(1, 2, 10), 4); outcome != Answered || !errors.Is(reply.Err, gfs.ErrNotPrimary) {
		t.Fatalf("after the end: %+v", reply)
	}
}

// A disk that fills up refuses what nobody has applied; what was applied or sent on may be committed yet.
func TestEndRefusesOnlyWhatNobodyApplied(t *testing.T) {
	p := NewPrimary[int](start, 0, new(Table), false)
	for who := range gfs.PrimaryPipelineBatches {
		submit(t, p, appendOf(1, uint64(who+1), 10), who+1)
		next(t, p)
	}
	submit(t, p, appendOf(1, 3, 10), 3)
	replies(t, p.Applied(1, nil))
	replies(t, p.EndBefore(2, gfs.ErrNotPrimary, gfs.ErrNoSpace, nil), "1 not_primary", "2 no_space", "3 no_space")
}

func TestExpireAnswersThoseWhoWaitTooLong(t *testing.T) {
	p := NewPrimary[int](start, 0, new(Table), false)
	submit(t, p, appendOf(1, 1, 10), 1)
	next(t, p)
	submit(t, p, appendOf(1, 2, 10), 2)
	p.Submit(start.Add(2*time.Second), appendOf(1, 1, 10), 3)
	p.Submit(start.Add(2*time.Second), appendOf(1, 3, 10), 4)
	replies(t, p.Expire(start.Add(time.Second), gfs.ErrUnavailable, nil), "1 unavailable", "2 unavailable")
	p.Applied(1, nil)
	got, _ := p.Acked(1, nil)
	replies(t, got, "3 at 0 of 10")
	if b := next(t, p); len(b.Mutations) != 1 || b.Requests[0] != 4 {
		t.Fatalf("what expired is still done: %+v", b)
	}
}

func TestPendingIsBounded(t *testing.T) {
	p := NewPrimary[int](start, 0, new(Table), true)
	for i := range gfs.MaxChunkPending {
		submit(t, p, appendOf(0, 0, 1), i)
	}
	if reply, _ := p.Submit(start, appendOf(0, 0, 1), -1); !errors.Is(reply.Err, gfs.ErrBusy) {
		t.Fatalf("one too many: %v", reply.Err)
	}
	big := NewPrimary[int](start, 0, new(Table), true)
	for i := range gfs.MaxChunkPendingBytes / gfs.MaxPieceBytes {
		submit(t, big, appendOf(0, 0, gfs.MaxPieceBytes), i)
	}
	if reply, _ := big.Submit(start, appendOf(0, 0, 1), -1); !errors.Is(reply.Err, gfs.ErrBusy) {
		t.Fatalf("a byte too many: %v", reply.Err)
	}
}

func TestSecondaryRefusesWhatDoesNotContinue(t *testing.T) {
	one := []Mutation{{Offset: 100, Length: 10, NewLength: 110}}
	for name, c := range map[string]struct {
		first     gfs.Serial
		mutations []Mutation
	}{
		"a gap":            {2, one},
		"a length ahead":   {1, []Mutation{{Offset: 100, Length: 10, NewLength: 120}}},
		"a length behind":  {1, []Mutation{{Offset: 0, Length: 10, NewLength: 10}}},
		"padding backward": {1, []Mutation{{Offset: 50, NewLength: 50}}},
	} {
		s := NewSecondary(100, true)
		if err := s.Receive(c.first, c.mutations); gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Receive(1, one); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
}

func TestMutationsOutsideAChunkAreRefused(t *testing.T) {
	for _, m := range []Mutation{
		{Offset: -1, Length: 1}, {Offset: gfs.ChunkSize, Length: 1, NewLength: gfs.ChunkSize}, {Offset: 1<<63 - 1, Length: 1},
		{Length: gfs.MaxPieceBytes + 1, NewLength: gfs.ChunkSize}, {Length: -1}, {Length: 2, NewLength: 1}, {NewLength: gfs.ChunkSize + 1},
		{Dropped: make([]gfs.WriterID, gfs.MaxAppendWriters+1)},
	} {
		if err := m.Check(); gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("%+v: %v", m, err)
		}
	}
}

func TestQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue[int]
		var model []int
		for i := range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1, 2:
				q.push(i)
				model = append(model, i)
			case 3:
				if len(model) > 0 {
					if got := q.pop(); got != model[0] {
						t.Fatalf("popped %d, want %d", got, model[0])
					}
					model = model[1:]
				}
			case 4:
				even := func(e int) bool { return e%2 == 0 }
				q.filter(even)
				model = slices.DeleteFunc(slices.Clone(model), func(e int) bool { return !even(e) })
			}
			if !slices.Equal(q.all(), model) || q.len() != len(model) {
				t.Fatalf("queue %v, want %v", q.all(), model)
			}
		}
	})
}
