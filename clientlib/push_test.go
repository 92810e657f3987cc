package clientlib

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// TestTheNearestReplicaGetsTheData writes from each server's rack, and from none: data go to the server of the rack if it
// holds a replica and is not the primary, and else to the primary.
func TestTheNearestReplicaGetsTheData(t *testing.T) {
	p := newPeers(t, 3)
	real := make(map[string]string)
	for i, s := range p.servers {
		s.rack, s.shown = fmt.Sprintf("r%d", i), fmt.Sprintf("198.51.100.%d:7500", i+1) // addresses that are nobody's
		real[s.shown] = s.address
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if at, ok := real[address]; ok {
			address = at
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	data := pattern(3<<20, 1)
	ways := map[bool]int{}
	for i, test := range []struct {
		rack string
		path DataPath
	}{{"r0", AutoPath}, {"r1", AutoPath}, {"r2", AutoPath}, {"elsewhere", AutoPath}, {"", AutoPath}, {"r0", InOrder}, {"r1", InOrder}} {
		c, name := p.connect(WithRack(test.rack), WithDialer(dial), WithDataPath(test.path)), fmt.Sprintf("/file%d", i)
		before := make([]int, len(p.servers))
		for i, s := range p.servers {
			before[i] = s.get(&s.pushes)
		}
		mustWrite(t, c, name, data)
		if !bytes.Equal(p.chunkOf(name, 0), data) {
			t.Errorf("%+v: the chunk differs", test)
		}
		primary := p.primaryOf(name, 0)
		for i, s := range p.servers {
			pushed := s.get(&s.pushes) - before[i]
			want := test.path == AutoPath && s.rack == test.rack && s != primary
			if want != (pushed > 0) {
				t.Errorf("%+v: %d pushes to %s, and the primary is %s", test, pushed, s.rack, primary.rack)
			}
			if want && pushed != len(data)/gfs.StreamPieceBytes {
				t.Errorf("%+v: %d pushes, want %d", test, pushed, len(data)/gfs.StreamPieceBytes)
			}
			ways[want] += pushed
		}
	}
	if ways[true] == 0 {
		t.Error("nothing was pushed at all")
	}
}

// TestWhatCannotBePushedGoesInOrder spoils pushes in every way, while streams are written and records appended: all of it
// takes effect once and in order.
func TestWhatCannotBePushedGoesInOrder(t *testing.T) {
	for name, spoil := range map[string]func(p *peers, s *peerServer){
		"nothing": func(*peers, *peerServer) {},
		"refused": func(_ *peers, s *peerServer) { s.onPush = answers(gfs.CodeBusy) },
		"damaged": func(_ *peers, s *peerServer) { s.onPush = answers(gfs.CodeCorrupt) },
		"no way":  func(_ *peers, s *peerServer) { s.onPush = answers(gfs.CodeUnavailable) },
		"silence": func(_ *peers, s *peerServer) {
			s.onPush = func(nth int, _ *pb.Push) (gfs.Code, bool, bool) { return 0, false, nth > 2 }
		},
		"cut": func(_ *peers, s *peerServer) {
			s.onPush = func(nth int, _ *pb.Push) (gfs.Code, bool, bool) { return 0, nth%5 == 3, false }
		},
		"not kept": func(p *peers, s *peerServer) { s.onPush = p.forgets() },
		"replies lost": func(_ *peers, s *peerServer) {
			s.onMutate = func(nth int, _ *pb.Mutate) (gfs.Code, bool) { return 0, nth%11 == 7 }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPeers(t, 4)
			for _, s := range p.servers {
				spoil(p, s)
			}
			c := p.connect(WithDataPath(Decoupled))
			begun := time.Now()
			data := pattern(5<<20, 7)
			file, err := c.Create(t.Context(), "/stream")
			if err != nil {
				t.Fatal(err)
			}
			for at := 0; at < len(data); at += 300_000 {
				piece := data[at:min(at+300_000, len(data))]
				if _, err := file.WriteAt(bytes.Repeat([]byte{1}, len(piece)), int64(at)); err != nil {
					t.Fatal(err)
				}
				if _, err := file.Write(piece); err != nil { // what is written later wins
					t.Fatal(err)
				}
			}
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p.chunkOf("/stream", 0), data) {
				t.Error("the stream differs")
			}
			p.chunkCap = 3_000_000
			log, err := c.Create(t.Context(), "/log")
			if err != nil {
				t.Fatal(err)
			}
			log.Close()
			const writers, n = 2, 40
			checkAppends(t, p, "/log", appendAll(t, c, "/log", writers, n, 100_000), writers, n)
			named := 0
			for _, s := range p.servers {
				named += s.get(&s.named)
			}
			if took := time.Since(begun); took > stuckLimit/2 { // each target costs the silence of a moment
				t.Errorf("all took %v", took)
			}
			if name == "nothing" && named < len(data)/gfs.StreamPieceBytes+writers*n {
				t.Errorf("%d mutations by reference", named)
			}
		})
	}
}

func answers(code gfs.Code) func(int, *pb.Push) (gfs.Code, bool, bool) {
	return func(nth int, _ *pb.Push) (gfs.Code, bool, bool) {
		if nth%3 == 2 {
			return code, false, false
		}
		return 0, false, false
	}
}

// forgets makes servers lose some of what was pushed, though they said that they have it.
func (p *peers) forgets() func(int, *pb.Push) (gfs.Code, bool, bool) {
	var pushes atomic.Int64
	return func(_ int, m *pb.Push) (gfs.Code, bool, bool) {
		if pushes.Add(1)%7 == 4 {
			m.Session++ // it is kept under another name
		}
		return 0, false, false
	}
}
