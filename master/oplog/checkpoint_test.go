package oplog

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/boltdb/bolt"
	"github.com/cairnfs/cairn/messages/gfs"
)

func TestCheckpointUnderLoad(t *testing.T) {
	dir := t.TempDir()
	machine := newTable()
	cfg := testConfig(t, dir, machine)
	cfg.CheckpointBytes = 256 << 10
	l := openActing(t, cfg)
	var running sync.WaitGroup
	for c := range 16 {
		running.Go(func() {
			for i := range 100 {
				mustPropose(t, l, fmt.Sprintf("c%d-%d=%s", c, i, strings.Repeat("v", 1000)))
			}
		})
	}
	running.Wait()
	if err := l.Checkpoint(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mustPropose(t, l, "tail=1")
	stats := l.Stats()
	if stats.Checkpoints < 3 {
		t.Errorf("1.6 MB of log gave %d checkpoints, one is due each 256 KiB", stats.Checkpoints)
	}
	want := machine.state()
	mustClose(t, l)

	machine = newTable()
	l = openActing(t, testConfig(t, dir, machine))
	if got := machine.state(); !maps.Equal(got, want) {
		t.Errorf("%d rows after a restart, want %d", len(got), len(want))
	}
	if machine.restored != len(want)-1 || machine.applied != 1 {
		t.Errorf("%d rows from the checkpoint and %d from the log, want %d and 1", machine.restored, machine.applied, len(want)-1)
	}
	kept, err := filepath.Glob(filepath.Join(dir, raftFolder, "snapshots", "*", raftStateFile))
	if err != nil || len(kept) != retainedCheckpoints {
		t.Errorf("%d checkpoints are kept, want %d (%v)", len(kept), retainedCheckpoints, err)
	}
	mustClose(t, l)
}

func TestFailedCheckpointLeavesTheLogAlone(t *testing.T) {
	dir := t.TempDir()
	machine := newTable()
	machine.tear = "b"
	l := openActing(t, testConfig(t, dir, machine))
	for _, record := range []string{"a=1", "b=2", "c=3"} {
		mustPropose(t, l, record)
	}
	if err := l.Checkpoint(testContext(t)); !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("a checkpoint of a torn view: %v", err)
	}
	mustPropose(t, l, "d=4")
	mustClose(t, l)
	left, err := os.ReadDir(filepath.Join(dir, raftFolder, "snapshots"))
	if err != nil || len(left) != 0 {
		t.Errorf("a failed checkpoint left %v behind (%v)", left, err)
	}
	machine = newTable()
	openActing(t, testConfig(t, dir, machine))
	if got := machine.state(); len(got) != 4 {
		t.Errorf("state %v", got)
	}
}

// newestCheckpoint is the path of the newest checkpoint's content.
func newestCheckpoint(t *testing.T, dir string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, raftFolder, "snapshots", "*", raftStateFile))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no checkpoint in %s (%v)", dir, err)
	}
	return slices.MaxFunc(paths, func(a, b string) int {
		first, errA := os.Stat(a)
		second, errB := os.Stat(b)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		return first.ModTime().Compare(second.ModTime())
	})
}

func flipByte(t *testing.T, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var b [1]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := file.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedCheckpointIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := openActing(t, testConfig(t, dir, newTable()))
	for i := range 100 {
		mustPropose(t, l, fmt.Sprintf("k%d=v", i))
		if i == 50 || i == 99 {
			if err := l.Checkpoint(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustClose(t, l)
	path := newestCheckpoint(t, dir)
	flipByte(t, path, 5000)
	machine := newTable()
	if l, err := Open(testContext(t), testConfig(t, dir, machine)); !errors.Is(err, gfs.ErrCorrupt) {
		t.Errorf("a damaged checkpoint: %v, want corrupt", err)
		if err == nil {
			mustClose(t, l)
		}
	}
	if len(machine.state()) != 0 {
		t.Error("the machine was given an older or a damaged state")
	}
	flipByte(t, path, 5000)
	openActing(t, testConfig(t, dir, newTable()))
}

// pagesView is a view of given pages.
type pagesView []Page

func (v pagesView) Pages() iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		for _, page := range v {
			if !yield(page, nil) {
				return
			}
		}
	}
}
func (v pagesView) Release() {}

func readPages(path string) (pagesView, error) {
	var out pagesView
	err := readCheckpoint(path, func(pages iter.Seq2[Page, error]) error {
		for page, err := range pages {
			if err != nil {
				return err
			}
			out = append(out, Page{Key: bytes.Clone(page.Key), Value: bytes.Clone(page.Value)})
		}
		return nil
	})
	return out, err
}

func manyPages(n int) pagesView {
	pages := make(pagesView, n)
	for i := range pages {
		pages[i] = Page{Key: fmt.Appendf(nil, "key%06d", i), Value: bytes.Repeat([]byte{byte(i)}, i%300)}
	}
	return pages
}

func TestCheckpointFileRoundTrip(t *testing.T) {
	for _, count := range []int{0, 1, maxTransactionKeys, 2*maxTransactionKeys + 1} {
		path := filepath.Join(t.TempDir(), "checkpoint")
		want := manyPages(count)
		if err := writeCheckpoint(path, want, nil); err != nil {
			t.Fatal(err)
		}
		got, err := readPages(path)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d pages of %d (%v)", len(got), len(want), err)
		}
		for i := range want {
			if !bytes.Equal(got[i].Key, want[i].Key) || !bytes.Equal(got[i].Value, want[i].Value) {
				t.Fatalf("page %d is %q, want %q", i, got[i], want[i])
			}
		}
	}
}

func TestCheckpointFileRefuses(t *testing.T) {
	put := func(bucket []byte, key, value string) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put([]byte(key), []byte(value)) }
	}
	for name, change := range map[string]func(*bolt.Tx) error{
		"a changed value":   put(pagesBucket(), "key000007", "1234other"),
		"a short value":     put(pagesBucket(), "key000007", "1"),
		"an added page":     put(pagesBucket(), "key000007a", "\x48\x67\x4b\xc6"),
		"a dropped page":    func(tx *bolt.Tx) error { return tx.Bucket(pagesBucket()).Delete([]byte("key000007")) },
		"a moved page":      func(tx *bolt.Tx) error { return movePage(tx, "key000007", "key000007a") },
		"another magic":     put(metaBucket(), "magic", "something else"),
		"no totals":         func(tx *bolt.Tx) error { return tx.DeleteBucket(metaBucket()) },
		"no pages":          func(tx *bolt.Tx) error { return tx.DeleteBucket(pagesBucket()) },
		"other totals":      put(metaBucket(), "crc32c", "abcd"),
		"a short format":    put(metaBucket(), "format", "1"),
		"a newer format":    put(metaBucket(), "format", "\x02\x00\x00\x00"),
		"a different count": put(metaBucket(), "pages", "\x02\x00\x00\x00\x00\x00\x00\x00"),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "checkpoint")
			if err := writeCheckpoint(path, manyPages(50), nil); err != nil {
				t.Fatal(err)
			}
			db, err := bolt.Open(path, 0o644, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(change), db.Close()); err != nil {
				t.Fatal(err)
			}
			want := gfs.CodeCorrupt
			if name == "a newer format" {
				want = gfs.CodeInvalid
			}
			pages, err := readPages(path)
			if gfs.CodeOf(err) != want {
				t.Errorf("error %v, want code %v", err, want)
			}
			if len(pages) != 0 {
				t.Errorf("%d pages were handed out before the damage was found", len(pages))
			}
		})
	}
}

func movePage(tx *bolt.Tx, from, to string) error {
	bucket := tx.Bucket(pagesBucket())
	value := bytes.Clone(bucket.Get([]byte(from)))
	return errors.Join(bucket.Delete([]byte(from)), bucket.Put([]byte(to), value))
}

func TestCutCheckpointFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint")
	if err := writeCheckpoint(path, manyPages(5000), nil); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{info.Size() / 2, 20000, 9000, 100, 0} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if _, err := readPages(path); gfs.CodeOf(err) != gfs.CodeCorrupt {
			t.Errorf("cut to %d bytes: %v, want corrupt", size, err)
		}
	}
}

func TestCheckpointWriterRefuses(t *testing.T) {
	for name, pages := range map[string]pagesView{
		"an empty key":   {{Key: nil, Value: []byte("v")}},
		"a long key":     {{Key: make([]byte, MaxPageKeyBytes+1)}},
		"a long value":   {{Key: []byte("k"), Value: make([]byte, MaxPageBytes+1)}},
		"keys backwards": {{Key: []byte("b")}, {Key: []byte("a")}},
		"a key twice":    {{Key: []byte("a")}, {Key: []byte("a")}},
	} {
		err := writeCheckpoint(filepath.Join(t.TempDir(), "checkpoint"), pages, nil)
		if gfs.CodeOf(err) != gfs.CodeInternal {
			t.Errorf("%s: %v", name, err)
		}
	}
	stop := make(chan struct{})
	close(stop)
	if err := writeCheckpoint(filepath.Join(t.TempDir(), "checkpoint"), manyPages(1), stop); !errors.Is(err, errStopped) {
		t.Errorf("a closing log: %v", err)
	}
}
