package namespace

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"google.golang.org/protobuf/proto"
)

func TestALargeTreeIsDroppedInSlices(t *testing.T) {
	s := begun(t)
	for i := range 50 {
		mkdir(t, s, fmt.Sprintf("/top/d%d/e/f", i))
		for j := range 20 {
			create(t, s, fmt.Sprintf("/top/d%d/e/f/%d", i, j))
		}
	}
	create(t, s, "/keep")
	const all = 1 + 50*3 + 50*20
	s.Apply(removing("/top", true, false)) // of a stale epoch
	mustApply(t, s, removing("/top", true, false))
	if c := s.View().Counts(); c.Files+c.Directories != all+2 || c.Trash != 1 {
		t.Errorf("in the trash: %+v", c)
	}
	mustApply(t, s, record(&pb.NamespaceMutation_Undelete{Undelete: &pb.Undelete{Path: "/top"}}))
	if _, err := s.View().Stat(nil, "/top/d7/e/f/7"); err != nil {
		t.Errorf("after undelete: %v", err)
	}
	mustApply(t, s, removing("/top", true, true))
	rounds := 0
	for more := true; more; rounds++ {
		before := s.View().Counts()
		out := mustApply(t, s, dropTrash(time.Unix(0, 0), 100))
		after := s.View().Counts()
		if gone := before.Files + before.Directories - after.Files - after.Directories; gone > 100 {
			t.Fatalf("%d entries in a slice of 100", gone)
		}
		more = out.More
		verify(t, s)
	}
	if c := s.View().Counts(); c.Files != 1 || c.Directories != 1 || rounds < 5 {
		t.Errorf("left after %d rounds: %+v", rounds, c)
	}
}

func TestTrash(t *testing.T) {
	s := begun(t)
	at := func(r *pb.Record, seconds int64) Outcome {
		r.TimeUnixNano = time.Unix(seconds, 0).UnixNano()
		return mustApply(t, s, r)
	}
	mkdir(t, s, "/a")
	older := create(t, s, "/a/f")
	at(removing("/a/f", false, false), 10)
	newer := create(t, s, "/a/f")
	at(removing("/a/f", false, false), 20)
	var trash []TrashEntry
	for e := range s.View().Trash() {
		trash = append(trash, e)
	}
	if want := []TrashEntry{{"/a/f", older, time.Unix(10, 0)}, {"/a/f", newer, time.Unix(20, 0)}}; !slices.Equal(trash, want) {
		t.Fatalf("trash: %v", trash)
	}
	if st, err := s.View().StatID(nil, older); err != nil || st.Name != "" {
		t.Errorf("a file in the trash: %v, %v", st, err)
	}
	undelete := record(&pb.NamespaceMutation_Undelete{Undelete: &pb.Undelete{Path: "/a/f"}})
	if out := mustApply(t, s, undelete); out.Reply.Status.FileId != uint64(newer) {
		t.Errorf("the newest comes back: %v", out.Reply)
	}
	expectCode(t, s, undelete, gfs.CodeExist)
	// With its directory away, a removal cannot be undone; it can once the directory is back.
	mustApply(t, s, removing("/a/f", false, true))
	at(removing("/a", true, false), 30)
	expectCode(t, s, undelete, gfs.CodeNotExist)
	mkdir(t, s, "/a")
	if out := mustApply(t, s, undelete); out.Reply.Status.FileId != uint64(older) {
		t.Errorf("the older comes back to a new directory: %v", out.Reply)
	}
	// Retention: only what was removed before ends.
	at(removing("/a/f", false, false), 40)
	if v := s.View(); v.DropDue(time.Unix(30, 0)) || !v.DropDue(time.Unix(31, 0)) {
		t.Error("what is due is wrong")
	}
	if mustApply(t, s, dropTrash(time.Unix(40, 0), 100)); s.View().Counts().Trash != 1 {
		t.Errorf("%+v", s.View().Counts())
	}
	verify(t, s)
}

func TestListTrash(t *testing.T) {
	s := begun(t)
	remove := func(path string, seconds int64) {
		r := removing(path, true, false)
		r.TimeUnixNano = time.Unix(seconds, 0).UnixNano()
		mustApply(t, s, r)
	}
	mkdir(t, s, "/a/deep")
	const files = gfs.MaxListEntries + 10
	for i := range files {
		create(t, s, fmt.Sprintf("/a/%04d", i))
		remove(fmt.Sprintf("/a/%04d", i), int64(i+1))
	}
	remove("/a/deep", files+1)
	list := func(id *pb.Identity, limit int) (paths []string, pages int) {
		for after := (*pb.TrashPlace)(nil); pages == 0 || after != nil; pages++ {
			entries, next, err := s.View().ListTrash(id, after, limit)
			if err != nil || limit > 0 && len(entries) > limit || len(entries) > gfs.MaxListEntries {
				t.Fatalf("page %d: %d entries, %v", pages, len(entries), err)
			}
			for _, e := range entries {
				paths = append(paths, e.GetPath())
			}
			after = next
		}
		return paths, pages
	}
	for _, limit := range []int{0, 100, files + 1} {
		paths, pages := list(nil, limit)
		if len(paths) != files+1 || paths[0] != "/a/0000" || paths[files] != "/a/deep" || !slices.IsSorted(paths) || pages < 2 {
			t.Errorf("limit %d: %d entries in %d pages", limit, len(paths), pages)
		}
	}
	entries, _, err := s.View().ListTrash(nil, &pb.TrashPlace{RemovedUnixNano: time.Unix(files, 0).UnixNano(), FileId: 1 << 60}, 0)
	if err != nil || len(entries) != 1 || !entries[0].GetStatus().GetDirectory() || entries[0].GetStatus().GetName() != "deep" {
		t.Errorf("the last one: %v, %v", entries, err)
	}
	if paths, _ := list(&pb.Identity{User: "eve"}, 0); len(paths) != 0 {
		t.Errorf("somebody who may undo nothing sees %d removals", len(paths))
	}
	if _, _, err := s.View().ListTrash(&pb.Identity{User: "a/b"}, nil, 0); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("a malformed user: %v", err)
	}
}

func TestAPageOfTheTrashFitsIntoAMessage(t *testing.T) {
	s := begun(t)
	long := ""
	for range 15 {
		long += "/" + strings.Repeat("n", 250)
	}
	mkdir(t, s, long)
	for i := range 300 {
		name := fmt.Sprintf("%s/%d", long, i)
		create(t, s, name)
		mustApply(t, s, removing(name, false, false))
	}
	seen := 0
	for after := (*pb.TrashPlace)(nil); seen == 0 || after != nil; {
		entries, next, err := s.View().ListTrash(nil, after, 0)
		if err != nil || proto.Size(&pb.TrashReply{Entries: entries, Next: next}) > gfs.MaxMessageBytes {
			t.Fatalf("%d entries in a page: %v", len(entries), err)
		}
		seen, after = seen+len(entries), next
	}
	if seen != 300 {
		t.Errorf("%d of 300 removals", seen)
	}
}
