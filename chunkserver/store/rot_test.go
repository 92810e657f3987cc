package store

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// flip changes one bit of a file.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], at)
	must(t, err)
}

// A flipped bit in the data is never served, neither by a copy nor through a checksum made later.
func TestFlippedDataBit(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}})
	data := noise(1, 3*gfs.BlockSize+100)
	r := filled(t, s, 1, data)
	path := s.dirs[0].chunkPath(1)
	flip(t, path, gfs.BlockSize+5)
	flip(t, path, 3*gfs.BlockSize+5)
	check := func() {
		t.Helper()
		got := make([]byte, len(data))
		n, err := r.ReadAt(got, 0)
		wantCode(t, err, gfs.CodeCorrupt)
		if !bytes.Equal(got[:n], data[:gfs.BlockSize]) {
			t.Fatalf("%d bytes before the bad block", n)
		}
		if n, err = r.ReadAt(got[:gfs.BlockSize], 2*gfs.BlockSize); err != nil || n != gfs.BlockSize {
			t.Fatalf("the good block behind: %d, %v", n, err)
		}
		if bad, err := r.VerifyAll(); err != nil || !slices.Equal(bad, []uint32{1, 3}) {
			t.Fatalf("bad blocks %v, %v", bad, err)
		}
		wantCode(t, r.Verify(1), gfs.CodeCorrupt)
		must(t, r.Verify(2))
	}
	check()
	// A part of the block can not be written: the checksum of the rest would be blessed.
	wantCode(t, r.WriteAt(gfs.BlockSize+100, []byte("part"), nil), gfs.CodeCorrupt)
	wantCode(t, r.Recompute(1), gfs.CodeConflict)
	check()
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}})
	r, _ = s.Get(1)
	check()
	// Extending the last block keeps its CRC, so that the bad byte stays found.
	must(t, r.WriteAt(int64(len(data)), []byte("more"), nil))
	must(t, r.Advance(Progress{Length: int64(len(data)) + 4}))
	check()
	// The whole block can be written.
	must(t, r.WriteAt(gfs.BlockSize, data[gfs.BlockSize:2*gfs.BlockSize], nil))
	must(t, r.Verify(1))
}

// Whatever bit of a checksum file flips while the process is down, a member never comes back with less than was
// acknowledged, nor with bytes that differ.
func TestFlippedChecksumBit(t *testing.T) {
	for _, marked := range []bool{true, false} {
		dir := t.TempDir()
		s := openStore(t, Config{Dirs: []string{dir}, logBytes: 700, noSync: true})
		r := filled(t, s, 1, nil)
		var data []byte
		for i := range 12 {
			part := noise(uint64(i), 30_000)
			must(t, r.WriteAt(int64(len(data)), part, nil))
			data = append(data, part...)
			must(t, r.Advance(Progress{
				Length: int64(len(data)), Commit: int64(len(data)), Appends: []mutation.Append{appendOf(1, uint64(i), 0, 9)},
			}))
		}
		want, err := r.Digest()
		must(t, err)
		if !marked {
			closeChunk(t, s, r)
		}
		path := s.dirs[0].chunkPath(1) + sumSuffix
		must(t, s.Close())
		sums, err := os.ReadFile(path)
		must(t, err)
		info, err := os.Stat(path)
		must(t, err)
		for _, base := range []int64{0, regionBytes, 2 * regionBytes} {
			for at := base; at < min(base+1200, info.Size()); at += 29 {
				flip(t, path, at)
				checkRotten(t, dir, want, data, marked)
				must(t, os.WriteFile(path, sums, 0o640))
				must(t, os.WriteFile(strings.TrimSuffix(path, sumSuffix), data, 0o640))
			}
		}
	}
}

func checkRotten(t *testing.T, dir string, want Digest, data []byte, marked bool) {
	t.Helper()
	s, err := Open(Config{Dirs: []string{dir}, Cluster: "c", logBytes: 700, noSync: true})
	must(t, err)
	defer func() {
		must(t, s.Close())
		// What the damage made of the row must not outlive it.
		restoreRow(t, dir, marked, want.Length)
	}()
	r, err := s.Get(1)
	must(t, err)
	got := make([]byte, len(data))
	n, err := r.ReadAt(got, 0)
	if !bytes.Equal(got[:n], data[:n]) {
		t.Fatal("bytes differ")
	}
	status := r.Status()
	d, derr := r.Digest()
	switch {
	case status.State != gfs.ReplicaMember || err != nil && gfs.CodeOf(err) == gfs.CodeCorrupt:
	case derr == nil && d.Sum() == want.Sum():
	case marked && status.Length == want.Length-30_000:
		// A rotten last record looks like a torn one, which nobody was told of: only a peer knows better.
	default:
		t.Fatalf("came back as a member with %+v, %v", status, derr)
	}
}

// restoreRow puts the row of chunk 1 back as it was.
func restoreRow(t *testing.T, dir string, marked bool, length int64) {
	t.Helper()
	x, err := openIndex(dir+"/"+indexName, nil, true)
	must(t, err)
	var was row
	must(t, x.each(func(_ gfs.ChunkHandle, r row, _ error) error { was = r; return nil }))
	was.state, was.length, was.commit = gfs.ReplicaMember, length, length
	if marked {
		was.length, was.commit = 0, 0
	}
	must(t, x.commit([]change{rowChange(1, was)}))
	must(t, x.close())
}

// A row that makes no sense is a corrupt replica; the others are not touched by it.
func TestFlippedIndexRow(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}})
	r1, r2 := filled(t, s, 1, noise(1, 100)), filled(t, s, 2, noise(2, 100))
	closeChunk(t, s, r1, r2)
	bad := rowChange(1, row{promised: v(1), active: v(1), state: gfs.ReplicaMember})
	bad.value[9] ^= 1
	must(t, s.dirs[0].commit(bad))
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}})
	r, err := s.Get(1)
	must(t, err)
	if got := r.Status().State; got != gfs.ReplicaCorrupt {
		t.Fatalf("state %s", got)
	}
	_, err = r.ReadAt(make([]byte, 1), 0)
	wantCode(t, err, gfs.CodeCorrupt)
	must(t, s.Delete(1, r.Status()))
	r, err = s.Get(2)
	must(t, err)
	if _, err := r.ReadAt(make([]byte, 100), 0); err != nil {
		t.Fatal(err)
	}
}

// Files that are gone make a replica corrupt when somebody wants to read them, and after that for ever.
func TestMissingFiles(t *testing.T) {
	for _, suffix := range []string{"", sumSuffix} {
		dir := t.TempDir()
		s := openStore(t, Config{Dirs: []string{dir}})
		closeChunk(t, s, filled(t, s, 1, noise(1, 100)))
		must(t, s.Close())
		s = openStore(t, Config{Dirs: []string{dir}})
		must(t, os.Remove(s.dirs[0].chunkPath(1)+suffix))
		r, err := s.Get(1)
		must(t, err)
		wantCode(t, r.Promise(v(2), v(1), false), gfs.CodeCorrupt)
		_, err = r.ReadAt(make([]byte, 1), 0)
		wantCode(t, err, gfs.CodeCorrupt)
		must(t, s.Close())
		s = openStore(t, Config{Dirs: []string{dir}})
		r, err = s.Get(1)
		must(t, err)
		if got := r.Status().State; got != gfs.ReplicaCorrupt {
			t.Fatalf("state %s", got)
		}
		must(t, s.Delete(1, r.Status()))
	}
}

// Data cut short behind the store's back is unknown, not zero.
func TestShortData(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}})
	data := noise(1, 3*gfs.BlockSize)
	closeChunk(t, s, filled(t, s, 1, data))
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}})
	must(t, os.Truncate(s.dirs[0].chunkPath(1), gfs.BlockSize+1))
	r, err := s.Get(1)
	must(t, err)
	if unknown, err := r.UnknownBlocks(); err != nil || !slices.Equal(unknown, []uint32{1, 2}) {
		t.Fatalf("unknown %v, %v", unknown, err)
	}
	if _, _, n, done := r.Settled(0, gfs.ChunkSize, nil); n != gfs.BlockSize {
		t.Fatalf("%d bytes settled", n)
	} else {
		done()
	}
}

// A learner that was activated is a member like any other when power is lost: a suspect. After kill -9 it is a member.
func TestPowerLostAfterALearnerWasActivated(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}, Boot: "one"})
	r, err := s.CreateLearner(1, v(1))
	must(t, err)
	must(t, r.Promise(v(2), 0, true))
	must(t, r.Activate(v(2)))
	for _, after := range []struct {
		boot  string
		state gfs.ReplicaState
	}{{"one", gfs.ReplicaMember}, {"two", gfs.ReplicaSuspect}, {"two", gfs.ReplicaSuspect}} {
		must(t, s.Close())
		s = openStore(t, Config{Dirs: []string{dir}, Boot: after.boot})
		r, err = s.Get(1)
		must(t, err)
		if got := r.Status(); got.State != after.state || got.Active != v(2) {
			t.Fatalf("boot %s: status %+v", after.boot, got)
		}
	}
}

// After a loss of power a replica that was open for mutation serves nobody, and says how much of it is sure.
func TestPowerLost(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}, Boot: "one"})
	data := noise(1, 2*gfs.BlockSize+5000)
	r := filled(t, s, 1, data[:2*gfs.BlockSize+2000])
	closed := filled(t, s, 2, data)
	closeChunk(t, s, closed)
	must(t, r.Sync())
	must(t, r.WriteAt(2*gfs.BlockSize+2000, data[2*gfs.BlockSize+2000:], nil))
	must(t, r.Advance(Progress{Length: int64(len(data)), Commit: int64(len(data))}))
	unsynced, err := s.Create(3, v(1))
	must(t, err)
	must(t, unsynced.WriteAt(0, data[:1000], nil))
	must(t, unsynced.Advance(Progress{Length: 1000}))
	must(t, unsynced.Promise(v(2), v(1), false))
	path, path3 := s.dirs[0].chunkPath(1), s.dirs[0].chunkPath(3)
	must(t, s.Close())

	// What came after the sync reached the checksum file but not the data; the third chunk left only its row.
	flip(t, path, 2*gfs.BlockSize+3000)
	must(t, os.Remove(path3))
	must(t, os.Remove(path3+sumSuffix))
	s = openStore(t, Config{Dirs: []string{dir}, Boot: "two"})
	r, err = s.Get(1)
	must(t, err)
	if got := r.Status(); got.State != gfs.ReplicaSuspect || got.Length != int64(len(data)) {
		t.Fatalf("status %+v", got)
	}
	_, err = r.ReadAt(make([]byte, 10), 0)
	wantCode(t, err, gfs.CodeNoReplica)
	if _, _, n, _ := r.Settled(0, gfs.ChunkSize, nil); n != 0 {
		t.Fatal("a suspect has settled blocks")
	}
	if prefix, err := r.VerifiedPrefix(); err != nil || prefix != 2*gfs.BlockSize+2000 {
		t.Fatalf("verified prefix %d, %v", prefix, err)
	}
	if point, err := r.SyncPoint(); err != nil || point != 2*gfs.BlockSize+2000 {
		t.Fatalf("sync point %d, %v", point, err)
	}
	if got, err := s.Get(2); err != nil || got.Status().State != gfs.ReplicaMember {
		t.Fatalf("the closed chunk: %v", err)
	}
	fresh, err := s.Get(3)
	must(t, err)
	if got := fresh.Status(); got.State != gfs.ReplicaSuspect || got.Length != 0 {
		t.Fatalf("the new chunk: %+v", got)
	}

	// A restart of the process makes it no better; a patch does.
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}, Boot: "two"})
	r, err = s.Get(1)
	must(t, err)
	if got := r.Status().State; got != gfs.ReplicaSuspect {
		t.Fatalf("state %s", got)
	}
	must(t, r.Promise(v(2), v(1), false))
	if got := r.Status(); got.Active != v(1) || got.State != gfs.ReplicaSuspect {
		t.Fatalf("status %+v", got)
	}
	must(t, r.Activate(v(2)))
	block := data[2*gfs.BlockSize:]
	must(t, r.ApplyPatch(Patch{
		Length: int64(len(data)), Commit: int64(len(data)), Active: v(2), State: gfs.ReplicaMember,
		Blocks: []PatchBlock{{Index: 2, Data: block, CRC: checksum(block)}},
	}))
	got := make([]byte, len(data))
	if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("after the patch: %v", err)
	}
}

// A block that died in the middle of an overwrite can be made good where no replica has it whole.
func TestRecompute(t *testing.T) {
	dir := t.TempDir()
	k := &crasher{left: 1 << 30, cut: func(n int) int { return n / 2 }}
	s := openStore(t, Config{Dirs: []string{dir}, fault: k.fault})
	r := filled(t, s, 1, noise(1, 2*gfs.BlockSize))
	k.left = 2 // reserve, intent; then half of the data
	if err := r.WriteAt(100, noise(2, 1000), nil); err == nil {
		t.Fatal("no crash")
	}
	s.Close()
	for range 2 { // unknown is remembered over a second restart
		s = openStore(t, Config{Dirs: []string{dir}})
		r, _ = s.Get(1)
		if unknown, err := r.UnknownBlocks(); err != nil || !slices.Equal(unknown, []uint32{0}) {
			t.Fatalf("unknown %v, %v", unknown, err)
		}
		_, err := r.ReadAt(make([]byte, 10), 0)
		wantCode(t, err, gfs.CodeCorrupt)
		must(t, s.Close())
	}
	s = openStore(t, Config{Dirs: []string{dir}})
	r, _ = s.Get(1)
	wantCode(t, r.Recompute(1), gfs.CodeConflict)
	must(t, r.Recompute(0))
	must(t, s.Close())
	s = openStore(t, Config{Dirs: []string{dir}})
	r, _ = s.Get(1)
	if bad, err := r.VerifyAll(); err != nil || bad != nil {
		t.Fatalf("bad %v, %v", bad, err)
	}
	if status := r.Status(); status.State != gfs.ReplicaMember {
		t.Fatalf("status %+v", status)
	}
}
