package namespace

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func truncating(file gfs.FileID, size int64, replacement *pb.Replacement) *pb.Record {
	return record(&pb.NamespaceMutation_Truncate{Truncate: &pb.Truncate{FileId: uint64(file), Size: size, Replacement: replacement}})
}

// reserve sets one handle aside.
func reserve(tb testing.TB, s *State) gfs.ChunkHandle {
	return mustApply(tb, s, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 1}}}).First
}

func placing(file gfs.FileID, index int, handle gfs.ChunkHandle) *pb.Record {
	return &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{FileId: uint64(file), Index: uint32(index),
		Handle: uint64(handle), Version: uint64(gfs.NewVersion(1, uint32(handle))), Members: 3}}}
}

func closing(handle gfs.ChunkHandle, length int64) *pb.Record {
	return &pb.Record{Command: &pb.Record_CloseChunk{CloseChunk: &pb.CloseChunk{
		Handle: uint64(handle), Version: uint64(gfs.NewVersion(1, uint32(handle))), Length: length}}}
}

// replacing is a replacement of a chunk under a fresh handle.
func replacing(c Chunk, handle gfs.ChunkHandle) *pb.Replacement {
	return &pb.Replacement{Source: uint64(c.Handle), SourceVersion: uint64(c.Version), Handle: uint64(handle),
		Version: uint64(gfs.NewVersion(1, uint32(handle))), Members: 2}
}

// cutFile is a file as a plain list, and what it lost.
type cutFile struct {
	id      gfs.FileID
	chunks  []modelChunk
	dropped []gfs.ChunkHandle
}

func (f *cutFile) place(t *rapid.T, s *State, tb testing.TB) {
	h := reserve(tb, s)
	mustApply(tb, s, placing(f.id, len(f.chunks), h))
	c := modelChunk{handle: uint64(h), open: true}
	if rapid.IntRange(0, 9).Draw(t, "open") > 0 {
		c.open, c.length = false, rapid.SampledFrom([]int64{0, 1, 100, gfs.ChunkSize}).Draw(t, "length")
		mustApply(tb, s, closing(h, c.length))
	}
	f.chunks = append(f.chunks, c)
}

// truncate cuts the model, and says what the state should.
func (f *cutFile) truncate(size int64, replacement *pb.Replacement) gfs.Code {
	keep := int((size + gfs.ChunkSize - 1) / gfs.ChunkSize)
	if keep > len(f.chunks) {
		return gfs.CodeNone
	}
	for _, c := range f.chunks[max(keep-1, 0):] {
		if c.open {
			return gfs.CodeConflict
		}
	}
	var last []modelChunk
	if keep > 0 {
		length := size - int64(keep-1)*gfs.ChunkSize
		if old := f.chunks[keep-1]; old.length != length {
			if replacement.GetSource() != old.handle {
				return gfs.CodeConflict
			}
			keep--
			last = []modelChunk{{handle: replacement.Handle, length: length}}
		}
	}
	for _, c := range f.chunks[keep:] {
		f.dropped = append(f.dropped, gfs.ChunkHandle(c.handle))
	}
	f.chunks = append(slices.Clone(f.chunks[:keep]), last...)
	return gfs.CodeNone
}

func (f *cutFile) compare(t *rapid.T, s *State) {
	view := s.View()
	if err := view.Verify(); err != nil {
		t.Fatal(err)
	}
	got, total, err := view.FileChunks(f.id, 0, 1<<20)
	if err != nil || total != len(f.chunks) || len(got) != total {
		t.Fatalf("%d chunks of %d, want %d: %v", len(got), total, len(f.chunks), err)
	}
	for i, c := range f.chunks {
		if g := got[i]; uint64(g.Handle) != c.handle || g.Length != c.length || g.Open != c.open {
			t.Fatalf("chunk %d is %+v, want %+v", i, g, c)
		}
	}
}

// TestTruncationsCutAList runs truncations of a file whose handles lie in many runs against a plain list.
func TestTruncationsCutAList(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := begun(t)
		f := &cutFile{id: create(t, s, "/f")}
		other := &cutFile{id: create(t, s, "/other")}
		var dropped []gfs.ChunkHandle
		for step := range rapid.IntRange(1, 30).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0:
				for range rapid.SampledFrom([]int{1, 3, 40, 150}).Draw(rt, "more") {
					f.place(rt, s, t)
					if rapid.Bool().Draw(rt, "apart") {
						other.place(rt, s, t)
					}
				}
			case 1: // everything is closed
				for i := range f.chunks {
					if c := &f.chunks[i]; c.open {
						c.open, c.length = false, 7
						mustApply(t, s, closing(gfs.ChunkHandle(c.handle), 7))
					}
				}
			case 2:
				var err error
				if s, err = Load(replay(pagesOf(rt, s.View()))); err != nil {
					rt.Fatal(err)
				}
			default:
				size := int64(rapid.IntRange(0, len(f.chunks)+1).Draw(rt, "chunks")) * gfs.ChunkSize
				size = max(0, size-rapid.SampledFrom([]int64{0, 0, 1, gfs.ChunkSize - 1, gfs.ChunkSize - 100}).Draw(rt, "less"))
				need, err := s.View().Truncation(nil, &pb.Truncate{FileId: uint64(f.id), Size: size})
				if err != nil {
					rt.Fatal(err)
				}
				var replacement *pb.Replacement
				if need.Replace.Handle != 0 && rapid.IntRange(0, 4).Draw(rt, "ready") > 0 {
					replacement = replacing(need.Replace, reserve(t, s))
				}
				r := truncating(f.id, size, replacement)
				r.Epoch = 1
				out := s.Apply(r)
				dropped = append(dropped, out.Dropped...)
				if want := f.truncate(size, replacement); codeOf(out) != want {
					rt.Fatalf("step %d: truncate to %d: %v, want %s; needed was %+v", step, size, out.Err, want, need)
				}
				if out.Err == nil && (out.Made || int(out.Reply.Status.Chunks) != len(f.chunks) ||
					out.Reply.Status.Length != size && int64(len(f.chunks))*gfs.ChunkSize >= size) {
					rt.Fatalf("step %d: truncate to %d: %v", step, size, out)
				}
			}
			f.compare(rt, s)
			other.compare(rt, s)
		}
		if !slices.Equal(dropped, f.dropped) {
			rt.Fatalf("dropped were %v, not %v", dropped, f.dropped)
		}
	})
}

func TestTruncationChecksWhoAsksAndForWhat(t *testing.T) {
	s := begun(t)
	mkdir(t, s, "/dir")
	id := create(t, s, "/f") // of root, 0644
	handle := reserve(t, s)
	mustApply(t, s, placing(id, 0, handle))
	mustApply(t, s, closing(handle, 1000))
	at := func(path string, size int64) *pb.Record {
		return record(&pb.NamespaceMutation_Truncate{Truncate: &pb.Truncate{Path: path, Size: size}})
	}
	as := func(r *pb.Record, user string) *pb.Record {
		r.GetMutation().Identity = &pb.Identity{User: user}
		return r
	}
	before := pagesOf(t, s.View())
	for _, c := range []struct {
		r    *pb.Record
		code gfs.Code
	}{
		{at("/none", 0), gfs.CodeNotExist},
		{at("/dir", 0), gfs.CodeIsDirectory},
		{truncating(gfs.RootID, 0, nil), gfs.CodeIsDirectory},
		{truncating(99, 0, nil), gfs.CodeNotExist},
		{at("/f", -1), gfs.CodeInvalid},
		{at("/f", gfs.MaxFileBytes+1), gfs.CodeInvalid},
		{as(at("/f", 0), "mallory"), gfs.CodePermission},
		{as(truncating(id, 0, nil), "mallory"), gfs.CodePermission},
		{at("/f", 10), gfs.CodeConflict},                                                               // nothing is ready
		{truncating(id, 10, replacing(Chunk{Handle: handle, Version: 1}, handle+1)), gfs.CodeConflict}, // a copy of another version
		{truncating(id, 10, replacing(Chunk{Handle: handle, Version: gfs.NewVersion(1, uint32(handle))}, handle+1)), gfs.CodeConflict},
		{truncating(id, 10, replacing(Chunk{Handle: handle, Version: gfs.NewVersion(1, uint32(handle))}, handle)), gfs.CodeConflict},
		{at("/f", 1000), gfs.CodeNone},            // as it is
		{at("/f", gfs.ChunkSize+1), gfs.CodeNone}, // has to grow first
	} {
		expectCode(t, s, c.r, c.code)
	}
	if !samePages(before, pagesOf(t, s.View())) {
		t.Error("the state changed")
	}
}

// TestATruncationTakesEffectOnce repeats one under its session when the file has grown again.
func TestATruncationTakesEffectOnce(t *testing.T) {
	s := begun(t)
	id := create(t, s, "/f")
	mustApply(t, s, record(&pb.NamespaceMutation{Session: &pb.Session{Id: 5}, Operation: &pb.NamespaceMutation_RegisterSession{}}))
	grow := func(index int) gfs.ChunkHandle {
		h := reserve(t, s)
		mustApply(t, s, placing(id, index, h))
		return h
	}
	first := grow(0)
	truncate := func() *pb.Record {
		r := truncating(id, 0, nil)
		r.GetMutation().Session = &pb.Session{Id: 5, Sequence: 1}
		return r
	}
	expectCode(t, s, truncate(), gfs.CodeConflict) // open, which decides nothing
	mustApply(t, s, closing(first, 10))
	if out := mustApply(t, s, truncate()); out.Repeated || !slices.Equal(out.Dropped, []gfs.ChunkHandle{first}) {
		t.Fatalf("%+v", out)
	}
	mustApply(t, s, closing(grow(0), 20))
	if out := mustApply(t, s, truncate()); !out.Repeated || out.Reply.GetStatus().GetChunks() != 0 || len(out.Dropped) > 0 {
		t.Errorf("the second time: %+v", out)
	}
	if c, total, err := s.View().FileChunks(id, 0, 1); total != 1 || c[0].Length != 20 || err != nil {
		t.Errorf("what was appended after the truncation: %+v, %v", c, err)
	}
}

// TestALargeTruncationDropsInSlices cuts off more chunks than one record drops.
func TestALargeTruncationDropsInSlices(t *testing.T) {
	s := begun(t)
	id, other := create(t, s, "/f"), create(t, s, "/g")
	const chunks = dropAtTruncation + 1000
	for i := range chunks {
		h := reserve(t, s)
		mustApply(t, s, placing(id, i, h))
		mustApply(t, s, closing(h, gfs.ChunkSize))
		if i%5 == 0 {
			mustApply(t, s, placing(other, i/5, reserve(t, s)))
		}
	}
	out := mustApply(t, s, truncating(id, 50*gfs.ChunkSize, nil))
	verify(t, s)
	more := mustApply(t, s, dropTrash(s.View().Time(), 1<<16))
	verify(t, s)
	if total := len(out.Dropped) + len(more.Dropped); len(out.Dropped) != dropAtTruncation || total != chunks-50 {
		t.Errorf("dropped %d and %d", len(out.Dropped), len(more.Dropped))
	}
	if got := fmt.Sprint(s.View().Counts().Files, out.Reply.Status.Chunks, out.Reply.Status.Length); got != fmt.Sprint(2, 50, int64(50*gfs.ChunkSize)) {
		t.Errorf("files, chunks, length: %s", got)
	}
}
