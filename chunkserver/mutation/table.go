package mutation

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"maps"
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Entry is one record append that a chunk remembers: who sent it and where its bytes went. Offset and Length
// are in bytes within the chunk.
type Entry struct {
	Writer   gfs.WriterID
	Sequence uint64
	Offset   uint32
	Length   uint32
}

// Append is an Entry together with what its request said of the writer: Lowest is the lowest sequence number
// for which that writer still waits, so that nothing below it needs to be remembered.
type Append struct {
	Entry
	Lowest uint64
}

// Outcome says what a Table knows of a writer's sequence number.
type Outcome uint8

// The outcomes. Unknown means that the append was never seen: go ahead. Known means that it was applied, the
// Entry says where. Forgotten means that it lies below what is remembered of its writer: it may have been applied
// or not, and the writer must be told gfs.ErrOutcomeUnknown.
const (
	Unknown Outcome = iota
	Known
	Forgotten
)

// slot is an Entry without its writer.
type slot struct {
	sequence uint64
	offset   uint32
	length   uint32
}

// writer is what is remembered of one writer: no sequence below floor, and the slots at or above it in rising
// order of their sequences.
type writer struct {
	floor uint64
	slots []slot
}

// Table is the append table of a chunk: for each writer its latest appends, so that a retry gets the offset of
// the first try. It is part of a replica's state: every member applies the same Adds and DropWriters in serial
// order and so holds an equal table. The zero value is an empty table.
//
// A table holds at most gfs.MaxAppendWriters writers with gfs.AppendWindow appends each, about 1 MiB. Lookup costs
// a map access and a binary search; Add the same and, when something leaves the window, a move of at most 1 KiB.
// Neither allocates once a writer's window has grown to what the writer keeps in flight. Entries, Digest and
// AppendBinary sort the writers: O(n log n) in their number.
//
// A Table is not safe for concurrent use.
// Source: our decision (GFS 3.3 leaves duplicates to the reader); QFS keeps such a table too
type Table struct {
	writers map[gfs.WriterID]*writer
}

// Len is the number of writers in the table.
func (t *Table) Len() int { return len(t.writers) }

// Full reports whether the table has no room for another writer: the primary then pads the chunk, and the next
// one begins with an empty table.
func (t *Table) Full() bool { return len(t.writers) >= gfs.MaxAppendWriters }

// Has reports whether the table remembers anything of a writer.
func (t *Table) Has(id gfs.WriterID) bool { return t.writers[id] != nil }

// Lookup says what became of a writer's append. The Entry is set only with Known. Writer zero is never known.
func (t *Table) Lookup(id gfs.WriterID, sequence uint64) (Entry, Outcome) {
	w := t.writers[id]
	if w == nil {
		return Entry{}, Unknown
	}
	if sequence < w.floor {
		return Entry{}, Forgotten
	}
	at, found := w.find(sequence)
	if !found {
		return Entry{}, Unknown
	}
	s := w.slots[at]
	return Entry{Writer: id, Sequence: sequence, Offset: s.offset, Length: s.length}, Known
}

// Add remembers an append and forgets what its writer has below lowestUnacknowledged, as well as the lowest
// sequence when the writer's window is full. An append that is itself below what is remembered is not added, and
// one that is known is replaced. Writer zero is not remembered. Add reports false, and changes nothing, when the
// writer is new and the table is Full.
func (t *Table) Add(e Entry, lowestUnacknowledged uint64) bool {
	if e.Writer == 0 {
		return true
	}
	w := t.writers[e.Writer]
	if w == nil {
		if t.Full() {
			return false
		}
		if t.writers == nil {
			t.writers = make(map[gfs.WriterID]*writer)
		}
		w = &writer{}
		t.writers[e.Writer] = w
	}
	w.raise(lowestUnacknowledged)
	w.add(slot{sequence: e.Sequence, offset: e.Offset, length: e.Length})
	return true
}

// DropWriter forgets a writer altogether. Only the primary decides this, for a writer that was silent for
// gfs.AppendMemory, and the decision travels with a mutation to all members.
func (t *Table) DropWriter(id gfs.WriterID) { delete(t.writers, id) }

// Cut forgets the appends that do not lie below a length in bytes: they were lost with what the chunk held there. That
// leaves their writers free to try them again.
func (t *Table) Cut(length int64) {
	for _, w := range t.writers {
		w.slots = slices.DeleteFunc(w.slots, func(s slot) bool { return int64(s.offset)+int64(s.length) > length })
	}
}

// Below is a copy of the table for a chunk that is cut at a length in bytes; see Cut.
func (t *Table) Below(length int64) *Table {
	c := t.Clone()
	c.Cut(length)
	return c
}

// Entries yields all that is remembered, by rising writer and sequence: equal tables yield equal sequences.
func (t *Table) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for _, id := range t.sorted() {
			for _, s := range t.writers[id].slots {
				if !yield(Entry{Writer: id, Sequence: s.sequence, Offset: s.offset, Length: s.length}) {
					return
				}
			}
		}
	}
}

// Digest is a SHA-256 over AppendBinary's form: equal exactly for tables that answer every Lookup alike.
func (t *Table) Digest() [sha256.Size]byte { return sha256.Sum256(t.AppendBinary(nil)) }

// Equal reports whether two tables remember the same and have forgotten the same.
func (t *Table) Equal(other *Table) bool {
	return maps.EqualFunc(t.writers, other.writers, func(a, b *writer) bool {
		return a.floor == b.floor && slices.Equal(a.slots, b.slots)
	})
}

// Clone is a copy that shares nothing with t.
func (t *Table) Clone() *Table {
	c := &Table{writers: make(map[gfs.WriterID]*writer, len(t.writers))}
	for id, w := range t.writers {
		c.writers[id] = &writer{floor: w.floor, slots: slices.Clone(w.slots)}
	}
	return c
}

func (t *Table) sorted() []gfs.WriterID { return slices.Sorted(maps.Keys(t.writers)) }

// find is where a sequence is among the slots, or where it would be inserted. The end is looked at first: most
// appends arrive in rising order.
func (w *writer) find(sequence uint64) (int, bool) {
	n := len(w.slots)
	if n == 0 || w.slots[n-1].sequence < sequence {
		return n, false
	}
	return slices.BinarySearchFunc(w.slots, sequence, func(s slot, want uint64) int {
		switch {
		case s.sequence < want:
			return -1
		case s.sequence > want:
			return 1
		}
		return 0
	})
}

// raise forgets what lies below a new floor.
func (w *writer) raise(floor uint64) {
	if floor <= w.floor {
		return
	}
	w.floor = floor
	keep, _ := w.find(floor)
	w.slots = slices.Delete(w.slots, 0, keep)
}

func (w *writer) add(s slot) {
	if s.sequence < w.floor {
		return
	}
	at, found := w.find(s.sequence)
	if found {
		w.slots[at] = s
		return
	}
	if len(w.slots) == gfs.AppendWindow {
		// The lowest of the window and the newcomer is what has to go.
		if at == 0 {
			w.floor = s.sequence + 1
			return
		}
		w.floor = w.slots[0].sequence + 1
		copy(w.slots, w.slots[1:at])
		w.slots[at-1] = s
		return
	}
	w.slots = slices.Insert(w.slots, at, s)
}

// The binary form: the number of writers, then for each by rising id: id, floor, number of slots, slots by rising
// sequence. All little endian.
const (
	tableHeaderBytes  = 4
	writerHeaderBytes = 8 + 8 + 4
	slotBytes         = 8 + 4 + 4
)

// MaxTableBytes is the longest form that AppendBinary writes.
const MaxTableBytes = tableHeaderBytes + gfs.MaxAppendWriters*(writerHeaderBytes+gfs.AppendWindow*slotBytes)

// AppendBinary appends the table's canonical form to b and returns the longer slice. ParseTable reads it.
func (t *Table) AppendBinary(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.writers)))
	for _, id := range t.sorted() {
		w := t.writers[id]
		b = binary.LittleEndian.AppendUint64(b, uint64(id))
		b = binary.LittleEndian.AppendUint64(b, w.floor)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(w.slots)))
		for _, s := range w.slots {
			b = binary.LittleEndian.AppendUint64(b, s.sequence)
			b = binary.LittleEndian.AppendUint32(b, s.offset)
			b = binary.LittleEndian.AppendUint32(b, s.length)
		}
	}
	return b
}

// ParseTable reads what AppendBinary wrote, from bytes that nobody vouches for: only a table's canonical form is
// accepted, anything else is gfs.CodeInvalid. It keeps nothing of b.
func ParseTable(b []byte) (*Table, error) {
	bad := func(what string) (*Table, error) {
		return nil, gfs.Errorf(gfs.CodeInvalid, "append table of %d bytes: %s", len(b), what)
	}
	if len(b) < tableHeaderBytes {
		return bad("too short")
	}
	count, rest := binary.LittleEndian.Uint32(b), b[tableHeaderBytes:]
	if count > gfs.MaxAppendWriters {
		return bad("more writers than a table may have")
	}
	t := &Table{writers: make(map[gfs.WriterID]*writer, count)}
	last := gfs.WriterID(0)
	for range count {
		if len(rest) < writerHeaderBytes {
			return bad("cut within a writer")
		}
		id := gfs.WriterID(binary.LittleEndian.Uint64(rest))
		w := &writer{floor: binary.LittleEndian.Uint64(rest[8:])}
		n := binary.LittleEndian.Uint32(rest[16:])
		rest = rest[writerHeaderBytes:]
		if id <= last {
			return bad("writers not in rising order from 1")
		}
		if n > gfs.AppendWindow || uint64(len(rest)) < uint64(n)*slotBytes {
			return bad("cut within a writer's appends, or more than the window")
		}
		w.slots = make([]slot, n)
		lowest := w.floor
		for i := range w.slots {
			s := slot{
				sequence: binary.LittleEndian.Uint64(rest),
				offset:   binary.LittleEndian.Uint32(rest[8:]),
				length:   binary.LittleEndian.Uint32(rest[12:]),
			}
			if s.sequence < lowest || i > 0 && s.sequence == w.slots[i-1].sequence {
				return bad("sequences not in rising order from the writer's floor")
			}
			w.slots[i], lowest, rest = s, s.sequence, rest[slotBytes:]
		}
		t.writers[id], last = w, id
	}
	if len(rest) != 0 {
		return bad("bytes after the last writer")
	}
	return t, nil
}
