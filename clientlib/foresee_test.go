package clientlib

import (
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

func TestForesight(t *testing.T) {
	for _, test := range []struct {
		name    string
		index   uint32
		took    time.Duration // to fill the chunk
		want    int
		reached int64 // bytes filled then
	}{
		{"a file's first chunk", 0, 100 * time.Millisecond, 1, foreseeFirst},
		{"a stream that came from the chunk before", 7, 100 * time.Millisecond, 2, foreseeNext},
		{"as slow as may be", 7, 1900 * time.Millisecond, 2, foreseeNext},
		{"too slow", 7, 2100 * time.Millisecond, 0, 0},
		{"too slow in the first chunk", 0, 2100 * time.Millisecond, 0, 0},
	} {
		since := time.Unix(1000, 0)
		f := foresight{since: since}
		got, reached := 0, int64(0)
		for filled := int64(0); filled < gfs.ChunkSize; {
			filled += gfs.StreamPieceBytes
			if n := f.add(gfs.StreamPieceBytes, test.index, since.Add(test.took*time.Duration(filled)/gfs.ChunkSize)); n > 0 {
				if got > 0 {
					t.Errorf("%s: asked twice", test.name)
				}
				got, reached = n, filled
			}
		}
		if got != test.want || reached != test.reached {
			t.Errorf("%s: %d chunks at %d bytes, want %d at %d", test.name, got, reached, test.want, test.reached)
		}
	}
}

// The acknowledgements are made up, so that the test needs no fast machine.
func TestAFastStreamReservesItsNextChunk(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	file, err := c.Create(t.Context(), "/fast")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := file.openFile.stream(0)
	to := &target{at: location{handle: 7}, next: foresight{since: time.Now()}}
	for filled := int64(0); filled < foreseeFirst; filled += gfs.StreamPieceBytes {
		if n := p.count("reserve 1"); n != 0 {
			t.Fatalf("reserved after %d bytes", filled)
		}
		m := &mutation{offset: filled, data: c.buffers.get(gfs.StreamPieceBytes), state: inFlight, done: make(chan struct{})}
		m.data.data = m.data.data[:gfs.StreamPieceBytes]
		s.mu.Lock()
		s.window.push(m)
		s.window.flying++
		s.mu.Unlock()
		s.replied(to, 0, m, &pb.MutateReply{Offset: filled}, nil)
	}
	for deadline := time.After(10 * time.Second); p.count("reserve 1") != 1; {
		select {
		case <-deadline:
			t.Fatal("nothing was reserved")
		case <-time.After(time.Millisecond):
		}
	}
	if n := p.count("reserve 2"); n != 0 {
		t.Fatal("a file's first chunk reserves two")
	}
}
