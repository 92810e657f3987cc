package clientlib

import (
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

const (
	// foreseeFirst and foreseeNext are how much of a chunk a stream must have filled before the chunks behind it are
	// reserved: of a stream that came from the chunk before, more is expected.
	foreseeFirst = gfs.ChunkSize / 2
	foreseeNext  = gfs.ChunkSize / 16
	// foreseeRate is the slowest stream, in bytes a second, for which that is worth while: for a slower one the pause
	// at a chunk's end is short, and the reservation would lapse.
	foreseeRate = gfs.ChunkSize / 2
)

// foresight is what a stream's target knows about the chunks behind it. The stream's lock guards it.
type foresight struct {
	since   time.Time // when the target was established
	filled  int64     // acknowledged since then
	decided bool
}

// add counts n acknowledged bytes of the chunk at index, and says how many chunks behind it are to be reserved now.
func (f *foresight) add(n int, index uint32, now time.Time) int {
	f.filled += int64(n)
	enough := int64(foreseeNext)
	if index == 0 {
		enough = foreseeFirst
	}
	if f.decided || f.filled < enough {
		return 0
	}
	f.decided = true
	if now.Sub(f.since) > time.Duration(f.filled)*time.Second/foreseeRate {
		return 0
	}
	if index == 0 {
		return 1
	}
	return 2
}

// reserve asks the master to make the next n chunks behind the one at index, without waiting for it. If that comes to
// nothing they are made when they are needed.
func (f *openFile) reserve(index uint32, n int) {
	c := f.client
	for next := index + 1; next <= index+uint32(n); next++ {
		if f.chunks.Load() > next {
			continue
		}
		request := &pb.LeaseRequest{Identity: c.identify(), FileId: uint64(f.id), Index: next, Reserve: true}
		c.spawn(func() {
			if err := c.ask(c.life, messages.OpLease, request, &pb.ChunkLocation{}); err != nil {
				c.log.WithError(err).WithField("file", uint64(f.id)).Debug("no chunk reserved")
			}
		})
	}
}
