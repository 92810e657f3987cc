package oplog

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
)

// A restored master has the state that it was given, goes on from there, and still has all of it when it is opened again.
func TestARestoredMasterGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on the way")
	given := map[string]string{}
	for i := range 1000 {
		given[fmt.Sprintf("row%03d", i)] = "given"
	}
	if err := Restore(testConfig(t, dir, nil), 4711, &tableView{rows: given}); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		machine := newTable()
		l := openActing(t, testConfig(t, dir, machine))
		if got := machine.state(); !maps.Equal(got, given) {
			t.Fatalf("opened %d times: %d rows, want %d", round+1, len(got), len(given))
		}
		key := fmt.Sprint("later", round)
		mustPropose(t, l, key+"=x")
		given[key] = "x"
		if stats := l.Stats(); stats.Applied <= 4711 {
			t.Errorf("applied index %d after a checkpoint at 4711", stats.Applied)
		}
		if round == 1 {
			if err := l.Checkpoint(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, l)
	}
}

// Two of three masters were restored: the third, which begins empty, neither leads nor keeps its emptiness.
func TestAnEmptyMasterJoinsARestoredGroup(t *testing.T) {
	g := startGroup(t)
	g.set("old", "group")
	given := map[string]string{"given": "state"}
	for _, id := range []string{"m1", "m2", "m3"} {
		g.stop(id)
		g.dirs[id] = t.TempDir()
		if id == "m3" {
			continue
		}
		if err := Restore(Config{Dir: g.dirs[id], Cluster: "test", ID: id, Peers: g.peers}, 99, &tableView{rows: given}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"m3", "m1", "m2"} {
		g.start(id)
	}
	if acting := g.acting(); acting == "m3" {
		t.Error("the empty master acts")
	}
	g.set("later", "on")
	for _, id := range []string{"m1", "m2", "m3"} {
		g.await(id, map[string]string{"given": "state", "later": "on"})
	}
}

// A folder that anybody uses, or used, is left as it is.
func TestRestoreIsRefused(t *testing.T) {
	view := func() View { return &tableView{rows: map[string]string{"a": "b"}} }
	refuse := func(what, dir string, want error, says string) {
		t.Helper()
		if err := Restore(testConfig(t, dir, nil), 1, view()); !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %v with %q", what, err, want, says)
		}
	}
	dir := t.TempDir()
	l := openActing(t, testConfig(t, dir, newTable()))
	refuse("a running master", dir, gfs.ErrInUse, "running master")
	mustClose(t, l)
	refuse("a master's folder", dir, fs.ErrExist, `master m1 of cluster "test"`)
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "notes"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refuse("a folder with something else", other, fs.ErrExist, "notes")
	if err := Restore(Config{Dir: t.TempDir(), Cluster: "no good", ID: "m1"}, 1, view()); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a bad cluster: %v", err)
	}

	torn := filepath.Join(t.TempDir(), "torn")
	if err := Restore(testConfig(t, torn, nil), 1, &tableView{rows: map[string]string{"a": "b"}, tear: "a"}); err == nil {
		t.Error("a state that fails half way was restored")
	}
	if _, err := Open(testContext(t), testConfig(t, torn, newTable())); !errors.Is(err, gfs.ErrCorrupt) {
		t.Errorf("a folder that was cut short: %v", err)
	}
}
