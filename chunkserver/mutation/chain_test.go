package mutation

import (
	"errors"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
)

// world is a primary with two secondaries in a chain, and a model of what clients may see. Messages between them are
// queues; the test draws which moves next.
type world struct {
	t       *rapid.T
	primary *Primary[int]
	members [2]Secondary
	content [3]map[int64]int // what each member has applied: offset to request, -1 for padding
	lengths [3]int64

	toApply  [3][]Batch[int] // in the pipelines, the primary's and the secondaries'
	toSend   [2][]Batch[int] // down the streams
	acks     [2][]gfs.Serial // up the streams, from member i to the one above
	requests []Request
	answered map[int]Reply[int]
	handed   map[int]bool
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, answered: make(map[int]Reply[int]), handed: make(map[int]bool)}
	for i := range w.content {
		w.content[i] = make(map[int64]int)
	}
	length := rapid.SampledFrom([]int64{0, 1000, gfs.ChunkSize - 4<<20, gfs.ChunkSize - 100}).Draw(t, "length")
	w.primary = NewPrimary[int](start, length, new(Table), false)
	w.lengths = [3]int64{length, length, length}
	w.members = [2]Secondary{NewSecondary(length, false), NewSecondary(length, true)}
	return w
}

func (w *world) submit() {
	r := Request{Kind: KindAppend, Length: rapid.SampledFrom([]int{1, 10, 1000, 70_000, 900_000}).Draw(w.t, "bytes")}
	if len(w.requests) > 0 && rapid.Bool().Draw(w.t, "retry") {
		r = rapid.SampledFrom(w.requests).Draw(w.t, "of")
	} else if rapid.Bool().Draw(w.t, "known writer") {
		r.Writer = gfs.WriterID(rapid.IntRange(1, 3).Draw(w.t, "writer"))
		r.Sequence = uint64(len(w.requests) + 1)
	}
	who := len(w.requests) + 1
	w.requests = append(w.requests, r)
	if reply, outcome := w.primary.Submit(start, r, who); outcome == Answered {
		w.hear([]Reply[int]{reply})
	}
}

// hear checks replies against what every member holds.
func (w *world) hear(all []Reply[int]) {
	for _, r := range all {
		if _, twice := w.answered[r.Request]; twice {
			w.t.Fatalf("request %d was answered twice", r.Request)
		}
		w.answered[r.Request] = r
		request := w.requests[r.Request-1]
		for i, content := range w.content {
			switch {
			case errors.Is(r.Err, gfs.ErrChunkFull):
				if w.lengths[i] != gfs.ChunkSize {
					w.t.Fatalf("full was answered while member %d has length %d", i, w.lengths[i])
				}
			case r.Err == nil:
				holder, ok := content[r.Offset]
				if !ok || w.requests[holder-1].Length != request.Length || holder != r.Request && w.requests[holder-1] != request {
					w.t.Fatalf("request %d was acknowledged at %d, member %d holds %d there", r.Request, r.Offset, i, holder)
				}
				if w.lengths[i] < r.Offset+int64(request.Length) {
					w.t.Fatalf("request %d was acknowledged beyond member %d's length", r.Request, i)
				}
			default:
				if !errors.Is(r.Err, gfs.ErrBusy) && !errors.Is(r.Err, gfs.ErrOutcomeUnknown) {
					w.t.Fatalf("request %d: %v", r.Request, r.Err)
				}
			}
		}
	}
}

func (w *world) apply(member int, b Batch[int]) {
	for i, m := range b.Mutations {
		if m.Length > 0 {
			if old, taken := w.content[member][m.Offset]; taken {
				w.t.Fatalf("member %d: two mutations at %d: %d and %d", member, m.Offset, old, b.Requests[i])
			}
			w.content[member][m.Offset] = b.Requests[i]
		}
		w.lengths[member] = m.NewLength
	}
}

func take[E any](q *[]E) (E, bool) {
	var none E
	if len(*q) == 0 {
		return none, false
	}
	e := (*q)[0]
	*q = (*q)[1:]
	return e, true
}

// step lets one of the parts move, if it can.
func (w *world) step(part int) bool {
	switch part {
	case 0:
		b, ok := w.primary.Next(start)
		if ok {
			for _, who := range b.Requests {
				if who != 0 && w.handed[who] {
					w.t.Fatalf("request %d was numbered twice", who)
				}
				w.handed[who] = who != 0
			}
			w.toApply[0], w.toSend[0] = append(w.toApply[0], b), append(w.toSend[0], b)
		}
		return ok
	case 1:
		b, ok := take(&w.toApply[0])
		if ok {
			w.apply(0, b)
			w.hear(w.primary.Applied(b.Last(), nil))
		}
		return ok
	case 2, 3: // a frame arrives at member part-1
		i := part - 2
		b, ok := take(&w.toSend[i])
		if ok {
			if err := w.members[i].Receive(b.First, b.Mutations); err != nil {
				w.t.Fatal(err)
			}
			w.toApply[i+1] = append(w.toApply[i+1], b)
			if i == 0 {
				w.toSend[1] = append(w.toSend[1], b)
			}
		}
		return ok
	case 4, 5: // a member applies
		i := part - 4
		b, ok := take(&w.toApply[i+1])
		if ok {
			w.apply(i+1, b)
			w.members[i].Applied(b.Last())
			w.acknowledge(i)
		}
		return ok
	case 6: // the last member's acknowledgement reaches the one before it
		serial, ok := take(&w.acks[1])
		if ok {
			if err := w.members[0].Acked(serial); err != nil {
				w.t.Fatal(err)
			}
			w.acknowledge(0)
		}
		return ok
	default:
		serial, ok := take(&w.acks[0])
		if ok {
			got, err := w.primary.Acked(serial, nil)
			if err != nil {
				w.t.Fatal(err)
			}
			w.hear(got)
		}
		return ok
	}
}

func (w *world) acknowledge(i int) {
	if serial, ok := w.members[i].Acknowledge(); ok {
		w.acks[i] = append(w.acks[i], serial)
	}
}

// reconfigure ends the version in the middle of everything and begins another with the same members, made equal.
func (w *world) reconfigure() {
	w.primary.Freeze()
	for !w.primary.Drained() {
		w.step(1)
	}
	for i := range w.members {
		w.content[i+1], w.lengths[i+1] = maps.Clone(w.content[0]), w.lengths[0]
		w.members[i] = NewSecondary(w.lengths[0], i == 1)
	}
	w.toApply, w.toSend, w.acks = [3][]Batch[int]{}, [2][]Batch[int]{}, [2][]gfs.Serial{}
	w.hear(w.primary.Reopen(false, nil))
}

func TestChainAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch part := rapid.IntRange(-3, 8).Draw(t, "part"); {
			case part < 0:
				w.submit()
			case part == 8:
				if rapid.IntRange(0, 4).Draw(t, "really") == 0 {
					w.reconfigure()
				}
			default:
				w.step(part)
			}
		}
		for moved := true; moved; {
			moved = false
			for part := range 8 {
				moved = w.step(part) || moved
			}
		}
		if len(w.answered) != len(w.requests) {
			t.Fatalf("%d of %d requests were answered", len(w.answered), len(w.requests))
		}
		for i := 1; i < 3; i++ {
			if !maps.Equal(w.content[0], w.content[i]) || w.lengths[0] != w.lengths[i] {
				t.Fatalf("member %d differs from the primary", i)
			}
		}
		if !w.primary.Quiet() || w.primary.Pending() != 0 || w.primary.Commit() != w.lengths[0] {
			t.Fatalf("something is left: %d pending, committed %d of %d", w.primary.Pending(), w.primary.Commit(), w.lengths[0])
		}
	})
}
