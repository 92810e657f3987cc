package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// v is the attempt's version under epoch 1.
func v(attempt uint32) gfs.Version { return gfs.NewVersion(1, attempt) }

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode fails the test unless an error has a code, and a detail that a person can act on.
func wantCode(t testing.TB, err error, code gfs.Code) {
	t.Helper()
	if gfs.CodeOf(err) != code {
		t.Fatalf("error %v has code %s, want %s", err, gfs.CodeOf(err), code)
	}
	var e *gfs.Error
	if !errors.As(err, &e) || e.Detail == "" {
		t.Fatalf("error %v has no detail", err)
	}
}

// openStore opens a store that the test closes.
func openStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Cluster == "" {
		cfg.Cluster = "c"
	}
	s, err := Open(cfg)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// filled is a replica with data up to its length, all committed.
func filled(t testing.TB, s *Store, h gfs.ChunkHandle, data []byte) *Replica {
	t.Helper()
	r, err := s.Create(h, v(1))
	must(t, err)
	if len(data) > 0 {
		must(t, r.WriteAt(0, data, nil))
	}
	must(t, r.Advance(Progress{Length: int64(len(data)), Commit: int64(len(data))}))
	return r
}

// closeChunk closes replicas as the end of a lease does.
func closeChunk(t testing.TB, s *Store, replicas ...*Replica) {
	t.Helper()
	must(t, s.SyncAll(replicas))
	must(t, s.Unmark(replicas))
}

func TestZeroBlock(t *testing.T) {
	if got := checksum(zeros[:]); got != zeroBlockCRC {
		t.Fatalf("checksum of a block of zeros is %#x", got)
	}
}

func TestTwinIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}})
	_, err := Open(Config{Dirs: []string{dir}, Cluster: "c"})
	wantCode(t, err, gfs.CodeInUse)
	if !strings.Contains(err.Error(), "running") {
		t.Fatalf("%v does not say what is wrong", err)
	}
	must(t, s.Close())
	openStore(t, Config{Dirs: []string{dir}})
}

func TestIdentity(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	s := openStore(t, Config{Dirs: dirs[:1]})
	id := s.ID()
	if len(id) != 16 {
		t.Fatalf("server id %q", id)
	}
	must(t, s.Close())

	_, err := Open(Config{Dirs: dirs[:1], Cluster: "other"})
	wantCode(t, err, gfs.CodeWrongCluster)

	// A directory added later becomes part of the server.
	s = openStore(t, Config{Dirs: dirs})
	if s.ID() != id {
		t.Fatalf("id %s became %s", id, s.ID())
	}
	must(t, s.Close())

	// One of another server does not.
	stranger := t.TempDir()
	must(t, openStore(t, Config{Dirs: []string{stranger}}).Close())
	_, err = Open(Config{Dirs: []string{dirs[0], stranger}, Cluster: "c"})
	wantCode(t, err, gfs.CodeInvalid)

	// Nor one that lost its identity.
	must(t, os.Remove(filepath.Join(stranger, identityName)))
	_, err = Open(Config{Dirs: []string{stranger}, Cluster: "c"})
	wantCode(t, err, gfs.CodeInvalid)
}

func TestNewerFormatsAreRefused(t *testing.T) {
	t.Run("identity", func(t *testing.T) {
		dir := t.TempDir()
		must(t, openStore(t, Config{Dirs: []string{dir}}).Close())
		path := filepath.Join(dir, identityName)
		text, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, []byte(strings.Replace(string(text), `"format": 1`, `"format": 2`, 1)), 0o640))
		_, err = Open(Config{Dirs: []string{dir}, Cluster: "c"})
		wantCode(t, err, gfs.CodeInvalid)
		if !strings.Contains(err.Error(), "newer") {
			t.Fatalf("%v does not say what to do", err)
		}
	})
	t.Run("index", func(t *testing.T) {
		dir := t.TempDir()
		s := openStore(t, Config{Dirs: []string{dir}})
		must(t, s.dirs[0].commit(change{bucketServer, []byte(keyFormat), []byte{0, 0, 0, 0, 0, 0, 0, 2}}))
		must(t, s.Close())
		_, err := Open(Config{Dirs: []string{dir}, Cluster: "c"})
		wantCode(t, err, gfs.CodeInvalid)
	})
	t.Run("checksums", func(t *testing.T) {
		dir := t.TempDir()
		s := openStore(t, Config{Dirs: []string{dir}})
		r := filled(t, s, 1, noise(1, 1000))
		closeChunk(t, s, r)
		path := s.dirs[0].chunkPath(1) + sumSuffix
		must(t, s.Close())
		b, err := os.ReadFile(path)
		must(t, err)
		b[8] = 2
		must(t, os.WriteFile(path, b, 0o640))
		s = openStore(t, Config{Dirs: []string{dir}})
		r, err = s.Get(1)
		must(t, err)
		_, err = r.ReadAt(make([]byte, 10), 0)
		wantCode(t, err, gfs.CodeInvalid)
		if got := r.Status().State; got != gfs.ReplicaMember || !strings.Contains(err.Error(), "newer") {
			t.Fatalf("state %s; %v does not say what to do", got, err)
		}
		// One that is open for mutation has to be read at once.
		b[8] = 1
		must(t, os.WriteFile(path, b, 0o640))
		must(t, r.Promise(v(2), v(1), false))
		must(t, s.Close())
		b[8] = 2
		must(t, os.WriteFile(path, b, 0o640))
		_, err = Open(Config{Dirs: []string{dir}, Cluster: "c"})
		wantCode(t, err, gfs.CodeInvalid)
	})
}

func TestEpoch(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}})
	must(t, s.RaiseEpoch(3))
	must(t, s.RaiseEpoch(3))
	wantCode(t, s.RaiseEpoch(2), gfs.CodeStaleEpoch)
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}})
	if s.Epoch() != 3 {
		t.Fatalf("epoch %d after a restart", s.Epoch())
	}
	r, err := s.Create(1, gfs.NewVersion(3, 1))
	must(t, err)
	wantCode(t, r.Promise(gfs.NewVersion(2, 9), gfs.NewVersion(3, 1), false), gfs.CodeStaleEpoch)
}

func TestCreateIsExclusive(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}})
	r, err := s.Create(5, v(1))
	must(t, err)
	want := Status{Handle: 5, Promised: v(1), Active: v(1), State: gfs.ReplicaMember, Marked: true}
	if got := r.Status(); got != want {
		t.Fatalf("status %+v, want %+v", got, want)
	}
	_, err = s.Create(5, v(2))
	wantCode(t, err, gfs.CodeExist)
	_, err = s.CreateLearner(5, v(2))
	wantCode(t, err, gfs.CodeExist)
	_, err = s.Get(6)
	wantCode(t, err, gfs.CodeNoReplica)
	_, err = s.Create(0, v(2))
	wantCode(t, err, gfs.CodeInvalid)

	// Files that a crash left without a row are in nobody's way, and are not unlinked at once.
	left := s.dirs[0].chunkPath(6)
	must(t, os.MkdirAll(filepath.Dir(left), 0o750))
	must(t, os.WriteFile(left, []byte("left"), 0o640))
	_, err = s.Create(6, v(1))
	must(t, err)
	if names, _ := os.ReadDir(filepath.Join(dir, trashName)); len(names) != 1 {
		t.Fatalf("trash holds %v", names)
	}
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}})
	r, err = s.Get(5)
	must(t, err)
	if got := r.Status(); got != want || s.Len() != 2 {
		t.Fatalf("status %+v after a restart, want %+v; %d replicas", got, want, s.Len())
	}
}

func TestCreateWithoutSpace(t *testing.T) {
	s := openStore(t, Config{Dirs: []string{t.TempDir()}, CapacityBytes: 1 << 20})
	filled(t, s, 1, noise(1, 1<<20))
	_, err := s.Create(2, v(1))
	wantCode(t, err, gfs.CodeNoSpace)
	if capacity, used, free := s.Space(); capacity != 1<<20 || used != 1<<20 || free != 0 {
		t.Fatalf("capacity %d used %d free %d", capacity, used, free)
	}
	s = openStore(t, Config{Dirs: []string{t.TempDir()}, ReserveBytes: 1 << 60})
	_, err = s.Create(2, v(1))
	wantCode(t, err, gfs.CodeNoSpace)
}

func TestPromise(t *testing.T) {
	s := openStore(t, Config{Dirs: []string{t.TempDir()}})
	r := filled(t, s, 1, noise(1, 100))
	must(t, r.WriteAt(100, []byte("piece"), nil))
	wantCode(t, r.Promise(v(1), v(1), false), gfs.CodeStaleVersion)
	if r.content.end != 105 {
		t.Fatal("a refused promise discarded a piece")
	}
	must(t, r.Promise(v(3), v(1), false))
	if err := r.Promise(v(2), v(1), false); !strings.Contains(err.Error(), "promised is 1.3") {
		t.Fatalf("%v does not say what is promised", err)
	}
	if got := r.Status(); got.Promised != v(3) || got.Active != v(1) {
		t.Fatalf("status %+v", got)
	}
	wantCode(t, r.Activate(v(1)), gfs.CodeStaleVersion)
	// Promised is 3, not 2: it need not hold what was acknowledged in 2.
	must(t, r.Promise(v(4), v(2), false))
	if got := r.Status(); got.Active != v(1) {
		t.Fatalf("active is %s without having been promised", got.Active)
	}
	must(t, r.Promise(v(5), v(4), false))
	if got := r.Status(); got.Active != v(4) {
		t.Fatalf("active is %s, want that of the frozen version", got.Active)
	}
	must(t, r.Activate(v(5)))
	if got := r.Status(); got.Active != v(5) || got.State != gfs.ReplicaMember {
		t.Fatalf("status %+v", got)
	}
}

func TestLearner(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}})
	r, err := s.CreateLearner(1, v(1))
	must(t, err)
	data := noise(1, 1000)
	must(t, r.WriteAt(0, data, nil))
	must(t, r.Advance(Progress{Length: 1000, Commit: 1000}))
	_, err = r.ReadAt(make([]byte, 10), 0)
	wantCode(t, err, gfs.CodeNoReplica)
	// Promised is what the attempt starts from, but a learner is not taken for a member by that.
	must(t, r.Promise(v(2), v(1), true))
	must(t, r.Promise(v(3), v(2), true))
	if got := r.Status(); got.State != gfs.ReplicaLearner || got.Active != 0 {
		t.Fatalf("status %+v", got)
	}
	must(t, r.Activate(v(3)))
	check := func() {
		t.Helper()
		if got := r.Status(); got.State != gfs.ReplicaMember || got.Active != v(3) || got.Length != 1000 {
			t.Fatalf("status %+v", got)
		}
		got := make([]byte, 1000)
		if _, err := r.ReadAt(got, 0); err != nil || !slices.Equal(got, data) {
			t.Fatalf("read: %v", err)
		}
	}
	check()
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}})
	r, err = s.Get(1)
	must(t, err)
	check()
	// A member that joins again is a learner at once, and stays one over a restart.
	must(t, r.Promise(v(4), v(3), true))
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}})
	r, err = s.Get(1)
	must(t, err)
	if got := r.Status(); got.State != gfs.ReplicaLearner || got.Active != v(3) {
		t.Fatalf("status %+v", got)
	}
}

func TestSetState(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}})
	r := filled(t, s, 1, noise(1, 1000))
	for _, state := range []gfs.ReplicaState{gfs.ReplicaCorrupt, gfs.ReplicaSuspect, gfs.ReplicaMember} {
		must(t, r.SetState(state))
		must(t, s.Close())
		s = openStore(t, Config{Dirs: []string{dir}})
		var err error
		r, err = s.Get(1)
		must(t, err)
		if got := r.Status().State; got != state {
			t.Fatalf("state %s after a restart, want %s", got, state)
		}
	}
	wantCode(t, r.SetState(0), gfs.CodeInvalid)
}

func TestUnmarkNeedsSync(t *testing.T) {
	s := openStore(t, Config{Dirs: []string{t.TempDir()}})
	r1, r2 := filled(t, s, 1, noise(1, 1000)), filled(t, s, 2, noise(2, 1000))
	must(t, s.SyncAll([]*Replica{r1, r2}))
	must(t, r1.Advance(Progress{Length: 2000}))
	wantCode(t, s.Unmark([]*Replica{r2, r1, r1}), gfs.CodeConflict)
	if !r1.Status().Marked || r2.Status().Marked {
		t.Fatal("the wrong one was closed")
	}
	wantCode(t, r2.WriteAt(0, []byte("x"), nil), gfs.CodeConflict)
	wantCode(t, r2.Advance(Progress{Length: 3000}), gfs.CodeConflict)
	closeChunk(t, s, r1, r2)
}

func TestBadArguments(t *testing.T) {
	s := openStore(t, Config{Dirs: []string{t.TempDir()}})
	r := filled(t, s, 1, noise(1, 1000))
	for name, err := range map[string]error{
		"negative offset":   r.WriteAt(-1, []byte("x"), nil),
		"nothing":           r.WriteAt(0, nil, nil),
		"beyond the chunk":  r.WriteAt(gfs.ChunkSize, []byte("x"), nil),
		"across its end":    r.WriteAt(gfs.ChunkSize-1, []byte("xx"), nil),
		"too few checksums": r.WriteAt(gfs.BlockSize-1, []byte("xx"), []uint32{1}),
		"shorter":           r.Advance(Progress{Length: 999}),
		"longer":            r.Advance(Progress{Length: gfs.ChunkSize + 1}),
		"reserve nothing":   r.Preallocate(0),
		"patch too long":    r.ApplyPatch(Patch{Length: gfs.ChunkSize + 1, State: gfs.ReplicaMember}),
		"patch without":     r.ApplyPatch(Patch{Length: 5}),
		"patch block":       r.ApplyPatch(Patch{Length: 5, State: gfs.ReplicaMember, Blocks: []PatchBlock{{Index: 1}}}),
		"patch index":       r.ApplyPatch(Patch{Length: 5, State: gfs.ReplicaMember, Blocks: []PatchBlock{{Index: 1 << 31}}}),
		"patch bytes":       r.ApplyPatch(Patch{Length: 5, State: gfs.ReplicaMember, Blocks: []PatchBlock{{Data: []byte("x")}}}),
	} {
		if gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantCode(t, r.ApplyPatch(Patch{Length: 1, State: gfs.ReplicaMember, Blocks: []PatchBlock{{Data: []byte("x"), CRC: 1}}}), gfs.CodeCorrupt)
	if got := r.Status(); got.Length != 1000 {
		t.Fatalf("status %+v", got)
	}
}

// Many closed chunks are read over few open files.
func TestFileCache(t *testing.T) {
	s := openStore(t, Config{Dirs: []string{t.TempDir()}, OpenChunks: 3})
	var replicas []*Replica
	for h := range gfs.ChunkHandle(10) {
		replicas = append(replicas, filled(t, s, h+1, noise(uint64(h), 2*gfs.BlockSize)))
	}
	closeChunk(t, s, replicas...)
	for range 2 {
		for h, r := range replicas {
			got := make([]byte, 2*gfs.BlockSize)
			if _, err := r.ReadAt(got, 0); err != nil || !slices.Equal(got, noise(uint64(h), len(got))) {
				t.Fatalf("chunk %d: %v", h+1, err)
			}
		}
	}
	open := 0
	for _, r := range replicas {
		if r.content != nil {
			open++
		}
	}
	if open > 3 {
		t.Fatalf("%d replicas are open", open)
	}
}

// A restart reads the index, not the chunks.
func TestOpenManyChunks(t *testing.T) {
	const count = 100_000
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}})
	for first := 1; first <= count; first += 10_000 {
		var changes []change
		for h := first; h < first+10_000; h++ {
			changes = append(changes, rowChange(gfs.ChunkHandle(h), row{promised: v(1), active: v(1), state: gfs.ReplicaMember}))
		}
		must(t, s.dirs[0].commit(changes...))
	}
	must(t, s.Close())
	start := time.Now()
	s = openStore(t, Config{Dirs: []string{dir}})
	took := time.Since(start)
	t.Logf("opened %d chunks in %v", s.Len(), took)
	if s.Len() != count || took > 2*time.Second {
		t.Fatalf("%d chunks in %v, want %d in 2 s", s.Len(), took, count)
	}
	if page := s.Statuses(count-5, 100); len(page) != 6 || page[5].Handle != count {
		t.Fatalf("last page %v", page)
	}
}
