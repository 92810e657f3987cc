package master_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// TestTurmoil lets clients allocate, complain and close while chunkservers are killed, paused and restarted. A
// version never has two primaries, nobody waits for ever, and in the end every chunk can be mutated again.
func TestTurmoil(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	peers := w.peers(5)
	w.begin()
	files := make([]uint64, 6)
	for i := range files {
		files[i] = w.create(fmt.Sprintf("/%d", i), 3)
	}
	seen := versions{primaries: map[string]string{}}
	var clients sync.WaitGroup
	end := time.Now().Add(3 * time.Second)
	for i, file := range files {
		clients.Go(func() { client(w, peers, &seen, file, rand.New(rand.NewPCG(uint64(i), 1)), end) })
	}
	random := rand.New(rand.NewPCG(9, 9))
	ticker := time.NewTicker(150 * time.Millisecond)
	defer ticker.Stop()
	for time.Now().Before(end) {
		<-ticker.C
		// One is away for a while, another restarts at once: two members of three are always left.
		switch away, restarted := peers[0], peers[1]; {
		case random.IntN(3) == 0:
			restarted.kill()
			restarted.start(w.url)
		case away.stop == nil:
			away.start(w.url)
		case random.IntN(2) == 0:
			away.kill()
		default:
			away.pause(random.IntN(2) == 0)
		}
	}
	for _, p := range peers[:2] { // whoever waits for them waits no longer
		p.pause(false)
		if p.stop == nil {
			p.start(w.url)
		}
	}
	clients.Wait()
	for _, file := range files {
		for _, chunk := range w.locate(file) {
			w.await("the chunk has a primary", func() bool {
				at, err := w.lease(&pb.LeaseRequest{FileId: file, Index: chunk.GetIndex()})
				if err == nil {
					seen.check(t, at)
				}
				return err == nil
			})
		}
	}
	if len(seen.primaries) < 2*len(files) {
		t.Errorf("only %d configurations were seen", len(seen.primaries))
	}
}

// versions remembers who the primary of each version is.
type versions struct {
	mu        sync.Mutex
	primaries map[string]string
}

func (v *versions) check(t testing.TB, at *pb.ChunkLocation) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := fmt.Sprintf("%x in %s", at.GetHandle(), gfs.Version(at.GetVersion()))
	if before, known := v.primaries[key]; known && before != at.GetPrimary() {
		t.Errorf("chunk %s has the primaries %s and %s", key, before, at.GetPrimary())
	}
	v.primaries[key] = at.GetPrimary()
}

// client does to one file what clients do, and what its primaries do.
func client(w *world, peers []*peer, seen *versions, file uint64, random *rand.Rand, end time.Time) {
	index, at := uint32(0), (*pb.ChunkLocation)(nil)
	for time.Now().Before(end) {
		request := &pb.LeaseRequest{FileId: file, Index: index, Allocate: true}
		if at != nil && random.IntN(3) == 0 {
			request.FailedVersion, request.FailedServer = at.GetVersion(), at.GetPrimary()
		}
		next, err := w.lease(request)
		if err != nil {
			if action := gfs.CodeOf(err).Action(); action != gfs.Retry {
				w.t.Errorf("lease: %v", err)
			}
			continue
		}
		at = next
		seen.check(w.t, at)
		switch random.IntN(4) {
		case 0:
			err := primary(peers, at).closeByAnyone(w, at)
			if err != nil && !errors.Is(err, gfs.ErrConflict) && gfs.CodeOf(err).Action() != gfs.Retry {
				w.t.Errorf("close: %v", err)
			}
		case 1:
			if index < 20 {
				index, at = index+1, nil
			}
		}
	}
}

// closeByAnyone closes a chunk in the name of the peer, which may be dead by now.
func (p *peer) closeByAnyone(w *world, at *pb.ChunkLocation) error {
	return bus.Ask(w.ctx, w.client, p.subjects.Master(messages.OpCloseChunk),
		&pb.CloseRequest{Handle: at.GetHandle(), Version: at.GetVersion(), Length: 9, Server: string(p.id)}, new(pb.CloseReply))
}
