package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

func TestDeleteAndSweep(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1_000_000, 0)
	s := openStore(t, Config{Dirs: []string{dir}, Now: func() time.Time { return now }})
	r := filled(t, s, 1, noise(1, 3*gfs.BlockSize))
	status := r.Status()
	other := status
	other.Active = v(9)
	wantCode(t, s.Delete(1, other), gfs.CodeConflict)
	closeChunk(t, s, r)
	wantCode(t, s.Delete(1, status), gfs.CodeConflict) // the mark is gone
	f, _, n, done := r.Settled(0, gfs.ChunkSize, nil)
	if n != 3*gfs.BlockSize {
		t.Fatalf("%d bytes settled", n)
	}
	must(t, s.Delete(1, r.Status()))
	wantCode(t, s.Delete(1, status), gfs.CodeNoReplica)
	_, err := r.ReadAt(make([]byte, 1), 0)
	wantCode(t, err, gfs.CodeNoReplica)
	wantCode(t, r.Promise(v(2), v(1), false), gfs.CodeNoReplica)
	if _, err := f.ReadAt(make([]byte, n), 0); err != nil {
		t.Fatalf("whoever was reading: %v", err)
	}
	done()
	if s.Len() != 0 || len(s.Statuses(0, 10)) != 0 {
		t.Fatal("the replica is still listed")
	}

	freed, err := s.Sweep(now)
	must(t, err)
	if freed != 0 {
		t.Fatalf("%d bytes freed of what is no older", freed)
	}
	// The handle can come back, by a clone, while its old files are in the trash.
	_, err = s.CreateLearner(1, v(5))
	must(t, err)
	freed, err = s.Sweep(now.Add(time.Second))
	must(t, err)
	if freed < 3*gfs.BlockSize {
		t.Fatalf("%d bytes freed", freed)
	}
	if s.Len() != 1 {
		t.Fatalf("%d replicas", s.Len())
	}
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}})
	r, err = s.Get(1)
	must(t, err)
	if got := r.Status(); got.State != gfs.ReplicaLearner || got.Length != 0 {
		t.Fatalf("status %+v after a restart", got)
	}
}

// A crash between the deletion in the index and the move leaves files that the next start moves.
func TestDeleteCutShort(t *testing.T) {
	dir := t.TempDir()
	refuse := false
	s := openStore(t, Config{Dirs: []string{dir}, fault: func(op operation, _ string, n int) (int, error) {
		if refuse && op == opRename {
			return 0, errCrash
		}
		return n, nil
	}})
	r := filled(t, s, 1, noise(1, 1000))
	refuse = true
	if err := s.Delete(1, r.Status()); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	path := s.dirs[0].chunkPath(1)
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}})
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("data left in place: %v", err)
	}
	if names, _ := os.ReadDir(filepath.Join(dir, trashName)); len(names) != 2 || s.Len() != 0 {
		t.Fatalf("trash holds %v, store %d", names, s.Len())
	}
}

func TestStatusesPages(t *testing.T) {
	s := openStore(t, Config{Dirs: []string{t.TempDir(), t.TempDir()}})
	var want []gfs.ChunkHandle
	for _, h := range []gfs.ChunkHandle{9, 3, 7, 1, 5, 8} {
		_, err := s.Create(h, v(1))
		must(t, err)
	}
	for _, h := range []gfs.ChunkHandle{7, 1} {
		r, err := s.Get(h)
		must(t, err)
		must(t, s.Delete(h, r.Status()))
	}
	_, err := s.Create(7, v(2))
	must(t, err)
	for from := gfs.ChunkHandle(0); ; {
		page := s.Statuses(from, 2)
		for _, status := range page {
			want = append(want, status.Handle)
		}
		if len(page) < 2 {
			break
		}
		from = page[1].Handle + 1
	}
	if !slices.Equal(want, []gfs.ChunkHandle{3, 5, 7, 8, 9}) || s.Len() != 5 {
		t.Fatalf("handles %v, %d in all", want, s.Len())
	}
}

// What a creation left that was cut short before the index knew of it goes to the trash; what is a replica, or is being
// made, stays.
func TestLeftoversAreSwept(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	s := openStore(t, Config{Dirs: dirs})
	r := filled(t, s, 1, noise(1, 1000))
	d := r.dir
	other := s.dirs[0]
	if other == d {
		other = s.dirs[1]
	}
	leave := func(d *directory, h gfs.ChunkHandle, names ...string) {
		must(t, os.MkdirAll(filepath.Dir(d.chunkPath(h)), 0o750))
		for _, suffix := range names {
			must(t, os.WriteFile(d.chunkPath(h)+suffix, []byte("left"), 0o600))
		}
	}
	leave(d, 2, "", sumSuffix)
	leave(d, 3, sumSuffix)
	leave(other, 1, "", sumSuffix) // of a replica that is in another directory
	leave(d, 4, "", sumSuffix)
	s.mu.Lock()
	s.replicas[4] = nil // being made
	s.mu.Unlock()
	must(t, os.WriteFile(filepath.Join(d.path, chunksName, "README"), nil, 0o600))

	n, err := s.SweepLeftovers()
	if n != 3 || err == nil { // README is no folder
		t.Fatalf("swept %d: %v", n, err)
	}
	must(t, os.Remove(filepath.Join(d.path, chunksName, "README")))
	if n, err := s.SweepLeftovers(); n != 0 || err != nil {
		t.Fatalf("swept %d more: %v", n, err)
	}
	for path, want := range map[string]bool{
		d.chunkPath(1): true, d.chunkPath(2): false, d.chunkPath(3) + sumSuffix: false, d.chunkPath(4): true, other.chunkPath(1): false,
	} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s is there: %t, %v", path, err == nil, err)
		}
	}
	if _, err := s.Create(2, 1); err != nil {
		t.Errorf("the handle of a leftover: %v", err)
	}
	s.mu.Lock()
	delete(s.replicas, 4)
	s.mu.Unlock()
}
