package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// step is one call of a workload and what it does to the model.
type step struct {
	name string
	off  int64 // of a write; beyond any chunk for the others
	do   func(*Store, *Replica) error
	want func(*model)
}

func writeStep(off int64, seed uint64, n int) step {
	data := noise(seed, n)
	return step{
		fmt.Sprintf("write %d at %d", n, off), off,
		func(_ *Store, r *Replica) error { return r.WriteAt(off, data, nil) },
		func(m *model) { m.write(off, data) },
	}
}

func advanceStep(p Progress) step {
	return step{
		fmt.Sprintf("advance to %d", p.Length), gfs.ChunkSize,
		func(_ *Store, r *Replica) error { return r.Advance(p) },
		func(m *model) { m.advance(p) },
	}
}

func discardStep() step {
	return step{"discard", gfs.ChunkSize, func(_ *Store, r *Replica) error { return r.DiscardBeyondLength() }, (*model).discard}
}

func syncStep() step {
	return step{"sync", gfs.ChunkSize, func(_ *Store, r *Replica) error { return r.Sync() }, func(*model) {}}
}

func promiseStep(attempt uint32) step {
	v, from := gfs.NewVersion(1, attempt), gfs.NewVersion(1, attempt-1)
	return step{
		fmt.Sprintf("promise %s", v), gfs.ChunkSize,
		func(_ *Store, r *Replica) error { return r.Promise(v, from, false) },
		func(m *model) { m.status.Promised, m.status.Active, m.status.Marked = v, from, true },
	}
}

func activateStep(attempt uint32) step {
	v := gfs.NewVersion(1, attempt)
	return step{
		fmt.Sprintf("activate %s", v), gfs.ChunkSize,
		func(_ *Store, r *Replica) error { return r.Activate(v) },
		func(m *model) { m.status.Active = v },
	}
}

func closeStep() step {
	return step{
		"close", gfs.ChunkSize,
		func(s *Store, r *Replica) error {
			return errors.Join(s.SyncAll([]*Replica{r}), s.Unmark([]*Replica{r}))
		},
		func(m *model) { m.status.Marked = false },
	}
}

// patchStep replaces a block, cuts the chunk short within another, and changes the table.
func patchStep(seed uint64) step {
	const length = 2*gfs.BlockSize + 500
	block := noise(seed, gfs.BlockSize)
	table := &mutation.Table{}
	table.Add(mutation.Entry{Writer: 77, Sequence: seed, Offset: 1, Length: 2}, 0)
	return step{
		"patch", gfs.ChunkSize,
		func(_ *Store, r *Replica) error {
			return r.ApplyPatch(Patch{
				Length: length, Commit: length, Active: r.Status().Active, State: gfs.ReplicaMember, Table: table,
				Blocks: []PatchBlock{{Index: 1, Data: block, CRC: checksum(block)}},
			})
		},
		func(m *model) {
			m.bytes = append(m.bytes, make([]byte, 3*gfs.BlockSize)...)[:length]
			copy(m.bytes[gfs.BlockSize:], block)
			m.status.Length, m.status.CommitLength, m.table = length, length, table.Clone()
		},
	}
}

func appendOf(id gfs.WriterID, sequence uint64, off, n int64) mutation.Append {
	a := mutation.Append{Lowest: sequence - min(sequence, 3)}
	a.Writer, a.Sequence, a.Offset, a.Length = id, sequence, uint32(off), uint32(n)
	return a
}

// workload goes through everything that writes to a replica, with log regions so short that they change often.
func workload() []step {
	const b = gfs.BlockSize
	return []step{
		writeStep(0, 1, 2*b+100),
		advanceStep(Progress{Length: 2*b + 100, Commit: 100, Appends: []mutation.Append{appendOf(1, 1, 0, 100), appendOf(2, 1, 100, 100)}}),
		writeStep(2*b+100, 2, 1000),
		writeStep(2*b+1100, 3, 1000),
		advanceStep(Progress{Length: 2*b + 1100, Commit: 2*b + 100, Appends: []mutation.Append{appendOf(1, 2, 2*b+100, 1000)}}),
		writeStep(5000, 4, 300),
		writeStep(b-50, 5, b+200),
		advanceStep(Progress{Length: 2*b + 2100, Commit: 2*b + 1100, Dropped: []gfs.WriterID{2}}),
		syncStep(),
		writeStep(2*b+2000, 6, 300),
		writeStep(3*b, 7, b),
		discardStep(),
		writeStep(3*b+10, 8, 20),
		advanceStep(Progress{Length: 3*b + 30, Commit: 3*b + 30}),
		writeStep(0, 9, 4*b),
		advanceStep(Progress{Length: 4 * b, Commit: 4 * b}),
		patchStep(10),
		closeStep(),
		promiseStep(2),
		activateStep(2),
		writeStep(10, 11, 10),
		writeStep(2*b+500, 12, 3*b),
		advanceStep(Progress{Length: 5*b + 500, Commit: 4 * b, Appends: []mutation.Append{appendOf(3, 9, 4*b, 8)}}),
		promiseStep(3),
	}
}

var errCrash = errors.New("the process is dead")

// crasher lets a number of operations pass and then none: the one in the middle in part.
type crasher struct {
	left int
	cut  func(n int) int // how much of the last write reaches the file
	dead bool
	// writesOnly counts writes alone: the others are not done in part.
	writesOnly bool
}

func (k *crasher) fault(op operation, _ string, n int) (int, error) {
	if k.dead {
		return 0, errCrash
	}
	if op == opRead || k.writesOnly && op != opWrite {
		return n, nil
	}
	if k.left--; k.left >= 0 {
		return n, nil
	}
	k.dead = true
	if op == opWrite {
		return k.cut(n), errCrash
	}
	return 0, errCrash
}

// A process that dies at any operation leaves the replica as it was before the call or as it is after it. Only an
// overwrite may leave blocks of both kinds and, where the kernel wrote a part of a block, blocks that are known to
// be neither.
func TestCrashAtEveryOperation(t *testing.T) {
	cuts := map[string]func(int) int{
		"none": func(int) int { return 0 },
		"half": func(n int) int { return n / 2 },
		"page": func(n int) int { return min(n, 4096) },
		"all":  func(n int) int { return n },
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for left := 0; ; left++ {
				if !crashAfter(t, left, cut, name != "none") {
					break
				}
			}
		})
	}
}

// crashAfter runs the workload up to an operation, restarts and checks. It reports whether there was a crash.
func crashAfter(t *testing.T, left int, cut func(int) int, writesOnly bool) bool {
	t.Helper()
	k := &crasher{left: 1 << 30, cut: cut, writesOnly: writesOnly}
	cfg := Config{Dirs: []string{t.TempDir()}, Cluster: "c", logBytes: 200, noSync: true, fault: k.fault}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Create(1, gfs.NewVersion(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	k.left = left
	before := newModel(1, gfs.NewVersion(1, 1))
	var after *model
	var at string
	for _, step := range workload() {
		after, at = before.clone(), step.name
		step.want(after)
		if err := step.do(s, r); err != nil {
			break
		}
		before, after = after, nil
	}
	_ = s.Close()

	cfg.fault = nil
	if s, err = Open(cfg); err != nil {
		t.Fatalf("crash %d in %s: %v", left, at, err)
	}
	defer s.Close()
	if r, err = s.Get(1); err != nil {
		t.Fatalf("crash %d in %s: %v", left, at, err)
	}
	if _, used, _ := s.Space(); used != r.Status().Length {
		t.Fatalf("crash %d in %s: %d bytes are said to be used by a replica of %d", left, at, used, r.Status().Length)
	}
	if after == nil {
		before.discard()
		before.compare(t, r)
		return k.dead
	}
	if err := matchesEither(r, before, after); err != nil {
		t.Fatalf("crash %d in %s: %v", left, at, err)
	}
	return true
}

// matchesEither says how a replica differs from both what it was before a step and what it should be after.
func matchesEither(r *Replica, before, after *model) error {
	status := r.Status()
	m := before
	if status.Length != before.status.Length || status.Active != before.status.Active ||
		status.Promised != before.status.Promised || status.Marked != before.status.Marked {
		m = after
	}
	m = m.clone()
	m.discard()
	if status != m.status {
		return fmt.Errorf("status %+v, want %+v or %+v", status, before.status, after.status)
	}
	d, err := r.Digest()
	if err != nil {
		return err
	}
	if d.Table != m.table.Digest() && d.Table != after.table.Digest() {
		return errors.New("append table is of neither")
	}
	for block := range blockCount(status.Length) {
		start, n := block*gfs.BlockSize, bytesInBlock(block, status.Length)
		got := make([]byte, n)
		err := r.Verify(uint32(block))
		_ = r.content.data.readFull(got, int64(start))
		isOld := start+n <= len(before.bytes) && bytes.Equal(got, before.bytes[start:start+n])
		isNew := start+n <= len(after.bytes) && bytes.Equal(got, after.bytes[start:start+n])
		unknown := slices.Contains(d.Unknown, uint32(block))
		switch {
		case unknown && (isOld || isNew):
			return fmt.Errorf("block %d is good but counts as unknown", block)
		case unknown && err == nil || !unknown && err != nil:
			return fmt.Errorf("block %d is in %v but verifies with %v", block, d.Unknown, err)
		case !unknown && !isOld && !isNew:
			return fmt.Errorf("block %d verifies but is neither old nor new", block)
		}
	}
	return nil
}

// A full disk at any operation fails that call and nothing else: the replica stays as it was, and goes on when
// there is space again.
func TestFullDiskAtEveryOperation(t *testing.T) {
	for left := 0; ; left++ {
		if !fullAfter(t, left) {
			break
		}
	}
}

// mend patches what a disk left half written which was full in spite of its promise: some blocks are old, some new.
func (m *model) mend(t *testing.T, r *Replica, unknown []uint32) {
	t.Helper()
	for _, block := range unknown {
		if err := r.Verify(block); !errors.Is(err, gfs.ErrCorrupt) {
			t.Fatalf("unknown block %d verifies with %v", block, err)
		}
	}
	p := Patch{Length: m.status.Length, Commit: m.status.CommitLength, Active: m.status.Active, State: gfs.ReplicaMember}
	m.discard()
	for data := range slices.Chunk(m.bytes, gfs.BlockSize) {
		p.Blocks = append(p.Blocks, PatchBlock{Index: uint32(len(p.Blocks)), Data: data, CRC: checksum(data)})
	}
	if err := r.ApplyPatch(p); err != nil {
		t.Fatal(err)
	}
}

// takesSpace are the operations that a full disk can refuse.
var takesSpace = map[operation]bool{opCreate: true, opWrite: true, opAllocate: true, opCommit: true}

func fullAfter(t *testing.T, left int) (hit bool) {
	t.Helper()
	armed := false
	fault := func(op operation, _ string, n int) (int, error) {
		if !armed || !takesSpace[op] {
			return n, nil
		}
		if left--; left != -1 {
			return n, nil
		}
		hit = true
		return n / 2, syscall.ENOSPC
	}
	s, err := Open(Config{Dirs: []string{t.TempDir()}, Cluster: "c", logBytes: 200, noSync: true, fault: fault})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Create(1, gfs.NewVersion(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	armed = true
	m := newModel(1, gfs.NewVersion(1, 1))
	for _, step := range workload() {
		already := hit
		err := step.do(s, r)
		if hit && !already {
			if !errors.Is(err, gfs.ErrNoSpace) {
				t.Fatalf("%s: %v, want %v", step.name, err, gfs.ErrNoSpace)
			}
			// Only an overwrite may leave something, and only on a disk that is full in spite of its promise.
			if d, err := r.Digest(); err == nil && step.off < m.status.Length && d.Sum() != m.digest().Sum() {
				m.mend(t, r, d.Unknown)
			}
			if step.name != "patch" { // which may leave what it began to be done again
				m.compare(t, r)
			}
			err = step.do(s, r)
		}
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		step.want(m)
		m.compare(t, r)
	}
	return hit
}

// A write that failed in part leaves zeros where nothing is, for whoever writes behind it.
func TestFailedWriteLeavesZeros(t *testing.T) {
	refuse := false
	s := openStore(t, Config{Dirs: []string{t.TempDir()}, fault: func(op operation, _ string, n int) (int, error) {
		if refuse && op == opWrite {
			return n / 2, syscall.ENOSPC
		}
		return n, nil
	}})
	r := filled(t, s, 1, noise(1, 1000))
	m := newModel(1, v(1))
	m.write(0, noise(1, 1000))
	m.advance(Progress{Length: 1000, Commit: 1000})
	refuse = true
	wantCode(t, r.WriteAt(1000, noise(2, 50_000), nil), gfs.CodeNoSpace)
	refuse = false
	must(t, r.WriteAt(30_000, noise(3, 1000), nil))
	m.write(30_000, noise(3, 1000))
	p := Progress{Length: 40_000, Commit: 40_000}
	must(t, r.Advance(p))
	m.advance(p)
	m.compare(t, r)
}

// What a sync made durable stays readable after a loss of power, without an fsync while the log goes on: nothing is
// written over the part of the checksum file that was there.
func TestSyncPointOutlivesRegions(t *testing.T) {
	syncs := 0
	s := openStore(t, Config{Dirs: []string{t.TempDir()}, logBytes: 200, fault: func(op operation, _ string, n int) (int, error) {
		if op == opSync {
			syncs++
		}
		return n, nil
	}})
	r := filled(t, s, 1, noise(1, 1000))
	for round := range 5 {
		for range round { // so that the sync point comes to lie in each region
			must(t, r.Advance(Progress{Length: 1000}))
		}
		must(t, r.Sync())
		log := r.content.log
		before, was := syncs, make([]byte, log.end)
		must(t, r.content.meta.readFull(was, int64(log.region)*regionBytes))
		used := make(map[int]bool)
		for range 50 {
			must(t, r.Advance(Progress{Length: 1000}))
			used[r.content.log.region] = true
		}
		now := make([]byte, len(was))
		must(t, r.content.meta.readFull(now, int64(log.region)*regionBytes))
		if !bytes.Equal(was, now) || len(used) < regions-1 || syncs != before {
			t.Fatalf("round %d: same is %t, %d regions used, %d fsyncs", round, bytes.Equal(was, now), len(used), syncs-before)
		}
	}
}
