package namespace

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// machine drives a State, a twin that goes through checkpoints, and the model with the same records.
type machine struct {
	state, twin *State
	model       *model
	epoch       gfs.Epoch
	attempt     uint32
	handles     []gfs.ChunkHandle // reserved and not placed
	sessions    map[uint64]*clientSession
}

type clientSession struct {
	next   uint64
	lowest uint64
	past   []pastMutation
}

type pastMutation struct {
	record *pb.Record
	out    Outcome
}

func newMachine(t *rapid.T) *machine {
	m := &machine{state: New(), twin: New(), model: newModel(), sessions: map[uint64]*clientSession{}}
	m.begin(t)
	return m
}

// apply gives a record to both states and demands the same of both.
func (m *machine) apply(t *rapid.T, r *pb.Record) Outcome {
	if r.Epoch == 0 {
		r.Epoch = uint32(m.epoch)
	}
	before := proto.Clone(r)
	out, twin := m.state.Apply(r), m.twin.Apply(r)
	if !proto.Equal(before, r) {
		t.Fatalf("the record was changed: %v", r)
	}
	if !sameOutcome(out, twin) {
		t.Fatalf("%v: outcomes differ:\n%+v\n%+v", r, out, twin)
	}
	return out
}

func sameOutcome(a, b Outcome) bool {
	if (a.Err == nil) != (b.Err == nil) || a.Err != nil && *a.Err != *b.Err || !proto.Equal(a.Reply, b.Reply) {
		return false
	}
	return a.Epoch == b.Epoch && a.First == b.First && a.Count == b.Count && a.Chunk == b.Chunk && a.More == b.More &&
		a.Repeated == b.Repeated && a.Made == b.Made && slices.Equal(a.Dropped, b.Dropped)
}

func codeOf(out Outcome) gfs.Code {
	if out.Err == nil {
		return gfs.CodeNone
	}
	return out.Err.Code
}

func (m *machine) begin(t *rapid.T) {
	out := m.apply(t, &pb.Record{Command: &pb.Record_BeginEpoch{BeginEpoch: &pb.BeginEpoch{MasterId: "m1"}}})
	if out.Epoch != m.epoch+1 {
		t.Fatalf("epoch %d after %d", out.Epoch, m.epoch)
	}
	m.epoch, m.attempt, m.handles = out.Epoch, 0, nil
	next := m.state.View().NextHandle()
	out = m.apply(t, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 100}}})
	if out.First != next || out.Count != 100 {
		t.Fatalf("reserved %d from %s on instead of %s", out.Count, out.First, next)
	}
	for i := range out.Count {
		m.handles = append(m.handles, out.First+gfs.ChunkHandle(i))
	}
}

var (
	anyPath = rapid.Custom(func(t *rapid.T) string {
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "a-long-name"}), 0, 4).Draw(t, "names")
		return "/" + strings.Join(names, "/")
	})
	anyIdentity = rapid.Custom(func(t *rapid.T) *pb.Identity {
		return &pb.Identity{
			User:   rapid.SampledFrom([]string{"", "", "", "root", "alice", "bob"}).Draw(t, "user"),
			Groups: rapid.SliceOfN(rapid.SampledFrom([]string{"staff", "wheel"}), 0, 2).Draw(t, "groups"),
		}
	})
	anyMode     = rapid.OneOf(rapid.Just(uint32(0o777)), rapid.Uint32Range(0, 0o1000))
	anyReplicas = rapid.Uint32Range(0, 9)
)

func optional[V any](t *rapid.T, g *rapid.Generator[V], label string) *V {
	return rapid.Ptr(g, true).Draw(t, label)
}

var anyMutation = rapid.Custom(func(t *rapid.T) *pb.NamespaceMutation {
	p := anyPath.Draw(t, "path")
	m := &pb.NamespaceMutation{Identity: anyIdentity.Draw(t, "identity")}
	switch rapid.IntRange(0, 9).Draw(t, "operation") {
	case 0, 1, 2:
		m.Operation = &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{
			Path: p, Mode: anyMode.Draw(t, "mode"), Replicas: anyReplicas.Draw(t, "replicas"), Exclusive: rapid.Bool().Draw(t, "exclusive"),
			Replace: rapid.Bool().Draw(t, "replace"), Synced: rapid.Bool().Draw(t, "synced")}}
	case 3, 4:
		m.Operation = &pb.NamespaceMutation_MakeDirectory{MakeDirectory: &pb.MakeDirectory{
			Path: p, Mode: anyMode.Draw(t, "mode"), Parents: rapid.Bool().Draw(t, "parents")}}
	case 5:
		m.Operation = &pb.NamespaceMutation_Remove{Remove: &pb.Remove{
			Path: p, Recursive: rapid.Bool().Draw(t, "recursive"), Now: rapid.Bool().Draw(t, "now")}}
	case 6, 7:
		m.Operation = &pb.NamespaceMutation_Rename{Rename: &pb.Rename{From: p, To: anyPath.Draw(t, "to")}}
	case 8:
		m.Operation = &pb.NamespaceMutation_SetAttributes{SetAttributes: &pb.SetAttributes{
			Path: p, Mode: optional(t, anyMode, "mode"), Owner: optional(t, rapid.SampledFrom([]string{"", "alice", "bob"}), "owner"),
			Group:            optional(t, rapid.SampledFrom([]string{"", "staff", "wheel"}), "group"),
			ModifiedUnixNano: optional(t, rapid.Int64(), "modified"), Replicas: optional(t, anyReplicas, "replicas")}}
	case 9:
		m.Operation = &pb.NamespaceMutation_Undelete{Undelete: &pb.Undelete{Path: p}}
	}
	return m
})

// mutate applies a mutation of the namespace and compares it with the model.
func (m *machine) mutate(t *rapid.T) {
	mutation := anyMutation.Draw(t, "mutation")
	id := rapid.Uint64Range(0, 2).Draw(t, "session")
	s := m.sessions[id]
	if s != nil {
		s.next++
		mutation.Session = &pb.Session{Id: id, Sequence: s.next, LowestUnacknowledged: s.lowest}
	} else if id != 0 {
		mutation.Session = &pb.Session{Id: id, Sequence: 1}
	}
	now := m.model.now + rapid.Int64Range(-5, 20).Draw(t, "step")
	record := &pb.Record{TimeUnixNano: now, Command: &pb.Record_Mutation{Mutation: mutation}}
	m.model.now = max(m.model.now, now)
	files := m.model.objects()
	out := m.apply(t, record)
	if id != 0 && s == nil {
		if codeOf(out) != gfs.CodeSessionEnded {
			t.Fatalf("an unknown session gets %+v", out)
		}
		return
	}
	if s != nil {
		s.past = append(s.past, pastMutation{record, out})
	}
	code, object := m.model.apply(mutation.Identity, mutation)
	if codeOf(out) != code {
		t.Fatalf("%v: %s instead of %s", mutation, out.Err, code)
	}
	if code != gfs.CodeNone {
		return
	}
	m.learn(t, object, out.Reply.GetStatus())
	if gone := missing(files, m.model.objects()); len(gone) > 0 {
		m.dropped(t, out.Dropped, gone, m.drain(t, 0))
	}
}

// learn takes the ids of what was made from the state, and compares the reply.
func (m *machine) learn(t *rapid.T, object *object, status *pb.FileStatus) {
	view := m.state.View()
	for p, o := range m.model.paths {
		if o.id == 0 {
			s, err := view.Stat(nil, p)
			if err != nil {
				t.Fatalf("stat %s: %v", p, err)
			}
			o.id = s.FileId
		}
	}
	if (object == nil) != (status == nil) {
		t.Fatalf("reply %v for %+v", status, object)
	}
	if object != nil && !proto.Equal(status, object.status(status.Name)) {
		t.Fatalf("reply %v instead of %v", status, object.status(status.Name))
	}
}

// missing are the objects that one list has and the other has not.
func missing(before, after []*object) []*object {
	var gone []*object
	for _, o := range before {
		if !slices.Contains(after, o) {
			gone = append(gone, o)
		}
	}
	return gone
}

// drain empties the trash before a time in small slices and returns the chunks that went.
func (m *machine) drain(t *rapid.T, before int64) []gfs.ChunkHandle {
	limit := rapid.Uint32Range(1, 5).Draw(t, "limit")
	var dropped []gfs.ChunkHandle
	for rounds := 0; ; rounds++ {
		if due := m.state.View().DropDue(time.Unix(0, before)); rounds > 0 && !due {
			return dropped
		}
		out := m.apply(t, &pb.Record{Command: &pb.Record_DropTrash{DropTrash: &pb.DropTrash{BeforeUnixNano: before, Limit: limit}}})
		if out.Err != nil || len(out.Dropped) > int(limit) || rounds > 10000 {
			t.Fatalf("drop of the trash, round %d: %+v", rounds, out)
		}
		dropped = append(dropped, out.Dropped...)
	}
}

// dropped demands that exactly the chunks of what is gone were dropped, and that nobody finds it any more.
func (m *machine) dropped(t *rapid.T, first []gfs.ChunkHandle, gone []*object, rest []gfs.ChunkHandle) {
	got := slices.Sorted(slices.Values(slices.Concat(first, rest)))
	var want []gfs.ChunkHandle
	view := m.state.View()
	for _, o := range gone {
		for _, c := range o.chunks {
			want = append(want, gfs.ChunkHandle(c.handle))
			if _, ok := view.Chunk(gfs.ChunkHandle(c.handle)); ok {
				t.Fatalf("chunk %x outlives its file", c.handle)
			}
		}
		if _, err := view.StatID(nil, gfs.FileID(o.id)); gfs.CodeOf(err) != gfs.CodeNotExist {
			t.Fatalf("dropped file %d: %v", o.id, err)
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("dropped %v instead of %v", got, want)
	}
}

// retry repeats an earlier mutation of a session.
func (m *machine) retry(t *rapid.T) {
	for id := range uint64(3) {
		s := m.sessions[id]
		if s == nil || len(s.past) == 0 {
			continue
		}
		i := rapid.IntRange(max(0, len(s.past)-2*gfs.SessionWindow), len(s.past)-1).Draw(t, "which")
		past := s.past[i]
		past.record.Epoch = 0 // that of the master which is asked now
		sequence := past.record.GetMutation().Session.Sequence
		out := m.apply(t, past.record)
		remembered := sequence >= s.lowest && sequence+gfs.SessionWindow > s.next
		switch {
		case remembered && (!sameFirst(out, past.out) || !out.Repeated):
			t.Fatalf("retry of %d in session %d: %+v instead of %+v", sequence, id, out, past.out)
		case !remembered && codeOf(out) != gfs.CodeOutcomeUnknown:
			t.Fatalf("forgotten mutation %d of session %d, lowest %d, next %d: %+v", sequence, id, s.lowest, s.next, out)
		}
		if rapid.Bool().Draw(t, "acknowledge") { // told to the state with the next mutation
			s.lowest = min(s.lowest+rapid.Uint64Range(0, 3).Draw(t, "by"), s.next)
			mutation := &pb.NamespaceMutation{Operation: &pb.NamespaceMutation_Rename{Rename: &pb.Rename{From: "bad", To: "/"}}}
			s.next++
			mutation.Session = &pb.Session{Id: id, Sequence: s.next, LowestUnacknowledged: s.lowest}
			record := &pb.Record{Command: &pb.Record_Mutation{Mutation: mutation}}
			out := m.apply(t, record)
			if codeOf(out) != gfs.CodeInvalid {
				t.Fatalf("a relative path: %+v", out)
			}
			s.past = append(s.past, pastMutation{record, out})
		}
	}
}

func sameFirst(a, b Outcome) bool {
	return proto.Equal(a.Reply, b.Reply) && (a.Err == nil) == (b.Err == nil) && (a.Err == nil || *a.Err == *b.Err)
}

func (m *machine) register(t *rapid.T) {
	id := rapid.Uint64Range(1, 2).Draw(t, "session")
	record := &pb.Record{Command: &pb.Record_Mutation{Mutation: &pb.NamespaceMutation{
		Session: &pb.Session{Id: id}, Operation: &pb.NamespaceMutation_RegisterSession{RegisterSession: &pb.RegisterSession{}}}}}
	if out := m.apply(t, record); out.Err != nil || out.Repeated != (m.sessions[id] != nil) {
		t.Fatalf("register: %+v", out)
	}
	if m.sessions[id] == nil {
		m.sessions[id] = &clientSession{lowest: 1}
	}
}

// chunk places, configures and closes chunks of any file, in the trash or not.
func (m *machine) chunk(t *rapid.T) {
	o := rapid.SampledFrom(m.model.objects()).Draw(t, "object")
	m.attempt++
	version := uint64(gfs.NewVersion(m.epoch, m.attempt))
	members := rapid.Uint32Range(1, 4).Draw(t, "members")
	if len(o.chunks) == 0 || rapid.Bool().Draw(t, "place") {
		if len(m.handles) == 0 {
			m.begin(t)
			return
		}
		at := rapid.IntRange(0, len(m.handles)-1).Draw(t, "handle")
		index := uint32(len(o.chunks)) + rapid.SampledFrom([]uint32{0, 0, 0, 1}).Draw(t, "off")
		record := &pb.Record{TimeUnixNano: m.model.now, Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{
			FileId: o.id, Index: index, Handle: uint64(m.handles[at]), Version: version, Members: members}}}
		out := m.apply(t, record)
		switch {
		case o.directory:
			expect(t, out, gfs.CodeIsDirectory)
		case int(index) != len(o.chunks):
			expect(t, out, gfs.CodeConflict)
		default:
			expect(t, out, gfs.CodeNone)
			expect(t, m.apply(t, record), gfs.CodeConflict) // a second time
			m.handles = slices.Delete(m.handles, at, at+1)
			o.chunks = append(o.chunks, modelChunk{uint64(out.Chunk.Handle), version, members, 0, true})
			o.modified = m.model.now
		}
		return
	}
	c := &o.chunks[rapid.IntRange(0, len(o.chunks)-1).Draw(t, "index")]
	stale := rapid.SampledFrom([]uint64{0, 0, 1}).Draw(t, "stale")
	if rapid.Bool().Draw(t, "close") {
		length := rapid.Int64Range(0, gfs.ChunkSize).Draw(t, "length")
		out := m.apply(t, &pb.Record{TimeUnixNano: m.model.now, Command: &pb.Record_CloseChunk{CloseChunk: &pb.CloseChunk{
			Handle: c.handle, Version: c.version + stale, Length: length}}})
		if stale != 0 || !c.open && c.length != length {
			expect(t, out, gfs.CodeConflict)
			return
		}
		expect(t, out, gfs.CodeNone)
		if c.open {
			c.open, c.length, o.modified = false, length, m.model.now
		}
		return
	}
	out := m.apply(t, &pb.Record{Command: &pb.Record_ConfigureChunk{ConfigureChunk: &pb.ConfigureChunk{
		Handle: c.handle, FromVersion: c.version + stale, Version: version, Members: members, Open: true}}})
	if stale != 0 {
		expect(t, out, gfs.CodeConflict)
		return
	}
	expect(t, out, gfs.CodeNone)
	c.version, c.members, c.open = version, members, true
}

func expect(t *rapid.T, out Outcome, code gfs.Code) {
	t.Helper()
	if codeOf(out) != code {
		t.Fatalf("%v instead of %s", out.Err, code)
	}
}

func TestStateIsItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		var view *View
		var frozen []Page
		t.Repeat(map[string]func(*rapid.T){
			"mutate":   m.mutate,
			"mutate2":  m.mutate,
			"mutate3":  m.mutate,
			"chunk":    m.chunk,
			"chunk2":   m.chunk,
			"register": m.register,
			"retry":    m.retry,
			"compare":  m.compare,
			"drop": func(t *rapid.T) {
				before := m.model.now - rapid.Int64Range(0, 100).Draw(t, "age")
				want := m.model.dropTrash(before)
				if got := slices.Sorted(slices.Values(m.drain(t, before))); !slices.Equal(got, want) {
					t.Fatalf("dropped %v instead of %v", got, want)
				}
			},
			"epoch": func(t *rapid.T) {
				old := m.epoch
				m.begin(t)
				expect(t, m.apply(t, &pb.Record{Epoch: uint32(old), Command: &pb.Record_DropTrash{DropTrash: &pb.DropTrash{Limit: 1}}}), gfs.CodeStaleEpoch)
			},
			"checkpoint": func(t *rapid.T) {
				loaded, err := Load(replay(pagesOf(t, m.twin.View())))
				if err != nil {
					t.Fatal(err)
				}
				m.twin = loaded
			},
			"freeze": func(t *rapid.T) {
				if view == nil {
					view = m.state.View()
					frozen = pagesOf(t, view)
				}
			},
		})
		m.compare(t)
		if !samePages(pagesOf(t, m.state.View()), pagesOf(t, m.twin.View())) {
			t.Fatal("equal states make different checkpoints")
		}
		if view != nil && !samePages(pagesOf(t, view), frozen) {
			t.Fatal("a view changed")
		}
	})
}
