package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func begun(tb testing.TB) *State {
	s := New()
	mustApply(tb, s, &pb.Record{Command: &pb.Record_BeginEpoch{BeginEpoch: &pb.BeginEpoch{}}})
	return s
}

func create(tb testing.TB, s *State, path string) gfs.FileID {
	tb.Helper()
	out := mustApply(tb, s, record(&pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: path, Mode: 0o644}}))
	return gfs.FileID(out.Reply.Status.FileId)
}

// Monitoring hears of files that were made, not of those that an opening for writing found.
func TestOpeningAnExistingFileMakesNone(t *testing.T) {
	s := begun(t)
	for _, c := range []struct {
		replace, made bool
	}{{false, true}, {false, false}, {true, true}} {
		out := mustApply(t, s, record(&pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/a", Mode: 0o644, Replace: c.replace}}))
		if out.Made != c.made {
			t.Errorf("create with replace %v: made %v, want %v", c.replace, out.Made, c.made)
		}
	}
}

func mkdir(tb testing.TB, s *State, path string) {
	tb.Helper()
	mustApply(tb, s, record(&pb.NamespaceMutation_MakeDirectory{MakeDirectory: &pb.MakeDirectory{Path: path, Mode: 0o755, Parents: true}}))
}

// record makes a record of any operation or of a whole mutation.
func record(operation any) *pb.Record {
	m := &pb.NamespaceMutation{}
	switch op := operation.(type) {
	case *pb.NamespaceMutation:
		m = op
	case *pb.NamespaceMutation_CreateFile:
		m.Operation = op
	case *pb.NamespaceMutation_MakeDirectory:
		m.Operation = op
	case *pb.NamespaceMutation_Remove:
		m.Operation = op
	case *pb.NamespaceMutation_Rename:
		m.Operation = op
	case *pb.NamespaceMutation_Undelete:
		m.Operation = op
	case *pb.NamespaceMutation_SetAttributes:
		m.Operation = op
	case *pb.NamespaceMutation_Truncate:
		m.Operation = op
	default:
		panic(fmt.Sprintf("%T", op))
	}
	return &pb.Record{Command: &pb.Record_Mutation{Mutation: m}}
}

func removing(path string, recursive, now bool) *pb.Record {
	return record(&pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: path, Recursive: recursive, Now: now}})
}

func dropTrash(before time.Time, limit uint32) *pb.Record {
	return &pb.Record{Command: &pb.Record_DropTrash{DropTrash: &pb.DropTrash{BeforeUnixNano: before.UnixNano(), Limit: limit}}}
}

func verify(tb testing.TB, s *State) {
	tb.Helper()
	if err := s.View().Verify(); err != nil {
		tb.Fatal(err)
	}
}

func expectCode(t *testing.T, s *State, r *pb.Record, code gfs.Code) {
	t.Helper()
	r.Epoch = uint32(s.epoch)
	if out := s.Apply(r); codeOf(out) != code {
		t.Errorf("%v: %v instead of %s", r, out.Err, code)
	}
}

func TestMalformedRecordsChangeNothing(t *testing.T) {
	s := begun(t)
	mkdir(t, s, "/a")
	before := pagesOf(t, s.View())
	for _, r := range []*pb.Record{
		nil,
		{},
		{Command: &pb.Record_Mutation{}},
		{Command: &pb.Record_Mutation{Mutation: &pb.NamespaceMutation{}}},
		{TimeUnixNano: 99, Command: &pb.Record_Mutation{Mutation: &pb.NamespaceMutation{Session: &pb.Session{Id: 3}}}},
		{Command: &pb.Record_BeginEpoch{}},
		{Command: &pb.Record_ReserveHandles{}},
		{Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 1 << 30}}},
		{Command: &pb.Record_DropTrash{}},
		{Command: &pb.Record_ConfigureChunk{}},
		{Command: &pb.Record_CloseChunk{CloseChunk: &pb.CloseChunk{Handle: 1, Length: gfs.ChunkSize + 1}}},
		record(&pb.NamespaceMutation_CreateFile{}),
		record(&pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/a/\xff"}}),
		record(&pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/x", Mode: 0o1777}}),
		record(&pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/x", Replicas: 9}}),
		record(&pb.NamespaceMutation_Rename{Rename: &pb.Rename{From: "/a", To: "/a/b"}}),
		record(&pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: "/", Recursive: true}}),
		record(&pb.NamespaceMutation{Identity: &pb.Identity{User: "a\nb"}, Operation: &pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: "/a"}}}),
		record(&pb.NamespaceMutation{Operation: &pb.NamespaceMutation_RegisterSession{}}),
		record(&pb.NamespaceMutation_SetAttributes{SetAttributes: &pb.SetAttributes{Path: "/a", Owner: proto.String(strings.Repeat("x", 300))}}),
	} {
		if r != nil {
			r.Epoch = 1
		}
		out := s.Apply(r)
		if out.Err == nil || out.Err.Code != gfs.CodeInvalid || out.Err.Detail == "" {
			t.Errorf("%v: %+v", r, out)
		}
		if r.GetTimeUnixNano() == 0 && !samePages(before, pagesOf(t, s.View())) {
			t.Fatalf("%v changed the state", r)
		}
	}
	if !samePages(before, pagesOf(t, s.View())) {
		t.Error("the state changed")
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	s := begun(t)
	create(t, s, "/file")
	for _, c := range []struct {
		r    *pb.Record
		want error
		says string
	}{
		{removing("/none", false, false), fs.ErrNotExist, "/none does not exist"},
		{removing("/none/x/y", false, false), syscall.ENOENT, "the directory /none does not exist"},
		{record(&pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/file/x"}}), syscall.ENOTDIR, "/file is a file"},
		{record(&pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/"}}), syscall.EISDIR, "choose the name of a file"},
		{record(&pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/file", Exclusive: true}}), fs.ErrExist, "/file exists"},
		{record(&pb.NamespaceMutation_Undelete{Undelete: &pb.Undelete{Path: "/gone"}}), fs.ErrNotExist, "not in the trash"},
		{removing("/"+strings.Repeat("long/", 800)+"x", false, false), fs.ErrNotExist, "/long"},
	} {
		c.r.Epoch = 1
		out := s.Apply(c.r)
		if out.Err == nil || !errors.Is(out.Err, c.want) || !strings.Contains(out.Err.Error(), c.says) || len(out.Err.Detail) > maxDetailBytes+3 {
			t.Errorf("%v: %v", c.r, out.Err)
		}
	}
}

func TestTheClockNeverRunsBackwards(t *testing.T) {
	s := begun(t)
	for _, c := range []struct{ at, want int64 }{{1000, 1000}, {500, 1000}, {2000, 2000}, {-7, 2000}} {
		r := record(&pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: fmt.Sprintf("/%d", c.at)}})
		r.TimeUnixNano = c.at
		if got := mustApply(t, s, r).Reply.Status.ModifiedUnixNano; got != c.want {
			t.Errorf("time %d becomes %d, not %d", c.at, got, c.want)
		}
	}
	if s.View().Time() != time.Unix(0, 2000) {
		t.Errorf("the clock is %s", s.View().Time())
	}
}

func TestSessions(t *testing.T) {
	s := begun(t)
	register := func(id uint64, at int64) *pb.Record {
		r := record(&pb.NamespaceMutation{Session: &pb.Session{Id: id}, Operation: &pb.NamespaceMutation_RegisterSession{}})
		r.TimeUnixNano = at
		return r
	}
	touch := func(id, sequence, lowest uint64) *pb.Record {
		return record(&pb.NamespaceMutation{Session: &pb.Session{Id: id, Sequence: sequence, LowestUnacknowledged: lowest},
			Operation: &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: fmt.Sprintf("/%d-%d", id, sequence), Exclusive: true}}})
	}
	expectCode(t, s, touch(7, 1, 0), gfs.CodeSessionEnded)
	mustApply(t, s, register(7, 100))
	expectCode(t, s, touch(7, 0, 0), gfs.CodeInvalid)
	for sequence := range uint64(gfs.SessionWindow + 1) {
		mustApply(t, s, touch(7, sequence+1, 0))
	}
	expectCode(t, s, touch(7, 1, 0), gfs.CodeOutcomeUnknown)
	mustApply(t, s, touch(7, 2, 0)) // remembered: else the file would exist
	mustApply(t, s, touch(7, 100, 60))
	mustApply(t, s, touch(7, 90, 0)) // out of order, but new
	expectCode(t, s, touch(7, 59, 0), gfs.CodeOutcomeUnknown)
	mustApply(t, s, touch(7, 60, 0))
	mustApply(t, s, register(7, 200))
	mustApply(t, s, touch(7, 60, 1<<50)) // what the client needs no more is at most what it asks for
	mustApply(t, s, touch(7, 90, 0))
	verify(t, s)

	late := touch(7, 101, 0) // keeps the session alive
	late.TimeUnixNano = 250
	mustApply(t, s, late)

	expire := func(before int64) Outcome {
		return mustApply(t, s, &pb.Record{Command: &pb.Record_ExpireSessions{ExpireSessions: &pb.ExpireSessions{BeforeUnixNano: before}}})
	}
	for id := range uint64(maxExpire + 10) {
		mustApply(t, s, register(1000+id, 300))
	}
	mustApply(t, s, register(8, 400))
	if out := expire(250); out.More || s.View().Counts().Sessions != maxExpire+12 {
		t.Errorf("a session as old as asked for ended: %+v", s.View().Counts())
	}
	if out := expire(400); !out.More || s.View().Counts().Sessions != 12 {
		t.Errorf("first slice: %+v, %+v", out, s.View().Counts())
	}
	if out := expire(400); out.More || s.View().Counts().Sessions != 1 {
		t.Errorf("second slice: %+v, %+v", out, s.View().Counts())
	}
	expectCode(t, s, touch(7, 90, 0), gfs.CodeSessionEnded)
	verify(t, s)
	for id := range uint64(gfs.MaxSessions - 1) {
		mustApply(t, s, register(1000+id, 500))
	}
	expectCode(t, s, register(9, 500), gfs.CodeBusy)
	mustApply(t, s, register(8, 500)) // known, so there is room
}

func TestNamesBeyondTheInternedOnes(t *testing.T) {
	s := begun(t)
	s.names = append(s.names, make([]string, maxNames-len(s.names))...) // as if they were used up
	create(t, s, "/f")
	out := mustApply(t, s, record(&pb.NamespaceMutation_SetAttributes{SetAttributes: &pb.SetAttributes{Path: "/f", Owner: proto.String("late"), Group: proto.String("later")}}))
	if st, err := s.View().Stat(nil, "/f"); err != nil || !proto.Equal(st, out.Reply.Status) || st.Owner != "late" || st.Group != "later" {
		t.Errorf("%v, %v", st, err)
	}
}

// TestViewsAreReadWhileTheStateMoves is for the race detector.
func TestViewsAreReadWhileTheStateMoves(t *testing.T) {
	s := begun(t)
	var readers sync.WaitGroup
	for round := range 40 {
		for i := range 50 {
			create(t, s, fmt.Sprintf("/%d", (round*31+i*7)%400))
			s.Apply(removing(fmt.Sprintf("/%d", (round*17+i)%400), false, i%2 == 0))
		}
		mustApply(t, s, dropTrash(time.Unix(1<<30, 0), 20))
		view, counts := s.View(), s.View().Counts()
		readers.Go(func() {
			if err := view.Verify(); err != nil || view.Counts() != counts {
				t.Error(err)
			}
			if _, _, err := view.List(nil, "/", "", 0); err != nil {
				t.Error(err)
			}
			pagesOf(t, view)
		})
	}
	readers.Wait()
}
