package chaos

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

// Kind is a kind of operation.
type Kind string

// The kinds of operations.
const (
	appendOne   Kind = "append"          // of a record, acknowledged before the next
	appendAhead Kind = "append ahead"    // one of many under way
	streamSync  Kind = "stream and sync" // sequential writes, and then Sync
	writeAt     Kind = "write at offset"
	tail        Kind = "tail"        // from a record's acknowledgement until it is handed out
	readRandom  Kind = "read random" // of what was acknowledged
	readInOrder Kind = "read in order"
)

// unknown is the chunk of an operation that learns it in the end.
const unknown = -1

// operation is one call of a client.
type operation struct {
	kind   Kind
	file   string
	index  int64             // of the chunk, or unknown
	reader *clientlib.Client // of a read
	began  time.Time
	struck []*blow
}

// operations keeps account of what clients have under way. It is safe for concurrent use.
type operations struct {
	begin time.Time
	slow  time.Duration // what takes longer is remembered

	mu      sync.Mutex
	flying  map[*operation]struct{}
	done    map[Kind]int
	longest map[Kind]time.Duration
	stalls  []*stall
	blows   []*blow
}

func newOperations(slow time.Duration) *operations {
	return &operations{begin: time.Now(), slow: slow, flying: map[*operation]struct{}{}, done: map[Kind]int{}, longest: map[Kind]time.Duration{}}
}

// stall is operations of one kind on one chunk that took long, one or many at a time.
type stall struct {
	kind        Kind
	file        string
	index       int64
	from, until time.Duration // of the run
	longest     time.Duration
	count       int
}

// start begins an operation on the chunk at index.
func (o *operations) start(kind Kind, file string, index int64) *operation {
	return o.read(nil, kind, file, index)
}

// read is start of a read by a client.
func (o *operations) read(reader *clientlib.Client, kind Kind, file string, index int64) *operation {
	op := &operation{kind: kind, file: file, index: index, reader: reader, began: time.Now()}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flying[op] = struct{}{}
	return op
}

// end ends an operation that turned out to be on the chunk at index.
func (o *operations) end(op *operation, index int64) { o.endAfter(op, index, time.Since(op.began)) }

// endAfter is end of an operation whose stall was not all of its time.
func (o *operations) endAfter(op *operation, index int64, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.flying, op)
	o.done[op.kind]++
	o.longest[op.kind] = max(o.longest[op.kind], took)
	for _, b := range op.struck {
		if b.scene == nil { // the master is still being asked
			b.early = append(b.early, ended{op, index})
		} else {
			b.hit(op, index)
		}
	}
	if took >= o.slow {
		o.note(stall{kind: op.kind, file: op.file, index: index, until: time.Since(o.begin), longest: took, count: 1})
	}
}

// note keeps a stall, joined to those of the same time.
func (o *operations) note(s stall) {
	s.from = s.until - s.longest
	for _, other := range o.stalls {
		if other.kind == s.kind && other.file == s.file && other.index == s.index && s.from < other.until {
			other.from, other.until = min(other.from, s.from), max(other.until, s.until)
			other.longest = max(other.longest, s.longest)
			other.count++
			return
		}
	}
	o.stalls = append(o.stalls, &s)
}

// readers is the clients that read something now.
func (o *operations) readers() map[*clientlib.Client]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	readers := map[*clientlib.Client]bool{}
	for op := range o.flying {
		if op.reader != nil {
			readers[op.reader] = true
		}
	}
	return readers
}

// strike notes that a fault is about to strike, with what is under way.
func (o *operations) strike(b *blow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b.at, b.over = time.Since(o.begin), math.MaxInt64
	o.blows = append(o.blows, b)
	for op := range o.flying {
		op.struck = append(op.struck, b)
	}
}

// seen notes what a fault struck, as far as was seen.
func (o *operations) seen(b *blow, now scene) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b.scene = now
	if now == nil {
		b.scene = scene{}
	}
	for _, e := range b.early {
		b.hit(e.op, e.index)
	}
	b.early = nil
	b.idle()
}

// takenBack notes that a fault was taken back.
func (o *operations) takenBack(b *blow) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	b.over = time.Since(o.begin)
	return b.over
}

// blow is one fault that struck, and whom.
type blow struct {
	fault  Fault
	target string       // its name
	server gfs.ServerID // the same
	at     time.Duration
	over   time.Duration // when it was taken back
	scene  scene         // nil until it was seen
	early  []ended
	source map[source]gfs.ServerID
	hits   map[string]map[Phase]bool // role → phases, of operations that were under way
}

// ended is an operation that is over, on the chunk at index.
type ended struct {
	op    *operation
	index int64
}

// hit notes that an operation was under way on the chunk at index.
func (b *blow) hit(op *operation, index int64) {
	at, known := b.scene[place{op.file, index}]
	if !known { // on a chunk that was not there yet
		return
	}
	if op.reader != nil {
		if b.source[source{op.reader, at.handle}] == b.server {
			b.note("reader's server", at.phase)
		}
		return
	}
	if role := at.role(b.server); role != "" {
		b.note(role, at.phase)
	}
}

func (b *blow) note(role string, phase Phase) {
	if b.hits[role] == nil {
		b.hits[role] = map[Phase]bool{}
	}
	b.hits[role][phase] = true
}

// idle notes the roles that the server had for chunks on which nothing was under way.
func (b *blow) idle() {
	for _, at := range b.scene {
		if role := at.role(b.server); role != "" && at.phase == Idle {
			b.note(role, Idle)
		}
	}
}

// table is how many faults struck, by role and phase.
func (o *operations) table() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	counts := map[string]map[Phase]int{}
	for _, b := range o.blows {
		for role, phases := range b.hits {
			if counts[role] == nil {
				counts[role] = map[Phase]int{}
			}
			for phase := range phases {
				counts[role][phase]++
			}
		}
	}
	phases := []Phase{Idle, Pending, Reconfiguring, Closing, Joining}
	var text strings.Builder
	fmt.Fprintf(&text, "%-26s", "faults that struck")
	for _, phase := range phases {
		fmt.Fprintf(&text, "%18s", phase)
	}
	for _, role := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&text, "\n%-26s", role)
		for _, phase := range phases {
			fmt.Fprintf(&text, "%18d", counts[role][phase])
		}
	}
	return text.String()
}

// longestStalls is the longest time of each kind of operation.
func (o *operations) longestStalls() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var text strings.Builder
	text.WriteString("longest stalls")
	for _, kind := range slices.Sorted(maps.Keys(o.longest)) {
		fmt.Fprintf(&text, "\n%-16s %9s of %d", kind, o.longest[kind].Round(time.Millisecond), o.done[kind])
	}
	for _, s := range o.stalls {
		fmt.Fprintf(&text, "\n%9.3f to %9.3f: %s, chunk %d of %s, %d times, %s", s.from.Seconds(), s.until.Seconds(), s.kind, s.index, s.file, s.count, s.longest.Round(time.Millisecond))
		for _, b := range o.blows {
			if b.at < s.until && s.from < b.over {
				fmt.Fprintf(&text, "; %s of %s", b.fault, b.target)
			}
		}
	}
	return text.String()
}

// worst is the longest of all stalls.
func (o *operations) worst() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	worst := time.Duration(0)
	for _, took := range o.longest {
		worst = max(worst, took)
	}
	return worst
}
