package master_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/master/backup"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func (w *world) backupPiece(id uint64, piece uint32) (*pb.BackupReply, error) {
	return ask[pb.BackupReply](w, messages.OpBackup, &pb.BackupRequest{Backup: id, Piece: piece})
}

// backup fetches a whole backup, each piece twice, and calls between after the first one.
func (w *world) backup(id uint64, between func()) []byte {
	w.t.Helper()
	var whole []byte
	for piece := uint32(0); ; piece++ {
		reply, err := w.backupPiece(id, piece)
		if err != nil {
			w.t.Fatal(err)
		}
		again, err := w.backupPiece(id, piece)
		if err != nil || !proto.Equal(reply, again) {
			w.t.Fatalf("piece %d differs when it is asked for again: %v", piece, err)
		}
		if len(reply.GetData()) > gfs.BackupPieceBytes {
			w.t.Fatalf("piece %d has %d bytes", piece, len(reply.GetData()))
		}
		whole = append(whole, reply.GetData()...)
		if piece == 0 {
			between()
		}
		if reply.GetLast() {
			return whole
		}
	}
}

// A backup is of the moment at which it was begun; a master made from it has that state, and numbers of its own.
func TestAMasterIsRestoredFromABackup(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	w.begin()
	long := strings.Repeat("x", 200)
	for i := range 4000 { // several pieces
		w.create(fmt.Sprintf("/%05d%s", i*7919%100_000, long), 3)
	}
	before := w.masterState()
	whole := w.backup(5, func() { w.create("/later", 3) })
	if len(whole) <= gfs.BackupPieceBytes {
		t.Fatalf("a backup of %d bytes tests one piece alone", len(whole))
	}
	if _, err := w.stat("/later"); err != nil {
		t.Fatal(err)
	}

	w.stopMaster()
	w.dir = filepath.Join(t.TempDir(), "new")
	restored, err := master.Restore(master.RestoreConfig{ID: "m1", Cluster: cluster, Dir: w.dir, Now: time.Now()}, bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	if restored.Cluster != cluster || restored.Index < before.GetAppliedIndex() || restored.Counts.Files != 4000 {
		t.Errorf("restored %+v", restored)
	}
	w.startMaster(master.Config{})
	if _, err := w.stat("/later"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is younger than the backup: %v", err)
	}
	if _, err := w.stat("/00000" + long); err != nil {
		t.Error(err)
	}
	after := w.masterState()
	if after.GetFiles() != 4000 || after.GetEpoch() < uint32(restored.Made.Unix()) {
		t.Errorf("state after the restoration: %v", after)
	}
}

func (w *world) masterState() *pb.MasterStateReply {
	w.t.Helper()
	reply, err := ask[pb.MasterStateReply](w, messages.OpMasterState, &pb.MasterStateRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	return reply
}

func TestBackupsOutOfTurnAreRefused(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	refuse := func(what string, id uint64, piece uint32, want error) {
		t.Helper()
		if _, err := w.backupPiece(id, piece); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	refuse("no number", 0, 0, fs.ErrInvalid)
	refuse("the middle of nothing", 7, 3, gfs.ErrConflict)
	for id := range uint64(gfs.MaxBackups) {
		if reply, err := w.backupPiece(id+1, 0); err != nil || !reply.GetLast() {
			t.Fatalf("backup of an empty state: %v, %v", reply, err)
		}
	}
	refuse("one too many", 99, 0, gfs.ErrBusy)
	refuse("a piece behind the last", 1, 1, gfs.ErrConflict)
}

func TestABackupThatDoesNotFitIsNotRestored(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	whole := w.backup(5, func() {})
	_, _, err := backup.Read(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	good := master.RestoreConfig{ID: "m1", Cluster: cluster, Now: time.Now()}
	for _, c := range []struct {
		what   string
		data   []byte
		change func(*master.RestoreConfig)
		want   error
	}{
		{"another cluster", whole, func(cfg *master.RestoreConfig) { cfg.Cluster = "other" }, gfs.ErrWrongCluster},
		{"a clock that is behind", whole, func(cfg *master.RestoreConfig) { cfg.Now = time.Unix(1, 0) }, fs.ErrInvalid},
		{"a bad id", whole, func(cfg *master.RestoreConfig) { cfg.ID = "m.1" }, fs.ErrInvalid},
		{"half of it", whole[:len(whole)/2], func(*master.RestoreConfig) {}, backup.ErrDamaged},
		{"a flipped bit", flipped, func(*master.RestoreConfig) {}, backup.ErrDamaged},
		{"something else", []byte("#!/bin/sh\nexit 0\n"), func(*master.RestoreConfig) {}, fs.ErrInvalid},
	} {
		cfg := good
		cfg.Dir = filepath.Join(t.TempDir(), "new")
		c.change(&cfg)
		if _, err := master.Restore(cfg, bytes.NewReader(c.data)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		if left, err := filepath.Glob(filepath.Join(cfg.Dir, "*")); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", c.what, left, err)
		}
	}
}
