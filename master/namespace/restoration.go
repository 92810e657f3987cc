package namespace

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/cairnfs/cairn/messages/gfs"
)

// restoration is what a state that was restored from a backup knows of the history that it has lost: nothing but that
// there may have been one.
type restoration struct {
	pending       bool        // restored, and no epoch has begun since
	epochRestored gfs.Epoch   // the first epoch after the last restoration, 0 if there was none
	lost          []lostRange // ascending; never changed in place, for views share it
}

// lostRange is handles that no file of the backup had and that may have been placed since, end excluded.
type lostRange struct{ first, end gfs.ChunkHandle }

const (
	// leapHandles is how many chunk handles are passed over: a petabyte of chunks made since the backup.
	leapHandles = 1 << 24
	// Then as many times leapSlot as the clock says, of leapSlots: who restores the same backup twice does not meet
	// the handles of the first time.
	leapSlots = 1 << 10
	leapSlot  = 1 << 16
	// maxLostRanges bounds what is kept: the handles between the ranges beyond count as lost as well.
	maxLostRanges = 1024
)

// MarkRestored says that the state comes from a backup. The epoch that begins next leaps over all numbers that may have
// been given out after the backup was made.
func (s *State) MarkRestored() { s.pending = true }

// leap moves every number that is given out once past what may have been given out before. How far that went nobody
// knows, and the masters of a group must agree; so the time of the record decides. Epochs follow one another more
// slowly than seconds, file ids than nanoseconds. Of handles, which index a table, a fixed number is passed over, and a
// chunkserver refuses to make a chunk that it has.
func (s *State) leap() {
	s.epoch = max(s.epoch, gfs.Epoch(min(s.clock/1e9, math.MaxUint32-1)))
	s.nextFile = max(s.nextFile, gfs.FileID(s.clock))
	before := s.nextHandle
	s.nextHandle = min(s.nextHandle+leapHandles+gfs.ChunkHandle(s.clock/1e9%leapSlots)*leapSlot, maxHandle)
	s.lost = s.losing(before)
}

// losing adds to the lost ranges what was reserved in the epoch of the backup and not placed by then, and what has been
// leapt over from a handle on.
func (s *State) losing(leapt gfs.ChunkHandle) []lostRange {
	lost := slices.Clone(s.lost)
	add := func(first, end gfs.ChunkHandle) {
		last := len(lost) - 1
		if last >= 0 && (lost[last].end == first || last == maxLostRanges-1) {
			lost[last].end = end
			return
		}
		lost = append(lost, lostRange{first, end})
	}
	for h := s.epochFirst; h < leapt; h++ {
		if s.table.get(h) == (row{}) {
			add(h, h+1)
		}
	}
	if leapt < s.nextHandle {
		add(leapt, s.nextHandle)
	}
	return lost
}

// Restored is the first epoch after the state was last restored from a backup, 0 if it never was. Of a chunk whose
// logged version is older, chunkservers may hold a newer one, of a configuration that was lost with the log.
func (v *View) Restored() gfs.Epoch { return v.epochRestored }

// Lost reports whether a chunk may belong to history that was lost: a handle that no file has, and that may have been
// given to one after the backup from which the state was restored. Its replicas are not known to be garbage.
func (v *View) Lost(h gfs.ChunkHandle) bool {
	_, found := slices.BinarySearchFunc(v.lost, h, func(r lostRange, h gfs.ChunkHandle) int {
		switch {
		case r.end <= h:
			return -1
		case r.first > h:
			return 1
		}
		return 0
	})
	return found && !v.table.get(h).live()
}

// pack appends the restoration to the header of a checkpoint.
func (r *restoration) pack(b []byte) []byte {
	b = binary.AppendUvarint(append(b, tally(r.pending)), uint64(r.epochRestored))
	b = binary.AppendUvarint(b, uint64(len(r.lost)))
	last := gfs.ChunkHandle(0)
	for _, l := range r.lost {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(l.first-last)), uint64(l.end-l.first))
		last = l.end
	}
	return b
}

// restoration reads what pack wrote.
func (d *decoder) restoration(epoch gfs.Epoch, nextHandle gfs.ChunkHandle) (r restoration) {
	r.pending = d.uvarint(1) == 1
	r.epochRestored = gfs.Epoch(d.uvarint(uint64(epoch)))
	last := gfs.ChunkHandle(0)
	for range d.uvarint(maxLostRanges) {
		first := last + gfs.ChunkHandle(d.uvarint(uint64(nextHandle-last)))
		last = first + gfs.ChunkHandle(d.uvarint(uint64(nextHandle-first)))
		if d.failed || first == last {
			d.fail()
			break
		}
		r.lost = append(r.lost, lostRange{first, last})
	}
	return r
}
