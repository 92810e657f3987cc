package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// TestMain lets the test binary be the process that TestKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CAIRN_STORE_VICTIM"); dir != "" {
		if err := victim(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// recordOf is the n-th record that the victim appends; each has another length.
func recordOf(n int) []byte { return noise(uint64(n), 500+n*37%9000) }

// victim appends records one after another, overwrites some, and says what it has acknowledged.
func victim(dir string) error {
	s, err := Open(Config{Dirs: []string{dir}, Cluster: "c", logBytes: 4000})
	if err != nil {
		return err
	}
	r, err := s.Get(1)
	if err != nil {
		if r, err = s.Create(1, v(1)); err != nil {
			return err
		}
	}
	if now := r.Status(); !now.Marked { // killed between closing it and opening it again
		if err := r.Promise(now.Promised+1, now.Promised, false); err != nil {
			return err
		}
	}
	table, err := r.Table()
	if err != nil {
		return err
	}
	first := 0
	for e := range table.Entries() {
		first = int(e.Sequence) + 1
	}
	off := r.Status().Length
	for n := first; ; n++ {
		data := recordOf(n)
		end := off + int64(len(data))
		if end > gfs.ChunkSize {
			return nil
		}
		if err := r.WriteAt(off, data, nil); err != nil {
			return err
		}
		if n%3 == 0 { // again, with the same bytes: a retry of a mutation
			if err := r.WriteAt(off/2, read(r, off/2, 70_000), nil); err != nil && off > 0 {
				return err
			}
		}
		if err := r.Advance(Progress{Length: end, Commit: end, Appends: []mutation.Append{appendOf(1, uint64(n), off, int64(len(data)))}}); err != nil {
			return err
		}
		if n%50 == 0 {
			if err := errors.Join(s.SyncAll([]*Replica{r}), s.Unmark([]*Replica{r}), r.Promise(r.Status().Promised+1, r.Status().Promised, false)); err != nil {
				return err
			}
		}
		fmt.Println(n, end)
		off = end
	}
}

// read is up to n bytes from an offset on.
func read(r *Replica, off int64, n int) []byte {
	b := make([]byte, n)
	n, _ = r.ReadAt(b, off)
	return b[:n]
}

// A process killed at any moment has everything that it acknowledged when it comes back.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for round := range 12 {
		acknowledged, length := killOnce(t, dir, time.Duration(20+rand.IntN(80))*time.Millisecond)
		s := openStore(t, Config{Dirs: []string{dir}})
		r, err := s.Get(1)
		must(t, err)
		status := r.Status()
		if status.State != gfs.ReplicaMember || status.Length < length {
			t.Fatalf("round %d: %+v, but record %d was acknowledged up to %d", round, status, acknowledged, length)
		}
		var want []byte
		for n := 0; int64(len(want)) < status.Length; n++ {
			want = append(want, recordOf(n)...)
		}
		// What an overwrite tore is known to be torn; it was with the same bytes, so a torn block can not be.
		if got := read(r, 0, len(want)+1); !bytes.Equal(got, want[:min(int64(len(want)), status.CommitLength)]) {
			t.Fatalf("round %d: %d bytes differ from the %d written", round, len(got), len(want))
		}
		table, err := r.Table()
		must(t, err)
		if _, outcome := table.Lookup(1, uint64(acknowledged)); acknowledged >= 0 && outcome != mutation.Known {
			t.Fatalf("round %d: record %d is not in the append table", round, acknowledged)
		}
		if info, err := os.Stat(s.dirs[0].chunkPath(1)); err != nil || info.Size() != status.Length {
			t.Fatalf("round %d: %d bytes beyond the length, %v", round, info.Size()-status.Length, err)
		}
		must(t, s.Close())
	}
}

// killOnce runs a victim and kills it some time after its first word. It returns the last record that it
// acknowledged and where that ended.
func killOnce(t *testing.T, dir string, after time.Duration) (record int, length int64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CAIRN_STORE_VICTIM="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	record = -1
	lines := bufio.NewScanner(out)
	var timer *time.Timer
	for lines.Scan() {
		if timer == nil {
			timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
		}
		var n int
		var end int64
		if _, err := fmt.Sscan(lines.Text(), &n, &end); err == nil {
			record, length = n, end
		}
	}
	err = cmd.Wait()
	if timer == nil {
		t.Fatalf("the victim acknowledged nothing: %v", err)
	}
	return record, length
}

// A disk that is really full: a small tmpfs where we may mount one, else a limit on the size of files.
func TestDiskReallyFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err == nil {
		defer func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) }()
	} else {
		var limit syscall.Rlimit
		must(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
		defer func() { must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)) }()
		must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 5 << 20, Max: limit.Max}))
	}
	s, err := Open(Config{Dirs: []string{filepath.Join(dir, "data")}, Cluster: "c"})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	r, err := s.Create(1, v(1))
	must(t, err)
	m := newModel(1, v(1))
	full := false
	for n := range uint64(200) {
		data, length := noise(n, 100_000), m.status.Length
		p := Progress{Length: length + int64(len(data)), Commit: length + int64(len(data)), Appends: []mutation.Append{appendOf(1, n, length, 1)}}
		err := r.WriteAt(length, data, nil)
		if err == nil {
			m.write(length, data)
			err = r.Advance(p)
		}
		if err == nil {
			m.advance(p)
			continue
		}
		wantCode(t, err, gfs.CodeNoSpace)
		full = true
		break
	}
	if !full || m.status.Length == 0 {
		t.Fatalf("full is %t at %d bytes", full, m.status.Length)
	}
	must(t, r.DiscardBeyondLength())
	m.discard()
	m.compare(t, r)
	wantCode(t, r.Preallocate(gfs.ChunkSize), gfs.CodeNoSpace)
	m.compare(t, r)
	// What is there can be overwritten.
	data := noise(1000, 70_000)
	must(t, r.WriteAt(30_000, data, nil))
	m.write(30_000, data)
	m.compare(t, r)
}

// What a process had reserved when it was killed is given back by the next one.
func TestReservedSpaceIsGivenBackAfterACrash(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, Config{Dirs: []string{dir}})
	r, err := s.Create(1, v(1))
	must(t, err)
	must(t, r.WriteAt(0, noise(1, 10_000), nil))
	must(t, r.Advance(Progress{Length: 10_000, Commit: 10_000}))
	must(t, r.Preallocate(gfs.ChunkSize))
	onDisk := func() int64 {
		info, err := os.Stat(s.dirs[0].chunkPath(1))
		must(t, err)
		return info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	if n := onDisk(); n < gfs.ChunkSize {
		t.Fatalf("%d bytes reserved", n)
	}
	must(t, s.Close()) // which leaves open replicas as they are
	s = openStore(t, Config{Dirs: []string{dir}})
	if n := onDisk(); n > 1<<20 {
		t.Fatalf("%d bytes on disk for 10,000 after a restart", n)
	}
}
