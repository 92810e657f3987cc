package clientlib

import (
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// mutationState is how far a mutation of a window has come.
type mutationState uint8

const (
	waiting  mutationState = iota // to be sent (again)
	pushing                       // its data are on their way to the chunk's replicas, ahead of it
	pushed                        // they are there
	inFlight                      // sent over the present connection, not answered
	acked                         // committed; kept until all ahead of it are
	refused                       // an append that the present chunk had no room for
)

// mutation is one piece of a write or one record append, from the call that makes it until it is decided.
type mutation struct {
	offset   int64   // of a write, within the chunk
	sequence uint64  // of an append
	bytes    int64   // of data
	call     uint64  // the id of the call that made it
	data     *buffer // released by whoever takes the mutation out of the window
	sums     []uint32
	cost     int  // of the File's room
	queued   bool // nobody waits for it: its failure is the File's

	state mutationState
	sent  bool // to the present chunk, over whichever connection: that chunk alone can say what became of it
	ever  bool // to any chunk
	open  bool // a piece that may still grow: it is held back while something is in flight

	ordered   bool      // its data go with it: they cannot be pushed
	reference bool      // it was taken to be sent without its data, which were pushed
	counter   uint64    // of that push; only the driving goroutine uses it
	begun     time.Time // when it was pushed; likewise

	done   chan struct{} // closed when result and err are set
	result int64         // an append's offset in the file
	err    error
}

// settle tells whoever waits what became of the mutation.
func (m *mutation) settle(result int64, err error) {
	m.result, m.err = result, err
	close(m.done)
}

// window is the unacknowledged mutations of one stream, in the order of the calls. It is pure, and not safe for
// concurrent use.
//
// Mutations are sent in order. After a fault rewind makes everything undecided leave again, in the same order.
// Writes are dropped from the front only: an acknowledged write behind an unacknowledged one is sent again after it,
// so that bytes written twice end as the later call wanted. Appends are decided one by one, but all that were sent
// to a chunk are decided there before one that it had no room for goes on to the next chunk. Appends that seem to have
// no room in the chunk are held back while others are in flight: the first of them asks for all, and those behind it
// are not sent twice. Where others append too, a producer can place in a chunk about what it placed in the one before:
// beyond that share it sends only a part of the room that is left, since what arrives behind the last that fits has been
// sent for nothing.
//
// In a decoupled window the data of a mutation of at least gfs.SmallMutationBytes are pushed ahead of it, those of many at a
// time. It is sent when they have arrived and all before it were sent: pushes overtake each other, mutations do not.
type window struct {
	appends bool
	entries []*mutation
	next    int   // entries[:next] were looked at by take since the last rewind
	flying  int   // entries in flight
	aloft   int64 // their bytes
	filled  int64 // what is known to be filled of the present chunk, in bytes; appends only
	claimed int64 // how far what has arrived at the primary will fill it, at least, as far as was heard
	placed  int64 // of it, by this window
	share   int64 // what this window may place in it without a look at the room; 0: as much as it likes
	full    bool

	decoupled bool
	ahead     int   // entries[:ahead] were looked at by takeAhead since the last rewind
	underway  int   // entries that are pushing
	ready     int   // entries that are pushed
	early     int64 // the bytes of both
}

const (
	// leastShare is what a producer that found no room at all may send to the next chunk at first.
	leastShare = 1 << 20
	// partOfRoom is the part of a chunk's room that may be in flight beyond a producer's share.
	partOfRoom = 8
)

// push adds a mutation behind all others.
func (w *window) push(m *mutation) { w.entries = append(w.entries, m) }

// empty reports whether everything is decided.
func (w *window) empty() bool { return len(w.entries) == 0 }

// lowest is the sequence number of the first undecided append, or otherwise if there is none.
func (w *window) lowest(otherwise uint64) uint64 {
	for _, m := range w.entries {
		if m.state != acked {
			return m.sequence
		}
	}
	return otherwise
}

// tail is the last mutation if more bytes may join it, else nil.
func (w *window) tail() *mutation {
	if n := len(w.entries); n > 0 && w.entries[n-1].open && w.entries[n-1].state == waiting && !w.entries[n-1].sent {
		return w.entries[n-1]
	}
	return nil
}

// seal lets an open piece leave: nothing more joins it.
func (w *window) seal() {
	if n := len(w.entries); n > 0 {
		w.entries[n-1].open = false
	}
}

// take gives the next mutation to send and marks it in flight; nil if nothing may leave now.
func (w *window) take() *mutation {
	for ; w.next < len(w.entries); w.next++ {
		m := w.entries[w.next]
		if m.state == pushing {
			return nil
		}
		if m.state != waiting && m.state != pushed || w.full && !m.sent {
			continue
		}
		if m.open && w.flying > 0 {
			return nil
		}
		if w.appends && !m.sent && w.flying > 0 && !w.hasRoom(m.bytes) {
			return nil
		}
		if w.tooFar(m) {
			return nil
		}
		w.next++
		m.reference = m.state == pushed
		w.recall(m)
		m.state, m.sent, m.ever, m.open = inFlight, true, true, false
		w.flying++
		w.aloft += m.bytes
		return m
	}
	return nil
}

// hasRoom reports whether the chunk seems to have room for bytes more beside what is in flight.
func (w *window) hasRoom(bytes int64) bool {
	if max(w.filled+w.aloft, w.claimed)+bytes > gfs.ChunkSize {
		return false
	}
	if w.share == 0 || w.placed+w.aloft+bytes <= w.share {
		return true
	}
	return w.claimed > 0 && w.aloft+bytes <= (gfs.ChunkSize-w.claimed)/partOfRoom
}

// takeAhead gives the next mutation whose data are to be pushed and marks it; nil if none may leave now. It is asked before
// take, which else would send them with the mutation.
func (w *window) takeAhead() *mutation {
	if !w.decoupled {
		return nil
	}
	for w.ahead = max(w.ahead, w.next); w.ahead < len(w.entries); w.ahead++ {
		m := w.entries[w.ahead]
		if m.state != waiting || m.ordered || w.full && !m.sent {
			continue
		}
		busy := w.flying+w.underway+w.ready > 0
		if m.open && busy {
			return nil
		}
		if m.bytes < gfs.SmallMutationBytes {
			continue
		}
		if w.appends && !m.sent && busy && !w.hasRoom(w.early+m.bytes) || w.tooFar(m) {
			return nil
		}
		w.ahead++
		m.state, m.open = pushing, false
		w.underway++
		w.early += m.bytes
		return m
	}
	return nil
}

// tooFar reports whether an append has to wait for the first: replicas remember a writer's last appends only, and one too
// far ahead would push out the first.
func (w *window) tooFar(m *mutation) bool {
	return w.appends && m.sequence-w.entries[0].sequence >= gfs.AppendWindow
}

// arrived notes that the data of a mutation are at every replica.
func (w *window) arrived(m *mutation) {
	if m.state == pushing {
		m.state = pushed
		w.underway--
		w.ready++
	}
}

// couple makes the data of a mutation that is pushing go with it.
func (w *window) couple(m *mutation) {
	if m.state == pushing {
		w.recall(m)
		m.ordered = true
	}
}

// coupleAll pushes nothing any more, and makes what is pushing go in order.
func (w *window) coupleAll() {
	w.decoupled = false
	for _, m := range w.entries {
		w.couple(m)
	}
}

// recall makes a mutation wait as if its data had not been pushed.
func (w *window) recall(m *mutation) {
	switch m.state {
	case pushing:
		w.underway--
	case pushed:
		w.ready--
	default:
		return
	}
	w.early -= m.bytes
	m.state = waiting
}

// fill notes that the chunk is full: what was pushed for it and not sent is of no use.
func (w *window) fill() {
	w.full = true
	for _, m := range w.entries {
		if !m.sent {
			w.recall(m)
		}
	}
}

// acknowledge marks a mutation in flight as committed up to end in the chunk, which what has arrived there will fill up to
// claimed, and gives back those that are thereby decided and gone.
func (w *window) acknowledge(m *mutation, end, claimed int64) (gone []*mutation) {
	w.land(m, acked)
	if w.appends {
		w.filled, w.claimed = max(w.filled, end), max(w.claimed, claimed)
		w.placed += m.bytes
		if !w.full && w.filled >= gfs.ChunkSize {
			w.fill()
		}
	}
	return w.dropFront()
}

// refuse marks an append in flight as one that the chunk had no room for.
func (w *window) refuse(m *mutation) {
	w.land(m, refused)
	if !w.full {
		w.fill()
	}
}

// remove takes a mutation out, in whatever state, and gives back those that are thereby gone, but for itself.
func (w *window) remove(m *mutation) (gone []*mutation) {
	for i, entry := range w.entries {
		if entry != m {
			continue
		}
		w.recall(m)
		w.land(m, m.state)
		w.entries = append(w.entries[:i:i], w.entries[i+1:]...)
		if w.next > i {
			w.next--
		}
		if w.ahead > i {
			w.ahead--
		}
		break
	}
	return w.dropFront()
}

// rewind makes everything undecided leave again, after the connection to the chunk was lost.
func (w *window) rewind() {
	for _, m := range w.entries {
		w.recall(m)
		m.ordered = false
		if m.state == inFlight || m.state == acked && !w.appends {
			m.state = waiting
		}
	}
	w.next, w.ahead, w.flying, w.aloft = 0, 0, 0, 0
}

// exhausted reports whether the chunk is full and has decided every append that was sent to it.
func (w *window) exhausted() bool {
	if !w.full || w.flying > 0 {
		return false
	}
	for _, m := range w.entries {
		if m.sent && (m.state == waiting || m.state == pushing || m.state == pushed) {
			return false
		}
	}
	return true
}

// advance goes on to the next chunk with everything that the last had no room for; only when exhausted.
func (w *window) advance() {
	for _, m := range w.entries {
		if m.state == refused {
			m.state = waiting
		}
		m.sent, m.ordered = false, false
	}
	w.next, w.ahead = 0, 0
	// A little more than before, so that a producer whose company has gone soon has a chunk for itself.
	w.share = max(w.placed+w.placed/8, leastShare)
	w.forget()
}

// restart makes everything undecided leave again, for whichever chunk the file has now: that which it was sent to was cut
// away with what it had decided.
func (w *window) restart() {
	w.rewind()
	for _, m := range w.entries {
		if m.state == refused {
			m.state = waiting
		}
	}
	w.forget()
}

// forget drops what is known of how far the present chunk is filled: it may be cut while nothing is under way.
func (w *window) forget() { w.filled, w.claimed, w.placed, w.full = 0, 0, 0, false }

// drain empties the window and gives back what was in it.
func (w *window) drain() []*mutation {
	all := w.entries
	*w = window{appends: w.appends, share: w.share, decoupled: w.decoupled}
	return all
}

// land takes a mutation out of the air, if it is there.
func (w *window) land(m *mutation, state mutationState) {
	if m.state == inFlight {
		w.flying--
		w.aloft -= m.bytes
	}
	m.state = state
}

// dropFront takes acknowledged mutations off the front.
func (w *window) dropFront() (gone []*mutation) {
	n := 0
	for n < len(w.entries) && w.entries[n].state == acked {
		n++
	}
	gone = w.entries[:n:n]
	w.entries = w.entries[n:]
	w.next, w.ahead = max(w.next-n, 0), max(w.ahead-n, 0)
	return gone
}
