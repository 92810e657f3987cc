package namespace

import (
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// TestALargeFile has chunks in many runs, so that most lie in segments.
func TestALargeFile(t *testing.T) {
	const chunks = 5000
	s := begun(t)
	id := create(t, s, "/large")
	other := create(t, s, "/other")
	var want []gfs.ChunkHandle
	place := func(file gfs.FileID, index int) gfs.ChunkHandle {
		first := mustApply(t, s, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 1}}}).First
		mustApply(t, s, &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{FileId: uint64(file), Index: uint32(index),
			Handle: uint64(first), Version: uint64(gfs.NewVersion(1, uint32(first))), Members: 3}}})
		return first
	}
	others := 0
	for i := range chunks {
		want = append(want, place(id, i))
		if i%3 == 2 {
			place(other, others)
			others++
		}
	}
	if value, _ := s.entries.get(inodeKey(id)); len(value) > 300 {
		t.Errorf("the inode grew to %d bytes", len(value))
	}
	verify(t, s)
	loaded, err := Load(replay(pagesOf(t, s.View())))
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []*State{s, loaded} {
		for _, first := range []int{0, 1, 47, 48, 49, 2500, chunks - 60, chunks - 1, chunks, chunks + 5, -1} {
			got, total, err := state.View().FileChunks(id, first, 100)
			from := min(max(first, 0), chunks)
			if err != nil || total != chunks || len(got) != min(100, chunks-from) {
				t.Fatalf("chunks from %d on: %d of %d, %v", first, len(got), total, err)
			}
			for i, c := range got {
				if c.Handle != want[from+i] || c.File != id || !c.Open {
					t.Fatalf("chunk %d is %+v, not %s", from+i, c, want[from+i])
				}
			}
		}
	}
	// Dropped in slices, from the first chunk on.
	mustApply(t, s, removing("/large", false, true))
	var dropped []gfs.ChunkHandle
	for more := true; more; {
		if _, err := s.View().StatID(nil, id); gfs.CodeOf(err) != gfs.CodeNotExist {
			t.Fatalf("a file that is being dropped: %v", err)
		}
		verify(t, s)
		out := mustApply(t, s, dropTrash(time.Unix(0, 0), 700))
		if len(out.Dropped) > 700 {
			t.Fatalf("%d chunks in a slice of 700", len(out.Dropped))
		}
		dropped, more = append(dropped, out.Dropped...), out.More
		if s, err = Load(replay(pagesOf(t, s.View()))); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(dropped, want[dropAtOnce:]) {
		t.Errorf("%d chunks were dropped after the first %d, of %d", len(dropped), dropAtOnce, len(want))
	}
	if c := s.View().Counts(); c.Files != 1 || c.Chunks != others {
		t.Errorf("left: %+v", c)
	}
}

func TestChunkRecordsCheckTheirPreconditions(t *testing.T) {
	s := begun(t)
	id := create(t, s, "/f")
	mustApply(t, s, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 10}}})
	place := func(handle gfs.ChunkHandle, version gfs.Version, members uint32) *pb.Record {
		return &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{FileId: uint64(id), Handle: uint64(handle), Version: uint64(version), Members: members}}}
	}
	v1, v2 := gfs.NewVersion(1, 1), gfs.NewVersion(1, 2)
	expectCode(t, s, place(0, v1, 3), gfs.CodeConflict)
	expectCode(t, s, place(11, v1, 3), gfs.CodeConflict)
	expectCode(t, s, place(1, gfs.NewVersion(2, 1), 3), gfs.CodeInvalid)
	expectCode(t, s, place(1, v1, 0), gfs.CodeInvalid)
	if out := mustApply(t, s, place(1, v2, 3)); out.Chunk != (Chunk{1, v2, 3, true, 0, 3, 1, id}) {
		t.Errorf("placed: %+v", out.Chunk)
	}
	configure := func(handle gfs.ChunkHandle, from, version gfs.Version) *pb.Record {
		return &pb.Record{Command: &pb.Record_ConfigureChunk{ConfigureChunk: &pb.ConfigureChunk{Handle: uint64(handle), FromVersion: uint64(from), Version: uint64(version), Members: 2, Open: true}}}
	}
	expectCode(t, s, configure(1, v2, v1), gfs.CodeInvalid)
	expectCode(t, s, configure(2, v2, gfs.NewVersion(1, 3)), gfs.CodeNotExist)
	closing := &pb.Record{Command: &pb.Record_CloseChunk{CloseChunk: &pb.CloseChunk{Handle: 1, Version: uint64(v2), Length: 77}}}
	if out := mustApply(t, s, closing); out.Chunk.Open || out.Chunk.Length != 77 {
		t.Errorf("closed: %+v", out.Chunk)
	}
	mustApply(t, s, closing) // again: the same
	// A handle whose chunk is gone stays used, and so do those that an earlier master reserved.
	mustApply(t, s, removing("/f", false, true))
	id = create(t, s, "/g")
	expectCode(t, s, place(1, gfs.NewVersion(1, 9), 3), gfs.CodeConflict)
	expectCode(t, s, closing, gfs.CodeNotExist)
	mustApply(t, s, &pb.Record{Command: &pb.Record_BeginEpoch{BeginEpoch: &pb.BeginEpoch{}}})
	expectCode(t, s, place(2, gfs.NewVersion(2, 1), 3), gfs.CodeConflict)
}

// TestHandlesThatAreGoneTakeNoMemory places and drops many chunks: within one epoch the handles that were all
// used are forgotten, at the next one also those that never were.
func TestHandlesThatAreGoneTakeNoMemory(t *testing.T) {
	s := begun(t)
	churn := func(rounds, placed int) {
		for range rounds {
			id := create(t, s, "/f")
			out := mustApply(t, s, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 64}}})
			for i := range placed {
				handle := uint64(out.First) + uint64(i)
				mustApply(t, s, &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{FileId: uint64(id), Index: uint32(i), Handle: handle,
					Version: uint64(gfs.NewVersion(s.epoch, uint32(handle))), Members: 1}}})
			}
			mustApply(t, s, removing("/f", false, true))
			mustApply(t, s, dropTrash(time.Unix(0, 0), 1000))
		}
	}
	kept := func() (pages int) {
		for _, d := range s.table.directories {
			for _, p := range d.pages {
				if p.rows != nil {
					pages++
				}
			}
		}
		return pages
	}
	churn(200, 64)
	if kept() > 0 {
		t.Errorf("%d pages of the chunk table are kept for chunks that are gone", kept())
	}
	churn(20, 13) // the other handles are never placed
	mustApply(t, s, &pb.Record{Command: &pb.Record_BeginEpoch{BeginEpoch: &pb.BeginEpoch{}}})
	if kept() > 1 {
		t.Errorf("%d pages of the chunk table are kept for handles of an earlier epoch", kept())
	}
	churn(1, 64)
	verify(t, s)
	loaded, err := Load(replay(pagesOf(t, s.View())))
	if err != nil || !samePages(pagesOf(t, s.View()), pagesOf(t, loaded.View())) {
		t.Errorf("through a checkpoint: %v", err)
	}
}

// A loss is remembered with its chunk: through other configurations and a checkpoint, in the copy that a truncation puts in
// the chunk's place, and no longer than the chunk.
func TestALossIsRememberedWithItsChunk(t *testing.T) {
	s := begun(t)
	id := create(t, s, "/f")
	mustApply(t, s, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 10}}})
	version := func(n uint32) gfs.Version { return gfs.NewVersion(1, n) }
	mustApply(t, s, &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{FileId: uint64(id), Handle: 1, Version: uint64(version(1)), Members: 3}}})
	for n := uint32(2); n < 5; n++ {
		mustApply(t, s, &pb.Record{Command: &pb.Record_ConfigureChunk{ConfigureChunk: &pb.ConfigureChunk{
			Handle: 1, FromVersion: uint64(version(n - 1)), Version: uint64(version(n)), Members: 1, Open: true, UnsyncedLost: n == 3,
		}}})
	}
	want := func(h gfs.ChunkHandle, before gfs.Version) {
		t.Helper()
		view := s.View()
		if got := view.LostBefore(h); got != before {
			t.Errorf("chunk %s lost what was written before %s, want %s", h, got, before)
		}
		if err := view.Verify(); err != nil {
			t.Error(err)
		}
	}
	want(1, version(3))
	var err error
	if s, err = Load(replay(pagesOf(t, s.View()))); err != nil {
		t.Fatal(err)
	}
	want(1, version(3))
	mustApply(t, s, &pb.Record{Command: &pb.Record_CloseChunk{CloseChunk: &pb.CloseChunk{Handle: 1, Version: uint64(version(4)), Length: 100}}})
	need, err := s.View().Truncation(nil, &pb.Truncate{FileId: uint64(id), Size: 50})
	if err != nil {
		t.Fatal(err)
	}
	replacement := replacing(need.Replace, 2)
	replacement.Version = uint64(version(5))
	mustApply(t, s, truncating(id, 50, replacement))
	want(1, 0)
	want(2, version(3))
	mustApply(t, s, removing("/f", false, true))
	want(2, 0)
}
