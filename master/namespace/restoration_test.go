package namespace

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// beginAt begins an epoch at a time.
func beginAt(t *testing.T, s *State, at time.Time) Outcome {
	t.Helper()
	out := s.Apply(&pb.Record{TimeUnixNano: at.UnixNano(), Command: &pb.Record_BeginEpoch{BeginEpoch: &pb.BeginEpoch{MasterId: "m1"}}})
	if out.Err != nil {
		t.Fatal(out.Err)
	}
	return out
}

func reloaded(t *testing.T, s *State) *State {
	t.Helper()
	loaded, err := Load(replay(pagesOf(t, s.View())))
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// Nothing that is given out once is given out again after a restoration, whatever was given out since the backup.
func TestARestoredStateLeaps(t *testing.T) {
	backup := pagesOf(t, full(t, 50).View())
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

	lost, err := Load(replay(backup)) // it went on after the backup
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		beginAt(t, lost, made.Add(time.Duration(i)*time.Minute))
	}
	last := lost.Apply(&pb.Record{Epoch: uint32(lost.epoch), Command: &pb.Record_ReserveHandles{ReserveHandles: &pb.ReserveHandles{Count: 1000}}})

	epochs, handles, files := map[gfs.Epoch]bool{}, map[gfs.ChunkHandle]bool{}, map[gfs.FileID]bool{}
	for round := range 3 { // the same backup three times
		s, err := Load(replay(backup))
		if err != nil {
			t.Fatal(err)
		}
		known := s.nextHandle
		placed, unplaced := s.epochFirst, gfs.ChunkHandle(0)
		for h := s.epochFirst; h < known && unplaced == 0; h++ {
			if s.table.get(h) == (row{}) {
				unplaced = h
			}
		}
		s.MarkRestored()
		s = reloaded(t, s) // as it lies in the master's folder
		out := beginAt(t, s, made.Add(time.Duration(round+2)*time.Hour))
		verify(t, s)
		if out.Epoch <= lost.epoch || s.nextHandle <= last.First+1000 || s.nextFile <= lost.nextFile {
			t.Errorf("epoch %d, handle %s, file %d; lost were %d, %s, %d", out.Epoch, s.nextHandle, s.nextFile, lost.epoch, last.First+1000, lost.nextFile)
		}
		if epochs[out.Epoch] || handles[s.nextHandle] || files[s.nextFile] {
			t.Errorf("round %d: epoch %d, handle %s or file %d was there before", round, out.Epoch, s.nextHandle, s.nextFile)
		}
		epochs[out.Epoch], handles[s.nextHandle], files[s.nextFile] = true, true, true

		s = reloaded(t, s)
		view := s.View()
		if view.Restored() != out.Epoch || !view.Lost(known) || !view.Lost(s.nextHandle-1) || view.Lost(s.nextHandle) {
			t.Errorf("restored in epoch %d, handles from %s to %s are not those that count as lost", view.Restored(), known, s.nextHandle)
		}
		if view.Lost(0) || view.Lost(placed) || unplaced == 0 || !view.Lost(unplaced) {
			t.Errorf("handle %s was placed before the backup, %s was reserved only", placed, unplaced)
		}
		if next := beginAt(t, s, made.Add(24*time.Hour)); next.Epoch != out.Epoch+1 || s.View().Restored() != out.Epoch {
			t.Errorf("the epoch after %d is %d, restored in %d: want no further leap", out.Epoch, next.Epoch, s.View().Restored())
		}
	}
}

// All masters of a group leap to the same numbers, and a clock that is behind moves nothing back.
func TestALeapIsTheSameEverywhere(t *testing.T) {
	a, b := full(t, 20), full(t, 20)
	a.MarkRestored()
	b.MarkRestored()
	b = reloaded(t, b)
	for _, at := range []time.Time{time.Unix(1<<30, 999), time.Unix(5, 0)} {
		beginAt(t, a, at)
		beginAt(t, b, at)
	}
	if !samePages(pagesOf(t, a.View()), pagesOf(t, b.View())) {
		t.Error("two masters differ after a restoration")
	}
	early := full(t, 20)
	before := early.epoch
	early.MarkRestored()
	if out := beginAt(t, early, time.Unix(0, 1)); out.Epoch <= before {
		t.Errorf("epoch %d after %d", out.Epoch, before)
	}
	late := full(t, 20)
	late.MarkRestored()
	if out := beginAt(t, late, time.Unix(math.MaxInt64/int64(time.Second), 0)); out.Epoch != math.MaxUint32 {
		t.Errorf("epoch %d at the end of time", out.Epoch)
	}
}

// A checkpoint of the format before restorations is still read.
func TestTheFirstFormatIsRead(t *testing.T) {
	s := full(t, 50)
	s.drops = dropLog{} // they were not known either
	pages := pagesOf(t, s.View())
	header := []byte{1}
	for _, n := range [...]uint64{uint64(s.epoch), uint64(s.clock), uint64(s.nextFile), uint64(s.nextHandle), uint64(s.epochFirst)} {
		header = binary.AppendUvarint(header, n)
	}
	old := append([]Page{seal([]byte{pageHeader}, header)}, pages[1:]...)
	loaded, err := Load(replay(old))
	if err != nil {
		t.Fatal(err)
	}
	if !samePages(pagesOf(t, loaded.View()), pages) {
		t.Error("the loaded state differs")
	}
}
