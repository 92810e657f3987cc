package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
)

// failing lets operations on a disk fail. It is for one goroutine.
type failing struct {
	operations map[operation]error
	suffix     string // of the paths that it is about
	pass       int    // how many of the operations succeed first
	once       bool   // and how many fail then: one, or all
}

func (k *failing) fault(op operation, path string, n int) (int, error) {
	err := k.operations[op]
	if err == nil || !strings.HasSuffix(path, k.suffix) {
		return n, nil
	}
	if k.pass > 0 {
		k.pass--
		return n, nil
	}
	if k.once {
		k.operations = nil
	}
	return 0, err
}

// A checkpoint that the disk does not give may be the latest one: the replica does not fall back to the one before.
func TestAnUnreadCheckpointIsNotPassedOver(t *testing.T) {
	dir, k := t.TempDir(), &failing{suffix: sumSuffix}
	cfg := Config{Dirs: []string{dir}, Cluster: "c", logBytes: 200, fault: k.fault}
	s := openStore(t, cfg)
	r := filled(t, s, 1, noise(1, 1000))
	for length := int64(1001); r.content.log.region == 0; length++ {
		must(t, r.Advance(Progress{Length: length, Commit: length}))
	}
	length := r.Status().Length
	must(t, s.Close())
	k.operations, k.pass, k.once = map[operation]error{opRead: syscall.EIO}, 1, true // the first region is read
	s = openStore(t, cfg)
	r, err := s.Get(1)
	must(t, err)
	if status := r.Status(); status.State != gfs.ReplicaCorrupt {
		t.Fatalf("status %+v after a checkpoint that was not read; the length was %d", status, length)
	}
}

// What was deleted and could not be moved aside at once is not moved later, when the handle has a replica again.
func TestAReplicaAfterARemovalThatFailed(t *testing.T) {
	dir, k := t.TempDir(), &failing{operations: map[operation]error{opRename: syscall.EIO}}
	cfg := Config{Dirs: []string{dir}, Cluster: "c", fault: k.fault}
	s := openStore(t, cfg)
	r := filled(t, s, 1, noise(1, 1000))
	if err := s.Delete(1, r.Status()); !errors.Is(err, syscall.EIO) {
		t.Fatalf("deleted with %v", err)
	}
	k.operations = nil
	closeChunk(t, s, filled(t, s, 1, noise(2, 2000)))
	must(t, s.Close())
	for range 2 {
		s = openStore(t, cfg)
		r, err := s.Get(1)
		must(t, err)
		if bad, err := r.VerifyAll(); err != nil || bad != nil || r.Status().Length != 2000 {
			t.Fatalf("blocks %v are bad, %v, status %+v", bad, err, r.Status())
		}
		must(t, s.Close())
	}
}

// A failed fsync of which the index could not be told at once is told with the next commit: after a restart the replicas
// are suspect.
func TestAFailedSyncOutlivesAFailedCommit(t *testing.T) {
	k := &failing{}
	cfg := Config{Dirs: []string{t.TempDir()}, Cluster: "c", fault: k.fault}
	s := openStore(t, cfg)
	r := filled(t, s, 1, noise(1, 1000))
	k.operations = map[operation]error{opSync: syscall.EIO, opCommit: syscall.EIO}
	wantCode(t, r.Sync(), gfs.CodeNoReplica)
	k.operations = nil
	_, err := s.Create(2, v(1))
	wantCode(t, err, gfs.CodeUnavailable) // not that it is full
	must(t, s.RaiseEpoch(2))
	must(t, s.Close())
	s = openStore(t, cfg)
	r, err = s.Get(1)
	must(t, err)
	if status := r.Status(); status.State != gfs.ReplicaSuspect {
		t.Fatalf("status %+v", status)
	}
}

// A restart after a loss of power that is cut short leaves to the next one what it leaves to be done.
func TestARestartThatIsCutShort(t *testing.T) {
	k := &failing{}
	cfg := Config{Dirs: []string{t.TempDir()}, Cluster: "c", Boot: "one", fault: k.fault}
	s := openStore(t, cfg)
	r, err := s.Create(1, v(1))
	must(t, err)
	path := r.dir.chunkPath(1)
	must(t, s.Close())
	must(t, errors.Join(os.Remove(path), os.Remove(path+sumSuffix))) // they never were on disk
	cfg.Boot = "two"
	k.operations = map[operation]error{opCreate: syscall.ENOSPC}
	if _, err := Open(cfg); err == nil {
		t.Fatal("opened on a full disk")
	}
	k.operations = nil
	s = openStore(t, cfg)
	r, err = s.Get(1)
	must(t, err)
	if status := r.Status(); status.State != gfs.ReplicaSuspect {
		t.Fatalf("status %+v", status)
	}
}

// After a loss of power a checksum file that the disk does not give is not taken for one that was never written.
func TestAnUnreadReplicaIsNotMadeAnew(t *testing.T) {
	k := &failing{suffix: sumSuffix}
	cfg := Config{Dirs: []string{t.TempDir()}, Cluster: "c", Boot: "one", fault: k.fault}
	s := openStore(t, cfg)
	r := filled(t, s, 1, noise(1, 1000))
	must(t, r.Sync())
	path := r.dir.chunkPath(1)
	must(t, s.Close())
	cfg.Boot = "two"
	k.operations = map[operation]error{opRead: syscall.EIO}
	s = openStore(t, cfg)
	r, err := s.Get(1)
	must(t, err)
	info, err := os.Stat(path)
	must(t, err)
	if status := r.Status(); status.State != gfs.ReplicaCorrupt || info.Size() != 1000 {
		t.Fatalf("status %+v, %d bytes in the file", status, info.Size())
	}
}

// A patch that the disk let be applied by half is finished when the replica is to take part in a version: nobody need send
// another.
func TestAPatchIsFinishedByActivate(t *testing.T) {
	k := &failing{}
	s := openStore(t, Config{Dirs: []string{t.TempDir()}, fault: k.fault})
	r := filled(t, s, 1, noise(1, 1000))
	must(t, r.Promise(v(2), v(1), false))
	data := noise(2, 1000)
	k.operations, k.pass = map[operation]error{opCommit: syscall.ENOSPC}, 1 // the mark is set, and not dropped
	wantCode(t, r.ApplyPatch(Patch{
		Length: 1000, Commit: 1000, Active: v(1), State: gfs.ReplicaMember, Blocks: []PatchBlock{{Index: 0, Data: data, CRC: checksum(data)}},
	}), gfs.CodeNoSpace)
	wantCode(t, r.Activate(v(2)), gfs.CodeNoSpace)
	k.operations = nil
	must(t, r.Promise(v(3), v(2), false))
	must(t, r.Activate(v(3)))
	must(t, r.WriteAt(1000, noise(3, 10), nil))
}

// A patch that is applied again takes no replica back to a version before the one that it was frozen in since.
func TestAPatchAppliedAgainKeepsTheVersion(t *testing.T) {
	for _, restart := range []bool{false, true} {
		k := &failing{}
		cfg := Config{Dirs: []string{t.TempDir()}, Cluster: "c", fault: k.fault}
		s := openStore(t, cfg)
		r := filled(t, s, 1, noise(1, 1000))
		must(t, r.Promise(v(2), v(1), false))
		k.operations, k.pass = map[operation]error{opCommit: syscall.ENOSPC}, 1
		wantCode(t, r.ApplyPatch(Patch{Length: 500, Commit: 500, Active: v(1), State: gfs.ReplicaMember}), gfs.CodeNoSpace)
		k.operations = nil
		must(t, r.Promise(v(3), v(2), false))
		if restart {
			must(t, s.Close())
			s = openStore(t, cfg)
			var err error
			r, err = s.Get(1)
			must(t, err)
		} else {
			k.operations, k.pass, k.suffix = map[operation]error{opWrite: syscall.ENOSPC}, 1, sumSuffix // the checkpoint is written
			wantCode(t, r.Activate(v(3)), gfs.CodeNoSpace)
		}
		if status := r.Status(); status.Active != v(2) || status.Length != 500 {
			t.Fatalf("after a restart (%t): %+v", restart, status)
		}
		k.operations = nil
		must(t, r.Activate(v(3)))
		must(t, s.Close())
	}
}

// A patch says that all is on disk. Where one of the files is not, it fails, and the disk with it.
func TestAPatchThatIsNotOnDiskFails(t *testing.T) {
	for _, suffix := range []string{"", sumSuffix} {
		k := &failing{}
		s := openStore(t, Config{Dirs: []string{t.TempDir()}, fault: k.fault})
		r := filled(t, s, 1, noise(1, 1000))
		must(t, r.Sync())
		k.operations, k.suffix = map[operation]error{opSync: syscall.EIO}, r.handle.String()+suffix
		wantCode(t, r.ApplyPatch(Patch{Length: 500, Commit: 500, Active: v(1), State: gfs.ReplicaMember}), gfs.CodeNoReplica)
		if status := r.Status(); status.State != gfs.ReplicaSuspect {
			t.Fatalf("status %+v", status)
		}
	}
}

// A file that the disk does not give costs one replica, not the server, and only for as long as the process runs: also
// when power was lost before.
func TestAReplicaThatIsNotGiven(t *testing.T) {
	for _, closed := range []bool{false, true} {
		for _, op := range []operation{opOpen, opRead} {
			for _, boot := range []string{"one", "two"} {
				k := &failing{suffix: "01" + sumSuffix}
				cfg := Config{Dirs: []string{t.TempDir()}, Cluster: "c", Boot: "one", fault: k.fault}
				s := openStore(t, cfg)
				data := noise(1, 1000)
				for h := range gfs.ChunkHandle(2) {
					if r := filled(t, s, 1+h, data); closed {
						closeChunk(t, s, r)
					} else {
						must(t, r.Sync())
					}
				}
				must(t, s.Close())

				cfg.Boot = boot
				k.operations = map[operation]error{op: syscall.EIO}
				s = openStore(t, cfg)
				r, err := s.Get(1)
				must(t, err)
				_, err = r.ReadAt(make([]byte, 1000), 0)
				wantCode(t, err, gfs.CodeCorrupt)
				if status := r.Status(); status.State != gfs.ReplicaCorrupt {
					t.Fatalf("status %+v", status)
				}
				other, err := s.Get(2)
				must(t, err)
				if bad, err := other.VerifyAll(); err != nil || bad != nil {
					t.Fatalf("blocks %v of the other replica are bad: %v", bad, err)
				}
				must(t, s.Close())

				k.operations = nil
				s = openStore(t, cfg)
				r, err = s.Get(1)
				must(t, err)
				want := gfs.ReplicaMember
				if boot != "one" && !closed {
					want = gfs.ReplicaSuspect
				}
				if bad, err := r.VerifyAll(); err != nil || bad != nil || r.Status().State != want || r.Status().Length != 1000 {
					t.Fatalf("blocks %v are bad: %v; status %+v, want %s", bad, err, r.Status(), want)
				}
				must(t, s.Close())
			}
		}
	}
}

// A full disk keeps no server from starting: what the restart found out about a torn block is written with the next change.
func TestARestartOnAFullDisk(t *testing.T) {
	k := &failing{}
	cfg := Config{Dirs: []string{t.TempDir()}, Cluster: "c", fault: k.fault}
	s := openStore(t, cfg)
	r := filled(t, s, 1, noise(1, 1000))
	k.operations, k.once = map[operation]error{opWrite: syscall.ENOSPC}, true
	k.suffix = r.handle.String()
	if err := r.WriteAt(0, noise(2, 1000), nil); err == nil { // announced and not written
		t.Fatal("written on a full disk")
	}
	must(t, s.Close())

	k.once, k.suffix = false, ""
	for range 2 {
		k.operations = map[operation]error{opWrite: syscall.ENOSPC}
		s = openStore(t, cfg)
		r, err := s.Get(1)
		must(t, err)
		got := make([]byte, 1000)
		if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, noise(1, 1000)) {
			t.Fatalf("read: %v", err)
		}
		must(t, s.Close())
	}
	k.operations = nil
	s = openStore(t, cfg)
	r, err := s.Get(1)
	must(t, err)
	must(t, r.WriteAt(1000, noise(3, 10), nil))
	must(t, r.Advance(Progress{Length: 1010, Commit: 1010}))
	must(t, s.Close())
	s = openStore(t, cfg)
	r, err = s.Get(1)
	must(t, err)
	if bad, err := r.VerifyAll(); err != nil || bad != nil || r.Status().Length != 1010 {
		t.Fatalf("blocks %v are bad: %v; status %+v", bad, err, r.Status())
	}
}

// A master's epoch is taken down where it can be: a disk that has failed keeps nobody from the replicas on another one.
func TestAnEpochIsTakenDownBesideAFailedDisk(t *testing.T) {
	k := &failing{}
	cfg := Config{Dirs: []string{t.TempDir(), t.TempDir()}, Cluster: "c", fault: k.fault}
	k.suffix = filepath.Join(cfg.Dirs[0], indexName)
	s := openStore(t, cfg)
	must(t, s.RaiseEpoch(1))
	k.operations = map[operation]error{opCommit: syscall.EIO}
	must(t, s.RaiseEpoch(2))
	k.suffix = ""
	wantCode(t, s.RaiseEpoch(3), gfs.CodeUnavailable)
	k.operations = nil
	must(t, s.Close())
	s = openStore(t, cfg)
	if e := s.Epoch(); e != 2 {
		t.Fatalf("epoch %d after a restart", e)
	}
}
