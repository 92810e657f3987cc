package mutation

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
)

// modelWriter is the plainest thing that behaves as a Table has to for one writer.
type modelWriter struct {
	floor uint64
	known map[uint64]Entry
}

func (m *modelWriter) lookup(sequence uint64) (Entry, Outcome) {
	if m == nil {
		return Entry{}, Unknown
	}
	if sequence < m.floor {
		return Entry{}, Forgotten
	}
	if e, ok := m.known[sequence]; ok {
		return e, Known
	}
	return Entry{}, Unknown
}

func (m *modelWriter) forgetBelow(floor uint64) {
	m.floor = max(m.floor, floor)
	for sequence := range m.known {
		if sequence < m.floor {
			delete(m.known, sequence)
		}
	}
}

func (m *modelWriter) add(e Entry, lowest uint64) {
	m.forgetBelow(lowest)
	if e.Sequence < m.floor {
		return
	}
	m.known[e.Sequence] = e
	if len(m.known) > gfs.AppendWindow {
		least := e.Sequence
		for sequence := range m.known {
			least = min(least, sequence)
		}
		m.forgetBelow(least + 1)
	}
}

// tableMachine drives a Table and the model side by side.
type tableMachine struct {
	table *Table
	model map[gfs.WriterID]*modelWriter
}

// writers and sequences are few, so that they meet often.
var (
	someWriter   = rapid.Map(rapid.IntRange(0, 5), func(n int) gfs.WriterID { return gfs.WriterID(n) })
	someSequence = rapid.Uint64Range(0, 200)
)

func (m *tableMachine) Add(t *rapid.T) {
	e := Entry{
		Writer: someWriter.Draw(t, "writer"), Sequence: someSequence.Draw(t, "sequence"),
		Offset: rapid.Uint32().Draw(t, "offset"), Length: rapid.Uint32().Draw(t, "length"),
	}
	lowest := rapid.Uint64Range(0, e.Sequence+2).Draw(t, "lowest")
	if !m.table.Add(e, lowest) {
		t.Fatal("no room for six writers")
	}
	if e.Writer == 0 {
		return
	}
	if m.model[e.Writer] == nil {
		m.model[e.Writer] = &modelWriter{known: make(map[uint64]Entry)}
	}
	m.model[e.Writer].add(e, lowest)
}

// Burst fills a window, which single draws seldom do.
func (m *tableMachine) Burst(t *rapid.T) {
	id, from := someWriter.Draw(t, "writer"), someSequence.Draw(t, "from")
	if id == 0 {
		id = 1
	}
	if m.model[id] == nil {
		m.model[id] = &modelWriter{known: make(map[uint64]Entry)}
	}
	for i := range uint64(rapid.IntRange(1, 100).Draw(t, "count")) {
		e := Entry{Writer: id, Sequence: from + i, Offset: uint32(i), Length: 1}
		m.table.Add(e, 0)
		m.model[id].add(e, 0)
	}
}

func (m *tableMachine) Drop(t *rapid.T) {
	id := someWriter.Draw(t, "writer")
	m.table.DropWriter(id)
	delete(m.model, id)
}

// Reload goes through the binary form.
func (m *tableMachine) Reload(t *rapid.T) {
	b := m.table.AppendBinary(nil)
	again, err := ParseTable(b)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Equal(m.table) || again.Digest() != m.table.Digest() || len(b) > MaxTableBytes {
		t.Fatal("the binary form lost something")
	}
	m.table = again
}

// Clone goes on with a copy and spoils the original.
func (m *tableMachine) Clone(t *rapid.T) {
	original := m.table
	m.table = original.Clone()
	for id := range gfs.WriterID(6) {
		original.Add(Entry{Writer: id, Sequence: 1000}, 1000)
	}
}

func (m *tableMachine) Check(t *rapid.T) {
	if m.table.Len() != len(m.model) {
		t.Fatalf("%d writers, want %d", m.table.Len(), len(m.model))
	}
	var want []Entry
	for id := range gfs.WriterID(6) {
		w := m.model[id]
		if m.table.Has(id) != (w != nil) {
			t.Fatalf("writer %d: Has is %t", id, m.table.Has(id))
		}
		for sequence := range uint64(310) {
			e, outcome := m.table.Lookup(id, sequence)
			wantEntry, wantOutcome := w.lookup(sequence)
			if e != wantEntry || outcome != wantOutcome {
				t.Fatalf("writer %d sequence %d: %v %d, want %v %d", id, sequence, e, outcome, wantEntry, wantOutcome)
			}
			if outcome == Known {
				want = append(want, e)
			}
		}
	}
	if got := slices.Collect(m.table.Entries()); !slices.Equal(got, want) {
		t.Fatalf("entries %v, want %v", got, want)
	}
}

func TestTableAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &tableMachine{table: &Table{}, model: make(map[gfs.WriterID]*modelWriter)}
		t.Repeat(rapid.StateMachineActions(m))
	})
}

func TestTableFull(t *testing.T) {
	table := &Table{}
	for id := gfs.WriterID(1); id <= gfs.MaxAppendWriters; id++ {
		if table.Full() || !table.Add(Entry{Writer: id, Sequence: 1}, 0) {
			t.Fatalf("no room for writer %d", id)
		}
	}
	before := table.Digest()
	if !table.Full() || table.Add(Entry{Writer: gfs.MaxAppendWriters + 1, Sequence: 1}, 0) {
		t.Fatal("room for one writer too many")
	}
	if table.Digest() != before {
		t.Fatal("a refused writer changed the table")
	}
	if !table.Add(Entry{Writer: 5, Sequence: 2}, 0) {
		t.Fatal("a known writer was refused")
	}
	table.DropWriter(1)
	if table.Full() || !table.Add(Entry{Writer: gfs.MaxAppendWriters + 1, Sequence: 1}, 0) {
		t.Fatal("no room after a writer was dropped")
	}
}

// Equal state has to come of equal histories whatever the map's order; the digest is what replicas compare.
func TestTableDigestTellsFloors(t *testing.T) {
	a, b := &Table{}, &Table{}
	a.Add(Entry{Writer: 1, Sequence: 9}, 3)
	b.Add(Entry{Writer: 1, Sequence: 9}, 4)
	if a.Equal(b) || a.Digest() == b.Digest() {
		t.Fatal("tables that answer differently for sequence 3 count as equal")
	}
}

func TestTableAddDoesNotAllocate(t *testing.T) {
	table := &Table{}
	sequence := uint64(0)
	add := func() {
		sequence++
		for id := gfs.WriterID(1); id <= 16; id++ {
			table.Add(Entry{Writer: id, Sequence: sequence, Length: 1024}, sequence-min(sequence, 32))
		}
	}
	for range 100 {
		add()
	}
	if n := testing.AllocsPerRun(1000, add); n != 0 {
		t.Fatalf("%v allocations for 16 appends", n)
	}
}

func FuzzParseTable(f *testing.F) {
	table := &Table{}
	f.Add(table.AppendBinary(nil))
	table.Add(Entry{Writer: 3, Sequence: 7, Offset: 5, Length: 9}, 2)
	table.Add(Entry{Writer: 4, Sequence: 8}, 0)
	f.Add(table.AppendBinary(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := ParseTable(b)
		if err == nil && !slices.Equal(table.AppendBinary(nil), b) {
			t.Fatal("accepted a form that is not the canonical one")
		}
	})
}

func BenchmarkTableAdd(b *testing.B) {
	table := &Table{}
	b.ReportAllocs()
	for i := range b.N {
		sequence := uint64(i/16) + 1
		table.Add(Entry{Writer: gfs.WriterID(i%16 + 1), Sequence: sequence}, sequence-min(sequence, 63))
	}
}

func BenchmarkTableLookup(b *testing.B) {
	table := &Table{}
	for i := range 16 * 64 {
		table.Add(Entry{Writer: gfs.WriterID(i%16 + 1), Sequence: uint64(i/16) + 1}, 0)
	}
	b.ReportAllocs()
	for i := range b.N {
		table.Lookup(gfs.WriterID(i%16+1), uint64(i/16)%64+1)
	}
}

func TestTableCut(t *testing.T) {
	var table Table
	table.Add(Entry{Writer: 1, Sequence: 4, Offset: 0, Length: 10}, 3)
	table.Add(Entry{Writer: 1, Sequence: 5, Offset: 10, Length: 10}, 3)
	table.Add(Entry{Writer: 2, Sequence: 1, Offset: 20, Length: 10}, 0)
	table.Cut(20)
	for _, c := range []struct {
		writer   gfs.WriterID
		sequence uint64
		want     Outcome
	}{{1, 2, Forgotten}, {1, 4, Known}, {1, 5, Known}, {2, 1, Unknown}} {
		if _, got := table.Lookup(c.writer, c.sequence); got != c.want {
			t.Errorf("append %d of writer %d: outcome %d, want %d", c.sequence, c.writer, got, c.want)
		}
	}
	table.Cut(19)
	if _, got := table.Lookup(1, 5); got != Unknown {
		t.Errorf("an append across the cut: outcome %d", got)
	}
	if again, err := ParseTable(table.AppendBinary(nil)); err != nil || !again.Equal(&table) {
		t.Errorf("a table that was cut does not come back: %v", err)
	}
}
