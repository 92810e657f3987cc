package namespace

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// full is a state with something of every kind in it.
func full(tb testing.TB, files int) *State {
	s := begun(tb)
	mustApply(tb, s, record(&pb.NamespaceMutation{Session: &pb.Session{Id: 5}, Operation: &pb.NamespaceMutation_RegisterSession{}}))
	mkdir(tb, s, "/dir/below")
	reserved := mustApply(tb, s, &pb.Record{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 8000}}})
	handle := uint64(reserved.First)
	for i := range files {
		out := mustApply(tb, s, record(&pb.NamespaceMutation{
			Session: &pb.Session{Id: 5, Sequence: uint64(i + 1)}, Identity: &pb.Identity{User: fmt.Sprint("user", i%3)},
			Operation: &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: fmt.Sprintf("/file-%05d", i), Mode: 0o600}}}))
		for index := range i % 4 {
			mustApply(tb, s, &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{FileId: out.Reply.Status.FileId, Index: uint32(index),
				Handle: handle, Version: uint64(gfs.NewVersion(1, uint32(handle))), Members: 3}}})
			handle += 2
		}
	}
	create(tb, s, "/dir/below/f")
	for i := range 100 { // many runs: segments
		mustApply(tb, s, &pb.Record{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{FileId: uint64(s.nextFile - 1), Index: uint32(i),
			Handle: handle, Version: uint64(gfs.NewVersion(1, uint32(handle))), Members: 3}}})
		handle += 2
	}
	mustApply(tb, s, removing("/dir/below/f", false, true)) // some of it stays in the queue
	mustApply(tb, s, removing("/dir", true, false))
	verify(tb, s)
	return s
}

func TestADamagedCheckpointIsRefused(t *testing.T) {
	pages := pagesOf(t, full(t, 600).View())
	if len(pages) < 5 {
		t.Fatalf("only %d pages", len(pages))
	}
	refused := func(what string, damaged []Page) {
		t.Helper()
		if _, err := Load(replay(damaged)); !errors.Is(err, errCheckpoint) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("no pages", nil)
	for i, p := range pages {
		refused(fmt.Sprintf("without page %d", i), slices.Delete(slices.Clone(pages), i, i+1))
		refused(fmt.Sprintf("page %d twice", i), slices.Insert(slices.Clone(pages), i, p))
		if i > 0 {
			swapped := slices.Clone(pages)
			swapped[i], swapped[i-1] = swapped[i-1], swapped[i]
			refused(fmt.Sprintf("page %d before its predecessor", i), swapped)
		}
		for at := 0; at < len(p.Value); at += 1 + len(p.Value)/50 {
			flipped := slices.Clone(pages)
			flipped[i].Value = slices.Clone(p.Value)
			flipped[i].Value[at] ^= 4
			refused(fmt.Sprintf("page %d, byte %d", i, at), flipped)
		}
	}
	newer := slices.Clone(pages)
	newer[0] = seal([]byte{pageHeader}, []byte{checkpointFormat + 1, 1, 2, 3})
	if _, err := Load(replay(newer)); err == nil || !strings.Contains(err.Error(), "newer release") {
		t.Errorf("a later format: %v", err)
	}
	broken := errors.New("disk")
	if _, err := Load(func(yield func(Page, error) bool) { yield(Page{}, broken) }); !errors.Is(err, broken) {
		t.Errorf("a reader's error: %v", err)
	}
}

func TestACheckpointKeepsEverything(t *testing.T) {
	s := full(t, 2000)
	pages := pagesOf(t, s.View())
	loaded, err := Load(replay(pages))
	if err != nil {
		t.Fatal(err)
	}
	verify(t, loaded)
	for _, p := range pages { // it keeps none of the slices
		clear(p.Key)
		clear(p.Value)
	}
	if !samePages(pagesOf(t, loaded.View()), pagesOf(t, s.View())) || loaded.counts != s.counts {
		t.Error("the loaded state differs")
	}
	retry := record(&pb.NamespaceMutation{Session: &pb.Session{Id: 5, Sequence: 2000},
		Operation: &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/file-01999"}}})
	if a, b := mustApply(t, s, retry), mustApply(t, loaded, retry); !a.Repeated || !sameOutcome(a, b) || !proto.Equal(a.Reply, b.Reply) {
		t.Errorf("a retry after the load: %+v, %+v", a, b)
	}
}

func TestTheLongestPathFitsACheckpoint(t *testing.T) {
	s := begun(t)
	long := strings.Repeat("/"+strings.Repeat("x", gfs.MaxNameBytes-1), 16) // 4080 bytes
	long += "/" + strings.Repeat("y", gfs.MaxPathBytes-len(long)-3)
	mkdir(t, s, long)
	for i := range 100 {
		path := long + fmt.Sprintf("%02d", i)
		create(t, s, path)
		mustApply(t, s, removing(path, false, false))
	}
	verify(t, s)
	pages := pagesOf(t, s.View())
	for _, p := range pages {
		if len(p.Key) > 9 || len(p.Value) > groupPages*(pageBytes+entryBytes) {
			t.Errorf("page with a key of %d bytes and a value of %d", len(p.Key), len(p.Value))
		}
	}
	loaded, err := Load(replay(pages))
	if err != nil {
		t.Fatal(err)
	}
	verify(t, loaded)
	mustApply(t, loaded, record(&pb.NamespaceMutation_Undelete{Undelete: &pb.Undelete{Path: long + "42"}}))
}

// FuzzLoad damages one page and repairs its checksum. What is still accepted must not bring the state down,
// whatever is asked of it.
func FuzzLoad(f *testing.F) {
	pages := pagesOf(f, full(f, 70).View())
	for i, p := range pages {
		f.Add(uint8(i), p.Key, p.Value[:len(p.Value)-4])
	}
	f.Fuzz(func(t *testing.T, which uint8, key, value []byte) {
		damaged := slices.Clone(pages)
		damaged[int(which)%len(damaged)] = seal(slices.Clone(key), slices.Clone(value))
		s, err := Load(replay(damaged))
		if err != nil || s.nextHandle > 1<<20 {
			return
		}
		view := s.View()
		_ = view.Verify() // may well complain
		entries, _, _ := view.List(nil, "/", "", 20)
		for _, e := range entries {
			_, _, _ = view.FileChunks(gfs.FileID(e.FileId), 0, 50)
			_ = s.Apply(&pb.Record{Epoch: uint32(s.epoch), Command: removing("/"+e.Name, true, len(e.Name)%2 == 0).Command})
		}
		for range view.OpenChunks(1) {
		}
		for range 5 {
			r := dropTrash(time.Unix(1<<33, 0), 1000)
			r.Epoch = uint32(s.epoch)
			_ = s.Apply(r)
		}
		_ = s.Apply(&pb.Record{Epoch: uint32(s.epoch), Command: &pb.Record_ExpireSessions{ExpireSessions: &pb.ExpireSessions{BeforeUnixNano: 1 << 62}}})
		pagesOf(t, s.View())
	})
}

// FuzzApply gives records of any bytes to a state: it must keep its invariants.
func FuzzApply(f *testing.F) {
	for _, r := range []*pb.Record{
		removing("/dir", true, true), dropTrash(time.Unix(1, 0), 3),
		record(&pb.NamespaceMutation_Rename{Rename: &pb.Rename{From: "/file-00001", To: "/file-00002"}}),
		record(&pb.NamespaceMutation_Undelete{Undelete: &pb.Undelete{Path: "/dir"}}),
		{Command: &pb.Record_PlaceChunk{PlaceChunk: &pb.PlaceChunk{FileId: 4, Handle: 900, Version: uint64(gfs.NewVersion(1, 999)), Members: 3}}},
	} {
		r.Epoch = 1
		data, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	pages := pagesOf(f, full(f, 20).View())
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &pb.Record{}
		if proto.Unmarshal(data, r) != nil {
			return
		}
		s, err := Load(replay(pages))
		if err != nil {
			t.Fatal(err)
		}
		s.Apply(r)
		if err := s.View().Verify(); err != nil {
			t.Fatalf("%v: %v", r, err)
		}
		if _, err := Load(replay(pagesOf(t, s.View()))); err != nil {
			t.Fatalf("%v: %v", r, err)
		}
	})
}
