package oplog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
)

// withStores opens the stores of a closed log.
func withStores(t *testing.T, dir string, change func(l *Log) error) {
	t.Helper()
	lock, err := claimFolder(dir, identity{cluster: "test", master: "m1"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, dir, newTable())
	if err := cfg.complete(); err != nil {
		t.Fatal(err)
	}
	l := &Log{cfg: cfg, log: cfg.Log, lock: lock}
	if err := errors.Join(l.openStores(), change(l), l.closeStores()); err != nil {
		t.Fatal(err)
	}
}

// Killed between the two writes that make a folder a master's: the next start begins again.
func TestHalfMadeFolderIsFinished(t *testing.T) {
	dir := t.TempDir()
	withStores(t, dir, func(l *Log) error { return l.stable.SetUint64([]byte(termKey), bootstrapTerm) })
	l := openActing(t, testConfig(t, dir, newTable()))
	mustPropose(t, l, "k=v")
}

func filledFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	l := openActing(t, testConfig(t, dir, newTable()))
	for i := range 2 * aloneTrailingEntries {
		mustPropose(t, l, fmt.Sprintf("k%d=v", i))
	}
	if err := l.Checkpoint(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	return dir
}

// Killed after a checkpoint was received and before the older log was dropped.
func TestCheckpointAheadOfTheLog(t *testing.T) {
	dir := filledFolder(t)
	withStores(t, dir, func(l *Log) error {
		last, err := l.entries.LastIndex()
		return errors.Join(err, l.entries.DeleteRange(last-10, last))
	})
	machine := newTable()
	l := openActing(t, testConfig(t, dir, machine))
	mustPropose(t, l, "more=1")
	if got := len(machine.state()); got != 2*aloneTrailingEntries+1 {
		t.Errorf("%d rows, want %d", got, 2*aloneTrailingEntries+1)
	}
	mustClose(t, l)
	machine = newTable()
	openActing(t, testConfig(t, dir, machine))
	if machine.state()["more"] != "1" {
		t.Error("what was written afterwards is lost")
	}
}

func TestLostFilesAreNoticed(t *testing.T) {
	for name, lose := range map[string]string{
		"checkpoints": filepath.Join(raftFolder, "snapshots"),
		"term":        filepath.Join(raftFolder, stableFile),
	} {
		dir := filledFolder(t)
		if err := os.RemoveAll(filepath.Join(dir, lose)); err != nil {
			t.Fatal(err)
		}
		l, err := Open(testContext(t), testConfig(t, dir, newTable()))
		if !errors.Is(err, gfs.ErrCorrupt) {
			t.Errorf("%s lost: %v, want corrupt", name, err)
		}
		if err == nil {
			mustClose(t, l)
		}
	}
}

func TestUnfinishedCheckpointsAreRemoved(t *testing.T) {
	dir := filledFolder(t)
	left := filepath.Join(dir, raftFolder, "snapshots", "2-99-1.tmp")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	openActing(t, testConfig(t, dir, newTable()))
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unfinished checkpoint stays (%v)", err)
	}
}
