package store

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// model is what a replica has to look like: bytes holds everything up to the end of what was written.
type model struct {
	status Status
	bytes  []byte
	ends   []int64 // ends of writes beyond the length
	table  *mutation.Table
}

func newModel(h gfs.ChunkHandle, v gfs.Version) *model {
	return &model{
		status: Status{Handle: h, Promised: v, Active: v, State: gfs.ReplicaMember, Marked: true},
		table:  &mutation.Table{},
	}
}

func (m *model) clone() *model {
	c := *m
	c.bytes, c.ends, c.table = slices.Clone(m.bytes), slices.Clone(m.ends), m.table.Clone()
	return &c
}

func (m *model) write(off int64, data []byte) {
	if need := int(off) + len(data); need > len(m.bytes) {
		m.bytes = append(m.bytes, make([]byte, need-len(m.bytes))...)
	}
	copy(m.bytes[off:], data)
	if end := off + int64(len(data)); end > m.status.Length {
		m.ends = append(m.ends, end)
	}
}

func (m *model) advance(p Progress) {
	if p.Length > int64(len(m.bytes)) {
		m.bytes = append(m.bytes, make([]byte, p.Length-int64(len(m.bytes)))...)
	}
	m.status.Length = p.Length
	m.status.CommitLength = max(m.status.CommitLength, min(p.Commit, p.Length))
	for _, id := range p.Dropped {
		m.table.DropWriter(id)
	}
	for _, a := range p.Appends {
		m.table.Add(a.Entry, a.Lowest)
	}
}

func (m *model) discard() { m.bytes, m.ends = m.bytes[:m.status.Length], nil }

// digest is computed from the bytes alone.
func (m *model) digest() Digest {
	d := Digest{Length: m.status.Length, Table: m.table.Digest()}
	for part := range slices.Chunk(m.bytes[:m.status.Length], gfs.BlockSize) {
		d.Blocks = append(d.Blocks, checksum(part))
	}
	return d
}

// fatal is the part of testing.T and rapid.T that checks need.
type fatal interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// compare holds a replica against the model: status, digest, bytes as readers get them.
func (m *model) compare(t fatal, r *Replica) {
	t.Helper()
	if got := r.Status(); got != m.status {
		t.Fatalf("status %+v, want %+v", got, m.status)
	}
	d, err := r.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if d.Sum() != m.digest().Sum() {
		t.Fatalf("digest %+v, want %+v", d, m.digest())
	}
	if bad, err := r.VerifyAll(); err != nil || bad != nil {
		t.Fatalf("blocks %v do not match, %v", bad, err)
	}
	got := make([]byte, m.status.CommitLength+10)
	n, err := r.ReadAt(got, 0)
	switch {
	case m.status.State != gfs.ReplicaMember:
		if gfs.CodeOf(err) != gfs.CodeNoReplica {
			t.Fatalf("a %s served a read: %v", m.status.State, err)
		}
	case !errors.Is(err, io.EOF):
		t.Fatalf("read beyond the commit length: %v", err)
	case !bytes.Equal(got[:n], m.bytes[:m.status.CommitLength]):
		t.Fatalf("read %d bytes that differ from the %d written", n, m.status.CommitLength)
	}
}

// noise is bytes that differ from block to block.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return b
}

// partSums are the CRCs of data cut at the chunk's block boundaries.
func partSums(off int64, data []byte) []uint32 {
	var sums []uint32
	for len(data) > 0 {
		n := min(gfs.BlockSize-int(off%gfs.BlockSize), len(data))
		sums = append(sums, checksum(data[:n]))
		off, data = off+int64(n), data[n:]
	}
	return sums
}

// machine drives a replica and its model.
type machine struct {
	config  Config
	store   *Store
	replica *Replica
	model   *model
	seed    uint64
	version uint32
}

const machineLimit = 5 * gfs.BlockSize

func (m *machine) reopen(t *rapid.T) {
	var err error
	if m.store, err = Open(m.config); err != nil {
		t.Fatal(err)
	}
	if m.replica, err = m.store.Get(1); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) needMarked(t *rapid.T) {
	if !m.model.status.Marked {
		t.Skip("closed")
	}
}

func (m *machine) Write(t *rapid.T) {
	m.needMarked(t)
	end := int64(len(m.model.bytes))
	off := end
	switch rapid.IntRange(0, 3).Draw(t, "where") {
	case 0:
		off = rapid.Int64Range(0, end).Draw(t, "off")
	case 1:
		off = end / gfs.BlockSize * gfs.BlockSize
	case 2:
		off = min(end+rapid.Int64Range(0, 2*gfs.BlockSize).Draw(t, "gap"), machineLimit)
	}
	n := rapid.OneOf(rapid.IntRange(1, 3000), rapid.Just(gfs.BlockSize), rapid.IntRange(1, 3*gfs.BlockSize)).Draw(t, "n")
	if off+int64(n) > machineLimit {
		t.Skip("full")
	}
	m.seed++
	data := noise(m.seed, n)
	var sums []uint32
	if rapid.Bool().Draw(t, "sums") {
		sums = partSums(off, data)
	}
	if err := m.replica.WriteAt(off, data, sums); err != nil {
		t.Fatal(err)
	}
	m.model.write(off, data)
}

func (m *machine) Advance(t *rapid.T) {
	m.needMarked(t)
	var p Progress
	end, length := int64(len(m.model.bytes)), m.model.status.Length
	switch rapid.IntRange(0, 3).Draw(t, "to") {
	case 0:
		p.Length = rapid.Int64Range(length, end).Draw(t, "length")
	case 1:
		p.Length = min(end+rapid.Int64Range(0, gfs.BlockSize+10).Draw(t, "padding"), machineLimit)
	case 2:
		p.Length = length
		for _, e := range m.model.ends {
			if e > length && (p.Length == length || rapid.Bool().Draw(t, "skip")) {
				p.Length = e
			}
		}
	default:
		p.Length = end
	}
	p.Commit = rapid.Int64Range(0, machineLimit).Draw(t, "commit")
	for range rapid.IntRange(0, 3).Draw(t, "appends") {
		m.seed++
		a := mutation.Append{Lowest: m.seed - min(m.seed, 20)}
		a.Writer, a.Sequence, a.Offset, a.Length = gfs.WriterID(m.seed%4), m.seed, uint32(length), 7
		p.Appends = append(p.Appends, a)
	}
	if rapid.IntRange(0, 5).Draw(t, "drop") == 0 {
		p.Dropped = []gfs.WriterID{gfs.WriterID(m.seed % 3)}
	}
	if err := m.replica.Advance(p); err != nil {
		t.Fatal(err)
	}
	m.model.advance(p)
}

func (m *machine) Discard(t *rapid.T) {
	m.needMarked(t)
	if err := m.replica.DiscardBeyondLength(); err != nil {
		t.Fatal(err)
	}
	m.model.discard()
}

func (m *machine) Sync(t *rapid.T) {
	if err := m.replica.Sync(); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) Preallocate(t *rapid.T) {
	m.needMarked(t)
	if err := m.replica.Preallocate(machineLimit); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) Reconfigure(t *rapid.T) {
	if m.model.status.Marked {
		m.Discard(t)
	}
	m.version++
	v, from := gfs.NewVersion(1, m.version), m.model.status.Promised
	if err := m.replica.Promise(v, from, false); err != nil {
		t.Fatal(err)
	}
	if err := m.replica.Promise(v, from, false); !errors.Is(err, gfs.ErrStaleVersion) {
		t.Fatalf("promised twice: %v", err)
	}
	m.model.status.Promised, m.model.status.Active, m.model.status.Marked = v, from, true
	if rapid.Bool().Draw(t, "activate") {
		if err := m.replica.Activate(v); err != nil {
			t.Fatal(err)
		}
		m.model.status.Active = v
	}
}

func (m *machine) CloseChunk(t *rapid.T) {
	m.needMarked(t)
	m.Discard(t)
	group := []*Replica{m.replica}
	if rapid.Bool().Draw(t, "group") {
		if err := m.store.SyncAll(group); err != nil {
			t.Fatal(err)
		}
	} else {
		m.Sync(t)
	}
	if err := m.store.Unmark(group); err != nil {
		t.Fatal(err)
	}
	m.model.status.Marked = false
}

// Restart is what kill -9 is to the files: Close writes nothing of a replica.
func (m *machine) Restart(t *rapid.T) {
	m.replica.SetCommit(m.model.status.CommitLength)
	if err := m.store.Close(); err != nil {
		t.Fatal(err)
	}
	m.reopen(t)
	m.model.discard()
}

func (m *machine) Patch(t *rapid.T) {
	m.needMarked(t)
	m.Discard(t)
	length := rapid.Int64Range(0, machineLimit).Draw(t, "length")
	m.seed++
	want := make([]byte, length)
	copy(want, m.model.bytes)
	p := Patch{Length: length, Commit: length, Active: m.model.status.Active, State: gfs.ReplicaMember}
	for block := range blockCount(length) {
		if rapid.Bool().Draw(t, "patched") {
			part := want[block*gfs.BlockSize : min(int64(block+1)*gfs.BlockSize, length)]
			copy(part, noise(m.seed+uint64(block), len(part)))
			p.Blocks = append(p.Blocks, PatchBlock{Index: uint32(block), Data: slices.Clone(part), CRC: checksum(part)})
		}
	}
	if rapid.Bool().Draw(t, "table") {
		p.Table = &mutation.Table{}
		p.Table.Add(mutation.Entry{Writer: 9, Sequence: m.seed}, 0)
		m.model.table = p.Table.Clone()
	}
	if err := m.replica.ApplyPatch(p); err != nil {
		t.Fatal(err)
	}
	m.model.bytes, m.model.status.Length, m.model.status.CommitLength = want, length, length
}

// Settled checks whatever is handed to sendfile.
func (m *machine) Settled(t *rapid.T) {
	off := rapid.Int64Range(0, 4).Draw(t, "block") * gfs.BlockSize
	f, sums, n, done := m.replica.Settled(off, machineLimit, nil)
	if n == 0 {
		return
	}
	defer done()
	got := make([]byte, n)
	if _, err := f.ReadAt(got, off); err != nil {
		t.Fatal(err)
	}
	if off+n > m.model.status.CommitLength || !bytes.Equal(got, m.model.bytes[off:off+n]) || !slices.Equal(sums, partSums(off, got)) {
		t.Fatalf("settled bytes %d at %d differ", n, off)
	}
}

func (m *machine) Check(t *rapid.T) { m.model.compare(t, m.replica) }

func TestReplicaAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{
			config:  Config{Dirs: []string{t.TempDir()}, Cluster: "c", logBytes: 600, noSync: true, OpenChunks: 1},
			model:   newModel(1, gfs.NewVersion(1, 1)),
			version: 1,
		}
		var err error
		if m.store, err = Open(m.config); err != nil {
			rt.Fatal(err)
		}
		defer func() { m.store.Close() }()
		if m.replica, err = m.store.Create(1, gfs.NewVersion(1, 1)); err != nil {
			rt.Fatal(err)
		}
		rt.Repeat(rapid.StateMachineActions(m))
	})
}
