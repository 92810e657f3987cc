package namespace

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func TestPermissionsOfDirectories(t *testing.T) {
	s := begun(t)
	as := func(user string, operation any) *pb.Record {
		r := record(operation)
		r.GetMutation().Identity = &pb.Identity{User: user}
		return r
	}
	making := func(path string, mode uint32) *pb.NamespaceMutation_MakeDirectory {
		return &pb.NamespaceMutation_MakeDirectory{MakeDirectory: &pb.MakeDirectory{Path: path, Mode: mode}}
	}
	rename := func(from, to string) *pb.NamespaceMutation_Rename {
		return &pb.NamespaceMutation_Rename{Rename: &pb.Rename{From: from, To: to}}
	}
	remove := func(path string) *pb.NamespaceMutation_Remove {
		return &pb.NamespaceMutation_Remove{Remove: &pb.Remove{Path: path, Recursive: true}}
	}
	mustApply(t, s, as("alice", making("/closed", 0o755)))
	mustApply(t, s, as("alice", making("/closed/in", 0o777)))
	mustApply(t, s, as("alice", making("/hidden", 0o700)))
	mustApply(t, s, as("bob", making("/bobs", 0o777)))
	for _, operation := range []any{
		making("/closed/x", 0o777),            // no name is added
		rename("/closed/in", "/bobs/in"),      // none is taken away
		remove("/closed/in"),                  // nor removed
		remove("/closed"),                     // a directory with something in it: as if its names were removed
		rename("/closed", "/bobs/closed"),     // its parent would change
		making("/hidden/x", 0o777),            // not searched
		rename("/bobs", "/closed/in/../bobs"), // no name is added here either
	} {
		expectCode(t, s, as("bob", operation), gfs.CodePermission)
	}
	if _, _, err := s.View().List(&pb.Identity{User: "bob"}, "/hidden", "", 0); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a hidden directory is listed: %v", err)
	}
	mustApply(t, s, as("bob", rename("/closed", "/renamed"))) // in the same directory, which everyone may write to
	mustApply(t, s, as("bob", remove("/hidden")))             // empty
	mustApply(t, s, as("alice", rename("/renamed", "/bobs/closed")))
	mustApply(t, s, as("bob", making("/bobs/closed/in/deep", 0o700)))
	mustApply(t, s, as("alice", remove("/bobs/closed"))) // what lies deeper is not asked
	verify(t, s)
}

func TestPermissionsOfFiles(t *testing.T) {
	s := begun(t)
	alice := &pb.Identity{User: "alice", Groups: []string{"staff"}}
	out := mustApply(t, s, record(&pb.NamespaceMutation{Identity: alice, Operation: &pb.NamespaceMutation_CreateFile{CreateFile: &pb.CreateFile{Path: "/f", Mode: 0o240, Replicas: 2, Synced: true}}}))
	id := gfs.FileID(out.Reply.Status.FileId)
	if st := out.Reply.Status; st.Owner != "alice" || st.Group != "staff" || st.Replicas != 2 {
		t.Errorf("made: %v", st)
	}
	view := s.View()
	for _, c := range []struct {
		id          *pb.Identity
		read, write bool
	}{
		{alice, false, true}, // the owner's bits, though the group's allow more
		{&pb.Identity{User: "bob", Groups: []string{"x", "staff"}}, true, false},
		{&pb.Identity{User: "carol"}, false, false},
		{&pb.Identity{User: "root"}, true, true},
		{nil, true, true},
	} {
		for write, want := range map[bool]bool{false: c.read, true: c.write} {
			file, err := view.CheckFile(c.id, id, write)
			if (err == nil) != want || err != nil && !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%v, write %t: %v", c.id, write, err)
			}
			if err == nil && file != (File{ID: id, Replicas: 2, Synced: true}) {
				t.Errorf("%+v", file)
			}
		}
	}
	if _, err := view.CheckFile(nil, gfs.RootID, false); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("the root is read: %v", err)
	}
	if _, err := view.CheckFile(nil, 99, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unknown id: %v", err)
	}
}
